//! The rules of discovery over a registry in memory: no server, no network, only what the trait
//! promises.

use std::{cell::Cell, collections::BTreeMap};

use tokio::sync::{mpsc, watch as cell};

use super::*;
use crate::discovery::{
    lease::Lessee,
    notifier::Notifier,
    register::stay_registered,
    registry::{
        Content, Entry, Owner, Registry, RegistryError, Session, State, States, Version, Watch,
    },
    watch::follow,
};

/// What the registry keeps, for all its sessions.
#[derive(Default)]
struct Store {
    entries: BTreeMap<String, (Vec<u8>, u64, Version)>,
    sessions: Vec<cell::Sender<State>>,
    watches: Vec<(String, mpsc::UnboundedSender<usize>, usize)>,
    made: i64,
}

impl Store {
    fn tell(&mut self, path: &str) {
        self.watches.retain(|(root, sender, number)| {
            !path.starts_with(root.as_str()) || sender.send(*number).is_ok()
        });
    }

    fn put(&mut self, path: &str, data: &[u8], session: u64) {
        self.made += 1;
        let version = Version {
            made: self.made,
            written: 0,
        };
        let entry = (data.to_vec(), session, version);
        self.entries.insert(path.to_owned(), entry);
        self.tell(path);
    }

    /// The session falls silent for good: what it made is gone.
    fn end(&mut self, session: u64) {
        self.sessions[session as usize - 1].send_replace(State::Ended);
        let of_session = |entry: &(Vec<u8>, u64, Version)| entry.1 == session;
        let gone: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| of_session(entry))
            .collect();
        for path in gone
            .into_iter()
            .map(|(path, _)| path.clone())
            .collect::<Vec<_>>()
        {
            self.entries.remove(&path);
            self.tell(&path);
        }
    }
}

type Shared = Rc<RefCell<Store>>;

/// One process's sessions with it, which come one after the other.
struct Memory {
    store: Shared,
    current: Rc<Cell<u64>>,
    earlier: Vec<u64>,
}

struct MemorySession {
    store: Shared,
    number: u64,
    earlier: Vec<u64>,
    states: cell::Receiver<State>,
}

impl Memory {
    fn new(store: &Shared) -> Self {
        Self {
            store: Rc::clone(store),
            current: Rc::default(),
            earlier: Vec::new(),
        }
    }
}

impl Registry for Memory {
    const NAME: &'static str = "memory";
    type Session = MemorySession;

    async fn begin(&mut self) -> MemorySession {
        let (sender, states) = cell::channel(State::Connected);
        let mut store = self.store.borrow_mut();
        store.sessions.push(sender);
        let number = store.sessions.len() as u64;
        self.current.set(number);
        MemorySession {
            store: Rc::clone(&self.store),
            number,
            earlier: self.earlier.clone(),
            states,
        }
    }

    fn lost(&mut self) {
        self.earlier.push(self.current.replace(0));
    }

    async fn close(self) {
        let number = self.current.get();
        if number > 0 {
            self.store.borrow_mut().end(number);
        }
    }
}

impl MemorySession {
    /// Puts an entry of session `owner` where what stands there is still as it was `seen`.
    fn put_if(&self, path: &str, seen: Option<Version>, data: &[u8], owner: u64) -> bool {
        let mut store = self.store.borrow_mut();
        let stands = store.entries.get(path).map(|(_, _, version)| *version);
        let is_as_seen = stands == seen;
        if is_as_seen {
            store.put(path, data, owner);
        }
        is_as_seen
    }
}

impl Session for MemorySession {
    type States = cell::Receiver<State>;
    type Watch = mpsc::UnboundedReceiver<usize>;

    fn timeout(&self) -> Duration {
        Duration::from_millis(100)
    }

    fn state(&self) -> State {
        *self.states.borrow()
    }

    fn state_text(&self) -> String {
        format!("{:?}", self.state())
    }

    fn states(&self) -> Self::States {
        self.states.clone()
    }

    async fn read(&self, path: &str) -> Result<Option<Entry>, RegistryError> {
        let store = self.store.borrow();
        Ok(store.entries.get(path).map(|(data, owner, version)| Entry {
            data: data.clone(),
            owner: match *owner {
                owner if owner == self.number => Owner::Us,
                owner if self.earlier.contains(&owner) => Owner::UsBefore,
                _ => Owner::Other,
            },
            version: *version,
        }))
    }

