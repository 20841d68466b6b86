//! What a sequencer promises, whatever the bus and the store do.

mod properties;

use super::*;

const LIMIT: usize = 100;

/// A message by its id; what may have come out before is below 0.
impl Numbered for i64 {
    fn id(&self) -> MessageId {
        self.abs()
    }

    fn mark_repeat(&mut self) {
        *self = -self.abs();
    }

    fn adopt(&mut self, _: &Self) {}
}

impl<T: Numbered> Sequencer<T> {
    /// A stream whose next number is the one after `last`.
    fn starting_after(last: u64) -> Self {
        Self {
            position: Position::After(last),
            ..Self::unknown()
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

fn drained<T: Numbered>(sequencer: &mut Sequencer<T>) -> Vec<T> {
    std::iter::from_fn(|| sequencer.pop_ready()).collect()
}

/// A store that has these numbers, each with itself for an id, of those asked for, and ends at
/// `end`.
fn has(numbers: impl IntoIterator<Item = i64>, end: u64) -> Answer<i64> {
    let items = numbers.into_iter().map(|number| (number as u64, number));
    Answer {
        items: items.collect(),
        more: false,
        end: Some(end),
    }
}

fn fetch(after: u64, to: u64) -> Fetch {
    Fetch { after, to }
}

#[test]
fn an_idle_stream_is_small_and_owns_no_gap() {
    assert!(size_of::<Sequencer<i64>>() <= 32);
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(2, 2, LIMIT), held(0, 2));
    assert!(sequencer.gap.is_some());
    assert_eq!(sequencer.offer(1, 1, LIMIT), Offer::Deliver(1));
    assert_eq!(drained(&mut sequencer), [2]);
    assert_eq!(sequencer.fetched(fetch(0, 2), has([1, 2], 2)), None);
    assert!(drained(&mut sequencer).is_empty());
    assert!(sequencer.gap.is_none());
}

#[test]
fn numbers_in_order_pass_and_repeated_ones_do_not() {
    let mut sequencer = Sequencer::starting_after(4);
    assert_eq!(sequencer.offer(5, 5, LIMIT), Offer::Deliver(5));
    assert_eq!(sequencer.offer(6, 6, LIMIT), Offer::Deliver(6));
    assert_eq!(sequencer.offer(5, 5, LIMIT), Offer::Drop);
    assert_eq!(sequencer.offer(6, 6, LIMIT), Offer::Drop);
    assert_eq!(sequencer.offer(0, 9, LIMIT), Offer::Drop);
    assert_eq!(sequencer.last(), Some(6));
}

#[test]
fn a_lost_push_is_fetched_once_and_what_came_later_waits() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(3, 3, LIMIT), held(0, 3));
    assert_eq!(sequencer.offer(4, 4, LIMIT), waiting());
    assert_eq!(sequencer.offer(4, 4, LIMIT), Offer::Drop);
    assert_eq!(sequencer.fetched(fetch(0, 3), has([2, 1, 3], 4)), None);
    assert_eq!(drained(&mut sequencer), [1, 2, 3, 4]);
    assert_eq!(sequencer.offer(5, 5, LIMIT), Offer::Deliver(5));
    assert!(sequencer.gap.is_none());
}

#[test]
fn a_number_that_the_store_does_not_have_is_neither_skipped_to_nor_waited_for() {
    let mut sequencer = Sequencer::starting_after(5);
    assert_eq!(sequencer.offer(5_000, 99, LIMIT), held(5, 5_000));
    // This one is real, and came after the store had looked.
    assert_eq!(sequencer.offer(7, 7, LIMIT), waiting());
    let next = sequencer.fetched(fetch(5, 5_000), has([6], 6));
    assert_eq!(next, None);
    assert_eq!(drained(&mut sequencer), [6, 7]);
    assert_eq!(sequencer.last(), Some(7));
    assert!(sequencer.gap.is_none(), "the forged one is forgotten");
    for seq in [u64::MAX, u64::MAX - 1] {
        assert_eq!(sequencer.offer(seq, 99, LIMIT), held(7, seq));
        assert_eq!(sequencer.fetched(fetch(7, seq), has([], 7)), None);
    }
    assert_eq!(sequencer.offer(8, 8, LIMIT), Offer::Deliver(8));
}

