//! Who a caller is, what it may do, and how much. Decides from what it is given; knows no socket.
//!
//! A caller is the certificate that it shows (QUIC, HTTPS), else the API key that it sends, else its address.

mod ring;

use std::{hash::BuildHasher as _, net::IpAddr, sync::Arc, time::SystemTime};

use http::{HeaderMap, StatusCode, header};
use lineside_certs::{API_KEY_LOGGING, API_KEY_MARK, ApiKeyId, PeerIdentity, roles};
use lineside_wire::{ApiKey, Fault, FaultCode, Role, method};

use crate::{
    config::{KeysMode, ModelControl},
    errors::{Refusal, shown_name},
    head,
    limit::{ClientKey, machine_at},
    metrics::Reason,
    proxies,
    shared::Shared,
};
pub(crate) use ring::KeyRing;

/// How `Authorization` carries a key.
const BEARER: &str = "bearer ";

/// Name of the refusal of whoever shows no key, or none that is valid.
const UNAUTHENTICATED: &str = "UNAUTHENTICATED";

/// What can be asked of the door, as far as it can be allowed or not. The names are those of the methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Permission {
    /// `infer`: run a model, in whatever form.
    Infer,
    /// `models.list`, `models.get`: see the models.
    Models,
    /// `models.statistics`.
    Statistics,
    /// `models.load`.
    Load,
    /// `models.unload`.
    Unload,
    /// `cluster.members`, `cluster.status`, `cluster.watch`.
    Cluster,
    /// `logging`: change what the door logs.
    Logging,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Where it is; behind a trusted proxy, where that says.
    pub(crate) address: IpAddr,
    pub(crate) who: Who,
    /// Under which name it is charged.
    pub(crate) charged: ClientKey,
    /// Whether it calls over QUIC: `model_control` is about HTTP and gRPC.
    pub(crate) is_peer: bool,
}

/// Who vouches for a caller.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    /// Nobody.
    Anonymous,
    /// A key of the cluster, which is valid.
    Key(Arc<ApiKey>),
    /// A certificate of the cluster.
    Certificate(Arc<PeerIdentity>),
}

/// What a request costs its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost<'a> {
    /// Calls in it: entries of a batch. 0 for what has been paid but for its bytes and its model.
    pub(crate) calls: u32,
    /// Bytes of its body.
    pub(crate) bytes: u64,
    /// The model that it runs, where it runs one: charged one inference, whatever `calls` is.
    pub(crate) model: Option<&'a str>,
}

impl Cost<'_> {
    /// One call whose body is not read yet.
    pub(crate) const ONE: Self = Self { calls: 1, bytes: 0, model: None };
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The other end of the socket.
    pub(crate) address: IpAddr,
    /// The certificate that it showed by TLS.
    pub(crate) certificate: Option<Arc<PeerIdentity>>,
}

impl Permission {
    /// The methods that go by it. Whoever may call one of them may call all.
    pub(crate) const fn methods(self) -> &'static [&'static str] {
        match self {
            Self::Infer => &[method::INFER],
            Self::Models => &[method::MODELS_LIST, method::MODELS_GET],
            Self::Statistics => &[method::MODELS_STATISTICS],
            Self::Load => &[method::MODELS_LOAD],
            Self::Unload => &[method::MODELS_UNLOAD],
            Self::Cluster => &[method::CLUSTER_MEMBERS, method::CLUSTER_STATUS, method::CLUSTER_WATCH],
            Self::Logging => &[API_KEY_LOGGING],
        }
    }

    /// Its name in messages.
    const fn name(self) -> &'static str {
        self.methods()[0]
    }

    /// Whether it changes what others get.
    const fn changes(self) -> bool {
        match self {
            Self::Load | Self::Unload | Self::Logging => true,
            Self::Infer | Self::Models | Self::Statistics | Self::Cluster => false,
        }
    }
}

