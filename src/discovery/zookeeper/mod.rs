//! ZooKeeper as a registry: sessions made, made again, closed.
//!
//! Owns the address of ZooKeeper, the root path, the waits between attempts and the ids of the
//! sessions this process had: what an earlier one of them left behind is ours. Knows nothing of
//! what is stored. `session` is what one session can be asked.

mod session;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use log::{info, warn};
use zookeeper_client as zk;

pub(super) use self::session::ZookeeperSession;
use super::registry::{Registry, RegistryError};
use crate::{base::back_off::BackOff, machine::random_seed::random, metrics::Discovery};

/// How many of its earlier sessions a process remembers. Their nodes are gone after a session
/// time-out, so the last few are all that can matter.
const SESSIONS_REMEMBERED: usize = 16;

/// How long a stop waits for ZooKeeper to close the session. Without it the nodes stay for a
/// session time-out.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// A session that lasted so long was no failed attempt.
const LASTING: Duration = Duration::from_secs(5);

/// Where ZooKeeper is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ensemble {
    hosts: String,
    /// The root path; empty: `/`.
    root: String,
}

impl Ensemble {
    /// Reads `host:port[,host:port …][/root]`; blanks around an address do not count.
    fn parse(text: &str) -> Self {
        let (hosts, root) = text.split_at(text.find('/').unwrap_or(text.len()));
        let hosts: Vec<&str> = hosts.split(',').map(str::trim).collect();
        Self {
            hosts: hosts.join(","),
            root: root.to_owned(),
        }
    }
}

/// Makes one session after the other.
pub(super) struct Zookeeper<'a> {
    ensemble: Ensemble,
    session_timeout: Duration,
    metrics: &'a Discovery,
    client: Option<zk::Client>,
    earlier: VecDeque<i64>,
    /// Whether there was an attempt since a session lasted. Until it has lasted, each is a failure.
    has_failed: bool,
    back_off: BackOff,
    begun: Instant,
}

impl<'a> Zookeeper<'a> {
    /// No session yet.
    pub(super) fn new(hosts: &str, session_timeout: Duration, metrics: &'a Discovery) -> Self {
        Self {
            ensemble: Ensemble::parse(hosts),
            session_timeout,
            metrics,
            client: None,
            earlier: VecDeque::new(),
            has_failed: false,
            back_off: BackOff::connecting(random()),
            begun: Instant::now(),
        }
    }

    fn begun(&mut self, top: zk::Client, client: zk::Client) -> ZookeeperSession {
        info!(
            "ZooKeeper: session {} with a time-out of {} ms",
            client.session_id(),
            client.session_timeout().as_millis()
        );
        self.metrics.disconnected.end();
        self.begun = Instant::now();
        self.metrics.session_begun();
        self.metrics.set_connected(true);
        assert!(
            self.client.is_none(),
            "the session before is lost or closed"
        );
        self.client = Some(client.clone());
        ZookeeperSession {
            client,
            top,
            root: self.ensemble.root.clone(),
            earlier: self.earlier.iter().copied().collect(),
        }
    }
}

