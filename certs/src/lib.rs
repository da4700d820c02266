//! Who a peer is.
//!
//! A cluster is its authority; a member is a certificate that the authority signed, with exactly one URI name. Every
//! connection between members is mutual TLS 1.3. A member is dialled by a DNS name that holds its id, so that stock
//! verification proves who answers: nothing here verifies certificates by itself. What a role may call is the table in
//! [`roles`], and what is not in it is denied.
//!
//! ```text
//!  DATA/ca/ca.key ──signs──► DATA/ca/ca.pem     CN=<cluster> CA g1, only for *.<cluster id>.lineside.internal
//!        │
//!        └─────────signs──► DATA/identity/cert.pem   + key.pem + ca.pem
//!                           URI  spiffe://<cluster id>/<node | gateway | client | admin>/<node id>
//!                           DNS  <node id>.<cluster id>.lineside.internal
//!                           DNS  member.<cluster id>.lineside.internal      (node, gateway)
//!                           for  dialling, and being dialled                (node, gateway)
//! ```
//!
//! | step | home |
//! |---|---|
//! | what is on disk: whole, private, never replaced | [`disk`], [`Authority`], [`Identity`] |
//! | how a connection is made | [`server_config`], [`client_config`] |
//! | who is at the other end | [`peer_identity`] |
//! | what that one may call | [`roles::may`] |
//! | why a handshake was refused | [`Refusal`] |
//!
//! ```
//! use std::time::SystemTime;
//!
//! use lineside_certs::{Authority, Identity, Subject, client_config, roles};
//! use lineside_wire::{Role, method};
//!
//! # let data = tempfile::tempdir()?;
//! # let data = data.path();
//! let now = SystemTime::now();
//! let authority = Authority::create(&data.join("ca"), "plant 2", now)?;
//! let issued = authority.issue(&Subject::new(Role::Client, "camera-4"), now)?;
//! Identity::store(&data.join("camera-4"), &issued)?;
//!
//! let camera = Identity::load(&data.join("camera-4"))?;
//! camera.check_validity(now)?;
//! assert_eq!((camera.cluster(), camera.name()), (authority.cluster(), "camera-4"));
//! assert!(roles::may(camera.role(), method::INFER) && !roles::may(camera.role(), method::MODELS_LOAD));
//! let tls = client_config(&camera, &[b"lineside/1"])?;
//! # drop(tls);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Limits
//!
//! * The authority lasts ten years, a member a year, an admin a day. Nothing renews a certificate, and a certificate
//!   that got into the wrong hands is valid until it ends: joining with a token, renewal, revocation and a second
//!   authority beside the first are not here yet.
//! * Peers check the end of a member's certificate, never that of the authority's; a member's is therefore never
//!   issued to outlast it.
//! * A client's handshake is done before the server has looked at its certificate: a peer is up only when it has
//!   answered a call.
//! * Of two first starts at once in one directory one makes the cluster; the other is told that there is one.
//! * Files are kept private by their permission bits: for Unix only.
//!
//! This crate knows no socket and no model.

mod authority;
pub mod disk;
mod error;
mod identity;
mod names;
mod peer;
mod refusal;
pub mod roles;
mod show;
mod template;
mod tls;
mod x509;

pub use authority::{Authority, AuthorityError, Issued, NAME_BYTES_MAX, Subject};
pub use error::IdentityError;
pub use identity::{AUTHORITY_DIRECTORY, IDENTITY_DIRECTORY, Identity};
pub use names::{parse_member_uri, server_name_of, server_name_of_any_member};
pub use peer::{PeerIdentity, PeerIdentityError, peer_identity};
pub use refusal::Refusal;
pub use show::CertificateSummary;
pub use tls::{TlsError, client_config, provider, server_config};
