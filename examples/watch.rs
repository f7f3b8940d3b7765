//! Keeps a mirror of all VMs, is called back, and waits for a state.
//!
//! usage: watch ADDR:PORT ZONENAME STATE

use std::time::Duration;

use vminfod::address::Address;
use vminfod::client::{Client, EventsQuery, Notice, Watcher};
use vminfod::vm::json::Json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let server: Address =
        args.next().ok_or("missing argument: ADDR:PORT")?.parse()?;
    let zonename = args.next().ok_or("missing argument: ZONENAME")?;
    let wanted = args.next().ok_or("missing argument: STATE")?;
    let client = Client::new(server).name("watch/1.0");

    // Called by the watcher's own thread, in order.
    let listener = |told: Notice<'_>| match told {
        Notice::Ready(_) => println!("ready"),
        Notice::Event(event) => println!("{} {}", event.kind, event.zonename),
        Notice::Unreadable(vm) => println!("{vm}"),
        Notice::Broken(error) => println!("broken: {error}"),
        Notice::Ended(_) => println!("ended"),
    };
    let watcher = Watcher::start(&client, EventsQuery::new(), listener)?;
    println!("{} VMs", watcher.vms().len());

    // Sees each state, however briefly it lasts.
    let is_wanted = move |vm: Option<&Json>| {
        let state = vm.and_then(|vm| vm.get("state")?.as_str());
        state == Some(wanted.as_str())
    };
    watcher.wait_for(&zonename, is_wanted, Duration::from_secs(60))?;
    println!("the VM is in the wanted state");
    Ok(())
}
