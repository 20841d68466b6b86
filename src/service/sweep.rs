//! Deleting messages that everybody has confirmed, once they are old enough that nobody can repeat
//! them.
//!
//! Owns the position of the sweep. Works in slices of a few hundred rows, each a transaction of its
//! own, taken when nobody asks. Invariants: the confirmations that allow a deletion, and the last
//! number of a stream that loses messages, are written in the same transaction; a message younger
//! than the window in which its sender may repeat it stays, confirmed or not.

use std::collections::HashMap;

use super::{
    engine::Engine,
    message::REPEAT_WINDOW_MS,
    store::{Failure, Storage, StreamId, storage::Place},
};
use crate::base::id::{MessageId, made_ms};

/// Rows looked at in one slice.
const SLICE_ROWS: usize = 256;
/// Groups whose members are looked at in one slice.
const SLICE_GROUPS: usize = 4;

/// How far the sweep has come: the last message it looked at.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    position: MessageId,
}

impl<S: Storage> Engine<S> {
    /// Looks at the next slice of messages; `true`: this pass has more before it.
    pub(super) fn sweep_slice(&mut self) -> Result<bool, Failure> {
        let more_sessions = self.sweep_ended_sessions()?;
        let rows = self
            .store
            .read()
            .places_behind(self.sweep.position, SLICE_ROWS)?;
        let mut is_last = rows.len() < SLICE_ROWS;
        let mut confirmed_in_groups: HashMap<StreamId, u64> = HashMap::new();
        let mut position = self.sweep.position;
        let mut shortened = Vec::new();
        for place in rows {
            let Place {
                msg_id,
                stream,
                seq,
                stored_ms,
            } = place;
            let young_ms = self.now_ms - REPEAT_WINDOW_MS;
            if stored_ms > young_ms {
                if made_ms(msg_id) > young_ms {
                    // Ids grow with time, so what follows is younger still.
                    is_last = true;
                    break;
                }
                // The clock of the gateway that made the id is behind: what follows may be older.
                position = msg_id;
                continue;
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
                self.store.write()?.delete_message(msg_id)?;
                self.swept_messages += 1;
                shortened.push(stream);
            }
        }
        shortened.sort_unstable();
        shortened.dedup();
        for stream in shortened {
            let last_seq = self.store.last_seq(stream);
            self.store.write()?.keep_last_seq(stream, last_seq)?;
            // The rows of the cursors may say less than what was just relied on.
            self.store.write_back_all();
        }
        self.sweep.position = if is_last { 0 } else { position };
        Ok(!is_last || more_sessions)
    }
}
