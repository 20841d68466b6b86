//! One connection of a gateway, without its socket: bytes to calls, answers to bytes.
//!
//! Owns what is under way and the order of classic replies. Pure: bytes, answers and the time come
//! in, calls and bytes go out.
//!
//! Invariants: every call that is taken is answered once, or by the rules of mprpc never; nothing
//! is taken past a limit, so what a connection can hold is known beforehand.

use std::{mem, sync::Arc};

use prost::Message;
use slab::Slab;

use crate::{
    base::{receive_buffer::ReceiveBuffer, send_buffer::SendBuffer},
    contract::methods::{BadCall, Request, Response, Service},
    metrics::{
        self,
        server::{CallOutcome, Called},
    },
    proto::{Code, PingRequest, PingResponse, ReplyStatus, Result as ServiceResult},
    rpc::wire::{ReceivedCall, ReplyTo, Responder, WireError},
};

/// What one connection may have under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The longest arguments of a call; longer ones end the connection.
    pub(super) args_bytes: usize,
    /// Calls under way; past it no further call is taken.
    pub(super) calls: usize,
    /// The arguments of all calls under way together; past it no further call is taken.
    pub(super) calls_bytes: usize,
    /// Replies that the peer has not read; past it no further call is taken.
    pub(super) unsent_bytes: usize,
    /// The same together with a page for each call under way that may bring one; past it no further
    /// call is taken.
    pub(super) replies_bytes: usize,
    /// How long a page is.
    pub(super) page_bytes: usize,
}

/// The services that a process offers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Offer([bool; Service::ALL.len()]);

impl Offer {
    /// Of these services.
    pub(super) fn of(services: &[Service]) -> Self {
        let mut offer = Self::default();
        for service in services {
            offer.0[*service as usize] = true;
        }
        offer
    }

    fn has(self, service: Service) -> bool {
        self.0[service as usize]
    }
}

/// A call that could not be answered as it should, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadCallReport {
    /// What was wrong with it.
    pub(super) problem: BadCall,
    /// The service's name, as the caller wrote it.
    pub(super) service: String,
    /// The method's name, as the caller wrote it.
    pub(super) method: String,
}

/// See the module's description.
pub(super) struct Connection {
    offer: Offer,
    limits: Limits,
    metrics: Arc<metrics::Server>,
    input: ReceiveBuffer,
    /// The last call was left where it is for want of room.
    is_paused: bool,
    /// The last bytes were the beginning of a call.
    is_mid_call: bool,
    /// Calls that came whole.
    calls_taken: u64,
    is_stopping: bool,
    calls: Slab<PendingCall>,
    args_bytes: usize,
    /// Calls under way that may bring a page.
    pages: usize,
    wire: Responder,
    output: SendBuffer,
    bad_call: Option<BadCallReport>,
}

/// A call that the services have.
struct PendingCall {
    reply_to: ReplyTo,
    service: Service,
    args_bytes: usize,
    /// Whether the answer may be a page.
    is_page: bool,
}

/// What a call turned out to ask.
enum ParsedCall {
    Ping(PingResponse),
    Service(Service, Request),
}

impl Connection {
    /// A new connection on which nothing has come.
    pub(super) fn new(offer: Offer, limits: Limits, metrics: Arc<metrics::Server>) -> Self {
        Self {
            offer,
            limits,
            metrics,
            input: ReceiveBuffer::default(),
            is_paused: false,
            is_mid_call: false,
            calls_taken: 0,
            is_stopping: false,
            calls: Slab::new(),
            args_bytes: 0,
            pages: 0,
            wire: Responder::default(),
            output: SendBuffer::default(),
            bad_call: None,
        }
    }

