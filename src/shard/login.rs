//! Who is logged in where: users with their sessions, groups with their members on this core.
//!
//! A login is attached before its route is bound, so that no push between the two is lost; it gets
//! pushes once it has been answered. Invariant: see the shard's.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use smallvec::SmallVec;

use super::{Effect, Group, Member, Shard, Standing, User, sequencer::Sequencer, unsettled::Lack};
use crate::{
    base::{
        close::CloseReason,
        id::{ConnectionKey, GroupId, SessionId, Stream, UserId},
        mutation::{Mutation, is_seeded},
    },
    proto::HandedOut,
    session::{HeldSession, Login, LoginSession, Membership, PastLogin, outbox::Delivery},
};

impl Shard {
    /// Attaches `user` to the connection; `false`: the connection is gone.
    pub fn attach(
        &mut self,
        key: ConnectionKey,
        user: UserId,
        name: String,
        session_id: SessionId,
    ) -> bool {
        let login_session = LoginSession {
            id: session_id,
            epoch: None,
            issued_ms: self.now.unix_ms,
        };
        let Some(connection) = self.connection_mut(key) else {
            return false;
        };
        if connection.session.ended().is_some() {
            return false;
        }
        let login = Login::new(user, name, session_id, login_session);
        connection.session.attach(login);
        self.users
            .entry(user)
            .or_insert_with(|| User {
                slots: SmallVec::new(),
                messages: Sequencer::unknown(),
                membership_change: 0,
            })
            .slots
            .push(key.slot);
        self.membership_changed(user);
        self.check_invariants();
        true
    }

    /// The login belongs to `login_session`: one of its own, or that of its token.
    pub fn set_login_session(&mut self, key: ConnectionKey, login_session: LoginSession) {
        if let Some(login) = self.connection_mut(key).and_then(|c| c.session.login_mut()) {
            login.login_session = login_session;
        }
    }

    /// The login is by password, just now.
    pub fn password_given(&mut self, key: ConnectionKey) {
        let now_ms = self.now_ms();
        if let Some(login) = self.connection_mut(key).and_then(|c| c.session.login_mut()) {
            login.password_given_ms = Some(now_ms);
        }
    }

    /// The user's name, if the connection's login was made by password within the last `age_ms`.
    pub fn logged_in_by_password(&self, key: ConnectionKey, age_ms: u64) -> Option<String> {
        let login = self.connection(key)?.session.login()?;
        let given_ms = login.password_given_ms?;
        (self.now_ms().saturating_sub(given_ms) < age_ms).then(|| login.name.clone())
    }

    /// Presence took the session in, in the present `epoch` of its user; `None`: it does not count
    /// them.
    pub fn set_session_epoch(&mut self, key: ConnectionKey, epoch: Option<u64>) {
        let login = self.connection_mut(key).and_then(|c| c.session.login_mut());
        if let (Some(login), Some(epoch)) = (login, epoch) {
            login.login_session.epoch = Some(epoch);
        }
    }

    /// The route is bound; direct messages after number `last_seq` will be pushed (`None`: the
    /// backend does not tell; the first one that comes is the beginning).
    pub fn set_baseline(&mut self, key: ConnectionKey, last_seq: Option<u64>) {
        let Some(login) = self
            .connection_mut(key)
            .and_then(|connection| connection.session.login_mut())
        else {
            return;
        };
        let baseline = last_seq.unwrap_or(0);
        login.baseline = baseline;
        let inbox = Stream::Direct(login.user);
        // The user's other sessions here may have been pushed some of those while this one was
        // being bound.
        let user = login.user;
        login.early.retain(|push| {
            Delivery::of(user, push)
                .is_none_or(|delivery| delivery.stream != inbox || delivery.seq > baseline)
        });
        self.begin_stream(inbox, last_seq);
    }

    /// The service said that `stream` ends at `last_seq` now; `None`: it does not tell.
    fn begin_stream(&mut self, stream: Stream, last_seq: Option<u64>) {
        let Some(sequencer) = self.sequencer_mut(stream) else {
            return;
        };
        let fetch = match last_seq {
            Some(last_seq) => sequencer.baseline(last_seq),
            None => sequencer.begin_anywhere(),
        };
        self.go_on(stream, fetch);
    }

    /// Whether the connection is still logged in as session `session_id`.
    pub fn is_logged_in(&self, key: ConnectionKey, session_id: SessionId) -> bool {
        self.connection(key)
            .and_then(|connection| connection.session.login())
            .is_some_and(|login| login.session_id == session_id)
    }

    /// Whether `user` has a session on this core.
    pub fn is_here(&self, user: UserId) -> bool {
        self.users.contains_key(&user)
    }

