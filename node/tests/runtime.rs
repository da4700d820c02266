//! Installing the real ONNX Runtime with the machine's own pip. The one test that needs a package index.

use lineside_node::runtime::{EnsureError, InstallError, Origin, Places, VERSION};

#[test]
fn the_library_is_downloaded_once_and_then_found() {
    let cache = tempfile::tempdir().unwrap();
    let places = Places { cache: Some(cache.path().to_owned()), ..Places::default() };
    let mut told = Vec::new();
    let first = match places.ensure(&mut |line| told.push(line.to_owned())) {
        Ok(found) => found,
        Err(EnsureError::Install(error)) if !must_install() && needs_what_is_missing(&error) => {
            println!("not run: {error}: {}", error.why());
            return;
        }
        Err(error) => panic!("{error}\n  why: {}\n  fix: {}", error.why(), error.remedy()),
    };
    assert_eq!((first.origin, first.version.as_deref()), (Origin::Cache, Some(VERSION)));
    assert!(told.iter().any(|line| line.contains("downloading")), "{told:?}");
    // The real one, not a part of it: the library alone is some 30 MB.
    assert!(20_000_000 < first.path.metadata().unwrap().len());

    let second = places.ensure(&mut |line| panic!("works again: {line}")).unwrap();
    assert_eq!((&second.path, second.origin, second.version), (&first.path, first.origin, first.version));
    let installed = places.install(&mut |line| panic!("works again: {line}")).unwrap();
    assert_eq!(installed, first.path);
}

/// Under continuous integration a test that cannot run has failed.
fn must_install() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// What a developer's machine may lack. A wrong file, a full disk or a broken pip is a failure everywhere.
fn needs_what_is_missing(error: &InstallError) -> bool {
    matches!(
        error,
        InstallError::Offline { .. }
            | InstallError::NoPlatform(_)
            | InstallError::NoPython
            | InstallError::NoPip { .. }
    )
}