    async fn read_all(&self, paths: &[String]) -> Result<Vec<Content>, RegistryError> {
        let store = self.store.borrow();
        let content = |path| match store.entries.get(path) {
            Some((data, ..)) => Content::Data(data.clone()),
            None => Content::Missing,
        };
        Ok(paths.iter().map(content).collect())
    }

    async fn list(&self, path: &str) -> Result<Vec<String>, RegistryError> {
        let store = self.store.borrow();
        let below = format!("{path}/");
        let rests = store
            .entries
            .keys()
            .filter_map(|key| key.strip_prefix(&below));
        let mut names: Vec<_> = rests
            .map(|rest| rest.split('/').next().unwrap_or_default().to_owned())
            .collect();
        names.dedup();
        Ok(names)
    }

    async fn ensure(&self, _: &str) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn create(&self, path: &str, data: &[u8]) -> Result<bool, RegistryError> {
        self.claim(path, None, data).await
    }

    async fn claim(
        &self,
        path: &str,
        seen: Option<Version>,
        data: &[u8],
    ) -> Result<bool, RegistryError> {
        Ok(self.put_if(path, seen, data, self.number))
    }

    async fn replace(&self, path: &str, seen: Version, data: &[u8]) -> Result<bool, RegistryError> {
        self.claim(path, Some(seen), data).await
    }

    async fn rewrite(&self, path: &str, data: &[u8]) -> Result<(), RegistryError> {
        self.store.borrow_mut().put(path, data, self.number);
        Ok(())
    }

    async fn write(
        &self,
        path: &str,
        seen: Option<Version>,
        data: &[u8],
    ) -> Result<bool, RegistryError> {
        Ok(self.put_if(path, seen, data, 0))
    }

    async fn watch(&self, paths: &[String]) -> Result<Self::Watch, RegistryError> {
        let (sender, changes) = mpsc::unbounded_channel();
        let watches = paths.iter().enumerate();
        let watches = watches.map(|(number, path)| (path.clone(), sender.clone(), number));
        self.store.borrow_mut().watches.extend(watches);
        Ok(changes)
    }
}

impl States for cell::Receiver<State> {
    async fn changed(&mut self) -> State {
        match Self::changed(self).await {
            Ok(()) => *self.borrow_and_update(),
            Err(_) => State::Ended,
        }
    }
}

impl Watch for mpsc::UnboundedReceiver<usize> {
    async fn changed(&mut self) -> usize {
        match self.recv().await {
            Some(number) => number,
            None => std::future::pending().await,
        }
    }
}

/// A gateway over the registry in memory.
struct InMemory {
    events: Rc<RefCell<Vec<Event>>>,
    session: Rc<Cell<u64>>,
    task: JoinHandle<Result<(), WatchError>>,
    stop: oneshot::Sender<()>,
}

fn gateway(store: &Shared, id: &str) -> InMemory {
    let registry = Memory::new(store);
    let session = Rc::clone(&registry.current);
    let events: Rc<RefCell<Vec<Event>>> = Rc::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let (options, told) = (watch_options("", id), Rc::clone(&events));
    let task = spawn_local(async move {
        let metrics = Discovery::default();
        let tell = |event| told.borrow_mut().push(event);
        let notifier = Notifier::new(&options, &metrics, &tell);
        let stopped = async {
            let _ = stopped.await;
        };
        follow(registry, &options, &metrics, &notifier, &|_| false, stopped).await
    });
    InMemory {
        events,
        session,
        task,
        stop,
    }
}

impl InMemory {
    fn workers(&self) -> Vec<u16> {
        let events = self.events.borrow();
        let leases = events.iter().rev().find_map(|event| match event {
            Event::IdLeases(leases) => Some(leases),
            Event::Endpoints(_) => None,
        });
        leases.map_or_else(Vec::new, |leases| {
            leases.iter().map(|lease| lease.worker).collect()
        })
    }

    fn ports(&self) -> Vec<u16> {
        let events = self.events.borrow();
        let table = events.iter().rev().find_map(|event| match event {
            Event::Endpoints(table) => Some(table),
            Event::IdLeases(_) => None,
        });
        let instances = table.into_iter().flat_map(|table| table.of(Service::User));
        instances.map(|instance| instance.address.port()).collect()
    }
}

