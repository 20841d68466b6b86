//! Who may be connected, and how much of calls that are not whole yet may be held.
//!
//! Owns the counts, of all and by address. One address has a quarter of everything at most; while
//! it is known which addresses gateways have, half of the places are kept for those. Pure: knows
//! addresses, no sockets.
//!
//! Invariants: nothing is granted past a limit; whoever was admitted is released once, having given
//! back what it held; what is counted of all is the sum of what is counted by address.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use crate::metrics::server::ServerRefusal;

/// How many addresses share everything at least.
const SHARERS: usize = 4;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Places {
    max_connections: usize,
    max_bytes: usize,
    open: usize,
    /// Connections of addresses that were none of a gateway's when they came.
    strangers: usize,
    bytes: usize,
    by_address: HashMap<IpAddr, Share>,
}

/// What one address has.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    connections: usize,
    bytes: usize,
}

/// A place that was given: to be handed back.
#[derive(Debug)]
pub(super) struct Place {
    address: IpAddr,
    is_stranger: bool,
    bytes: usize,
}

impl Places {
    /// Room for `max_connections`, which together hold at most `max_bytes` of calls that are not
    /// whole.
    pub(super) fn new(max_connections: usize, max_bytes: usize) -> Self {
        Self {
            max_connections,
            max_bytes,
            open: 0,
            strangers: 0,
            bytes: 0,
            by_address: HashMap::new(),
        }
    }

    /// How many are taken.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// A place for a connection from `address`, or why there is none. `gateways`: the addresses
    /// that gateways have; `None`: that is not known, and everybody may be one.
    pub(super) fn admit(
        &mut self,
        address: IpAddr,
        gateways: Option<&HashSet<IpAddr>>,
    ) -> Result<Place, ServerRefusal> {
        let address = address.to_canonical();
        let is_stranger = gateways.is_some_and(|gateways| !gateways.contains(&address));
        if self.open >= self.max_connections {
            return Err(ServerRefusal::MaxConnections);
        }
        if is_stranger && self.strangers >= self.max_connections.div_ceil(2) {
            return Err(ServerRefusal::Strangers);
        }
        let share = self.by_address.entry(address).or_default();
        if share.connections >= self.max_connections.div_ceil(SHARERS) {
            return Err(ServerRefusal::PerAddress);
        }
        share.connections += 1;
        self.open += 1;
        self.strangers += usize::from(is_stranger);
        self.check();
        Ok(Place {
            address,
            is_stranger,
            bytes: 0,
        })
    }

    /// The connection at `place` holds `bytes` now; `false`: that is more than there is room for.
    pub(super) fn hold(&mut self, place: &mut Place, bytes: usize) -> bool {
        if bytes == place.bytes {
            return true;
        }
        let Some(share) = self.by_address.get_mut(&place.address) else {
            return false;
        };
        debug_assert!(share.bytes >= place.bytes && self.bytes >= place.bytes);
        let (here, all) = (share.bytes - place.bytes, self.bytes - place.bytes);
        let grows = bytes > place.bytes;
        if grows && (here + bytes > self.max_bytes / SHARERS || all + bytes > self.max_bytes) {
            return false;
        }
        share.bytes = here + bytes;
        self.bytes = all + bytes;
        place.bytes = bytes;
        self.check();
        true
    }

    /// The connection at `place` has ended.
    pub(super) fn release(&mut self, place: &mut Place) {
        let gave_back = self.hold(place, 0);
        debug_assert!(gave_back && place.bytes == 0, "less can always be held");
        debug_assert!(self.open > 0, "whoever is released was admitted");
        debug_assert!(self.strangers >= usize::from(place.is_stranger));
        self.open = self.open.saturating_sub(1);
        self.strangers = self
            .strangers
            .saturating_sub(usize::from(place.is_stranger));
        if let Some(share) = self.by_address.get_mut(&place.address) {
            share.connections = share.connections.saturating_sub(1);
            if share.connections == 0 {
                self.by_address.remove(&place.address);
            }
        }
        self.check();
    }

    /// The invariants. Only where they are looked for: a connection is released by dropping it.
    fn check(&self) {
        debug_assert!(self.open <= self.max_connections && self.bytes <= self.max_bytes);
        debug_assert!(self.strangers <= self.open);
        let shares = || self.by_address.values();
        debug_assert_eq!(
            self.open,
            shares().map(|share| share.connections).sum::<usize>()
        );
        debug_assert_eq!(self.bytes, shares().map(|share| share.bytes).sum::<usize>());
        debug_assert!(shares().all(|share| share.connections > 0));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[test]
    fn one_address_has_a_quarter_of_the_places() {
        let mut places = Places::new(8, 100);
        let mut held: Vec<Place> = (0..2).map(|_| places.admit(ip(1), None).unwrap()).collect();
        assert_eq!(
            places.admit(ip(1), None).unwrap_err(),
            ServerRefusal::PerAddress
        );
        // The same address, mapped into IPv6.
        let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().into();
        assert!(places.admit(mapped, None).is_err());
        assert!(places.admit(ip(2), None).is_ok());
        places.release(&mut held[0]);
        assert!(places.admit(ip(1), None).is_ok());
    }

    #[test]
    fn strangers_leave_half_of_the_places_to_gateways() {
        let gateways = HashSet::from([ip(1), ip(2)]);
        let mut places = Places::new(8, 100);
        for stranger in [10, 10, 11, 11] {
            assert!(places.admit(ip(stranger), Some(&gateways)).is_ok());
        }
        assert_eq!(
            places.admit(ip(12), Some(&gateways)).unwrap_err(),
            ServerRefusal::Strangers
        );
        for gateway in [1, 1, 2, 2] {
            assert!(places.admit(ip(gateway), Some(&gateways)).is_ok());
        }
        assert_eq!(
            places.admit(ip(3), None).unwrap_err(),
            ServerRefusal::MaxConnections
        );
    }

    #[test]
    fn where_it_is_not_known_who_gateways_are_nobody_is_a_stranger() {
        let mut places = Places::new(8, 100);
        for address in [1, 1, 2, 2, 3, 3, 4, 4] {
            assert!(places.admit(ip(address), None).is_ok());
        }
        assert_eq!(places.open(), 8);
    }

    #[test]
    fn half_sent_calls_hold_no_more_than_there_is_and_one_address_a_quarter_of_it() {
        let mut places = Places::new(20, 100);
        let mut at = |address| places.admit(ip(address), None).unwrap();
        let mut held: Vec<Place> = [1, 1, 2, 3, 4, 5].map(&mut at).into();
        assert!(places.hold(&mut held[0], 20));
        assert!(!places.hold(&mut held[1], 6));
        assert!(places.hold(&mut held[1], 5));
        for place in &mut held[2..5] {
            assert!(places.hold(place, 25));
        }
        assert!(!places.hold(&mut held[5], 1));
        // Less is always granted, and what ended gave back what it held.
        assert!(places.hold(&mut held[0], 10));
        places.release(&mut held[2]);
        assert!(places.hold(&mut held[5], 25));
        for place in held.iter_mut().enumerate() {
            if place.0 != 2 {
                places.release(place.1);
            }
        }
        assert_eq!((places.open, places.bytes), (0, 0));
        assert!(places.by_address.is_empty());
    }
}
