//! The channel MPIM's Presence publishes to, computed as its C++ library does, from the published
//! algorithm and checked against what was observed. Written apart from the gateway's own, so that
//! neither is checked against itself.

const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
const SEED: u64 = 0xc70f_6907;
const WORD: usize = 8;

/// The name of the channel on which a gateway is told.
pub fn channel(gateway_id: &str) -> String {
    (10_000 + hash(gateway_id.as_bytes()) % 50_000).to_string()
}

fn hash(bytes: &[u8]) -> u64 {
    let mix = |word: u64| {
        let word = word.wrapping_mul(MULTIPLIER);
        word ^ (word >> 47)
    };
    let mut state = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let mut words = bytes.chunks_exact(WORD);
    for word in &mut words {
        let word = word
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        state = (state ^ mix(word).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let word = rest
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        state = (state ^ word).wrapping_mul(MULTIPLIER);
    }
    let state = (state ^ (state >> 47)).wrapping_mul(MULTIPLIER);
    state ^ (state >> 47)
}

#[test]
fn channels_are_those_that_were_observed() {
    for (gateway_id, number) in [
        ("gateway-1", "56852"),
        ("gateway-2", "13628"),
        ("gateway-3", "32028"),
        ("a", "28459"),
        ("gw-1#0", "31329"),
        ("gw-1#1", "30726"),
        ("gw-a/7", "57583"),
        ("", "33790"),
    ] {
        assert_eq!(channel(gateway_id), number, "{gateway_id:?}");
    }
}
