//! One connection to Redis, whichever end of the bus it serves: login, answers, silence, death.
//!
//! Owns the phase of the connection, its deadlines, and the bytes of a value that is not whole.
//! Pure: its owner brings and takes the bytes, however they travel, and the time comes with each
//! call, in milliseconds of any one clock.
//!
//! ```text
//!   Closed ── open ──▶ Login ── logged in ──▶ Preparing ── prepared ──▶ Idle ── asked ──▶ Waiting
//!                        │                        │                      ▲ ◀── answered ─────┤
//!                        └─ refused, malformed ───┴──────▶ Dead ◀── too late ────────────────┘
//! ```
//!
//! `closed` leads back to `Closed` from everywhere. What a connection needs before it is of use its
//! owner asks for in `Preparing`: subscriptions, or that everybody catches up. A probe is due when
//! `Idle` has lasted; what counts as an answer is the owner's to say.

use redis::Value;

use super::{
    credentials::Credentials,
    resp::{ProtocolError, RespReader},
    target::refusal,
};

/// How long a new connection may take until it is prepared.
pub(super) const LOGIN_TIMEOUT_MS: u64 = 5_000;
/// Silence after which Redis is asked whether it is there.
pub(super) const PROBE_INTERVAL_MS: u64 = 5_000;
/// How long it may take for any one answer.
pub(super) const ANSWER_TIMEOUT_MS: u64 = 5_000;
/// RESP3, in which pushes are told from answers.
const PROTOCOL_VERSION: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Login { until_ms: u64 },
    Preparing { until_ms: u64 },
    Idle { probe_ms: u64 },
    Waiting { until_ms: u64 },
    Dead { was_ready: bool },
}

/// What came over the connection.
#[derive(Debug, PartialEq)]
pub(super) enum Received {
    /// The login was accepted: it is time to prepare.
    LoggedIn,
    /// Anything else.
    Value(Value),
}

/// What is due at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Something is to be asked that Redis answers.
    Probe,
}

/// Why the connection is of no use any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The words of an error are Redis's own, and repeat no argument of ours but the names of
    /// channels.
    #[error("it refused: {0}")]
    Refused(String),
    /// What came is not understood.
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    /// The login took too long.
    #[error("it does not answer")]
    NoLogin,
    /// An answer took too long.
    #[error("no answer for {} s", ANSWER_TIMEOUT_MS / 1000)]
    NoAnswer,
}

/// See the module's description.
pub(super) struct Connection {
    phase: Phase,
    reader: RespReader,
    value_max_bytes: usize,
}

impl Connection {
    /// Closed; values are no longer than `value_max_bytes`.
    pub(super) fn new(value_max_bytes: usize) -> Self {
        Self {
            phase: Phase::Closed,
            reader: RespReader::new(value_max_bytes),
            value_max_bytes,
        }
    }

    /// It is open: appends the login of whoever `credentials` say to `into`.
    pub(super) fn open(
        &mut self,
        credentials: Option<&Credentials>,
        now_ms: u64,
        into: &mut Vec<u8>,
    ) {
        let until_ms = now_ms + LOGIN_TIMEOUT_MS;
        self.enter(Phase::Login { until_ms });
        self.reader = RespReader::new(self.value_max_bytes);
        let mut hello = redis::cmd("HELLO");
        hello.arg(PROTOCOL_VERSION);
        if let Some(credentials) = credentials {
            hello
                .arg("AUTH")
                .arg(&credentials.user)
                .arg(credentials.password.expose());
        }
        hello.write_packed_command(into);
    }

    /// It is closed, by whichever side.
    pub(super) fn closed(&mut self) {
        self.enter(Phase::Closed);
    }