fn backend(store: &Shared, port: u16) -> (JoinHandle<()>, oneshot::Sender<()>, Rc<Cell<u64>>) {
    let registry = Memory::new(store);
    let session = Rc::clone(&registry.current);
    let (stop, stopped) = oneshot::channel::<()>();
    let options = register_options("", port);
    let task = spawn_local(async move {
        let (metrics, gateways) = (Discovery::default(), Gateways::default());
        let stopped = async {
            let _ = stopped.await;
        };
        stay_registered(registry, &options, &metrics, &gateways, stopped).await;
    });
    (task, stop, session)
}

#[test]
fn over_any_registry_gateways_and_backends_find_each_other_and_again_after_a_lost_session() {
    run(async {
        let store = Shared::default();
        let gateway = gateway(&store, "gw");
        let (task, stop, session) = backend(&store, 5001);
        eventually("found", || gateway.ports() == [5001]).await;
        let workers = gateway.workers();
        assert_eq!(workers.len(), 2);
        for session in [&session, &gateway.session] {
            let number = session.get();
            store.borrow_mut().end(number);
            eventually("another session", || {
                session.get() > number && store.borrow().entries.values().any(|e| e.1 > number)
            })
            .await;
        }
        eventually("registered again", || {
            let store = store.borrow();
            let node = store.entries.get("/im-gateway/instances/gw");
            node.is_some_and(|node| node.1 == gateway.session.get())
        })
        .await;
        assert_eq!(gateway.ports(), [5001], "a table is never taken back");
        assert_eq!(gateway.workers(), workers, "the numbers are still its own");
        stop.send(()).expect("it runs");
        task.await.expect("no panic");
        gateway.stop.send(()).expect("it runs");
        gateway.task.await.expect("no panic").expect("no error");
        let store = store.borrow();
        assert!(
            store
                .entries
                .keys()
                .all(|path| path.starts_with("/im-gateway/marks/"))
        );
    });
}

#[test]
fn over_any_registry_an_id_is_one_gateways() {
    run(async {
        let store = Shared::default();
        let first = gateway(&store, "gw");
        eventually("the first one is registered", || {
            !first.workers().is_empty()
        })
        .await;
        let second = gateway(&store, "gw");
        let outcome = second.task.await.expect("no panic");
        assert!(
            matches!(outcome, Err(WatchError::IdTaken { .. })),
            "{outcome:?}"
        );
        assert!(second.events.borrow().is_empty());
        first.stop.send(()).expect("it runs");
        first.task.await.expect("no panic").expect("no error");
    });
}

#[test]
fn over_any_registry_a_worker_number_is_one_gateways_and_its_mark_only_rises() {
    run(async {
        let store = Shared::default();
        let mut taken = Vec::new();
        let mut sessions = Vec::new();
        for id in ["a", "b", "c"] {
            let session = Memory::new(&store).begin().await;
            let held = Lessee::new(id)
                .lease(&session, 300, &[])
                .await
                .expect("free ones");
            taken.extend(held.iter().map(|held| held.lease.worker));
            sessions.push(session);
        }
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 900, "nobody has another's");
        let session = Memory::new(&store).begin().await;
        assert!(Lessee::new("d").lease(&session, 300, &[]).await.is_err());
        // The first one's session ends; whoever takes its numbers begins behind its marks.
        store.borrow_mut().end(sessions[0].number);
        let marks = |store: &Shared| -> Vec<u64> {
            let store = store.borrow();
            let marks = store.entries.range("/im-gateway/marks/".to_owned()..);
            let texts = marks.map(|(_, entry)| String::from_utf8_lossy(&entry.0).into_owned());
            let first = texts.map(|text| text.split(' ').next().unwrap_or_default().to_owned());
            first.filter_map(|word| word.parse().ok()).collect()
        };
        let before = marks(&store);
        let held = Lessee::new("e")
            .lease(&session, 300, &[])
            .await
            .expect("free again");
        assert!(held.iter().any(|held| held.lease.from_ms > 0));
        assert!(
            held.iter()
                .all(|held| held.lease.from_ms < held.lease.until_ms)
        );
        let after = marks(&store);
        let rose = before
            .iter()
            .zip(&after)
            .all(|(before, after)| before <= after);
        assert!(rose && before.len() <= after.len());
    });
}
