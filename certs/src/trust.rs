//! Whom this process trusts: authorities and what they took back, verified.
//!
//! A list comes from the own disk ([`Trust::own`]) or from a peer ([`Trust::succeed`]); the second has to be signed by an
//! authority that is trusted already, and nothing in it may be older than what is known. What a peer tells is therefore
//! never worth more than what the authority signed, and an old list that is told again changes nothing.

mod crl;

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::signature;
use lineside_wire::{
    API_KEY_PATTERN_BYTES_MAX, API_KEY_PATTERNS_MAX, API_KEYS_MAX, API_KEYS_REVOKED_MAX, AUTHORITIES_MAX,
    ApiKey, ClusterId, NodeId, REVOKED_MAX, RevokedApiKey, SignedTrust, TrustList, TrustStamp,
    TrustedAuthority,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use serde::Deserialize as _;

use crate::{
    PeerIdentity, Refusal,
    chain::leads_to,
    names::{generation_of, parse_cluster_uri},
    pem,
    x509::{Facts, sha256},
};

/// Longest document of a trust list, in bytes: two authorities with as many revocations as there can be have half of it,
/// and as many API keys most of the rest.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting of a trust list's document; it needs three levels.
const DEPTH_MAX: usize = 8;

/// A verified trust list. Immutable: a newer one takes its place.
#[derive(Clone, Debug)]
pub struct Trust {
    pub(crate) cluster: ClusterId,
    pub(crate) stamp: TrustStamp,
    pub(crate) issuing: u32,
    pub(crate) roots: Vec<Root>,
    pub(crate) revoked_nodes: BTreeSet<NodeId>,
    /// API keys of clients over HTTP, none of which is revoked.
    pub(crate) keys: Vec<ApiKey>,
    pub(crate) revoked_keys: BTreeMap<[u8; 8], RevokedApiKey>,
    pub(crate) signed: Option<SignedTrust>,
}

/// An authority and what it took back.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    pub(crate) generation: u32,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) crl: Option<CertificateRevocationListDer<'static>>,
    pub(crate) crl_number: u64,
    /// Serial numbers, lower-case hexadecimal as in [`PeerIdentity::serial`].
    pub(crate) revoked: BTreeSet<String>,
    /// The bytes of its public key.
    public_key: Vec<u8>,
}

/// What a trust list says of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is one of us.
    Trusted,
    /// Its certificate or its node id was revoked.
    Revoked,
    /// The authority that signed its certificate is not trusted any longer.
    UnknownAuthority,
}

impl Verdict {
    /// What a peer is told that may not stay; `None` for one that may.
    #[must_use]
    pub const fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Trusted => None,
            Self::Revoked => Some(Refusal::Revoked),
            Self::UnknownAuthority => Some(Refusal::RetiredAuthority),
        }
    }
}

/// Why a trust list is not taken. The one before it stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// It cannot be read, or does not hold what it must.
    #[error("the trust list is damaged ({0}): have it sent again, or restore the file")]
    Damaged(String),
    /// It is another cluster's.
    #[error("the trust list is of the cluster {found}, this machine belongs to {own}")]
    OtherCluster {
        /// Whose it is.
        found: ClusterId,
        /// Ours.
        own: ClusterId,
    },
    /// There is a newer one here.
    #[error("the trust list has the number {number}, and {known} is known: an older one is never taken back")]
    Older {
        /// Its number.
        number: u64,
        /// The number in force.
        known: u64,
    },
    /// It has the number of the one in force. With another content, two machines with the authority's key have each
    /// changed something; they merge it and publish a higher number.
    #[error("a trust list with the number {0} is in force already")]
    SameNumber(u64),
    /// No authority that is trusted has signed it.
    #[error(
        "no authority that this machine trusts has signed the trust list: it was changed on its way, or this machine \
         missed a whole rotation of the authority and has to join again"
    )]
    NotSigned,
    /// It is new and brings an old revocation list along, which would undo a revocation.
    #[error(
        "the trust list has the revocation list {number} of the authority g{generation}, and {known} is known: what \
         was revoked stays revoked"
    )]
    OlderCrl {
        /// Whose revocation list.
        generation: u32,
        /// Its number.
        number: u64,
        /// The number in force.
        known: u64,
    },
    /// The key of an authority would change without a rotation.
    #[error(
        "the trust list has another key for the authority g{0} than the one that is known: have two machines with the \
         authority's key each begun a rotation?"
    )]
    OtherAuthority(u32),
}

