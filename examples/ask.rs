//! Asks the daemon for VMs, once, and with a condition to wait for.
//!
//! usage: ask ADDR:PORT ALIAS

use std::time::Duration;

use vminfod::address::Address;
use vminfod::client::{Client, Error, VmsQuery};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let server: Address = args.next().ok_or("where is the daemon?")?.parse()?;
    let alias = args.next().ok_or("which VM?")?;
    let client = Client::new(server).name("ask/1.0");

    // The daemon picks out VMs and members: only they are sent.
    let running = VmsQuery::new().equals("state", "running").fields("alias");
    println!("{} VMs run", client.vms(&running)?.vms.len());

    let named = VmsQuery::new().equals("alias", &alias).fields("zonename");
    let found = client.vms(&named)?.vms;
    let zonename = found
        .first()
        .and_then(|vm| vm.get("zonename")?.as_str())
        .ok_or("there is no such VM")?;

    // As it is on the system right now, not as it was when last told of.
    let look = client.sync(zonename, Duration::from_secs(30))?;
    let vm = look.vm.ok_or("it has gone")?;
    println!("its quota is {}", vm.get("quota").cloned().unwrap_or_default());

    // At once if it is so, else as soon as it is.
    let wanted = [("state", "running")];
    match client.wait(zonename, &wanted, Duration::from_secs(1)) {
        Ok(_) => println!("it runs"),
        Err(Error::TimeIsOver(_)) => println!("it does not run"),
        Err(other) => return Err(other.into()),
    }
    Ok(())
}
