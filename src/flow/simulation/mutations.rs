//! Each rule broken on purpose: a simulation that does not notice proves nothing of that rule.

use std::{any::Any, panic::catch_unwind};

use super::{SEEDS, simulate};
use crate::base::mutation::{Mutation, seed};

/// Seeds that are tried for a mutation. That the same ones pass with none is another test's.
const TRIED: u64 = 12;
const _: () = assert!(TRIED <= SEEDS, "without a mutation all of them are run");

/// Every mutation, and words of the checks that catch it.
const CAUGHT_BY: &[(Mutation, &[&str])] = &[
    (Mutation::NumberComesOutTwice, &[" after "]),
    (Mutation::HeldPushIsDropped, &["was not pushed"]),
    (Mutation::GapIsOverlooked, &["was not pushed"]),
    (Mutation::RepeatIsUnmarked, &[" after "]),
    (
        Mutation::SentCountsAsAcknowledged,
        &["was confirmed and never read"],
    ),
    (Mutation::PulledIsPushedAgain, &["came twice"]),
    (Mutation::LogoutKeepsLogin, &["nobody is logged in"]),
    (Mutation::LeaverStaysMember, &["not for "]),
    (
        Mutation::RouteStaysBound,
        &["no route outlives its session"],
    ),
    (
        Mutation::CommandsOvertake,
        &["replies in the order", "one job of a connection"],
    ),
    (Mutation::BaselineBeforeBinding, &[" after "]),
];

/// What the simulation of `number` says of `mutation`; `None`: it noticed nothing.
fn complaint(mutation: Mutation, number: u64) -> Option<String> {
    seed(Some(mutation));
    let outcome = catch_unwind(|| simulate(number));
    seed(None);
    outcome.err().map(|panic| words(&*panic))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let literal = || panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(literal).expect("a panic with words")
}

#[test]
fn a_rule_that_is_broken_is_noticed() {
    for (mutation, checks) in CAUGHT_BY {
        let mut complaints = (1..=TRIED).filter_map(|number| complaint(*mutation, number));
        let is_caught = complaints.any(|complaint| {
            eprintln!("{mutation:?}: {complaint}");
            checks.iter().any(|check| complaint.contains(check))
        });
        assert!(
            is_caught,
            "{mutation:?} is not caught by {checks:?} in {TRIED} seeds"
        );
    }
}
