//! Follows events across broken connections and restarts of the daemon.
//!
//! usage: follow ADDR:PORT COUNT

use vminfod::address::Address;
use vminfod::client::{Client, EventsQuery, Item};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let server: Address =
        args.next().ok_or("missing argument: ADDR:PORT")?.parse()?;
    let count: usize = args.next().ok_or("missing argument: COUNT")?.parse()?;
    let client = Client::new(server).name("follow/1.0");

    // No snapshot of the VMs, and only events that change a state.
    let query = EventsQuery::new().path("state").without_snapshot();
    let mut stream = client.events(query)?;
    let mut seen = 0;
    while seen < count {
        match stream.next()? {
            Item::Ready(ready) => match ready.reset {
                None => println!("ready"),
                // Some events may have been missed.
                Some(why) => println!("started over: {why}"),
            },
            Item::Event(event) => {
                let vm = event.vm().and_then(|vm| vm.get("state").cloned());
                let state = vm.unwrap_or_default();
                println!("{} {}: {state}", event.kind, event.zonename);
                seen += 1;
            }
            Item::Unreadable(vm) => println!("{vm}"),
            // The stream connects again by itself.
            Item::Broken(error) => println!("broken: {error}"),
        }
    }
    Ok(())
}
