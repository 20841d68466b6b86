//! One look at what is registered, for whoever does not stay to watch.
//!
//! Makes no node, not even the root: a session comes and goes.

use std::net::SocketAddr;

use super::{reading, table::Place, zookeeper};
use crate::contract::methods::Service;

/// What stood in ZooKeeper when somebody looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// Each service with the address of who offers it, or a part of it; may name one twice.
    pub instances: Vec<(Service, SocketAddr)>,
    /// Nodes that cannot be read as what they should be.
    pub broken: usize,
}

/// Reads everything that is registered below the root of `hosts` (`host:port[,…][/root]`), without
/// a bound of time.
///
/// # Errors
/// ZooKeeper that cannot be reached or refuses, or a root that is not there, in words.
pub async fn survey(hosts: &str) -> Result<Registered, String> {
    let session = zookeeper::look(hosts).await?;
    let mut registered = Registered::default();
    for service in Service::ALL {
        let reading = reading::read(&session, Place::Service(service))
            .await
            .map_err(|error| error.to_string())?;
        registered.broken += reading.broken.len();
        let records = reading.found.instances.iter();
        let addresses = records
            .map(|instance| instance.address)
            .chain(reading.found.methods.iter().map(|(_, address)| *address));
        let instances = addresses.map(|address| (service, address));
        registered.instances.extend(instances);
    }
    Ok(registered)
}
