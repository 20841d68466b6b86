//! What must always hold in a shard, by number, and how full its tables are.
//!
//! - **I1** A user of the table has sessions here, each of them once; whoever is logged in stands
//!   in its user's list.
//! - **I2** A group of the table has members or is held; a session stands in a group's list exactly
//!   while the group stands in its own, and is let in no further than the service said.
//! - **I3** Nothing is kept of the input of a connection that has ended.
//! - **I4** A connection stands in a list of those with something to do once, exactly while it is
//!   marked so: to send, to go on, over its rate, to be asked what its peer has.
//! - **I5** Before a login is answered pushes wait and no unacknowledged window is kept; afterwards
//!   nothing waits. Events of memberships are noted while a command is under way, not longer.
//! - **I6** Whoever is caught up is throttled; what is unconfirmed and pulled ahead is bounded.
//! - **I7** A group's messages wait exactly while it is unknown of a member whether it still is
//!   one.
//! - **I8** Each stream is in order: see
//!   [`Sequencer::assert_invariants`](super::sequencer::Sequencer).
//! - **I9** What users lack is known of users who are here, and is something.
//! - **I10** Each user and stream is once among those to be resynced, within the permits.
//! - **I11** Gauges tell what there is: connections, logins, unsent bytes, users without a route.
//! - **I12** A connection that is to be looked at has an entry in the wheel.
//!
//! In debug builds all of them are checked after every entry while a shard is small; in a large one
//! as often as keeps the cost of an entry the same. The simulation checks them after every step.

use super::Shard;
#[cfg(any(test, debug_assertions))]
use super::{Connection, unsettled::Lack};
#[cfg(any(test, debug_assertions))]
use crate::{
    base::id::ConnectionKey,
    protocol::{codec::Carrier, command::PULL_LIMIT_MAX},
    session::Login,
};

/// Connections that one entry may cost to check.
#[cfg(debug_assertions)]
const CHECKED_AN_ENTRY: usize = 64;

/// For the simulation, which wants everything to be given back.
#[cfg(test)]
impl Shard {
    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// How many entries the timing wheel has.
    pub(crate) fn armed(&self) -> usize {
        self.wheel.len()
    }

    /// How many connections wait to be asked what they have.
    pub(crate) fn to_be_asked(&self) -> usize {
        self.questions.waiting().count()
    }

    /// Whether something is still to be resynced.
    pub(crate) fn is_resyncing(&self) -> bool {
        self.resync.is_under_way()
    }

    /// How many users have a session here, and how many groups are known.
    pub(crate) fn table_sizes(&self) -> (usize, usize) {
        (self.users.len(), self.groups.len())
    }
}

impl Shard {
    /// An entry has ended: in debug builds, what must always hold is checked.
    pub(super) fn check_invariants(&self) {
        #[cfg(debug_assertions)]
        {
            let unchecked = self.unchecked_entries.get() + 1;
            let is_due = unchecked * CHECKED_AN_ENTRY >= self.connections.len();
            self.unchecked_entries
                .set(if is_due { 0 } else { unchecked });
            if is_due {
                self.assert_invariants();
            }
        }
    }

    /// Checks what must always hold; takes as long as the shard is large.
    ///
    /// # Panics
    /// If something does not.
    #[cfg(any(test, debug_assertions))]
    pub fn assert_invariants(&self) {
        self.assert_users();
        self.assert_groups();
        for (slot, connection) in &self.connections {
            self.assert_connection(slot as u32, connection);
        }
        self.assert_lists();
        self.assert_unsettled();
        self.resync.assert_invariants();
        self.assert_gauges();
    }
}

#[cfg(any(test, debug_assertions))]
impl Shard {
    fn login_in(&self, slot: u32) -> Option<&Login> {
        let connection = self.connections.get(slot as usize);
        connection.and_then(|connection| connection.session.login())
    }

    fn assert_users(&self) {
        for (id, user) in &self.users {
            assert!(!user.slots.is_empty(), "I1: user {id} without session");
            assert!(
                !has_twice(user.slots.to_vec()),
                "I1: user {id} twice in a slot"
            );
            for slot in &user.slots {
                let here = self.login_in(*slot).map(|login| login.user);
                assert_eq!(here, Some(*id), "I1: somebody else in slot {slot}");
            }
            assert!(
                user.membership_change <= self.membership_changes,
                "I1: a change of user {id} that was not counted"
            );
            user.messages.assert_invariants();
        }
    }

    fn assert_groups(&self) {
        for (id, group) in &self.groups {
            assert!(
                group.holds > 0 || !group.members.is_empty(),
                "I2: nobody is in group {id}, nor about to be"
            );
            for (slot, member) in &group.members {
                let login = self.login_in(*slot);
                assert!(
                    login.is_some_and(|login| login.groups.contains(id)),
                    "I2: slot {slot} is in group {id} and does not know it"
                );
                assert!(
                    member.baseline >= member.floor,
                    "I2: slot {slot} gets more of group {id} than the service allows"
                );
            }
            let unknown = &group.unknown;
            assert!(
                unknown.iter().all(|slot| group.members.contains_key(slot)),
                "I7: it is asked about somebody who is not in group {id}"
            );
            assert_eq!(
                group.messages.is_paused(),
                !unknown.is_empty(),
                "I7: group {id} waits for nobody, or for nothing"
            );
            group.messages.assert_invariants();
        }
    }

