//! Routes as rows.

use rusqlite::params;

use super::Sqlite;
use crate::{
    base::id::{SessionId, UserId},
    service::store::{
        Failure,
        storage::{Routes, StoredRoute},
    },
};

impl Routes for Sqlite {
    fn routes(&self, user: UserId) -> Result<Vec<StoredRoute>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT session_id, route_id, device, expires_ms, login_session
             FROM routes WHERE user_id = ?1 ORDER BY bound_order",
        )?;
        let routes = statement.query_map([user], |row| {
            Ok(StoredRoute {
                session_id: row.get::<_, i64>(0)? as SessionId,
                route: row.get(1)?,
                device: row.get(2)?,
                login_session: row.get::<_, i64>(4)? as SessionId,
                expires_ms: row.get(3)?,
            })
        })?;
        Ok(routes.collect::<Result<_, _>>()?)
    }

    fn has_route(&self, user: UserId) -> Result<bool, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT 1 FROM routes WHERE user_id = ?1")?
            .exists([user])?)
    }

    fn put_route(&mut self, user: UserId, route: &StoredRoute) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO routes
                     (user_id, session_id, route_id, device, bound_order, expires_ms, login_session)
                 SELECT ?1, ?2, ?3, ?4, ifnull(max(bound_order), 0) + 1, ?5, ?6 FROM routes WHERE user_id = ?1",
            )?
            .execute(params![
                user,
                route.session_id as i64,
                route.route,
                route.device,
                route.expires_ms,
                route.login_session as i64,
            ])?;
        Ok(())
    }

    fn delete_route(&mut self, user: UserId, session_id: SessionId) -> Result<(), Failure> {
        self.connection
            .prepare_cached("DELETE FROM routes WHERE user_id = ?1 AND session_id = ?2")?
            .execute(params![user, session_id as i64])?;
        Ok(())
    }

    fn delete_routes(&mut self, user: UserId) -> Result<(), Failure> {
        self.connection
            .prepare_cached("DELETE FROM routes WHERE user_id = ?1")?
            .execute([user])?;
        Ok(())
    }

    fn delete_all_routes(&mut self) -> Result<(), Failure> {
        Ok(self.connection.execute_batch("DELETE FROM routes")?)
    }

    fn delay_routes(&mut self, by_ms: i64) -> Result<(), Failure> {
        self.connection
            .prepare_cached("UPDATE routes SET expires_ms = expires_ms + ?1")?
            .execute([by_ms])?;
        Ok(())
    }

    fn sessions_over(
        &self,
        user: UserId,
        route: &str,
        now_ms: i64,
    ) -> Result<Vec<SessionId>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT session_id FROM routes WHERE user_id = ?1 AND route_id = ?2 AND expires_ms > ?3",
        )?;
        let sessions = statement.query_map(params![user, route, now_ms], |row| {
            Ok(row.get::<_, i64>(0)? as SessionId)
        })?;
        Ok(sessions.collect::<Result<_, _>>()?)
    }

    fn refresh_route(
        &mut self,
        user: UserId,
        session_id: SessionId,
        expires_ms: i64,
    ) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "UPDATE routes SET expires_ms = ?3 WHERE user_id = ?1 AND session_id = ?2",
            )?
            .execute(params![user, session_id as i64, expires_ms])?;
        Ok(())
    }

    fn put_departure(&mut self, user: UserId, due_ms: i64) -> Result<(), Failure> {
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO departures (user_id, due_ms) VALUES (?1, ?2)")?
            .execute([user, due_ms])?;
        Ok(())
    }

    fn delete_departure(&mut self, user: UserId) -> Result<(), Failure> {
        self.connection
            .prepare_cached("DELETE FROM departures WHERE user_id = ?1")?
            .execute([user])?;
        Ok(())
    }

    fn due_departures(&self, now_ms: i64, limit: usize) -> Result<Vec<UserId>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT user_id FROM departures WHERE due_ms <= ?1 ORDER BY due_ms LIMIT ?2",
        )?;
        let users = statement.query_map(params![now_ms, limit as i64], |row| row.get(0))?;
        Ok(users.collect::<Result<_, _>>()?)
    }

    fn first_expiry_ms(&self) -> Result<Option<i64>, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT min(expires_ms) FROM routes")?
            .query_row([], |row| row.get(0))?)
    }

    fn users_with_expired_routes(&self, now_ms: i64, limit: usize) -> Result<Vec<UserId>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT DISTINCT user_id FROM routes WHERE expires_ms <= ?1 LIMIT ?2",
        )?;
        let users = statement.query_map(params![now_ms, limit as i64], |row| row.get(0))?;
        Ok(users.collect::<Result<_, _>>()?)
    }
}
