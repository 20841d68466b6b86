//! From bytes to answers: cuts lines, asks each what it wants, answers what needs no backend, hands
//! out the rest as jobs.
//!
//! Owns the order of checks a line goes through. Invariant: while a job of a connection is out,
//! none of its lines is looked at, so replies come in the order of the commands.

use smallvec::SmallVec;

use super::{Connection, Shard, ShardOptions};
use crate::{
    base::{
        close::CloseReason,
        id::ConnectionKey,
        mutation::{Mutation, is_seeded},
    },
    protocol::{
        command::{Verb, trim_blanks},
        error_code::ErrorCode,
        line::{Split, split_line},
        reply::Reply,
    },
    session::{
        cost::{self, Circumstances},
        job::{Asked, Call, Job},
        pipeline::{FailedBehind, PIPELINE_BYTES},
    },
};

/// What a client may leave before it has logged in, unhandled or unread, in lines of the greatest
/// length.
const LINES_BEFORE_LOGIN: usize = 4;

/// The same in bytes.
pub fn room_before_login(login_line_bytes: usize) -> usize {
    LINES_BEFORE_LOGIN * login_line_bytes
}

impl Connection {
    /// What may stop a connection's input from being handled, its rate aside.
    fn takes_input(&self, options: &ShardOptions) -> bool {
        let is_busy = self.session.busy && !is_seeded(Mutation::CommandsOvertake);
        !is_busy && self.session.ended.is_none() && !self.congested(options)
    }

    /// The longest line that it may say, in bytes.
    fn max_line_bytes(&self, options: &ShardOptions) -> usize {
        if self.session.login().is_some() {
            options.max_line_bytes
        } else {
            options.login_line_bytes
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
            (false, _) => options.max_line_bytes,
            (true, Some(_)) => PIPELINE_BYTES,
            (true, None) => 0,
        }
    }

    /// Whether a whole line waits to be handled.
    fn has_line(&self) -> bool {
        memchr::memchr(b'\n', &self.input[self.handled..]).is_some()
    }

