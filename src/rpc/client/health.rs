//! Which servers live: pings, what is made of their absence, and what is told of a service that
//! nobody serves.
//!
//! A server that answers calls needs no pings; one that leaves calls unanswered is asked at once.
//! How long it may take to answer depends on whether there are others: with one, it is given up
//! soon and its calls are made there; the only one is waited for as long as a call is.

use std::rc::Rc;

use super::{Connectivity, Offer, Purpose, Remote, Server};
use crate::contract::methods::Service;

/// How long a silent server may take for a sign of life where others can do its work. With the time
/// after which it is asked, less than a second.
const PROMPT_SIGN_MS: u64 = 500;

/// Servers of one service that are named with their troubles.
const NAMED_MAX: usize = 4;

impl Remote {
    /// Looks after every server. Called with each tick.
    pub(super) fn check_health(self: &Rc<Self>, now_ms: u64) {
        let due = now_ms >= self.next_ping_ms.get();
        if due {
            self.next_ping_ms.set(now_ms + self.options.health_check_ms);
        }
        let timeout_ms = self.options.timeout_ms;
        for server in self.servers.borrow().values() {
            let is_silent = server.is_silent(now_ms);
            let sign_ms = match is_silent && self.can_be_spared(server) {
                true => PROMPT_SIGN_MS.min(timeout_ms),
                false => timeout_ms,
            };
            if server.gave_no_sign(now_ms, sign_ms) {
                self.report_ejection(server, "gives no sign of life");
                server.eject(now_ms);
                if server.stores_messages.get() {
                    // It may hang between storing and publishing.
                    self.pushes_in_doubt.set(true);
                }
            }
            let may_be_back = {
                let breaker = server.breaker.borrow();
                !breaker.is_closed() && breaker.lets_through(now_ms)
            };
            if due && !server.can_be_pinged() && server.connectivity() == Connectivity::Up {
                (self.dependencies.dial)(self, server, Purpose::Check);
            } else if due || may_be_back || is_silent {
                server.ping(now_ms, timeout_ms);
            }
        }
        for (service, offer) in Service::ALL.into_iter().zip(&*self.services.borrow()) {
            let up = offer
                .hosts
                .iter()
                .filter(|host| host.server.is_up())
                .count();
            self.metrics.set_instances_up(service, up as u64);
            let trouble = (up == 0).then(|| trouble(offer));
            self.metrics.service_troubles[service as usize].set(trouble);
        }
    }

    /// Whether everything that `server` is for can be done by others.
    fn can_be_spared(&self, server: &Rc<Server>) -> bool {
        self.services.borrow().iter().all(|offer| {
            let is_this = |other: &Rc<Server>| Rc::ptr_eq(other, server);
            let mut hosts = offer.hosts.iter();
            !hosts.clone().any(|host| is_this(&host.server))
                || hosts
                    .any(|host| host.weight > 0 && !is_this(&host.server) && host.server.is_up())
        })
    }
}

/// Why nobody serves what `offer` is.
fn trouble(offer: &Offer) -> String {
    if offer.hosts.is_empty() {
        return "no instance is known".to_owned();
    }
    let troubles: Vec<String> = offer
        .hosts
        .iter()
        .take(NAMED_MAX)
        .map(|host| format!("{} {}", host.server.address, host.server.trouble()))
        .collect();
    troubles.join("; ")
}
