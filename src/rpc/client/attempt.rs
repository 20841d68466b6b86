//! One call: choosing a server, sending, judging what came of it, and doing it again where that is
//! needed and harmless.
//!
//! Owns the rules of repeating. A call is repeated if nothing of it was written, or if repeating it
//! does no harm, within the retry budget and the call's own deadline: at once on another server, or
//! once on the same, and after that with pauses.

use std::{rc::Rc, time::Duration};

use futures_lite::FutureExt;
use prost::Message;
use smallvec::SmallVec;

use super::{Offer, Outcome, Purpose, Remote, Server, balance::Candidate, serial::Permit};
use crate::{
    base::{back_off::BackOff, repeat::Repeat},
    contract::{
        backend::CallError,
        endpoints::Wire,
        methods::{Method, method},
    },
    proto::ReplyStatus,
    rpc::{
        client::instance::{Connectivity, Refused},
        wire::{OutgoingCall, with_arguments},
    },
};

/// The servers a call has been sent to.
type Tried = SmallVec<[Rc<Server>; 4]>;
type Candidates = SmallVec<[Candidate; 8]>;
/// After the loss of a connection over which a call was out that bears no other beside it.
const REST_AFTER_LOSS_MS: u64 = 100;

impl Remote {
    /// The hosts that can take `M` and are not in `avoided`.
    fn eligible<M: Method>(&self, offer: &Offer, avoided: &[Rc<Server>]) -> Candidates {
        let now_ms = self.now_ms.get();
        offer
            .hosts
            .iter()
            .enumerate()
            // Weight 0 means "no new calls" whatever the algorithm.
            .filter(|(_, host)| host.weight > 0 && host.methods.contains::<M>())
            .filter(|(_, host)| host.server.is_eligible(now_ms))
            .filter(|(_, host)| !avoided.iter().any(|other| Rc::ptr_eq(other, &host.server)))
            .map(|(index, host)| Candidate {
                index,
                weight: host.weight,
                outstanding: host.server.outstanding(),
            })
            .collect()
    }

    /// Where `M` goes next.
    fn choose<M: Method>(&self, avoided: &[Rc<Server>]) -> Option<Rc<Server>> {
        let mut services = self.services.borrow_mut();
        let offer = &mut services[M::SERVICE as usize];
        let candidates = self.eligible::<M>(offer, avoided);
        // Where somebody is connected, nobody waits for a connection.
        let up: Candidates = candidates
            .iter()
            .copied()
            .filter(|candidate| {
                offer.hosts[candidate.index].server.connectivity() == Connectivity::Up
            })
            .collect();
        let index = offer
            .balancer
            .choose(&up)
            .or_else(|| offer.balancer.choose(&candidates))?;
        Some(Rc::clone(&offer.hosts[index].server))
    }

    /// Whether somebody else can take `M`.
    fn has_other<M: Method>(&self, tried: &[Rc<Server>]) -> bool {
        let services = self.services.borrow();
        !self
            .eligible::<M>(&services[M::SERVICE as usize], tried)
            .is_empty()
    }

    /// Why there is nobody to call for `M`.
    fn nobody<M: Method>(&self) -> CallError {
        let services = self.services.borrow();
        let hosts = &services[M::SERVICE as usize].hosts;
        let offered = hosts.iter().any(|host| host.methods.contains::<M>());
        if hosts.is_empty() || offered {
            CallError::Unavailable
        } else {
            CallError::Unsupported
        }
    }

