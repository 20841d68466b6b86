//! How many connections may be open: in all, and from one client network.
//!
//! Owns the two counts for the whole process (the cores share one, behind a lock taken once per
//! accepted connection). Never knows the connections themselves: whoever was admitted must be
//! released once, with the same address.
//!
//! Invariant: the count per network sums up to no more than the total, and a network without
//! connections has no entry, so the table is bounded by `max_connections`.

use std::{collections::HashMap, net::IpAddr};

use super::ClientNetwork;

/// Why a connection is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// As many connections are open as the gateway may have.
    MaxConnections,
    /// As many connections are open from that network as one client may have.
    PerIp,
}

/// The counts of open connections.
#[derive(Debug)]
pub struct Admission {
    max_connections: usize,
    per_ip: usize,
    open: usize,
    open_by_network: HashMap<ClientNetwork, usize>,
}

impl Admission {
    /// Room for `max_connections` in all, and `per_ip` from each IPv4 address or IPv6 /64.
    pub fn new(max_connections: usize, per_ip: usize) -> Self {
        Self {
            max_connections,
            per_ip,
            open: 0,
            open_by_network: HashMap::new(),
        }
    }

    /// Counts one more connection, or says which limit it would break. `None` is an address that is
    /// exempt from the limit per address; the limit in all holds for it too.
    pub fn admit(&mut self, ip: Option<IpAddr>) -> Result<(), Refusal> {
        if self.open >= self.max_connections {
            return Err(Refusal::MaxConnections);
        }
        if let Some(ip) = ip {
            let network = ClientNetwork::of(ip);
            let open_here = self.open_by_network.get(&network).copied().unwrap_or(0);
            if open_here >= self.per_ip {
                return Err(Refusal::PerIp);
            }
            self.open_by_network.insert(network, open_here + 1);
        }
        self.open += 1;
        self.check_invariants();
        Ok(())
    }

    /// Counts one connection less. `ip` is what [`Admission::admit`] was given for it.
    pub fn release(&mut self, ip: Option<IpAddr>) {
        debug_assert!(self.open > 0, "released more than was admitted");
        self.open = self.open.saturating_sub(1);
        if let Some(ip) = ip {
            let network = ClientNetwork::of(ip);
            match self.open_by_network.get_mut(&network) {
                Some(open_here) if *open_here > 1 => *open_here -= 1,
                Some(_) => {
                    self.open_by_network.remove(&network);
                }
                None => debug_assert!(false, "released an address that was not admitted"),
            }
        }
        self.check_invariants();
    }

    fn check_invariants(&self) {
        debug_assert!(self.open <= self.max_connections);
        debug_assert!(self.open_by_network.len() <= self.open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn one_client_cannot_take_every_place() {
        let mut admission = Admission::new(10, 2);
        assert_eq!(admission.admit(ip("192.0.2.1")), Ok(()));
        assert_eq!(admission.admit(ip("::ffff:192.0.2.1")), Ok(()));
        assert_eq!(admission.admit(ip("192.0.2.1")), Err(Refusal::PerIp));
        assert_eq!(admission.admit(ip("192.0.2.2")), Ok(()));
        admission.release(ip("192.0.2.1"));
        assert_eq!(admission.admit(ip("192.0.2.1")), Ok(()));
    }

    #[test]
    fn an_ipv6_site_is_one_client() {
        let mut admission = Admission::new(10, 1);
        assert_eq!(admission.admit(ip("2001:db8::1")), Ok(()));
        assert_eq!(admission.admit(ip("2001:db8::2")), Err(Refusal::PerIp));
        assert_eq!(admission.admit(ip("2001:db8:0:1::2")), Ok(()));
    }

    #[test]
    fn the_limit_in_all_holds_for_exempt_addresses_too() {
        let mut admission = Admission::new(2, 1);
        assert_eq!(admission.admit(None), Ok(()));
        assert_eq!(admission.admit(None), Ok(()));
        assert_eq!(admission.admit(None), Err(Refusal::MaxConnections));
        assert_eq!(
            admission.admit(ip("192.0.2.1")),
            Err(Refusal::MaxConnections)
        );
        admission.release(None);
        assert_eq!(admission.admit(ip("192.0.2.1")), Ok(()));
        assert_eq!(admission.open, 2);
    }

    proptest! {
        #[test]
        fn it_counts_like_a_list_of_open_connections(
            events in prop::collection::vec(
                (prop::option::of(0u8..4), any::<bool>(), any::<prop::sample::Index>()),
                1..200,
            ),
        ) {
            let mut admission = Admission::new(8, 3);
            let mut open: Vec<Option<IpAddr>> = Vec::new();
            for (client, arrives, index) in events {
                if arrives {
                    let ip = client.map(|n| IpAddr::from([192, 0, 2, n]));
                    let expected = if open.len() >= 8 {
                        Err(Refusal::MaxConnections)
                    } else if ip.is_some()
                        && open.iter().filter(|other| **other == ip).count() >= 3
                    {
                        Err(Refusal::PerIp)
                    } else {
                        open.push(ip);
                        Ok(())
                    };
                    prop_assert_eq!(admission.admit(ip), expected);
                } else if !open.is_empty() {
                    let gone = open.swap_remove(index.index(open.len()));
                    admission.release(gone);
                }
                prop_assert_eq!(admission.open, open.len());
            }
        }
    }
}
