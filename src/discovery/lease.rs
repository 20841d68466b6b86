//! Worker numbers, `/im-gateway/workers/N`: each is one gateway's at a time, so no two cores of a
//! system make the same ids.
//!
//! Owns which numbers are tried, and in which order. Holding the gateway's id comes first: it is
//! what makes the numbers that a predecessor of this id left behind ours to take over.
//!
//! A gateway goes on with its numbers while ZooKeeper is away. Should that last longer than its
//! session, another gateway may lease them meanwhile. Then the number's mark (`mark`) keeps their
//! ids apart; and as each begins its search at a place of its own, and takes a number that was used
//! a moment ago last, this happens only where almost all numbers are taken.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::Instant,
};

use super::{
    mark::{self, MARKS, Mark, RAISE_EVERY, first_end, next_end},
    registry::{Owner, RegistryError, Session},
};
use crate::{
    base::id::{FIRST_SERVICE_WORKER, ID_TIME_END_UNIX_MS, IdLease},
    machine::unix_time::unix_ms,
};

/// Where numbers are leased.
const WORKERS: &str = "/im-gateway/workers";

/// A number whose mark is not older than this is leased only if there is no other.
const RECENT_MS: u64 = 600_000;

/// Why there are not enough numbers.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    /// Others have them all.
    #[error(
        "all {FIRST_SERVICE_WORKER} worker numbers are taken; there are too many workers in this system"
    )]
    NoneFree,
    /// The registry does not do it.
    #[error("cannot lease worker numbers: {0}")]
    Registry(#[from] RegistryError),
}

/// A number that is ours, with the ids of it that are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) lease: IdLease,
    /// When its mark was last raised.
    pub(super) raised: Instant,
}

/// Who leases numbers.
pub(super) struct Lessee {
    gateway_id: String,
    /// Names this process in marks: others of the same gateway came before.
    token: String,
}

impl Lessee {
    pub(super) fn new(gateway_id: &str) -> Self {
        // Without a random source the process id has to do: of two processes of one id at most one
        // is registered.
        let token = getrandom::u64().unwrap_or_else(|_| std::process::id().into());
        Self {
            gateway_id: gateway_id.to_owned(),
            token: format!("{token:016x}"),
        }
    }

    /// Leases `count` numbers: those of `held` that can be had, others in the place of the rest;
    /// and extends what is due.
    pub(super) async fn lease(
        &self,
        session: &impl Session,
        count: usize,
        held: &[Held],
    ) -> Result<Vec<Held>, LeaseError> {
        session.ensure(WORKERS).await?;
        session.ensure(MARKS).await?;
        assert!(held.len() <= count, "a gateway's cores do not become fewer");
        let is_held = |number: &u16| held.iter().any(|held| held.lease.worker == *number);
        let mut others = Candidates {
            unseen: search_order(&self.gateway_id).filter(|number| !is_held(number)),
            recent: Vec::new(),
        };
        let mut leased = Vec::with_capacity(count);
        for place in 0..count {
            let before = held.get(place);
            let kept = match before {
                Some(held) => self.keep(session, held).await?,
                None => None,
            };
            leased.push(match kept {
                Some(kept) => kept,
                None => {
                    // The core's ids still grow: the new ones must reach beyond what it may have
                    // made already.
                    let reached_ms = before.map_or(0, |held| held.lease.until_ms);
                    self.find(session, &mut others, reached_ms).await?
                }
            });
        }
        assert_eq!(leased.len(), count, "a number for each core");
        debug_assert!(
            are_distinct(&leased),
            "two cores with one number make the same ids"
        );
        Ok(leased)
    }

    /// `held` once more, extended if that is due; `None`: it is somebody else's.
    async fn keep(
        &self,
        session: &impl Session,
        held: &Held,
    ) -> Result<Option<Held>, RegistryError> {
        let IdLease {
            worker, until_ms, ..
        } = held.lease;
        if !take(session, &self.gateway_id, worker).await? {
            return Ok(None);
        }
        let mark = match mark::read(session, worker).await? {
            Some(mark) if mark.token == self.token => mark,
            // Somebody else had it meanwhile, or somebody deleted the mark.
            other => return self.reserve(session, worker, other, until_ms).await,
        };
        let mut kept = *held;
        // More than was told where an answer was lost.
        kept.lease.until_ms = mark.until_ms.max(until_ms).min(ID_TIME_END_UNIX_MS);
        if held.raised.elapsed() < RAISE_EVERY {
            return Ok(Some(kept));
        }
        let raised = Instant::now();
        let end = next_end(now_ms(), kept.lease.until_ms, raised - held.raised);
        if !mark::raise(session, worker, Some(&mark), end, &self.token).await? {
            // Whoever raised it holds the number by now, or will: looked at again in the next
            // round.
            return Ok(None);
        }
        assert!(
            end >= kept.lease.until_ms,
            "an extended lease ends no sooner"
        );
        kept.lease.until_ms = end;
        Ok(Some(Held { raised, ..kept }))
    }

