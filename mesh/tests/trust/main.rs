//! Who may come in and who may stay, over loopback with real certificates and a real authority.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod floor;
mod joining;
mod standing;
