//! Where Lineside keeps what it can get again.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The variable that names the cache directory.
pub const CACHE_VARIABLE: &str = "LINESIDE_CACHE";

/// Where root, started by a service manager without a home, keeps its cache.
const SYSTEM_CACHE: &str = "/var/cache/lineside";

/// The cache directory of this process; `None` when neither a variable nor a home tells one.
pub(super) fn of_process() -> Option<PathBuf> {
    let named = choose(|name| std::env::var_os(name), rustix::process::geteuid().is_root())?;
    std::path::absolute(named).ok()
}

fn choose(variable: impl Fn(&str) -> Option<OsString>, root: bool) -> Option<PathBuf> {
    let named = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A relative path in one of the desktop's variables is void; our own may be relative.
    let absolute = |name| named(name).filter(|path| path.is_absolute());
    named(CACHE_VARIABLE)
        .or_else(|| absolute("XDG_CACHE_HOME").map(|cache| cache.join("lineside")))
        .or_else(|| absolute("HOME").map(|home| home.join(".cache/lineside")))
        .or_else(|| root.then(|| PathBuf::from(SYSTEM_CACHE)))
}

/// The directory with the library, in a cache: by processor, as a home may be shared by unlike machines.
pub(super) fn libraries(cache: &Path) -> PathBuf {
    cache.join("onnxruntime").join(std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)], root: bool) -> Option<String> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        choose(find, root).map(|path| path.display().to_string())
    }

    #[test]
    fn the_cache_is_the_first_that_is_named() {
        let all = [("LINESIDE_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(chosen(&all, true).unwrap(), "/a");
        assert_eq!(chosen(&all[1..], true).unwrap(), "/b/lineside");
        assert_eq!(chosen(&all[2..], true).unwrap(), "/c/.cache/lineside");
        assert_eq!(chosen(&[], true).unwrap(), "/var/cache/lineside");
        assert_eq!(chosen(&[], false), None);
    }

    #[test]
    fn an_empty_or_void_variable_is_no_variable() {
        let void = [("LINESIDE_CACHE", ""), ("XDG_CACHE_HOME", "cache"), ("HOME", "/c")];
        assert_eq!(chosen(&void, false).unwrap(), "/c/.cache/lineside");
        assert_eq!(chosen(&[("HOME", "")], true).unwrap(), "/var/cache/lineside");
    }
}
