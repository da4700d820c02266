//! Who a peer is, and how one becomes it.
//!
//! A cluster is its authority; a member is a certificate that the authority signed, with exactly one URI
//! name. Every connection between members is mutual TLS 1.3. A member is dialled by a DNS name that holds its
//! id, so that stock verification proves who answers: nothing here verifies certificates by itself. What a
//! role may call is the table in [`roles`], and what is not in it is denied.
//!
//! ```text
//!  DATA/ca/ca-g1.key ──signs──► DATA/ca/ca-g1.pem     CN=<cluster> CA g1, only for *.<cluster id>.lineside.internal
//!        │                                             and private names of HTTPS
//!        │      └──────signs──► trust list            authorities, revocations, a number that only grows
//!        └─────────────signs──► DATA/identity/cert.pem   + key.pem + ca.pem + trust.bin
//!                               URI  spiffe://<cluster id>/<node | gateway | client | admin>/<node id>
//!                               DNS  <node id>.<cluster id>.lineside.internal
//!                               DNS  member.<cluster id>.lineside.internal      (node, gateway)
//!                               for  dialling, and being dialled                (node, gateway)
//! ```
//!
//! | step | home |
//! |---|---|
//! | what is on disk: whole, private, never replaced | [`disk`], [`Authority`], [`Identity`] |
//! | becoming a member: by one line, or by files on a stick | [`Token`], [`CertificateRequest`] |
//! | being no member, and yet known: clients over HTTP | [`WholeApiKey`] |
//! | staying one: when to renew, and by which clock | [`Renewal`], [`Clock`] |
//! | whom the cluster trusts, and whom no longer | [`Trust`] |
//! | what a running process goes by, and its changes | [`Credentials`] |
//! | how a connection is made | [`server_config`], [`client_config`] |
//! | who is at the other end | [`peer_identity`] |
//! | what that one may call | [`roles::may`] |
//! | what HTTPS is served with, under which names | [`WebCertificate`], [`WebName`] |
//! | why a handshake was refused | [`Refusal`] |
//!
//! ```
//! use std::time::SystemTime;
//!
//! use lineside_certs::{Authority, CertificateRequest, Identity, Token, TokenOrder, TOKEN_LIFETIME};
//! use lineside_certs::{client_config, roles};
//! use lineside_wire::{Role, method};
//!
//! # let data = tempfile::tempdir()?;
//! # let data = data.path();
//! # let exporter = [0; 32]; // Of the TLS connection between the two.
//! let now = SystemTime::now();
//! let authority = Authority::create(&data.join("ca"), "plant 2", now)?;
//! let order = TokenOrder { role: Role::Client, name: None, lifetime: TOKEN_LIFETIME };
//! let line = authority.create_token(&order, now)?.at(vec!["10.0.0.7:7443".to_owned()]).to_string();
//!
//! // On the new machine: the key is made there and never leaves it, and neither does the token's secret.
//! let token: Token = line.parse()?;
//! let request = CertificateRequest::new();
//! let params = request.join_params(&token, Role::Client, "camera-4", &exporter);
//! let answer = authority.join(&params, &exporter, "10.0.0.31", now)?; // Over the network.
//! let issued = request.complete(&answer, Some(token.authority()))?;
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
//! * The authority lasts ten years, a member two weeks, a client a month, an admin a day; see [`Lifetimes`].
//!   Members renew before half of their time is over, so the authority may be off for a week.
//! * Peers check the end of a member's certificate, never that of the authority's; a member's is therefore
//!   never issued to outlast it.
//! * A trust list is only as new as what has reached a machine: one that is cut off from all others still
//!   trusts whom they have revoked since, until the revoked certificate ends.
//! * A client's handshake is done before the server has looked at its certificate: a peer is up only when it
//!   has answered a call.
//! * Of two first starts at once in one directory one makes the cluster; the other is told that there is one.
//! * A clock that was wrong by days, within the life of the own certificate, and was kept is believed until
//!   the right time has caught up with it.
//! * Files are kept private by their permission bits, and changed under `flock`: for Unix only, and where a
//!   file system has no locks, one process at a time.
//!
//! This crate knows no socket and no model.

mod api_key;
mod audit;
mod authority;
mod chain;
mod clock;
mod credentials;
mod csr;
pub mod disk;
mod encoding;
mod error;
mod identity;
mod names;
mod passphrase;
mod peer;
mod pem;
mod refusal;
mod renewal;
mod request;
pub mod roles;
mod show;
mod template;
mod tls;
mod token;
mod trust;
mod web;
mod x509;

pub use api_key::{API_KEY_MARK, ApiKeyId, InvalidApiKey, InvalidApiKeyId, WholeApiKey};
pub use authority::{
    API_KEY_LIFETIME, API_KEY_LIFETIME_MAX, API_KEY_LOGGING, API_KEY_METHODS, ApiKeyOrder, ApiKeyRow,
    ApiKeyState, Authority, AuthorityError, Issued, IssuedRow, JoinCertificates, JoinRefusal, Lifetimes,
    NAME_BYTES_MAX, RenewRefusal, Revoke, Rotation, Subject, TOKEN_LIFETIME, TOKEN_LIFETIME_MAX, TokenOrder,
    TokenRow, TokenState,
};
pub use clock::{CLOCK_SLACK, Clock};
pub use credentials::Credentials;
pub use csr::{CsrError, key_of_request};
pub use error::IdentityError;
pub use identity::{AUTHORITY_DIRECTORY, IDENTITY_DIRECTORY, Identity};
pub use names::{parse_member_uri, server_name_of, server_name_of_any_member};
pub use peer::{PeerIdentity, PeerIdentityError, peer_identity};
pub use refusal::Refusal;
pub use renewal::{Alarm, Renewal};
pub use request::{
    CertificateRequest, EnrolError, REQUEST_FILE, REQUEST_KEY_FILE, enrolled_from_pem, enrolled_to_pem,
    request_from_pem,
};
pub use show::CertificateSummary;
pub use tls::{
    Joining, Presented, TlsError, client_config, client_config_by, join_client_config, join_server_name,
    provider, server_config, server_config_by, web_client_verifier, web_provider,
};
pub use token::{
    InvalidToken, InvalidTokenId, JOIN_EXPORTER_LABEL, TOKEN_ADDRESSES_MAX, TOKEN_BYTES_MAX, TOKEN_PORT,
    Token, TokenId,
};
pub use trust::{Trust, TrustError, Verdict};
pub use web::{InvalidWebName, WebCertificate, WebName};
