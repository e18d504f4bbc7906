use std::time::{SystemTime, UNIX_EPOCH};

use verifier::Timestamp;

/// The time, in whole seconds since the Unix epoch; 0 where the clock stands before it.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
