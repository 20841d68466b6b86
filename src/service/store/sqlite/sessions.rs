//! Ended sessions as rows.

use rusqlite::{OptionalExtension, params};

use super::Sqlite;
use crate::{
    base::id::{SessionId, UserId},
    service::store::{
        Failure,
        storage::{SessionEpoch, Sessions},
    },
};

impl Sessions for Sqlite {
    fn session_epoch(&self, user: UserId) -> Result<SessionEpoch, Failure> {
        let epoch = self
            .connection
            .prepare_cached(
                "SELECT epoch, since_ms, kept_session FROM session_epochs WHERE user_id = ?1",
            )?
            .query_row([user], |row| {
                Ok(SessionEpoch {
                    number: row.get::<_, i64>(0)?.cast_unsigned(),
                    since_ms: row.get(1)?,
                    kept_session: row.get::<_, i64>(2)?.cast_unsigned(),
                })
            })
            .optional()?;
        Ok(epoch.unwrap_or_default())
    }

    fn begin_session_epoch(&mut self, user: UserId, epoch: &SessionEpoch) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO session_epochs (user_id, epoch, since_ms, kept_session)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                user,
                epoch.number.cast_signed(),
                epoch.since_ms,
                epoch.kept_session.cast_signed(),
            ])?;
        self.connection
            .prepare_cached("DELETE FROM ended_sessions WHERE user_id = ?1")?
            .execute([user])?;
        Ok(())
    }

    fn is_session_ended(&self, user: UserId, session: SessionId) -> Result<bool, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT 1 FROM ended_sessions WHERE user_id = ?1 AND session_id = ?2")?
            .exists([user, session.cast_signed()])?)
    }

    fn ended_session_count(&self, user: UserId) -> Result<u32, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT count(*) FROM ended_sessions WHERE user_id = ?1")?
            .query_row([user], |row| row.get(0))?)
    }

    fn insert_ended_session(
        &mut self,
        user: UserId,
        session: SessionId,
        expires_ms: i64,
    ) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO ended_sessions (user_id, session_id, expires_ms)
                 VALUES (?1, ?2, ?3)",
            )?
            .execute(params![user, session.cast_signed(), expires_ms])?;
        Ok(())
    }

    fn has_expired_sessions(&self, now_ms: i64) -> Result<bool, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT 1 FROM ended_sessions WHERE expires_ms <= ?1")?
            .exists([now_ms])?)
    }

    fn delete_expired_sessions(&mut self, now_ms: i64, limit: usize) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "DELETE FROM ended_sessions WHERE (user_id, session_id) IN
                 (SELECT user_id, session_id FROM ended_sessions WHERE expires_ms <= ?1 LIMIT ?2)",
            )?
            .execute(params![now_ms, limit as i64])?;
        Ok(())
    }
}
