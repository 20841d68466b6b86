//! Deleting messages that everybody has confirmed, once they are old enough that nobody can repeat them.
//!
//! Owns the position of the sweep. Works in slices of a few hundred rows, each a transaction of its own, taken when nobody asks.
//! Invariants: the confirmations that allow a deletion, and the last number of a stream that loses messages, are written in the
//! same transaction; a message younger than the window in which its sender may repeat it stays, confirmed or not.

use std::collections::HashMap;

use rusqlite::params;

use super::{
    engine::Engine,
    message::REPEAT_WINDOW_MS,
    store::{Failure, StreamId},
};
use crate::id::MessageId;

/// Rows looked at in one slice.
const SLICE_ROWS: usize = 256;
/// Groups whose members are looked at in one slice.
const SLICE_GROUPS: usize = 4;

/// How far the sweep has come: the last message it looked at.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    position: MessageId,
}

impl Engine {
    /// Looks at the next slice of messages; `true`: this pass has more before it.
    pub(super) fn sweep_slice(&mut self) -> Result<bool, Failure> {
        let rows = self.rows_behind(self.sweep.position)?;
        let mut is_last = rows.len() < SLICE_ROWS;
        let mut confirmed_in_groups: HashMap<StreamId, u64> = HashMap::new();
        let mut position = self.sweep.position;
        let mut shortened = Vec::new();
        for (msg_id, stream, seq, ts_ms) in rows {
            // Ids grow with time, so what follows is younger still.
            if ts_ms > self.now_ms - REPEAT_WINDOW_MS {
                is_last = true;
                break;
            }
            let is_confirmed = match stream.group_id() {
                None => {
                    let user = stream.owner();
                    !self.load_inbox(user)?
                        || self
                            .store
                            .cursor((stream, user))
                            .is_some_and(|cursor| cursor.is_confirmed(seq))
                }
                Some(group) => {
                    if !confirmed_in_groups.contains_key(&stream) {
                        if confirmed_in_groups.len() == SLICE_GROUPS {
                            is_last = false;
                            break;
                        }
                        self.load_group(group)?;
                        let confirmed = self.store.confirmed_by_all(stream)?;
                        confirmed_in_groups.insert(stream, confirmed);
                    }
                    confirmed_in_groups
                        .get(&stream)
                        .is_some_and(|confirmed| seq <= *confirmed)
                }
            };
            position = msg_id;
            if is_confirmed {
                self.delete_message(msg_id)?;
                shortened.push(stream);
            }
        }
        shortened.sort_unstable();
        shortened.dedup();
        for stream in shortened {
            self.keep_last_seq(stream)?;
            // The rows of the cursors may say less than what was just relied on.
            self.store.write_back_all();
        }
        self.sweep.position = if is_last { 0 } else { position };
        Ok(!is_last)
    }

    #[allow(clippy::type_complexity, reason = "a row, read in one place")]
    fn rows_behind(
        &self,
        position: MessageId,
    ) -> Result<Vec<(MessageId, StreamId, u64, i64)>, Failure> {
        let mut statement = self.store.read().prepare_cached(
            "SELECT msg_id, stream, seq, ts_ms FROM messages WHERE msg_id > ?1 ORDER BY msg_id LIMIT ?2",
        )?;
        let rows = statement.query_map(params![position, SLICE_ROWS as i64], |row| {
            Ok((
                row.get(0)?,
                StreamId::from_row(row.get(1)?),
                row.get::<_, i64>(2)? as u64,
                row.get(3)?,
            ))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn delete_message(&mut self, msg_id: MessageId) -> Result<(), Failure> {
        self.store
            .write()?
            .prepare_cached("DELETE FROM messages WHERE msg_id = ?1")?
            .execute([msg_id])?;
        self.swept_messages += 1;
        Ok(())
    }

    fn keep_last_seq(&mut self, stream: StreamId) -> Result<(), Failure> {
        let last_seq = self.store.last_seq(stream) as i64;
        self.store
            .write()?
            .prepare_cached(
                "INSERT INTO streams (stream, last_seq) VALUES (?1, ?2)
                 ON CONFLICT (stream) DO UPDATE SET last_seq = max(last_seq, excluded.last_seq)",
            )?
            .execute(params![stream.row(), last_seq])?;
        Ok(())
    }
}
