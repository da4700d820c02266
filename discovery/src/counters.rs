//! What went wrong, and how often.

use tokio::time::Instant;

/// Counts since the start. A number that grows is worth a look; none of them stops anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// What gossip counted.
    pub gossip: GossipCounters,
    /// Packets and greetings dropped because the gossip thread was behind.
    pub dropped: u64,
    /// mDNS records of other clusters or other versions.
    pub mdns_foreign: u64,
    /// mDNS records that are not what they should be.
    pub mdns_invalid: u64,
    /// Times that the mDNS subscription ended by itself and was taken out again.
    pub mdns_rebrowsed: u64,
    /// Hints dropped because there were too many.
    pub hints_refused: u64,
    /// Dials that reached a peer.
    pub dials_good: u64,
    /// Dials that reached nobody, or were refused.
    pub dials_failed: u64,
    /// Dials that reached somebody else than expected.
    pub dials_wrong_identity: u64,
    /// Dials that reached a peer that is no member.
    pub dials_no_member: u64,
    /// Hints that were taken in.
    pub hints: u64,
    /// Whether mDNS works.
    pub mdns: MdnsState,
    /// When the gossip thread last turned: at least once a second while it is well.
    pub last_turn: Option<Instant>,
}

/// Whether mDNS works here, as far as this process can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MdnsState {
    /// It is turned off.
    #[default]
    Off,
    /// It could not start, or ended; it is tried again.
    Failed,
    /// It runs, and has heard no record yet, not even its own: after a few seconds a sign that multicast is
    /// impossible here.
    Silent,
    /// Records are heard. That others hear ours cannot be known: a network may keep its machines apart.
    Working,
}

/// What gossip counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GossipCounters {
    /// Packets that came.
    pub received: u64,
    /// Packets that went.
    pub sent: u64,
    /// Packets whose SWIM sender was not the holder of the connection's certificate.
    pub src_mismatch: u64,
    /// Packets of another cluster.
    pub foreign_cluster: u64,
    /// Packets meant for another member.
    pub misdirected: u64,
    /// Packets that made no sense.
    pub malformed: u64,
    /// Packets with members beyond the limit of the cluster.
    pub over_limit: u64,
    /// Lives that others wanted to force on us too often, or while a machine with our id has a later one.
    pub rebirths_refused: u64,
    /// Probes of other members that failed, directly and through others.
    pub probes_failed: u64,
    /// How slow this member finds itself, 0 to 4: it gives suspects one more time as long for each.
    pub health_level: u8,
    /// Greetings with another machine that proved to have this member's own id: one of the two disks is a copy.
    pub doubles_met: u64,
}
