//! Groups as rows.

use rusqlite::{OptionalExtension, params};

use super::Sqlite;
use crate::{
    base::id::GroupId,
    service::store::{
        Failure,
        storage::{GroupFacts, Groups},
    },
};

impl Groups for Sqlite {
    fn insert_group(&mut self, facts: &GroupFacts, now_ms: i64) -> Result<GroupId, Failure> {
        self.connection
            .prepare_cached(
                "INSERT INTO groups (name, description, creator_id, created_ms) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                facts.name,
                facts.description,
                facts.creator,
                now_ms
            ])?;
        Ok(self.connection.last_insert_rowid())
    }

    fn group_exists(&self, group: GroupId) -> Result<bool, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT 1 FROM groups WHERE group_id = ?1")?
            .exists([group])?)
    }

    fn group_facts(&self, group: GroupId) -> Result<Option<GroupFacts>, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT name, description, creator_id FROM groups WHERE group_id = ?1")?
            .query_row([group], |row| {
                Ok(GroupFacts {
                    name: row.get(0)?,
                    description: row.get(1)?,
                    creator: row.get(2)?,
                })
            })
            .optional()?)
    }
}
