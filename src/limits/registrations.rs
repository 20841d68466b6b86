//! How many accounts one network may register: a bucket for each network, as large as what comes
//! back into it in an hour.
//!
//! Owns the counting alone. A registration takes its place when it begins and gives it back if
//! nothing came of it, so that a service that is overloaded costs nobody their accounts. The table
//! is bounded: when it is full, the network with the fullest bucket is forgotten, which gives it
//! the least.

use std::net::IpAddr;

use super::{ClientNetwork, tables::BoundedTable};

const HOUR_US: u64 = 3_600_000_000;

/// See the module's description.
#[derive(Debug)]
pub struct Registrations {
    /// In how many microseconds one place comes back.
    interval_us: u64,
    places: u64,
    /// When each bucket that is not full will be, as its rank.
    full_us: BoundedTable<ClientNetwork, ()>,
    latest_us: u64,
}

impl Registrations {
    /// `per_hour` registrations (at least 1) an hour and network, and as many at once; for
    /// `capacity` networks.
    pub fn new(per_hour: u32, capacity: usize) -> Self {
        let places = u64::from(per_hour.max(1));
        Self {
            interval_us: HOUR_US / places,
            places,
            full_us: BoundedTable::new(capacity),
            latest_us: 0,
        }
    }

    /// Takes a place, or says in how many milliseconds there is one. `None` is an exempt address,
    /// which is not counted.
    pub fn begin(&mut self, ip: Option<IpAddr>, now_ms: u64) -> Result<(), u64> {
        let Some(network) = ip.map(ClientNetwork::of) else {
            return Ok(());
        };
        let now_us = self.advance(now_ms);
        let full_us = self.full_us.get(&network).map_or(now_us, |(rank, ())| rank);
        let then_full_us = full_us.saturating_add(self.interval_us);
        let latest_us = now_us.saturating_add(self.interval_us * self.places);
        if then_full_us > latest_us {
            return Err((then_full_us - latest_us).div_ceil(1000));
        }
        self.full_us.put(network, then_full_us, ());
        Ok(())
    }

    /// Gives back the place of a registration of which nothing came.
    pub fn give_back(&mut self, ip: Option<IpAddr>, now_ms: u64) {
        let Some(network) = ip.map(ClientNetwork::of) else {
            return;
        };
        let now_us = self.advance(now_ms);
        if let Some((full_us, ())) = self.full_us.get(&network) {
            self.full_us.remove(&network);
            let full_us = full_us - self.interval_us.min(full_us);
            if full_us > now_us {
                self.full_us.put(network, full_us, ());
            }
        }
    }

    fn advance(&mut self, now_ms: u64) -> u64 {
        self.latest_us = self.latest_us.max(now_ms.saturating_mul(1000));
        self.full_us.drop_ranked_up_to(self.latest_us);
        self.latest_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(n: u32) -> Option<IpAddr> {
        Some(IpAddr::V4((0x0a00_0000 + n).into()))
    }

    #[test]
    fn a_network_has_its_places_at_once_and_then_one_each_interval() {
        let mut registrations = Registrations::new(20, 100);
        for _ in 0..20 {
            assert_eq!(registrations.begin(ip(1), 5), Ok(()));
        }
        assert_eq!(registrations.begin(ip(1), 5), Err(180_000));
        assert_eq!(registrations.begin(ip(1), 180_004), Err(1));
        assert_eq!(registrations.begin(ip(1), 180_005), Ok(()));
        assert_eq!(registrations.begin(ip(1), 180_005), Err(180_000));
        assert_eq!(registrations.begin(ip(2), 180_005), Ok(()));
    }

    #[test]
    fn what_came_to_nothing_costs_no_place() {
        let mut registrations = Registrations::new(2, 100);
        for now_ms in 0..50 {
            assert_eq!(registrations.begin(ip(1), now_ms), Ok(()));
            registrations.give_back(ip(1), now_ms);
        }
        assert!(registrations.full_us.entries.is_empty());
        assert_eq!(registrations.begin(ip(1), 50), Ok(()));
        assert_eq!(registrations.begin(ip(1), 50), Ok(()));
        assert_eq!(registrations.begin(ip(1), 50), Err(1_800_000));
        registrations.give_back(ip(1), 50);
        assert_eq!(registrations.begin(ip(1), 50), Ok(()));
    }

    #[test]
    fn an_exempt_address_is_not_counted_and_an_ipv6_site_is_one_network() {
        let mut registrations = Registrations::new(1, 100);
        for _ in 0..100 {
            assert_eq!(registrations.begin(None, 0), Ok(()));
        }
        registrations.give_back(None, 0);
        let site = |n: u128| Some(IpAddr::V6((0x2001_0db8 << 96 | n).into()));
        assert_eq!(registrations.begin(site(1), 0), Ok(()));
        assert!(registrations.begin(site(2), 0).is_err());
    }

    proptest! {
        #[test]
        fn no_hour_has_more_than_two_buckets_and_the_table_stays_bounded(
            per_hour in 1u32..50,
            capacity in 0usize..5,
            steps in prop::collection::vec((0u32..4, 0u64..600_000), 1..300),
        ) {
            let mut registrations = Registrations::new(per_hour, capacity.max(4));
            let mut small = Registrations::new(per_hour, capacity);
            let mut granted: [Vec<u64>; 4] = Default::default();
            let mut now_ms = 0;
            for (network, step_ms) in steps {
                now_ms += step_ms;
                let _ = small.begin(ip(network), now_ms);
                prop_assert!(small.full_us.entries.len() <= capacity);
                match registrations.begin(ip(network), now_ms) {
                    Ok(()) => granted[network as usize].push(now_ms),
                    Err(wait_ms) => prop_assert!((1..=3_600_000).contains(&wait_ms)),
                }
                let hour = granted[network as usize].iter().filter(|at| **at + 3_600_000 > now_ms);
                prop_assert!(hour.count() <= 2 * per_hour as usize);
            }
        }
    }
}
