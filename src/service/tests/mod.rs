//! The promises of the services, each as a test. Most drive the engine directly, with a clock of
//! their own and a store in a directory of their own; a crash is a copy of the files taken while
//! the engine still runs.

mod account;
mod durability;
mod friends;
mod group;
mod inbox;
mod message;
mod presence;
mod processes;
mod routes;
mod sessions;
mod shared;
mod threads;

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use tempfile::TempDir;

use super::{
    Call, ReplySink, StorageMode,
    engine::{Batch, Engine, Item, Outcome},
    password::{Judged, Verdict},
    store::{Store, sqlite::Sqlite},
};
use crate::{
    base::id::{MessageIds, RouteId, UserId},
    contract::{
        bus::Channel,
        methods::{Method, Request, Response},
    },
    proto::{self, Code, PushMessage},
};

/// A moment long after the first id of a snowflake.
const START_MS: i64 = 1_760_000_000_000;

/// Keeps what it is given.
#[derive(Default)]
struct Kept(Mutex<Vec<(u64, Response)>>);

impl ReplySink for Kept {
    fn complete(&self, replies: Vec<(u64, Response)>) {
        self.0.lock().expect("not poisoned").extend(replies);
    }
}

impl Batch for std::vec::IntoIter<Item> {
    fn next(&mut self) -> Option<Item> {
        Iterator::next(self)
    }

    fn restart(&mut self) {}

    fn is_late(&self, _: &Item) -> bool {
        false
    }
}

/// An engine over a store of its own.
struct World {
    engine: Engine,
    directory: Arc<TempDir>,
    mode: StorageMode,
    now_ms: i64,
    /// How far the wall clock is ahead of the store's time.
    wall_ahead_ms: i64,
    pushes: Vec<(Channel, PushMessage)>,
    next_msg_id: i64,
    sink: Arc<dyn ReplySink>,
    /// What was told of the store's failing.
    told: Arc<Mutex<Vec<bool>>>,
}

impl World {
    fn new() -> Self {
        Self::with_inbox_limit(10_000)
    }

    fn with_inbox_limit(inbox_limit: u64) -> Self {
        Self::over(TempDir::new().expect("a directory"), inbox_limit)
    }

    fn over(directory: TempDir, inbox_limit: u64) -> Self {
        Self::of_mode(StorageMode::Embedded, directory, inbox_limit)
    }

    fn of_mode(mode: StorageMode, directory: impl Into<Arc<TempDir>>, inbox_limit: u64) -> Self {
        let directory = directory.into();
        let (is_shared, presence) = mode.parts();
        let storage = Sqlite::open(directory.path(), is_shared).expect("a store");
        let store = Store::new(storage, is_shared, inbox_limit);
        let told: Arc<Mutex<Vec<bool>>> = Arc::default();
        let report = {
            let told = Arc::clone(&told);
            Arc::new(move |failing| told.lock().expect("not poisoned").push(failing))
        };
        Self {
            engine: Engine::new(
                store,
                presence,
                MessageIds::new(1023),
                Arc::default(),
                report,
            ),
            directory,
            mode,
            now_ms: START_MS,
            wall_ahead_ms: 0,
            pushes: Vec::new(),
            next_msg_id: 1,
            sink: Arc::new(Kept::default()),
            told,
        }
    }

    /// What a `kill -9` at this moment would leave behind, opened anew.
    fn crashed(&self) -> Self {
        let copy = TempDir::new().expect("a directory");
        copy_files(self.directory.path(), copy.path());
        Self {
            now_ms: self.now_ms,
            next_msg_id: self.next_msg_id,
            ..Self::of_mode(self.mode, copy, self.engine.store.inbox_limit())
        }
    }

    fn now(&self) -> super::clock::Now {
        super::clock::Now {
            store_ms: self.now_ms,
            unix_ms: self.now_ms + self.wall_ahead_ms,
        }
    }

    /// Carries out several calls as one batch.
    fn batch(&mut self, requests: Vec<Request>) -> Vec<Response> {
        let items: Vec<Item> = requests
            .into_iter()
            .map(|request| {
                Item::Call(Call {
                    request,
                    call_id: 0,
                    sink: Arc::clone(&self.sink),
                    deadline: None,
                })
            })
            .collect();
        let now = self.now();
        let effects = self.engine.run(&mut items.into_iter(), now);
        self.engine.assert_invariants();
        self.pushes.extend(effects.pushes);
        effects
            .outcomes
            .into_iter()
            .map(|(_, outcome)| match outcome {
                Outcome::Reply(response) => response,
                Outcome::Password(_) => panic!("a job for the password pool"),
            })
            .collect()
    }

