//! Reads what stands under a service, in both layouts.
//!
//! Owns the bounds of a read and the memory of what is broken: every broken node is left out and
//! counted, and named in the log once for as long as it says the same.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use log::{debug, warn};

use super::{
    registry::{Content, RegistryError, Session},
    table::{Found, PLACES, Place},
};
use crate::{
    contract::{
        endpoints::{BadRecord, parse_method_node, parse_record},
        methods::Service,
    },
    metrics::Discovery,
};

/// Records looked at in one service: far more instances than one service has, few enough to read
/// them all again and again.
const RECORDS_MAX: usize = 1024;

/// Nodes asked for at one time. ZooKeeper keeps a node below a
/// mebibyte unless told otherwise, so this bounds memory too.
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
pub(super) async fn read(session: &impl Session, place: Place) -> Result<Reading, RegistryError> {
    let mut reading = Reading::default();
    let root = place.path();
    let children = list(session, &root, &mut reading.broken).await?;
    let methods: Vec<&'static str> = place
        .methods()
        .filter(|method| children.iter().any(|child| child == method))
        .collect();
    for group in methods.chunks(READS_AT_ONCE) {
        let paths: Vec<_> = group.iter().map(|name| format!("{root}/{name}")).collect();
        let contents = session.read_all(&paths).await?;
        assert_eq!(contents.len(), paths.len(), "one answer for each path");
        for ((method, path), content) in group.iter().zip(paths).zip(contents) {
            if let Some(address) = reading.take(path, content, parse_method_node) {
                reading.found.methods.push((*method, address));
            }
        }
    }
    let mut names = Vec::new();
    if children.iter().any(|child| child == "instances") {
        let folder = format!("{root}/instances");
        names = list(session, &folder, &mut reading.broken).await?;
    }
    if names.len() > RECORDS_MAX {
        names.sort_unstable();
        debug!(
            "{root} has {} records; looking at {RECORDS_MAX}",
            names.len()
        );
        names.truncate(RECORDS_MAX);
    }
    let service = match place {
        Place::Service(service) => service,
        // Only its address matters.
        Place::Health => Service::User,
    };
    let path_of = |name: &String| format!("{root}/instances/{name}");
    for group in names.chunks(READS_AT_ONCE) {
        let paths: Vec<_> = group.iter().map(path_of).collect();
        let contents = session.read_all(&paths).await?;
        assert_eq!(contents.len(), paths.len(), "one answer for each path");
        for (path, content) in paths.into_iter().zip(contents) {
            let parse = |data: &[u8]| parse_record(service, data);
            if let Some(instance) = reading.take(path, content, parse) {
                reading.found.instances.push(instance);
            }
        }
    }
    assert!(reading.found.instances.len() <= RECORDS_MAX);
    Ok(reading)
}

/// The names below `path`. One that we may not look at has none, and is `broken`.
async fn list(
    session: &impl Session,
    path: &str,
    broken: &mut Vec<Broken>,
) -> Result<Vec<String>, RegistryError> {
    match session.list(path).await {
        Err(RegistryError::Refused(why)) => {
            let error = BadRecord::Syntax(why);
            broken.push(Broken::new(path.to_owned(), b"", &error));
            Ok(Vec::new())
        }
        result => result,
    }
}

impl Reading {
    /// What `content` says at `path`, if it is there and can be read; what cannot be is broken.
    fn take<T>(
        &mut self,
        path: String,
        content: Content,
        parse: impl FnOnce(&[u8]) -> Result<T, BadRecord>,
    ) -> Option<T> {
        let (data, error) = match content {
            Content::Missing => return None,
            Content::Refused(why) => (Vec::new(), BadRecord::Syntax(why)),
            Content::Data(data) => match parse(&data) {
                Ok(value) => return Some(value),
                Err(error) => (data, error),
            },
        };
        self.broken.push(Broken::new(path, &data, &error));
        None
    }
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
    pub(super) fn found(&mut self, place: usize, broken: &[Broken], metrics: &Discovery) {
        assert!(place < PLACES, "there is no place {place}");
        self.now[place] = broken.len();
        let unseen = self.unseen(broken);
        let now: usize = self.now.iter().sum();
        assert!(now >= unseen.len(), "what is new is there");
        metrics.bad_records_found(now as u64, unseen.len() as u64);
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
        let metrics = Discovery::default();
        let mut nodes = BrokenNodes::default();
        nodes.found(0, &[broken("/a", b"x"), broken("/b", b"x")], &metrics);
        nodes.found(0, &[broken("/a", b"x"), broken("/b", b"y")], &metrics);
        nodes.found(1, &[broken("/c", b"")], &metrics);
        assert_eq!((metrics.bad_records(), metrics.bad_records_total()), (3, 4));
        nodes.found(0, &[], &metrics);
        assert_eq!((metrics.bad_records(), metrics.bad_records_total()), (1, 4));
    }

    #[test]
    fn the_memory_of_broken_nodes_is_bounded() {
        let metrics = Discovery::default();
        let mut nodes = BrokenNodes::default();
        for round in 0..20u32 {
            let many: Vec<Broken> = (0..RECORDS_MAX)
                .map(|number| broken(&format!("/{number}"), &round.to_le_bytes()))
                .collect();
            nodes.found(0, &many, &metrics);
            assert!(nodes.seen.len() <= REMEMBERED_MAX);
        }
        assert_eq!(metrics.bad_records(), RECORDS_MAX as u64);
    }

    #[test]
    fn method_nodes_are_looked_for_by_the_names_of_the_methods() {
        let user: Vec<&str> = Place::Service(Service::User).methods().collect();
        assert!(user.contains(&"Login") && !user.contains(&"Send") && !user.contains(&"Ping"));
        assert_eq!(Place::Health.methods().collect::<Vec<_>>(), ["Ping"]);
    }
}
