//! How a moment is shown to people: RFC 3339, UTC.

use verifier::Timestamp;

/// Reads a moment: RFC 3339 (`2027-06-01T00:00:00Z`), or a day (`2027-06-01`), which begins at midnight UTC; none if it is neither.
#[must_use]
pub fn parse_moment(text: &str) -> Option<Timestamp> {
    let moment = text.parse::<jiff::Timestamp>().or_else(|_| format!("{text}T00:00:00Z").parse()).ok()?;
    Some(Timestamp::from_unix(moment.as_second()))
}

/// Returns a moment as RFC 3339 text such as `2027-06-01T00:00:00Z`; outside the years that has, as `@` and seconds.
#[must_use]
pub fn rfc3339(moment: Timestamp) -> String {
    match jiff::Timestamp::from_second(moment.as_unix()) {
        Ok(known) => known.to_string(),
        Err(_) => format!("@{}", moment.as_unix()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_moments_and_days() {
        let june = Some(Timestamp::from_unix(1_811_808_000));
        for text in ["2027-06-01T00:00:00Z", "2027-06-01T02:00:00+02:00", "2027-06-01"] {
            assert_eq!(parse_moment(text), june, "{text}");
        }
        for text in ["", "june", "2027-13-01", "1811808000"] {
            assert_eq!(parse_moment(text), None, "{text}");
        }
    }

    #[test]
    fn shows_moments_of_every_size() {
        assert_eq!(rfc3339(Timestamp::from_unix(0)), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(Timestamp::from_unix(1_811_808_000)), "2027-06-01T00:00:00Z");
        assert_eq!(rfc3339(Timestamp::from_unix(i64::MAX)), "@9223372036854775807");
    }
}
