//! The skeletons of all names, made anew where they were made by other rules: in a file of before
//! there were any, or when the tables of Unicode behind them have changed.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::base::names;

/// Names at a time, so that memory does not grow with the number of accounts.
const PAGE: i64 = 1000;

/// Brings the skeletons to the present rules.
pub(super) fn refresh(connection: &mut Connection) -> rusqlite::Result<()> {
    let version = names::rules_version();
    if version_in(connection)?.as_deref() == Some(&version) {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    if version_in(&transaction)?.as_deref() != Some(&version) {
        let mut after = 0;
        while let Some(last) = refresh_page(&transaction, after)? {
            after = last;
        }
        transaction.execute(
            "INSERT INTO skeleton_rules (one, version) VALUES (1, ?1)
             ON CONFLICT DO UPDATE SET version = ?1",
            [&version],
        )?;
    }
    transaction.commit()
}

fn version_in(connection: &Connection) -> rusqlite::Result<Option<String>> {
    connection
        .query_row("SELECT version FROM skeleton_rules", [], |row| row.get(0))
        .optional()
}

/// The next users after number `after`; the number of the last of them, or `None` if there are no
/// more.
fn refresh_page(transaction: &Transaction<'_>, after: i64) -> rusqlite::Result<Option<i64>> {
    let users: Vec<(i64, String)> = transaction
        .prepare_cached(
            "SELECT user_id, name FROM users WHERE user_id > ?1 ORDER BY user_id LIMIT ?2",
        )?
        .query_map([after, PAGE], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut update =
        transaction.prepare_cached("UPDATE users SET skeleton = ?1 WHERE user_id = ?2")?;
    for (user, name) in &users {
        update.execute(params![names::skeleton(name), user])?;
    }
    Ok(users.last().map(|(user, _)| *user))
}