impl Trust {
    /// Trust in these authorities and nothing revoked, under number 0: what an identity without a trust list has.
    ///
    /// # Errors
    /// A certificate is no cluster's authority, or they are of different clusters.
    pub fn bare(authorities: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        check_count(authorities.len())?;
        let mut cluster = None;
        let mut roots = Vec::new();
        for certificate in authorities {
            let (of, root) = Root::bare(certificate)?;
            match *cluster.get_or_insert(of) {
                own if own == of => roots.push(root),
                own => return Err(TrustError::OtherCluster { found: of, own }),
            }
        }
        roots.sort_by_key(|root| root.generation);
        check_order(&roots)?;
        let cluster = cluster.expect("there is at least one authority");
        let issuing = roots.last().map_or(0, |root| root.generation);
        let (stamp, revoked_nodes) = (TrustStamp::default(), BTreeSet::new());
        let (keys, revoked_keys) = (Vec::new(), BTreeMap::new());
        Ok(Self { cluster, stamp, issuing, roots, revoked_nodes, keys, revoked_keys, signed: None })
    }

    /// Reads a list that is trusted for where it came from (the own disk, an enrolment): it has to be whole and
    /// signed by one of its own authorities.
    ///
    /// # Errors
    /// It is damaged.
    pub fn own(signed: &SignedTrust) -> Result<Self, TrustError> {
        let list = decode(signed)?;
        let trust = Self::read(list, signed)?;
        match trust.has_signed(signed) {
            true => Ok(trust),
            false => Err(TrustError::NotSigned),
        }
    }

    /// Takes over a list that a peer told: of the same cluster, with a higher number, signed by an authority that is
    /// trusted now, and with no CRL older than the one that is known. Nodes that were revoked stay so.
    ///
    /// # Errors
    /// It is not so. A list with the present number is [`TrustError`] too.
    pub fn succeed(&self, signed: &SignedTrust) -> Result<Self, TrustError> {
        let list = decode(signed)?;
        if list.cluster != self.cluster {
            return Err(TrustError::OtherCluster { found: list.cluster, own: self.cluster });
        }
        match list.number.cmp(&self.stamp.number) {
            std::cmp::Ordering::Less => {
                return Err(TrustError::Older { number: list.number, known: self.stamp.number });
            }
            std::cmp::Ordering::Equal => return Err(TrustError::SameNumber(list.number)),
            std::cmp::Ordering::Greater => {}
        }
        // The signature comes before the certificates in it are looked at: a stranger's are nobody's concern.
        if !self.has_signed(signed) {
            return Err(TrustError::NotSigned);
        }
        let mut next = Self::read(list, signed)?;
        for known in &self.roots {
            let Some(root) = next.root(known.generation) else { continue };
            if root.public_key != known.public_key {
                return Err(TrustError::OtherAuthority(known.generation));
            }
            if root.crl_number < known.crl_number {
                let (generation, number) = (root.generation, root.crl_number);
                return Err(TrustError::OlderCrl { generation, number, known: known.crl_number });
            }
        }
        // A node is taken back for ever. A list that lacks one comes from a copy of the authority that was kept for a
        // while, and its holder has not heard of it yet.
        next.revoked_nodes.extend(&self.revoked_nodes);
        // So is an API key.
        next.revoked_keys.extend(self.revoked_keys.iter().map(|(id, revoked)| (*id, *revoked)));
        while API_KEYS_REVOKED_MAX < next.revoked_keys.len() {
            let oldest = next.revoked_keys.iter().min_by_key(|(_, revoked)| **revoked).map(|(id, _)| *id);
            oldest.and_then(|id| next.revoked_keys.remove(&id));
        }
        let Self { keys, revoked_keys, .. } = &mut next;
        keys.retain(|key| !revoked_keys.contains_key(&*key.id));
        Ok(next)
    }

