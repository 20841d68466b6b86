//! From bytes to answers: has requests cut, asks each what it wants, answers what needs no backend,
//! hands out the rest as jobs.
//!
//! Owns the order of checks a request goes through. Invariant: while a job of a connection is out,
//! none of its requests is looked at, so replies come in the order of the commands.

use smallvec::SmallVec;

use super::{Connection, Shard, ShardOptions};
use crate::{
    base::{
        close::CloseReason,
        id::ConnectionKey,
        mutation::{Mutation, is_seeded},
        secret::Secret,
    },
    protocol::{
        codec::{Codec, Form, Front, Partial},
        command::Verb,
        error_code::ErrorCode,
        reply::Reply,
        request::{BadRequest, HttpReply, ReplyTo, Request, form_of},
        websocket::FrameError,
    },
    session::{
        Login,
        cost::{self, Circumstances},
        job::{Asked, Call, Job},
        pipeline::{FailedBehind, PIPELINE_BYTES},
    },
};

/// What a client may leave before it has logged in, unhandled or unread, in lines of the greatest
/// length.
const LINES_BEFORE_LOGIN: usize = 4;

/// What a frame before login may have at least, in bytes: it may bring a token.
const LOGIN_FRAME_BYTES: usize = 4096;

/// The same in bytes.
pub fn room_before_login(login_line_bytes: usize) -> usize {
    LINES_BEFORE_LOGIN * login_line_bytes
}

/// How it goes on after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// With the next one.
    Next,
    /// It leaves, and what follows waits for its answer.
    Last,
    /// It waits itself.
    NotYet,
}

impl Connection {
    /// What may stop a connection's input from being handled, its rate aside.
    fn takes_input(&self, options: &ShardOptions) -> bool {
        let is_busy = self.session.busy && !is_seeded(Mutation::CommandsOvertake);
        !is_busy && self.session.ended().is_none() && !self.congested(options)
    }

    /// The longest message that it may send, in bytes.
    fn max_message_bytes(&self, options: &ShardOptions) -> usize {
        match (self.session.login(), self.codec) {
            (Some(_), _) => options.max_line_bytes,
            (None, Codec::Line) => options.login_line_bytes,
            (None, Codec::Http | Codec::Events) => options.max_line_bytes,
            (None, Codec::WebSocket(_)) => options
                .login_line_bytes
                .max(LOGIN_FRAME_BYTES.min(options.max_line_bytes)),
        }
    }

    /// How many bytes were read and not handled.
    fn unhandled(&self) -> usize {
        self.input.len() - self.handled
    }

    /// How many of these there may be before reading stops. What follows a command under way is
    /// read on, so that sends leave together as soon as it is answered.
    fn room_for_input(&self, options: &ShardOptions) -> usize {
        match (self.session.busy, self.session.login()) {
            (false, _) => self.codec.room_bytes(options.max_line_bytes),
            (true, Some(_)) => PIPELINE_BYTES,
            (true, None) => 0,
        }
    }

    /// Whether a whole message may wait to be handled.
    fn may_have_message(&self) -> bool {
        self.codec.may_have_message(&self.input[self.handled..])
    }

    pub(super) fn drop_input(&mut self) {
        self.input = Vec::new();
        self.handled = 0;
        self.partial = Partial::default();
        self.page = None;
    }

    /// So much is unsent that nothing should be added by its own commands: pushes need the rest of
    /// the room. Nobody unknown gets to leave more than a few lines in this direction either.
    pub(super) fn congested(&self, options: &ShardOptions) -> bool {
        let room = if self.session.login().is_some() {
            options.outbound_queue_bytes / 2
        } else {
            room_before_login(options.login_line_bytes)
        };
        self.outbox.unsent().len() > room
    }
}

impl Shard {
    /// Whether more should be read from the socket: `false` while too much is unsent, the client is
    /// over its rate, or as much waits to be handled as may.
    pub fn can_read(&self, key: ConnectionKey) -> bool {
        self.connection(key).is_some_and(|connection| {
            connection.session.ended().is_none()
                && !connection.congested(&self.options)
                && connection.session.throttled_since_ms == 0
                && connection.unhandled() < connection.room_for_input(&self.options)
        })
    }