    /// Takes bytes that came at `unix_ms`, after those before; none: goes on with what had no room.
    /// Hands each call to `submit` with a number for [`complete`](Self::complete) and the
    /// milliseconds that its caller waits, 0 where it does not say; `submit` gives back what the
    /// services have no room for.
    ///
    /// # Errors
    /// Bytes that are no call: the connection is of no use any more.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        unix_ms: i64,
        submit: &mut impl FnMut(u64, Request, u32) -> Result<(), Request>,
    ) -> Result<(), WireError> {
        self.is_paused = false;
        self.is_mid_call = false;
        let mut input = mem::take(&mut self.input);
        let outcome = input.feed(bytes, |rest| {
            if rest.is_empty() {
                return Ok(None);
            }
            if !self.has_room() {
                self.is_paused = true;
                return Ok(None);
            }
            let Some((call, taken)) = self.wire.read(rest, self.limits.args_bytes)? else {
                self.is_mid_call = true;
                return Ok(None);
            };
            assert!(
                call.args.len() <= self.limits.args_bytes,
                "longer ones end the connection"
            );
            self.calls_taken += 1;
            self.call(&call, unix_ms, submit);
            Ok(Some(taken))
        });
        self.input = input;
        self.check();
        outcome
    }

    /// Takes the answer to the call numbered `number`.
    pub(super) fn complete(&mut self, number: u64, response: &Response) {
        let known = usize::try_from(number).ok();
        let Some(call) = known.and_then(|key| self.calls.try_remove(key)) else {
            debug_assert!(false, "an answer that nobody waits for");
            return;
        };
        assert!(
            self.args_bytes >= call.args_bytes,
            "its arguments were counted"
        );
        assert!(
            self.pages >= usize::from(call.is_page),
            "its page was counted"
        );
        self.args_bytes -= call.args_bytes;
        self.pages -= usize::from(call.is_page);
        self.metrics
            .call(Called::Service(call.service), CallOutcome::Answered);
        self.reply(call.reply_to, response.encoded_len(), |output| {
            response.encode(output);
        });
    }

    /// No further call is taken from now on.
    pub(super) fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// Whether bytes may be read.
    pub(super) fn wants_input(&self) -> bool {
        !self.is_paused && self.has_room()
    }

    /// Whether calls wait here for which there is room now: [`receive`](Self::receive) without
    /// bytes takes them.
    pub(super) fn can_go_on(&self) -> bool {
        self.is_paused && self.has_room()
    }

    /// Whether the rest of a call is awaited.
    pub(super) fn is_mid_call(&self) -> bool {
        self.is_mid_call
    }

    /// How many calls came whole: while it stays the same, a call that is awaited is the same one.
    pub(super) fn calls_taken(&self) -> u64 {
        self.calls_taken
    }

    /// The bytes of a call that is not whole yet.
    pub(super) fn half_sent_bytes(&self) -> usize {
        if self.is_mid_call {
            self.input.len()
        } else {
            0
        }
    }

    /// Whether all that was taken is answered and has left.
    pub(super) fn is_done(&self) -> bool {
        self.calls.is_empty() && self.output.is_empty()
    }

    /// The bytes that are to leave next.
    pub(super) fn output(&self) -> &[u8] {
        self.output.unsent()
    }

    /// So many bytes of [`output`](Self::output) have left.
    pub(super) fn consume(&mut self, count: usize) {
        self.output.consume(count);
    }

    /// What there is to complain of since the last time.
    pub(super) fn take_bad_call(&mut self) -> Option<BadCallReport> {
        self.bad_call.take()
    }

    /// What is counted is what is under way, and within the limits but for the last call's share.
    fn check(&self) {
        assert!(self.calls.len() <= self.limits.calls);
        assert!(self.args_bytes <= self.limits.calls_bytes + self.limits.args_bytes);
        assert!(self.pages <= self.calls.len());
        assert!(
            !(self.is_paused && self.is_mid_call),
            "what has no room is not looked at"
        );
        let calls = || self.calls.iter().map(|(_, call)| call);
        debug_assert_eq!(
            self.args_bytes,
            calls().map(|call| call.args_bytes).sum::<usize>()
        );
        debug_assert_eq!(self.pages, calls().filter(|call| call.is_page).count());
    }

    fn has_room(&self) -> bool {
        let unsent = self.output.len() + self.wire.held_bytes();
        !self.is_stopping
            && self.calls.len().max(self.wire.places()) < self.limits.calls
            && self.args_bytes < self.limits.calls_bytes
            && unsent < self.limits.unsent_bytes
            && unsent + self.pages * self.limits.page_bytes < self.limits.replies_bytes
    }

    fn call(
        &mut self,
        call: &ReceivedCall<'_>,
        unix_ms: i64,
        submit: &mut impl FnMut(u64, Request, u32) -> Result<(), Request>,
    ) {
        let called = called(call.service());
        match self.understand(called, call, unix_ms) {
            Ok(ParsedCall::Ping(pong)) => {
                let reply_to = self.wire.accept(call);
                self.metrics.call(called, CallOutcome::Answered);
                self.reply(reply_to, pong.encoded_len(), |output| {
                    pong.encode_raw(output)
                });
            }
            Ok(ParsedCall::Service(service, request)) => {
                let reply_to = self.wire.accept(call);
                let is_page = may_bring_a_page(&request);
                let entry = self.calls.vacant_entry();
                match submit(entry.key() as u64, request, call.timeout_ms()) {
                    Ok(()) => {
                        entry.insert(PendingCall {
                            reply_to,
                            service,
                            args_bytes: call.args.len(),
                            is_page,
                        });
                        self.pages += usize::from(is_page);
                        self.args_bytes += call.args.len();
                    }
                    Err(request) => self.overloaded(reply_to, called, &request),
                }
            }
            Err(problem) => self.refuse(called, call, problem),
        }
    }

    fn understand(
        &self,
        called: Called,
        call: &ReceivedCall<'_>,
        unix_ms: i64,
    ) -> Result<ParsedCall, BadCall> {
        let method = std::str::from_utf8(call.method()).map_err(|_| BadCall::UnknownMethod)?;
        match called {
            Called::Service(service) if self.offer.has(service) => {
                Request::decode(service, method, call.args)
                    .map(|request| ParsedCall::Service(service, request))
            }
            Called::Health if method == "Ping" => {
                let ping = PingRequest::decode(call.args).map_err(|_| BadCall::Malformed)?;
                Ok(ParsedCall::Ping(PingResponse {
                    echo: ping.payload,
                    ts_server_ms: unix_ms,
                }))
            }
            Called::Service(_) | Called::Health | Called::Unknown => Err(BadCall::UnknownMethod),
        }
    }

    fn reply(&mut self, to: ReplyTo, len: usize, encode: impl FnOnce(&mut Vec<u8>)) {
        self.wire.reply(to, len, encode, self.output.end());
    }

    /// Nothing was done.
    fn overloaded(&mut self, to: ReplyTo, called: Called, request: &Request) {
        self.metrics.call(called, CallOutcome::Overloaded);
        if Responder::overloaded(to, self.output.end()) {
            return;
        }
        let response = request.failed(ServiceResult {
            code: Code::Unavailable.into(),
            msg: "too many calls are waiting, try again".to_owned(),
        });
        self.reply(to, response.encoded_len(), |output| response.encode(output));
    }

    fn refuse(&mut self, called: Called, call: &ReceivedCall<'_>, problem: BadCall) {
        let (outcome, status) = match problem {
            BadCall::UnknownMethod => (CallOutcome::UnknownMethod, ReplyStatus::ReplyUnknownMethod),
            BadCall::Malformed => (CallOutcome::BadRequest, ReplyStatus::ReplyBadRequest),
        };
        self.metrics.call(called, outcome);
        Responder::refuse(call, status, self.output.end());
        let shown = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        self.bad_call.get_or_insert_with(|| BadCallReport {
            problem,
            service: shown(call.service()),
            method: shown(call.method()),
        });
    }
}

/// Whether the answer can be much longer than the question.
fn may_bring_a_page(request: &Request) -> bool {
    matches!(
        request,
        Request::PullOffline(_) | Request::PullGroup(_) | Request::GetGroupMembers(_)
    )
}

fn called(name: &[u8]) -> Called {
    if name == b"HealthService" {
        return Called::Health;
    }
    Service::ALL
        .into_iter()
        .find(|service| service.name().as_bytes() == name)
        .map_or(Called::Unknown, Called::Service)
}