    /// What members tell each other of this list.
    #[must_use]
    pub const fn stamp(&self) -> TrustStamp {
        self.stamp
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Generation of the authority that signs new certificates.
    #[must_use]
    pub const fn issuing(&self) -> u32 {
        self.issuing
    }

    /// The API keys of clients over HTTP: what a door is told by `Shared::set_keys`, at its start and whenever another
    /// list is in force. Whether the time of one is over, the door sees itself.
    #[must_use]
    pub fn keys(&self) -> &[ApiKey] {
        &self.keys
    }

    /// Whether the list in force lacks what was taken back in one before it. It comes from a copy of the authority that was
    /// kept for a while, and made changes before it met anybody; it should be told.
    #[must_use]
    pub fn lacks_revocations(&self) -> bool {
        let Some(list) = self.signed.as_ref().and_then(|signed| decode(signed).ok()) else { return false };
        let (nodes, keys): (BTreeSet<_>, BTreeSet<_>) =
            (list.revoked_nodes.into_iter().collect(), list.revoked_keys.iter().map(|one| *one.id).collect());
        let is_back = |id: &[u8; 8]| self.revoked_keys.contains_key(id) && !keys.contains(id);
        !self.revoked_nodes.is_subset(&nodes) || list.keys.iter().any(|key| is_back(&key.id))
    }

    /// How many certificates are revoked by their serial number.
    #[must_use]
    pub fn revoked_certificates(&self) -> usize {
        self.roots.iter().map(|root| root.revoked.len()).sum()
    }

    /// The list to pass on; `None` for [`Trust::bare`].
    #[must_use]
    pub const fn signed(&self) -> Option<&SignedTrust> {
        self.signed.as_ref()
    }

    /// Whether a peer may stay that showed these certificates in a handshake, its own first. The handshake may have been
    /// long ago, or with what was trusted a moment ago: that they lead to an authority is therefore asked anew. A name alone
    /// says too little. Whoever stole the key of an authority can name another after the one that takes its place, and would
    /// stay when the stolen one has gone.
    #[must_use]
    pub fn judge_shown(&self, peer: &PeerIdentity, chain: &[CertificateDer<'_>]) -> Verdict {
        match self.judge(peer) {
            Verdict::Trusted if !leads_to(self, chain) => Verdict::UnknownAuthority,
            verdict => verdict,
        }
    }

    /// Whether a holder may stay, by what its certificate says. Says nothing about who signed that.
    ///
    /// A generation above the newest that is known here is no reason against it: in a rotation of which this process has not
    /// heard yet, an authority that is known signs that generation's own key.
    #[must_use]
    pub fn judge(&self, peer: &PeerIdentity) -> Verdict {
        let newest = self.roots.last().map_or(0, |root| root.generation);
        match self.root(peer.generation) {
            _ if peer.cluster != self.cluster => Verdict::UnknownAuthority,
            _ if self.revoked_nodes.contains(&peer.node) => Verdict::Revoked,
            Some(root) if root.revoked.contains(&peer.serial) => Verdict::Revoked,
            Some(_) => Verdict::Trusted,
            None if newest < peer.generation => Verdict::Trusted,
            None => Verdict::UnknownAuthority,
        }
    }

    /// The authorities' certificates, PEM, oldest first: what `ca.pem` holds.
    #[must_use]
    pub fn authorities_pem(&self) -> String {
        pem::certificates(self.roots.iter().map(|root| &root.certificate))
    }

    /// Whether a node has lost its id.
    #[must_use]
    pub fn has_revoked(&self, node: NodeId) -> bool {
        self.revoked_nodes.contains(&node)
    }

    /// Whether the authority with this SHA-256 of its SPKI, as tokens name it, is one of those trusted here.
    #[must_use]
    pub fn has_authority(&self, spki_sha256: &[u8; 32]) -> bool {
        let facts = self.roots.iter().filter_map(|root| Facts::of(&root.certificate).ok());
        facts.map(|facts| facts.spki_sha256).any(|hash| hash == *spki_sha256)
    }

    /// Whether the authority with this SHA-256 of its SPKI is one of those trusted here, and has signed the list itself.
    /// That it stands in a list proves nothing: whoever makes one can name whom he likes in it.
    pub(crate) fn is_word_of(&self, spki_sha256: &[u8; 32]) -> bool {
        let Some(signed) = &self.signed else { return false };
        let is_it =
            |root: &&Root| Facts::of(&root.certificate).is_ok_and(|facts| facts.spki_sha256 == *spki_sha256);
        let Some(root) = self.roots.iter().find(is_it) else { return false };
        let bytes = signed_bytes(&signed.document);
        signed.signatures.iter().any(|one| root.has_signed(&bytes, &one.signature))
    }

    /// The authority of a generation.
    fn root(&self, generation: u32) -> Option<&Root> {
        self.roots.iter().find(|root| root.generation == generation)
    }

    /// Whether one of the authorities that are trusted here has signed.
    fn has_signed(&self, signed: &SignedTrust) -> bool {
        let bytes = signed_bytes(&signed.document);
        signed.signatures.iter().any(|signature| {
            self.root(signature.generation).is_some_and(|root| root.has_signed(&bytes, &signature.signature))
        })
    }

    /// Checks what a list holds. Who signed it is the caller's question.
    fn read(list: TrustList, signed: &SignedTrust) -> Result<Self, TrustError> {
        check_count(list.authorities.len())?;
        check_keys(&list)?;
        let cluster = list.cluster;
        let roots = list
            .authorities
            .into_iter()
            .map(|one| Root::read(one, cluster))
            .collect::<Result<Vec<_>, _>>()?;
        check_order(&roots)?;
        if list.number == 0 {
            return Err(TrustError::Damaged("it has the number 0".to_owned()));
        }
        if !roots.iter().any(|root| root.generation == list.issuing) {
            let text = format!("the authority g{} is to sign and is not in it", list.issuing);
            return Err(TrustError::Damaged(text));
        }
        if REVOKED_MAX < list.revoked_nodes.len() {
            return Err(TrustError::Damaged(format!("it revokes more than {REVOKED_MAX} nodes")));
        }
        let stamp = TrustStamp { number: list.number, hash: hash(&signed.document) };
        let (issuing, revoked_nodes) = (list.issuing, list.revoked_nodes.into_iter().collect());
        let revoked_keys: BTreeMap<_, _> = list.revoked_keys.iter().map(|one| (*one.id, *one)).collect();
        let live = |key: &ApiKey| !revoked_keys.contains_key(&*key.id);
        let keys = list.keys.into_iter().filter(live).collect();
        let signed = Some(signed.clone());
        Ok(Self { cluster, stamp, issuing, roots, revoked_nodes, keys, revoked_keys, signed })
    }
}

impl Root {
    /// An authority of which no revocation list is known.
    fn bare(certificate: CertificateDer<'static>) -> Result<(ClusterId, Self), TrustError> {
        let damaged = |text: &str| TrustError::Damaged(text.to_owned());
        let facts = Facts::of(&certificate).map_err(|error| TrustError::Damaged(error.to_string()))?;
        let cluster = facts.only_uri().ok().and_then(parse_cluster_uri).filter(|_| facts.is_authority);
        let cluster = cluster.ok_or_else(|| damaged("a certificate in it is not a cluster's authority's"))?;
        if !facts.is_self_issued {
            return Err(damaged("the certificate of an authority in it was signed by another one"));
        }
        let generation = generation_of(&facts.subject)
            .ok_or_else(|| damaged("an authority in it has no generation in its name"))?;
        let public_key = facts.public_key;
        let (crl, crl_number, revoked) = (None, 0, BTreeSet::new());
        Ok((cluster, Self { generation, certificate, crl, crl_number, revoked, public_key }))
    }

    /// An authority as it stands in a list.
    fn read(told: TrustedAuthority, cluster: ClusterId) -> Result<Self, TrustError> {
        let (found, root) = Self::bare(told.certificate.into_vec().into())?;
        if found != cluster {
            return Err(TrustError::OtherCluster { found, own: cluster });
        }
        if root.generation != told.generation {
            let text = format!("g{} is called g{} in its certificate", told.generation, root.generation);
            return Err(TrustError::Damaged(text));
        }
        let told = told.crl.into_vec();
        let crl = crl::read(&told, &root.certificate).map_err(|reason| {
            TrustError::Damaged(format!("the revocation list of g{}: {reason}", root.generation))
        })?;
        if !root.has_signed(&crl.signed, &crl.signature) {
            let text = format!("the revocation list of g{} is not signed by it", root.generation);
            return Err(TrustError::Damaged(text));
        }
        Ok(Self { crl: Some(told.into()), crl_number: crl.number, revoked: crl.serials, ..root })
    }

    /// Whether this authority's key made a signature.
    fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, &self.public_key);
        key.verify(bytes, signature).is_ok()
    }
}

