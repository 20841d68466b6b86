//! The names of the channels on Redis Pub/Sub.
//!
//! Owns their grammar, both ways. Pure.

use crate::{
    base::id::{GroupId, RouteId},
    contract::bus::Channel,
};

/// Everyone.
pub const BROADCAST: &str = "im:broadcast";

const PUSH_PREFIX: &str = "im:push:";
const GROUP_PREFIX: &str = "im:group:";
const PROBE_PREFIX: &str = "im:probe:";

/// MPIM's channels are numbers from here on.
const MPIM_FIRST: u64 = 10_000;
const MPIM_CHANNELS: u64 = 50_000;

/// Where pushes for the users of one core are published.
pub fn push(route: &RouteId) -> String {
    format!("{PUSH_PREFIX}{route}")
}

/// Where the messages of a group are published.
pub fn group(group: GroupId) -> String {
    format!("{GROUP_PREFIX}{group}")
}

/// The group whose channel this is, if it is one.
pub fn group_of(channel: &str) -> Option<GroupId> {
    channel.strip_prefix(GROUP_PREFIX)?.parse().ok()
}

/// Where a core publishes to itself, to see whether its subscriptions are alive.
pub fn probe(route: &RouteId) -> String {
    format!("{PROBE_PREFIX}{route}")
}

/// Where MPIM's Presence publishes for the users bound under `route`.
///
/// Two routes may share a number: whoever listens must expect pushes for users who are elsewhere.
pub fn mpim(route: &RouteId) -> String {
    (MPIM_FIRST + libstdcxx_hash(route.as_str().as_bytes()) % MPIM_CHANNELS).to_string()
}

/// The channel's name.
pub fn name(channel: &Channel) -> String {
    match channel {
        Channel::Route(route) => push(route),
        Channel::Group(of) => group(*of),
        Channel::Broadcast => BROADCAST.to_owned(),
    }
}

/// `std::hash<std::string>` of GNU's C++ library on 64 bits: a variant of MurmurHash64A.
fn libstdcxx_hash(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ (value >> 47);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    for word in words {
        let word = mix(u64::from_le_bytes(*word).wrapping_mul(MULTIPLIER));
        hash = (hash ^ word.wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let last = rest
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte));
        hash = (hash ^ last).wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As seen on the running system.
    #[test]
    fn mpims_channels_are_those_of_its_presence_service() {
        for (gateway_id, channel) in [
            ("gateway-1", 56852),
            ("gateway-2", 13628),
            ("gateway-3", 32028),
            ("a", 28459),
            ("gw-1#0", 31329),
            ("gw-1#1", 30726),
            ("gw-a/7", 57583),
            ("", 33790),
        ] {
            let number = MPIM_FIRST + libstdcxx_hash(gateway_id.as_bytes()) % MPIM_CHANNELS;
            assert_eq!(number, channel, "{gateway_id}");
        }
        assert_eq!(mpim(&RouteId::new("gw-1", 1)), "30726");
    }

    #[test]
    fn channels_are_named_as_the_contract_has_them() {
        let route = RouteId::new("gw-1", 0);
        assert_eq!(name(&Channel::Route(route.clone())), "im:push:gw-1#0");
        assert_eq!(name(&Channel::Group(7)), "im:group:7");
        assert_eq!(name(&Channel::Broadcast), "im:broadcast");
        assert_eq!(probe(&route), "im:probe:gw-1#0");
    }
}
