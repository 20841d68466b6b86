//! Messages and the last numbers of streams as rows.

use rusqlite::{OptionalExtension, Row, params};

use super::{Sqlite, failure::is_conflict};
use crate::{
    base::id::{MessageId, UserId},
    service::store::{
        Failure, StreamId,
        storage::{Draft, Messages, Original, Place, StoredMessage},
    },
};

impl Messages for Sqlite {
    fn insert_message(&mut self, draft: &Draft<'_>, seq: u64) -> Result<bool, Failure> {
        let inserted = self
            .connection
            .prepare_cached(
                "INSERT INTO messages (msg_id, stream, seq, sender, ts_ms, client_msg_id, text, stored_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                draft.msg_id,
                draft.stream.row(),
                seq as i64,
                draft.sender,
                draft.ts_ms,
                draft.client_msg_id,
                draft.text,
                draft.stored_ms,
            ]);
        match inserted {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn message_by_id(&self, msg_id: MessageId) -> Result<Option<Original>, Failure> {
        Ok(self
            .connection
            .prepare_cached(
                "SELECT msg_id, stream, sender, ts_ms, client_msg_id, text FROM messages
                 WHERE msg_id = ?1",
            )?
            .query_row([msg_id], original)
            .optional()?)
    }

    fn message_by_client_id(
        &self,
        sender: UserId,
        client_msg_id: &str,
        after_ms: i64,
    ) -> Result<Option<Original>, Failure> {
        Ok(self
            .connection
            .prepare_cached(
                "SELECT msg_id, stream, sender, ts_ms, client_msg_id, text FROM messages
                 WHERE sender = ?1 AND client_msg_id = ?2 AND ifnull(stored_ms, ts_ms) > ?3",
            )?
            .query_row(params![sender, client_msg_id, after_ms], original)
            .optional()?)
    }

    fn release_client_id(
        &mut self,
        sender: UserId,
        client_msg_id: &str,
        before_ms: i64,
    ) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "UPDATE messages SET client_msg_id = NULL
                 WHERE sender = ?1 AND client_msg_id = ?2 AND ifnull(stored_ms, ts_ms) <= ?3",
            )?
            .execute(params![sender, client_msg_id, before_ms])?;
        Ok(())
    }

    fn places_of(&self, msg_ids: &[MessageId]) -> Result<Vec<(StreamId, u64)>, Failure> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT stream, seq FROM messages WHERE msg_id = ?1")?;
        let mut places = Vec::new();
        for msg_id in msg_ids {
            let place = statement.query_row([msg_id], |row| {
                Ok((
                    StreamId::from_row(row.get(0)?),
                    row.get::<_, i64>(1)? as u64,
                ))
            });
            places.extend(place.optional()?);
        }
        Ok(places)
    }

    fn messages(
        &self,
        stream: StreamId,
        from: u64,
        to: u64,
        limit: usize,
    ) -> Result<Vec<StoredMessage>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT msg_id, seq, sender, ts_ms, text FROM messages
             WHERE stream = ?1 AND seq BETWEEN ?2 AND ?3 ORDER BY seq LIMIT ?4",
        )?;
        let rows = statement.query_map(
            params![stream.row(), from as i64, to as i64, limit as i64],
            |row| {
                Ok(StoredMessage {
                    msg_id: row.get(0)?,
                    seq: row.get::<_, i64>(1)? as u64,
                    sender: row.get(2)?,
                    ts_ms: row.get(3)?,
                    text: row.get(4)?,
                })
            },
        )?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn places_behind(&self, position: MessageId, limit: usize) -> Result<Vec<Place>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT msg_id, stream, seq, ifnull(stored_ms, ts_ms) FROM messages
             WHERE msg_id > ?1 ORDER BY msg_id LIMIT ?2",
        )?;
        let rows = statement.query_map(params![position, limit as i64], |row| {
            Ok(Place {
                msg_id: row.get(0)?,
                stream: StreamId::from_row(row.get(1)?),
                seq: row.get::<_, i64>(2)? as u64,
                stored_ms: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn delete_message(&mut self, msg_id: MessageId) -> Result<(), Failure> {
        self.connection
            .prepare_cached("DELETE FROM messages WHERE msg_id = ?1")?
            .execute([msg_id])?;
        Ok(())
    }

    fn last_message_id(&self) -> Result<MessageId, Failure> {
        let last: Option<MessageId> =
            self.connection
                .query_row("SELECT max(msg_id) FROM messages", [], |row| row.get(0))?;
        Ok(last.unwrap_or(0))
    }

    fn last_seq(&self, stream: StreamId) -> Result<u64, Failure> {
        let in_messages: Option<i64> = self
            .connection
            .prepare_cached("SELECT max(seq) FROM messages WHERE stream = ?1")?
            .query_row([stream.row()], |row| row.get(0))?;
        // Kept apart only once the last messages themselves may be gone.
        let kept: Option<i64> = self
            .connection
            .prepare_cached("SELECT last_seq FROM streams WHERE stream = ?1")?
            .query_row([stream.row()], |row| row.get(0))
            .optional()?;
        let last_seq = in_messages.unwrap_or(0).max(kept.unwrap_or(0));
        u64::try_from(last_seq).map_err(|_| Failure::Damaged("a negative number of a message"))
    }

    fn keep_last_seq(&mut self, stream: StreamId, last_seq: u64) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "INSERT INTO streams (stream, last_seq) VALUES (?1, ?2)
                 ON CONFLICT (stream) DO UPDATE SET last_seq = max(last_seq, excluded.last_seq)",
            )?
            .execute(params![stream.row(), last_seq as i64])?;
        Ok(())
    }
}

fn original(row: &Row<'_>) -> rusqlite::Result<Original> {
    Ok(Original {
        msg_id: row.get(0)?,
        stream: StreamId::from_row(row.get(1)?),
        sender: row.get(2)?,
        ts_ms: row.get(3)?,
        client_msg_id: row.get(4)?,
        text: row.get(5)?,
    })
}
