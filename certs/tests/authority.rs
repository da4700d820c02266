//! What the authority does for whom, and what it never does.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[path = "authority/disk.rs"]
mod disk;
#[path = "authority/join.rs"]
mod join;
#[path = "authority/keys.rs"]
mod keys;
#[path = "authority/office.rs"]
mod office;
#[path = "authority/rotation.rs"]
mod rotation;
#[path = "authority/trust.rs"]
mod trust;
