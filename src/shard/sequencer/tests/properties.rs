//! Whatever the bus and the store do, whatever is forged and restored.

use proptest::prelude::*;

use super::*;

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
    fetch: Option<(Fetch, Option<Answer<i64>>)>,
    to_retry: Option<Fetch>,
    delivered: Vec<i64>,
    sequencer: Sequencer<i64>,
    /// The last number before those that come out; none while it is not known.
    baseline: Option<u64>,
}

impl World {
    /// A store with `written` messages already, where `known` says that the sequencer knows it.
    fn new(written: u64, known: bool, limit: usize, page: usize) -> Self {
        Self {
            written,
            swept: Default::default(),
            page,
            limit,
            flying: Vec::new(),
            fetch: None,
            to_retry: None,
            delivered: Vec::new(),
            sequencer: match known {
                true => Sequencer::starting_after(written),
                false => Sequencer::unknown(),
            },
            baseline: known.then_some(written),
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Write { copies } => {
                self.written += 1;
                self.flying
                    .extend(std::iter::repeat_n(self.written, copies));
            }
            Event::Arrive(index) if !self.flying.is_empty() => {
                let seq = self.flying.swap_remove(index.index(self.flying.len()));
                self.arrive(seq);
            }
            Event::Sweep(index) if self.written > 0 => {
                self.swept
                    .insert(index.index(self.written as usize) as u64 + 1);
            }
            Event::LookUp => self.look_up(),
            Event::Answer => self.answer(),
            Event::Fail => self.fail(),
            Event::Retry => self.retry(),
            Event::BusWasAway => self.bus_was_away(),
            Event::Baseline if self.baseline.is_none() => self.learn_baseline(self.written),
            Event::Arrive(_) | Event::Sweep(_) | Event::Baseline => {}
        }
    }

    fn bus_was_away(&mut self) {
        let fetch = self.sequencer.gap_possible();
        self.start(fetch);
    }

    fn learn_baseline(&mut self, last: u64) {
        self.baseline = Some(last);
        let fetch = self.sequencer.baseline(last);
        self.drain();
        self.start(fetch);
    }

    /// Peace: what flies is lost, the bus tells that it was away, and every fetch works.
    fn settle(&mut self) {
        self.bus_was_away();
        let mut rounds = 0;
        while self.fetch.is_some() {
            rounds += 1;
            assert!(rounds < 1_000, "fetching without end");
            self.look_up();
            self.answer();
        }
    }

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
        match self.sequencer.offer(seq, seq as i64, self.limit) {
            Offer::Deliver(item) => self.delivered.push(item),
            Offer::Drop => {}
            Offer::Held { fetch } => self.start(fetch),
        }
        self.drain();
    }

    /// The store looks up what was asked for; the answer is on its way.
    fn look_up(&mut self) {
        if let Some((fetch, answer @ None)) = &mut self.fetch {
            let end = if fetch.to == 0 {
                self.written
            } else {
                fetch.to.min(self.written)
            };
            let mut found: Vec<i64> = (fetch.after + 1..=end)
                .filter(|seq| !self.swept.contains(seq))
                .map(|seq| seq as i64)
                .collect();
            let more = found.len() > self.page;
            found.truncate(self.page);
            *answer = Some(Answer {
                more,
                ..has(found, self.written)
            });
        }
    }

    fn answer(&mut self) {
        if let Some((fetch, Some(answer))) = self.fetch.take_if(|(_, answer)| answer.is_some()) {
            let next = self.sequencer.fetched(fetch, answer);
            self.sequencer.take_step_back();
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
        let mut world = World::new(before, known, limit, page);
        for event in events {
            world.happens(event);
            prop_assert!(world.delivered.is_sorted_by(|a, b| a < b), "{:?}", world.delivered);
            let gap = world.sequencer.gap.as_ref();
            prop_assert!(gap.is_none_or(|gap| gap.held.len() <= limit + page));
        }
        if world.baseline.is_none() {
            prop_assert!(world.delivered.is_empty());
            world.learn_baseline(before);
        }
        world.settle();
        let first = world.baseline.unwrap_or(before) + 1;
        prop_assert!(world.delivered.is_sorted_by(|a, b| a < b));
        let stored = first as i64..=world.written as i64;
        prop_assert!(world.delivered.iter().all(|id| stored.contains(id)));
        for seq in first..=world.written {
            prop_assert!(
                world.swept.contains(&seq) || world.delivered.contains(&(seq as i64)),
                "{seq} is missing in {:?}", world.delivered
            );
        }
        prop_assert!(world.sequencer.gap.is_none());
    }
}