    /// How many bytes one read may bring. Lines behind a command under way are kept, so they are
    /// bounded, and nobody unknown gets to leave many.
    pub fn read_room(&self, key: ConnectionKey) -> usize {
        match self.connection(key) {
            // A head that comes at once is kept in one piece of its size.
            Some(connection) if connection.codec == Codec::Http => connection
                .room_for_input(&self.options)
                .saturating_sub(connection.unhandled()),
            Some(connection) if connection.session.login().is_none() => {
                room_before_login(self.options.login_line_bytes)
            }
            Some(connection) if connection.session.busy => {
                PIPELINE_BYTES.saturating_sub(connection.unhandled())
            }
            _ => usize::MAX,
        }
    }

    /// Takes in what was read. A job that comes back is to be carried out and then given to
    /// [`Shard::complete`].
    pub fn feed(&mut self, key: ConnectionKey, chunk: &[u8]) -> Option<Job> {
        self.metrics
            .transport_received_bytes_total
            .add(chunk.len() as u64);
        let now_ms = self.now_ms();
        let connection = self.connection_mut(key)?;
        connection.session.alive(now_ms);
        if connection.session.ended().is_some() {
            return None;
        }
        if connection.input.is_empty() {
            // The common case: whole lines, handled where they were read to.
            let (consumed, job) = self.handle_messages(key, chunk);
            self.keep_rest(key, &chunk[consumed..]);
            self.check_invariants();
            job
        } else {
            if connection.session.login().is_none() {
                // Nobody unknown gets more than was sent: there may be very many of them.
                connection.input.reserve_exact(chunk.len());
            }
            connection.input.extend_from_slice(chunk);
            self.handle_buffered(key)
        }
    }

    /// The client has closed its sending side: what it sent is still answered, then the connection
    /// is closed.
    pub fn end_of_input(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connection_mut(key) {
            connection.session.input_ended = true;
            if connection.may_have_message() {
                self.resume_later(key);
            }
        }
        self.end_if_answered(key);
        self.check_invariants();
    }

    /// Handles lines that had to wait.
    pub fn resume(&mut self, key: ConnectionKey) -> Option<Job> {
        self.connection(key)?;
        let job = self.handle_buffered(key);
        self.end_if_answered(key);
        self.check_invariants();
        job
    }

    /// Asks for [`Shard::resume`] with the next turn.
    pub fn resume_later(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connection_mut(key)
            && !connection.resumable
        {
            connection.resumable = true;
            self.resumable.push(key);
        }
    }

    /// Answers the job's commands and goes on with the lines behind them; a job that comes back is
    /// the next one.
    pub fn complete(&mut self, job: &Job, replies: &[Reply]) -> Option<Job> {
        job.assert_whole();
        assert_eq!(
            job.commands.len(),
            replies.len(),
            "each command is answered"
        );
        for (command, reply) in job.commands.iter().zip(replies) {
            let error = matches!(reply, Reply::Error { .. });
            self.metrics.command(command.verb, !error);
            self.metrics.command_took(
                command.verb,
                self.now.monotonic_us.saturating_sub(command.started_us),
            );
            self.log_failed_login(job.key, command, reply);
        }
        let could_read = self.can_read(job.key);
        let connection = self.connection_mut(job.key)?;
        assert!(connection.session.busy, "what is answered was under way");
        connection.session.busy = false;
        if let Some(login) = connection.session.login_mut() {
            login.membership_news = Vec::new();
        }
        if connection.session.ended().is_some() {
            return None;
        }
        if job.is_of_sends()
            && let Some(last) = replies.last()
        {
            let read_behind = connection.unhandled();
            connection.session.failed_behind = FailedBehind::of(last, read_behind).map(Box::new);
        }
        for (command, reply) in job.commands.iter().zip(replies) {
            self.reply(job.key.slot, command.tag.as_ref(), &command.to, reply);
            self.connections[job.key.slot as usize].page = None;
            if matches!(reply, Reply::LoggedIn { .. }) {
                self.activate(job.key);
            }
            self.charge(job.key, &command.call, reply);
        }
        let next = self.handle_buffered(job.key);
        if next.is_none() {
            if self.draining {
                self.end(job.key, CloseReason::Shutdown);
            }
            self.end_if_answered(job.key);
        }
        if next.is_none() || !could_read {
            // There may be more in the socket than was read while the job was out.
            self.resume_later(job.key);
        }
        self.check_invariants();
        next
    }

