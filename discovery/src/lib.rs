//! Who is there.
//!
//! Members find each other, watch each other, and tell each other how much they have to do. The result is one
//! watched value, the [`ClusterView`]; whoever chooses a node for a call reads it and asks nobody.
//!
//! ```text
//!   remembered ┐                                     ┌── packets ──────── carrier (mesh, mutual TLS)
//!   seeds      ├─► ladder ─ dial ─► carrier ─ met ─► gossip (SWIM) ─► view ─► watch channel
//!   mDNS hints ┘   (whom, when)     (proves who)      └── states asked for ── carrier
//! ```
//!
//! The cores (`gossip`, `ladder`, `view`, `hint`, the codec) are pure: events and the time go in, values come out.
//! `driver` is the one thread that does what they say. This crate knows no TLS, no QUIC and no HTTP: it reaches
//! peers through the [`Carrier`] that it is given.
//!
//! # Invariants
//!
//! * An address is a hint, wherever it comes from: remembered, typed in, or heard by mDNS. Who is there is what the
//!   carrier proves, and nobody is used before that ([`Member::is_usable`]).
//! * A packet whose SWIM sender is not the holder of the connection's certificate changes nothing.
//! * An epoch is used once: it is counted on disk, and no clock takes part ([`Opened::epoch`]).
//! * Of two machines with one node id (a copied disk) each names the other within seconds of a hint, and only one takes
//!   part ([`Member::double`]). Only a certificate proves it; an earlier life of our own, elsewhere, never does.
//! * Without mDNS, without seeds or without memory the others are enough.
//! * The thread never waits for a peer, and nobody waits for the thread: what it has no time for is dropped and
//!   counted ([`Counters`]).
//!
//! # Limits
//!
//! | what | at most |
//! |---|---|
//! | members, dead ones of the last day included | 256 ([`MEMBERS_MAX`]) |
//! | bytes of a packet | 1100 ([`PACKET_BYTES_MAX`]) |
//! | packets, greetings that wait for the thread | 1024 (64 of one member), 64; more are dropped |
//! | members named by mDNS, addresses of each | 256, 8; more are refused |
//! | records that mDNS holds | 16,384 in a look every 10 s; past it mDNS pauses and begins anew |
//! | dials at once | 4; of one hinted address one per 5 s, down to one per 60 s |
//! | questions for a member's state at once | 16 |
//! | rest of an address where somebody else was | 60 s |
//! | lives that others may force on us | 8 per 10 s, none that a machine with our id would outbid |
//! | addresses where our own id is looked for | 8, as long as somebody names them |
//!
//! # Example
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use lineside_discovery::{Carrier, Discovery, DiscoveryConfig, DiscoveryError, MdnsConfig, Pace};
//! # use lineside_wire::{ClusterId, MemberState};
//! # async fn example(
//! #     cluster: ClusterId, mut own: MemberState, carrier: Arc<dyn Carrier>,
//! # ) -> Result<(), DiscoveryError> {
//! let opened = Discovery::open(DiscoveryConfig {
//!     cluster,
//!     pace: Pace::LAN,
//!     seeds: vec![([192, 168, 1, 20], 7443).into()],
//!     mdns: Some(MdnsConfig::default()),
//!     state_dir: "/var/lib/lineside/discovery".into(),
//! })?;
//! own.epoch = opened.epoch();
//! let discovery = opened.start(own, carrier)?;
//! let mut view = discovery.view();
//! while view.changed().await.is_ok() {
//!     let usable = view.borrow_and_update().active().filter(|member| member.is_usable()).count();
//!     println!("{usable} members can be called");
//! }
//! # Ok(())
//! # }
//! ```

mod carrier;
mod codec;
mod counters;
mod discovery;
mod disk;
mod driver;
mod epoch;
mod error;
mod fetches;
mod gossip;
mod hint;
mod identity;
mod ladder;
mod mdns;
mod pace;
mod publish;
mod remembered;
#[doc(hidden)]
pub mod simulation;
mod summary;
mod targets;
mod timers;
mod view;
mod watchdog;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod stories;

pub use carrier::{BoxFuture, Carrier, GreetError};
pub use counters::{Counters, GossipCounters, MdnsState};
pub use discovery::{Discovery, DiscoveryConfig, Opened};
pub use error::DiscoveryError;
pub use mdns::MdnsConfig;
pub use pace::{Pace, PaceError};
pub use view::{ClusterView, Member};

pub use lineside_wire::Standing;

/// Most members of one cluster, dead ones of the last day included.
pub const MEMBERS_MAX: usize = 256;

/// Largest SWIM packet, in bytes: fits a QUIC datagram on a path whose MTU is not known yet.
pub const PACKET_BYTES_MAX: usize = 1100;
