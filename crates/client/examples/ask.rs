//! Asks the daemon for VMs, once, and with a condition to wait for.
//!
//! usage: ask ALIAS

use std::collections::BTreeMap;
use std::time::Duration;

use vminfod_client::{Client, Error, VmsQuery};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let alias = args.next().ok_or("missing argument: ALIAS")?;
    let client = Client::from_env()?.name("ask/1.0");

    // The daemon selects VMs and members: only these are sent.
    let running = VmsQuery::new().equals("state", "running").fields("alias");
    let running = client.vms_as::<BTreeMap<String, String>>(running)?;
    println!("{} VMs run", running.vms.len());

    let named = client.vms(VmsQuery::new().equals("alias", &alias))?;
    let vm = named.vms.first().ok_or("there is no such VM")?;

    // The VM as it is on the system right now, not as it was last published.
    let look = client.sync(&vm.zonename, Duration::from_secs(30))?;
    let vm = look.vm.ok_or("the VM no longer exists")?;
    println!("its quota is {} GiB", vm.quota.unwrap_or_default());

    // Returns at once if the VM runs already, otherwise as soon as it does.
    let wanted = [("state", "running")];
    match client.wait(&vm.zonename, &wanted, Duration::from_secs(1)) {
        Ok(_) => println!("it runs"),
        Err(Error::NotMet { .. }) => println!("it does not run"),
        Err(other) => return Err(other.into()),
    }
    Ok(())
}