    fn call<M: Method>(&mut self, request: M::Request) -> M::Response {
        let mut responses = self.batch(vec![request.into()]);
        let response = responses.pop().expect("one reply for one call");
        M::Response::try_from(response).expect("the reply of this method")
    }

    /// What comes of one item alone.
    fn outcome(&mut self, item: Item) -> Outcome {
        let mut effects = self.engine.run(&mut vec![item].into_iter(), self.now_ms);
        self.engine.assert_invariants();
        self.pushes.append(&mut effects.pushes);
        effects.outcomes.pop().expect("one outcome").1
    }

    /// A verdict of the password pool.
    fn judged(&self, verdict: Verdict) -> Item {
        Item::Judged(Judged {
            call_id: 0,
            sink: Arc::clone(&self.sink),
            verdict,
            act_before: None,
        })
    }

    /// What is answered to a registration, without the cost of a password.
    fn register(&mut self, name: &str, network: &[u8]) -> proto::RegisterResponse {
        let item = self.judged(Verdict::Hashed {
            name: name.to_owned(),
            hash: "no hash".to_owned(),
            network: network.to_vec(),
        });
        match self.outcome(item) {
            Outcome::Reply(Response::Register(response)) => response,
            _ => panic!("not a registration"),
        }
    }

    /// An account.
    fn user(&mut self, name: &str) -> UserId {
        let response = self.register(name, &[]);
        assert_eq!(code(&response.result), Code::Ok);
        response.user_id
    }

    fn msg_id(&mut self) -> i64 {
        self.next_msg_id += 1;
        self.next_msg_id
    }

    fn draft(&mut self, from: UserId, to: UserId, text: &str) -> proto::SendRequest {
        proto::SendRequest {
            msg: Some(proto::C2cMsg {
                msg_id: self.msg_id(),
                from,
                to,
                ts_ms: self.now_ms,
                text: text.to_owned(),
                ..Default::default()
            }),
            client_msg_id: String::new(),
            session_id: 0,
        }
    }

    fn send(&mut self, from: UserId, to: UserId, text: &str) -> proto::SendResponse {
        let request = self.draft(from, to, text);
        self.call::<crate::contract::methods::method::Send>(request)
    }

    fn group_draft(&mut self, from: UserId, group_id: i64, text: &str) -> proto::SendGroupRequest {
        proto::SendGroupRequest {
            msg: Some(proto::GroupMsg {
                msg_id: self.msg_id(),
                from,
                group_id,
                ts_ms: self.now_ms,
                text: text.to_owned(),
                ..Default::default()
            }),
            client_msg_id: String::new(),
            session_id: 0,
        }
    }

    fn send_group(&mut self, from: UserId, group: i64, text: &str) -> proto::SendGroupResponse {
        let request = self.group_draft(from, group, text);
        self.call::<crate::contract::methods::method::SendGroup>(request)
    }

    fn group(&mut self, creator_id: UserId, members: &[UserId]) -> i64 {
        let request = proto::CreateGroupRequest {
            creator_id,
            group_name: "a group".to_owned(),
            description: String::new(),
        };
        let group_id = self
            .call::<crate::contract::methods::method::CreateGroup>(request)
            .group_id;
        for &user_id in members {
            let request = proto::JoinGroupRequest { user_id, group_id };
            let response = self.call::<crate::contract::methods::method::JoinGroup>(request);
            assert_eq!(code(&response.result), Code::Ok);
        }
        group_id
    }

    fn pull(&mut self, user_id: UserId) -> proto::PullOfflineResponse {
        self.pull_page(user_id, 1000)
    }

    fn pull_page(&mut self, user_id: UserId, limit: u32) -> proto::PullOfflineResponse {
        let request = proto::PullOfflineRequest {
            user_id,
            limit,
            ..Default::default()
        };
        self.call::<crate::contract::methods::method::PullOffline>(request)
    }

    /// The unconfirmed messages of `user` as (text, redelivery), direct ones first.
    fn pulled(&mut self, user: UserId) -> Vec<(String, bool)> {
        let page = self.pull(user);
        assert_eq!(code(&page.result), Code::Ok);
        let direct = page.msg_list.into_iter().map(|m| (m.text, m.redelivery));
        let groups = page
            .group_msg_list
            .into_iter()
            .map(|m| (m.text, m.redelivery));
        direct.chain(groups).collect()
    }