    /// Takes what comes next off the front of `bytes`, which follow those before; `None`: they are
    /// all taken. What comes after the end says nothing.
    ///
    /// # Errors
    /// Why the connection is dead from now on.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Received>, ConnectionError> {
        if matches!(self.phase, Phase::Closed | Phase::Dead { .. }) {
            *bytes = &[];
            return Ok(None);
        }
        let received = self.reader.next(bytes).map_err(ConnectionError::from);
        let received = received.and_then(|value| value.map(|value| self.judge(value)).transpose());
        match &received {
            Ok(None) => assert!(bytes.is_empty(), "what came is taken whole"),
            Ok(Some(_)) => assert!(self.is_open(), "what is dead says nothing"),
            Err(_) => self.die(),
        }
        received
    }

    fn judge(&mut self, value: Value) -> Result<Received, ConnectionError> {
        let Phase::Login { until_ms } = self.phase else {
            return Ok(Received::Value(value));
        };
        match value {
            Value::Map(_) => {
                self.enter(Phase::Preparing { until_ms });
                Ok(Received::LoggedIn)
            }
            Value::ServerError(error) => Err(ConnectionError::Refused(refusal(&error))),
            // Pushes answer nothing.
            Value::Push { .. } => Ok(Received::Value(value)),
            _ => Err(ProtocolError::Unasked.into()),
        }
    }

    /// Whether what its owner needs first is being waited for.
    pub(super) fn is_preparing(&self) -> bool {
        matches!(self.phase, Phase::Preparing { .. })
    }

    /// Whether it is logged in, and of use or about to be.
    pub(super) fn is_logged_in(&self) -> bool {
        self.is_preparing() || self.is_ready()
    }

    /// Whether it is open and not known to be dead.
    pub(super) fn is_open(&self) -> bool {
        self.is_logged_in() || matches!(self.phase, Phase::Login { .. })
    }

    /// Whether it is of use.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Idle { .. } | Phase::Waiting { .. })
    }

    /// Whether it is or was of use since it was opened.
    pub(super) fn was_ready(&self) -> bool {
        self.is_ready() || self.phase == Phase::Dead { was_ready: true }
    }

    /// What the owner needs first is there.
    pub(super) fn prepared(&mut self, now_ms: u64) {
        assert!(self.is_preparing(), "only what is preparing gets prepared");
        let probe_ms = now_ms + PROBE_INTERVAL_MS;
        self.enter(Phase::Idle { probe_ms });
    }

    /// What was asked at `since_ms` is not answered yet.
    pub(super) fn asked(&mut self, since_ms: u64) {
        let until_ms = since_ms + ANSWER_TIMEOUT_MS;
        self.enter(Phase::Waiting { until_ms });
    }

    /// Everything that was asked is answered, the last of it at `at_ms`.
    pub(super) fn answered(&mut self, at_ms: u64) {
        assert!(self.is_ready(), "only what is of use is asked");
        let probe_ms = at_ms + PROBE_INTERVAL_MS;
        self.enter(Phase::Idle { probe_ms });
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn due_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Closed | Phase::Dead { .. } => None,
            Phase::Login { until_ms }
            | Phase::Preparing { until_ms }
            | Phase::Waiting { until_ms } => Some(until_ms),
            Phase::Idle { probe_ms } => Some(probe_ms),
        }
    }

    /// What is due at `now_ms`. A probe counts as asked.
    ///
    /// # Errors
    /// Why the connection is dead from now on.
    pub(super) fn advance(&mut self, now_ms: u64) -> Result<Due, ConnectionError> {
        if self.due_ms().is_none_or(|due_ms| now_ms < due_ms) {
            return Ok(Due::Nothing);
        }
        assert!(self.is_open(), "only what is open has something due");
        if let Phase::Idle { .. } = self.phase {
            self.asked(now_ms);
            return Ok(Due::Probe);
        }
        let was_ready = self.is_ready();
        self.die();
        Err(match was_ready {
            true => ConnectionError::NoAnswer,
            false => ConnectionError::NoLogin,
        })
    }

    fn die(&mut self) {
        let was_ready = self.is_ready();
        self.enter(Phase::Dead { was_ready });
    }

    /// Goes over to `to`, which the drawing above must show.
    fn enter(&mut self, to: Phase) {
        use Phase::{Closed, Dead, Idle, Login, Preparing, Waiting};
        let from = self.phase;
        let is_drawn = match (from, to) {
            (_, Closed) | (Closed, Login { .. }) | (Idle { .. }, Idle { .. }) => true,
            (Login { until_ms: from }, Preparing { until_ms: to }) => from == to,
            (Preparing { .. }, Idle { .. }) | (Idle { .. }, Waiting { .. }) => true,
            (Waiting { .. }, Waiting { .. } | Idle { .. }) => true,
            (Login { .. } | Preparing { .. }, Dead { was_ready }) => !was_ready,
            (Idle { .. } | Waiting { .. }, Dead { was_ready }) => was_ready,
            _ => false,
        };
        assert!(
            is_drawn,
            "a connection to Redis goes from {from:?} to {to:?}"
        );
        self.phase = to;
    }
}

