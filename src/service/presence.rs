//! Presence: devices come, go and are asked for.
//!
//! Owns what follows from it: who is replaced, who is told, which messages count as handed out. The
//! routes themselves are in `routes`.

use prost::Message as _;

use super::{
    engine::{Engine, ok},
    sessions::{Credential, SESSION_OVER},
    store::{Failure, Storage, StreamId, storage::SessionEpoch},
};
use crate::{
    base::id::{SessionId, UserId},
    contract::bus::Channel,
    proto::{self, Code, PushKind, PushMessage},
    service::route_table::{Bound, NAME_BYTES, parse_route},
};

/// Devices per user where the caller names no limit, and at most.
const DEFAULT_MAX_DEVICES: usize = 5;
const HIGHEST_MAX_DEVICES: usize = 64;

/// Streams that a session bound again may name: its inbox and more groups than a user is in.
const HANDED_OUT_LIMIT: usize = 1024;

/// Users of one refresh, and their sessions: more than one core of a gateway names at once.
const REFRESH_LIMIT: usize = 10_000;
const REFRESH_SESSIONS_LIMIT: usize = REFRESH_LIMIT * HIGHEST_MAX_DEVICES;

impl<S: Storage> Engine<S> {
    pub(super) fn bind_route(
        &mut self,
        request: &proto::BindRouteRequest,
    ) -> Result<proto::BindRouteResponse, Failure> {
        let user = request.user_id;
        let route = parse_route(&request.gateway_id)?;
        if request.session_id == 0 || request.device.len() > NAME_BYTES {
            return Err(Failure::Refused(Code::Invalid, "not a session"));
        }
        let is_first = !self.is_bound(user)?;
        if !self.load_inbox(user)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        let epoch = self.session_epoch(user)?;
        if self.is_session_over(user, &epoch, &Credential::of(request))? {
            return Err(SESSION_OVER);
        }
        let max_devices = match request.max_devices as usize {
            0 => DEFAULT_MAX_DEVICES,
            limit => limit.min(HIGHEST_MAX_DEVICES),
        };
        let route = self.presence.share(route);
        let expires_ms = self.presence.expiry_ms(self.now_ms);
        let sessions = (request.session_id, request.login_session_id);
        let bound = Bound::new(route, sessions, &request.device, expires_ms);
        if self.presence.is_replaced(user, &bound, max_devices) {
            // It comes late: whoever began after it stays, and nothing is bound.
            self.kick(user, &bound, "replaced");
            return Ok(self.bound(user, &[bound], &epoch));
        }
        // First what may be refused: a cursor must not be open without a route.
        self.put_route(user, &bound)?;
        if is_first {
            self.open_cursors(user)?;
        }
        self.note_handed_out(user, &request.handed_out)?;
        let displaced = self.presence.bind(user, bound, max_devices);
        for gone in &displaced {
            self.delete_route(user, gone.session_id)?;
        }
        for gone in &displaced {
            self.kick(user, gone, "replaced");
        }
        if is_first {
            self.has_come(user)?;
        }
        Ok(self.bound(user, &displaced, &epoch))
    }

    fn bound(
        &self,
        user: UserId,
        displaced: &[Bound],
        epoch: &SessionEpoch,
    ) -> proto::BindRouteResponse {
        proto::BindRouteResponse {
            result: ok(),
            displaced: displaced.iter().map(route_message).collect(),
            last_seq: Some(self.store.last_seq(StreamId::inbox(user))),
            session_epoch: Some(epoch.number),
        }
    }

    /// Tells a session that it has ended, and why.
    pub(super) fn kick(&mut self, user: UserId, gone: &Bound, reason: &str) {
        let kick = PushMessage {
            to: user,
            kind: PushKind::Kick.into(),
            text: reason.to_owned(),
            session_id: gone.session_id,
            device: gone.device().to_owned(),
            ..Default::default()
        };
        self.pushes.push((Channel::Route(gone.route.clone()), kick));
    }

    /// From now on, what is published for `user` counts as handed out. Where routes are rows, this
    /// is written with the row; else no later than the first that is published, so that it holds
    /// after a crash.
    fn open_cursors(&mut self, user: UserId) -> Result<(), Failure> {
        for stream in self.streams_of(user)? {
            let last_seq = self.store.last_seq(stream);
            if let Some(cursor) = self.store.cursor((stream, user)) {
                cursor.open(last_seq);
                if self.presence.is_in_storage() {
                    self.store.mark_urgent((stream, user));
                } else {
                    self.store.mark_opened((stream, user));
                }
            }
        }
        Ok(())
    }

    /// A session whose route was forgotten was pushed these all the same. Written with the bind.
    fn note_handed_out(
        &mut self,
        user: UserId,
        ranges: &[proto::HandedOut],
    ) -> Result<(), Failure> {
        for range in ranges.iter().take(HANDED_OUT_LIMIT) {
            let stream = match range.group_id {
                0 => StreamId::inbox(user),
                group => StreamId::group(group),
            };
            if !self.load_reader(stream, user)? {
                continue;
            }
            // A number that was never given is nobody's.
            let to_seq = range.to_seq.min(self.store.last_seq(stream));
            if let Some(cursor) = self.store.cursor((stream, user))
                && cursor.hand_out_range(range.from_seq, to_seq)
            {
                self.store.mark_urgent((stream, user));
            }
        }
        Ok(())
    }

