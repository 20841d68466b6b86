//! Worker numbers, `/im-gateway/workers/N`: each is one gateway's at a time, so no two cores of a system make the same ids.
//!
//! Owns which numbers are tried, and in which order. Holding the gateway's id comes first: it is what makes the numbers that a
//! predecessor of this id left behind ours to take over.
//!
//! A gateway goes on with its numbers while ZooKeeper is away. Should that last longer than its session, another gateway
//! may lease them meanwhile; each begins its search at a place of its own so that this takes an almost full house.

use std::hash::{DefaultHasher, Hash, Hasher};

use zookeeper_client as zk;

use super::connection::{Owner, Session};
use crate::id::FIRST_SERVICE_WORKER;

/// Where numbers are leased.
const WORKERS: &str = "/im-gateway/workers";

/// Why there are not enough numbers.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    /// Others have them all.
    #[error(
        "all {FIRST_SERVICE_WORKER} worker numbers are taken; there are too many workers in this system"
    )]
    NoneFree,
    /// ZooKeeper.
    #[error("cannot lease worker numbers: {0}")]
    Zookeeper(#[from] zk::Error),
}

/// Leases `count` numbers for the gateway `gateway_id`: those of `held` that can be had, others in the place of the rest.
pub(super) async fn lease(
    session: &Session,
    gateway_id: &str,
    count: usize,
    held: &[u16],
) -> Result<Vec<u16>, LeaseError> {
    session.ensure(WORKERS).await?;
    let mut others = search_order(gateway_id).filter(|number| !held.contains(number));
    let mut leased = Vec::with_capacity(count);
    for place in 0..count {
        let number = match held.get(place) {
            Some(number) if take(session, gateway_id, *number).await? => *number,
            _ => loop {
                let number = others.next().ok_or(LeaseError::NoneFree)?;
                if take(session, gateway_id, number).await? {
                    break number;
                }
            },
        };
        leased.push(number);
    }
    Ok(leased)
}

/// Takes one number, or finds that it is ours. Says whether it is.
async fn take(session: &Session, gateway_id: &str, number: u16) -> Result<bool, zk::Error> {
    let path = format!("{WORKERS}/{number}");
    let data = gateway_id.as_bytes();
    // Judged again after each claim that somebody else's came before. Those are few: everybody claims what it lacks, once.
    loop {
        let found = session.read(&path).await?;
        let seen = match &found {
            None => None,
            Some((holder, stat)) => match session.owner(stat) {
                Owner::Us => return Ok(true),
                Owner::Other if holder != data => return Ok(false),
                Owner::UsBefore | Owner::Other => Some(stat),
            },
        };
        if session.claim(&path, seen, data).await? {
            return Ok(true);
        }
    }
}

/// All numbers, beginning at a place that depends on the id.
fn search_order(gateway_id: &str) -> impl Iterator<Item = u16> {
    let mut hasher = DefaultHasher::new();
    gateway_id.hash(&mut hasher);
    // Less than FIRST_SERVICE_WORKER, so it fits.
    let start = (hasher.finish() % u64::from(FIRST_SERVICE_WORKER)) as u16;
    (0..FIRST_SERVICE_WORKER).map(move |step| (start + step) % FIRST_SERVICE_WORKER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_number_is_tried_once_from_a_place_of_its_own() {
        let order: Vec<u16> = search_order("gateway-1").collect();
        let distinct: BTreeSet<u16> = order.iter().copied().collect();
        assert_eq!(order.len(), usize::from(FIRST_SERVICE_WORKER));
        assert_eq!(distinct.len(), order.len());
        assert!(distinct.iter().all(|number| *number < FIRST_SERVICE_WORKER));
        assert_eq!(order, search_order("gateway-1").collect::<Vec<_>>());
        assert_ne!(order[0], search_order("gateway-2").next().expect("one"));
    }
}
