//! Flows that run beside commands, against services that answer what a test says.

mod background;
mod groups;
mod logins;
mod messages;
mod pull;
mod routes;
mod settle;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_lite::future::yield_now;

use crate::{
    base::id::{ConnectionKey, GroupId, MessageIds, RouteId, SessionId, UserId},
    contract::{
        backend::{Backend, BackendEvent, CallError},
        bus::PushSource,
        methods::{Method, Request, Response},
    },
    flow::core::{Core, Gateway},
    metrics,
    proto::{self, Code, PushMessage},
    protocol::reply::Reply,
    session::{Peer, job::Job},
    shard::{
        Effect, Now, Shard,
        fixtures::{gateway, options},
    },
};

type Flow = Pin<Box<dyn Future<Output = ()>>>;

const LOCALHOST: [u8; 4] = [127, 0, 0, 1];

/// So long a pause is one between two passes.
const FOR_EVER: Duration = Duration::from_secs(1);

/// What the services answer.
type Script = Box<dyn FnMut(&Request) -> Result<Response, CallError>>;

/// A core with its services and its time.
struct World {
    core: Rc<Core<Services, Silence>>,
    calls: Rc<RefCell<Vec<Request>>>,
    pauses: Rc<RefCell<Vec<Duration>>>,
    now_us: Rc<Cell<u64>>,
}

/// Answer a call the turn after it was made, with what is true when it is made.
struct Services {
    script: RefCell<Script>,
    calls: Rc<RefCell<Vec<Request>>>,
}

impl Backend for Services {
    async fn call<M: Method>(&self, request: M::Request) -> Result<M::Response, CallError> {
        let request = request.into();
        let response = (self.script.borrow_mut())(&request);
        self.calls.borrow_mut().push(request);
        yield_now().await;
        M::Response::try_from(response?).map_err(|()| CallError::Internal)
    }

    fn on_event(&self, _: BackendEvent) {}

    fn advance(&self, _: u64) {}

    fn expire_calls(&self, _: u64) {}

    fn next_deadline_ms(&self) -> Option<u64> {
        None
    }

    fn pushes_in_doubt(&self) -> bool {
        false
    }
}

struct Silence;

impl PushSource for Silence {
    async fn subscribe(&self, _: GroupId) {}

    fn unsubscribe(&self, _: GroupId) {}

    fn advance(&self, _: u64) {}
}

impl World {
    /// Each call takes some milliseconds. Pauses are over at once, but long ones after the first
    /// one never.
    fn new(
        call_ms: u64,
        script: impl FnMut(&Request) -> Result<Response, CallError> + 'static,
    ) -> Self {
        Self::with_gateway(call_ms, gateway(), script)
    }

    /// The same, as a core of `gateway`.
    fn with_gateway(
        call_ms: u64,
        gateway: Arc<Gateway>,
        mut script: impl FnMut(&Request) -> Result<Response, CallError> + 'static,
    ) -> Self {
        let (calls, pauses) = (Rc::default(), Rc::<RefCell<Vec<Duration>>>::default());
        let now_us = Rc::new(Cell::new(0));
        let (for_calls, for_pauses, for_clock) =
            (Rc::clone(&now_us), Rc::clone(&now_us), Rc::clone(&now_us));
        let services = Services {
            script: RefCell::new(Box::new(move |request| {
                for_calls.set(for_calls.get() + call_ms * 1000);
                script(request)
            })),
            calls: Rc::clone(&calls),
        };
        let noted = Rc::clone(&pauses);
        let core = Core::new(
            Shard::new(
                options(),
                MessageIds::new(1),
                Arc::new(metrics::Core::new()),
            ),
            services,
            Silence,
            gateway,
            RouteId::new("here", 0),
            move || Now {
                monotonic_us: for_clock.get(),
                unix_ms: 1_760_000_000_000,
            },
            move |length| {
                let is_first = noted.borrow().is_empty();
                noted.borrow_mut().push(length);
                for_pauses.set(for_pauses.get() + length.as_micros() as u64);
                Box::pin(poll_fn(move |_| {
                    if length < FOR_EVER || is_first {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                }))
            },
        );
        Self {
            core: Rc::new(core),
            calls,
            pauses,
            now_us,
        }
    }

    fn log_in(
        &self,
        user: UserId,
        groups: &[(GroupId, Option<u64>)],
    ) -> (ConnectionKey, SessionId) {
        let (key, job) = self.connect(LOCALHOST, b"login:somebody:secret\n");
        let mut shard = self.core.shard();
        let session_id = shard.next_session_id();
        assert!(shard.attach(key, user, "somebody".into(), session_id));
        shard.set_baseline(key, Some(0));
        for (group, last_seq) in groups {
            shard.add_member(key, *group, *last_seq);
        }
        let reply = Reply::LoggedIn {
            uid: user,
            session: session_id,
            token: None,
            replaced: false,
        };
        assert!(shard.complete(&job, &[reply]).is_none());
        (key, session_id)
    }

    /// A connection from `address`, limited anywhere but here, whose first line brings about a job.
    fn connect(&self, address: [u8; 4], line: &[u8]) -> (ConnectionKey, Job) {
        let mut shard = self.core.shard();
        let key = shard.accept(
            Peer {
                ip: address.into(),
                port: 1,
                exempt: address == LOCALHOST,
                is_forwarded: false,
            },
            crate::protocol::codec::Codec::Line,
        );
        let job = shard.feed(key, line).expect("a job");
        (key, job)
    }

    /// Pushes a message to somebody on this core.
    fn push(&self, message: PushMessage) {
        self.core.shard().on_push(Arc::new(message));
    }

    /// The kernel takes all that is to be sent over a connection.
    fn send_all(&self, key: ConnectionKey) {
        let mut shard = self.core.shard();
        let count = shard.unsent(key).len();
        shard.sent(key, count, false);
    }

    /// Whose routes were bound.
    fn bound(&self) -> Vec<UserId> {
        let calls = self.calls.borrow();
        let bound = calls.iter().filter_map(|call| match call {
            Request::BindRoute(bind) => Some(bind.user_id),
            _ => None,
        });
        bound.collect()
    }
}

/// Polls `flow` until it ends or waits for good; says whether it ended.
fn go_on(flow: &mut Flow) -> bool {
    (0..10_000).any(|_| turn(flow))
}

/// Polls `flow` once; says whether it ended.
fn turn(flow: &mut Flow) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    flow.as_mut().poll(&mut context).is_ready()
}

fn result(code: Code) -> Option<proto::Result> {
    Some(proto::Result {
        code: code.into(),
        msg: String::new(),
    })
}

/// A code that does not exist.
fn strange_result() -> Option<proto::Result> {
    Some(proto::Result {
        code: 99,
        msg: String::new(),
    })
}