impl Shared {
    /// Who sends a request with this head.
    ///
    /// # Errors
    /// 401: a key is needed and none is there, or the one that is there is not valid. 429: this address has shown more of
    /// those than it may.
    pub(crate) fn caller(&self, origin: &Origin, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let settings = self.settings();
        let address = proxies::client(origin.address, headers, &settings.trusted_proxies);
        let caller = |who, charged| Ok(Caller { address, who, charged, is_peer: false });
        if let Some(peer) = &origin.certificate {
            return caller(Who::Certificate(Arc::clone(peer)), ClientKey::Peer(peer.node));
        }
        let shown = shown(headers);
        if let Some(text) = shown.filter(|text| text.starts_with(API_KEY_MARK.as_bytes())) {
            let key = self.keys.load().find(text, seconds(self.clock.now()));
            let key = key.map_or_else(|| Err(self.not_valid(address)), Ok)?;
            let charged = ClientKey::Key(*key.id);
            return caller(Who::Key(key), charged);
        }
        match (settings.keys, shown) {
            (KeysMode::Required, _) => {
                self.metrics.refused(Reason::NoKey);
                Err(needed())
            }
            (KeysMode::Optional, Some(name)) => {
                let (name, address) = (self.names.hash_one(name), machine_at(address));
                caller(Who::Anonymous, ClientKey::Name { name, address })
            }
            (KeysMode::Optional, None) => caller(Who::Anonymous, ClientKey::Address(machine_at(address))),
        }
    }

    /// Whoever it is that asks for what everybody may see: no key is looked at.
    pub(crate) fn anybody(&self, origin: &Origin, headers: &HeaderMap) -> Caller {
        let address = proxies::client(origin.address, headers, &self.settings().trusted_proxies);
        let charged = ClientKey::Address(machine_at(address));
        Caller { address, who: Who::Anonymous, charged, is_peer: false }
    }

    /// Who calls over QUIC.
    pub(crate) fn peer(&self, peer: &Arc<PeerIdentity>, address: IpAddr) -> Caller {
        let charged = ClientKey::Peer(peer.node);
        Caller { address, who: Who::Certificate(Arc::clone(peer)), charged, is_peer: true }
    }

    /// Which key draws a call to one node: its own, else its client where that is set. Every door has the same word for a
    /// client: a key's id, a certificate's, an address.
    pub(crate) fn affinity(&self, caller: &Caller, own: Option<String>) -> Option<String> {
        if own.is_some() || !self.settings().affinity_by_client {
            return own;
        }
        Some(match &caller.who {
            Who::Key(key) => format!("{:016x}", u64::from_be_bytes(*key.id)),
            Who::Certificate(peer) => peer.node.to_string(),
            Who::Anonymous => caller.address.to_string(),
        })
    }

    /// Whether the caller may do this, with this model.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, with what the caller lacks.
    pub(crate) fn may(
        &self,
        caller: &Caller,
        permission: Permission,
        model: Option<&str>,
    ) -> Result<(), Fault> {
        let allowed = self.judge(caller, permission, model);
        if allowed.is_err() {
            self.metrics.refused(Reason::NotAllowed);
            let (from, asked) = (caller.address, permission.name());
            tracing::debug!(%from, asked, "a caller asked for what it may not do");
        }
        allowed
    }

    /// Whether the key that a caller came with is valid still: a WebSocket or a stream can outlive it.
    pub(crate) fn is_valid(&self, caller: &Caller) -> bool {
        match &caller.who {
            Who::Key(key) => self.keys.load().has(key, seconds(self.clock.now())),
            Who::Anonymous | Who::Certificate(_) => true,
        }
    }

    fn judge(&self, caller: &Caller, permission: Permission, model: Option<&str>) -> Result<(), Fault> {
        let control = self.settings().model_control;
        if permission.changes() && control == ModelControl::Off && !caller.is_peer {
            return denied(format!(
                "{} is turned off here for everybody (gateway.model_control = \"off\"): use `lineside models`",
                permission.name()
            ));
        }
        match &caller.who {
            Who::Anonymous if permission.changes() && control != ModelControl::Open => denied(format!(
                "{0} needs an API key that allows it; on the machine with the authority's key: \
                 lineside keys create --name NAME --method {0}",
                permission.name()
            )),
            Who::Anonymous => Ok(()),
            Who::Key(_) if !self.is_valid(caller) => denied(
                "the API key was revoked or has expired since this connection was opened; open another one with a key that \
                 is valid"
                    .to_owned(),
            ),
            Who::Key(key) => key_may(key, permission, model),
            Who::Certificate(_) if control == ModelControl::Open => Ok(()),
            Who::Certificate(peer) => role_may(peer.role, permission),
        }
    }

