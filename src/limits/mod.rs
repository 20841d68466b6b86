//! How much one client may take: connections, commands a second, attempts to log in, registrations.
//!
//! Owns the counting rules and nothing else: no socket, no clock, no configuration file. Time comes
//! in as `now_ms`, an address as a value, and the answer says "yes" or how long to wait. What to do
//! about a "no" is the caller's matter.
//!
//! Invariants: every table is bounded; a clock that steps back never grants more and never locks
//! anybody out for longer than the rule says; an address listed as exempt is not counted at all,
//! though the user names it tries are.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

mod admission;
mod bad_lines;
mod log_budget;
mod login_guard;
mod registrations;
mod tables;
mod token_bucket;

pub use admission::{Admission, Refusal};
pub use bad_lines::{BadLines, Patience};
pub use log_budget::LogBudget;
pub use login_guard::{Held, LoginGuard, LoginGuardOptions, LoginOutcome};
pub use registrations::Registrations;
pub use token_bucket::{Rate, TokenBucket};

/// The addresses that limits by address or rate do not apply to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    networks: Vec<IpNet>,
}

impl Exempt {
    /// Exempts every address of `networks`.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self {
            networks: networks.into_iter().map(unmapped).collect(),
        }
    }

    /// Whether `ip` is exempt. An IPv4 address is the same in its own form and mapped into IPv6
    /// (`::ffff:127.0.0.1`).
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }
}

/// The IPv4 network that an IPv6 network inside `::ffff:0:0/96` stands for; any other network as it
/// is.
fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_PREFIX: u8 = 96;
    let IpNet::V6(v6) = network else {
        return network;
    };
    match (
        v6.addr().to_ipv4_mapped(),
        v6.prefix_len().checked_sub(MAPPED_PREFIX),
    ) {
        (Some(address), Some(prefix)) => Ipv4Net::new(address, prefix).map_or(network, IpNet::V4),
        _ => network,
    }
}

/// What counts as one client by its address: an IPv4 address, or the /64 of an IPv6 address, since
/// a site is given at least that much and can choose any address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum ClientNetwork {
    V4(u32),
    V6(u64),
}

impl ClientNetwork {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

/// What counts as one client by its address, as a key for those who need not know what is in it:
/// equal for equal networks.
pub fn network_key(ip: IpAddr) -> Vec<u8> {
    match ClientNetwork::of(ip) {
        ClientNetwork::V4(bits) => bits.to_be_bytes().to_vec(),
        ClientNetwork::V6(bits) => bits.to_be_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exempt(networks: &[&str]) -> Exempt {
        Exempt::new(networks.iter().map(|n| n.parse().unwrap()).collect())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn loopback_is_exempt_in_every_form_it_can_arrive_in() {
        let exempt = exempt(&["127.0.0.0/8", "::1/128"]);
        for inside in ["127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"] {
            assert!(exempt.contains(ip(inside)), "{inside}");
        }
        for outside in ["128.0.0.1", "::2", "::ffff:10.0.0.1", "::127.0.0.1"] {
            assert!(!exempt.contains(ip(outside)), "{outside}");
        }
    }

    #[test]
    fn a_mapped_network_exempts_the_ipv4_addresses_it_stands_for() {
        let mapped = exempt(&["::ffff:10.0.0.0/104"]);
        assert!(mapped.contains(ip("10.200.3.4")));
        assert!(mapped.contains(ip("::ffff:10.200.3.4")));
        assert!(!mapped.contains(ip("11.0.0.1")));
        let all = exempt(&["::ffff:0:0/96"]);
        assert!(all.contains(ip("192.0.2.1")));
        assert!(!all.contains(ip("2001:db8::1")));
    }

    #[test]
    fn an_empty_list_exempts_nobody() {
        assert!(!Exempt::default().contains(ip("127.0.0.1")));
    }

    #[test]
    fn one_client_is_an_ipv4_address_or_an_ipv6_64() {
        assert_eq!(
            ClientNetwork::of(ip("192.0.2.1")),
            ClientNetwork::of(ip("::ffff:192.0.2.1"))
        );
        assert_ne!(
            ClientNetwork::of(ip("192.0.2.1")),
            ClientNetwork::of(ip("192.0.2.2"))
        );
        assert_eq!(
            ClientNetwork::of(ip("2001:db8:0:1::1")),
            ClientNetwork::of(ip("2001:db8:0:1:ffff::9"))
        );
        assert_ne!(
            ClientNetwork::of(ip("2001:db8:0:1::1")),
            ClientNetwork::of(ip("2001:db8:0:2::1"))
        );
        assert_eq!(network_key(ip("::ffff:192.0.2.1")), [192, 0, 2, 1]);
        assert_eq!(
            network_key(ip("2001:db8:0:1::1")),
            network_key(ip("2001:db8:0:1:ffff::9"))
        );
    }
}
