//! The time of day, for whoever stores it or tells it to others. Durations are measured by other
//! clocks.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, as services and their messages count them; 0 if the clock stands before
/// that.
pub fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_millis()).ok())
        .unwrap_or(0)
}