impl Registry for Zookeeper<'_> {
    const NAME: &'static str = "ZooKeeper";
    type Session = ZookeeperSession;

    async fn begin(&mut self) -> ZookeeperSession {
        assert!(self.client.is_none(), "one session after the other");
        loop {
            if self.has_failed {
                tokio::time::sleep(Duration::from_millis(self.back_off.next_ms())).await;
            }
            self.has_failed = true;
            match connect(&self.ensemble, self.session_timeout).await {
                Ok((top, client)) => return self.begun(top, client),
                Err(error) => {
                    let what = format!(
                        "ZooKeeper at {} cannot be used: {error}",
                        self.ensemble.hosts
                    );
                    if self.metrics.disconnected.report(&what) {
                        warn!("{what}; trying on");
                    }
                }
            }
        }
    }

    fn lost(&mut self) {
        self.metrics.set_connected(false);
        self.metrics.set_registered(false);
        self.metrics.session_lost();
        if self.begun.elapsed() >= LASTING {
            self.has_failed = false;
            self.back_off.reset();
        }
        if let Some(client) = self.client.take() {
            if self.earlier.len() == SESSIONS_REMEMBERED {
                self.earlier.pop_front();
            }
            self.earlier.push_back(client.session_id().0);
            assert!(self.earlier.len() <= SESSIONS_REMEMBERED);
        }
    }

    async fn close(mut self) {
        self.metrics.set_registered(false);
        let Some(client) = self.client.take() else {
            return;
        };
        let mut states = client.state_watcher();
        let is_over = client.state().is_terminated();
        drop(client);
        let closed = async { while !is_over && !states.changed().await.is_terminated() {} };
        if tokio::time::timeout(CLOSE_WAIT, closed).await.is_err() {
            warn!(
                "ZooKeeper did not confirm the end of the session; its nodes vanish after its time-out"
            );
        }
        self.metrics.set_connected(false);
    }
}

/// The client of a new session, with paths that begin at the top and with paths that begin below
/// the root.
async fn connect(
    ensemble: &Ensemble,
    session_timeout: Duration,
) -> Result<(zk::Client, zk::Client), zk::Error> {
    // Failing eagerly, as the waits between attempts are ours: the client's own grow without bound.
    let client = zk::Client::connector()
        .with_session_timeout(session_timeout)
        .with_fail_eagerly()
        .connect(&ensemble.hosts)
        .await?;
    if ensemble.root.is_empty() {
        return Ok((client.clone(), client));
    }
    ensure(&client, &ensemble.root).await?;
    match client.clone().chroot(ensemble.root.as_str()) {
        Ok(below_root) => Ok((client, below_root)),
        Err(_) => Err(zk::Error::BadArguments(&"the root path is no path")),
    }
}

async fn ensure(client: &zk::Client, path: &str) -> Result<(), zk::Error> {
    let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    let ends = path.match_indices('/').map(|(index, _)| index).skip(1);
    for end in ends.chain([path.len()]) {
        let path = &path[..end];
        // Looked for first: where it exists we need no right to create it.
        if client.check_stat(path).await?.is_none() {
            match client.create(path, b"", &options).await {
                Ok(_) | Err(zk::Error::NodeExists) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// A session for one look at what is registered: makes nothing, not even the root.
///
/// # Errors
/// ZooKeeper that cannot be reached or refuses, or a root that is not there, in words.
pub(super) async fn look(hosts: &str) -> Result<ZookeeperSession, String> {
    let ensemble = Ensemble::parse(hosts);
    let top = zk::Client::connector()
        .with_fail_eagerly()
        .connect(&ensemble.hosts)
        .await
        .map_err(|error| error.to_string())?;
    let mut client = top.clone();
    if !ensemble.root.is_empty() {
        let root = client.check_stat(&ensemble.root).await;
        if root.map_err(|error| error.to_string())?.is_none() {
            return Err(format!("its root {} does not exist", ensemble.root));
        }
        client = client
            .chroot(ensemble.root.as_str())
            .map_err(|_| format!("{:?} is no root path", ensemble.root))?;
    }
    Ok(ZookeeperSession {
        client,
        top,
        root: ensemble.root,
        earlier: Vec::new(),
    })
}

impl From<zk::Error> for RegistryError {
    fn from(error: zk::Error) -> Self {
        match error {
            zk::Error::NoNode => Self::NoFolder,
            zk::Error::NoAuth | zk::Error::BadArguments(_) => Self::Refused(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_root_are_told_apart() {
        for (text, hosts, root) in [
            ("zk1:2181", "zk1:2181", ""),
            ("zk1:2181, zk2:2181/im", "zk1:2181,zk2:2181", "/im"),
            ("[::1]:2181/a/b", "[::1]:2181", "/a/b"),
        ] {
            let ensemble = Ensemble::parse(text);
            assert_eq!(
                (ensemble.hosts.as_str(), ensemble.root.as_str()),
                (hosts, root)
            );
        }
    }
}
