//! Pauses between tries.

use std::time::Duration;

/// Pauses between the tries of something, each twice as long as the one
/// before, but none longer than the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub last: Duration,
}

impl Backoff {
    /// Pauses from `first` to `last`.
    #[must_use]
    pub const fn new(first: Duration, last: Duration) -> Self {
        Self { first, last }
    }

    /// The pause after the first try and this many more.
    #[must_use]
    pub fn after(self, more: u32) -> Duration {
        let times = 1_u32.checked_shl(more).unwrap_or(u32::MAX);
        self.first.saturating_mul(times).min(self.last)
    }

    /// The pause that follows `pause`; the first, if that is zero.
    #[must_use]
    pub fn next(self, pause: Duration) -> Duration {
        pause.saturating_mul(2).max(self.first).min(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pause_is_twice_as_long_up_to_the_last() {
        let millis = Duration::from_millis;
        let backoff = Backoff::new(millis(100), millis(350));
        let pauses: Vec<_> = (0..4).map(|n| backoff.after(n)).collect();
        assert_eq!(pauses, [100, 200, 350, 350].map(millis));
        assert_eq!(backoff.after(u32::MAX), backoff.last);
        let mut pause = Duration::ZERO;
        for wanted in pauses {
            pause = backoff.next(pause);
            assert_eq!(pause, wanted);
        }
        // An operator may set a first pause that is longer than the longest.
        let odd = Backoff::new(millis(5), millis(1));
        assert_eq!((odd.after(0), odd.next(millis(9))), (millis(1), millis(1)));
    }
}
