//! The services of this very process as a [`Backend`]: calls go to their queue, answers come by the
//! core's inbox.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    base::pending_calls::Calls,
    contract::{
        backend::{Backend, BackendEvent, CallError},
        methods::{Method, Request, Response},
    },
    handoff::{event::CoreEvent, inbox::Inbox},
    metrics,
    service::{Call, ReplySink, ServiceClient},
};

/// Brings answers home to the core that asked.
pub struct CoreReplies(pub Arc<Inbox<CoreEvent>>);

impl ReplySink for CoreReplies {
    fn complete(&self, replies: Vec<(u64, Response)>) {
        self.0
            .push_all(replies.into_iter().map(|(call_id, response)| {
                CoreEvent::Backend(BackendEvent::Reply { call_id, response })
            }));
    }
}

/// One core's way to the embedded services.
pub struct Embedded {
    client: ServiceClient,
    replies: Arc<dyn ReplySink>,
    metrics: Arc<metrics::Core>,
    timeout_ms: u64,
    calls: Calls<Result<Response, CallError>>,
    now_ms: Cell<u64>,
}

/// All calls go by the same queue.
const ONE_WAY: u64 = 0;

impl Embedded {
    /// Calls wait at most `timeout_ms` for their answer.
    pub fn new(
        client: ServiceClient,
        replies: Arc<dyn ReplySink>,
        metrics: Arc<metrics::Core>,
        timeout_ms: u64,
    ) -> Self {
        Self {
            client,
            replies,
            metrics,
            timeout_ms,
            calls: Calls::default(),
            now_ms: Cell::default(),
        }
    }

    /// When `request` need not be begun any more. A password that nobody waits for is not worth its
    /// hash, and an account nobody was told of is a trap; anything else, such as the end of a
    /// route, is to be done though the caller has gone.
    fn deadline_of(&self, request: &Request) -> Option<Instant> {
        match request {
            Request::Login(_) | Request::Register(_) => {
                Instant::now().checked_add(Duration::from_millis(self.timeout_ms))
            }
            _ => None,
        }
    }

    fn count_calls(&self) {
        self.metrics.backend_inflight.set(self.calls.len() as u64);
    }
}

impl Backend for Embedded {
    async fn call<M: Method>(&self, request: M::Request) -> Result<M::Response, CallError> {
        let deadline_ms = self.now_ms.get() + self.timeout_ms;
        let ticket = self.calls.begin(ONE_WAY, deadline_ms);
        self.count_calls();
        let request = request.into();
        let call = Call {
            deadline: self.deadline_of(&request),
            request,
            call_id: ticket.number(),
            sink: Arc::clone(&self.replies),
        };
        let outcome = match self.client.submit(call) {
            Ok(()) => ticket.outcome().await,
            Err(_) => {
                drop(ticket);
                Err(CallError::Overloaded)
            }
        };
        self.count_calls();
        let outcome = outcome
            .and_then(|response| M::Response::try_from(response).map_err(|()| CallError::Internal));
        if let Err(error) = &outcome {
            self.metrics.backend_failed(M::SERVICE, *error);
        }
        outcome
    }

    fn on_event(&self, event: BackendEvent) {
        match event {
            BackendEvent::Reply { call_id, response } => {
                self.calls.finish(call_id, ONE_WAY, Ok(response));
            }
            // The services are where they are.
            BackendEvent::Endpoints(_) => {}
        }
    }

    fn advance(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
    }

    fn expire_calls(&self, now_us: u64) {
        self.now_ms.set(now_us.div_ceil(1000));
        self.calls.expire(now_us / 1000, || Err(CallError::Timeout));
    }

    fn next_deadline_ms(&self) -> Option<u64> {
        self.calls.next_deadline_ms()
    }

    fn pushes_in_doubt(&self) -> bool {
        // The bus tells by itself what it dropped.
        false
    }
}
