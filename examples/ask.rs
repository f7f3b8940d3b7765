//! Asks the daemon for VMs, once, and with a condition to wait for.
//!
//! usage: ask ADDR:PORT ALIAS

use std::time::Duration;

use vminfod::address::Address;
use vminfod::client::{Client, Error, VmsQuery};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let server: Address =
        args.next().ok_or("missing argument: ADDR:PORT")?.parse()?;
    let alias = args.next().ok_or("missing argument: ALIAS")?;
    let client = Client::new(server).name("ask/1.0");

    // The daemon selects VMs and members: only these are sent.
    let running = VmsQuery::new().equals("state", "running").fields("alias");
    println!("{} VMs run", client.vms(&running)?.vms.len());

    let named = VmsQuery::new().equals("alias", &alias).fields("zonename");
    let found = client.vms(&named)?.vms;
    let zonename = found
        .first()
        .and_then(|vm| vm.get("zonename")?.as_str())
        .ok_or("there is no such VM")?;

    // The VM as it is on the system right now, not as it was last published.
    let look = client.sync(zonename, Duration::from_secs(30))?;
    let vm = look.vm.ok_or("the VM no longer exists")?;
    println!("its quota is {}", vm.get("quota").cloned().unwrap_or_default());

    // Returns at once if the VM runs already, otherwise as soon as it does.
    let wanted = [("state", "running")];
    match client.wait(zonename, &wanted, Duration::from_secs(1)) {
        Ok(_) => println!("it runs"),
        Err(Error::TimeIsOver(_)) => println!("it does not run"),
        Err(other) => return Err(other.into()),
    }
    Ok(())
}
