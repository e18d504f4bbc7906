//! How fast something comes that is long: who sends a byte now and then is not waited for.

use std::fmt;
use std::time::Duration;

/// So many bytes have to come in each period in which one waits for them: at least 1 KiB in a second.
pub(crate) const LEAST: usize = 180 << 10;

/// How long what comes may be less than that: as long as anything else is tried that does not get on.
pub(crate) const PERIOD: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 180 });

/// How fast something comes. Only the time counts in which somebody waits for it.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    bytes: usize,
    waited: Duration,
}

impl Rate {
    /// Notes bytes that were waited for, and says whether what comes is enough to go on.
    pub(crate) fn comes(&mut self, bytes: usize, waited: Duration) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        self.waited += waited;
        if self.waited < PERIOD {
            return true;
        }
        let enough = self.bytes >= LEAST;
        *self = Self::default();
        enough
    }
}

/// Says that less came than had to.
pub(crate) struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "less than {LEAST} bytes came in {} s", PERIOD.as_secs())
    }
}

/// Returns how long one may wait for an answer of which so many bytes have come, beyond the time in which it has to begin.
pub(crate) fn earned(bytes: u64) -> Duration {
    PERIOD.mul_f64(bytes as f64 / LEAST as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_counts_in_which_a_reader_waits() {
        let mut rate = Rate::default();
        // A fast server, and a reader that takes hours.
        assert!((0..1_000).all(|_| rate.comes(1, Duration::ZERO)));
        assert!(rate.comes(LEAST, PERIOD) && !rate.comes(LEAST - 1, PERIOD) && rate.comes(LEAST, 2 * PERIOD));
    }

    #[test]
    fn what_is_slow_goes_on() {
        let mut rate = Rate::default();
        // Twice as much as has to come, in pieces as they come from a modem.
        assert!((0..10_000).all(|_| rate.comes(LEAST / 50, PERIOD / 100)));
        assert_eq!(earned(LEAST as u64), PERIOD);
        assert_eq!(earned(0), Duration::ZERO);
    }
}
