//! One client's session: what it may do now, and what it is owed.
//!
//! Owns the state of one connection above its bytes: phase, dialect, device, who confirms, rate,
//! bad lines. Never does I/O and never knows a clock. Commands that answer at once are in `shard`,
//! those that ask a service in `flow::commands`, and what a core does unasked in
//! `flow::background`.
//!
//! `phase` draws its life, from the connection to the end, and takes no step that is not drawn.
//!
//! Invariants: one command at a time waits for a backend (`busy`); a session gets pushes only once
//! its login is answered, and those that come before wait until then.

pub mod cost;
pub mod job;
pub mod outbox;
mod phase;
pub mod pipeline;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

pub use self::phase::PastLogin;
use self::phase::{Phase, Step};
use crate::{
    base::{
        close::CloseReason,
        id::{GroupId, MessageId, SessionId, Stream, UserId},
        mutation::{Mutation, is_seeded},
    },
    limits::{BadLines, TokenBucket},
    proto::PushMessage,
    protocol::command::{AckMode, Dialect},
    session::{job::Identity, pipeline::FailedBehind},
};

/// What a session has once its user is known.
#[derive(Debug)]
pub struct Login {
    /// The user.
    pub user: UserId,
    /// The number of this connection's session.
    pub session_id: SessionId,
    /// The session that it belongs to, as clients know it.
    pub login_session: LoginSession,
    /// When the login was made by password, in ms since the process began; `None`: by a token.
    pub password_given_ms: Option<u64>,
    /// The user's name, where it is known.
    pub name: String,
    /// Direct messages up to this number came before the login: they wait for `pull`.
    pub baseline: u64,
    /// Pushes that came before the login was answered.
    pub early: Vec<Arc<PushMessage>>,
    /// How much those take together that the bus brought, in bytes.
    pub early_bytes: usize,
    /// Not all that came before the login was answered could be kept: the rest is fetched then.
    pub early_missed: bool,
    /// The groups whose messages this session gets.
    pub groups: Vec<GroupId>,
    /// What the bus brought of groups joined and left while a command was under way: newer than
    /// what the service answered that command, unless it asked again.
    pub membership_news: Vec<(GroupId, Membership)>,
    /// What was pulled before it could be pushed, since the bus had lost it: it is not pushed
    /// again. `None`: nothing.
    pub pulled_ahead: Option<Box<BTreeMap<(Stream, u64), MessageId>>>,
    /// The unacknowledged window; with `ack=auto` only while something held back is being sent.
    pub window: Option<Box<Window>>,
}

/// The session that a connection belongs to, as clients know it and as services can end it: that of
/// the login by password which made its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginSession {
    /// Its number: that of the first connection it had.
    pub id: SessionId,
    /// The user's epoch in which it began, by the count of the User Service; `None`: it does not
    /// count.
    pub epoch: Option<u64>,
    /// When the token was issued that the login was by, or the password given, in ms since 1970.
    pub issued_ms: u64,
}

/// One of a user's sessions on a core, as routes are bound for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSession {
    /// The number of its connection's session.
    pub session_id: SessionId,
    /// The session that it belongs to.
    pub login_session: LoginSession,
    /// The device.
    pub device: String,
}

/// Numbers in [`Login::pulled_ahead`] at most; a client that has pulled more is pushed the first of
/// them again.
const PULLED_AHEAD: usize = 10_000;

impl Login {
    /// The login of `user`, as the session `session_id` that belongs to `login_session`.
    pub fn new(
        user: UserId,
        name: String,
        session_id: SessionId,
        login_session: LoginSession,
    ) -> Self {
        Self {
            user,
            session_id,
            login_session,
            password_given_ms: None,
            name,
            baseline: 0,
            early: Vec::new(),
            early_bytes: 0,
            early_missed: false,
            groups: Vec::new(),
            membership_news: Vec::new(),
            pulled_ahead: None,
            window: None,
        }
    }

    /// Who asks by this session.
    pub fn identity(&self) -> Identity {
        Identity {
            user: self.user,
            session_id: self.session_id,
            login_session: self.login_session,
        }
    }

    /// The streams whose messages this session gets: its user's inbox and its groups.
    pub fn streams(&self) -> impl Iterator<Item = Stream> {
        let groups = self.groups.iter().copied().map(Stream::Group);
        std::iter::once(Stream::Direct(self.user)).chain(groups)
    }

    /// Message `id`, number `seq` of `stream`, was pulled, and its turn to be pushed comes later.
    pub fn pulled_ahead_of_push(&mut self, stream: Stream, seq: u64, id: MessageId) {
        let ahead = self.pulled_ahead.get_or_insert_default();
        ahead.insert((stream, seq), id);
        if ahead.len() > PULLED_AHEAD {
            ahead.pop_first();
        }
    }

    /// Whether message `id`, number `seq` of `stream`, whose turn it is to be pushed, was pulled
    /// before. Those before it will have no turn any more, whatever became of theirs, and are
    /// forgotten.
    pub fn was_pulled_ahead(&mut self, stream: Stream, seq: u64, id: MessageId) -> bool {
        let Some(ahead) = &mut self.pulled_ahead else {
            return false;
        };
        let place = (stream, seq);
        let was = ahead.get(&place) == Some(&id) && !is_seeded(Mutation::PulledIsPushedAgain);
        if was {
            ahead.remove(&place);
        }
        while let Some((past, _)) = ahead.range((stream, 0)..place).next() {
            let past = *past;
            ahead.remove(&past);
        }
        if ahead.is_empty() {
            self.pulled_ahead = None;
        }
        was
    }
}

