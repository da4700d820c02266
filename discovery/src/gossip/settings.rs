//! How foca is set.

use std::{
    num::{NonZeroU8, NonZeroUsize},
    time::Duration,
};

use foca::PeriodicParams;

use crate::{PACKET_BYTES_MAX, Pace};

/// The values of `facts`: ten transmissions remove the long tail of slow news and, with 5 % of packets lost,
/// the false alarms; without announcements to the dead a healed partition would stay apart for ever.
pub(super) fn swim_config(pace: Pace) -> foca::Config {
    let every = |frequency, members: usize| {
        let num_members = NonZeroUsize::new(members).unwrap_or(NonZeroUsize::MIN);
        Some(PeriodicParams { frequency, num_members })
    };
    foca::Config {
        probe_period: pace.interval,
        probe_rtt: pace.timeout,
        suspect_to_down_after: pace.interval * u32::from(pace.retries.get()),
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
