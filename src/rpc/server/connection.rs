//! One connection of a gateway, without its socket: bytes to calls, answers to bytes.
//!
//! Owns what is under way and the order of classic replies. Pure: bytes, answers and the time come in, calls and bytes go out.
//!
//! Invariants: every call that is taken is answered once, or by the rules of mprpc never; nothing is taken past a limit, so
//! what a connection can hold is known beforehand.

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
    proto::{Code, PingRequest, PingResponse, ReplyStatus, Result as ServiceResult, RpcHeader},
    rpc::{
        server::reply_order::ReplyOrder,
        wire::mprpc::{CallFrame, FramingError, read_call, write_reply_header},
    },
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
    /// The same together with a page for each call under way that may bring one; past it no further call is taken.
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
    reply_order: ReplyOrder,
    output: SendBuffer,
    bad_call: Option<BadCallReport>,
}

/// A call that the services have.
struct PendingCall {
    form: Form,
    service: Service,
    args_bytes: usize,
    /// Whether the answer may be a page.
    is_page: bool,
}

/// How a call wants to be answered.
#[derive(Clone, Copy)]
enum Form {
    /// By its id.
    WithId(u64),
    /// In its place among the classic replies.
    Classic(u64),
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
            reply_order: ReplyOrder::default(),
            output: SendBuffer::default(),
            bad_call: None,
        }
    }

    /// Takes bytes that came at `unix_ms`, after those before; none: goes on with what had no room. Hands each call to
    /// `submit` with a number for [`complete`](Self::complete) and the milliseconds that its caller waits, 0 where it does not
    /// say; `submit` gives back what the services have no room for.
    ///
    /// # Errors
    /// Bytes that are no call: the connection is of no use any more.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        unix_ms: i64,
        submit: &mut impl FnMut(u64, Request, u32) -> Result<(), Request>,
    ) -> Result<(), FramingError> {
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
            let Some((call, taken)) = read_call(rest, self.limits.args_bytes)? else {
                self.is_mid_call = true;
                return Ok(None);
            };
            self.calls_taken += 1;
            self.call(&call, unix_ms, submit);
            Ok(Some(taken))
        });
        self.input = input;
        outcome
    }

    /// Takes the answer to the call numbered `number`.
    pub(super) fn complete(&mut self, number: u64, response: &Response) {
        let known = usize::try_from(number).ok();
        let Some(call) = known.and_then(|key| self.calls.try_remove(key)) else {
            debug_assert!(false, "an answer that nobody waits for");
            return;
        };
        self.args_bytes -= call.args_bytes;
        self.pages -= usize::from(call.is_page);
        self.metrics
            .call(Called::Service(call.service), CallOutcome::Answered);
        self.reply(call.form, response.encoded_len(), |output| {
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

    /// Whether calls wait here for which there is room now: [`receive`](Self::receive) without bytes takes them.
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

    fn has_room(&self) -> bool {
        let unsent = self.output.len() + self.reply_order.held_bytes();
        !self.is_stopping
            && self.calls.len().max(self.reply_order.len()) < self.limits.calls
            && self.args_bytes < self.limits.calls_bytes
            && unsent < self.limits.unsent_bytes
            && unsent + self.pages * self.limits.page_bytes < self.limits.replies_bytes
    }

    fn call(
        &mut self,
        call: &CallFrame<'_>,
        unix_ms: i64,
        submit: &mut impl FnMut(u64, Request, u32) -> Result<(), Request>,
    ) {
        let called = called(&call.header.service_name);
        match self.understand(called, call, unix_ms) {
            Ok(ParsedCall::Ping(pong)) => {
                let form = self.form(call.header.call_id);
                self.metrics.call(called, CallOutcome::Answered);
                self.reply(form, pong.encoded_len(), |output| pong.encode_raw(output));
            }
            Ok(ParsedCall::Service(service, request)) => {
                let form = self.form(call.header.call_id);
                let is_page = may_bring_a_page(&request);
                let entry = self.calls.vacant_entry();
                match submit(entry.key() as u64, request, call.header.timeout_ms) {
                    Ok(()) => {
                        entry.insert(PendingCall {
                            form,
                            service,
                            args_bytes: call.args.len(),
                            is_page,
                        });
                        self.pages += usize::from(is_page);
                        self.args_bytes += call.args.len();
                    }
                    Err(request) => self.overloaded(form, called, &request),
                }
            }
            Err(problem) => self.refuse(called, &call.header, problem),
        }
    }

    fn understand(
        &self,
        called: Called,
        call: &CallFrame<'_>,
        unix_ms: i64,
    ) -> Result<ParsedCall, BadCall> {
        let method =
            std::str::from_utf8(&call.header.method_name).map_err(|_| BadCall::UnknownMethod)?;
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

    /// How a call with this id is answered. A classic one takes the next place, so this is asked only for what will be answered.
    fn form(&mut self, call_id: u64) -> Form {
        match call_id {
            0 => Form::Classic(self.reply_order.take()),
            id => Form::WithId(id),
        }
    }

    fn reply(&mut self, form: Form, len: usize, encode: impl FnOnce(&mut Vec<u8>)) {
        match form {
            Form::WithId(id) => {
                write_reply_header(id, ReplyStatus::ReplyOk, len, self.output.end());
                encode(self.output.end());
            }
            Form::Classic(position) => {
                self.reply_order
                    .answer(position, len, encode, self.output.end())
            }
        }
    }

    /// Nothing was done. A classic reply has no place for that but the service's own result.
    fn overloaded(&mut self, form: Form, called: Called, request: &Request) {
        self.metrics.call(called, CallOutcome::Overloaded);
        match form {
            Form::WithId(id) => {
                write_reply_header(id, ReplyStatus::ReplyOverloaded, 0, self.output.end());
            }
            Form::Classic(_) => {
                let response = request.failed(ServiceResult {
                    code: Code::Unavailable.into(),
                    msg: "too many calls are waiting, try again".to_owned(),
                });
                self.reply(form, response.encoded_len(), |output| {
                    response.encode(output);
                });
            }
        }
    }

    /// A classic call that is not understood is never answered, as MPIM has it: its caller gives the connection up.
    fn refuse(&mut self, called: Called, header: &RpcHeader, problem: BadCall) {
        let (outcome, status) = match problem {
            BadCall::UnknownMethod => (CallOutcome::UnknownMethod, ReplyStatus::ReplyUnknownMethod),
            BadCall::Malformed => (CallOutcome::BadRequest, ReplyStatus::ReplyBadRequest),
        };
        self.metrics.call(called, outcome);
        if header.call_id != 0 {
            write_reply_header(header.call_id, status, 0, self.output.end());
        }
        let shown = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        self.bad_call.get_or_insert_with(|| BadCallReport {
            problem,
            service: shown(&header.service_name),
            method: shown(&header.method_name),
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