/// Whether a user is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// The user joined.
    Joined,
    /// The user left.
    Left,
}

/// The unacknowledged window of a session: what it was sent and has not confirmed.
#[derive(Debug, Default)]
pub struct Window {
    /// Sent and not confirmed by the client.
    pub unconfirmed: HashSet<MessageId>,
    /// Pulled before they were pushed: they are not pushed any more.
    pub pulled: HashSet<MessageId>,
    /// The limit was reached: pushes are held back in the store until the client confirms some.
    pub throttled: bool,
    /// A task is fetching what was held back.
    pub catching_up: bool,
    /// The last number sent of each stream.
    pub last_sent: HashMap<Stream, u64>,
    /// Of a stream that went back: up to which number messages may have been sent before.
    pub repeats_to: HashMap<Stream, u64>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The address.
    pub ip: IpAddr,
    /// The port: with the address it is what the logs of proxies and firewalls know.
    pub port: u16,
    /// Limits by address and rate do not apply to it.
    pub exempt: bool,
    /// A proxy of HTTP comes for it, and may come for another one with the next request.
    pub is_forwarded: bool,
}

impl Peer {
    /// Address and port, for the log.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

/// The device name until the client sets one.
pub const DEFAULT_DEVICE: &str = "cli";

/// One client's session.
#[derive(Debug)]
pub struct Session {
    /// Who is at the other end.
    pub peer: Peer,
    phase: Phase,
    /// The dialect of the last line that showed one.
    pub dialect: Dialect,
    /// Who confirms deliveries.
    pub ack_mode: AckMode,
    /// The device name; `None`: [`DEFAULT_DEVICE`].
    pub device: Option<Box<str>>,
    /// Commands it may still send.
    pub bucket: TokenBucket,
    /// Since when it has been over its rate without a break, in ms; 0: it is not.
    pub throttled_since_ms: u64,
    /// Lines that made no sense lately.
    pub bad_lines: BadLines,
    /// A command of it waits for a backend.
    pub busy: bool,
    /// What was read before a send failed, if not all of that is handled.
    pub failed_behind: Option<Box<FailedBehind>>,
    /// The client has closed its sending side.
    pub input_ended: bool,
    /// When its client last gave a sign of life: something was read, or its TCP acknowledged a
    /// push.
    pub alive_ms: u64,
    /// When it was told that it is about to be closed for its silence; `None`: there was a sign of
    /// life since.
    pub idle_notice_ms: Option<u64>,
    /// By when it must have logged in; for an ended one, by when it must be gone.
    pub deadline_ms: u64,
}

impl Session {
    /// A session that has just begun.
    pub fn new(peer: Peer, bucket: TokenBucket, now_ms: u64, login_timeout_ms: u64) -> Self {
        Self {
            peer,
            phase: Phase::default(),
            dialect: Dialect::Colon,
            ack_mode: AckMode::Auto,
            device: None,
            bucket,
            throttled_since_ms: 0,
            bad_lines: BadLines::default(),
            busy: false,
            failed_behind: None,
            input_ended: false,
            alive_ms: now_ms,
            idle_notice_ms: None,
            deadline_ms: now_ms + login_timeout_ms,
        }
    }

    /// The client gave a sign of life.
    pub fn alive(&mut self, now_ms: u64) {
        self.alive_ms = now_ms;
        self.idle_notice_ms = None;
    }

    /// The login, under way or done.
    pub fn login(&self) -> Option<&Login> {
        match &self.phase {
            Phase::Binding(login) | Phase::LoggedIn(login) => Some(login),
            Phase::Anonymous | Phase::Ended(_) => None,
        }
    }

    /// The login, under way or done.
    pub fn login_mut(&mut self) -> Option<&mut Login> {
        match &mut self.phase {
            Phase::Binding(login) | Phase::LoggedIn(login) => Some(login),
            Phase::Anonymous | Phase::Ended(_) => None,
        }
    }

    /// Whether its login has been answered: pushes may go out.
    pub fn is_logged_in(&self) -> bool {
        matches!(self.phase, Phase::LoggedIn(_))
    }

    /// Why it ended; `None`: it goes on.
    pub fn ended(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Ended(reason) => Some(reason),
            Phase::Anonymous | Phase::Binding(_) | Phase::LoggedIn(_) => None,
        }
    }

    /// It is known who logs in.
    pub fn attach(&mut self, login: Login) {
        self.phase.take(Step::Attach(Box::new(login)));
    }

    /// The login is answered.
    pub fn answer_login(&mut self) {
        self.phase.take(Step::Answer);
    }

    /// The login is over, and another may follow.
    pub fn log_out(&mut self) -> Option<PastLogin> {
        self.phase.take(Step::LogOut)
    }

    /// The session is over for `reason`, and a login that it had.
    pub fn end(&mut self, reason: CloseReason) -> Option<PastLogin> {
        self.phase.take(Step::End(reason))
    }

    /// The login with its device, as routes are bound for it; `None`: nobody is logged in.
    pub fn held(&self) -> Option<HeldSession> {
        let login = self.login()?;
        Some(HeldSession {
            session_id: login.session_id,
            login_session: login.login_session,
            device: self.device().to_owned(),
        })
    }

    /// The device name.
    pub fn device(&self) -> &str {
        self.device.as_deref().unwrap_or(DEFAULT_DEVICE)
    }
}
