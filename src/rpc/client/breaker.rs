//! The circuit breaker of one server: after failures in a row it is left alone for a while, then
//! tried with one call.
//!
//! ```text
//!            threshold failures               pause over, one call let through
//!   Closed ─────────────────────▶ Open ───────────────────────────────────────▶ Probing
//!      ▲                           ▲                  failed                       │
//!      │                           └───────────────────────────────────────────────┤
//!      └───────────────────────────────────────────────────── succeeded ───────────┘
//! ```
//!
//! A success, be it of a call that was out before, closes it from wherever it is, and who knows
//! that no call would be answered opens it.
//!
//! Pure: told the time and what happened. Invariant: it is closed only after fewer failures in a
//! row than the threshold.

/// How long an open breaker lets nothing through.
pub(super) const OPEN_MS: u64 = 5_000;

/// See the module's description.
#[derive(Debug)]
pub struct Breaker {
    threshold: u32,
    /// Failures since the last success.
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until_ms: u64,
    },
    /// One call is out; the next is let through where that one is never judged.
    Probing {
        until_ms: u64,
    },
}

impl Breaker {
    /// A closed one that opens after `threshold` failures in a row.
    pub fn new(threshold: u32) -> Self {
        assert!(threshold > 0, "it would be open from the start");
        Self {
            threshold,
            failures: 0,
            state: State::Closed,
        }
    }

    /// Whether nothing is wrong.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether a call may go out now, be it as a probe.
    pub(super) fn lets_through(&self, now_ms: u64) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until_ms } | State::Probing { until_ms } => now_ms >= until_ms,
        }
    }

    /// A call goes out, as a probe where the breaker is not closed.
    pub fn started(&mut self, now_ms: u64) {
        if self.state != State::Closed {
            self.enter(State::Probing {
                until_ms: now_ms + OPEN_MS,
            });
        }
    }

    /// A call was answered.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.enter(State::Closed);
    }

    /// A call was not answered; `true`: the breaker has opened.
    pub fn failed(&mut self, now_ms: u64) -> bool {
        self.failures = self.failures.saturating_add(1);
        // Calls that were already out when it opened say nothing new.
        let opens = match self.state {
            State::Closed => self.failures >= self.threshold,
            State::Probing { .. } => true,
            State::Open { .. } => false,
        };
        if opens {
            self.enter(State::Open {
                until_ms: now_ms + OPEN_MS,
            });
        }
        self.check();
        opens
    }

    /// It is known that no call would be answered.
    pub(super) fn trip(&mut self, now_ms: u64) {
        self.enter(State::Open {
            until_ms: now_ms + OPEN_MS,
        });
    }

    /// Goes over to `to`, which the drawing above must show.
    fn enter(&mut self, to: State) {
        let is_drawn = match (self.state, to) {
            (State::Closed, State::Probing { .. }) => false,
            (
                State::Closed | State::Open { .. } | State::Probing { .. },
                State::Closed | State::Open { .. } | State::Probing { .. },
            ) => true,
        };
        assert!(is_drawn, "a breaker goes from {:?} to {to:?}", self.state);
        self.state = to;
        self.check();
    }

    fn check(&self) {
        let (failures, threshold) = (self.failures, self.threshold);
        assert!(
            !self.is_closed() || failures < threshold,
            "closed after {failures} failures, of which {threshold} open it"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_a_success_in_between_does_not_count_them() {
        let mut breaker = Breaker::new(3);
        assert!(!breaker.failed(0) && !breaker.failed(0));
        breaker.succeeded();
        assert!(!breaker.failed(0) && !breaker.failed(0) && breaker.is_closed());
        assert!(breaker.failed(0));
        assert!(!breaker.lets_through(0) && !breaker.lets_through(OPEN_MS - 1));
    }

    #[test]
    fn one_call_probes_it_and_its_outcome_decides() {
        let mut breaker = Breaker::new(1);
        breaker.failed(0);
        assert!(breaker.lets_through(OPEN_MS) && !breaker.is_closed());
        breaker.started(OPEN_MS);
        assert!(!breaker.lets_through(OPEN_MS), "one at a time");
        assert!(breaker.failed(OPEN_MS + 10));
        assert!(!breaker.lets_through(2 * OPEN_MS));
        let later = OPEN_MS + 10 + OPEN_MS;
        breaker.started(later);
        breaker.succeeded();
        assert!(breaker.is_closed());
    }

    #[test]
    #[should_panic(expected = "a breaker goes from Closed to Probing")]
    fn what_is_closed_is_not_probed() {
        Breaker::new(1).enter(State::Probing { until_ms: 0 });
    }

    #[test]
    fn a_probe_that_is_never_judged_does_not_close_the_door_for_ever() {
        let mut breaker = Breaker::new(1);
        breaker.failed(0);
        breaker.started(OPEN_MS);
        assert!(breaker.lets_through(2 * OPEN_MS));
    }
}
