//! The store's time as a row.

use rusqlite::{OptionalExtension, params};

use super::Sqlite;
use crate::service::store::{
    Failure,
    storage::{TimeBase, Times},
};

impl Times for Sqlite {
    fn time_base(&self) -> Result<Option<TimeBase>, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT boot, offset_ms, last_ms, last_unix_ms FROM time_base")?
            .query_row([], |row| {
                Ok(TimeBase {
                    boot: row.get(0)?,
                    offset_ms: row.get(1)?,
                    last_ms: row.get(2)?,
                    last_unix_ms: row.get(3)?,
                })
            })
            .optional()?)
    }

    fn put_time_base(&mut self, base: &TimeBase) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO time_base (one, boot, offset_ms, last_ms, last_unix_ms)
                 VALUES (1, ?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                base.boot,
                base.offset_ms,
                base.last_ms,
                base.last_unix_ms
            ])?;
        Ok(())
    }
}
