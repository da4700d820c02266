//! PEM, strictly: a file that lost its end, or a part in its middle, is no shorter file but a damaged one.

use std::{fmt::Write as _, str};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::CertificateDer;

/// The label of a certificate.
pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a request for one.
pub(crate) const REQUEST: &str = "CERTIFICATE REQUEST";
/// The label of a trust list with its signatures, in MessagePack.
pub(crate) const TRUST: &str = "LINESIDE TRUST";

/// Characters of a line, as RFC 7468 wants it.
const LINE: usize = 64;

/// One block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) label: String,
    pub(crate) bytes: Vec<u8>,
}

/// Why a text is no PEM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidPem {
    #[error("it is no text")]
    NotText,
    #[error("line {0} is cut off")]
    CutOff(usize),
    #[error("it ends within a block that began in line {0}")]
    NoEnd(usize),
    #[error("line {0} does not belong into a block")]
    Stray(usize),
    #[error("the block that ends in line {0} is not base64")]
    NotBase64(usize),
    #[error("it holds no {0}")]
    Nothing(&'static str),
    #[error("a {0:?} block does not belong into it")]
    OtherBlock(String),
}

/// Writes one block.
pub(crate) fn write(label: &str, bytes: &[u8]) -> String {
    let base64 = STANDARD.encode(bytes);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(LINE) {
        let line = str::from_utf8(line).expect("base64 is ASCII");
        let _infallible = writeln!(text, "{line}");
    }
    text + &format!("-----END {label}-----\n")
}

/// Writes certificates, one behind the other.
pub(crate) fn certificates<'a>(chain: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> String {
    chain.into_iter().map(|certificate| write(CERTIFICATE, certificate)).collect()
}

/// Reads all blocks. What stands between them is for people, as long as it does not begin with a dash: a line
/// that does is the rest of a block that was cut off.
pub(crate) fn read(text: &[u8]) -> Result<Vec<Block>, InvalidPem> {
    let text = str::from_utf8(text).map_err(|_| InvalidPem::NotText)?;
    let mut blocks = Vec::new();
    let mut open: Option<(&str, usize, String)> = None;
    for (number, line) in (1..).zip(text.lines().map(str::trim_end)) {
        let bounded = |what: &str| line.strip_prefix(what)?.strip_suffix("-----");
        match &mut open {
            None => match bounded("-----BEGIN ") {
                Some(label) => open = Some((label, number, String::new())),
                None if line.starts_with('-') => return Err(InvalidPem::CutOff(number)),
                None => {}
            },
            Some((label, _, base64)) => match bounded("-----END ") {
                Some(ended) if ended == *label => {
                    let bytes = STANDARD.decode(&*base64).map_err(|_| InvalidPem::NotBase64(number))?;
                    blocks.push(Block { label: (*label).to_owned(), bytes });
                    open = None;
                }
                Some(_) => return Err(InvalidPem::Stray(number)),
                None if line.contains('-') => return Err(InvalidPem::CutOff(number)),
                None => base64.push_str(line),
            },
        }
    }
    match open {
        Some((_, began, _)) => Err(InvalidPem::NoEnd(began)),
        None => Ok(blocks),
    }
}

/// Reads a text that holds certificates, at least one, and nothing else.
pub(crate) fn read_certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidPem> {
    let blocks = read(text)?;
    if let Some(other) = blocks.iter().find(|block| block.label != CERTIFICATE) {
        return Err(InvalidPem::OtherBlock(other.label.chars().take(40).collect()));
    }
    match blocks.is_empty() {
        true => Err(InvalidPem::Nothing("certificate")),
        false => Ok(blocks.into_iter().map(|block| block.bytes.into()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> String {
        format!("{}{}", write(CERTIFICATE, &[7; 100]), write(CERTIFICATE, &[8; 48]))
    }

    #[test]
    fn what_is_written_is_read() {
        let read = read_certificates(bundle().as_bytes()).unwrap();
        assert_eq!(read, [CertificateDer::from(vec![7; 100]), CertificateDer::from(vec![8; 48])]);
        assert!(bundle().lines().all(|line| line.len() <= LINE));
        let with_words = format!("subject=press\n\n{}issuer=plant\r\n", bundle().replace('\n', "\r\n"));
        assert_eq!(read_certificates(with_words.as_bytes()).unwrap(), read);
    }

    #[test]
    fn a_bundle_that_lost_its_end_is_damaged_wherever_it_was_cut() {
        let whole = bundle();
        let first = write(CERTIFICATE, &[7; 100]).len();
        for length in 0..whole.len() {
            let read = read_certificates(&whole.as_bytes()[..length]);
            // Between the two nothing is missing that this could know of; the last line break is no loss.
            let looks_whole = length == first || length == first - 1 || length == whole.len() - 1;
            assert_eq!(read.is_ok(), looks_whole, "cut at {length}: {read:?}");
        }
    }

    #[test]
    fn what_does_not_belong_together_is_damaged() {
        let whole = bundle();
        let wrong = [
            whole.replacen("-----END CERTIFICATE-----\n", "", 1),
            whole.replacen("-----BEGIN CERTIFICATE-----\n", "", 1) + "-",
            whole.replacen("END CERTIFICATE", "END KEY", 1),
            whole.replacen("Bwc", "B?c", 1),
            whole.replacen("Bwc", "Bw", 1),
            whole.clone() + &write(TRUST, b"list"),
            "words only\n".to_owned(),
        ];
        for text in wrong {
            assert!(read_certificates(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(read_certificates(&[0xff, 0xfe]), Err(InvalidPem::NotText));
    }
}
