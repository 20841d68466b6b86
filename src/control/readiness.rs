//! Whether the gateway should be sent clients, and if not, why not.
//!
//! Owns the flags that other threads set and the reasons that follow from them. Decides nothing
//! else by them: a gateway that is not ready goes on serving the clients it has.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::metrics::{Registry, Stall};

/// Something else that must hold: says why it does not, `None` while it does. Asked with every
/// probe, so it must not block.
pub type Condition = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The flags behind `/readyz`. Shared by whoever knows one of them.
#[derive(Default)]
pub struct Readiness {
    cores_up: AtomicBool,
    draining: AtomicBool,
    store_failing: AtomicBool,
    conditions: Vec<Condition>,
}

impl Readiness {
    /// Of a gateway that is starting: not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, where these must hold as well.
    pub fn with_conditions(conditions: Vec<Condition>) -> Self {
        Self {
            conditions,
            ..Self::default()
        }
    }

    /// All cores accept connections.
    pub(super) fn set_cores_up(&self) {
        let were_up = self.cores_up.swap(true, Relaxed);
        assert!(!were_up, "cores come up once");
    }

    /// The gateway is going down; there is no way back.
    pub(super) fn set_draining(&self) {
        let was_draining = self.draining.swap(true, Relaxed);
        assert!(!was_draining, "the end begins once");
    }

    /// Whether the gateway is going down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Whether the store fails to commit now. Cheap enough to be told after every commit.
    pub fn set_store_failing(&self, failing: bool) {
        self.store_failing.store(failing, Relaxed);
    }

    /// Why no client should be sent here; empty: ready.
    pub fn reasons(&self, registry: &Registry) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.is_draining() {
            reasons.push("draining: the gateway is going down".to_owned());
        } else if !self.cores_up.load(Relaxed) {
            reasons.push(match registry.cores.len() {
                0 => "starting: no calls are accepted yet".to_owned(),
                _ => "starting: not every core accepts connections yet".to_owned(),
            });
        }
        if self.store_failing.load(Relaxed) {
            let outage = &registry.store.outage;
            reasons.push(outage.explain("store: messages cannot be stored"));
        }
        reasons.extend(self.conditions.iter().filter_map(|condition| condition()));
        reasons.extend(registry.stalls().iter().map(stall_reason));
        reasons
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("cores_up", &self.cores_up)
            .field("draining", &self.draining)
            .field("store_failing", &self.store_failing)
            .finish_non_exhaustive()
    }
}

/// A stalled core in words, the same in `/livez`, `/readyz`, the log and systemd's status.
pub(super) fn stall_reason(stall: &Stall) -> String {
    format!(
        "core {}: stalled, silent for {} ms",
        stall.core, stall.silent_ms
    )
}
