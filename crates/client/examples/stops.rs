//! Prints each VM that stops.

use vminfod_client::{Client, Event, EventsQuery};

fn main() -> Result<(), vminfod_client::Error> {
    for event in Client::from_env()?.events(EventsQuery::new().path("state"))? {
        let Event::Modify { vm, .. } = event? else { continue };
        if vm.state.as_deref() == Some("stopped") {
            println!("{} has stopped", vm.uuid);
        }
    }
    Ok(())
}