    /// The users with a session on this core.
    pub fn users_here(&self) -> Vec<UserId> {
        self.users.keys().copied().collect()
    }

    /// The sessions of `user` on this core.
    pub fn sessions_of(&self, user: UserId) -> Vec<HeldSession> {
        let slots = self.slots_of(user);
        let sessions = slots.iter().map(|slot| &self.connections[*slot as usize]);
        sessions
            .filter_map(|connection| connection.session.held())
            .collect()
    }

    /// What a session was pushed since its login: of its inbox and of each of its groups.
    pub fn handed_out(&self, user: UserId, session_id: SessionId) -> Vec<HandedOut> {
        let Some(key) = self.key_of_session(user, session_id) else {
            return Vec::new();
        };
        let pushed = self.pushed_to(key).into_iter();
        pushed
            .map(|(stream, seqs)| HandedOut {
                group_id: stream.group_id(),
                from_seq: *seqs.start(),
                to_seq: *seqs.end(),
            })
            .collect()
    }

    /// The numbers that a connection's session was pushed since its login.
    pub fn pushed_to(&self, key: ConnectionKey) -> BTreeMap<Stream, RangeInclusive<u64>> {
        let Some(login) = self.connection(key).and_then(|c| c.session.login()) else {
            return BTreeMap::new();
        };
        // Where a client confirms for itself, some may be held back.
        let sent = login.window.as_deref();
        let numbers = login.streams().map(|stream| {
            let last = match sent {
                Some(sent) => sent.last_sent(stream),
                None => self.last(stream).unwrap_or(0),
            };
            (stream, self.baseline(key.slot, stream), last)
        });
        numbers
            .filter(|(_, baseline, last)| last > baseline)
            .map(|(stream, baseline, last)| (stream, baseline + 1..=last))
            .collect()
    }

    /// The session of a connection; `None`: nobody is logged in on it.
    pub fn held_session(&self, key: ConnectionKey) -> Option<HeldSession> {
        self.connection(key)?.session.held()
    }

    /// The groups whose messages the connection's session gets.
    pub fn groups_of(&self, key: ConnectionKey) -> Vec<GroupId> {
        let login = self.connection(key).and_then(|c| c.session.login());
        login.map_or_else(Vec::new, |login| login.groups.clone())
    }

    /// The streams whose messages the connection's session gets.
    pub fn streams_of(&self, key: ConnectionKey) -> Vec<Stream> {
        let login = self.connection(key).and_then(|c| c.session.login());
        login.map_or_else(Vec::new, |login| login.streams().collect())
    }

    /// Ends a session of `user` for `reason`, if it is here.
    pub fn end_session(&mut self, user: UserId, session_id: SessionId, reason: CloseReason) {
        if let Some(key) = self.key_of_session(user, session_id) {
            self.end(key, reason);
        }
    }

    /// The connection of a session of `user`, if it is here.
    pub fn key_of_session(&self, user: UserId, session_id: SessionId) -> Option<ConnectionKey> {
        self.slots_of(user).into_iter().find_map(|slot| {
            let login = self.connections[slot as usize].session.login()?;
            (login.session_id == session_id).then(|| self.key_of(slot))
        })
    }

    /// Keeps `group` known to this core until [`Shard::release_group`]; `true`: it was not, so it
    /// must be listened to.
    pub fn hold_group(&mut self, group: GroupId) -> bool {
        let mut new = false;
        let entry = self.groups.entry(group).or_insert_with(|| {
            new = true;
            Group {
                members: BTreeMap::new(),
                messages: Sequencer::unknown(),
                unknown: BTreeSet::new(),
                holds: 0,
            }
        });
        entry.holds += 1;
        new
    }

    /// Undoes one [`Shard::hold_group`].
    pub fn release_group(&mut self, group: GroupId) {
        if let Some(entry) = self.groups.get_mut(&group) {
            assert!(entry.holds > 0, "a group is let go as often as it is held");
            entry.holds -= 1;
        }
        self.forget_group_if_empty(group);
    }

    /// The service is about to be asked about `group` again: what it answers then is newer than
    /// what came before.
    pub fn forget_membership_news(&mut self, key: ConnectionKey, group: GroupId) {
        if let Some(login) = self.connection_mut(key).and_then(|c| c.session.login_mut()) {
            login.membership_news.retain(|(of, _)| *of != group);
        }
    }

    fn has_news(&self, key: ConnectionKey, group: GroupId, news: Membership) -> bool {
        self.connection(key)
            .and_then(|connection| connection.session.login())
            .is_some_and(|login| login.membership_news.contains(&(group, news)))
    }