    /// Makes the call, on other servers too where that is needed and harmless.
    pub(super) async fn attempts<M: Method>(
        self: &Rc<Self>,
        request: &M::Request,
    ) -> Result<M::Response, CallError> {
        let deadline_ms = self.now_ms.get() + self.options.timeout_ms;
        self.budget.borrow_mut().earn();
        let mut tried = Tried::new();
        let mut retries = 0;
        // As long as the whole call, where it has doubled up to that: there is no time for it then.
        let longest_ms = self.options.timeout_ms.max(self.options.retry_interval_ms);
        let policy = Repeat::new(self.options.retry_interval_ms, longest_ms);
        let mut back_off = BackOff::new(policy, self.random());
        // It may have been done already.
        let mut unsettled = None;
        loop {
            assert_eq!(tried.len(), retries as usize, "each retry has a failure");
            assert!(retries <= self.options.max_retries, "a call has an end");
            let server = match self.choose::<M>(&tried) {
                Some(server) => server,
                // Everybody who can be asked has been: a second time, then.
                None => self.choose::<M>(&[]).ok_or_else(|| self.nobody::<M>())?,
            };
            if let Some(error) = unsettled
                && !idempotent::<M>(server.wire)
            {
                return Err(error);
            }
            if tried
                .iter()
                .filter(|other| Rc::ptr_eq(other, &server))
                .count()
                > 1
            {
                self.pause(&mut back_off, deadline_ms).await?;
            }
            let failure = match self.attempt::<M>(&server, request, deadline_ms).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            let may_repeat = failure.harmless || idempotent::<M>(server.wire);
            tried.push(server);
            let again = match failure.again {
                Again::Never => false,
                Again::Elsewhere => self.has_other::<M>(&tried),
                Again::Anywhere => true,
            };
            if !again
                || !may_repeat
                || retries >= self.options.max_retries
                || !self.budget.borrow_mut().spend()
            {
                return Err(failure.error);
            }
            if !failure.harmless {
                unsettled = Some(failure.error);
            }
            retries += 1;
            self.metrics.backend_retries_total.inc();
        }
    }

    /// Before the same server is asked a third time and more: a pause that doubles, as long as
    /// there is time.
    async fn pause(&self, back_off: &mut BackOff, deadline_ms: u64) -> Result<(), CallError> {
        let length_ms = back_off.next_ms();
        if self.now_ms.get() + length_ms >= deadline_ms {
            return Err(CallError::Unavailable);
        }
        (self.dependencies.pause)(Duration::from_millis(length_ms)).await;
        Ok(())
    }

    async fn attempt<M: Method>(
        self: &Rc<Self>,
        server: &Rc<Server>,
        request: &M::Request,
        deadline_ms: u64,
    ) -> Result<M::Response, Failure> {
        let mut permit = match server.wire {
            Wire::Classic => self.permit::<M>(deadline_ms).await?,
            Wire::WithIds => None,
        };
        let ticket = self.calls.begin(server.queue_id(), deadline_ms);
        let number = ticket.number();
        let now_ms = self.now_ms.get();
        let sent = with_arguments(request, |args| {
            let call = OutgoingCall {
                number,
                service: M::SERVICE.name(),
                method: M::NAME,
                timeout_ms: u32::try_from(deadline_ms - now_ms.min(deadline_ms)).unwrap_or(0),
                args,
            };
            server.send(&call, &self.calls)
        });
        sent.map_err(Failure::refused)?;
        if let Some(rest) = permit.as_deref_mut() {
            // For the case that this flow does not live to see how it ends.
            rest.rest_until(now_ms + self.rest_after(&Outcome::TimedOut));
        }
        server.breaker.borrow_mut().started(now_ms);
        let _sent = Sent {
            server,
            number,
            remote: self,
        };
        self.metrics.backend_inflight.set(self.calls.len() as u64);
        if server.expects_connection() {
            (self.dependencies.dial)(self, server, Purpose::Further);
        }
        let outcome = ticket.outcome().await;
        if let Some(rest) = permit.as_deref_mut() {
            rest.rest_until(self.now_ms.get() + self.rest_after(&outcome));
        }
        self.judge::<M>(server, outcome)
    }