    pub(super) fn drop_input(&mut self) {
        self.input = Vec::new();
        self.handled = 0;
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
            connection.session.ended.is_none()
                && !connection.congested(&self.options)
                && connection.session.throttled_since_ms == 0
                && connection.unhandled() < connection.room_for_input(&self.options)
        })
    }

    /// How many bytes one read may bring. Lines behind a command under way are kept, so they are
    /// bounded, and nobody unknown gets to leave many.
    pub fn read_room(&self, key: ConnectionKey) -> usize {
        match self.connection(key) {
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
        if connection.session.ended.is_some() {
            return None;
        }
        if connection.input.is_empty() {
            // The common case: whole lines, handled where they were read to.
            let (consumed, job) = self.handle_lines(key, chunk);
            self.keep_rest(key, &chunk[consumed..]);
            self.check_invariants();
            job
        } else {
            connection.input.extend_from_slice(chunk);
            self.handle_buffered(key)
        }
    }

    /// The client has closed its sending side: what it sent is still answered, then the connection
    /// is closed.
    pub fn end_of_input(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connection_mut(key) {
            connection.session.input_ended = true;
            if connection.has_line() {
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
            self.log_failed_login(job.key, command.verb, reply);
        }
        let could_read = self.can_read(job.key);
        let connection = self.connection_mut(job.key)?;
        connection.session.busy = false;
        if let Some(login) = connection.session.login_mut() {
            login.membership_news = Vec::new();
        }
        if connection.session.ended.is_some() {
            return None;
        }
        if job.is_of_sends()
            && let Some(last) = replies.last()
        {
            let read_behind = connection.unhandled();
            connection.session.failed_behind = FailedBehind::of(last, read_behind).map(Box::new);
        }
        for (command, reply) in job.commands.iter().zip(replies) {
            self.reply(job.key.slot, command.tag.as_ref(), command.dialect, reply);
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
    fn log_failed_login(&mut self, key: ConnectionKey, verb: Verb, reply: &Reply) {
        let now_ms = self.now_ms();
        if let Reply::Error { code, .. } = reply
            && matches!(verb, Verb::Login | Verb::Auth)
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
            && !connection.has_line()
        {
            // Only the beginning of a line can be left, and its end will not come.
            self.end(key, CloseReason::ClientClosed);
        }
    }

    fn handle_buffered(&mut self, key: ConnectionKey) -> Option<Job> {
        let connection = self.connection_mut(key)?;
        let input = std::mem::take(&mut connection.input);
        let before = std::mem::take(&mut connection.handled);
        let (consumed, job) = self.handle_lines(key, &input[before..]);
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
            && connection.session.ended.is_none()
        {
            connection.input = input;
            connection.handled = handled;
        }
    }

    fn keep_rest(&mut self, key: ConnectionKey, rest: &[u8]) {
        if let Some(connection) = self.connection_mut(key)
            && connection.session.ended.is_none()
        {
            connection.input = rest.to_vec();
        }
    }

    /// Handles the lines of `bytes` until a job comes up or something stops the input; says how far
    /// it came. Sends that follow each other make one job.
    fn handle_lines(&mut self, key: ConnectionKey, bytes: &[u8]) -> (usize, Option<Job>) {
        let mut consumed = 0;
        let mut commands = SmallVec::new();
        while let Some(connection) = self.connections.get_mut(key.slot as usize) {
            if !connection.takes_input(&self.options) {
                break;
            }
            let max_line_bytes = connection.max_line_bytes(&self.options);
            let (line, length) = match split_line(&bytes[consumed..], max_line_bytes) {
                Split::Line { text, consumed } => (text, consumed),
                Split::Incomplete => {
                    connection.session.throttled_since_ms = 0;
                    break;
                }
                Split::TooLong if !commands.is_empty() => break,
                Split::TooLong => {
                    self.refuse_long_line(key, max_line_bytes);
                    consumed = bytes.len();
                    break;
                }
            };
            if !trim_blanks(line).is_empty() {
                let line = self.read_line(key, line);
                let follows = line.is_send();
                if !commands.is_empty() && !follows || !self.within_rate(key) {
                    break;
                }
                commands.extend(self.take_up(key, line, length));
                if !commands.is_empty() && !follows || commands.len() == self.options.pipeline_limit
                {
                    consumed += length;
                    break;
                }
            } else {
                self.line_handled(key, length);
            }
            consumed += length;
        }
        (consumed, self.job_of(key, commands))
    }

    /// Has `commands` leave, if there are any: until they are answered, no further line is looked
    /// at.
    fn job_of(&mut self, key: ConnectionKey, commands: SmallVec<[Asked; 1]>) -> Option<Job> {
        if commands.is_empty() {
            return None;
        }
        let session = &mut self.connections[key.slot as usize].session;
        assert!(!session.busy, "one job of a connection at a time");
        session.busy = true;
        let login = session.login();
        Some(Job {
            key,
            user: login.map_or(0, |login| login.user),
            session_id: login.map_or(0, |login| login.session_id),
            commands,
        })
    }

    fn refuse_long_line(&mut self, key: ConnectionKey, max_line_bytes: usize) {
        let dialect = self.connections[key.slot as usize].session.dialect;
        let words = format!("a line may be {max_line_bytes} bytes long");
        let reply = Reply::error(ErrorCode::LineTooLong, words);
        self.metrics.protocol_errors_total.inc();
        self.reply(key.slot, None, dialect, &reply);
        self.end(key, CloseReason::Protocol);
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
            let dialect = session.dialect;
            let reply = Reply::Error {
                code: ErrorCode::RateLimited,
                retry_ms: Some(retry_ms),
                words: "too many commands".into(),
            };
            self.reply(key.slot, None, dialect, &reply);
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
