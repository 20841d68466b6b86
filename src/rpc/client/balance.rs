//! Which of several servers gets the next call.
//!
//! Pure: it is told the candidates' weights and loads, and draws from a random sequence.

use crate::{base::random::Random, config::settings::Algorithm};

/// What is known of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its number in the caller's list.
    pub index: usize,
    /// Its share, above 0.
    pub weight: u32,
    /// Calls it has not answered yet.
    pub outstanding: usize,
}

/// Chooses for one service.
#[derive(Debug)]
pub(super) struct Balancer {
    algorithm: Algorithm,
    /// `RoundRobin`: whose turn it was last.
    last: usize,
    /// `Weighted`: what each candidate is owed, by its number.
    credit: Vec<i64>,
    random: Random,
}

impl Balancer {
    /// A balancer that draws from `random`.
    pub fn new(algorithm: Algorithm, random: Random) -> Self {
        Self {
            algorithm,
            last: usize::MAX,
            credit: Vec::new(),
            random,
        }
    }

    /// One of `candidates`, which stand in the order of their numbers; `None`: there is none.
    pub fn choose(&mut self, candidates: &[Candidate]) -> Option<usize> {
        debug_assert!(candidates.is_sorted_by_key(|candidate| candidate.index));
        debug_assert!(candidates.iter().all(|candidate| candidate.weight > 0));
        let chosen = match candidates {
            [] => None,
            [only] => Some(only.index),
            _ => Some(match self.algorithm {
                Algorithm::RoundRobin => self.next_in_turn(candidates),
                Algorithm::LeastConnections => self.less_loaded_of_two(candidates),
                Algorithm::Weighted => self.most_owed(candidates),
            }),
        };
        assert_eq!(
            chosen.is_none(),
            candidates.is_empty(),
            "one of several is chosen"
        );
        debug_assert!(chosen.is_none_or(|index| {
            let mut indices = candidates.iter().map(|candidate| candidate.index);
            indices.any(|candidate| candidate == index)
        }));
        chosen
    }

    fn next_in_turn(&mut self, candidates: &[Candidate]) -> usize {
        let next = candidates
            .iter()
            .find(|candidate| self.last == usize::MAX || candidate.index > self.last)
            .unwrap_or(&candidates[0]);
        self.last = next.index;
        next.index
    }

    /// The power of two choices: nearly as even as looking at all, and no two cores run for the
    /// same idle server.
    fn less_loaded_of_two(&mut self, candidates: &[Candidate]) -> usize {
        let first = self.draw(candidates.len());
        let second = (first + 1 + self.draw(candidates.len() - 1)) % candidates.len();
        assert_ne!(first, second, "two choices");
        let (first, second) = (candidates[first], candidates[second]);
        if second.outstanding < first.outstanding {
            second.index
        } else {
            first.index
        }
    }

    /// Everyone is owed its weight with each call, and the one who is owed most gets the call and
    /// pays for all: shares are exact, and no candidate gets its calls in a row.
    fn most_owed(&mut self, candidates: &[Candidate]) -> usize {
        let mut total = 0;
        let mut best = candidates[0].index;
        for candidate in candidates {
            if self.credit.len() <= candidate.index {
                self.credit.resize(candidate.index + 1, 0);
            }
            self.credit[candidate.index] += i64::from(candidate.weight);
            total += i64::from(candidate.weight);
            if self.credit[candidate.index] > self.credit[best] {
                best = candidate.index;
            }
        }
        self.credit[best] -= total;
        best
    }

    /// A number below `limit`.
    fn draw(&mut self, limit: usize) -> usize {
        self.random.below(limit as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: &[u32], outstanding: &[usize]) -> Vec<Candidate> {
        weights
            .iter()
            .zip(outstanding)
            .enumerate()
            .map(|(index, (weight, outstanding))| Candidate {
                index,
                weight: *weight,
                outstanding: *outstanding,
            })
            .collect()
    }

    fn shares(algorithm: Algorithm, candidates: &[Candidate], calls: usize) -> Vec<usize> {
        let mut balancer = Balancer::new(algorithm, Random::seeded(42));
        let mut counts = vec![0; candidates.len()];
        for _ in 0..calls {
            counts[balancer.choose(candidates).expect("a candidate")] += 1;
        }
        counts
    }

    #[test]
    fn nobody_is_chosen_where_nobody_is() {
        for algorithm in Algorithm::ALL {
            assert_eq!(
                Balancer::new(algorithm, Random::seeded(1)).choose(&[]),
                None
            );
        }
    }

    #[test]
    fn round_robin_goes_round_and_over_those_who_are_missing() {
        let all = candidates(&[100, 100, 100], &[0, 0, 0]);
        assert_eq!(shares(Algorithm::RoundRobin, &all, 9), [3, 3, 3]);
        let mut balancer = Balancer::new(Algorithm::RoundRobin, Random::seeded(1));
        let some = [all[0], all[2]];
        let turns: Vec<_> = (0..4).filter_map(|_| balancer.choose(&some)).collect();
        assert_eq!(turns, [0, 2, 0, 2]);
    }

    #[test]
    fn weights_are_shares_and_calls_do_not_come_in_a_row() {
        let all = candidates(&[5, 1, 1], &[0, 0, 0]);
        assert_eq!(shares(Algorithm::Weighted, &all, 700), [500, 100, 100]);
        let mut balancer = Balancer::new(Algorithm::Weighted, Random::seeded(1));
        let turns: Vec<_> = (0..7).filter_map(|_| balancer.choose(&all)).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn of_two_the_less_loaded_is_chosen() {
        let two = candidates(&[100, 100], &[7, 3]);
        assert_eq!(shares(Algorithm::LeastConnections, &two, 100), [0, 100]);
        let three = candidates(&[100, 100, 100], &[0, 50, 100]);
        let counts = shares(Algorithm::LeastConnections, &three, 3000);
        assert_eq!(counts[2], 0, "the most loaded is never the better of two");
        assert!(counts[0] > counts[1]);
    }
}