    /// The refusal of a key that is not valid. One text for all reasons: whoever guesses learns nothing. A key that is
    /// valid is let in from an address that has tried too many others: machines behind one router do not shut each other
    /// out.
    fn not_valid(&self, address: IpAddr) -> Refusal {
        self.metrics.refused(Reason::KeyNotValid);
        if let Err(too_soon) = self.failed_keys.charge(ClientKey::Address(machine_at(address)), 1) {
            self.metrics.limited(too_soon.limit);
            return too_soon.spread(rand::random()).into();
        }
        let text = "the API key is not valid here: it is not known, was revoked, or has expired; on the machine with the \
                    authority's key, `lineside keys list` shows the keys, and `lineside keys create --name NAME` makes one";
        Refusal::new(StatusCode::UNAUTHORIZED, UNAUTHENTICATED, text)
    }
}

/// The refusal of whoever shows no key where one is needed.
fn needed() -> Refusal {
    let text = "an API key is needed here: send one as X-Api-Key or as Authorization: Bearer; on the machine with the \
                authority's key, `lineside keys create --name NAME` makes one";
    Refusal::new(StatusCode::UNAUTHORIZED, UNAUTHENTICATED, text)
}

/// The key, or the name, that a head shows: what is a key of a cluster before what is a name, `X-Api-Key` before
/// `Authorization`.
fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let own = headers.get(head::API_KEY).map(|value| value.as_bytes().trim_ascii());
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, text) = value.as_bytes().split_at_checked(BEARER.len())?;
        scheme.eq_ignore_ascii_case(BEARER.as_bytes()).then(|| text.trim_ascii())
    });
    let is_key = |text: &&[u8]| text.starts_with(API_KEY_MARK.as_bytes());
    let shown = own.filter(is_key).or_else(|| bearer.filter(is_key)).or(own).or(bearer);
    shown.filter(|text| !text.is_empty())
}

/// What a key's own words allow. A list of models is asked for without one, and has those that the key may use.
fn key_may(key: &ApiKey, permission: Permission, model: Option<&str>) -> Result<(), Fault> {
    let (name, id) = (&key.name, ApiKeyId(*key.id));
    if !permission.methods().iter().any(|method| key.may_call(method)) {
        return denied(format!(
            "the API key {name:?} ({id}) may not call {0}: it may call {1}; on the machine with the authority's key: \
             lineside keys create --name {name:?} --method {0}",
            permission.name(),
            key.methods.join(", "),
        ));
    }
    match model {
        Some(model) if !key.may_use(model) => {
            let model = shown_name(model);
            denied(format!(
                "the API key {name:?} ({id}) may not use the model {model:?}: it may use {}; on the machine with the \
                 authority's key: lineside keys create --name {name:?} --model {model:?}",
                key.models.join(", "),
            ))
        }
        Some(_) | None => Ok(()),
    }
}

fn role_may(role: Role, permission: Permission) -> Result<(), Fault> {
    let may = match permission {
        // No call between members, so not in their table.
        Permission::Logging => role == Role::Admin,
        other => other.methods().iter().any(|method| roles::may(role, method)),
    };
    match may {
        true => Ok(()),
        false => denied(format!(
            "a certificate of the role {role} may not call {}; an admin's may (`lineside certs admin`)",
            permission.name()
        )),
    }
}

fn denied<T>(text: String) -> Result<T, Fault> {
    Err(Fault::new(FaultCode::PermissionDenied, text))
}

/// Whole seconds since 1970.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
