//! What happens when nothing happens: log-in and idle time-outs, over-rate clients, ended connections that linger.

use super::Shard;
use crate::{close::CloseReason, session::Session};

/// What a due connection is due for.
enum Due {
    /// Nothing yet; look again then.
    Later(u64),
    /// To be ended.
    End(CloseReason),
    /// It has ended and had its time.
    Gone,
}

impl Shard {
    /// Looks at everything that is due. To be called every [`super::TICK_MS`].
    pub fn tick(&mut self) {
        let now_ms = self.now_ms();
        let connection_timeout_ms = self.options.connection_timeout_ms;
        let (connections, expired) = (&mut self.connections, &mut self.expired);
        let mut ending = Vec::new();
        self.wheel.advance(now_ms, |key| {
            let connection = connections
                .get_mut(key.slot as usize)
                .filter(|connection| connection.generation == key.generation)?;
            if now_ms < connection.armed_ms {
                // It was armed anew, for an earlier time, and that entry has come up already.
                return None;
            }
            match due(&connection.session, now_ms, connection_timeout_ms) {
                Due::Later(due_ms) => {
                    connection.armed_ms = due_ms;
                    return Some(due_ms);
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
        for key in std::mem::take(&mut self.throttled) {
            if let Some(connection) = self.connection_mut(key) {
                connection.throttled = false;
                self.resume_later(key);
            }
        }
        self.search_on();
        self.check_invariants();
    }
}

fn due(session: &Session, now_ms: u64, connection_timeout_ms: u64) -> Due {
    let idle_ms = session.last_read_ms + connection_timeout_ms;
    if session.ended.is_some() {
        if now_ms >= session.deadline_ms {
            Due::Gone
        } else {
            Due::Later(session.deadline_ms)
        }
    } else if session.login().is_none() && now_ms >= session.deadline_ms {
        Due::End(CloseReason::AuthTimeout)
    } else if now_ms >= idle_ms {
        Due::End(CloseReason::Idle)
    } else if session.login().is_none() {
        Due::Later(idle_ms.min(session.deadline_ms))
    } else {
        Due::Later(idle_ms)
    }
}
