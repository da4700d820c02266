//! The executable that is tested: `lineside`, beside the test's own.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::SystemTime,
};

/// The path of the `lineside` executable, as fresh as its sources.
///
/// # Panics
/// It cannot be built.
pub fn lineside() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = env::current_exe().expect("a test has a path");
        // target/debug/deps/stories-0123 -> target/debug
        let profile = test.parent().and_then(Path::parent).expect("cargo's target directory has two levels");
        let binary = profile.join("lineside");
        if !is_fresh(&binary) {
            build(profile);
        }
        binary
    })
}

/// Whether the binary is there and newer than every source that cargo names beside it.
fn is_fresh(binary: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let Some(built) = modified(binary) else { return false };
    let Ok(rule) = fs::read_to_string(binary.with_extension("d")) else { return false };
    let is_older = |source: PathBuf| modified(&source).is_some_and(|changed: SystemTime| changed <= built);
    sources(&rule).into_iter().all(is_older)
}

/// The paths right of the colon in a rule as `make` reads it; a space within a path has a backslash.
fn sources(rule: &str) -> Vec<PathBuf> {
    let line = rule.lines().next().and_then(|line| line.split_once(": ")).map_or("", |(_, paths)| paths);
    let marked = line.replace("\\ ", "\0");
    marked.split_ascii_whitespace().map(|path| PathBuf::from(path.replace('\0', " "))).collect()
}

fn build(profile: &Path) {
    let mut cargo = Command::new(env!("CARGO"));
    // What `cargo test --workspace` builds too: any other selection has other features, and compiles half the tree again.
    cargo.args(["test", "--workspace", "--no-run", "--quiet"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(target) = profile.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.output().expect("cargo ran this test, so it is there");
    assert!(built.status.success(), "lineside cannot be built: {}", String::from_utf8_lossy(&built.stderr));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_its_sources() {
        let paths = sources("/t/debug/lineside: /w/cli/src/main.rs /w/my\\ wire/lib.rs\n\n/w/x:\n");
        assert_eq!(paths, [Path::new("/w/cli/src/main.rs"), Path::new("/w/my wire/lib.rs")]);
    }

    #[test]
    fn a_binary_without_sources_or_before_them_is_not_fresh() {
        let home = tempfile::tempdir().expect("a directory");
        let (binary, source) = (home.path().join("lineside"), home.path().join("main.rs"));
        assert!(!is_fresh(&binary));
        fs::write(&binary, "").expect("writable");
        assert!(!is_fresh(&binary), "nobody knows what it was built from");
        fs::write(binary.with_extension("d"), format!("x: {}\n", source.display())).expect("writable");
        assert!(!is_fresh(&binary), "a source is gone");
        fs::write(&source, "").expect("writable");
        let change = |by| {
            let file = fs::File::options().write(true).open(&source).expect("there");
            let built = fs::metadata(&binary).and_then(|metadata| metadata.modified()).expect("there");
            let when = if by < 0 {
                built - std::time::Duration::from_secs(5)
            } else {
                built + std::time::Duration::from_secs(5)
            };
            file.set_modified(when).expect("settable");
        };
        change(-1);
        assert!(is_fresh(&binary));
        change(1);
        assert!(!is_fresh(&binary));
    }
}
