//! Follows events across broken connections and restarts of the daemon.
//!
//! usage: follow COUNT

use vminfod_client::{Client, Event, EventsQuery};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let count: usize = args.next().ok_or("missing argument: COUNT")?.parse()?;
    let client = Client::from_env()?.name("follow/1.0");

    // No snapshot of the VMs, and only modifications with a change at `state`.
    let query = EventsQuery::new().path("state").without_snapshot();
    let mut seen = 0;
    for event in client.events(query)? {
        match event? {
            Event::Ready(ready) => match ready.reset {
                None => println!("ready"),
                // Some events may have been missed.
                Some(why) => println!("started over: {why}"),
            },
            Event::Create { vm, .. } => println!("create {}", vm.zonename),
            Event::Modify { vm, changes, .. } => {
                let states =
                    changes.iter().filter(|c| c.pretty_path == "state");
                for new in states.filter_map(|change| change.new_json()) {
                    println!("modify {}: {new}", vm.zonename);
                }
            }
            Event::Delete { header, .. } => {
                println!("delete {}", header.zonename)
            }
            Event::Unreadable(vm) => println!("{vm}"),
            // The stream connects again by itself.
            Event::Broken(error) => println!("broken: {error}"),
            _ => continue,
        }
        seen += 1;
        if seen > count {
            break;
        }
    }
    Ok(())
}