    /// The first of `others` that can be had, with ids beyond `reached_ms`.
    async fn find(
        &self,
        session: &impl Session,
        others: &mut Candidates<impl Iterator<Item = u16>>,
        reached_ms: u64,
    ) -> Result<Held, LeaseError> {
        while let Some((number, mark)) = others.next(session).await? {
            // A mark at the end of time leaves no ids, so the number is of no use.
            if first_end(0, mark.as_ref().map_or(0, |mark| mark.until_ms)).is_some()
                && take(session, &self.gateway_id, number).await?
                && let Some(held) = self.reserve(session, number, mark, reached_ms).await?
            {
                return Ok(held);
            }
        }
        Err(LeaseError::NoneFree)
    }

    /// The ids of a number that has just been taken, from behind its mark on; `None`: none are
    /// left.
    async fn reserve(
        &self,
        session: &impl Session,
        worker: u16,
        mut mark: Option<Mark>,
        reached_ms: u64,
    ) -> Result<Option<Held>, RegistryError> {
        // Judged again after each time that somebody who had the number before was quicker to raise
        // its mark.
        loop {
            let from_ms = mark.as_ref().map_or(0, |mark| mark.until_ms);
            let Some(until_ms) = first_end(now_ms(), from_ms.max(reached_ms)) else {
                return Ok(None);
            };
            let raised = Instant::now();
            if mark::raise(session, worker, mark.as_ref(), until_ms, &self.token).await? {
                assert!(worker < FIRST_SERVICE_WORKER, "the rest is the services'");
                assert!(from_ms < until_ms && reached_ms < until_ms, "ids are left");
                let lease = IdLease {
                    worker,
                    from_ms,
                    until_ms,
                };
                return Ok(Some(Held { lease, raised }));
            }
            mark = mark::read(session, worker).await?;
        }
    }
}

/// Numbers that may be free, those whose marks are long past first.
struct Candidates<I> {
    unseen: I,
    /// Those passed over because they were used a moment ago, the one that was used last first.
    recent: Vec<(u64, u16, Option<Mark>)>,
}

impl<I: Iterator<Item = u16>> Candidates<I> {
    async fn next(
        &mut self,
        session: &impl Session,
    ) -> Result<Option<(u16, Option<Mark>)>, RegistryError> {
        for number in self.unseen.by_ref() {
            let mark = mark::read(session, number).await?;
            match &mark {
                Some(seen) if seen.until_ms.saturating_add(RECENT_MS) > now_ms() => {
                    let place = (seen.until_ms, number);
                    let index = self
                        .recent
                        .partition_point(|(until_ms, number, _)| (*until_ms, *number) > place);
                    self.recent.insert(index, (place.0, place.1, mark));
                }
                _ => return Ok(Some((number, mark))),
            }
        }
        Ok(self.recent.pop().map(|(_, number, mark)| (number, mark)))
    }
}

fn are_distinct(leased: &[Held]) -> bool {
    let numbers: HashSet<u16> = leased.iter().map(|held| held.lease.worker).collect();
    numbers.len() == leased.len()
}

fn now_ms() -> u64 {
    u64::try_from(unix_ms()).unwrap_or(0)
}

/// Takes one number, or finds that it is ours. Says whether it is.
async fn take(
    session: &impl Session,
    gateway_id: &str,
    number: u16,
) -> Result<bool, RegistryError> {
    let path = format!("{WORKERS}/{number}");
    let data = gateway_id.as_bytes();
    // Judged again after each claim that somebody else's came before. Those are few: everybody
    // claims what it lacks, once.
    loop {
        let found = session.read(&path).await?;
        let seen = match &found {
            None => None,
            Some(entry) => match entry.owner {
                Owner::Us => return Ok(true),
                Owner::Other if entry.data != data => return Ok(false),
                Owner::UsBefore | Owner::Other => Some(entry.version),
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
