//! The ONNX Runtime library for all members of all stories.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use lineside_node::runtime;

/// The library that this machine has, or that is installed now, once.
///
/// # Panics
/// There is none and it cannot be installed: the text says what to do by hand.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        #[expect(clippy::print_stderr, reason = "a story that waits for a download says so")]
        let found = runtime::ensure(None, &mut |line| eprintln!("{line}"));
        found.unwrap_or_else(|error| panic!("no ONNX Runtime library: {error}")).path
    })
}