    /// A password or a token that was refused: who watches the log looks for those.
    fn log_failed_login(&mut self, key: ConnectionKey, command: &Asked, reply: &Reply) {
        let verb = command.verb;
        let is_over_http = matches!(command.to, ReplyTo::Http(_));
        let now_ms = self.now_ms();
        if let Reply::Error { code, .. } = reply
            && (matches!(verb, Verb::Login | Verb::Auth) || is_over_http)
            && matches!(code, ErrorCode::AuthFailed | ErrorCode::TokenExpired)
            && let Some(connection) = self.connection(key)
        {
            let peer = connection.session.peer.address();
            self.client_log
                .login_failed(verb.name(), *code, peer, now_ms);
        }
    }

    /// Ends the session of a client that sends no more once it has had all its replies.
    fn end_if_answered(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connection(key)
            && connection.session.input_ended
            && connection.takes_input(&self.options)
            && connection.session.throttled_since_ms == 0
            && !connection.may_have_message()
        {
            // Only the beginning of a line can be left, and its end will not come.
            self.end(key, CloseReason::ClientClosed);
        }
    }

    fn handle_buffered(&mut self, key: ConnectionKey) -> Option<Job> {
        let connection = self.connection_mut(key)?;
        let input = std::mem::take(&mut connection.input);
        let before = std::mem::take(&mut connection.handled);
        let (consumed, job) = self.handle_messages(key, &input[before..]);
        self.put_back(key, input, before + consumed);
        job
    }

    /// Keeps what of `input` is not handled. It is moved only once as much of it is handled as is
    /// left, so that many lines of one connection that each wait for a backend do not cost the
    /// square of their number.
    fn put_back(&mut self, key: ConnectionKey, mut input: Vec<u8>, mut handled: usize) {
        if handled == input.len() {
            return;
        }
        if handled * 2 >= input.len() {
            input.drain(..handled);
            input.shrink_to(input.len() * 2);
            handled = 0;
        }
        if let Some(connection) = self.connection_mut(key)
            && connection.session.ended().is_none()
        {
            connection.input = input;
            connection.handled = handled;
        }
    }

    fn keep_rest(&mut self, key: ConnectionKey, rest: &[u8]) {
        if let Some(connection) = self.connection_mut(key)
            && connection.session.ended().is_none()
        {
            connection.input = rest.to_vec();
        }
    }

