//! What a listener does when it cannot accept.
//!
//! Pure. An error may concern one connection, which is gone; else it is for want of something, most
//! likely file descriptors, and lasts: the listener pauses, longer each time, until it works again.

use std::io;

use super::{back_off::BackOff, random::Random, repeat::Repeat};

/// See the module's description.
#[derive(Debug)]
pub struct AcceptPause(BackOff);

/// A pause that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Its length.
    pub ms: u64,
    /// It is the first since accepting worked: the time to say so.
    pub is_first: bool,
}

impl Default for AcceptPause {
    /// A listener waits for its own process, and for nobody who is asked by others at the same
    /// moment: so any random sequence will do.
    fn default() -> Self {
        Self(BackOff::new(Repeat::ACCEPT, Random::seeded(0)))
    }
}

impl AcceptPause {
    /// A connection was accepted.
    pub fn accepted(&mut self) {
        self.0.reset();
    }

    /// Accepting failed; `None`: it concerned one connection, and the next can be accepted.
    pub fn failed(&mut self, error: &io::Error) -> Option<Pause> {
        match error.kind() {
            io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted => None,
            _ => Some(self.again()),
        }
    }

    /// It failed again for a reason that lasts.
    pub fn again(&mut self) -> Pause {
        let is_first = self.0.is_reset();
        Pause {
            ms: self.0.next_ms(),
            is_first,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn only_what_lasts_is_paused_for_and_told_once() {
        let mut pause = AcceptPause::default();
        let mut failed = |errno: Errno| pause.failed(&errno.into());
        assert_eq!(failed(Errno::CONNABORTED), None);
        let first = failed(Errno::MFILE).expect("a pause");
        assert!(first.is_first && (25..=50).contains(&first.ms));
        assert_eq!(failed(Errno::INTR), None);
        for _ in 0..10 {
            let later = failed(Errno::MFILE).expect("a pause");
            assert!(!later.is_first && later.ms <= 1_000);
        }
        pause.accepted();
        assert!(pause.again().is_first);
    }
}