#[test]
fn a_real_message_whose_number_another_took_comes_out_all_the_same() {
    let mut sequencer = Sequencer::starting_after(0);
    for number in 1..=40 {
        let seq = number as u64;
        assert_eq!(
            sequencer.offer(seq, 900 + number, LIMIT),
            Offer::Deliver(900 + number)
        );
        assert_eq!(sequencer.offer(seq, number, LIMIT), held(seq - 1, seq));
        let again = sequencer.fetched(fetch(seq - 1, seq), has([number], seq));
        assert_eq!(again, Some(fetch(seq - 1, 0)));
        let back = StepBack {
            to: seq - 1,
            end: seq,
        };
        assert_eq!(sequencer.take_step_back(), Some(back));
        assert_eq!(
            sequencer.fetched(fetch(seq - 1, 0), has([number], seq)),
            None
        );
        assert_eq!(drained(&mut sequencer), [number]);
        assert_eq!(sequencer.offer(seq, number, LIMIT), Offer::Drop);
    }
    assert_eq!(sequencer.last(), Some(40));
}

#[test]
fn a_run_of_forged_numbers_is_taken_back_to_where_the_store_ends() {
    let mut sequencer = Sequencer::starting_after(10);
    for number in 11..=60 {
        let forged = sequencer.offer(number, 900 + number as i64, LIMIT);
        assert_eq!(forged, Offer::Deliver(900 + number as i64));
    }
    // Its number is not remembered any more.
    assert_eq!(sequencer.offer(11, 11, LIMIT), held(28, 60));
    assert_eq!(
        sequencer.fetched(fetch(28, 60), has([], 11)),
        Some(fetch(10, 0))
    );
    assert_eq!(
        sequencer.take_step_back(),
        Some(StepBack { to: 10, end: 11 })
    );
    assert_eq!(sequencer.fetched(fetch(10, 0), has([11], 11)), None);
    assert_eq!(
        drained(&mut sequencer),
        [-11],
        "it may have come out before"
    );
    assert_eq!(sequencer.offer(12, 12, LIMIT), Offer::Deliver(12));
    assert_eq!(sequencer.offer(29, 29, LIMIT), held(12, 29));
    assert_eq!(sequencer.fetched(fetch(12, 29), has(13..=29, 29)), None);
    assert_eq!(drained(&mut sequencer), (13..=29).collect::<Vec<_>>());
}

#[test]
fn an_older_database_is_gone_back_to() {
    let mut sequencer = Sequencer::starting_after(90);
    for number in 91..=100 {
        assert_eq!(
            sequencer.offer(number, number as i64, LIMIT),
            Offer::Deliver(number as i64)
        );
    }
    // The service was away, and what it says now is older.
    assert_eq!(sequencer.gap_possible(), Some(fetch(100, 0)));
    assert_eq!(
        sequencer.fetched(fetch(100, 0), has([], 95)),
        Some(fetch(95, 0))
    );
    assert_eq!(
        sequencer.take_step_back(),
        Some(StepBack { to: 95, end: 95 })
    );
    assert_eq!(sequencer.fetched(fetch(95, 0), has([], 95)), None);
    assert_eq!(sequencer.last(), Some(95));
    assert_eq!(
        sequencer.offer(96, 960, LIMIT),
        Offer::Deliver(960),
        "a new 96"
    );
    // Where nobody looked, the first new number tells.
    let mut sequencer = Sequencer::starting_after(100);
    assert_eq!(sequencer.offer(61, 610, LIMIT), held(99, 100));
    assert_eq!(
        sequencer.fetched(fetch(99, 100), has([], 61)),
        Some(fetch(60, 0))
    );
    let answer = Answer {
        items: vec![(61, 610)],
        ..has([], 61)
    };
    assert_eq!(sequencer.fetched(fetch(60, 0), answer), None);
    assert_eq!(drained(&mut sequencer), [-610]);
}

