//! Sessions with ZooKeeper: made, made again, closed.
//!
//! Owns the address of ZooKeeper, the root path, the waits between attempts and the ids of the sessions this process had:
//! what an earlier one of them left behind is ours. Knows nothing of what is stored.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_lite::FutureExt;
use log::{info, warn};
use zookeeper_client as zk;

use crate::{base::send_buffer::BackOff, metrics::discovery::Status};

/// The first wait after a failure, and the longest: how long ZooKeeper's return may go unnoticed.
const FIRST_PAUSE_MS: u64 = 50;
const LONGEST_PAUSE_MS: u64 = 2000;

/// How many of its earlier sessions a process remembers. Their nodes are gone after a session time-out, so the last few
/// are all that can matter.
const SESSIONS_REMEMBERED: usize = 16;

/// How long a stop waits for ZooKeeper to close the session. Without it the nodes stay for a session time-out.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// A session that lasted so long was no failed attempt.
const LASTING: Duration = Duration::from_secs(5);

/// Where ZooKeeper is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ensemble {
    pub(super) hosts: String,
    /// The root path; empty: `/`.
    pub(super) root: String,
}

impl Ensemble {
    /// Reads `host:port[,host:port …][/root]`; blanks around an address do not count.
    pub(super) fn parse(text: &str) -> Self {
        let (hosts, root) = text.split_at(text.find('/').unwrap_or(text.len()));
        let hosts: Vec<&str> = hosts.split(',').map(str::trim).collect();
        Self {
            hosts: hosts.join(","),
            root: root.to_owned(),
        }
    }
}

/// Makes one session after the other.
pub(super) struct Connection<'a> {
    ensemble: Ensemble,
    session_timeout: Duration,
    status: &'a Status,
    client: Option<zk::Client>,
    earlier: VecDeque<i64>,
    /// Whether there was an attempt since a session lasted. Until it has lasted, each is a failure.
    has_failed: bool,
    back_off: BackOff,
    begun: Instant,
}

/// One session: the client, and whose nodes are ours.
pub(super) struct Session {
    /// To ask ZooKeeper. Paths begin below the root.
    pub(super) client: zk::Client,
    /// The same, where paths begin at the top: what is missing may be the root itself.
    top: zk::Client,
    root: String,
    /// The sessions of this process that came before.
    earlier: Vec<i64>,
}

/// Who owns a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This session.
    Us,
    /// An earlier session of this process.
    UsBefore,
    /// Some other session, or none.
    Other,
}

impl Session {
    /// Who owns the node that `stat` describes.
    pub(super) fn owner(&self, stat: &zk::Stat) -> Owner {
        owner(
            stat.ephemeral_owner,
            self.client.session_id().0,
            &self.earlier,
        )
    }

    /// Creates the persistent node at `path` and those above it, the root included, where they are
    /// missing.
    pub(super) async fn ensure(&self, path: &str) -> Result<(), zk::Error> {
        ensure(&self.top, &format!("{}{path}", self.root)).await
    }

    /// Puts an ephemeral node at `path`, where `seen` stood when it was read (`None`: nothing), in one step. Says whether
    /// that was still so; if not, it has to be read and judged again.
    ///
    /// ZooKeeper compares only the versions of data, and every new node begins with the same one. So each claim also counts
    /// up the version of the parent, and one that replaces a node expects that version as it was before the node was looked
    /// at: whatever was claimed since then, it fails. Whoever creates nodes under that parent has to do it by this.
    pub(super) async fn claim(
        &self,
        path: &str,
        seen: Option<&zk::Stat>,
        data: &[u8],
    ) -> Result<bool, zk::Error> {
        let (parent, _) = path.rsplit_once('/').unwrap_or_default();
        let mut writer = self.client.new_multi_writer();
        if let Some(seen) = seen {
            let claims = self.client.check_stat(parent).await?;
            let claims = claims.ok_or(zk::Error::NoNode)?.version;
            let now = self.client.check_stat(path).await?;
            if now.is_none_or(|now| now.czxid != seen.czxid) {
                return Ok(false);
            }
            writer.add_set_data(parent, b"", Some(claims))?;
            writer.add_delete(path, Some(seen.version))?;
        } else {
            writer.add_set_data(parent, b"", None)?;
        }
        writer.add_create(path, data, &ephemeral())?;
        match writer.commit().await {
            Ok(_) => Ok(true),
            // The node vanished. At index 0 it is the parent that is missing.
            Err(zk::MultiWriteError::OperationFailed {
                index: 1..,
                source: zk::Error::NoNode,
            }) => Ok(false),
            Err(error) => match error.into() {
                zk::Error::BadVersion | zk::Error::NodeExists => Ok(false),
                error => Err(error),
            },
        }
    }

