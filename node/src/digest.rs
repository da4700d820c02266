//! SHA-256, as hexadecimal digits: how a model's files, and what was found about them, are named.

use std::fmt::Write as _;

use aws_lc_rs::digest::{Context, SHA256};

/// A hash in the making.
#[derive(Clone)]
pub(crate) struct Sha256(Context);

impl Sha256 {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// 64 digits.
    pub(crate) fn finish(self) -> String {
        let mut digits = String::with_capacity(64);
        for byte in self.0.finish().as_ref() {
            let _infallible = write!(digits, "{byte:02x}");
        }
        digits
    }

    /// The hash of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> String {
        let mut hash = Self::new();
        hash.update(bytes);
        hash.finish()
    }
}

/// Whether a text has the form of a hash, and so can be a file's name.
pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard() {
        let hash = Sha256::of(b"abc");
        assert_eq!(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(is_hash(&hash) && !is_hash("../ba7816bf") && !is_hash(&hash.to_uppercase()));
    }
}
