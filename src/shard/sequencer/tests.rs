//! What a sequencer promises, whatever the bus and the store do.

use super::*;
use proptest::prelude::*;

const LIMIT: usize = 100;

impl<T> Sequencer<T> {
    /// A stream whose next number is the one after `last`.
    fn starting_after(last: u64) -> Self {
        Self {
            last: Some(last),
            gap: None,
        }
    }
}

fn held<T>(after: u64, to: u64) -> Offer<T> {
    Offer::Held {
        fetch: Some(Fetch { after, to }),
    }
}

fn waiting<T>() -> Offer<T> {
    Offer::Held { fetch: None }
}

fn drained<T>(sequencer: &mut Sequencer<T>) -> Vec<T> {
    std::iter::from_fn(|| sequencer.pop_ready()).collect()
}

#[test]
fn an_idle_stream_is_small_and_owns_nothing() {
    assert!(size_of::<Sequencer<[u8; 256]>>() <= 32);
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(2, "b", LIMIT), held(0, 1));
    assert!(sequencer.gap.is_some());
    assert_eq!(sequencer.offer(1, "a", LIMIT), Offer::Deliver("a"));
    assert_eq!(drained(&mut sequencer), ["b"]);
    let none = sequencer.fetched(Fetch { after: 0, to: 1 }, [(1, "a")], false);
    assert_eq!(none, None);
    assert!(sequencer.gap.is_none());
}

#[test]
fn numbers_in_order_pass_and_repeated_ones_do_not() {
    let mut sequencer = Sequencer::starting_after(4);
    assert_eq!(sequencer.offer(4, (), LIMIT), Offer::Drop);
    assert_eq!(sequencer.offer(5, (), LIMIT), Offer::Deliver(()));
    assert_eq!(sequencer.offer(6, (), LIMIT), Offer::Deliver(()));
    assert_eq!(sequencer.offer(5, (), LIMIT), Offer::Drop);
    assert_eq!(sequencer.last(), Some(6));
}

#[test]
fn a_lost_push_is_fetched_once_and_what_came_later_waits() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(3, "c", LIMIT), held(0, 2));
    assert_eq!(sequencer.offer(4, "d", LIMIT), waiting());
    assert_eq!(sequencer.offer(4, "d", LIMIT), Offer::Drop);
    let fetch = Fetch { after: 0, to: 2 };
    assert_eq!(sequencer.fetched(fetch, [(2, "b"), (1, "a")], false), None);
    assert_eq!(drained(&mut sequencer), ["a", "b", "c", "d"]);
    assert_eq!(sequencer.offer(5, "e", LIMIT), Offer::Deliver("e"));
}

#[test]
fn a_number_beyond_belief_skips_nothing_and_has_the_store_asked() {
    let mut sequencer = Sequencer::unknown();
    sequencer.baseline(5);
    let Offer::Held { fetch: Some(fetch) } = sequencer.offer(5 + FAR_AHEAD + 1, 'x', 10) else {
        panic!("the store is asked");
    };
    assert_eq!(fetch, Fetch { after: 5, to: 0 });
    assert_eq!(sequencer.fetched(fetch, [(6, 'a')], false), None);
    assert_eq!(sequencer.pop_ready(), Some('a'));
    assert_eq!(sequencer.offer(7, 'b', 10), Offer::Deliver('b'));
}

#[test]
fn a_number_that_the_store_no_longer_has_is_skipped() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(5, "e", LIMIT), held(0, 4));
    let fetch = Fetch { after: 0, to: 4 };
    assert_eq!(sequencer.fetched(fetch, [(2, "b")], false), None);
    assert_eq!(drained(&mut sequencer), ["b", "e"]);
    assert_eq!(sequencer.offer(3, "c", LIMIT), Offer::Drop);
}

#[test]
fn before_the_baseline_is_known_everything_waits() {
    let mut sequencer = Sequencer::unknown();
    for (seq, item) in [(7, "g"), (5, "e"), (6, "f"), (9, "i")] {
        assert_eq!(sequencer.offer(seq, item, LIMIT), waiting());
    }
    assert_eq!(sequencer.last(), None);
    assert_eq!(sequencer.pop_ready(), None);
    assert_eq!(sequencer.baseline(5), Some(Fetch { after: 7, to: 8 }));
    assert_eq!(drained(&mut sequencer), ["f", "g"]);
    assert_eq!(sequencer.baseline(100), None);
    assert_eq!(sequencer.last(), Some(7));
}

