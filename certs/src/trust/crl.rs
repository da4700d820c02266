//! Reads certificate revocation lists.

use std::collections::BTreeSet;

use lineside_wire::REVOKED_MAX;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::encoding::to_hex;

/// What a revocation list says. Its signature is not checked here.
pub(super) struct Crl {
    /// Counts the lists of one authority.
    pub(super) number: u64,
    /// Serial numbers, lower-case hexadecimal.
    pub(super) serials: BTreeSet<String>,
    /// The bytes that were signed.
    pub(super) signed: Vec<u8>,
    /// The signature over them.
    pub(super) signature: Vec<u8>,
}

/// Reads the revocation list of an authority, all of it and nothing behind it.
///
/// # Errors
/// It is not one, not this authority's, or longer than a list may be; the text says how.
pub(super) fn read(der: &[u8], authority: &CertificateDer<'_>) -> Result<Crl, String> {
    let (rest, crl) = CertificateRevocationList::from_der(der).map_err(|error| error.to_string())?;
    if !rest.is_empty() {
        return Err(format!("{} bytes follow it", rest.len()));
    }
    // What TLS goes by has to be able to read it, too: a list that only one of the two takes would be no list.
    webpki::BorrowedCertRevocationList::from_der(der).map_err(|error| error.to_string())?;
    let (_, authority) = X509Certificate::from_der(authority).map_err(|error| error.to_string())?;
    if crl.issuer().as_raw() != authority.subject().as_raw() {
        return Err("it is another authority's".to_owned());
    }
    let number = crl.crl_number().ok_or("it has no number")?;
    let number = u64::try_from(number).map_err(|_| format!("the number {number} is too large"))?;
    let revoked = &crl.tbs_cert_list.revoked_certificates;
    if REVOKED_MAX < revoked.len() {
        return Err(format!("it has more than {REVOKED_MAX} certificates"));
    }
    let serials = revoked.iter().map(|one| to_hex(one.raw_serial())).collect();
    let signed = crl.tbs_cert_list.as_ref().to_vec();
    Ok(Crl { number, serials, signed, signature: crl.signature_value.data.to_vec() })
}
