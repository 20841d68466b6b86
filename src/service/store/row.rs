//! A cursor as a row.

use rusqlite::{Connection, params};

use super::{CursorKey, Failure};
use crate::service::{cursor::Cursor, range_set::RangeSet};

/// Reads a cursor whose columns start at `first`.
pub(super) fn read_cursor(row: &rusqlite::Row<'_>, first: usize) -> Result<Cursor, Failure> {
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

/// Inserts or updates a cursor.
pub(super) fn write_cursor(
    connection: &Connection,
    key: CursorKey,
    cursor: &Cursor,
) -> Result<(), Failure> {
    connection
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