    fn ack(&mut self, user_id: UserId, msg_id_list: &[i64]) -> proto::AckResponse {
        self.call::<crate::contract::methods::method::Ack>(proto::AckRequest {
            user_id,
            msg_id_list: msg_id_list.to_vec(),
            group_msg_id_list: Vec::new(),
        })
    }

    fn ack_range(&mut self, user_id: UserId, group_id: i64, from_seq: u64, to_seq: u64) {
        let response =
            self.call::<crate::contract::methods::method::AckBatch>(proto::AckBatchRequest {
                acks: vec![proto::AckRange {
                    user_id,
                    from_seq,
                    to_seq,
                    group_id,
                }],
            });
        assert_eq!(code(&response.result), Code::Ok);
    }

    fn bind(&mut self, user_id: UserId, core: usize, session_id: u64) -> proto::BindRouteResponse {
        self.bind_device(user_id, core, session_id, &format!("device-{session_id}"))
    }

    fn bind_device(
        &mut self,
        user_id: UserId,
        core: usize,
        session_id: u64,
        device: &str,
    ) -> proto::BindRouteResponse {
        let request = bind_request(user_id, core, session_id, device);
        self.call::<crate::contract::methods::method::BindRoute>(request)
    }

    fn unbind(&mut self, user_id: UserId, session_id: u64) {
        self.unbind_over(user_id, 0, session_id);
    }

    fn unbind_over(&mut self, user_id: UserId, core: usize, session_id: u64) {
        let response =
            self.call::<crate::contract::methods::method::UnbindRoute>(proto::UnbindRouteRequest {
                user_id,
                gateway_id: format!("gw#{core}"),
                session_id,
            });
        assert_eq!(code(&response.result), Code::Ok);
    }

    /// The sessions of `user` that are bound, in order.
    fn bound_sessions(&mut self, user_id: UserId) -> Vec<u64> {
        let response =
            self.call::<crate::contract::methods::method::QueryRoute>(proto::QueryRouteRequest {
                user_id,
            });
        assert_eq!(code(&response.result), Code::Ok);
        response
            .routes
            .iter()
            .map(|route| route.session_id)
            .collect()
    }

    /// Over which routes something was published since the last look, in order.
    fn pushed_over(&mut self) -> Vec<Channel> {
        self.published().into_iter().map(|push| push.0).collect()
    }

    /// What was published since the last look, with the channel.
    fn published(&mut self) -> Vec<(Channel, PushMessage)> {
        std::mem::take(&mut self.pushes)
    }

    /// What is due while nobody asks.
    fn keep_house(&mut self) {
        self.engine.run_housekeeping(self.now_ms, false);
        let pushes = self.engine.take_pushes();
        self.pushes.extend(pushes);
    }

    /// Lets late confirmations reach the file.
    fn write_back(&mut self) {
        self.now_ms += 1000;
        self.engine.run_housekeeping(self.now_ms, false);
    }

    fn connection(&self) -> &rusqlite::Connection {
        self.engine.store.read().connection()
    }

    fn execute(&self, sql: &str) {
        self.connection().execute_batch(sql).expect(sql);
    }

    fn count(&self, sql: &str) -> i64 {
        self.connection()
            .query_row(sql, [], |row| row.get(0))
            .expect(sql)
    }

    /// From now on the file may not grow: the next writes find the disk full.
    fn fill_disk(&self) {
        let pages = self.count("PRAGMA page_count");
        self.count(&format!("PRAGMA max_page_count = {pages}"));
    }

    /// What was told of the store's failing since the last look.
    fn told(&mut self) -> Vec<bool> {
        std::mem::take(&mut self.told.lock().expect("not poisoned"))
    }

    fn make_room(&self) {
        self.count("PRAGMA max_page_count = 1000000");
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

fn code(result: &Option<proto::Result>) -> Code {
    result.as_ref().expect("a result").code()
}

fn bind_request(
    user_id: UserId,
    core: usize,
    session_id: u64,
    device: &str,
) -> proto::BindRouteRequest {
    proto::BindRouteRequest {
        user_id,
        gateway_id: format!("gw#{core}"),
        device: device.to_owned(),
        session_id,
        max_devices: 5,
        ..Default::default()
    }
}

fn route(core: usize) -> Channel {
    Channel::Route(RouteId::new("gw", core))
}

fn texts(page: &proto::PullOfflineResponse) -> Vec<&str> {
    page.msg_list.iter().map(|m| m.text.as_str()).collect()
}
