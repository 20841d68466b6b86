//! The ways a connection ends: one closed set, the same word in metric, log and wire.
//!
//! A connection that is closed with something unread, or that is sent something afterwards, is
//! reset, and a reset may take the last lines back. So everyone closes in the same way: first all
//! bytes leave, then our side is shut, and what still comes is discarded, until the peer has closed
//! too or [`LINGER_MS`] have passed.

/// How long a connection that has ended may take to read its last lines.
pub const LINGER_MS: u64 = 2_000;

/// Why a connection ended. Every connection ends for exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client closed its side and has had all its replies.
    ClientClosed,
    /// The client said `quit`.
    Quit,
    /// The connection was reset or broke.
    ConnectionLost,
    /// A newer login with the same device name, or past `max_devices`.
    Replaced,
    /// Nothing was read for `connection_timeout`.
    Idle,
    /// No login within `login_timeout`.
    AuthTimeout,
    /// More than `outbound_queue_bytes` of pushes unread.
    SlowConsumer,
    /// A line too long, or `protocol_error_limit` bad lines.
    Protocol,
    /// Over `commands_per_second` for longer than `throttle_timeout`.
    RateLimited,
    /// Its session was ended from another connection, and its tokens with it.
    Revoked,
    /// Closed by an operator.
    Admin,
    /// The gateway is going down.
    Shutdown,
    /// A bug of ours: serving this connection panicked.
    Internal,
}

impl CloseReason {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 13] = [
        Self::ClientClosed,
        Self::Quit,
        Self::ConnectionLost,
        Self::Replaced,
        Self::Idle,
        Self::AuthTimeout,
        Self::SlowConsumer,
        Self::Protocol,
        Self::RateLimited,
        Self::Revoked,
        Self::Admin,
        Self::Shutdown,
        Self::Internal,
    ];

    /// The word used as metric label, as log field and, where there is one, as KICK reason.
    pub fn word(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::Quit => "quit",
            Self::ConnectionLost => "connection_lost",
            Self::Replaced => "replaced",
            Self::Idle => "idle",
            Self::AuthTimeout => "auth_timeout",
            Self::SlowConsumer => "slow_consumer",
            Self::Protocol => "protocol",
            Self::RateLimited => "rate_limited",
            Self::Revoked => "revoked",
            Self::Admin => "admin",
            Self::Shutdown => "shutdown",
            Self::Internal => "internal",
        }
    }

    /// The word of the `KICK reason=` line the client gets before the close; `None`: it gets none.
    pub fn kick_word(self) -> Option<&'static str> {
        match self {
            Self::ClientClosed | Self::Quit | Self::ConnectionLost | Self::Internal => None,
            other => Some(other.word()),
        }
    }
}

/// Why a connection was closed before its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Misfit {
    /// It came past the proxies to a listener that is theirs alone.
    UntrustedProxy,
    /// A proxy did not say for whom it comes, or not in the form there is for it.
    MalformedProxy,
    /// A proxy did not say so in time.
    LateProxy,
    /// It is what its listener does not carry.
    Carrier,
    /// It came without TLS to a listener that takes nothing else.
    Plain,
    /// Its TLS handshake failed.
    Handshake,
    /// Its TLS handshake was not over in time.
    LateHandshake,
    /// It did not begin in time.
    Late,
    /// Its client gave it up.
    Lost,
    /// The gateway is going down.
    Shutdown,
}

impl Misfit {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 10] = [
        Self::UntrustedProxy,
        Self::MalformedProxy,
        Self::LateProxy,
        Self::Carrier,
        Self::Plain,
        Self::Handshake,
        Self::LateHandshake,
        Self::Late,
        Self::Lost,
        Self::Shutdown,
    ];

    /// The word used as metric label and as log field.
    pub fn word(self) -> &'static str {
        match self {
            Self::UntrustedProxy => "untrusted_proxy",
            Self::MalformedProxy => "malformed_proxy",
            Self::LateProxy => "late_proxy",
            Self::Carrier => "carrier",
            Self::Plain => "plain",
            Self::Handshake => "handshake",
            Self::LateHandshake => "late_handshake",
            Self::Late => "late",
            Self::Lost => "lost",
            Self::Shutdown => "shutdown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_told_why_is_told_the_word_that_is_counted() {
        let told: Vec<&str> = CloseReason::ALL
            .into_iter()
            .filter_map(|reason| {
                let word = reason.kick_word()?;
                assert_eq!(word, reason.word());
                Some(word)
            })
            .collect();
        for word in [
            "replaced",
            "revoked",
            "idle",
            "auth_timeout",
            "slow_consumer",
            "protocol",
            "rate_limited",
            "admin",
            "shutdown",
        ] {
            assert!(told.contains(&word), "{word}");
        }
    }
}