/// A store whose numbers may be forged on the bus, and which may be an older one all of a sudden.
struct Forgeable {
    /// The ids by number, less one.
    stored: Vec<i64>,
    next_id: i64,
    delivered: Vec<i64>,
    sequencer: Sequencer<i64>,
}

#[derive(Clone, Debug)]
enum Deed {
    /// A message is stored and pushed, and so is what was stored before and pushed to nobody yet.
    Send {
        is_pushed: bool,
    },
    /// A number so far from the last one, with an id that nobody gave.
    Forge(i64),
    /// The store has as many messages less.
    Restore(usize),
    LookForMissed,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => any::<bool>().prop_map(|is_pushed| Deed::Send { is_pushed }),
        4 => (-3i64..6).prop_map(Deed::Forge),
        1 => (1usize..4).prop_map(Deed::Restore),
        1 => Just(Deed::LookForMissed),
    ]
}

impl Forgeable {
    fn arrive(&mut self, seq: u64, id: i64) {
        let fetch = match self.sequencer.offer(seq, id, LIMIT) {
            Offer::Deliver(item) => {
                self.delivered.push(item);
                None
            }
            Offer::Drop => None,
            Offer::Held { fetch } => fetch,
        };
        self.delivered.extend(drained(&mut self.sequencer));
        self.fetch(fetch);
    }

    /// Until the store has answered everything.
    fn fetch(&mut self, mut fetch: Option<Fetch>) {
        let mut rounds = 0;
        while let Some(wanted) = fetch {
            rounds += 1;
            assert!(rounds < 20, "fetching without end");
            let end = self.stored.len() as u64;
            let to = if wanted.to == 0 {
                end
            } else {
                wanted.to.min(end)
            };
            let items = (wanted.after + 1..=to).map(|seq| (seq, self.stored[seq as usize - 1]));
            let answer = Answer {
                items: items.collect(),
                more: false,
                end: Some(end),
            };
            fetch = self.sequencer.fetched(wanted, answer);
            self.sequencer.take_step_back();
            self.delivered.extend(drained(&mut self.sequencer));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn whatever_is_forged_and_restored_everything_real_that_is_pushed_comes_out(
        deeds in prop::collection::vec(deed(), 0..25),
    ) {
        const FORGED: i64 = 1_000_000;
        let mut world = Forgeable {
            stored: (1..=10).collect(),
            next_id: 10,
            delivered: Vec::new(),
            sequencer: Sequencer::starting_after(0),
        };
        // What came out lately is remembered; before that, a new message cannot be told from an old
        // one.
        (1..=10).for_each(|seq| world.arrive(seq, seq as i64));
        let mut forgeries = 0;
        let mut unpushed = Vec::new();
        for deed in deeds {
            match deed {
                Deed::Send { is_pushed } => {
                    world.next_id += 1;
                    world.stored.push(world.next_id);
                    unpushed.push((world.stored.len() as u64, world.next_id));
                    if is_pushed {
                        for (seq, id) in unpushed.drain(..) {
                            world.arrive(seq, id);
                            prop_assert!(
                                world.delivered.iter().any(|out| out.abs() == id),
                                "{id} is missing in {:?}", world.delivered
                            );
                        }
                    }
                }
                Deed::Forge(distance) => {
                    forgeries += 1;
                    let last = world.sequencer.last().unwrap_or(0) as i64;
                    world.arrive((last + distance).max(1) as u64, FORGED + forgeries);
                }
                Deed::Restore(count) => {
                    world.stored.truncate(world.stored.len().saturating_sub(count));
                    unpushed.clear();
                }
                Deed::LookForMissed => {
                    let fetch = world.sequencer.gap_possible();
                    world.fetch(fetch);
                    let believed = world.sequencer.last();
                    prop_assert!(believed <= Some(world.stored.len() as u64), "{believed:?}");
                }
            }
            for id in &world.delivered {
                let times = world.delivered.iter().filter(|other| *other == id).count();
                prop_assert!(*id < 0 || times == 1, "{id} came unmarked {times} times");
            }
        }
        // The next real message comes out, and the stream is right again.
        world.stored.push(FORGED - 1);
        let seq = world.stored.len() as u64;
        world.arrive(seq, FORGED - 1);
        prop_assert!(world.delivered.iter().any(|out| out.abs() == FORGED - 1));
        let fetch = world.sequencer.gap_possible();
        world.fetch(fetch);
        prop_assert_eq!(world.sequencer.last(), Some(seq));
        prop_assert!(world.sequencer.gap.is_none());
    }
}
