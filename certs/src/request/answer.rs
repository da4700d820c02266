//! What comes back for a request, and whether it can be believed.
//!
//! On the way through the network an answer is inside a connection that was verified; on a USB stick it is
//! not. So everything is checked here, the same for both: the certificate is for our key, and an authority of
//! the list that came with it signed it.

use lineside_wire::{Enrolled, SignedTrust};
use rustls_pki_types::CertificateDer;
use serde_bytes::ByteBuf;

use super::CertificateRequest;
use crate::{
    Identity, Issued, PeerIdentity, PeerIdentityError, Trust, TrustError,
    chain::{CHAIN_MAX, leads_to},
    csr,
    identity::files,
    peer::holder,
    pem,
    x509::Facts,
};

/// Longest file with an answer, in bytes: a trust list with all the revocations that there can be has less.
const ANSWER_BYTES_MAX: usize = 2 << 20;

/// Longest file with a request, in bytes. One of ours has 400; others' tools write a description in front of
/// it.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Why an answer to a request makes no identity. Nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolError {
    /// The file is damaged, or not what it should be.
    #[error("the file is damaged or another one ({0}): have it written and brought again")]
    File(String),
    /// There is none.
    #[error("the answer holds no certificate: have it made again")]
    NoCertificate,
    /// More than a chain has.
    #[error("the answer holds {0} certificates, at most {CHAIN_MAX} are read: have it made again")]
    TooManyCertificates(usize),
    /// The certificate cannot be read, or names no member.
    #[error("{0}: have the answer made again")]
    Certificate(#[from] PeerIdentityError),
    /// It answers another request.
    #[error(
        "the certificate is for another key: an answer belongs to one request, on one machine; bring the one for this \
         request, or make a new request (`lineside certs request`)"
    )]
    OtherKey,
    /// The trust list that came with it cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The token names another authority.
    #[error(
        "the answer comes from another authority than the one that the token names: nothing was stored; is the address \
         in the token that of another cluster's machine?"
    )]
    OtherAuthority,
    /// Nobody in its trust list signed it.
    #[error(
        "no authority of the cluster signed the certificate in the answer: it was changed on its way; have it made again"
    )]
    NotSigned,
    /// It is for another member than the one that asked.
    #[error("the renewed certificate is another member's ({found}, not {own}): the present one is kept")]
    OtherMember {
        /// Whose it is.
        found: String,
        /// Who asked.
        own: String,
    },
    /// It does not last as long as the one that is here.
    #[error(
        "the renewed certificate ends before the present one, which is kept: is the authority's clock right?"
    )]
    EndsEarlier,
}

pub(super) fn complete(
    request: &CertificateRequest,
    answer: &Enrolled,
    expected: Option<&[u8; 32]>,
) -> Result<Issued, EnrolError> {
    let (chain, _) = chain_of(request, answer)?;
    let trust = Trust::own(&answer.trust)?;
    // Not just that it names that authority: a member that answers in a holder's place could add one of its own.
    if expected.is_some_and(|expected| !trust.is_word_of(expected)) {
        return Err(EnrolError::OtherAuthority);
    }
    issued(request, &chain, &trust)
}

pub(super) fn renew(
    request: &CertificateRequest,
    present: &Identity,
    answer: &Enrolled,
) -> Result<Issued, EnrolError> {
    let (chain, holder) = chain_of(request, answer)?;
    if (holder.cluster, holder.role, holder.node) != present.member() {
        let name = |who: &PeerIdentity| format!("{} {}", who.role, who.node);
        return Err(EnrolError::OtherMember { found: name(&holder), own: name(present.holder()) });
    }
    if holder.not_after < present.not_after() {
        return Err(EnrolError::EndsEarlier);
    }
    // An authority that has not heard of the newest change yet still renews; its list is then older than
    // ours.
    let known = present.trust();
    let trust = match known.succeed(&answer.trust) {
        Ok(newer) => newer,
        Err(TrustError::Older { .. } | TrustError::SameNumber(_)) => known.clone(),
        Err(error) => return Err(error.into()),
    };
    issued(request, &chain, &trust)
}