    /// Notes what the bus brought for a session whose command may know less.
    fn note_membership(&mut self, slot: u32, group: GroupId, news: Membership) {
        let session = &mut self.connections[slot as usize].session;
        let busy = session.busy;
        if let Some(login) = session.login_mut() {
            login.membership_news.retain(|(of, _)| *of != group);
            if busy {
                login.membership_news.push((group, news));
            }
        }
    }

    /// The session gets the messages of `group` after number `last_seq`, as the service said,
    /// unless it has said since that the user left (`None`: the backend does not tell; the first
    /// one that comes is the beginning).
    pub fn add_member(&mut self, key: ConnectionKey, group: GroupId, last_seq: Option<u64>) {
        if self.has_news(key, group, Membership::Left) {
            return;
        }
        let Some(login) = self
            .connection_mut(key)
            .and_then(|connection| connection.session.login_mut())
        else {
            return;
        };
        if login.groups.contains(&group) {
            return;
        }
        login.groups.push(group);
        let user = login.user;
        self.membership_changed(user);
        let entry = self.groups.entry(group).or_insert_with(|| Group {
            members: BTreeMap::new(),
            messages: Sequencer::unknown(),
            unknown: BTreeSet::new(),
            holds: 0,
        });
        // What others here were pushed since the service was asked is not pushed again.
        let baseline = last_seq.max(entry.messages.last()).unwrap_or(0);
        let floor = last_seq.unwrap_or(0);
        entry.members.insert(key.slot, Member { baseline, floor });
        let stream = Stream::Group(group);
        if let Some(window) = self.window_mut(key) {
            window.last_sent.insert(stream, baseline);
        }
        self.begin_stream(stream, last_seq);
    }

    /// All local sessions of `user` get the messages of `group` that were sent since the membership
    /// began. Who joined unheard is behind the others here, and catches up.
    pub(super) fn user_joined(&mut self, user: UserId, group: GroupId, standing: Standing) {
        let slots = self.slots_of(user);
        if slots.is_empty() {
            return;
        }
        self.membership_changed(user);
        if !self.groups.contains_key(&group) {
            self.effects.push(Effect::Subscribe(group));
        }
        for slot in slots {
            let key = self.key_of(slot);
            self.note_membership(slot, group, Membership::Joined);
            self.let_in(key, group, standing);
        }
    }

    /// The session gets the messages of `group` that were sent since the membership began.
    pub fn let_in(&mut self, key: ConnectionKey, group: GroupId, standing: Standing) {
        let was_in = self.groups_of(key).contains(&group);
        self.add_member(key, group, standing.since.or(standing.last_seq));
        let stream = Stream::Group(group);
        let baseline = self.baseline(key.slot, stream);
        if let Some(since) = standing.since
            && since < baseline
            && !was_in
        {
            self.catch_up_from(key, stream, since);
        }
    }

    /// The service answered that `user` has left `group`, which holds unless the bus has brought
    /// since that it was joined again.
    pub fn leave(&mut self, key: ConnectionKey, user: UserId, group: GroupId) {
        if !self.has_news(key, group, Membership::Joined) {
            self.user_left(user, group);
        }
    }

    /// No session of `user` gets the messages of `group` any more.
    pub(super) fn user_left(&mut self, user: UserId, group: GroupId) {
        if is_seeded(Mutation::LeaverStaysMember) {
            return;
        }
        self.membership_changed(user);
        for slot in self.slots_of(user) {
            self.note_membership(slot, group, Membership::Left);
            if let Some(login) = self.connections[slot as usize].session.login_mut() {
                login.groups.retain(|other| *other != group);
            }
            self.remove_member(slot, group);
        }
        self.forget_group_if_empty(group);
    }

    fn membership_changed(&mut self, user: UserId) {
        self.membership_changes += 1;
        if let Some(entry) = self.users.get_mut(&user) {
            entry.membership_change = self.membership_changes;
        }
    }

    /// The last change of the memberships of `user`, for [`Shard::set_memberships`]; `None`: nobody
    /// is here, or a login is under way that may know less than what follows it.
    pub fn membership_change(&self, user: UserId) -> Option<u64> {
        let mut slots = self.slots_of(user).into_iter();
        let is_settled = slots.all(|slot| {
            let session = &self.connections[slot as usize].session;
            session.is_logged_in()
        });
        let entry = self.users.get(&user).filter(|_| is_settled)?;
        Some(entry.membership_change)
    }

