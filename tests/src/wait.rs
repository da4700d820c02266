//! Waiting for a state, with an end.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a story waits for what takes a second on an idle machine: builds and other stories share the cores.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `look` gives a value.
///
/// # Panics
/// `within` is over: with the last reason that `look` gave.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let until = Instant::now() + within;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(reason) if until <= Instant::now() => panic!("not within {within:?}: {what}; last: {reason}"),
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_state_is_waited_for() {
        let mut left = 3;
        let countdown = async || {
            left -= 1;
            if left == 0 { Ok("done") } else { Err(format!("{left} left")) }
        };
        assert_eq!(eventually("a countdown", PATIENCE, countdown).await, "done");
    }

    #[tokio::test]
    #[should_panic(expected = "the moon; last: it is day")]
    async fn a_state_that_does_not_come_says_why() {
        let look = async || Err::<(), _>("it is day".to_owned());
        eventually("the moon", Duration::from_millis(1), look).await;
    }
}
