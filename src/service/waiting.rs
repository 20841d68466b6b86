//! What waits for the store thread, and which of it comes next.
//!
//! Owns whose turn it is. A call counts for the user in whose name it is made; what those calls
//! really took decides who is next, so nobody waits long for what others ask ([`FairQueue`]). Calls
//! that name no user share one place. What gateways say for all their users, and verdicts on
//! passwords, go before the others, but take no more than half of a batch: confirmations must not
//! be overtaken by the logout that follows them.
//!
//! Invariants: calls in one user's name keep their order; what waits is bounded, for each user and
//! in all.

use std::{
    collections::{HashMap, VecDeque},
    mem::{Discriminant, discriminant},
    time::{Duration, Instant},
};

use super::{
    engine::{self, Item},
    fair_queue::FairQueue,
};
use crate::{
    base::id::UserId,
    contract::methods::Request,
    proto::{self, send_batch_item::Message as BatchMessage},
};

/// Calls in one transaction at most: more would make the first of them wait for the last.
const BATCH_CALLS: usize = 256;
/// Calls that may wait in one user's name: as many as one connection to a backend may have under
/// way. More are refused.
const USER_CALLS: usize = 8192;
/// What counts as the least cost of a call, in microseconds: nothing is free.
const LEAST_COST_US: u64 = 5;
/// So many users' worth of turns has the place of calls that name none.
const NOBODYS_SHARE: u64 = 16;

/// In whose name a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Asker {
    /// A user.
    User(UserId),
    /// Somebody: the call does not say who.
    Nobody,
    /// A gateway, for all its users.
    Gateway,
}

impl Asker {
    /// Who asks for `request`.
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::AckBatch(_) | Request::RefreshRoutes(_) => Self::Gateway,
            Request::Login(_)
            | Request::Register(_)
            | Request::VerifyToken(_)
            | Request::GetProfile(_)
            | Request::Search(_)
            | Request::QueryRoute(_)
            | Request::Deliver(_)
            | Request::GetGroupInfo(_) => Self::Nobody,
            Request::Logout(request) => Self::User(request.user_id),
            Request::CheckSession(request) => Self::User(request.user_id),
            Request::EndSession(request) => Self::User(request.user_id),
            Request::EndAllSessions(request) => Self::User(request.user_id),
            Request::ChangePassword(request) => Self::User(request.user_id),
            Request::AddFriend(request) => Self::User(request.user_id),
            Request::RemoveFriend(request) => Self::User(request.user_id),
            Request::GetFriends(request) => Self::User(match request.only_friend_id {
                0 => request.user_id,
                asker => asker,
            }),
            Request::BindRoute(request) => Self::User(request.user_id),
            Request::UnbindRoute(request) => Self::User(request.user_id),
            Request::Send(request) => Self::sender(request.msg.as_ref().map(|msg| msg.from)),
            Request::SendGroup(request) => Self::sender(request.msg.as_ref().map(|msg| msg.from)),
            Request::SendBatch(request) => Self::sender(first_sender(request)),
            Request::PullOffline(request) => Self::User(request.user_id),
            Request::PullGroup(request) => Self::User(request.user_id),
            Request::Ack(request) => Self::User(request.user_id),
            Request::CreateGroup(request) => Self::User(request.creator_id),
            Request::JoinGroup(request) => Self::User(request.user_id),
            Request::LeaveGroup(request) => Self::User(request.user_id),
            Request::GetUserGroups(request) => Self::User(request.user_id),
            Request::GetGroupMembers(request) => match request.asker_id {
                0 => Self::Nobody,
                asker => Self::User(asker),
            },
        }
    }

    fn sender(from: Option<UserId>) -> Self {
        from.map_or(Self::Nobody, Self::User)
    }

    /// What `spent` counts for.
    fn cost(self, spent: Duration) -> u64 {
        let cost = u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
        let cost = cost.max(LEAST_COST_US);
        match self {
            Self::Nobody => cost.div_ceil(NOBODYS_SHARE),
            Self::User(_) | Self::Gateway => cost,
        }
    }
}

/// Whose messages these are: all are of one session.
fn first_sender(request: &proto::SendBatchRequest) -> Option<UserId> {
    match request.items.first()?.message.as_ref()? {
        BatchMessage::Direct(send) => send.msg.as_ref().map(|msg| msg.from),
        BatchMessage::Group(send) => send.msg.as_ref().map(|msg| msg.from),
    }
}

/// See the module's description.
pub(super) struct Waiting {
    /// What comes first, in the order of coming.
    gateways: VecDeque<Item>,
    users: FairQueue<Asker, Item>,
    /// What calls of each kind have cost lately, in microseconds.
    costs: HashMap<Discriminant<Request>, u64>,
}

