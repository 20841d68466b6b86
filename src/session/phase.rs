//! Where a session is in its life, and the steps from one phase to the next.
//!
//! ```text
//!                attach                 answer
//!   Anonymous ───────────▶ Binding ───────────▶ LoggedIn
//!     │   ▲                 │   │                │   │
//!     │   └─────────────────┴───┼────────────────┘   │
//!     │            log out      │                    │
//!     │                         │                    │
//!     └───────────────▶ Ended ◀─┴────────────────────┘
//!           end
//! ```
//!
//! A login that fails is logged out of `Binding`; one that is over, of `LoggedIn`. Quitting, the
//! end of the input, a kick and an error each end a session, for good and for one reason.

use super::Login;
use crate::base::close::CloseReason;

/// Where a session is in its life.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// Nobody has logged in.
    #[default]
    Anonymous,
    /// Somebody is about to be logged in: pushes wait.
    Binding(Box<Login>),
    /// Somebody is logged in, and was told so.
    LoggedIn(Box<Login>),
    /// It is over.
    Ended(CloseReason),
}

/// What leads from one phase to the next.
pub(super) enum Step {
    /// It is known who logs in.
    Attach(Box<Login>),
    /// The login is answered.
    Answer,
    /// The login is over, the connection goes on.
    LogOut,
    /// The session is over.
    End(CloseReason),
}

/// A login that is over.
#[derive(Debug)]
pub struct PastLogin {
    /// What it was.
    pub login: Box<Login>,
    /// It had been answered.
    pub was_answered: bool,
}

impl Phase {
    /// Takes `step`, which the drawing above must show; says which login that was the end of.
    ///
    /// # Panics
    /// If the drawing does not show it. The session is as it was.
    pub(super) fn take(&mut self, step: Step) -> Option<PastLogin> {
        let past = |login, was_answered| {
            Some(PastLogin {
                login,
                was_answered,
            })
        };
        let (to, past) = match (std::mem::take(self), step) {
            (Self::Anonymous, Step::Attach(login)) => (Self::Binding(login), None),
            (Self::Binding(login), Step::Answer) => (Self::LoggedIn(login), None),
            (Self::Binding(login), Step::LogOut) => (Self::Anonymous, past(login, false)),
            (Self::LoggedIn(login), Step::LogOut) => (Self::Anonymous, past(login, true)),
            (Self::Anonymous, Step::End(reason)) => (Self::Ended(reason), None),
            (Self::Binding(login), Step::End(reason)) => (Self::Ended(reason), past(login, false)),
            (Self::LoggedIn(login), Step::End(reason)) => (Self::Ended(reason), past(login, true)),
            (from, step) => {
                let (is, does) = (from.word(), step.word());
                *self = from;
                panic!("a session that is {is} {does}");
            }
        };
        *self = to;
        past
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Binding(_) => "being logged in",
            Self::LoggedIn(_) => "logged in",
            Self::Ended(_) => "over",
        }
    }
}

impl Step {
    fn word(&self) -> &'static str {
        match self {
            Self::Attach(_) => "is logged in",
            Self::Answer => "has its login answered",
            Self::LogOut => "is logged out",
            Self::End(_) => "ends",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::session::LoginSession;

    fn login() -> Box<Login> {
        let login_session = LoginSession {
            id: 5,
            epoch: None,
            issued_ms: 0,
        };
        Box::new(Login::new(7, "somebody".into(), 5, login_session))
    }

    fn phases() -> [Phase; 4] {
        [
            Phase::Anonymous,
            Phase::Binding(login()),
            Phase::LoggedIn(login()),
            Phase::Ended(CloseReason::Quit),
        ]
    }

    fn steps() -> [Step; 4] {
        [
            Step::Attach(login()),
            Step::Answer,
            Step::LogOut,
            Step::End(CloseReason::Idle),
        ]
    }

    #[test]
    fn no_step_is_taken_but_those_that_are_drawn() {
        let mut taken = Vec::new();
        for from in 0..phases().len() {
            for step in steps() {
                let mut phase = phases().into_iter().nth(from).expect("a phase");
                let (is, does) = (phase.word(), step.word());
                match catch_unwind(AssertUnwindSafe(|| phase.take(step))) {
                    Ok(past) => {
                        let was_answered = past.map(|past| past.was_answered);
                        taken.push((is, does, phase.word(), was_answered));
                    }
                    Err(_) => assert_eq!(phase.word(), is, "it is as it was"),
                }
            }
        }
        assert_eq!(
            taken,
            [
                ("anonymous", "is logged in", "being logged in", None),
                ("anonymous", "ends", "over", None),
                (
                    "being logged in",
                    "has its login answered",
                    "logged in",
                    None
                ),
                ("being logged in", "is logged out", "anonymous", Some(false)),
                ("being logged in", "ends", "over", Some(false)),
                ("logged in", "is logged out", "anonymous", Some(true)),
                ("logged in", "ends", "over", Some(true)),
            ]
        );
    }
}
