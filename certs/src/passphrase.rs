//! A key under a passphrase: what lies on the disk is worth nothing to whoever takes the disk.
//!
//! Argon2id (RFC 9106) makes a key of the passphrase, AES-256-GCM seals with it. Every file has its own salt, so a key is
//! used for one message only.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::encoding::base64;

/// Shortest passphrase, in characters. Each guess costs an attacker [`MEMORY_KIB`]; below eight even that is soon done.
pub(crate) const CHARACTERS_MIN: usize = 8;

/// What every file says first.
const FORMAT: &str = "lineside sealed key 1";
/// Memory that one guess takes: the second of RFC 9106's recommendations, which also a board with 512 MiB has.
const MEMORY_KIB: u32 = 64 * 1024;
/// Passes over it.
const PASSES: u32 = 3;
/// Most memory that a file can make us take: a damaged number must not take the machine down, not even a small one.
const MEMORY_KIB_MAX: u32 = 4 * MEMORY_KIB;
/// Most passes that a file can make us do.
const PASSES_MAX: u32 = 4 * PASSES;

/// Why a sealed key cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    /// It is not what [`seal`] wrote.
    #[error("{0}")]
    Damaged(String),
    /// Another passphrase sealed it (or a byte was changed: the two cannot be told apart).
    #[error("the passphrase is wrong")]
    Wrong,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    format: String,
    memory_kib: u32,
    passes: u32,
    #[serde(with = "base64")]
    salt: Vec<u8>,
    #[serde(with = "base64")]
    nonce: Vec<u8>,
    #[serde(with = "base64")]
    sealed: Vec<u8>,
}

/// Whether the content of a key file is sealed.
pub(crate) fn is_sealed(content: &str) -> bool {
    content.trim_start().starts_with('{')
}

/// Seals a secret text.
pub(crate) fn seal(secret: &str, passphrase: &str) -> String {
    let salt: [u8; 16] = rand::rng().random();
    let key = derive(passphrase, &salt, MEMORY_KIB, PASSES).expect("our own settings are possible");
    // As long as it becomes: growing would leave a copy of the secret behind.
    let mut sealed = Vec::with_capacity(secret.len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(secret.as_bytes());
    let nonce = key.seal_in_place_append_tag(bound(MEMORY_KIB, PASSES), &mut sealed).expect("a key is short");
    let file = Sealed {
        format: FORMAT.to_owned(),
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        salt: salt.to_vec(),
        nonce: nonce.as_ref().to_vec(),
        sealed,
    };
    serde_json::to_string_pretty(&file).expect("text and numbers can be written") + "\n"
}

/// Reads a secret that [`seal`] sealed.
pub(crate) fn open(content: &str, passphrase: &str) -> Result<Zeroizing<String>, SealError> {
    let damaged = |text: &str| SealError::Damaged(text.to_owned());
    let file: Sealed =
        serde_json::from_str(content).map_err(|error| SealError::Damaged(error.to_string()))?;
    if file.format != FORMAT {
        return Err(damaged("it was sealed in a way that is not known here"));
    }
    if MEMORY_KIB_MAX < file.memory_kib || PASSES_MAX < file.passes {
        return Err(damaged("its cost is beyond what is done"));
    }
    let nonce: [u8; NONCE_LEN] =
        file.nonce.try_into().map_err(|_| damaged("its nonce has the wrong length"))?;
    let key = derive(passphrase, &file.salt, file.memory_kib, file.passes)
        .ok_or_else(|| damaged("its cost or its salt is impossible"))?;
    let mut sealed = Zeroizing::new(file.sealed);
    let opened = key
        .open_in_place(Nonce::from(&nonce), bound(file.memory_kib, file.passes), &mut sealed)
        .map_err(|_| SealError::Wrong)?;
    let text = std::str::from_utf8(opened).map_err(|_| damaged("it holds no text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// What is sealed is bound to how it was sealed.
fn bound(memory_kib: u32, passes: u32) -> Aad<String> {
    Aad::from(format!("{FORMAT} argon2id {memory_kib} {passes}"))
}

fn derive(passphrase: &str, salt: &[u8], memory_kib: u32, passes: u32) -> Option<RandomizedNonceKey> {
    let params = Params::new(memory_kib, passes, 1, None).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut key[..])
        .ok()?;
    RandomizedNonceKey::new(&AES_256_GCM, &key[..]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_with_its_passphrase_alone() {
        let file = seal("the key", "correct horse");
        assert!(is_sealed(&file) && !file.contains("the key"));
        assert_eq!(open(&file, "correct horse").unwrap().as_str(), "the key");
        assert_eq!(open(&file, "correct hors").unwrap_err(), SealError::Wrong);
        let cheaper = file.replace("65536", "65535");
        assert_eq!(open(&cheaper, "correct horse").unwrap_err(), SealError::Wrong);
    }

    #[test]
    fn a_damaged_file_says_so_and_costs_nothing() {
        let file = seal("the key", "correct horse");
        for wrong in [
            String::new(),
            "{}".to_owned(),
            file[..file.len() / 2].to_owned(),
            file.replace("65536", "4294967295"),
            file.replace("65536", "262145"),
            file.replace("\"passes\": 3", "\"passes\": 13"),
            file.replace("\"passes\": 3", "\"passes\": 0"),
            file.replace("\"passes\": 3", "\"passes\": 4000000000"),
            file.replace(FORMAT, "another"),
        ] {
            assert!(matches!(open(&wrong, "correct horse"), Err(SealError::Damaged(_))), "{wrong}");
        }
    }
}