    /// Handles the messages of `bytes` until a job comes up or something stops the input; says how
    /// far it came. Sends that follow each other make one job.
    fn handle_messages(&mut self, key: ConnectionKey, bytes: &[u8]) -> (usize, Option<Job>) {
        let mut consumed = 0;
        let (mut commands, mut token) = (SmallVec::new(), None);
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(connection) = self.connections.get_mut(key.slot as usize) {
            if !connection.takes_input(&self.options) {
                break;
            }
            let max_bytes = connection.max_message_bytes(&self.options);
            let (codec, rest) = (connection.codec, &bytes[consumed..]);
            let begun = connection.partial.begun_bytes();
            match codec.front(rest, max_bytes, &mut connection.partial, &mut scratch) {
                Front::Request(request, length) => {
                    let step = self.take_up_request(key, &request, length, &mut commands);
                    let form = form_of(&request);
                    drop(request);
                    match (step, begun) {
                        (Step::NotYet, Some(begun)) => {
                            let partial = &mut self.connections[key.slot as usize].partial;
                            partial.put_back(form, &scratch[..begun]);
                        }
                        (Step::NotYet, None) => {}
                        (Step::Next | Step::Last, _) => consumed += length,
                    }
                    if step != Step::Next {
                        break;
                    }
                }
                Front::Http(head, body, length) => {
                    if !self.within_rate(key) {
                        break;
                    }
                    consumed += length;
                    if let Some((asked, by)) = self.take_up_http(key, &head, body) {
                        (token, _) = (by, commands.push(asked));
                        break;
                    }
                }
                Front::Incomplete => {
                    connection.session.throttled_since_ms = 0;
                    break;
                }
                // What is before it is answered first.
                Front::TooLong | Front::Broken(_) | Front::Close if !commands.is_empty() => break,
                Front::Nothing(length) => {
                    consumed += length;
                    self.message_handled(key, length);
                }
                Front::Ping(payload, length) => {
                    consumed += length;
                    self.pong(key, payload);
                    self.message_handled(key, length);
                }
                refused => {
                    self.refuse_input(key, &refused, max_bytes);
                    consumed = bytes.len();
                    break;
                }
            }
        }
        self.scratch = scratch;
        (consumed, self.job_of(key, commands, token))
    }

    /// Nothing more is read of what came: the peer closes, or sent what it may not.
    fn refuse_input(&mut self, key: ConnectionKey, front: &Front<'_>, max_bytes: usize) {
        match front {
            Front::TooLong => self.refuse_long_message(key, max_bytes),
            Front::Broken(error) => self.refuse_broken_frame(key, *error),
            Front::BadHead(status) => self.refuse_bad_head(key, *status),
            _ => self.end(key, CloseReason::ClientClosed),
        }
    }

    /// Takes up one request, if it may leave together with the `commands` before it.
    fn take_up_request(
        &mut self,
        key: ConnectionKey,
        request: &Result<Request<'_>, BadRequest>,
        length: usize,
        commands: &mut SmallVec<[Asked; 1]>,
    ) -> Step {
        self.settle_form(key, form_of(request));
        if let Ok(Request::Protobuf(request)) = request
            && let Some(login) = self.header_login(key, request, length)
        {
            debug_assert!(commands.is_empty(), "whoever sends is logged in");
            if self.within_rate(key) {
                commands.push(login);
            }
            return Step::NotYet;
        }
        let read = self.read_request(key, request);
        let follows = read.is_send();
        if !commands.is_empty() && !follows || !self.within_rate(key) {
            return Step::NotYet;
        }
        commands.extend(self.take_up(key, read, length));
        if !commands.is_empty() && !follows || commands.len() == self.options.pipeline_limit {
            Step::Last
        } else {
            Step::Next
        }
    }

    /// Where the handshake did not say in which form pushes come, the first request does.
    fn settle_form(&mut self, key: ConnectionKey, form: Form) {
        let connection = &mut self.connections[key.slot as usize];
        if !connection.has_form {
            connection.has_form = true;
            connection.codec = Codec::WebSocket(form);
        }
    }

    /// Has `commands` leave, if there are any: until they are answered, no further line is looked
    /// at.
    fn job_of(
        &mut self,
        key: ConnectionKey,
        commands: SmallVec<[Asked; 1]>,
        token: Option<Secret<String>>,
    ) -> Option<Job> {
        if commands.is_empty() {
            return None;
        }
        let session = &mut self.connections[key.slot as usize].session;
        assert!(!session.busy, "one job of a connection at a time");
        session.busy = true;
        let identity = session.login().map(Login::identity);
        Some(Job {
            key,
            identity,
            token,
            commands,
        })
    }

    fn refuse_long_message(&mut self, key: ConnectionKey, max_bytes: usize) {
        let connection = &mut self.connections[key.slot as usize];
        let what = match connection.codec {
            Codec::WebSocket(_) => {
                connection.broken = Some(FrameError::TooLong);
                "a message"
            }
            Codec::Line | Codec::Http | Codec::Events => "a line",
        };
        let words = format!("{what} may be {max_bytes} bytes long");
        self.refuse_and_end(key, ErrorCode::LineTooLong, words);
    }