#[test]
fn what_exceeds_the_limit_is_fetched_in_its_turn() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(2, 2, 1), held(0, 1));
    assert_eq!(sequencer.offer(3, 3, 1), waiting());
    assert_eq!(sequencer.offer(4, 4, 1), waiting());
    let next = sequencer.fetched(Fetch { after: 0, to: 1 }, [(1, 1)], false);
    assert_eq!(drained(&mut sequencer), [1, 2]);
    assert_eq!(next, Some(Fetch { after: 2, to: 4 }));
    let done = sequencer.fetched(Fetch { after: 2, to: 4 }, [(3, 3), (4, 4)], false);
    assert_eq!(done, None);
    assert_eq!(drained(&mut sequencer), [3, 4]);
    assert!(sequencer.gap.is_none());
}

#[test]
fn an_answer_in_pages_is_fetched_to_its_end() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(6, 6, LIMIT), held(0, 5));
    let second = sequencer.fetched(Fetch { after: 0, to: 5 }, [(1, 1), (2, 2)], true);
    assert_eq!(drained(&mut sequencer), [1, 2]);
    assert_eq!(second, Some(Fetch { after: 2, to: 5 }));
    let third = sequencer.fetched(Fetch { after: 2, to: 5 }, [(3, 3), (4, 4)], true);
    assert_eq!(third, Some(Fetch { after: 4, to: 5 }));
    // A store that says there is more and has nothing must not be asked for ever.
    let end = sequencer.fetched(Fetch { after: 4, to: 5 }, [], true);
    assert_eq!(end, None);
    assert_eq!(drained(&mut sequencer), [3, 4, 6]);
}

#[test]
fn a_failed_fetch_is_repeated_only_when_the_caller_says() {
    let mut sequencer = Sequencer::starting_after(0);
    let fetch = Fetch { after: 0, to: 1 };
    assert_eq!(sequencer.offer(2, "b", LIMIT), held(0, 1));
    sequencer.fetch_failed(fetch);
    assert_eq!(sequencer.offer(3, "c", LIMIT), waiting());
    assert_eq!(sequencer.retry(), Some(fetch));
    assert_eq!(sequencer.retry(), None);
    sequencer.fetch_failed(fetch);
    assert_eq!(sequencer.offer(1, "a", LIMIT), Offer::Deliver("a"));
    assert_eq!(drained(&mut sequencer), ["b", "c"]);
    assert_eq!(sequencer.retry(), None);
    assert!(sequencer.gap.is_none());
}

#[test]
fn after_the_bus_was_away_everything_from_the_last_number_is_fetched() {
    let mut sequencer = Sequencer::starting_after(3);
    let fetch = Fetch { after: 3, to: 0 };
    assert_eq!(sequencer.gap_possible(), Some(fetch));
    assert_eq!(sequencer.offer(4, 4, LIMIT), Offer::Deliver(4));
    assert_eq!(sequencer.offer(7, 7, LIMIT), waiting());
    // The store answered before 6 and 7 were written.
    let next = sequencer.fetched(fetch, [(4, 4), (5, 5)], false);
    assert_eq!(drained(&mut sequencer), [5]);
    assert_eq!(next, Some(Fetch { after: 5, to: 6 }));
}

#[test]
fn a_gap_during_a_fetch_is_looked_into_after_it() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(2, 2, LIMIT), held(0, 1));
    assert_eq!(sequencer.gap_possible(), None);
    let next = sequencer.fetched(Fetch { after: 0, to: 1 }, [(1, 1)], false);
    assert_eq!(next, Some(Fetch { after: 2, to: 0 }));
    let mut unknown: Sequencer<u64> = Sequencer::unknown();
    assert_eq!(unknown.gap_possible(), None);
    assert_eq!(unknown.baseline(8), Some(Fetch { after: 8, to: 0 }));
}

#[test]
fn an_open_fetch_that_failed_is_open_again() {
    let mut sequencer = Sequencer::starting_after(3);
    let fetch = Fetch { after: 3, to: 0 };
    assert_eq!(sequencer.gap_possible(), Some(fetch));
    sequencer.fetch_failed(fetch);
    assert_eq!(sequencer.offer(4, 4, LIMIT), Offer::Deliver(4));
    assert_eq!(sequencer.retry(), Some(Fetch { after: 4, to: 0 }));
}

