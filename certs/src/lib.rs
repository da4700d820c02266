//! Who a peer is.
//!
//! A cluster is its authority; a member is a certificate that the authority signed, with exactly one URI name:
//!
//! ```text
//! spiffe://<cluster id>/<node | gateway | client | admin>/<node id>
//! ```
//!
//! Every connection between members is mutual TLS 1.3. A member is dialled by a DNS name that holds its id, so
//! that stock verification proves who answers; nothing here verifies certificates by itself. What a role may call
//! is the table in [`roles`], and what is not in it is denied.
//!
//! This crate knows no socket and no model. Joining with a token, renewal and revocation are not here yet.

mod authority;
pub mod disk;
mod identity;
mod peer;
mod refusal;
pub mod roles;
mod show;
mod tls;

pub use authority::{Authority, AuthorityError, Issued, NAME_BYTES_MAX, Subject};
pub use identity::{AUTHORITY_DIRECTORY, IDENTITY_DIRECTORY, Identity, IdentityError};
pub use peer::{PeerIdentity, PeerIdentityError, parse_member_uri, peer_identity};
pub use refusal::Refusal;
pub use show::CertificateSummary;
pub use tls::{TlsError, client_config, provider, server_config, server_name_of, server_name_of_any_member};
