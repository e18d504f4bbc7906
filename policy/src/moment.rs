//! How a moment is shown to people: RFC 3339, UTC.

use verifier::Timestamp;

/// Returns a moment as RFC 3339 text such as `2027-06-01T00:00:00Z`; outside the years that has, as `@` and seconds.
pub(crate) fn rfc3339(moment: Timestamp) -> String {
    match jiff::Timestamp::from_second(moment.as_unix()) {
        Ok(known) => known.to_string(),
        Err(_) => format!("@{}", moment.as_unix()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_moments_of_every_size() {
        assert_eq!(rfc3339(Timestamp::from_unix(0)), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(Timestamp::from_unix(1_811_808_000)), "2027-06-01T00:00:00Z");
        assert_eq!(rfc3339(Timestamp::from_unix(i64::MAX)), "@9223372036854775807");
    }
}
