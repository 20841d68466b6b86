//! The loss checker: what was attempted, what was delivered, and whether the promises held.
//!
//! Knows no gateway: it judges a recorded history. The tests below damage a good history in each
//! way the checker must notice; a checker that passes everything would prove nothing.

use std::collections::{BTreeMap, BTreeSet};

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A user.
    User(u64),
    /// A group.
    Group(u64),
}

/// One message as its sender knows it: the sender's `number`-th.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// The sender.
    pub from: u64,
    /// The receiver or receivers.
    pub to: Target,
    /// Counts the sender's messages, to all targets together, in the order sent.
    pub number: u64,
}

impl Message {
    /// The text that carries the message, sealed so that no other text passes for it.
    pub fn text(&self, seed: u64) -> String {
        let (kind, target) = match self.to {
            Target::User(uid) => ('u', uid),
            Target::Group(group) => ('g', group),
        };
        let plain = format!("{}|{kind}{target}|{}", self.from, self.number);
        let seal = plain
            .bytes()
            .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("{plain}|{seal:016x}")
    }

    /// The message a text carries, if the seal holds.
    fn from_text(text: &str, seed: u64) -> Option<Self> {
        let mut parts = text.split('|');
        let from = parts.next()?.parse().ok()?;
        let target = parts.next()?;
        let number = parts.next()?.parse().ok()?;
        let to = match target.split_at_checked(1)? {
            ("u", uid) => Target::User(uid.parse().ok()?),
            ("g", group) => Target::Group(group.parse().ok()?),
            _ => return None,
        };
        let message = Self { from, to, number };
        (message.text(seed) == text).then_some(message)
    }
}

/// How an attempt to send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `+OK` with this id.
    Acknowledged(u64),
    /// `-ERR`: it must never arrive.
    Refused,
    /// No answer was seen: it may arrive or not.
    Unknown,
}

/// One `MSG` or `GMSG` line somebody read.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The user who was logged in where the line was read.
    pub user: u64,
    /// Counts the user's connections.
    pub session: u64,
    /// Read while no pull was under way, so it was a push.
    pub pushed: bool,
    /// The fields of the line.
    pub id: u64,
    /// The `group=` of a `GMSG`.
    pub group: Option<u64>,
    /// The `seq=`.
    pub seq: u64,
    /// The `from=`.
    pub from: u64,
    /// Whether the line was marked as a repeat.
    pub dup: bool,
    /// The text.
    pub text: String,
}

/// All that happened. Deliveries are in the order read, per user.
#[derive(Clone, Default)]
pub struct History {
    /// Seals the texts, and names the run.
    pub seed: u64,
    /// The members of each group, the same from start to end.
    pub members: BTreeMap<u64, BTreeSet<u64>>,
    /// What was sent and how that ended.
    pub attempts: BTreeMap<Message, Outcome>,
    /// What had to be repeated while messages sent behind it were stored: its place among them
    /// means nothing.
    pub overtaken: BTreeSet<Message>,
    /// What arrived.
    pub deliveries: Vec<Delivery>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Acknowledged and never delivered to this user.
    Lost(Message, u64),
    /// Delivered to a user it was not for.
    WrongUser(Message, u64),
    /// A line that no attempt explains: this text, read by this user.
    Unexpected(String, u64),
    /// Delivered although it was refused.
    RefusedButDelivered(Message),
    /// Delivered again to this user without the mark of a repeat.
    UnmarkedRepeat(Message, u64),
    /// One message with two ids, or two messages with one.
    IdConfused(Message, u64),
    /// The numbers of this user's view contradict the order in which the sender sent.
    OutOfOrder(Message, u64),
    /// A connection was pushed this number after a higher one.
    PushedBackwards(u64, u64),
    /// The inbox or group lacks this number, or has it twice.
    NumbersNotDense(Target, u64),
}

/// All broken promises of a history; none if it is good.
pub fn verdict(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut ids: BTreeMap<u64, Message> = BTreeMap::new();
    let mut id_of: BTreeMap<Message, u64> = BTreeMap::new();
    for (message, outcome) in &history.attempts {
        if let Outcome::Acknowledged(id) = outcome {
            note_id(*message, *id, &mut ids, &mut id_of, &mut violations);
        }
    }
    let mut received: BTreeMap<(u64, Message), u64> = BTreeMap::new();
    let mut numbers: BTreeMap<Target, BTreeMap<u64, Message>> = BTreeMap::new();
    let mut last_pushed: BTreeMap<(u64, u64, Option<u64>), u64> = BTreeMap::new();
    for delivery in &history.deliveries {
        let Some(message) = attributed(history, delivery) else {
            violations.push(Violation::Unexpected(delivery.text.clone(), delivery.user));
            continue;
        };
        if !is_for(history, message, delivery) {
            violations.push(Violation::WrongUser(message, delivery.user));
            continue;
        }
        if history.attempts[&message] == Outcome::Refused {
            violations.push(Violation::RefusedButDelivered(message));
        }
        note_id(message, delivery.id, &mut ids, &mut id_of, &mut violations);
        let is_repeat = received
            .insert((delivery.user, message), delivery.seq)
            .is_some();
        if is_repeat && !delivery.dup {
            violations.push(Violation::UnmarkedRepeat(message, delivery.user));
        }
        let holder = numbers.entry(message.to).or_default();
        if *holder.entry(delivery.seq).or_insert(message) != message {
            violations.push(Violation::NumbersNotDense(message.to, delivery.seq));
        }
        if delivery.pushed && !delivery.dup {
            let stream = (delivery.user, delivery.session, delivery.group);
            let last = last_pushed.entry(stream).or_insert(0);
            if delivery.seq <= *last {
                violations.push(Violation::PushedBackwards(delivery.user, delivery.seq));
            }
            *last = delivery.seq;
        }
    }
    find_lost(history, &received, &mut violations);
    find_out_of_order(history, &received, &mut violations);
    for (target, held) in &numbers {
        for (expected, number) in (1..).zip(held.keys()) {
            if expected != *number {
                violations.push(Violation::NumbersNotDense(*target, expected));
                break;
            }
        }
    }
    violations
}