/// The certificates of an answer, the first one for the request's key, and whom that one is for.
fn chain_of<'a>(
    request: &CertificateRequest,
    answer: &'a Enrolled,
) -> Result<(Vec<CertificateDer<'a>>, PeerIdentity), EnrolError> {
    if CHAIN_MAX < answer.certificates.len() {
        return Err(EnrolError::TooManyCertificates(answer.certificates.len()));
    }
    let chain: Vec<_> = answer.certificates.iter().map(|one| CertificateDer::from(&one[..])).collect();
    let facts = Facts::of(chain.first().ok_or(EnrolError::NoCertificate)?)?;
    let own = csr::read(&request.csr).expect("it was made or read before").key;
    if rcgen::PublicKeyData::der_bytes(&own) != facts.public_key {
        return Err(EnrolError::OtherKey);
    }
    Ok((chain, holder(&facts)?))
}

fn issued(
    request: &CertificateRequest,
    chain: &[CertificateDer<'_>],
    trust: &Trust,
) -> Result<Issued, EnrolError> {
    if !leads_to(trust, chain) {
        return Err(EnrolError::NotSigned);
    }
    Ok(Issued {
        certificate: pem::certificates(chain),
        key: request.key.clone(),
        authority: trust.authorities_pem(),
        trust: trust.signed().cloned(),
    })
}

/// Reads a request from a file: DER, at most [`CSR_BYTES_MAX`](lineside_wire::CSR_BYTES_MAX). What it says is
/// not looked at.
///
/// # Errors
/// The text is too long, or no request.
pub fn request_from_pem(text: &str) -> Result<Vec<u8>, EnrolError> {
    let mut blocks = blocks_of(text, REQUEST_BYTES_MAX)?;
    match (blocks.pop(), blocks.len()) {
        (Some(block), 0) if block.label == pem::REQUEST => {
            match block.bytes.len() <= lineside_wire::CSR_BYTES_MAX {
                true => Ok(block.bytes),
                false => Err(EnrolError::File("a request is shorter".to_owned())),
            }
        }
        (_, _) => Err(EnrolError::File(format!("it holds not just one {:?}", pem::REQUEST))),
    }
}

/// Writes the answer of `lineside certs sign` for a file: the certificates, and the trust list. The
/// authority's clock is not in it: it would be as old as the way is long.
#[must_use]
pub fn enrolled_to_pem(answer: &Enrolled) -> String {
    let chain: Vec<_> = answer.certificates.iter().map(|one| CertificateDer::from(&one[..])).collect();
    pem::certificates(&chain) + &pem::write(pem::TRUST, &files::trust_to_bytes(&answer.trust))
}

/// Reads what [`enrolled_to_pem`] wrote; its `now` is 0. Whether it can be believed is for
/// [`CertificateRequest::complete`].
///
/// # Errors
/// The text is too long, damaged, or something else.
pub fn enrolled_from_pem(text: &str) -> Result<Enrolled, EnrolError> {
    let (mut certificates, mut trust) = (Vec::new(), None::<SignedTrust>);
    for block in blocks_of(text, ANSWER_BYTES_MAX)? {
        match (&block.label[..], &trust) {
            (pem::CERTIFICATE, _) => certificates.push(ByteBuf::from(block.bytes)),
            (pem::TRUST, None) => {
                trust = Some(files::trust_from_bytes(&block.bytes).map_err(EnrolError::File)?);
            }
            (other, _) => return Err(EnrolError::File(format!("a {other:?} too many"))),
        }
    }
    match (certificates.len(), trust) {
        (0, _) => Err(EnrolError::NoCertificate),
        (count, _) if CHAIN_MAX < count => Err(EnrolError::TooManyCertificates(count)),
        (_, None) => Err(EnrolError::File(format!("it holds no {:?}", pem::TRUST))),
        (_, Some(trust)) => Ok(Enrolled { certificates, trust, now: 0 }),
    }
}

fn blocks_of(text: &str, bytes_max: usize) -> Result<Vec<pem::Block>, EnrolError> {
    match text.len() <= bytes_max {
        true => pem::read(text.as_bytes()).map_err(|error| EnrolError::File(error.to_string())),
        false => Err(EnrolError::File(format!("it is longer than {bytes_max} bytes"))),
    }
}
