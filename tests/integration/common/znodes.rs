//! A ZooKeeper session of a test's own, to write what providers write and what they should not.
//!
//! The client needs an asynchronous runtime; it has one on a thread of its own, and the test waits
//! for each answer.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zookeeper_client::{Acls, Client, CreateMode, Error};

use super::DEADLINE;

/// Long enough that a busy machine does not end a test's session.
const SESSION: Duration = Duration::from_secs(30);

/// How long ZooKeeper has to close it. It may be dead.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// What the thread is asked to do.
enum Order {
    Create {
        path: String,
        data: Vec<u8>,
        mode: CreateMode,
    },
    Set {
        path: String,
        data: Vec<u8>,
    },
    Delete {
        path: String,
    },
    Get {
        path: String,
    },
    Children {
        path: String,
    },
}

/// What it answers: data, or names of children.
enum Answer {
    Done,
    Data(Vec<u8>),
    Names(Vec<String>),
}

type Job = (Order, mpsc::Sender<Result<Answer, Error>>);

/// One session. Dropping it ends the session, and its ephemeral nodes with it.
pub struct Znodes {
    jobs: Option<UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Znodes {
    /// Connects to `host:port[/root]`, making the root if it is missing.
    pub fn connect(hosts: &str) -> Self {
        let (jobs, received) = unbounded_channel();
        let (ready, is_ready) = mpsc::channel();
        let hosts = hosts.to_string();
        let thread = std::thread::spawn(move || serve(&hosts, received, &ready));
        is_ready
            .recv_timeout(DEADLINE)
            .expect("a session with ZooKeeper");
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
        }
    }

    /// Makes a persistent node and its ancestors; one that is there is left as it is.
    pub fn make_path(&self, path: &str) {
        for (end, _) in path.match_indices('/').skip(1) {
            self.make_persistent(&path[..end], b"");
        }
        self.make_persistent(path, b"");
    }

    /// Makes a persistent node; one that is there is left as it is.
    pub fn make_persistent(&self, path: &str, data: &[u8]) {
        match self.create(path, data, CreateMode::Persistent) {
            Ok(_) | Err(Error::NodeExists) => {}
            Err(error) => panic!("create {path}: {error}"),
        }
    }

    /// Makes a node that lives as long as this session.
    pub fn make_ephemeral(&self, path: &str, data: &[u8]) {
        if let Err(error) = self.create(path, data, CreateMode::Ephemeral) {
            panic!("create {path}: {error}");
        }
    }

    fn create(&self, path: &str, data: &[u8], mode: CreateMode) -> Result<Answer, Error> {
        self.ask(Order::Create {
            path: path.to_string(),
            data: data.to_vec(),
            mode,
        })
    }

    /// Replaces the data of a node.
    pub fn set(&self, path: &str, data: &[u8]) {
        let order = Order::Set {
            path: path.to_string(),
            data: data.to_vec(),
        };
        if let Err(error) = self.ask(order) {
            panic!("set {path}: {error}");
        }
    }

    /// Deletes a node; one that is gone is as good.
    pub fn delete(&self, path: &str) {
        let path = path.to_string();
        match self.ask(Order::Delete { path: path.clone() }) {
            Ok(_) | Err(Error::NoNode) => {}
            Err(error) => panic!("delete {path}: {error}"),
        }
    }

    /// The data of a node, if it is there.
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        match self.ask(Order::Get {
            path: path.to_string(),
        }) {
            Ok(Answer::Data(data)) => Some(data),
            _ => None,
        }
    }

    /// The names of a node's children; none where it is not there.
    pub fn children(&self, path: &str) -> Vec<String> {
        match self.ask(Order::Children {
            path: path.to_string(),
        }) {
            Ok(Answer::Names(names)) => names,
            _ => Vec::new(),
        }
    }

    fn ask(&self, order: Order) -> Result<Answer, Error> {
        let (answer, answered) = mpsc::channel();
        let jobs = self.jobs.as_ref().expect("only drop takes it");
        assert!(jobs.send((order, answer)).is_ok(), "the session has ended");
        answered.recv_timeout(DEADLINE).expect("an answer")
    }
}

impl Drop for Znodes {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been shown already.
            let _ = thread.join();
        }
    }
}

fn serve(hosts: &str, mut jobs: UnboundedReceiver<Job>, ready: &mpsc::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (addresses, root) = hosts.split_at(hosts.find('/').unwrap_or(hosts.len()));
        let client = Client::connector()
            .with_session_timeout(SESSION)
            .connect(addresses)
            .await
            .expect("ZooKeeper answers");
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        let client = if root.is_empty() {
            client
        } else {
            client.mkdir(root, &options).await.expect("make the root");
            let Ok(client) = client.chroot(root.to_string()) else {
                panic!("{root} is no root path");
            };
            client
        };
        // The test may have given up.
        let _ = ready.send(());
        while let Some((order, answer)) = jobs.recv().await {
            let _ = answer.send(perform(&client, order).await);
        }
        // The last client closes the session as it goes; until that has been said, the runtime must
        // live.
        let mut states = client.state_watcher();
        drop(client);
        let closed = async { while !states.changed().await.is_terminated() {} };
        let _ = tokio::time::timeout(CLOSE_WAIT, closed).await;
    });
}

async fn perform(client: &Client, order: Order) -> Result<Answer, Error> {
    match order {
        Order::Create { path, data, mode } => {
            let options = mode.with_acls(Acls::anyone_all());
            client
                .create(&path, &data, &options)
                .await
                .map(|_| Answer::Done)
        }
        Order::Set { path, data } => client
            .set_data(&path, &data, None)
            .await
            .map(|_| Answer::Done),
        Order::Delete { path } => client.delete(&path, None).await.map(|()| Answer::Done),
        Order::Get { path } => client
            .get_data(&path)
            .await
            .map(|(data, _)| Answer::Data(data)),
        Order::Children { path } => client.list_children(&path).await.map(Answer::Names),
    }
}