fn check_keys(list: &TrustList) -> Result<(), TrustError> {
    let patterns = |key: &ApiKey| key.models.len().max(key.methods.len());
    let most = list.keys.iter().map(patterns).max().unwrap_or_default();
    let each = list.keys.iter().flat_map(|key| key.models.iter().chain(&key.methods));
    let longest = each.map(String::len).max().unwrap_or_default();
    for (what, count, max) in [
        ("API keys", list.keys.len(), API_KEYS_MAX),
        ("revoked API keys", list.revoked_keys.len(), API_KEYS_REVOKED_MAX),
        ("patterns of an API key", most, API_KEY_PATTERNS_MAX),
        ("bytes in a pattern of an API key", longest, API_KEY_PATTERN_BYTES_MAX),
    ] {
        if max < count {
            return Err(TrustError::Damaged(format!("it has {count} {what}, and there can be {max}")));
        }
    }
    Ok(())
}

fn check_count(authorities: usize) -> Result<(), TrustError> {
    match authorities {
        1..=AUTHORITIES_MAX => Ok(()),
        other => {
            Err(TrustError::Damaged(format!("it has {other} authorities, there are 1 to {AUTHORITIES_MAX}")))
        }
    }
}

fn check_order(roots: &[Root]) -> Result<(), TrustError> {
    match roots.is_sorted_by(|older, newer| older.generation < newer.generation) {
        true => Ok(()),
        false => Err(TrustError::Damaged("its authorities are not in the order of their age".to_owned())),
    }
}