    /// The permit for `M`, where it takes one, once no other call that needs it is under way.
    async fn permit<M: Method>(&self, deadline_ms: u64) -> Result<Option<Permit<'_>>, Failure> {
        let Some(permit) = self.dependencies.serial.permit_of::<M>() else {
            return Ok(None);
        };
        let pause_until = |time_ms: u64| {
            let length_ms = time_ms.saturating_sub(self.now_ms.get());
            (self.dependencies.pause)(Duration::from_millis(length_ms))
        };
        let granted = async {
            let permit = permit.lock().await;
            pause_until(permit.until_ms()).await;
            Some(permit)
        };
        let too_late = async {
            pause_until(deadline_ms.saturating_sub(self.options.timeout_ms / 2)).await;
            None
        };
        let granted = granted.or(too_late).await;
        granted.map(Some).ok_or(Failure::refused(Refused::Full))
    }

    /// How long no other call of its set may follow one that ended so.
    fn rest_after(&self, outcome: &Outcome) -> u64 {
        match outcome {
            // Whoever worked on it may still do.
            Outcome::TimedOut => self.options.timeout_ms,
            // Whoever worked on it is gone; whom it had asked may take a moment.
            Outcome::Lost => REST_AFTER_LOSS_MS,
            Outcome::Answered { .. } | Outcome::Status(_) | Outcome::NotWritten => 0,
        }
    }

    /// What an attempt came to, for the caller and for the server's reputation.
    fn judge<M: Method>(&self, server: &Server, outcome: Outcome) -> Result<M::Response, Failure> {
        match outcome {
            Outcome::Answered {
                body,
                connection_id,
            } => match M::Response::decode(body.as_slice()) {
                Ok(response) => {
                    server.breaker.borrow_mut().succeeded();
                    Ok(response)
                }
                Err(_) => {
                    server.poison(connection_id);
                    self.count_failure(server);
                    Err(Failure::new(CallError::Internal, Again::Never, false))
                }
            },
            Outcome::Status(status) => {
                server.breaker.borrow_mut().succeeded();
                Err(Failure::of_status(status))
            }
            Outcome::NotWritten => Err(Failure::refused(Refused::Down)),
            // The connection counts the failure.
            Outcome::Lost => Err(Failure::new(CallError::Lost, Again::Anywhere, false)),
            Outcome::TimedOut => {
                self.count_failure(server);
                Err(Failure::new(CallError::Timeout, Again::Never, false))
            }
        }
    }
}

/// Whether `M` may be sent again although it may have been done. A service of the classic wire
/// gives messages numbers of its own, so that it would store them twice.
fn idempotent<M: Method>(wire: Wire) -> bool {
    let stores = [
        method::Send::INDEX,
        method::SendGroup::INDEX,
        method::SendBatch::INDEX,
    ]
    .contains(&M::INDEX);
    M::IDEMPOTENT && !(stores && wire == Wire::Classic)
}

/// A call that a server has taken; ends it there, however it ends.
struct Sent<'a> {
    server: &'a Server,
    number: u64,
    remote: &'a Remote,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.server.ended(self.number);
        self.remote
            .metrics
            .backend_inflight
            .set(self.remote.calls.len() as u64);
    }
}

/// Where another attempt may go better.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Never,
    Elsewhere,
    Anywhere,
}

/// Why an attempt failed, and what that means for another.
struct Failure {
    error: CallError,
    again: Again,
    /// Certainly nothing was done.
    harmless: bool,
}

impl Failure {
    fn new(error: CallError, again: Again, harmless: bool) -> Self {
        Self {
            error,
            again,
            harmless,
        }
    }

    fn refused(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::new(CallError::Overloaded, Again::Elsewhere, true),
            Refused::Down => Self::new(CallError::Unavailable, Again::Anywhere, true),
        }
    }

    fn of_status(status: ReplyStatus) -> Self {
        match status {
            ReplyStatus::ReplyUnknownMethod => {
                Self::new(CallError::Unsupported, Again::Never, true)
            }
            ReplyStatus::ReplyOverloaded => {
                Self::new(CallError::Overloaded, Again::Elsewhere, true)
            }
            ReplyStatus::ReplyOk | ReplyStatus::ReplyBadRequest | ReplyStatus::ReplyInternal => {
                Self::new(CallError::Internal, Again::Never, false)
            }
        }
    }
}