/// A call counts so much in what its kind has cost lately: one of so many.
const COSTS_AVERAGED: u64 = 8;

impl Waiting {
    /// Nothing.
    pub(super) fn new() -> Self {
        Self {
            gateways: VecDeque::new(),
            users: FairQueue::new(USER_CALLS),
            costs: HashMap::new(),
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.gateways.len() + self.users.len()
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes an item in, or gives it back where too many wait in its user's name.
    #[allow(
        clippy::result_large_err,
        reason = "the caller answers the item itself"
    )]
    pub(super) fn push(&mut self, item: Item) -> Result<(), Item> {
        let asker = match &item {
            Item::Call(call) => Asker::of(&call.request),
            // Bounded by the pool's own queue, and the work is done.
            Item::Judged(_) => Asker::Gateway,
        };
        if asker == Asker::Gateway {
            self.gateways.push_back(item);
            return Ok(());
        }
        let lately = kind_of(&item).and_then(|kind| self.costs.get(&kind));
        let expected = asker.cost(Duration::from_micros(lately.copied().unwrap_or(0)));
        self.users.push(asker, item, expected)
    }

    /// A call of this `kind`, which `asker` made, has taken so long.
    fn spend(&mut self, asker: Asker, kind: Option<Discriminant<Request>>, took: Duration) {
        self.users.spend(asker, asker.cost(took));
        if let Some(kind) = kind {
            let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            let lately = self.costs.entry(kind).or_insert(took_us);
            *lately = (*lately * (COSTS_AVERAGED - 1)).saturating_add(took_us) / COSTS_AVERAGED;
        }
    }

    /// The items of one batch, which lasts no longer than about `longest`.
    pub(super) fn batch(&mut self, longest: Duration) -> Batch<'_> {
        Batch {
            waiting: self,
            began: Instant::now(),
            longest,
            taken: 0,
            under_way: None,
            late: Vec::new(),
        }
    }

    fn take(&mut self, gateways_first: bool) -> Option<(Asker, Item)> {
        if (gateways_first || self.users.is_empty())
            && let Some(item) = self.gateways.pop_front()
        {
            return Some((Asker::Gateway, item));
        }
        self.users.pop()
    }
}

/// The items of a batch, one after the other: asking for the next one says that the last one is
/// done.
pub(super) struct Batch<'a> {
    waiting: &'a mut Waiting,
    began: Instant,
    longest: Duration,
    taken: usize,
    under_way: Option<UnderWay>,
    late: Vec<Item>,
}

/// An item that is being carried out.
struct UnderWay {
    asker: Asker,
    kind: Option<Discriminant<Request>>,
    since: Instant,
}

impl Batch<'_> {
    /// Items that nobody waits for any more: they are not done. Answered they are, as their place
    /// may be in the way of other answers.
    pub(super) fn end(mut self) -> Vec<Item> {
        self.settle(Instant::now());
        self.late
    }

    fn settle(&mut self, now: Instant) {
        if let Some(UnderWay { asker, kind, since }) = self.under_way.take() {
            let took = now.saturating_duration_since(since);
            self.waiting.spend(asker, kind, took);
        }
    }
}

impl engine::Batch for Batch<'_> {
    fn restart(&mut self) {
        self.began = Instant::now();
        if let Some(under_way) = &mut self.under_way {
            under_way.since = self.began;
        }
    }

    fn is_late(&self, item: &Item) -> bool {
        is_late(item, Instant::now())
    }

    fn next(&mut self) -> Option<Item> {
        let now = Instant::now();
        self.settle(now);
        let lasted = now.saturating_duration_since(self.began);
        while self.taken < BATCH_CALLS && lasted < self.longest {
            let gateways_first = self.taken < BATCH_CALLS / 2 && lasted < self.longest / 2;
            let (asker, item) = self.waiting.take(gateways_first)?;
            if is_late(&item, now) {
                // It is not carried out, which says nothing of what its kind costs.
                self.waiting.users.spend(asker, asker.cost(Duration::ZERO));
                self.late.push(item);
                continue;
            }
            self.under_way = Some(UnderWay {
                asker,
                kind: kind_of(&item),
                since: now,
            });
            self.taken += 1;
            return Some(item);
        }
        None
    }
}

/// The kind of call that an item is.
fn kind_of(item: &Item) -> Option<Discriminant<Request>> {
    match item {
        Item::Call(call) => Some(discriminant(&call.request)),
        Item::Judged(_) => None,
    }
}

