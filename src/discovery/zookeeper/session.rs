//! What one session with ZooKeeper can be asked.
//!
//! Owns how a claim is made safe with the versions that ZooKeeper keeps.

use std::{
    future::{pending, poll_fn},
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use log::debug;
use zookeeper_client as zk;

use super::ensure;
use crate::discovery::registry::{
    Content, Entry, Owner, RegistryError, Session, State, States, Version, Watch,
};

/// One session: the client, and whose nodes are ours.
pub(in crate::discovery) struct ZookeeperSession {
    /// To ask ZooKeeper. Paths begin below the root.
    pub(super) client: zk::Client,
    /// The same, where paths begin at the top: what is missing may be the root itself.
    pub(super) top: zk::Client,
    pub(super) root: String,
    /// The sessions of this process that came before.
    pub(super) earlier: Vec<i64>,
}

impl ZookeeperSession {
    fn entry(&self, data: Vec<u8>, stat: &zk::Stat) -> Entry {
        let session = self.client.session_id().0;
        Entry {
            data,
            owner: owner(stat.ephemeral_owner, session, &self.earlier),
            version: Version {
                made: stat.czxid,
                written: stat.version,
            },
        }
    }
}

impl Session for ZookeeperSession {
    type States = zk::StateWatcher;
    type Watch = Watchers;

    fn timeout(&self) -> Duration {
        self.client.session_timeout()
    }

    fn state(&self) -> State {
        state(self.client.state())
    }

    fn state_text(&self) -> String {
        self.client.state().to_string()
    }

    fn states(&self) -> zk::StateWatcher {
        self.client.state_watcher()
    }

    async fn read(&self, path: &str) -> Result<Option<Entry>, RegistryError> {
        match self.client.get_data(path).await {
            Ok((data, stat)) => Ok(Some(self.entry(data, &stat))),
            Err(zk::Error::NoNode) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn read_all(&self, paths: &[String]) -> Result<Vec<Content>, RegistryError> {
        // The client sends a request when it is called, not when the answer is waited for.
        let answers: Vec<_> = paths
            .iter()
            .map(|path| self.client.get_data(path))
            .collect();
        let mut contents = Vec::with_capacity(paths.len());
        for answer in answers {
            contents.push(match answer.await.map_err(RegistryError::from) {
                Ok((data, _)) => Content::Data(data),
                Err(RegistryError::NoFolder) => Content::Missing,
                Err(RegistryError::Refused(why)) => Content::Refused(why),
                Err(error) => return Err(error),
            });
        }
        Ok(contents)
    }

    async fn list(&self, path: &str) -> Result<Vec<String>, RegistryError> {
        match self.client.list_children(path).await {
            Ok(names) => Ok(names),
            Err(zk::Error::NoNode) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    async fn ensure(&self, path: &str) -> Result<(), RegistryError> {
        let path = format!("{}{path}", self.root);
        Ok(ensure(&self.top, &path).await?)
    }

    async fn create(&self, path: &str, data: &[u8]) -> Result<bool, RegistryError> {
        match self.client.create(path, data, &ephemeral()).await {
            Ok(_) => Ok(true),
            Err(zk::Error::NodeExists) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// ZooKeeper compares only the versions of data, and every new node begins with the same one.
    /// So each claim also counts up the version of the parent, and one that replaces a node expects
    /// that version as it was before the node was looked at: whatever was claimed since then, it
    /// fails.
    async fn claim(
        &self,
        path: &str,
        seen: Option<Version>,
        data: &[u8],
    ) -> Result<bool, RegistryError> {
        let (parent, _) = path.rsplit_once('/').unwrap_or_default();
        let mut writer = self.client.new_multi_writer();
        if let Some(seen) = seen {
            let claims = self.client.check_stat(parent).await?;
            let claims = claims.ok_or(zk::Error::NoNode)?.version;
            let now = self.client.check_stat(path).await?;
            if now.is_none_or(|now| now.czxid != seen.made) {
                return Ok(false);
            }
            writer.add_set_data(parent, b"", Some(claims))?;
            writer.add_delete(path, Some(seen.written))?;
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
                error => Err(error.into()),
            },
        }
    }

    async fn replace(&self, path: &str, seen: Version, data: &[u8]) -> Result<bool, RegistryError> {
        let mut writer = self.client.new_multi_writer();
        writer.add_delete(path, Some(seen.written))?;
        writer.add_create(path, data, &ephemeral())?;
        match writer.commit().await.map_err(zk::Error::from) {
            Ok(_) => Ok(true),
            Err(zk::Error::NoNode) => self.create(path, data).await,
            Err(zk::Error::BadVersion | zk::Error::NodeExists) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn rewrite(&self, path: &str, data: &[u8]) -> Result<(), RegistryError> {
        self.client.set_data(path, data, None).await?;
        Ok(())
    }

    async fn write(
        &self,
        path: &str,
        seen: Option<Version>,
        data: &[u8],
    ) -> Result<bool, RegistryError> {
        let version = seen.map(|seen| seen.written);
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
            Err(error) => Err(error.into()),
        }
    }

    async fn watch(&self, paths: &[String]) -> Result<Watchers, RegistryError> {
        let mut watchers = Vec::with_capacity(paths.len());
        for path in paths {
            // For others to register under. Not to be insisted on: a node that does not exist can
            // be watched too.
            if let Err(error) = self.ensure(path).await {
                debug!("cannot create {path}: {error}");
            }
            let mode = zk::AddWatchMode::PersistentRecursive;
            watchers.push(self.client.watch(path, mode).await?);
        }
        Ok(Watchers {
            watchers,
            is_over: false,
        })
    }
}

impl States for zk::StateWatcher {
    async fn changed(&mut self) -> State {
        state(Self::changed(self).await)
    }
}

/// One watch on each path and all below it.
pub(in crate::discovery) struct Watchers {
    watchers: Vec<zk::PersistentWatcher>,
    /// The session has ended. The client's watchers must not be asked any more then.
    is_over: bool,
}

impl Watch for Watchers {
    async fn changed(&mut self) -> usize {
        poll_fn(|context| self.poll_changed(context)).await
    }
}

impl Watchers {
    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        for (number, watcher) in self.watchers.iter_mut().enumerate() {
            while !self.is_over {
                let event = match pin!(watcher.changed()).poll(context) {
                    Poll::Ready(event) => event,
                    Poll::Pending => break,
                };
                if event.event_type != zk::EventType::Session {
                    return Poll::Ready(number);
                }
                self.is_over = event.session_state.is_terminated();
            }
        }
        if self.is_over {
            return pin!(pending()).poll(context);
        }
        Poll::Pending
    }
}

fn state(state: zk::SessionState) -> State {
    match state {
        zk::SessionState::SyncConnected => State::Connected,
        state if state.is_terminated() => State::Ended,
        _ => State::Disconnected,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ours_by_its_session_and_a_persistent_one_is_nobodys() {
        assert_eq!(owner(7, 7, &[5]), Owner::Us);
        assert_eq!(owner(5, 7, &[5]), Owner::UsBefore);
        assert_eq!(owner(6, 7, &[5]), Owner::Other);
        assert_eq!(owner(0, 0, &[]), Owner::Other);
    }
}