/// The attempt that explains a delivery.
fn attributed(history: &History, delivery: &Delivery) -> Option<Message> {
    let message = Message::from_text(&delivery.text, history.seed)?;
    let known = history.attempts.contains_key(&message) && message.from == delivery.from;
    known.then_some(message)
}

fn is_for(history: &History, message: Message, delivery: &Delivery) -> bool {
    match message.to {
        Target::User(uid) => delivery.group.is_none() && delivery.user == uid,
        Target::Group(group) => {
            delivery.group == Some(group) && is_member(history, group, delivery.user)
        }
    }
}

fn is_member(history: &History, group: u64, user: u64) -> bool {
    history
        .members
        .get(&group)
        .is_some_and(|members| members.contains(&user))
}

fn note_id(
    message: Message,
    id: u64,
    ids: &mut BTreeMap<u64, Message>,
    id_of: &mut BTreeMap<Message, u64>,
    violations: &mut Vec<Violation>,
) {
    let same_message = *ids.entry(id).or_insert(message) == message;
    let same_id = *id_of.entry(message).or_insert(id) == id;
    if !(same_message && same_id) {
        violations.push(Violation::IdConfused(message, id));
    }
}

fn find_lost(
    history: &History,
    received: &BTreeMap<(u64, Message), u64>,
    violations: &mut Vec<Violation>,
) {
    for (message, outcome) in &history.attempts {
        if !matches!(outcome, Outcome::Acknowledged(_)) {
            continue;
        }
        let receivers: Vec<u64> = match message.to {
            Target::User(uid) => vec![uid],
            Target::Group(group) => history
                .members
                .get(&group)
                .into_iter()
                .flatten()
                .copied()
                .filter(|member| *member != message.from)
                .collect(),
        };
        for receiver in receivers {
            if !received.contains_key(&(receiver, *message)) {
                violations.push(Violation::Lost(*message, receiver));
            }
        }
    }
}

/// In each user's view, a sender's messages to one target must have growing numbers in the order
/// sent.
fn find_out_of_order(
    history: &History,
    received: &BTreeMap<(u64, Message), u64>,
    violations: &mut Vec<Violation>,
) {
    let mut last: Option<(u64, Message, u64)> = None;
    // The map's order is: receiver, sender, target, number sent.
    for (&(user, message), &seq) in received {
        if history.overtaken.contains(&message) {
            continue;
        }
        if let Some((last_user, last_message, last_seq)) = last
            && (last_user, last_message.from, last_message.to) == (user, message.from, message.to)
            && seq <= last_seq
        {
            violations.push(Violation::OutOfOrder(message, user));
        }
        last = Some((user, message, seq));
    }
}

/// Two users and a group of three; every message delivered once, the last one twice with its mark.
fn good_history() -> History {
    let mut history = History {
        seed: 99,
        ..History::default()
    };
    history.members.insert(7, BTreeSet::from([1, 2, 3]));
    for number in 1..=6 {
        let to = match number % 2 {
            0 => Target::User(2),
            _ => Target::Group(7),
        };
        let message = Message {
            from: 1,
            to,
            number,
        };
        history
            .attempts
            .insert(message, Outcome::Acknowledged(100 + number));
        let receivers: &[u64] = match to {
            Target::User(_) => &[2],
            Target::Group(_) => &[2, 3],
        };
        for user in receivers {
            history.deliveries.push(Delivery {
                user: *user,
                session: 1,
                pushed: true,
                id: 100 + number,
                group: (number % 2 == 1).then_some(7),
                seq: number.div_ceil(2),
                from: 1,
                dup: false,
                text: message.text(history.seed),
            });
        }
    }
    let mut repeat = history.deliveries.last().cloned().expect("deliveries");
    (repeat.dup, repeat.session) = (true, 2);
    history.deliveries.push(repeat);
    history
}

fn direct(number: u64) -> Message {
    Message {
        from: 1,
        to: Target::User(2),
        number,
    }
}