fn is_late(item: &Item, now: Instant) -> bool {
    item.deadline().is_some_and(|deadline| deadline <= now)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::{super::engine::Batch as _, *};
    use crate::{
        contract::methods::Response,
        proto,
        service::{Call, ReplySink},
    };

    /// No batch here ends for the time it takes.
    const LONG: Duration = Duration::from_secs(3600);

    struct Nowhere;

    impl ReplySink for Nowhere {
        fn complete(&self, _: Vec<(u64, Response)>) {}
    }

    fn call(request: impl Into<Request>, call_id: u64) -> Item {
        Item::Call(Call {
            request: request.into(),
            call_id,
            sink: Arc::new(Nowhere),
            deadline: None,
        })
    }

    fn friends(user_id: UserId, call_id: u64) -> Item {
        call(
            proto::GetFriendsRequest {
                user_id,
                only_friend_id: 0,
            },
            call_id,
        )
    }

    fn push(waiting: &mut Waiting, item: Item) {
        assert!(waiting.push(item).is_ok());
    }

    /// The next `count` calls of a batch, or as many as it has.
    fn ids(batch: &mut Batch<'_>, count: usize) -> Vec<u64> {
        let items = std::iter::from_fn(|| batch.next()).take(count);
        items.map(|item| item.reply_to().1).collect()
    }

    #[test]
    fn a_user_with_one_call_does_not_wait_for_another_with_a_thousand() {
        let mut waiting = Waiting::new();
        for call_id in 0..1000 {
            push(&mut waiting, friends(1, call_id));
        }
        push(&mut waiting, friends(2, 1000));
        assert_eq!(ids(&mut waiting.batch(LONG), 3), [0, 1000, 1]);
    }

    #[test]
    fn what_a_call_took_counts_for_its_user_and_not_how_many_there_were() {
        let mut waiting = Waiting::new();
        for call_id in 0..4 {
            push(&mut waiting, friends(1, call_id));
            push(&mut waiting, friends(2, 10 + call_id));
        }
        let mut order = Vec::new();
        let mut batch = waiting.batch(LONG);
        while let Some(item) = batch.next() {
            let call_id = item.reply_to().1;
            if call_id == 0 {
                thread::sleep(Duration::from_millis(20));
            }
            order.push(call_id);
        }
        assert_eq!(order[..2], [0, 10]);
        // The second user's are cheap: all of them come before the first one's next.
        assert_eq!(order[2..], [11, 12, 13, 1, 2, 3]);
    }

    #[test]
    fn confirmations_are_not_overtaken_by_the_log_out_that_follows_them() {
        let mut waiting = Waiting::new();
        push(&mut waiting, friends(1, 1));
        push(&mut waiting, call(proto::AckBatchRequest::default(), 2));
        let unbind = proto::UnbindRouteRequest {
            user_id: 2,
            ..Default::default()
        };
        push(&mut waiting, call(unbind, 3));
        assert_eq!(ids(&mut waiting.batch(LONG), 9), [2, 1, 3]);
    }

    #[test]
    fn what_gateways_say_takes_half_of_a_batch_at_most() {
        let mut waiting = Waiting::new();
        for call_id in 0..1000 {
            push(
                &mut waiting,
                call(proto::AckBatchRequest::default(), call_id),
            );
        }
        for user in 1..=1000 {
            push(&mut waiting, friends(user, 10_000));
        }
        let batch = ids(&mut waiting.batch(LONG), usize::MAX);
        assert_eq!(batch.len(), BATCH_CALLS);
        let of_users = batch.iter().filter(|call_id| **call_id == 10_000).count();
        assert_eq!(of_users, BATCH_CALLS / 2);
    }

    #[test]
    fn a_batch_ends_when_its_time_is_up_and_what_is_left_comes_with_the_next() {
        let mut waiting = Waiting::new();
        for call_id in 0..3 {
            push(&mut waiting, friends(1, call_id));
        }
        let mut batch = waiting.batch(Duration::from_millis(1));
        assert!(batch.next().is_some());
        thread::sleep(Duration::from_millis(2));
        assert!(batch.next().is_none());
        assert!(batch.end().is_empty());
        assert_eq!(ids(&mut waiting.batch(LONG), 9), [1, 2]);
    }

    #[test]
    fn time_spent_waiting_for_others_does_not_end_a_batch() {
        let mut waiting = Waiting::new();
        push(&mut waiting, friends(1, 1));
        push(&mut waiting, friends(1, 2));
        let mut batch = waiting.batch(Duration::from_millis(50));
        assert!(batch.next().is_some());
        thread::sleep(Duration::from_millis(60));
        batch.restart();
        assert!(batch.next().is_some());
    }

    #[test]
    fn members_are_asked_for_in_the_name_of_who_wants_to_know() {
        let of = |asker_id| {
            Asker::of(&Request::GetGroupMembers(proto::GetGroupMembersRequest {
                group_id: 7,
                asker_id,
                ..Default::default()
            }))
        };
        assert_eq!(of(3), Asker::User(3));
        assert_eq!(of(0), Asker::Nobody);
    }
}