#[test]
fn an_old_push_that_comes_again_changes_nothing() {
    let mut sequencer = Sequencer::starting_after(0);
    for number in 1..=100 {
        assert_eq!(
            sequencer.offer(number, number as i64, LIMIT),
            Offer::Deliver(number as i64)
        );
    }
    // Forged, or so late that it is not remembered.
    for (seq, id) in [(100, 999), (3, 3), (3, 999)] {
        let Offer::Held { fetch: Some(fetch) } = sequencer.offer(seq, id, LIMIT) else {
            panic!("the store is asked");
        };
        let numbers = fetch.after as i64 + 1..=100;
        assert!(numbers.clone().count() <= COMPARED as usize);
        assert_eq!(sequencer.fetched(fetch, has(numbers, 100)), None);
        assert_eq!(sequencer.take_step_back(), None);
        assert!(sequencer.gap.is_none());
    }
    assert_eq!(sequencer.offer(101, 101, LIMIT), Offer::Deliver(101));
}

#[test]
fn what_was_held_is_the_stores_once_it_is_there() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(2, 902, LIMIT), held(0, 2));
    assert_eq!(sequencer.offer(3, 903, LIMIT), waiting());
    assert_eq!(
        sequencer.offer(3, 3, LIMIT),
        waiting(),
        "one of the two is real"
    );
    assert_eq!(sequencer.fetched(fetch(0, 2), has([1, 2], 3)), None);
    assert_eq!(drained(&mut sequencer), [1, 2, 3]);
}

#[test]
fn a_number_that_was_swept_is_skipped() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(5, 5, LIMIT), held(0, 5));
    assert_eq!(sequencer.fetched(fetch(0, 5), has([2, 5], 5)), None);
    assert_eq!(drained(&mut sequencer), [2, 5]);
    assert_eq!(sequencer.last(), Some(5));
}

#[test]
fn before_the_baseline_is_known_everything_waits() {
    let mut sequencer = Sequencer::unknown();
    for seq in [7, 5, 6, 9] {
        assert_eq!(sequencer.offer(seq, seq as i64, LIMIT), waiting());
    }
    assert_eq!(sequencer.last(), None);
    assert_eq!(sequencer.pop_ready(), None);
    assert_eq!(sequencer.baseline(5), Some(fetch(7, 9)));
    assert_eq!(drained(&mut sequencer), [6, 7]);
    assert_eq!(sequencer.baseline(100), None);
    assert_eq!(sequencer.last(), Some(7));
}

#[test]
fn of_two_beginnings_the_earlier_one_counts_until_something_came_out() {
    let mut sequencer = Sequencer::unknown();
    assert_eq!(sequencer.offer(11, 11, LIMIT), waiting());
    assert_eq!(sequencer.baseline(11), None);
    assert_eq!(sequencer.baseline(10), Some(fetch(10, 0)));
    assert_eq!(sequencer.fetched(fetch(10, 0), has([11], 11)), None);
    assert_eq!(drained(&mut sequencer), [11]);
    assert_eq!(sequencer.baseline(10), None);
    assert_eq!(sequencer.last(), Some(11));
}

#[test]
fn what_exceeds_the_limit_is_fetched_in_its_turn() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(2, 2, 1), held(0, 2));
    assert_eq!(sequencer.offer(3, 3, 1), waiting());
    assert_eq!(sequencer.offer(4, 4, 1), waiting());
    let next = sequencer.fetched(fetch(0, 2), has([1, 2], 4));
    assert_eq!(drained(&mut sequencer), [1, 2]);
    assert_eq!(next, Some(fetch(2, 0)));
    assert_eq!(sequencer.fetched(fetch(2, 0), has([3, 4], 4)), None);
    assert_eq!(drained(&mut sequencer), [3, 4]);
    assert!(sequencer.gap.is_none());
}

#[test]
fn an_answer_in_pages_is_fetched_to_its_end() {
    let more = |numbers: [i64; 2]| Answer {
        more: true,
        ..has(numbers, 6)
    };
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(6, 6, LIMIT), held(0, 6));
    let second = sequencer.fetched(fetch(0, 6), more([1, 2]));
    assert_eq!(drained(&mut sequencer), [1, 2]);
    assert_eq!(second, Some(fetch(2, 6)));
    assert_eq!(
        sequencer.fetched(fetch(2, 6), more([3, 4])),
        Some(fetch(4, 6))
    );
    // A store that says there is more and has nothing must not be asked for ever.
    let nothing = Answer {
        more: true,
        ..has([], 6)
    };
    assert_eq!(sequencer.fetched(fetch(4, 6), nothing), None);
    assert_eq!(drained(&mut sequencer), [3, 4]);
    assert!(sequencer.gap.is_none());
}

