//! Whole clusters of real processes, for the stories in `tests/stories`.
//!
//! ```text
//!   Floor ── an authority, a model repository, and the members that a story starts
//!     ├─ Member    one process of the `lineside` binary: killed, stopped, paused, restarted
//!     ├─ Http      asks a gateway as any HTTP client does
//!     ├─ Outsider  dials members with an identity of its own, and sends what no member would
//!     ├─ Load      callers over HTTP and QUIC that keep asking, a tally of what they got, and a ledger of every call
//!     └─ weather   a seeded relay before a member: packets are lost, late, doubled, damaged, too long, one way only
//! ```
//!
//! Everything happens on 127.0.0.1, on ports that the system gives, in a directory that goes with the floor. A story
//! waits for a state with [`eventually`], never for a time. When one fails, the logs of its members are printed.
//!
//! The binary that is tested is the one beside the test: `cargo test --workspace` has just built it. Where it is
//! missing or older than its sources, it is built once.

mod add;
mod binary;
mod clock;
mod floor;
mod http;
mod library;
mod load;
mod member;
mod outsider;
mod packet;
mod plan;
mod record;
mod turn;
mod wait;

pub use add::{Added, Addends, PATIENTLY, add_by_http, add_by_quic};
pub use binary::lineside;
pub use clock::WrongClock;
pub use floor::Floor;
pub use http::{Http, HttpAnswer};
pub use library::library;
pub use load::{Load, Tally};
pub use member::{Ended, Member};
pub use outsider::Outsider;
pub use packet::{Life, Packet, Standing};
pub use plan::Plan;
pub use record::Record;
pub use wait::{PATIENCE, eventually};
