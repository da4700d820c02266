//! Made by `just grpc-code` out of `gateway/proto/open_inference.proto`: change that, and make it anew.

pub(crate) mod inference;

/// FNV-1a of the text that this was made of.
pub(crate) const SOURCE_FINGERPRINT: u64 = 0x2eb2d4557cba29ce;
