//! Keeps a mirror of all VMs, is called back, and waits for a state.
//!
//! usage: watch ZONENAME STATE

use std::time::Duration;

use vminfod_client::{Client, Error, Event, EventsQuery, Vm, Watcher};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let zonename = args.next().ok_or("missing argument: ZONENAME")?;
    let wanted = args.next().ok_or("missing argument: STATE")?;
    let client = Client::from_env()?.name("watch/1.0");

    // Called by the watcher's own thread, in order.
    let listener = |event: Result<&Event, &Error>| match event {
        Ok(Event::Ready(ready)) => println!("ready: {:?}", ready.reset),
        Ok(Event::Broken(error)) => println!("broken: {error}"),
        Ok(Event::Modify { vm, before, .. }) => {
            let before = before.as_ref().and_then(|vm| vm.state.as_ref());
            println!("{}: {before:?} -> {:?}", vm.zonename, vm.state);
        }
        Ok(other) => println!("{:?}", other.kind()),
        Err(error) => println!("ended: {error}"),
    };
    let watcher = Watcher::start(&client, EventsQuery::new(), listener)?;
    println!("{} VMs", watcher.vms().len());

    // Sees each state, however briefly it lasts.
    let is_wanted = move |vm: Option<&Vm>| {
        vm.and_then(|vm| vm.state.as_deref()) == Some(&wanted)
    };
    watcher.wait_for(&zonename, is_wanted, Duration::from_secs(60))?;
    println!("the VM is in the wanted state");
    Ok(())
}
