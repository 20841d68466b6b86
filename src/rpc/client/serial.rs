//! Calls that a service cannot take two of at one time: one of them over all cores of the gateway.
//!
//! Owns the permits. Who has one is the only caller of any method of its set; who waits for one
//! waits as a flow, never as a core. A permit ends with its holder, however that ends. A call whose
//! end nobody saw may still be going on: the next one gives it time.
//!
//! Invariant: whoever gets a permit has half the call's time left at least. Else the first of a
//! line that waited out a silent service would begin with no time, fail for that, and have all
//! behind it wait once more.

use async_lock::{Mutex, MutexGuard};

use crate::contract::{
    methods::{METHODS, Method},
    mpim::SerialSet,
};

/// The permits of a gateway, shared by its cores.
pub struct SerialCalls {
    permits: Vec<Mutex<Rest>>,
    /// By the number of a method: which permit it takes.
    of_method: [Option<usize>; METHODS.len()],
}

/// When the next call may begin.
#[derive(Debug, Default)]
pub(super) struct Rest {
    until_ms: u64,
}

impl SerialCalls {
    /// One permit for each of `sets`. A method in several has that of the last.
    pub fn new(sets: &[SerialSet]) -> Self {
        let mut of_method = [None; METHODS.len()];
        for (permit, set) in sets.iter().enumerate() {
            for number in &set.0 {
                if let Some(entry) = of_method.get_mut(*number) {
                    *entry = Some(permit);
                }
            }
        }
        assert!(
            of_method
                .iter()
                .flatten()
                .all(|permit| *permit < sets.len()),
            "each method's permit is there"
        );
        Self {
            permits: sets.iter().map(|_| Mutex::default()).collect(),
            of_method,
        }
    }

    /// What calls of `M` have to take first, if anything.
    pub(super) fn permit_of<M: Method>(&self) -> Option<&Mutex<Rest>> {
        self.permits.get(self.of_method[M::INDEX]?)
    }
}

/// A permit for one call.
pub(super) type Permit<'a> = MutexGuard<'a, Rest>;

impl Rest {
    /// Before this, no call may begin.
    pub(super) fn until_ms(&self) -> u64 {
        self.until_ms
    }

    /// Nobody knows whether the call that ends now goes on: no other before `until_ms`.
    pub(super) fn rest_until(&mut self, until_ms: u64) {
        self.until_ms = until_ms;
    }
}