    /// The user's last route is gone. Where routes are rows, this is written with the row; else it
    /// may wait a little.
    pub(super) fn close_cursors(&mut self, user: UserId) -> Result<(), Failure> {
        for stream in self.streams_of(user)? {
            let last_seq = self.store.last_seq(stream);
            if let Some(cursor) = self.store.cursor((stream, user)) {
                cursor.close(last_seq);
                if self.presence.is_in_storage() {
                    self.store.mark_urgent((stream, user));
                } else {
                    self.store.mark_dirty((stream, user));
                }
            }
        }
        Ok(())
    }

    /// The streams `user` reads, each loaded with the user's cursor.
    pub(super) fn streams_of(&mut self, user: UserId) -> Result<Vec<StreamId>, Failure> {
        let mut streams = self.store.read().group_streams(user)?;
        for &stream in &streams {
            if let Some(group) = stream.group_id() {
                self.load_group(group)?;
                self.store.load_member(stream, user)?;
            }
        }
        if self.load_inbox(user)? {
            streams.insert(0, StreamId::inbox(user));
        }
        Ok(streams)
    }

    /// Remembers an inbox; `false`: no such user.
    pub(super) fn load_inbox(&mut self, user: UserId) -> Result<bool, Failure> {
        let presence = &self.presence;
        self.store
            .load_inbox(user, |storage, user| presence.may_be_bound(storage, user))
    }

    /// Remembers a group; `false`: no such group.
    pub(super) fn load_group(&mut self, group: i64) -> Result<bool, Failure> {
        let presence = &self.presence;
        self.store.load_group(group, |storage, member| {
            presence.may_be_bound(storage, member)
        })
    }

    /// Publishes `push` to every route of `user`.
    pub(super) fn push_to(&mut self, user: UserId, push: PushMessage) -> Result<(), Failure> {
        self.load_routes(user)?;
        let mut routes = self.presence.routes(user);
        let Some(mut route) = routes.next() else {
            return Ok(());
        };
        // Nearly every user has one route: the message itself goes to the last one, copies to the
        // others.
        for next in routes {
            self.pushes
                .push((Channel::Route(route.clone()), push.clone()));
            route = next;
        }
        self.pushes.push((Channel::Route(route.clone()), push));
        Ok(())
    }

    pub(super) fn unbind_route(
        &mut self,
        request: &proto::UnbindRouteRequest,
    ) -> Result<proto::UnbindRouteResponse, Failure> {
        let (user, session_id) = (request.user_id, request.session_id);
        self.load_routes(user)?;
        let is_the_one = |bound: &Bound| {
            // Session ids are unique; but a row may be newer than whoever made this session's id
            // knew of.
            bound.session_id == session_id
                && (!self.presence.is_in_storage() || bound.route.as_str() == request.gateway_id)
        };
        if self.presence.devices(user).iter().any(is_the_one) {
            self.take_out(user, session_id)?;
        }
        Ok(proto::UnbindRouteResponse { result: ok() })
    }

    /// Takes out a session that is bound.
    pub(super) fn take_out(&mut self, user: UserId, session_id: SessionId) -> Result<(), Failure> {
        self.delete_route(user, session_id)?;
        if self.presence.unbind(user, session_id) {
            self.close_cursors(user)?;
            self.has_gone(user)?;
        }
        Ok(())
    }

    /// Routes in memory live as long as the connections they name: there is nothing to refresh.
    pub(super) fn refresh_routes(
        &mut self,
        request: &proto::RefreshRoutesRequest,
    ) -> Result<proto::RefreshRoutesResponse, Failure> {
        let mut unknown_user_ids = Vec::new();
        if self.presence.is_in_storage() {
            if request.user_ids.len() > REFRESH_LIMIT
                || request.session_ids.len() > REFRESH_SESSIONS_LIMIT
            {
                return Err(Failure::Refused(Code::Invalid, "too many users at once"));
            }
            let mut sessions = request.session_ids.clone();
            sessions.sort_unstable();
            for &user in &request.user_ids {
                if !self.refresh_routes_of(user, &request.gateway_id, &sessions)? {
                    unknown_user_ids.push(user);
                }
            }
        }
        Ok(proto::RefreshRoutesResponse {
            result: ok(),
            unknown_user_ids,
        })
    }

    pub(super) fn query_route(
        &mut self,
        request: &proto::QueryRouteRequest,
    ) -> Result<proto::QueryRouteResponse, Failure> {
        let user = request.user_id;
        if !self.is_bound(user)? && !self.load_inbox(user)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        let routes: Vec<_> = self
            .presence
            .devices(user)
            .iter()
            .map(route_message)
            .collect();
        Ok(proto::QueryRouteResponse {
            result: ok(),
            gateway_id: routes
                .last()
                .map(|route| route.gateway_id.clone())
                .unwrap_or_default(),
            routes,
        })
    }

    pub(super) fn deliver(
        &mut self,
        request: &proto::DeliverRequest,
    ) -> Result<proto::DeliverResponse, Failure> {
        let mut push = PushMessage::decode(request.payload.as_slice())
            .ok()
            .filter(|_| !request.payload.is_empty())
            .ok_or(Failure::Refused(Code::Invalid, "not a push message"))?;
        let user = request.to;
        if !self.is_bound(user)? && !self.load_inbox(user)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        if push.to == 0 {
            push.to = user;
        }
        // Who publishes signs.
        push.mac = Vec::new();
        self.push_to(user, push)?;
        Ok(proto::DeliverResponse { result: ok() })
    }
}

fn route_message(bound: &Bound) -> proto::Route {
    proto::Route {
        gateway_id: bound.route.as_str().to_owned(),
        session_id: bound.session_id,
        device: bound.device().to_owned(),
    }
}