#[test]
fn the_answer_to_another_fetch_is_ignored() {
    let mut sequencer = Sequencer::starting_after(10);
    assert_eq!(sequencer.offer(12, 12, LIMIT), held(10, 11));
    let stale = Fetch { after: 0, to: 20 };
    assert_eq!(sequencer.fetched(stale, [(15, 15)], false), None);
    sequencer.fetch_failed(stale);
    assert_eq!(sequencer.last(), Some(10));
    assert_eq!(sequencer.pop_ready(), None);
    assert_eq!(
        sequencer.fetched(Fetch { after: 10, to: 11 }, [(11, 11)], false),
        None
    );
    assert_eq!(drained(&mut sequencer), [11, 12]);
}

#[test]
fn a_caller_that_drains_late_still_gets_them_in_order() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(2, 2, LIMIT), held(0, 1));
    assert_eq!(sequencer.offer(1, 1, LIMIT), Offer::Deliver(1));
    assert_eq!(sequencer.offer(3, 3, LIMIT), waiting());
    assert_eq!(drained(&mut sequencer), [2, 3]);
}

#[test]
fn the_greatest_number_does_not_overflow() {
    let mut sequencer = Sequencer::starting_after(u64::MAX - 1);
    assert_eq!(sequencer.offer(u64::MAX, (), LIMIT), Offer::Deliver(()));
    assert_eq!(sequencer.offer(u64::MAX, (), LIMIT), Offer::Drop);
    assert_eq!(sequencer.offer(0, (), LIMIT), Offer::Drop);
    let mut low = Sequencer::starting_after(0);
    assert_eq!(low.offer(u64::MAX, (), LIMIT), held(0, 0));
}

/// The numbers found, and whether there are more.
type Answer = (Vec<u64>, bool);

/// The store and the way to it, as bad as they may be.
struct World {
    /// The last number written.
    written: u64,
    /// Numbers confirmed and swept.
    swept: std::collections::BTreeSet<u64>,
    page: usize,
    limit: usize,
    /// Pushes that have not arrived yet.
    flying: Vec<u64>,
    /// The fetch under way and, once the store has looked, its answer.
    fetch: Option<(Fetch, Option<Answer>)>,
    to_retry: Option<Fetch>,
    delivered: Vec<u64>,
    sequencer: Sequencer<u64>,
}

impl World {
    fn start(&mut self, fetch: Option<Fetch>) {
        if let Some(fetch) = fetch {
            assert!(
                self.fetch.is_none(),
                "a second fetch while one is under way"
            );
            assert!(fetch.to == 0 || fetch.after < fetch.to, "{fetch:?}");
            self.fetch = Some((fetch, None));
        }
    }

    fn drain(&mut self) {
        while let Some(item) = self.sequencer.pop_ready() {
            self.delivered.push(item);
        }
    }

    fn arrive(&mut self, seq: u64) {
        match self.sequencer.offer(seq, seq, self.limit) {
            Offer::Deliver(item) => {
                self.delivered.push(item);
                self.drain();
            }
            Offer::Drop => {}
            Offer::Held { fetch } => self.start(fetch),
        }
    }

    /// The store looks up what was asked for; the answer is on its way.
    fn look_up(&mut self) {
        if let Some((fetch, answer @ None)) = &mut self.fetch {
            let end = if fetch.to == 0 {
                self.written
            } else {
                fetch.to.min(self.written)
            };
            let mut found: Vec<u64> = (fetch.after + 1..=end)
                .filter(|seq| !self.swept.contains(seq))
                .collect();
            let more = found.len() > self.page;
            found.truncate(self.page);
            *answer = Some((found, more));
        }
    }

    fn answer(&mut self) {
        if let Some((fetch, Some((found, more)))) =
            self.fetch.take_if(|(_, answer)| answer.is_some())
        {
            let items = found.into_iter().map(|seq| (seq, seq));
            let next = self.sequencer.fetched(fetch, items, more);
            self.drain();
            self.start(next);
        }
    }

    fn fail(&mut self) {
        if let Some((fetch, _)) = self.fetch.take() {
            self.sequencer.fetch_failed(fetch);
            self.to_retry = Some(fetch);
        }
    }