    /// Creates an ephemeral node. Says whether it was free.
    pub(super) async fn create(&self, path: &str, data: &[u8]) -> Result<bool, zk::Error> {
        match self.client.create(path, data, &ephemeral()).await {
            Ok(_) => Ok(true),
            Err(zk::Error::NodeExists) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts an ephemeral node in the place of the one that `stat` describes, in one step: nobody sees the path empty. Says
    /// whether that one, or another that was never written to since it was created, was still there. Only for nodes that a
    /// process may lose to another without harm; [`Self::claim`] is for those that it must not.
    pub(super) async fn replace(
        &self,
        path: &str,
        stat: &zk::Stat,
        data: &[u8],
    ) -> Result<bool, zk::Error> {
        let mut writer = self.client.new_multi_writer();
        writer.add_delete(path, Some(stat.version))?;
        writer.add_create(path, data, &ephemeral())?;
        match writer.commit().await.map_err(zk::Error::from) {
            Ok(_) => Ok(true),
            Err(zk::Error::NoNode) => self.create(path, data).await,
            Err(zk::Error::BadVersion | zk::Error::NodeExists) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes `data` to the persistent node at `path`, where its data had `version` when it was read (`None`: there was no
    /// node). Says whether that was still so.
    pub(super) async fn write(
        &self,
        path: &str,
        version: Option<i32>,
        data: &[u8],
    ) -> Result<bool, zk::Error> {
        let written = match version {
            Some(_) => self.client.set_data(path, data, version).await.map(drop),
            None => {
                let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
                self.client.create(path, data, &options).await.map(drop)
            }
        };
        match written {
            Ok(()) => Ok(true),
            Err(zk::Error::BadVersion | zk::Error::NodeExists) => Ok(false),
            // Deleted since. Without the parent it is another matter.
            Err(zk::Error::NoNode) if version.is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What stands at `path`; `None`: nothing.
    pub(super) async fn read(&self, path: &str) -> Result<Option<(Vec<u8>, zk::Stat)>, zk::Error> {
        match self.client.get_data(path).await {
            Ok(found) => Ok(Some(found)),
            Err(zk::Error::NoNode) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn ephemeral() -> zk::CreateOptions<'static> {
    zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all())
}

fn owner(owner: i64, session: i64, earlier: &[i64]) -> Owner {
    // Persistent nodes have owner 0.
    if owner != 0 && owner == session {
        Owner::Us
    } else if earlier.contains(&owner) {
        Owner::UsBefore
    } else {
        Owner::Other
    }
}

impl<'a> Connection<'a> {
    /// No session yet.
    pub(super) fn new(hosts: &str, session_timeout: Duration, status: &'a Status) -> Self {
        Self {
            ensemble: Ensemble::parse(hosts),
            session_timeout,
            status,
            client: None,
            earlier: VecDeque::new(),
            has_failed: false,
            back_off: BackOff::new(
                FIRST_PAUSE_MS,
                LONGEST_PAUSE_MS,
                getrandom::u64().unwrap_or(0),
            ),
            begun: Instant::now(),
        }
    }

    /// A new session. Tries until there is one.
    pub(super) async fn begin(&mut self) -> Session {
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
                    if self.status.disconnected.report(&what) {
                        warn!("{what}; trying on");
                    }
                }
            }
        }
    }

    fn begun(&mut self, top: zk::Client, client: zk::Client) -> Session {
        info!(
            "ZooKeeper: session {} with a time-out of {} ms",
            client.session_id(),
            client.session_timeout().as_millis()
        );
        self.status.disconnected.end();
        self.begun = Instant::now();
        self.status.session_begun();
        self.status.set_connected(true);
        self.client = Some(client.clone());
        Session {
            client,
            top,
            root: self.ensemble.root.clone(),
            earlier: self.earlier.iter().copied().collect(),
        }
    }

    /// The session is lost, or of no more use: what it left is ours to clear away.
    pub(super) fn lost(&mut self) {
        self.status.set_connected(false);
        self.status.set_registered(false);
        self.status.session_lost();
        if self.begun.elapsed() >= LASTING {
            self.has_failed = false;
            self.back_off.reset();
        }
        if let Some(client) = self.client.take() {
            if self.earlier.len() == SESSIONS_REMEMBERED {
                self.earlier.pop_front();
            }
            self.earlier.push_back(client.session_id().0);
        }
    }

    /// Closes the session, so that its nodes vanish at once and not after its time-out. The last [`Session`] must be gone.
    pub(super) async fn close(mut self) {
        self.status.set_registered(false);
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
        self.status.set_connected(false);
    }
}

/// The client of a new session, with paths that begin at the top and with paths that begin below the
/// root.
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

/// Follows the state of `session` into `status`. Returns when the session has ended.
pub(super) async fn ended(session: &Session, status: &Status) -> zk::SessionState {
    let mut states = session.client.state_watcher();
    let mut state = session.client.state();
    while !state.is_terminated() {
        status.set_connected(is_connected(state));
        state = states.changed().await;
        match state {
            zk::SessionState::Disconnected => {
                if status
                    .disconnected
                    .report(&"the connection to ZooKeeper is lost")
                {
                    warn!("ZooKeeper: connection lost");
                }
            }
            zk::SessionState::SyncConnected => {
                status.disconnected.end();
                info!("ZooKeeper: connected again");
            }
            _ => {
                status
                    .disconnected
                    .report(&format!("the session with ZooKeeper has ended: {state}"));
                warn!("ZooKeeper: the session has ended: {state}");
            }
        }
    }
    state
}

/// Whether requests are answered in this state.
pub(super) fn is_connected(state: zk::SessionState) -> bool {
    state == zk::SessionState::SyncConnected
}

/// Waits until `length` is over or the state of the session has changed.
pub(super) async fn pause(states: &mut zk::StateWatcher, length: Duration) {
    // A state that has changed and the end of the wait are the same to the caller: look again.
    let _ = tokio::time::timeout(length, states.changed()).await;
}

/// Runs `work`, which uses the client. A panic in it, such as one of the client's own assertions, ends the session and not
/// the control thread: `None`.
pub(super) async fn contained<T>(work: impl Future<Output = T>) -> Option<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => Some(outcome),
        Err(_) => {
            log::error!("ZooKeeper: the session's work panicked; beginning another session");
            None
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

    #[test]
    fn a_node_is_ours_by_its_session_and_a_persistent_one_is_nobodys() {
        assert_eq!(owner(7, 7, &[5]), Owner::Us);
        assert_eq!(owner(5, 7, &[5]), Owner::UsBefore);
        assert_eq!(owner(6, 7, &[5]), Owner::Other);
        assert_eq!(owner(0, 0, &[]), Owner::Other);
    }
}
