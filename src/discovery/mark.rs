//! Marks of time, `/im-gateway/marks/N`: ids of worker number N were made up to here, or may still
//! be.
//!
//! Owns their form, how far ahead they are set, and how they are raised. A mark stays when its
//! number is given up, so that whoever has the number next begins behind it, however far ahead its
//! predecessor's clock was. It is raised ahead of the ids, so that no message waits for it, and by
//! comparing versions, so that of two who believe they have a number only one can raise it: a
//! gateway that was cut off longer than its session lasts makes no id that its successor makes,
//! too.

use std::time::Duration;

use super::registry::{Entry, RegistryError, Session, Version};
use crate::base::id::{ID_TIME_END_UNIX_MS, LEASE_ROOM_MS};

/// Where marks stand.
pub(super) const MARKS: &str = "/im-gateway/marks";

/// How often a mark is raised.
pub(super) const RAISE_EVERY: Duration = Duration::from_secs(20);

/// How far ahead of the clock it is set: for this less [`LEASE_ROOM_MS`] ids follow the clock while
/// ZooKeeper is away.
const AHEAD_MS: u64 = 2 * LEASE_ROOM_MS;

/// How much time a new lease has at least, where the mark it begins behind is ahead of the clock:
/// 20 million ids, until it is extended. Not much, so that gateways that start over and over do not
/// run away from the clock.
const LEAST_MS: u64 = 5_000;

/// A mark as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Nobody makes an id of this time or a later one before it is raised. One that cannot be read
    /// is at the end of time.
    pub(super) until_ms: u64,
    /// Names the process that raised it.
    pub(super) token: String,
    version: Version,
}

impl Mark {
    fn parse(entry: &Entry) -> Self {
        let text = String::from_utf8_lossy(&entry.data);
        let mut words = text.split_whitespace();
        Self {
            until_ms: words
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(u64::MAX),
            token: words.next().unwrap_or_default().to_owned(),
            version: entry.version,
        }
    }
}

/// Where a lease ends that begins at `from_ms`; `None`: so late that no ids are left.
pub(super) fn first_end(now_ms: u64, from_ms: u64) -> Option<u64> {
    let end = from_ms.saturating_add(LEAST_MS);
    let end = (end < ID_TIME_END_UNIX_MS).then(|| end.max(now_ms.saturating_add(AHEAD_MS)));
    assert!(end.is_none_or(|end| end > from_ms), "a lease has ids");
    end
}

/// Where a lease ends that ended at `until_ms` and is extended after `elapsed`: ahead of the clock,
/// and wherever the clock is, by as much time as has passed.
pub(super) fn next_end(now_ms: u64, until_ms: u64, elapsed: Duration) -> u64 {
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let onward = until_ms.saturating_add(elapsed_ms);
    let end = onward
        .max(now_ms.saturating_add(AHEAD_MS))
        .min(ID_TIME_END_UNIX_MS);
    assert!(
        end >= until_ms.min(ID_TIME_END_UNIX_MS),
        "a lease is never cut short"
    );
    end
}

/// The mark of `number`, if it ever had one.
pub(super) async fn read(
    session: &impl Session,
    number: u16,
) -> Result<Option<Mark>, RegistryError> {
    let found = session.read(&path(number)).await?;
    Ok(found.as_ref().map(Mark::parse))
}

/// Puts a mark where `seen` stands, in the name of `token`. Says whether it stood there still.
pub(super) async fn raise(
    session: &impl Session,
    number: u16,
    seen: Option<&Mark>,
    until_ms: u64,
    token: &str,
) -> Result<bool, RegistryError> {
    assert!(
        seen.is_none_or(|seen| seen.until_ms.min(ID_TIME_END_UNIX_MS) <= until_ms),
        "a mark only rises"
    );
    assert!(
        !token.is_empty() && !token.contains(' '),
        "a mark says whose it is"
    );
    let (path, data) = (path(number), format!("{until_ms} {token}"));
    let version = seen.map(|seen| seen.version);
    session.write(&path, version, data.as_bytes()).await
}

fn path(number: u16) -> String {
    format!("{MARKS}/{number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::registry::Owner;

    fn parse(data: &[u8]) -> Mark {
        Mark::parse(&Entry {
            data: data.to_vec(),
            owner: Owner::Other,
            version: Version {
                made: 7,
                written: 3,
            },
        })
    }

    const NOW: u64 = 1_760_000_000_000;

    #[test]
    fn a_mark_says_when_and_by_whom_and_one_that_cannot_be_read_is_never_passed() {
        let mark = parse(b"1760000000000 a1b2");
        assert_eq!((mark.until_ms, mark.token.as_str()), (NOW, "a1b2"));
        for broken in [&b""[..], b"-1 x", b"\xff", b"99999999999999999999 x"] {
            let until_ms = parse(broken).until_ms;
            assert_eq!(first_end(NOW, until_ms), None, "{broken:?}");
        }
    }

    #[test]
    fn a_lease_reaches_ahead_of_the_clock_and_has_room_where_the_clock_is_behind() {
        assert_eq!(first_end(NOW, 0), Some(NOW + AHEAD_MS));
        assert_eq!(first_end(NOW, NOW - 1), Some(NOW + AHEAD_MS));
        let ahead = NOW + 3_600_000;
        assert_eq!(first_end(NOW, ahead), Some(ahead + LEAST_MS));
        assert_eq!(first_end(NOW, ID_TIME_END_UNIX_MS), None);
    }

    #[test]
    fn gateways_that_start_over_and_over_on_one_number_do_not_run_away_from_the_clock() {
        let (mut now, mut mark) = (NOW, 0);
        for _ in 0..10_000 {
            mark = first_end(now, mark).expect("ids are left");
            now += LEAST_MS;
            assert!(mark <= now + AHEAD_MS);
        }
    }

    #[test]
    fn a_lease_is_extended_by_the_time_that_passed_wherever_the_clock_is() {
        let elapsed = Duration::from_secs(20);
        assert_eq!(next_end(NOW, NOW + 100_000, elapsed), NOW + AHEAD_MS);
        let ahead = NOW + 3_600_000;
        assert_eq!(next_end(NOW, ahead, elapsed), ahead + 20_000);
        let last = next_end(u64::MAX, NOW, elapsed);
        assert_eq!(last, ID_TIME_END_UNIX_MS);
    }
}
