//! The services of this very process as a [`Backend`]: calls go to their queue, answers come by the core's inbox.

use std::{
    cell::RefCell,
    future::poll_fn,
    sync::Arc,
    task::{Poll, Waker},
};

use slab::Slab;

use super::{Backend, CallError, Method, Response};
use crate::{
    handoff::{event::CoreEvent, inbox::Inbox},
    metrics,
    service::{Call, ReplySink, ServiceClient},
};

/// Brings answers home to the core that asked.
pub struct CoreReplies(pub Arc<Inbox<CoreEvent>>);

impl ReplySink for CoreReplies {
    fn complete(&self, replies: Vec<(u64, Response)>) {
        self.0.push_all(
            replies
                .into_iter()
                .map(|(call_id, response)| CoreEvent::Reply { call_id, response }),
        );
    }
}

/// One core's way to the embedded services.
pub struct Embedded {
    client: ServiceClient,
    replies: Arc<dyn ReplySink>,
    metrics: Arc<metrics::Core>,
    timeout_ms: u64,
    calls: RefCell<Calls>,
}

#[derive(Default)]
struct Calls {
    /// Calls under way. A call's number is its slot and, above it, a generation, so that a late answer finds nothing.
    waiting: Slab<Waiting>,
    generation: u32,
    now_ms: u64,
}

struct Waiting {
    generation: u32,
    deadline_ms: u64,
    waker: Option<Waker>,
    outcome: Option<Result<Response, CallError>>,
}

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
            calls: RefCell::default(),
        }
    }

    fn finish(&self, call_id: u64, outcome: Result<Response, CallError>) {
        let waker = {
            let mut calls = self.calls.borrow_mut();
            let Some(call) = calls.waiting.get_mut(slot(call_id)) else {
                return;
            };
            if call.generation != generation(call_id) || call.outcome.is_some() {
                return;
            }
            call.outcome = Some(outcome);
            call.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

fn number(slot: usize, generation: u32) -> u64 {
    u64::from(generation) << 32 | slot as u64
}

fn slot(call_id: u64) -> usize {
    call_id as u32 as usize
}

fn generation(call_id: u64) -> u32 {
    (call_id >> 32) as u32
}

impl Backend for Embedded {
    async fn call<M: Method>(&self, request: M::Request) -> Result<M::Response, CallError> {
        let pending = Pending::register(self);
        let call = Call {
            request: request.into(),
            call_id: pending.call_id,
            sink: Arc::clone(&self.replies),
        };
        let outcome = match self.client.submit(call) {
            Ok(()) => pending.outcome().await,
            Err(_) => Err(CallError::Overloaded),
        };
        let outcome = outcome
            .and_then(|response| M::Response::try_from(response).map_err(|()| CallError::Internal));
        if let Err(error) = &outcome {
            self.metrics.backend_failed(M::SERVICE, *error);
        }
        outcome
    }

    fn complete(&self, call_id: u64, response: Response) {
        self.finish(call_id, Ok(response));
    }

    fn advance(&self, now_ms: u64) {
        let overdue: Vec<u64> = {
            let mut calls = self.calls.borrow_mut();
            calls.now_ms = now_ms;
            calls
                .waiting
                .iter()
                .filter(|(_, call)| call.deadline_ms <= now_ms)
                .map(|(slot, call)| number(slot, call.generation))
                .collect()
        };
        for call_id in overdue {
            self.finish(call_id, Err(CallError::Timeout));
        }
    }
}

/// A call under way; dropping it (a cancelled command) frees its slot.
struct Pending<'a> {
    backend: &'a Embedded,
    call_id: u64,
}

impl<'a> Pending<'a> {
    fn register(backend: &'a Embedded) -> Self {
        let mut calls = backend.calls.borrow_mut();
        calls.generation = calls.generation.wrapping_add(1);
        let generation = calls.generation;
        let deadline_ms = calls.now_ms + backend.timeout_ms;
        let slot = calls.waiting.insert(Waiting {
            generation,
            deadline_ms,
            waker: None,
            outcome: None,
        });
        backend
            .metrics
            .backend_inflight
            .set(calls.waiting.len() as u64);
        Self {
            backend,
            call_id: number(slot, generation),
        }
    }

    async fn outcome(&self) -> Result<Response, CallError> {
        poll_fn(|context| {
            let mut calls = self.backend.calls.borrow_mut();
            let Some(call) = calls.waiting.get_mut(slot(self.call_id)) else {
                return Poll::Ready(Err(CallError::Internal));
            };
            match call.outcome.take() {
                Some(outcome) => Poll::Ready(outcome),
                None => {
                    call.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut calls = self.backend.calls.borrow_mut();
        calls.waiting.try_remove(slot(self.call_id));
        self.backend
            .metrics
            .backend_inflight
            .set(calls.waiting.len() as u64);
    }
}