#[test]
fn a_failed_fetch_is_repeated_only_when_the_caller_says() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(2, 2, LIMIT), held(0, 2));
    sequencer.fetch_failed(fetch(0, 2));
    assert_eq!(sequencer.offer(3, 3, LIMIT), waiting());
    assert_eq!(sequencer.retry(), Some(fetch(0, 3)));
    assert_eq!(sequencer.retry(), None);
    sequencer.fetch_failed(fetch(0, 3));
    assert_eq!(sequencer.offer(1, 1, LIMIT), Offer::Deliver(1));
    assert_eq!(drained(&mut sequencer), [2, 3]);
    assert_eq!(sequencer.retry(), None);
    assert!(sequencer.gap.is_none());
    // So is what was asked because of a doubt.
    assert_eq!(sequencer.offer(3, 9, LIMIT), held(2, 3));
    sequencer.fetch_failed(fetch(2, 3));
    assert_eq!(sequencer.retry(), Some(fetch(2, 3)));
}

#[test]
fn after_the_bus_was_away_everything_from_the_last_number_is_fetched() {
    let mut sequencer = Sequencer::starting_after(3);
    assert_eq!(sequencer.gap_possible(), Some(fetch(3, 0)));
    assert_eq!(sequencer.offer(4, 4, LIMIT), Offer::Deliver(4));
    assert_eq!(sequencer.offer(7, 7, LIMIT), waiting());
    // The store answered before 6 and 7 were written.
    let next = sequencer.fetched(fetch(3, 0), has([4, 5], 5));
    assert_eq!(drained(&mut sequencer), [5]);
    assert_eq!(next, Some(fetch(5, 7)));
}

#[test]
fn what_was_believed_while_the_store_was_asked_is_held_against_its_answer() {
    let mut sequencer = Sequencer::starting_after(3);
    assert_eq!(sequencer.gap_possible(), Some(fetch(3, 0)));
    assert_eq!(sequencer.offer(4, 904, LIMIT), Offer::Deliver(904));
    let doubt = sequencer.fetched(fetch(3, 0), has([4, 5], 5));
    assert_eq!(doubt, Some(fetch(3, 4)));
    // What comes behind it waits.
    assert_eq!(sequencer.offer(6, 6, LIMIT), waiting());
    assert!(drained(&mut sequencer).is_empty());
    let again = sequencer.fetched(fetch(3, 4), has([4], 6));
    assert_eq!(again, Some(fetch(3, 0)));
    assert_eq!(sequencer.fetched(fetch(3, 0), has([4, 5, 6], 6)), None);
    assert_eq!(drained(&mut sequencer), [4, 5, 6]);
}

#[test]
fn the_next_number_waits_while_one_before_it_is_in_doubt() {
    let mut sequencer = Sequencer::starting_after(7);
    assert_eq!(sequencer.offer(7, 7, LIMIT), held(6, 7));
    assert_eq!(sequencer.offer(8, 8, LIMIT), waiting());
    assert_eq!(sequencer.offer(9, 9, LIMIT), waiting());
    sequencer.fetch_failed(fetch(6, 7));
    assert_eq!(sequencer.offer(10, 10, LIMIT), waiting());
    assert_eq!(sequencer.retry(), Some(fetch(6, 7)));
    // It was only late.
    assert_eq!(sequencer.fetched(fetch(6, 7), has([7], 10)), None);
    assert_eq!(drained(&mut sequencer), [8, 9, 10]);
    assert!(sequencer.gap.is_none());
}

#[test]
fn a_page_that_goes_beyond_what_was_compared_is_its_end_whatever_it_says() {
    let mut sequencer = Sequencer::starting_after(7);
    assert_eq!(sequencer.offer(7, 7, LIMIT), held(6, 7));
    let beyond = Answer {
        more: true,
        ..has([7, 8, 9], 9)
    };
    assert_eq!(sequencer.fetched(fetch(6, 7), beyond), None);
    assert!(sequencer.gap.is_none());
}

