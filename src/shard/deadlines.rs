//! What happens when nothing happens: login and idle time-outs, over-rate clients, ended
//! connections that linger.
//!
//! A client that gives no sign of life is told so before it is closed, in time to say something.

use super::{Shard, TICK_MS};
use crate::{
    base::{close::CloseReason, id::ConnectionKey},
    protocol::{codec::Codec, push::Push},
    session::Session,
};

/// So long before it is closed a silent client is told, or half of its time if that is less.
const IDLE_NOTICE_MS: u64 = 30_000;

/// What a due connection is due for.
enum Due {
    /// Nothing yet; look again then.
    Later(u64),
    /// To be told that it has been silent for long.
    IdleNotice,
    /// To be asked for a sign of life.
    Ping,
    /// To be ended.
    End(CloseReason),
    /// It has ended and had its time.
    Gone,
}

impl Shard {
    /// Looks at everything that is due. To be called every [`super::TICK_MS`].
    pub fn tick(&mut self) {
        let now_ms = self.now_ms();
        let silence = Silence {
            connection_timeout_ms: self.options.connection_timeout_ms,
            ping_interval_ms: self.options.ping_interval_ms,
            ping_timeout_ms: self.options.ping_timeout_ms,
        };
        let (connections, expired) = (&mut self.connections, &mut self.expired);
        let (mut ending, mut silent, mut pinged) = (Vec::new(), Vec::new(), Vec::new());
        self.wheel.advance(now_ms, |key| {
            let connection = connections
                .get_mut(key.slot as usize)
                .filter(|connection| connection.generation == key.generation)?;
            if now_ms < connection.armed_ms {
                // It was armed anew, for an earlier time, and that entry has come up already.
                return None;
            }
            let is_pinged = matches!(connection.codec, Codec::WebSocket(_) | Codec::Events);
            match due(&connection.session, is_pinged, now_ms, silence) {
                Due::Later(due_ms) => {
                    connection.armed_ms = due_ms;
                    return Some(due_ms);
                }
                Due::IdleNotice => {
                    connection.session.idle_notice_ms = Some(now_ms);
                    silent.push(key);
                    connection.armed_ms = now_ms + TICK_MS;
                    return Some(connection.armed_ms);
                }
                Due::Ping => {
                    connection.session.idle_notice_ms = Some(now_ms);
                    pinged.push(key);
                    connection.armed_ms = now_ms + TICK_MS;
                    return Some(connection.armed_ms);
                }
                Due::End(reason) => ending.push((key, reason)),
                Due::Gone => expired.push(key),
            }
            connection.armed_ms = u64::MAX;
            None
        });
        for (key, reason) in ending {
            self.end(key, reason);
        }
        for key in silent {
            self.notice_silence(key);
        }
        for key in pinged {
            let connection = &mut self.connections[key.slot as usize];
            connection
                .codec
                .write_ping(connection.outbox.bytes(&mut self.pool));
            if connection.codec == Codec::Events {
                // It cannot answer: whether it is there, the kernel finds out.
                connection.session.alive(now_ms);
            }
            self.mark_dirty(key.slot);
        }
        for key in std::mem::take(&mut self.throttled) {
            if let Some(connection) = self.connection_mut(key) {
                connection.throttled = false;
                self.resume_later(key);
            }
        }
        self.ask_again();
        self.continue_resync();
        self.check_invariants();
    }

    /// That its TCP acknowledges the notice is no sign of life: it would do so for ever.
    fn notice_silence(&mut self, key: ConnectionKey) {
        let seconds = idle_notice_time_ms(self.options.connection_timeout_ms).div_ceil(1000);
        let text = format!("say something within {seconds} s, an empty line will do");
        let notice = Push::Notice {
            kind: "idle",
            text: &text,
        };
        self.say(key.slot, &notice);
    }
}

/// The time between the notice and the end: never so short that both come together.
fn idle_notice_time_ms(connection_timeout_ms: u64) -> u64 {
    (connection_timeout_ms / 2).clamp(TICK_MS, IDLE_NOTICE_MS)
}

/// How long a client may be silent.
#[derive(Clone, Copy)]
struct Silence {
    connection_timeout_ms: u64,
    ping_interval_ms: u64,
    ping_timeout_ms: u64,
}

/// What a session is due for. One that `is_pinged` is not told of its silence: its program answers
/// pings, nobody has to say anything.
fn due(session: &Session, is_pinged: bool, now_ms: u64, silence: Silence) -> Due {
    if session.ended().is_some() {
        return if now_ms >= session.deadline_ms {
            Due::Gone
        } else {
            Due::Later(session.deadline_ms)
        };
    }
    let is_anonymous = session.login().is_none();
    if is_anonymous && now_ms >= session.deadline_ms {
        return Due::End(CloseReason::AuthTimeout);
    }
    if is_pinged {
        let pinged_ms = session.idle_notice_ms.unwrap_or(session.alive_ms);
        let ping_ms = pinged_ms + silence.ping_interval_ms;
        let end_ms = session.alive_ms + silence.ping_timeout_ms;
        let login_ms = if is_anonymous {
            session.deadline_ms
        } else {
            u64::MAX
        };
        return match now_ms {
            _ if now_ms >= end_ms => Due::End(CloseReason::Idle),
            _ if now_ms >= ping_ms => Due::Ping,
            _ => Due::Later(ping_ms.min(end_ms).min(login_ms)),
        };
    }
    let notice_time_ms = idle_notice_time_ms(silence.connection_timeout_ms);
    let idle_ms = match session.idle_notice_ms {
        None => session.alive_ms + silence.connection_timeout_ms.saturating_sub(notice_time_ms),
        Some(notice_ms) => notice_ms + notice_time_ms,
    };
    if now_ms < idle_ms {
        Due::Later(if is_anonymous {
            idle_ms.min(session.deadline_ms)
        } else {
            idle_ms
        })
    } else if session.idle_notice_ms.is_none() {
        Due::IdleNotice
    } else {
        Due::End(CloseReason::Idle)
    }
}