fn delivery_of(history: &mut History, number: u64) -> &mut Delivery {
    let text = direct(number).text(history.seed);
    history
        .deliveries
        .iter_mut()
        .find(|delivery| delivery.text == text)
        .expect("delivered")
}

#[test]
fn a_good_history_passes() {
    assert_eq!(verdict(&good_history()), []);
}

#[test]
fn the_checker_sees_a_loss() {
    let mut history = good_history();
    let text = direct(2).text(history.seed);
    history.deliveries.retain(|delivery| delivery.text != text);
    let violations = verdict(&history);
    assert!(violations.contains(&Violation::Lost(direct(2), 2)));
    assert!(violations.contains(&Violation::NumbersNotDense(Target::User(2), 1)));
}

#[test]
fn the_checker_sees_a_loss_for_one_member_of_a_group() {
    let mut history = good_history();
    history
        .deliveries
        .retain(|delivery| !(delivery.user == 3 && delivery.id == 103));
    let lost = Message {
        from: 1,
        to: Target::Group(7),
        number: 3,
    };
    assert_eq!(verdict(&history), [Violation::Lost(lost, 3)]);
}

#[test]
fn the_checker_sees_a_wrong_user() {
    let mut history = good_history();
    let mut stray = delivery_of(&mut history, 2).clone();
    stray.user = 3;
    history.deliveries.push(stray);
    assert_eq!(verdict(&history), [Violation::WrongUser(direct(2), 3)]);
    let mut history = good_history();
    history.members.insert(7, BTreeSet::from([1, 2]));
    assert!(matches!(verdict(&history)[0], Violation::WrongUser(_, 3)));
}

#[test]
fn what_was_repeated_behind_others_may_have_any_place_among_them() {
    let mut history = good_history();
    delivery_of(&mut history, 2).seq = 2;
    delivery_of(&mut history, 4).seq = 1;
    // Read in the order of their numbers, as a client does.
    history.deliveries.sort_by_key(|delivery| delivery.seq);
    assert!(!verdict(&history).is_empty());
    history.overtaken.insert(direct(2));
    assert_eq!(verdict(&history), []);
}

#[test]
fn the_checker_sees_swapped_messages() {
    let mut history = good_history();
    delivery_of(&mut history, 2).seq = 2;
    delivery_of(&mut history, 4).seq = 1;
    let violations = verdict(&history);
    assert!(violations.contains(&Violation::OutOfOrder(direct(4), 2)));
    assert!(violations.contains(&Violation::PushedBackwards(2, 1)));
}

#[test]
fn the_checker_sees_an_unmarked_repeat() {
    let mut history = good_history();
    history.deliveries.last_mut().expect("the repeat").dup = false;
    assert_eq!(verdict(&history), [Violation::UnmarkedRepeat(direct(6), 2)]);
}

#[test]
fn the_checker_sees_what_nobody_sent() {
    let mut history = good_history();
    let mut invented = delivery_of(&mut history, 2).clone();
    invented.text = direct(8).text(history.seed);
    history.deliveries.push(invented);
    delivery_of(&mut history, 4).text.push('x');
    delivery_of(&mut history, 6).from = 3;
    let violations = verdict(&history);
    let unexpected = violations
        .iter()
        .filter(|violation| matches!(violation, Violation::Unexpected(_, 2)));
    assert_eq!(unexpected.count(), 3);
}

#[test]
fn the_checker_sees_a_refusal_that_lied() {
    let mut history = good_history();
    history.attempts.insert(direct(4), Outcome::Refused);
    assert_eq!(
        verdict(&history),
        [Violation::RefusedButDelivered(direct(4))]
    );
}

#[test]
fn the_checker_sees_confused_ids() {
    let mut history = good_history();
    history
        .attempts
        .insert(direct(4), Outcome::Acknowledged(500));
    assert_eq!(verdict(&history), [Violation::IdConfused(direct(4), 104)]);
    let mut history = good_history();
    delivery_of(&mut history, 4).id = 102;
    assert_eq!(verdict(&history), [Violation::IdConfused(direct(4), 102)]);
}

#[test]
fn the_checker_sees_a_hole_and_a_number_given_twice() {
    let mut history = good_history();
    let text = direct(6).text(history.seed);
    for delivery in &mut history.deliveries {
        if delivery.text == text {
            delivery.seq = 4;
        }
    }
    assert_eq!(
        verdict(&history),
        [Violation::NumbersNotDense(Target::User(2), 3)]
    );
    let mut history = good_history();
    delivery_of(&mut history, 4).seq = 1;
    assert!(verdict(&history).contains(&Violation::NumbersNotDense(Target::User(2), 1)));
}

#[test]
fn what_had_no_answer_may_arrive_or_not() {
    let mut history = good_history();
    history.attempts.insert(direct(6), Outcome::Unknown);
    assert_eq!(verdict(&history), []);
    let text = direct(6).text(history.seed);
    history.deliveries.retain(|delivery| delivery.text != text);
    assert_eq!(verdict(&history), []);
}
