//! How foca is set.

use std::{
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::PeriodicParams;

use crate::{PACKET_BYTES_MAX, Pace};

/// The values of `facts`: ten transmissions remove the long tail of slow news and, with 5 % of packets lost,
/// the false alarms; without announcements to the dead a healed partition would stay apart for ever. A member that is
/// slow itself, by `level`, gives suspects so many times longer: nothing else of this may change while foca runs.
pub(super) fn swim_config(pace: Pace, level: u8) -> foca::Config {
    let every = |frequency, members: usize| {
        let num_members = NonZeroUsize::new(members).unwrap_or(NonZeroUsize::MIN);
        Some(PeriodicParams { frequency, num_members })
    };
    foca::Config {
        probe_period: pace.interval,
        probe_rtt: pace.timeout,
        suspect_to_down_after: pace.down_after() * (1 + u32::from(level)),
        num_indirect_probes: const { NonZeroUsize::new(3).expect("three is not zero") },
        max_transmissions: const { NonZeroU8::new(10).expect("ten is not zero") },
        remove_down_after: Some(Duration::from_secs(24 * 60 * 60)),
        max_packet_size: const { NonZeroUsize::new(PACKET_BYTES_MAX).expect("packets have bytes") },
        notify_down_members: true,
        periodic_announce: every(Duration::from_secs(10), 1),
        periodic_announce_to_down_members: every(Duration::from_secs(10), 2),
        periodic_gossip: every(Duration::from_millis(200), 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T7 and T8 of what is known of foca: without these it never heals a partition, and news has a long tail.
    #[test]
    fn the_dead_are_called_every_ten_seconds_and_news_is_told_ten_times() {
        for pace in [Pace::LAN, Pace::FAST] {
            let config = swim_config(pace, 0);
            let dead = config.periodic_announce_to_down_members.expect("the dead are called");
            assert_eq!((dead.frequency, dead.num_members.get()), (Duration::from_secs(10), 2));
            assert_eq!(config.max_transmissions.get(), 10);
            assert!(config.probe_rtt < config.probe_period, "foca demands it");
        }
        assert_eq!(swim_config(Pace::LAN, 0).suspect_to_down_after, Duration::from_secs(4));
        assert_eq!(swim_config(Pace::FAST, 0).suspect_to_down_after, Duration::from_millis(2500));
    }

    #[test]
    fn only_the_time_of_a_suspect_depends_on_our_own_health() {
        let (well, slow) = (swim_config(Pace::LAN, 0), swim_config(Pace::LAN, 4));
        assert_eq!(slow.suspect_to_down_after, 5 * well.suspect_to_down_after);
        assert_eq!((slow.probe_period, slow.probe_rtt), (well.probe_period, well.probe_rtt));
    }
}