#[test]
fn a_gap_during_a_fetch_is_looked_into_after_it() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(2, 2, LIMIT), held(0, 2));
    assert_eq!(sequencer.gap_possible(), None);
    let next = sequencer.fetched(fetch(0, 2), has([1, 2], 2));
    assert_eq!(next, Some(fetch(2, 0)));
    let mut unknown: Sequencer<i64> = Sequencer::unknown();
    assert_eq!(unknown.gap_possible(), None);
    assert_eq!(unknown.baseline(8), Some(fetch(8, 0)));
}

#[test]
fn an_open_fetch_that_failed_is_open_again() {
    let mut sequencer = Sequencer::starting_after(3);
    assert_eq!(sequencer.gap_possible(), Some(fetch(3, 0)));
    sequencer.fetch_failed(fetch(3, 0));
    assert_eq!(sequencer.offer(4, 4, LIMIT), Offer::Deliver(4));
    assert_eq!(sequencer.retry(), Some(fetch(4, 0)));
}

#[test]
fn the_answer_to_another_fetch_is_ignored() {
    let mut sequencer = Sequencer::starting_after(10);
    assert_eq!(sequencer.offer(12, 12, LIMIT), held(10, 12));
    let stale = fetch(0, 20);
    assert_eq!(sequencer.fetched(stale, has([15], 15)), None);
    sequencer.fetch_failed(stale);
    assert_eq!(sequencer.last(), Some(10));
    assert_eq!(sequencer.pop_ready(), None);
    assert_eq!(sequencer.fetched(fetch(10, 12), has([11, 12], 12)), None);
    assert_eq!(drained(&mut sequencer), [11, 12]);
}

#[test]
fn a_caller_that_drains_late_still_gets_them_in_order() {
    let mut sequencer = Sequencer::starting_after(0);
    assert_eq!(sequencer.offer(2, 2, LIMIT), held(0, 2));
    assert_eq!(sequencer.offer(1, 1, LIMIT), Offer::Deliver(1));
    assert_eq!(sequencer.offer(3, 3, LIMIT), waiting());
    assert_eq!(drained(&mut sequencer), [2, 3]);
}

#[test]
fn the_greatest_number_does_not_overflow() {
    let mut sequencer = Sequencer::starting_after(u64::MAX - 1);
    assert_eq!(sequencer.offer(u64::MAX, 1, LIMIT), Offer::Deliver(1));
    assert_eq!(sequencer.offer(u64::MAX, 1, LIMIT), Offer::Drop);
    assert_eq!(
        sequencer.offer(u64::MAX, 2, LIMIT),
        held(u64::MAX - 1, u64::MAX)
    );
}

#[test]
fn what_the_store_has_beyond_a_known_stream_was_lost_and_is_fetched() {
    let mut sequencer = Sequencer::starting_after(3);
    assert_eq!(sequencer.baseline(3), None);
    assert_eq!(sequencer.baseline(5), Some(fetch(3, 0)));
    assert_eq!(sequencer.fetched(fetch(3, 0), has([4, 5], 5)), None);
    assert_eq!(drained(&mut sequencer), [4, 5]);
}

#[test]
fn a_stream_of_which_nobody_says_where_it_begins_begins_with_what_is_held() {
    let mut sequencer = Sequencer::unknown();
    assert_eq!(sequencer.offer(7, 7, LIMIT), waiting());
    assert_eq!(sequencer.offer(8, 8, LIMIT), waiting());
    assert_eq!(sequencer.begin_anywhere(), None);
    assert_eq!(drained(&mut sequencer), [7, 8]);
    assert_eq!(sequencer.begin_anywhere(), None);
}

#[test]
fn what_was_missed_before_a_beginning_that_nobody_tells_does_not_hold_up_what_is_missed_after_it() {
    let mut sequencer = Sequencer::<i64>::unknown();
    // The bus was away before the service said that it has no numbers to tell.
    assert_eq!(sequencer.gap_possible(), None);
    assert_eq!(sequencer.begin_anywhere(), None);
    assert_eq!(
        sequencer.gap_possible(),
        None,
        "nothing that could be named"
    );
    assert_eq!(sequencer.offer(5, 5, LIMIT), Offer::Deliver(5));
    assert_eq!(sequencer.offer(7, 7, LIMIT), held(5, 7));
}