/// Reads the document of a list, all of it and nothing behind it.
fn decode(signed: &SignedTrust) -> Result<TrustList, TrustError> {
    if DOCUMENT_BYTES_MAX < signed.document.len() {
        return Err(TrustError::Damaged(format!("it is longer than {DOCUMENT_BYTES_MAX} bytes")));
    }
    if AUTHORITIES_MAX < signed.signatures.len() {
        return Err(TrustError::Damaged(format!("it has more than {AUTHORITIES_MAX} signatures")));
    }
    let mut rest = &signed.document[..];
    let mut decoder = rmp_serde::Deserializer::new(&mut rest);
    decoder.set_max_depth(DEPTH_MAX);
    let list =
        TrustList::deserialize(&mut decoder).map_err(|error| TrustError::Damaged(error.to_string()))?;
    match rest.len() {
        0 => Ok(list),
        more => Err(TrustError::Damaged(format!("{more} bytes follow it"))),
    }
}

/// The first eight bytes of a document's SHA-256.
fn hash(document: &[u8]) -> u64 {
    u64::from_be_bytes(*sha256(document).first_chunk().expect("SHA-256 has 32 bytes"))
}

/// The bytes that an authority signs for a trust list's document.
pub(crate) fn signed_bytes(document: &[u8]) -> Vec<u8> {
    [b"lineside trust list v1\0", document].concat()
}

/// Writes a list as the document that is signed.
pub(crate) fn encode(list: &TrustList) -> Vec<u8> {
    rmp_serde::to_vec_named(list).expect("a trust list can be written")
}

#[cfg(test)]
mod tests;
