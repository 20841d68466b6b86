//! Cursors as rows.

use rusqlite::{Row, params};

use super::Sqlite;
use crate::{
    base::id::UserId,
    service::{
        cursor::Cursor,
        range_set::RangeSet,
        store::{CursorKey, Failure, StreamId, storage::Cursors},
    },
};

impl Cursors for Sqlite {
    fn cursor(&self, key: CursorKey) -> Result<Option<Cursor>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT since, floor, confirmed, handed, open_from FROM cursors WHERE stream = ?1 AND user_id = ?2",
        )?;
        let mut rows = statement.query(params![key.0.row(), key.1])?;
        rows.next()?.map(|row| read(row, 0)).transpose()
    }

    fn write_cursor(&mut self, key: CursorKey, cursor: &Cursor) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "INSERT INTO cursors (stream, user_id, since, floor, confirmed, handed, open_from)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (stream, user_id) DO UPDATE SET since = excluded.since, floor = excluded.floor,
                    confirmed = excluded.confirmed, handed = excluded.handed, open_from = excluded.open_from",
            )?
            .execute(params![
                key.0.row(),
                key.1,
                cursor.since as i64,
                cursor.floor as i64,
                cursor.confirmed.encode(),
                cursor.handed.encode(),
                cursor.open_from.map(|from| from as i64),
            ])?;
        Ok(())
    }

    fn delete_cursor(&mut self, key: CursorKey) -> Result<(), Failure> {
        self.connection
            .prepare_cached("DELETE FROM cursors WHERE stream = ?1 AND user_id = ?2")?
            .execute(params![key.0.row(), key.1])?;
        Ok(())
    }

    fn each_cursor(
        &self,
        stream: StreamId,
        mut visit: impl FnMut(UserId, Cursor) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT user_id, since, floor, confirmed, handed, open_from FROM cursors WHERE stream = ?1",
        )?;
        let mut rows = statement.query([stream.row()])?;
        while let Some(row) = rows.next()? {
            visit(row.get(0)?, read(row, 1)?)?;
        }
        Ok(())
    }

    fn each_floor(
        &self,
        stream: StreamId,
        mut visit: impl FnMut(UserId, u64),
    ) -> Result<(), Failure> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT user_id, floor FROM cursors WHERE stream = ?1")?;
        let mut rows = statement.query([stream.row()])?;
        while let Some(row) = rows.next()? {
            visit(row.get(0)?, row.get::<_, i64>(1)?.try_into().unwrap_or(0));
        }
        Ok(())
    }

    fn readers(
        &self,
        stream: StreamId,
        after: UserId,
        limit: usize,
    ) -> Result<Vec<UserId>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT user_id FROM cursors WHERE stream = ?1 AND user_id > ?2 ORDER BY user_id LIMIT ?3",
        )?;
        let readers =
            statement.query_map(params![stream.row(), after, limit as i64], |row| row.get(0))?;
        Ok(readers.collect::<Result<_, _>>()?)
    }

    fn reader_count(&self, stream: StreamId) -> Result<u32, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT count(*) FROM cursors WHERE stream = ?1")?
            .query_row([stream.row()], |row| row.get(0))?)
    }

    fn group_streams(&self, user: UserId) -> Result<Vec<StreamId>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT stream FROM cursors WHERE user_id = ?1 AND stream % 2 = 1 ORDER BY stream",
        )?;
        let streams = statement.query_map([user], |row| row.get(0).map(StreamId::from_row))?;
        Ok(streams.collect::<Result<_, _>>()?)
    }
}

/// Reads a cursor whose columns start at `first`.
fn read(row: &Row<'_>, first: usize) -> Result<Cursor, Failure> {
    let number = |index: usize| -> Result<u64, Failure> {
        u64::try_from(row.get::<_, i64>(first + index)?)
            .map_err(|_| Failure::Damaged("a negative number in a cursor"))
    };
    let ranges = |index: usize| -> Result<RangeSet, Failure> {
        let bytes = row.get_ref(first + index)?;
        let bytes = bytes
            .as_blob()
            .map_err(|_| Failure::Damaged("ranges of a cursor"))?;
        RangeSet::decode(bytes).map_err(|_| Failure::Damaged("ranges of a cursor"))
    };
    let open_from = row
        .get::<_, Option<i64>>(first + 4)?
        .and_then(|from| u64::try_from(from).ok());
    Ok(Cursor {
        since: number(0)?,
        floor: number(1)?,
        confirmed: ranges(2)?,
        handed: ranges(3)?,
        open_from,
    })
}