/// What Redis says to a command: it took it, or why not.
///
/// # Errors
/// What answers no command of ours.
pub(super) fn answer(value: Value) -> Result<Result<(), String>, ConnectionError> {
    match value {
        Value::Int(_) | Value::Okay | Value::SimpleString(_) => Ok(Ok(())),
        Value::ServerError(error) => Ok(Err(refusal(&error))),
        _ => Err(ProtocolError::Unasked.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::secret::Secret;

    const HELLO: &[u8] = b"%1\r\n$5\r\nproto\r\n:3\r\n";

    fn opened() -> Connection {
        let mut connection = Connection::new(4096);
        connection.open(None, 1_000, &mut Vec::new());
        connection
    }

    fn received(
        connection: &mut Connection,
        mut bytes: &[u8],
    ) -> Result<Vec<Received>, ConnectionError> {
        let mut all = Vec::new();
        while let Some(received) = connection.next(&mut bytes)? {
            all.push(received);
        }
        assert!(bytes.is_empty());
        Ok(all)
    }

    fn idle_at(now_ms: u64) -> Connection {
        let mut connection = opened();
        assert_eq!(
            received(&mut connection, HELLO),
            Ok(vec![Received::LoggedIn])
        );
        connection.prepared(now_ms);
        connection
    }

    #[test]
    fn what_answers_no_command_is_found_out() {
        assert_eq!(answer(Value::Int(1)), Ok(Ok(())));
        assert_eq!(answer(Value::Okay), Ok(Ok(())));
        let strange = [
            Value::Nil,
            Value::Array(Vec::new()),
            Value::BulkString(Vec::new()),
        ];
        assert!(strange.into_iter().all(|value| answer(value).is_err()));
    }

    #[test]
    fn the_login_comes_first_and_names_who_it_is() {
        let credentials = Credentials {
            user: "gateway".to_owned(),
            password: Secret::new("open sesame".to_owned()),
        };
        let mut bytes = Vec::new();
        Connection::new(4096).open(Some(&credentials), 0, &mut bytes);
        let expected =
            b"*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$7\r\ngateway\r\n$11\r\nopen sesame\r\n";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn it_is_of_use_once_it_is_logged_in_and_prepared() {
        let mut connection = opened();
        assert!(connection.is_open() && !connection.is_logged_in());
        let all = received(&mut connection, &[HELLO, b":1\r\n"].concat());
        assert_eq!(
            all,
            Ok(vec![Received::LoggedIn, Received::Value(Value::Int(1))])
        );
        assert!(connection.is_preparing() && !connection.was_ready());
        connection.prepared(2_000);
        assert!(connection.is_ready() && connection.was_ready());
        connection.closed();
        assert!(!connection.is_open() && !connection.was_ready());
    }

    #[test]
    fn a_login_that_is_refused_or_not_understood_is_the_end() {
        let refused = received(&mut opened(), b"-WRONGPASS invalid password\r\n");
        let refused = refused.expect_err("refused");
        assert_eq!(
            refused.to_string(),
            "it refused: WRONGPASS invalid password"
        );
        for nonsense in [&b"+OK\r\n"[..], b":1\r\n", b"HTTP/1.1 400 Bad Request\r\n"] {
            let mut connection = opened();
            let end = received(&mut connection, nonsense);
            assert!(matches!(end, Err(ConnectionError::Protocol(_))), "{end:?}");
            assert!(!connection.is_open());
            assert_eq!(received(&mut connection, HELLO), Ok(vec![]));
        }
    }

    #[test]
    fn login_and_preparation_have_one_time_limit_together() {
        let until_ms = 1_000 + LOGIN_TIMEOUT_MS;
        for logs_in in [false, true] {
            let mut connection = opened();
            if logs_in {
                received(&mut connection, HELLO).expect("logged in");
            }
            assert_eq!(connection.due_ms(), Some(until_ms));
            assert_eq!(connection.advance(until_ms - 1), Ok(Due::Nothing));
            assert_eq!(connection.advance(until_ms), Err(ConnectionError::NoLogin));
            assert_eq!(connection.advance(until_ms), Ok(Due::Nothing));
            assert!(!connection.is_open() && !connection.was_ready());
        }
    }

    #[test]
    fn silence_is_probed_and_a_probe_without_answer_is_the_end() {
        let mut connection = idle_at(2_000);
        let probe_ms = 2_000 + PROBE_INTERVAL_MS;
        assert_eq!(connection.advance(probe_ms - 1), Ok(Due::Nothing));
        assert_eq!(connection.advance(probe_ms), Ok(Due::Probe));
        assert_eq!(connection.advance(probe_ms), Ok(Due::Nothing));
        connection.answered(probe_ms + 1);
        let probe_ms = probe_ms + 1 + PROBE_INTERVAL_MS;
        assert_eq!(connection.advance(probe_ms), Ok(Due::Probe));
        let until_ms = probe_ms + ANSWER_TIMEOUT_MS;
        assert_eq!(connection.due_ms(), Some(until_ms));
        assert_eq!(connection.advance(until_ms), Err(ConnectionError::NoAnswer));
        assert!(!connection.is_ready() && connection.was_ready());
        assert_eq!(connection.due_ms(), None);
    }

    #[test]
    fn whatever_is_asked_is_as_good_as_a_probe() {
        let mut connection = idle_at(2_000);
        connection.asked(3_000);
        assert_eq!(connection.due_ms(), Some(3_000 + ANSWER_TIMEOUT_MS));
        connection.asked(4_000);
        assert_eq!(connection.due_ms(), Some(4_000 + ANSWER_TIMEOUT_MS));
        connection.answered(4_500);
        assert_eq!(connection.due_ms(), Some(4_500 + PROBE_INTERVAL_MS));
    }

    #[test]
    #[should_panic(expected = "only what is of use is asked")]
    fn what_is_not_prepared_is_not_answered() {
        opened().answered(2_000);
    }

    #[test]
    #[should_panic(expected = "a connection to Redis goes from Login")]
    fn what_is_open_is_not_opened_again() {
        opened().open(None, 2_000, &mut Vec::new());
    }
}
