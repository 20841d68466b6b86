//! From bytes to answers: cuts lines, asks each what it wants, answers what needs no backend, hands out the rest as jobs.
//!
//! Owns the order of checks a line goes through. Invariant: while a job of a connection is out, none of its lines is
//! looked at, so replies come in the order of the commands.

use std::borrow::Cow;

use super::{Connection, Shard, ShardOptions};
use crate::{
    base::{close::CloseReason, id::ConnectionKey},
    limits::Patience,
    protocol::{
        command::{AckMode, Command, Dialect, Verb, parse_arguments_for, parse_line, trim_blanks},
        error_code::ErrorCode,
        line::{Split, split_line},
        reply::Reply,
    },
    session::{
        cost::{self, Circumstances},
        job::{Call, Job},
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
        !self.session.busy && self.session.ended.is_none() && !self.congested(options)
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
    /// Whether more should be read from the socket: `false` while a job is out, too much is unsent, the client is over
    /// its rate, or lines wait.
    pub fn can_read(&self, key: ConnectionKey) -> bool {
        self.connection(key).is_some_and(|connection| {
            connection.takes_input(&self.options)
                && connection.session.throttled_since_ms == 0
                && connection.input.len() - connection.handled < self.options.max_line_bytes
        })
    }

    /// How many bytes one read may bring. Lines behind a command under way are kept, so nobody unknown gets to leave many.
    pub fn read_room(&self, key: ConnectionKey) -> usize {
        let known = self
            .connection(key)
            .is_none_or(|connection| connection.session.login().is_some());
        if known {
            usize::MAX
        } else {
            room_before_login(self.options.login_line_bytes)
        }
    }

    /// Takes in what was read. A job that comes back is to be carried out and then given to [`Shard::complete`].
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

    /// The client has closed its sending side: what it sent is still answered, then the connection is closed.
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

    /// Answers the job's command and goes on with the lines behind it; a job that comes back is the next one.
    pub fn complete(&mut self, job: &Job, reply: &Reply) -> Option<Job> {
        let error = matches!(reply, Reply::Error { .. });
        self.metrics.command(job.verb, !error);
        self.metrics.command_took(
            job.verb,
            self.now.monotonic_us.saturating_sub(job.started_us),
        );
        self.log_failed_login(job, reply);
        let connection = self.connection_mut(job.key)?;
        connection.session.busy = false;
        if let Some(login) = connection.session.login_mut() {
            login.membership_news = Vec::new();
        }
        if connection.session.ended.is_some() {
            return None;
        }
        self.reply(job.key.slot, job.tag.as_ref(), job.dialect, reply);
        if matches!(reply, Reply::LoggedIn { .. }) {
            self.activate(job.key);
        }
        self.charge(job, reply);
        let next = self.handle_buffered(job.key);
        if next.is_none() {
            if self.draining {
                self.end(job.key, CloseReason::Shutdown);
            }
            self.end_if_answered(job.key);
            // There may be more in the socket than was read while the job was out.
            self.resume_later(job.key);
        }
        self.check_invariants();
        next
    }

    /// A password or a token that was refused: who watches the log looks for those.
    fn log_failed_login(&mut self, job: &Job, reply: &Reply) {
        let now_ms = self.now_ms();
        if let Reply::Error { code, .. } = reply
            && matches!(job.verb, Verb::Login | Verb::Auth)
            && matches!(code, ErrorCode::AuthFailed | ErrorCode::TokenExpired)
            && let Some(connection) = self.connection(job.key)
        {
            let peer = connection.session.peer.address();
            self.client_log
                .login_failed(job.verb.name(), *code, peer, now_ms);
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

    /// Keeps what of `input` is not handled. It is moved only once as much of it is handled as is left, so that many
    /// lines of one connection that each wait for a backend do not cost the square of their number.
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

    /// Handles the lines of `bytes` until a job comes up or something stops the input; says how far it came.
    fn handle_lines(&mut self, key: ConnectionKey, bytes: &[u8]) -> (usize, Option<Job>) {
        let mut consumed = 0;
        loop {
            let Some(connection) = self.connections.get_mut(key.slot as usize) else {
                return (consumed, None);
            };
            if !connection.takes_input(&self.options) {
                return (consumed, None);
            }
            let max_line_bytes = if connection.session.login().is_some() {
                self.options.max_line_bytes
            } else {
                self.options.login_line_bytes
            };
            let (line, length) = match split_line(&bytes[consumed..], max_line_bytes) {
                Split::Line { text, consumed } => (text, consumed),
                Split::Incomplete => {
                    connection.session.throttled_since_ms = 0;
                    return (consumed, None);
                }
                Split::TooLong => {
                    let dialect = connection.session.dialect;
                    let words = format!("a line may be {max_line_bytes} bytes long");
                    let reply = Reply::error(ErrorCode::LineTooLong, words);
                    self.metrics.protocol_errors_total.inc();
                    self.reply(key.slot, None, dialect, &reply);
                    self.end(key, CloseReason::Protocol);
                    return (bytes.len(), None);
                }
            };
            if !trim_blanks(line).is_empty() {
                if !self.within_rate(key) {
                    return (consumed, None);
                }
                if let Some(job) = self.handle_line(key, line) {
                    return (consumed + length, Some(job));
                }
            }
            consumed += length;
        }
    }

    /// Takes one command from the client's budget. Over it, the client waits; for too long, and it is closed.
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
    fn charge(&mut self, job: &Job, reply: &Reply) {
        let group = match job.call {
            Call::GroupChat { group, .. } => self.groups.get(&group),
            _ => None,
        };
        let listeners = group.map_or(0, |group| group.members.len());
        let rate = self.options.command_rate;
        let Some(connection) = self.connection_mut(job.key) else {
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
        let tokens = cost::beyond_its_line(&job.call, reply, circumstances);
        session.bucket.charge(&rate, tokens);
    }

    /// Has the connection go on with the next tick.
    fn throttle(&mut self, key: ConnectionKey) {
        let throttled = &mut self.connections[key.slot as usize].throttled;
        if !std::mem::replace(throttled, true) {
            self.throttled.push(key);
        }
    }

    /// One line: tag, command word, permission, arguments, in this order.
    fn handle_line(&mut self, key: ConnectionKey, line: &[u8]) -> Option<Job> {
        let slot = key.slot;
        let session = &mut self.connections[slot as usize].session;
        let line = match parse_line(line) {
            Ok(line) => line,
            Err(bad) => {
                let dialect = session.dialect;
                let patience = session.bad_lines.note(
                    self.now.monotonic_us / 1000,
                    self.options.protocol_error_limit,
                );
                self.metrics.protocol_errors_total.inc();
                let words = match patience {
                    Patience::Short(left) => with_warning(&bad.words, left),
                    Patience::Ample | Patience::Over => bad.words,
                };
                self.reply(
                    slot,
                    bad.tag.as_ref(),
                    dialect,
                    &Reply::error(bad.code, words),
                );
                if patience == Patience::Over {
                    self.end(key, CloseReason::Protocol);
                }
                return None;
            }
        };
        let dialect = line.answer_dialect(session.dialect);
        session.dialect = line.spoken_dialect(session.dialect);
        let permitted = if self.draining {
            Err((
                ErrorCode::ShuttingDown,
                Cow::from("the gateway is going down"),
            ))
        } else {
            permission(line.verb, dialect, session.login().is_some())
                .map_err(|(code, words)| (code, Cow::from(words)))
        };
        let command = permitted.and_then(|()| {
            parse_arguments_for(&line, dialect, self.options.judge)
                .map_err(|bad| (ErrorCode::BadArgument, bad.0))
        });
        let reply = match command.map(Call::of) {
            Ok(Ok(call)) => {
                session.busy = true;
                let login = session.login();
                return Some(Job {
                    key,
                    tag: line.tag,
                    dialect,
                    verb: line.verb,
                    call,
                    user: login.map_or(0, |login| login.user),
                    session_id: login.map_or(0, |login| login.session_id),
                    started_us: self.now.monotonic_us,
                });
            }
            Ok(Err(command)) => self.answer(key, command),
            Err((code, words)) => Reply::error(code, words),
        };
        self.metrics
            .command(line.verb, !matches!(reply, Reply::Error { .. }));
        self.reply(key.slot, line.tag.as_ref(), dialect, &reply);
        if reply == Reply::Bye {
            self.end(key, CloseReason::Quit);
        }
        None
    }

    /// Commands that the gateway answers alone.
    fn answer(&mut self, key: ConnectionKey, command: Command<'_>) -> Reply {
        let session = &mut self.connections[key.slot as usize].session;
        match command {
            Command::Ping { text } => Reply::Pong(text.map(str::to_owned)),
            Command::Help(None) => Reply::Commands,
            Command::Help(Some(verb)) => Reply::Form(verb),
            Command::Quit => Reply::Bye,
            Command::SetAck(mode) => {
                self.set_ack_mode(key, mode);
                Reply::AckMode(mode)
            }
            Command::SetDevice(_) if session.login().is_some() => Reply::error(
                ErrorCode::AlreadyLoggedIn,
                "set the device before logging in",
            ),
            Command::SetDevice(name) => {
                session.device = Some(name.into());
                Reply::Device(name.to_owned())
            }
            #[cfg(feature = "test-hooks")]
            Command::Panic => panic!("a client asked for it"),
            // All others are calls: `Call::of` took them.
            _ => Reply::error(ErrorCode::Internal, "not served here"),
        }
    }

    fn set_ack_mode(&mut self, key: ConnectionKey, mode: AckMode) {
        self.connections[key.slot as usize].session.ack_mode = mode;
        match mode {
            AckMode::Manual => self.begin_account(key),
            // What was held back while the client confirmed too little goes out now.
            AckMode::Auto => self.catch_up_if_behind(key),
        }
    }
}

/// The words about a bad line, when the connection bears few more.
fn with_warning(words: &str, left: u32) -> Cow<'static, str> {
    let lines = if left == 1 { "line ends" } else { "lines end" };
    format!("{words} ({left} more bad {lines} this connection)").into()
}

/// Whether a session may use `verb` now.
fn permission(
    verb: Verb,
    dialect: Dialect,
    logged_in: bool,
) -> Result<(), (ErrorCode, &'static str)> {
    match verb {
        // MPIM's tools make one account after the other on one connection.
        Verb::Register if dialect == Dialect::Space => Ok(()),
        Verb::Register | Verb::Login | Verb::Auth if logged_in => Err((
            ErrorCode::AlreadyLoggedIn,
            "log out first to log in as somebody else",
        )),
        _ if logged_in || verb.allowed_before_login() => Ok(()),
        _ => Err((ErrorCode::NotLoggedIn, "log in first")),
    }
}
