//! Sessions that are ended before their tokens' time: one by `logout`, all of a user at once.
//!
//! Owns the judgement whether a session is over, which is made where a connection is bound anyway.
//! A session is that of a login by password; connections belong to it by its tokens.
//!
//! All of a user's sessions end by beginning another *epoch*. A login carries the number of the
//! epoch in which it began, so no clock decides what came first; only who names none is judged by
//! the time at which its token was issued.
//!
//! Invariants: what was ended stays ended until its tokens have expired by themselves; what is kept
//! of a user is bounded.

use super::{
    engine::{Engine, ok},
    store::{Failure, Storage, storage::SessionEpoch},
};
use crate::{
    base::id::{SessionId, UserId},
    proto::{self, Code},
    service::route_table::Bound,
};

/// Single ended sessions that are kept of one user. Past it all tokens of the user end, as those of
/// ended sessions could not be told from others any more.
const ENDED_LIMIT: u32 = 1000;
/// No token is good for longer than these ten years.
const LONGEST_LIFE_MS: i64 = 10 * 366 * 24 * 3_600_000;
/// Ended sessions whose tokens have expired that are forgotten at once.
const SLICE_SESSIONS: usize = 256;

/// What a connection of an ended session is told.
const REVOKED: &str = "revoked";

pub(super) const SESSION_OVER: Failure =
    Failure::Refused(Code::Unauthenticated, "the session was ended");

/// What a connection says of the session it belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credential {
    pub(super) login_session: SessionId,
    pub(super) epoch: Option<u64>,
    pub(super) issued_ms: u64,
}

impl Credential {
    pub(super) fn of(request: &proto::BindRouteRequest) -> Self {
        Self {
            login_session: request.login_session_id,
            epoch: request.session_epoch,
            issued_ms: request.token_issued_ms,
        }
    }

    /// Whether it is from before `present`.
    fn is_before(&self, present: &SessionEpoch) -> bool {
        match self.epoch {
            Some(epoch) if epoch <= present.number => epoch < present.number,
            // It says nothing of epochs, or what no service over this store can have told it.
            _ => {
                let issued_ms = i64::try_from(self.issued_ms).unwrap_or(i64::MAX);
                issued_ms != 0 && issued_ms < present.since_ms
            }
        }
    }
}

impl<S: Storage> Engine<S> {
    pub(super) fn session_epoch(&self, user: UserId) -> Result<SessionEpoch, Failure> {
        self.store.read().session_epoch(user)
    }

    /// What [`Engine::bind_route`] would say of the session, and nothing is bound.
    pub(super) fn judge_session(
        &mut self,
        request: &proto::CheckSessionRequest,
    ) -> Result<proto::CheckSessionResponse, Failure> {
        let user = request.user_id;
        if !self.load_inbox(user)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        let present = self.session_epoch(user)?;
        let credential = Credential {
            login_session: request.login_session_id,
            epoch: request.session_epoch,
            issued_ms: request.token_issued_ms,
        };
        if self.is_session_over(user, &present, &credential)? {
            return Err(SESSION_OVER);
        }
        Ok(proto::CheckSessionResponse {
            result: ok(),
            session_epoch: Some(present.number),
        })
    }

    /// Whether the session was ended that this is a credential of.
    pub(super) fn is_session_over(
        &self,
        user: UserId,
        present: &SessionEpoch,
        credential: &Credential,
    ) -> Result<bool, Failure> {
        let session = credential.login_session;
        if session != 0 && self.store.read().is_session_ended(user, session)? {
            return Ok(true);
        }
        let is_kept = session != 0 && session == present.kept_session;
        Ok(!is_kept && credential.is_before(present))
    }

    pub(super) fn end_session(
        &mut self,
        request: &proto::EndSessionRequest,
    ) -> Result<proto::EndSessionResponse, Failure> {
        let (user, session) = (request.user_id, request.login_session_id);
        if session == 0 {
            return Err(Failure::Refused(Code::Invalid, "not a session"));
        }
        if !self.load_inbox(user)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        if self.store.read().ended_session_count(user)? >= ENDED_LIMIT {
            self.begin_session_epoch(user, 0)?;
        }
        let life_ms = match request.tokens_live_ms {
            0 => LONGEST_LIFE_MS,
            life_ms => i64::try_from(life_ms)
                .unwrap_or(i64::MAX)
                .min(LONGEST_LIFE_MS),
        };
        let expires_ms = self.now_ms.saturating_add(life_ms);
        let rows = self.store.write()?;
        rows.insert_ended_session(user, session, expires_ms)?;
        self.end_connections(user, |bound| {
            bound.login_session == session && bound.session_id != request.session_id
        })?;
        Ok(proto::EndSessionResponse { result: ok() })
    }

    pub(super) fn end_all_sessions(
        &mut self,
        request: &proto::EndAllSessionsRequest,
    ) -> Result<proto::EndAllSessionsResponse, Failure> {
        let user = request.user_id;
        if !self.load_inbox(user)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        self.begin_session_epoch(user, 0)?;
        self.end_connections(user, |bound| bound.session_id != request.session_id)?;
        Ok(proto::EndAllSessionsResponse { result: ok() })
    }

    /// The user's password was changed by the session of `kept`: all others end.
    pub(super) fn end_other_sessions(
        &mut self,
        user: UserId,
        kept: SessionId,
    ) -> Result<SessionEpoch, Failure> {
        let epoch = self.begin_session_epoch(user, kept)?;
        self.end_connections(user, |bound| bound.login_session != kept)?;
        Ok(epoch)
    }

    /// Ends all sessions of `user` but `kept_session`, as far as tokens are concerned.
    fn begin_session_epoch(
        &mut self,
        user: UserId,
        kept_session: SessionId,
    ) -> Result<SessionEpoch, Failure> {
        let present = self.session_epoch(user)?;
        let epoch = SessionEpoch {
            number: present.number + 1,
            // A clock that was set back does not bring back what was ended.
            since_ms: self.unix_ms.max(present.since_ms),
            kept_session,
        };
        self.store.write()?.begin_session_epoch(user, &epoch)?;
        Ok(epoch)
    }

    /// Takes the connections of `user` out that are meant, and tells them.
    fn end_connections(
        &mut self,
        user: UserId,
        is_meant: impl Fn(&Bound) -> bool,
    ) -> Result<(), Failure> {
        self.load_routes(user)?;
        let devices = self.presence.devices(user).iter();
        let ended: Vec<Bound> = devices.filter(|bound| is_meant(bound)).cloned().collect();
        for bound in &ended {
            self.take_out(user, bound.session_id)?;
            self.kick(user, bound, REVOKED);
        }
        Ok(())
    }

    /// Forgets ended sessions whose tokens have expired, a few at a time; `true`: there are more.
    pub(super) fn sweep_ended_sessions(&mut self) -> Result<bool, Failure> {
        let now_ms = self.now_ms;
        if !self.store.read().has_expired_sessions(now_ms)? {
            return Ok(false);
        }
        let rows = self.store.write()?;
        rows.delete_expired_sessions(now_ms, SLICE_SESSIONS)?;
        self.store.read().has_expired_sessions(now_ms)
    }
}