    fn refuse_broken_frame(&mut self, key: ConnectionKey, error: FrameError) {
        self.connections[key.slot as usize].broken = Some(error);
        self.refuse_and_end(key, ErrorCode::BadRequest, error.words().to_owned());
    }

    /// What came cannot be answered as a request, and nothing after it can be read.
    fn refuse_and_end(&mut self, key: ConnectionKey, code: ErrorCode, words: String) {
        let to = self.form_of_replies(key);
        self.metrics.protocol_errors_total.inc();
        self.reply(key.slot, None, &to, &Reply::error(code, words));
        self.end(key, CloseReason::Protocol);
    }

    /// What a reply is written for that answers no request.
    pub(super) fn form_of_replies(&self, key: ConnectionKey) -> ReplyTo {
        let connection = &self.connections[key.slot as usize];
        match connection.codec {
            Codec::WebSocket(Form::Json) | Codec::Events => ReplyTo::Json(None),
            Codec::WebSocket(Form::Protobuf) => ReplyTo::Protobuf(Box::default()),
            Codec::Http => ReplyTo::Http(HttpReply::LAST),
            Codec::WebSocket(Form::Line) | Codec::Line => ReplyTo::Line(connection.session.dialect),
        }
    }

    fn pong(&mut self, key: ConnectionKey, payload: &[u8]) {
        let connection = &mut self.connections[key.slot as usize];
        let out = connection.outbox.bytes(&mut self.pool);
        connection.codec.write_pong(payload, out);
        self.mark_dirty(key.slot);
    }

    /// Takes one command from the client's budget. Over it, the client waits; for too long, and it
    /// is closed.
    fn within_rate(&mut self, key: ConnectionKey) -> bool {
        let now_ms = self.now_ms();
        let throttle_timeout_ms = self.options.throttle_timeout_ms;
        let session = &mut self.connections[key.slot as usize].session;
        if session.peer.exempt {
            return true;
        }
        let Err(retry_ms) = session.bucket.try_take(&self.options.command_rate, now_ms) else {
            return true;
        };
        if session.throttled_since_ms == 0 {
            self.metrics.rate_limited_commands_total.inc();
        }
        // Whoever pays for one dear command has not sent too many.
        if session.throttled_since_ms == 0 || session.bucket.is_in_debt() {
            // 0 means "is not", so the first millisecond counts as the second.
            session.throttled_since_ms = now_ms.max(1);
        }
        if now_ms.saturating_sub(session.throttled_since_ms) >= throttle_timeout_ms {
            let reply = Reply::Error {
                code: ErrorCode::RateLimited,
                retry_ms: Some(retry_ms),
                words: "too many commands".into(),
            };
            let to = self.form_of_replies(key);
            self.reply(key.slot, None, &to, &reply);
            self.end(key, CloseReason::RateLimited);
        } else {
            self.throttle(key);
        }
        false
    }

    /// Takes from the client's budget what its command turned out to cost beside its line.
    fn charge(&mut self, key: ConnectionKey, call: &Call, reply: &Reply) {
        let group = match call {
            Call::GroupChat { group, .. } => self.groups.get(group),
            _ => None,
        };
        let listeners = group.map_or(0, |group| group.members.len());
        let rate = self.options.command_rate;
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        let session = &mut connection.session;
        if session.peer.exempt {
            return;
        }
        let circumstances = Circumstances {
            groups: session.login().map_or(0, |login| login.groups.len()),
            listeners,
        };
        let tokens = cost::beyond_its_line(call, reply, circumstances);
        session.bucket.charge(&rate, tokens);
    }

    /// Has the connection go on with the next tick.
    fn throttle(&mut self, key: ConnectionKey) {
        let throttled = &mut self.connections[key.slot as usize].throttled;
        if !std::mem::replace(throttled, true) {
            self.throttled.push(key);
        }
    }
}
