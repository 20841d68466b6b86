//! Users and their contacts as rows.

use rusqlite::{OptionalExtension, params};

use super::{Sqlite, failure::is_conflict};
use crate::{
    base::id::UserId,
    service::store::{Failure, storage::Accounts},
};

impl Accounts for Sqlite {
    fn account(&self, name: &str) -> Result<Option<(UserId, String)>, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT user_id, password_hash FROM users WHERE name = ?1")?
            .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?)
    }

    fn user_count(&self) -> Result<u64, Failure> {
        let count = self
            .connection
            .query_row("SELECT count(*) FROM users", [], |row| row.get::<_, i64>(0))?;
        Ok(count.unsigned_abs())
    }

    fn password_hash(&self, user: UserId) -> Result<Option<String>, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT password_hash FROM users WHERE user_id = ?1")?
            .query_row([user], |row| row.get(0))
            .optional()?)
    }

    fn set_password_hash(&mut self, user: UserId, hash: &str) -> Result<bool, Failure> {
        let changed = self
            .connection
            .prepare_cached("UPDATE users SET password_hash = ?2 WHERE user_id = ?1")?
            .execute(params![user, hash])?;
        Ok(changed > 0)
    }

    fn user_exists(&self, user: UserId) -> Result<bool, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT 1 FROM users WHERE user_id = ?1")?
            .exists([user])?)
    }

    fn name_of(&self, user: UserId) -> Result<Option<String>, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT name FROM users WHERE user_id = ?1")?
            .query_row([user], |row| row.get(0))
            .optional()?)
    }

    fn looks_taken(&self, skeleton: &str) -> Result<bool, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT 1 FROM users WHERE skeleton = ?1")?
            .exists([skeleton])?)
    }

    fn names_alike(&self, skeleton: &str, limit: u32) -> Result<Vec<String>, Failure> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT name FROM users WHERE skeleton = ?1 LIMIT ?2")?;
        let names = statement.query_map(params![skeleton, limit], |row| row.get(0))?;
        Ok(names.collect::<Result<_, _>>()?)
    }

    fn insert_user(
        &mut self,
        (name, skeleton): (&str, &str),
        hash: &str,
        now_ms: i64,
    ) -> Result<Option<UserId>, Failure> {
        let inserted = self
            .connection
            .prepare_cached(
                "INSERT INTO users (name, skeleton, password_hash, created_ms)
                 SELECT ?1, ?2, ?3, ?4 WHERE NOT EXISTS (SELECT 1 FROM users WHERE skeleton = ?2)",
            )?
            .execute(params![name, skeleton, hash, now_ms]);
        match inserted {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(self.connection.last_insert_rowid())),
            Err(error) if is_conflict(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn network_seen_ms(&self, user: UserId, network: &[u8]) -> Result<Option<i64>, Failure> {
        Ok(self
            .connection
            .prepare_cached(
                "SELECT seen_ms FROM known_networks WHERE user_id = ?1 AND network = ?2",
            )?
            .query_row(params![user, network], |row| row.get(0))
            .optional()?)
    }

    fn remember_network(
        &mut self,
        user: UserId,
        network: &[u8],
        now_ms: i64,
        limit: u32,
    ) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "INSERT INTO known_networks (user_id, network, seen_ms) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET seen_ms = ?3",
            )?
            .execute(params![user, network, now_ms])?;
        self.connection
            .prepare_cached(
                "DELETE FROM known_networks WHERE user_id = ?1 AND network NOT IN
                 (SELECT network FROM known_networks WHERE user_id = ?1
                  ORDER BY seen_ms DESC, network = ?2 DESC LIMIT ?3)",
            )?
            .execute(params![user, network, limit])?;
        Ok(())
    }

    fn users_by_prefix(&self, prefix: &str, limit: u32) -> Result<Vec<(UserId, String)>, Failure> {
        // Names compare byte by byte, and none sorts behind its prefix followed by the last
        // character there is.
        let end = format!("{prefix}\u{10ffff}");
        let mut statement = self.connection.prepare_cached(
            "SELECT user_id, name FROM users WHERE name >= ?1 AND name < ?2 ORDER BY name LIMIT ?3",
        )?;
        let users = statement.query_map(params![prefix, end, limit], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        Ok(users.collect::<Result<_, _>>()?)
    }

    fn insert_friend(&mut self, user: UserId, friend: UserId, limit: u32) -> Result<bool, Failure> {
        let added = self
            .connection
            .prepare_cached(
                "INSERT OR IGNORE INTO friends (user_id, friend_id) SELECT ?1, ?2
                 WHERE (SELECT count(*) FROM friends WHERE user_id = ?1) < ?3",
            )?
            .execute(params![user, friend, limit])?;
        if added > 0 {
            return Ok(true);
        }
        self.is_friend(user, friend)
    }

    fn delete_friend(&mut self, user: UserId, friend: UserId) -> Result<(), Failure> {
        self.connection
            .prepare_cached("DELETE FROM friends WHERE user_id = ?1 AND friend_id = ?2")?
            .execute([user, friend])?;
        Ok(())
    }

    fn friends(&self, user: UserId) -> Result<Vec<UserId>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT friend_id FROM friends WHERE user_id = ?1 ORDER BY friend_id",
        )?;
        let friends = statement.query_map([user], |row| row.get(0))?;
        Ok(friends.collect::<Result<_, _>>()?)
    }

    fn is_friend(&self, user: UserId, friend: UserId) -> Result<bool, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT 1 FROM friends WHERE user_id = ?1 AND friend_id = ?2")?
            .exists([user, friend])?)
    }

    fn friends_mutual_first(&self, user: UserId) -> Result<Vec<UserId>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT friend_id FROM friends AS listed WHERE user_id = ?1
             ORDER BY EXISTS (SELECT 1 FROM friends
                              WHERE user_id = listed.friend_id AND friend_id = ?1) DESC, friend_id",
        )?;
        let friends = statement.query_map([user], |row| row.get(0))?;
        Ok(friends.collect::<Result<_, _>>()?)
    }

    fn followers(&self, user: UserId, limit: u32) -> Result<Vec<UserId>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT user_id FROM friends AS follower WHERE friend_id = ?1
             AND NOT EXISTS (SELECT 1 FROM friends
                             WHERE user_id = ?1 AND friend_id = follower.user_id)
             LIMIT ?2",
        )?;
        let followers = statement.query_map(params![user, limit], |row| row.get(0))?;
        Ok(followers.collect::<Result<_, _>>()?)
    }
}
