//! Reads what stands under a service, in both layouts.
//!
//! Owns the bounds of a read and the memory of what is broken: every broken node is left out and counted, and named in the log
//! once for as long as it says the same.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use log::{debug, warn};
use zookeeper_client as zk;

use super::table::{Found, PLACES, Place};
use crate::{
    contract::{
        endpoints::{BadRecord, parse_method_node, parse_record},
        methods::Service,
    },
    metrics::discovery::Status,
};

/// Records looked at in one service: far more instances than one service has, few enough to read them all again and again.
const RECORDS_MAX: usize = 1024;

/// Nodes asked for at one time. ZooKeeper keeps a node below a mebibyte unless told otherwise, so this bounds memory too.
const READS_AT_ONCE: usize = 16;

/// Broken contents remembered, so that each is named once.
const REMEMBERED_MAX: usize = 4096;

/// Broken nodes named in the log after one read.
const NAMED_MAX: usize = 10;

/// What is named of a node's name, at most.
const NAME_CHARS: usize = 100;

/// A node that cannot be read as what it should be.
#[derive(Debug)]
pub(super) struct Broken {
    path: String,
    error: String,
    /// Of path and content.
    hash: u64,
}

/// What one read brought.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// What can be used.
    pub(super) found: Found,
    /// What cannot.
    pub(super) broken: Vec<Broken>,
}

/// Reads everything under `place`. What is missing is no error.
pub(super) async fn read(client: &zk::Client, place: Place) -> Result<Reading, zk::Error> {
    let mut reading = Reading::default();
    let root = place.path();
    let children = list(client, &root, &mut reading.broken).await?;
    let methods: Vec<&'static str> = place
        .methods()
        .filter(|method| children.iter().any(|child| child == method))
        .collect();
    for group in methods.chunks(READS_AT_ONCE) {
        let nodes = group
            .iter()
            .map(|method| (*method, format!("{root}/{method}")));
        for (method, path, data) in read_all(client, nodes).await? {
            match data.and_then(|data| parse_method_node(&data).map_err(|error| (data, error))) {
                Ok(address) => reading.found.methods.push((method, address)),
                Err((data, error)) => reading.broken.push(Broken::new(path, &data, &error)),
            }
        }
    }
    let mut names = Vec::new();
    if children.iter().any(|child| child == "instances") {
        let folder = format!("{root}/instances");
        names = list(client, &folder, &mut reading.broken).await?;
    }
    if names.len() > RECORDS_MAX {
        names.sort_unstable();
        debug!(
            "{root} has {} records; looking at {RECORDS_MAX}",
            names.len()
        );
        names.truncate(RECORDS_MAX);
    }
    for group in names.chunks(READS_AT_ONCE) {
        let nodes = group
            .iter()
            .map(|name| ((), format!("{root}/instances/{name}")));
        for ((), path, data) in read_all(client, nodes).await? {
            let service = match place {
                Place::Service(service) => service,
                // Only its address matters.
                Place::Health => Service::User,
            };
            match data.and_then(|data| parse_record(service, &data).map_err(|error| (data, error)))
            {
                Ok(instance) => reading.found.instances.push(instance),
                Err((data, error)) => reading.broken.push(Broken::new(path, &data, &error)),
            }
        }
    }
    Ok(reading)
}

/// The names below `path`. One that does not exist has none, nor has one that we may not look at, which is `broken`.
async fn list(
    client: &zk::Client,
    path: &str,
    broken: &mut Vec<Broken>,
) -> Result<Vec<String>, zk::Error> {
    match client.list_children(path).await {
        Err(zk::Error::NoNode) => Ok(Vec::new()),
        Err(error @ zk::Error::NoAuth) => {
            let error = BadRecord::Syntax(error.to_string());
            broken.push(Broken::new(path.to_owned(), b"", &error));
            Ok(Vec::new())
        }
        result => result,
    }
}

/// What a node holds, or why that is not to be had.
type Data = Result<Vec<u8>, (Vec<u8>, BadRecord)>;