    /// The service was asked after the change `as_of`, and answered that `user` is in these groups,
    /// with their last numbers as far as it tells them. `false`: there was news since, which may be
    /// newer than this answer.
    pub fn set_memberships(
        &mut self,
        user: UserId,
        as_of: u64,
        groups: &[(GroupId, Standing)],
    ) -> bool {
        if self.membership_change(user) != Some(as_of) {
            return !self.is_here(user);
        }
        let sessions: Vec<Vec<GroupId>> = self
            .slots_of(user)
            .into_iter()
            .map(|slot| self.groups_of(self.key_of(slot)))
            .collect();
        let is_late = self.lacks_groups(user);
        for (group, standing) in groups {
            self.correct_floor(user, *group, standing.last_seq);
            if sessions.iter().any(|of_one| !of_one.contains(group)) {
                let standing = if is_late {
                    standing.counted_from_now()
                } else {
                    *standing
                };
                self.user_joined(user, *group, standing);
            } else {
                self.begin_again(user, *group, standing.since);
            }
        }
        for group in sessions.into_iter().flatten() {
            if groups.iter().all(|(other, _)| *other != group) {
                self.user_left(user, group);
            }
        }
        self.settled(user, Lack::GROUPS);
        self.check_invariants();
        true
    }

    /// The user may have left `group` and joined again unheard: what was sent in between is not for
    /// its sessions.
    fn begin_again(&mut self, user: UserId, group: GroupId, since: Option<u64>) {
        let slots = self.slots_of(user);
        if let (Some(entry), Some(since)) = (self.groups.get_mut(&group), since) {
            for slot in slots {
                if let Some(member) = entry.members.get_mut(&slot) {
                    member.floor = member.floor.max(since);
                    member.baseline = member.baseline.max(since);
                }
            }
        }
    }

    /// The service says that `group` ends at `last_seq`: who is in it was not let in behind that.
    fn correct_floor(&mut self, user: UserId, group: GroupId, last_seq: Option<u64>) {
        let slots = self.slots_of(user);
        if let (Some(entry), Some(last_seq)) = (self.groups.get_mut(&group), last_seq) {
            for slot in slots {
                if let Some(member) = entry.members.get_mut(&slot)
                    && member.floor > last_seq
                {
                    member.floor = last_seq;
                    member.baseline = member.baseline.min(last_seq);
                }
            }
        }
    }

    /// Whether this core still has somebody in `group`, or is about to.
    pub fn knows_group(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// After a group was newly listened to: what came between its last number and the listening
    /// must be fetched.
    pub fn group_subscribed(&mut self, group: GroupId) {
        let stream = Stream::Group(group);
        let fetch = self.missed(stream);
        self.go_on(stream, fetch);
    }

    /// A login of the connection is over: takes it out of the tables, and asks for its route to be
    /// forgotten. `is_told`: a command tells the User Service.
    pub(super) fn forget_login(&mut self, slot: u32, past: &PastLogin, is_told: bool) {
        let login = &past.login;
        if let Some(user) = self.users.get_mut(&login.user) {
            user.slots.retain(|other| *other != slot);
            if user.slots.is_empty() {
                self.users.remove(&login.user);
                self.forget_unsettled(login.user);
            }
        }
        for group in &login.groups {
            self.remove_member(slot, *group);
            self.forget_group_if_empty(*group);
        }
        if past.was_answered {
            self.metrics.sessions_authenticated.dec();
        }
        self.ask_now(self.key_of(slot));
        self.unbindings.push(Effect::Unbind {
            user: login.user,
            session_id: login.session_id,
            is_told,
        });
    }

    /// Asks for the route of a session to be forgotten.
    pub fn unbind(&mut self, user: UserId, session_id: SessionId) {
        self.effects.push(Effect::Unbind {
            user,
            session_id,
            is_told: false,
        });
    }

    /// The client is logged out and may log in again: it has as long for that as after connecting.
    /// `is_told`: the User Service hears of it from who calls this.
    pub fn log_out_in_place(&mut self, key: ConnectionKey, is_told: bool) {
        let Some(connection) = self.connection_mut(key) else {
            return;
        };
        if connection.session.ended().is_some() {
            return;
        }
        if connection.session.login().is_some()
            && let Some(past) = connection.session.log_out()
        {
            self.forget_login(key.slot, &past, is_told);
        }
        let deadline_ms = self.now_ms() + self.options.login_timeout_ms;
        self.connections[key.slot as usize].session.deadline_ms = deadline_ms;
        self.arm(key, deadline_ms);
        self.check_invariants();
    }

    fn remove_member(&mut self, slot: u32, group: GroupId) {
        if let Some(entry) = self.groups.get_mut(&group) {
            entry.members.remove(&slot);
        }
        self.membership_known(slot, group);
    }

    fn forget_group_if_empty(&mut self, group: GroupId) {
        if let Some(entry) = self.groups.get(&group)
            && entry.members.is_empty()
            && entry.holds == 0
        {
            self.groups.remove(&group);
            self.effects.push(Effect::Unsubscribe(group));
        }
    }
}