    fn retry(&mut self) {
        if self.to_retry.take().is_some() {
            let fetch = self.sequencer.retry();
            self.start(fetch);
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// A message is stored; its push is lost, or flies once or twice.
    Write {
        copies: usize,
    },
    /// One of the pushes in flight arrives, whichever.
    Arrive(prop::sample::Index),
    Sweep(prop::sample::Index),
    LookUp,
    Answer,
    Fail,
    Retry,
    BusWasAway,
    Baseline,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0usize..3).prop_map(|copies| Event::Write { copies }),
        6 => any::<prop::sample::Index>().prop_map(Event::Arrive),
        1 => any::<prop::sample::Index>().prop_map(Event::Sweep),
        3 => Just(Event::LookUp),
        3 => Just(Event::Answer),
        1 => Just(Event::Fail),
        1 => Just(Event::Retry),
        1 => Just(Event::BusWasAway),
        1 => Just(Event::Baseline),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_the_bus_and_the_store_do_each_number_comes_out_once_and_in_order(
        known in any::<bool>(),
        limit in 0usize..6,
        page in 1usize..5,
        before in 0u64..5,
        events in prop::collection::vec(event(), 0..150),
    ) {
        let mut world = World {
            written: before,
            swept: Default::default(),
            page,
            limit,
            flying: Vec::new(),
            fetch: None,
            to_retry: None,
            delivered: Vec::new(),
            sequencer: if known { Sequencer::starting_after(before) } else { Sequencer::unknown() },
        };
        let mut baseline = known.then_some(before);
        for event in events {
            match event {
                Event::Write { copies } => {
                    world.written += 1;
                    world.flying.extend(std::iter::repeat_n(world.written, copies));
                }
                Event::Arrive(index) if !world.flying.is_empty() => {
                    let seq = world.flying.swap_remove(index.index(world.flying.len()));
                    world.arrive(seq);
                }
                Event::Sweep(index) if world.written > 0 => {
                    world.swept.insert(index.index(world.written as usize) as u64 + 1);
                }
                Event::LookUp => world.look_up(),
                Event::Answer => world.answer(),
                Event::Fail => world.fail(),
                Event::Retry => world.retry(),
                Event::BusWasAway => {
                    let fetch = world.sequencer.gap_possible();
                    world.start(fetch);
                }
                Event::Baseline if baseline.is_none() => {
                    baseline = Some(world.written);
                    let fetch = world.sequencer.baseline(world.written);
                    world.drain();
                    world.start(fetch);
                }
                Event::Arrive(_) | Event::Sweep(_) | Event::Baseline => {}
            }
            prop_assert!(world.delivered.is_sorted_by(|a, b| a < b), "{:?}", world.delivered);
            prop_assert!(world.sequencer.gap.as_ref().is_none_or(|gap| gap.held.len() <= limit + page));
        }
        if baseline.is_none() {
            prop_assert!(world.delivered.is_empty());
            baseline = Some(before);
            let fetch = world.sequencer.baseline(before);
            world.drain();
            world.start(fetch);
        }
        // Peace: what flies is lost, the bus tells that it was away, and every fetch works.
        let fetch = world.sequencer.gap_possible();
        world.start(fetch);
        let mut rounds = 0;
        while world.fetch.is_some() {
            rounds += 1;
            prop_assert!(rounds < 1_000, "fetching without end");
            world.look_up();
            world.answer();
        }
        let first = baseline.unwrap_or(before) + 1;
        prop_assert!(world.delivered.is_sorted_by(|a, b| a < b));
        prop_assert!(world.delivered.iter().all(|seq| (first..=world.written).contains(seq)));
        for seq in first..=world.written {
            prop_assert!(
                world.swept.contains(&seq) || world.delivered.contains(&seq),
                "{seq} is missing in {:?}", world.delivered
            );
        }
        prop_assert!(world.sequencer.gap.is_none());
    }
}

#[test]
fn what_the_store_has_beyond_a_known_stream_was_lost_and_is_fetched() {
    let mut sequencer = Sequencer::starting_after(3);
    assert_eq!(sequencer.baseline(3), None);
    let fetch = Fetch { after: 3, to: 5 };
    assert_eq!(sequencer.baseline(5), Some(fetch));
    assert_eq!(sequencer.fetched(fetch, [(4, "d"), (5, "e")], false), None);
    assert_eq!(drained(&mut sequencer), ["d", "e"]);
}

#[test]
fn a_stream_of_which_nobody_says_where_it_begins_begins_with_what_is_held() {
    let mut sequencer = Sequencer::unknown();
    assert_eq!(sequencer.begin_with_held(), None);
    assert_eq!(sequencer.offer(7, "g", LIMIT), waiting());
    assert_eq!(sequencer.offer(8, "h", LIMIT), waiting());
    assert_eq!(sequencer.begin_with_held(), None);
    assert_eq!(drained(&mut sequencer), ["g", "h"]);
    assert_eq!(sequencer.begin_with_held(), None);
}