/// Reads some nodes at one time, each with a key for the caller. Those that have vanished meanwhile are left out.
async fn read_all<K>(
    client: &zk::Client,
    nodes: impl Iterator<Item = (K, String)>,
) -> Result<Vec<(K, String, Data)>, zk::Error> {
    // The client sends a request when it is called, not when the answer is waited for.
    let asked: Vec<_> = nodes
        .map(|(key, path)| {
            let answer = client.get_data(&path);
            (key, path, answer)
        })
        .collect();
    let mut read = Vec::with_capacity(asked.len());
    for (key, path, answer) in asked {
        match answer.await {
            Ok((data, _)) => read.push((key, path, Ok(data))),
            Err(zk::Error::NoNode) => {}
            Err(error @ (zk::Error::NoAuth | zk::Error::BadArguments(_))) => {
                let error = BadRecord::Syntax(error.to_string());
                read.push((key, path, Err((Vec::new(), error))));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

impl Broken {
    fn new(path: String, data: &[u8], error: &BadRecord) -> Self {
        let mut hasher = DefaultHasher::new();
        (&path, data).hash(&mut hasher);
        Self {
            hash: hasher.finish(),
            path: path.chars().take(NAME_CHARS).collect(),
            error: error.to_string(),
        }
    }
}

/// Remembers which broken nodes there are and have been.
#[derive(Debug, Default)]
pub(super) struct BrokenNodes {
    seen: HashSet<u64>,
    now: [usize; PLACES],
}

impl BrokenNodes {
    /// Place number `place` has these.
    pub(super) fn found(&mut self, place: usize, broken: &[Broken], status: &Status) {
        self.now[place] = broken.len();
        let unseen = self.unseen(broken);
        let now: usize = self.now.iter().sum();
        status.bad_records_found(now as u64, unseen.len() as u64);
        for node in unseen.iter().take(NAMED_MAX) {
            warn!("left out: {:?} in ZooKeeper: {}", node.path, node.error);
        }
        if unseen.len() > NAMED_MAX {
            warn!(
                "left out: {} more nodes in ZooKeeper",
                unseen.len() - NAMED_MAX
            );
        }
    }

    fn unseen<'a>(&mut self, broken: &'a [Broken]) -> Vec<&'a Broken> {
        if self.seen.len() + broken.len() > REMEMBERED_MAX {
            self.seen.clear();
        }
        broken
            .iter()
            .filter(|node| self.seen.insert(node.hash))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &str, data: &[u8]) -> Broken {
        Broken::new(path.to_owned(), data, &BadRecord::TooLong(1))
    }

    #[test]
    fn a_broken_node_counts_once_for_as_long_as_it_says_the_same() {
        let status = Status::default();
        let mut nodes = BrokenNodes::default();
        nodes.found(0, &[broken("/a", b"x"), broken("/b", b"x")], &status);
        nodes.found(0, &[broken("/a", b"x"), broken("/b", b"y")], &status);
        nodes.found(1, &[broken("/c", b"")], &status);
        assert_eq!((status.bad_records(), status.bad_records_total()), (3, 4));
        nodes.found(0, &[], &status);
        assert_eq!((status.bad_records(), status.bad_records_total()), (1, 4));
    }

    #[test]
    fn the_memory_of_broken_nodes_is_bounded() {
        let status = Status::default();
        let mut nodes = BrokenNodes::default();
        for round in 0..20u32 {
            let many: Vec<Broken> = (0..RECORDS_MAX)
                .map(|number| broken(&format!("/{number}"), &round.to_le_bytes()))
                .collect();
            nodes.found(0, &many, &status);
            assert!(nodes.seen.len() <= REMEMBERED_MAX);
        }
        assert_eq!(status.bad_records(), RECORDS_MAX as u64);
    }

    #[test]
    fn method_nodes_are_looked_for_by_the_names_of_the_methods() {
        let user: Vec<&str> = Place::Service(Service::User).methods().collect();
        assert!(user.contains(&"Login") && !user.contains(&"Send") && !user.contains(&"Ping"));
        assert_eq!(Place::Health.methods().collect::<Vec<_>>(), ["Ping"]);
    }
}