    fn assert_connection(&self, slot: u32, connection: &Connection) {
        let session = &connection.session;
        assert!(
            connection.handled <= connection.input.len(),
            "I3: more was handled than came"
        );
        assert!(
            session.ended().is_none() || connection.input.is_empty(),
            "I3: slot {slot} ended, with input"
        );
        let Some(login) = session.login() else {
            return;
        };
        let user = self.users.get(&login.user);
        assert!(
            user.is_some_and(|user| user.slots.contains(&slot)),
            "I1: slot {slot} is not among those of user {}",
            login.user
        );
        assert!(!has_twice(login.groups.clone()), "I2: in a group twice");
        for id in &login.groups {
            let group = self.groups.get(id);
            assert!(
                group.is_some_and(|group| group.members.contains_key(&slot)),
                "I2: group {id} does not know slot {slot}"
            );
        }
        assert!(
            !session.is_logged_in() || login.early.is_empty(),
            "I5: slot {slot} is logged in, and pushes wait"
        );
        assert!(
            session.is_logged_in() || login.window.is_none(),
            "I5: slot {slot} was sent nothing yet, and owes something"
        );
        assert!(
            login.early_bytes <= self.options.outbound_queue_bytes,
            "I5: more waits in slot {slot} than may"
        );
        assert!(
            session.busy || login.membership_news.is_empty(),
            "I5: slot {slot} notes events for no command"
        );
        self.assert_windows(slot, login);
    }

    fn assert_windows(&self, slot: u32, login: &Login) {
        if let Some(ahead) = &login.pulled_ahead {
            assert!(
                !ahead.is_empty(),
                "I6: nothing was pulled ahead in slot {slot}"
            );
        }
        let Some(window) = &login.window else {
            return;
        };
        let bound = self.options.unconfirmed_limit + PULL_LIMIT_MAX as usize;
        assert!(
            window.throttled || !window.catching_up,
            "I6: slot {slot} is caught up and not throttled"
        );
        assert!(
            window.unconfirmed.len() <= bound && window.pulled.len() <= bound,
            "I6: slot {slot} owes more than is kept"
        );
    }

    fn assert_lists(&self) {
        self.assert_list("dirty", self.dirty.iter(), |c| c.dirty);
        self.assert_list("resumable", self.resumable.iter(), |c| c.resumable);
        self.assert_list("throttled", self.throttled.iter(), |c| c.throttled);
        self.assert_list("to be asked", self.questions.waiting(), |c| c.to_be_asked);
        let connections = self.connections.iter();
        let awaited = connections.filter(|(_, connection)| connection.armed_ms < u64::MAX);
        assert!(
            self.wheel.len() >= awaited.count(),
            "I12: a connection is not in the wheel"
        );
    }

    /// I4, of one list and the mark that goes with it. A list may hold connections that are gone.
    fn assert_list<'a>(
        &self,
        name: &str,
        list: impl Iterator<Item = &'a ConnectionKey>,
        is_marked: impl Fn(&Connection) -> bool,
    ) {
        let live: Vec<ConnectionKey> = list
            .filter(|key| self.connection(**key).is_some())
            .copied()
            .collect();
        for key in &live {
            let is_marked = self.connection(*key).is_some_and(&is_marked);
            assert!(is_marked, "I4: {key:?} is in the list: {name}");
        }
        let connections = self.connections.iter();
        let marked = connections.filter(|(_, connection)| is_marked(connection));
        assert_eq!(live.len(), marked.count(), "I4: marks of the list: {name}");
        assert!(!has_twice(live), "I4: twice in the list: {name}");
    }

    fn assert_unsettled(&self) {
        for (user, lack) in self.unsettled.iter() {
            assert!(self.is_here(*user), "I9: user {user} is not here");
            assert_ne!(*lack, Lack::NOTHING, "I9: user {user} lacks nothing");
        }
    }

    fn assert_gauges(&self) {
        let (mut answered, mut unsent) = (0, 0);
        for (_, connection) in &self.connections {
            let session = &connection.session;
            answered += u64::from(session.is_logged_in());
            unsent += connection.counted_unsent;
        }
        for carrier in [Carrier::Line, Carrier::Http, Carrier::WebSocket] {
            let open = self.connections.iter().filter(|(_, connection)| {
                connection.session.ended().is_none() && connection.codec.carrier() == carrier
            });
            let counted = self.metrics.connections(carrier).get();
            assert_eq!(counted, open.count() as u64, "I11: {carrier:?}");
        }
        let counted = self.metrics.sessions_authenticated.get();
        assert_eq!(counted, answered, "I11: logins");
        assert_eq!(self.metrics.outbox_bytes.get(), unsent, "I11: unsent bytes");
        let counted = self.metrics.users_without_route.get();
        let without_route = self.unsettled.iter().filter(|(_, lack)| lack.route);
        assert_eq!(
            counted,
            without_route.count() as u64,
            "I11: users without a route"
        );
    }
}

/// Whether something is among `items` more than once.
#[cfg(any(test, debug_assertions))]
fn has_twice<T: Ord>(mut items: Vec<T>) -> bool {
    items.sort_unstable();
    items.windows(2).any(|pair| pair[0] == pair[1])
}
