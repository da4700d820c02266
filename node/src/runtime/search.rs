//! The search for the library: which places, in which order, and which file of a place.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fmt::Display,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{Found, NotFound, Origin, Searched, cache, error::NO_CACHE, header, python::Tools};

/// The variable that names the library; the same that the `ort` crate reads.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

const FILE_NAME: &str = "libonnxruntime.so";

/// Where else the system's loader looks: one directory per line in these files.
const LOADER_SETTINGS: &str = "/etc/ld.so.conf.d";

/// Where a library is looked for. The tests make their own; everyone else takes those of the process.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The path in the flag or the setting.
    pub named: Option<PathBuf>,
    /// The path in [`LIBRARY_VARIABLE`].
    pub variable: Option<PathBuf>,
    /// The directory of the binary.
    pub binary: Option<PathBuf>,
    /// The cache directory, where the library is also installed.
    pub cache: Option<PathBuf>,
    /// Whether the machine's Python is asked.
    pub python: bool,
    /// The library directories of the system.
    pub system: Vec<PathBuf>,
}

impl Places {
    /// The places of this process; `explicit` is the path from the flag or the setting.
    pub fn of_process(explicit: Option<&Path>) -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let binary = std::env::current_exe().ok();
        let machine = std::env::consts::ARCH;
        Self {
            named: explicit.map(Path::to_owned),
            variable: variable(LIBRARY_VARIABLE).map(PathBuf::from),
            binary: binary.and_then(|binary| binary.parent().map(Path::to_owned)),
            cache: cache::of_process(),
            python: true,
            system: system_directories(variable("LD_LIBRARY_PATH").as_deref(), &loader_settings(), machine),
        }
    }

    /// Looks for the library.
    ///
    /// # Errors
    /// The named path is not usable, or no place has a library.
    pub fn find(&self) -> Result<Found, NotFound> {
        self.search(|| Tools::default().package())
    }

    /// The search; `python` is asked only when everything before had nothing, as that takes a process.
    pub(super) fn search(
        &self,
        python: impl FnOnce() -> Result<Vec<PathBuf>, String>,
    ) -> Result<Found, NotFound> {
        for (origin, path) in [(Origin::Named, &self.named), (Origin::Variable, &self.variable)] {
            if let Some(path) = path {
                return take_named(origin, path);
            }
        }
        let mut search = Search::default();
        let near = self.binary.as_ref().and_then(|binary| search.look(Origin::BesideBinary, binary));
        let found = near
            .or_else(|| match &self.cache {
                Some(cache) => search.look(Origin::Cache, &cache::libraries(cache)),
                None => search.note(Origin::Cache, &"", &NO_CACHE),
            })
            .or_else(|| if self.python { search.look_in_python(python()) } else { None })
            .or_else(|| search.look_in_system(&self.system));
        match found {
            Some((origin, path)) => {
                Ok(Found { version: version_of(&path), path, origin, searched: search.searched })
            }
            None => Err(NotFound { searched: search.searched }),
        }
    }
}

/// A path that somebody named: it is this one or none.
fn take_named(origin: Origin, path: &Path) -> Result<Found, NotFound> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match header::check(&absolute) {
        Ok(()) => Ok(Found { version: version_of(&absolute), path: absolute, origin, searched: Vec::new() }),
        Err(why) => {
            let place = absolute.display().to_string();
            Err(NotFound { searched: vec![Searched { origin, place, why: why.to_string() }] })
        }
    }
}

/// What the search has seen without success.
#[derive(Default)]
struct Search {
    searched: Vec<Searched>,
}

impl Search {
    /// Remembers a place that had none. It never gives anything, so that it can stand where a place was looked in.
    fn note(&mut self, origin: Origin, place: &dyn Display, why: &dyn Display) -> Option<(Origin, PathBuf)> {
        self.searched.push(Searched { origin, place: place.to_string(), why: why.to_string() });
        None
    }

    /// The first usable library of a directory.
    fn look(&mut self, origin: Origin, directory: &Path) -> Option<(Origin, PathBuf)> {
        match libraries_in(directory) {
            Ok(libraries) if libraries.is_empty() => {
                self.note(origin, &directory.display(), &format_args!("it has no {FILE_NAME}"))
            }
            Ok(libraries) => self.first_usable(origin, libraries),
            Err(why) => self.note(origin, &directory.display(), &why),
        }
    }

    fn first_usable(&mut self, origin: Origin, libraries: Vec<PathBuf>) -> Option<(Origin, PathBuf)> {
        libraries.into_iter().find_map(|library| match header::check(&library) {
            Ok(()) => Some((origin, library)),
            Err(why) => self.note(origin, &library.display(), &why),
        })
    }

    fn look_in_python(&mut self, package: Result<Vec<PathBuf>, String>) -> Option<(Origin, PathBuf)> {
        let origin = Origin::Python;
        match package {
            Ok(places) if places.is_empty() => {
                self.note(origin, &"python3", &"it has no package onnxruntime")
            }
            Ok(places) => places.iter().find_map(|place| self.look(origin, place)),
            Err(why) => self.note(origin, &"python3", &why),
        }
    }

    /// Looks in many directories and remembers them as one place: most are there on every machine, and empty.
    fn look_in_system(&mut self, directories: &[PathBuf]) -> Option<(Origin, PathBuf)> {
        let origin = Origin::System;
        let mut empty = Vec::new();
        for directory in directories {
            match libraries_in(directory) {
                Ok(libraries) if libraries.is_empty() => empty.push(directory.display().to_string()),
                Ok(libraries) => {
                    if let Some(found) = self.first_usable(origin, libraries) {
                        return Some(found);
                    }
                }
                Err(_) => {} // Not on this machine.
            }
        }
        self.note(origin, &empty.join(", "), &format_args!("no {FILE_NAME}"))
    }
}

/// The files of a directory that are named like the library: the one without a version first, as somebody has
/// chosen what it stands for, then the newest.
fn libraries_in(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(directory).map_err(|error| match error.kind() {
        ErrorKind::NotFound => "there is no such directory".to_owned(),
        _ => format!("it cannot be read: {error}"),
    })?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let mut libraries: Vec<_> = names.filter_map(|name| Some((version_in(&name)?, name))).collect();
    libraries.sort_by(|(one, _), (other, _)| match (one.is_empty(), other.is_empty()) {
        (false, false) => other.cmp(one),
        (one, other) => other.cmp(&one),
    });
    Ok(libraries.into_iter().map(|(_, name)| directory.join(name)).collect())
}

/// The version in a file name, empty when there is none; `None` when it is not the library's name.
fn version_in(name: &OsStr) -> Option<Vec<u32>> {
    match name.to_str()?.strip_prefix(FILE_NAME)? {
        "" => Some(Vec::new()),
        rest => rest.strip_prefix('.')?.split('.').map(|part| part.parse().ok()).collect(),
    }
}

/// The version in the name of a file; the file behind a link knows it better (`libonnxruntime.so.1` is one, too).
fn version_of(path: &Path) -> Option<String> {
    let in_name = |path: &Path| {
        let version = version_in(path.file_name()?)?;
        let parts: Vec<_> = version.iter().map(ToString::to_string).collect();
        (!parts.is_empty()).then(|| parts.join("."))
    };
    path.canonicalize().ok().and_then(|real| in_name(&real)).or_else(|| in_name(path))
}

/// The directories of the loader's variable, those of its settings, then the usual ones; each once.
fn system_directories(variable: Option<&OsStr>, settings: &[String], machine: &str) -> Vec<PathBuf> {
    let triple = format!("{machine}-linux-gnu");
    let usual = ["/usr/local/lib", "/usr/local/lib64", "/usr/lib", "/usr/lib64", "/lib", "/lib64"];
    let usual = usual.into_iter().flat_map(|directory| {
        let directory = PathBuf::from(directory);
        [directory.join(&triple), directory]
    });
    let of_settings = settings.iter().flat_map(|text| text.lines()).map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        PathBuf::from(line.trim())
    });
    let named = variable.into_iter().flat_map(std::env::split_paths);
    let packaged = [PathBuf::from("/opt/onnxruntime/lib")];
    let mut seen = BTreeSet::new();
    let all = named.chain(of_settings).chain(usual).chain(packaged);
    // On merged systems /lib is a link to /usr/lib: look once.
    let once =
        |directory: &PathBuf| seen.insert(directory.canonicalize().unwrap_or_else(|_| directory.clone()));
    all.filter(|directory| directory.is_absolute()).filter(once).collect()
}

/// The texts of the loader's settings, in the order in which it reads them.
fn loader_settings() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(LOADER_SETTINGS) else { return Vec::new() };
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.is_file() && file.extension().is_some_and(|extension| extension == "conf"));
    files.sort();
    files.into_iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::header::tests::library_for, *};

    const MACHINE: &str = std::env::consts::ARCH;

    /// A machine in a temporary directory.
    struct Machine {
        root: tempfile::TempDir,
        places: Places,
    }

    impl Machine {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let at = |name: &str| root.path().join(name);
            let system = vec![at("usr/local/lib"), at("usr/lib"), at("none")];
            let places = Places {
                binary: Some(at("bin")),
                cache: Some(at("cache")),
                python: true,
                system,
                ..Places::default()
            };
            for name in ["bin", "python/capi", "usr/local/lib", "usr/lib"] {
                fs::create_dir_all(at(name)).unwrap();
            }
            fs::create_dir_all(cache::libraries(&at("cache"))).unwrap();
            Self { root, places }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn has(&self, name: &str, bytes: &[u8]) -> PathBuf {
            fs::write(self.at(name), bytes).unwrap();
            self.at(name)
        }

        fn find(&self) -> Result<Found, NotFound> {
            self.places.search(|| Ok(vec![self.at("python/capi")]))
        }

        fn origin(&self) -> Origin {
            self.find().unwrap().origin
        }
    }

    #[test]
    fn the_order_is_named_variable_binary_cache_python_system() {
        let library = library_for(MACHINE);
        let mut machine = Machine::new();
        assert_eq!(machine.find().unwrap_err().searched.len(), 4);
        machine.has("usr/lib/libonnxruntime.so.1.17.0", &library);
        assert_eq!(machine.origin(), Origin::System);
        machine.has("python/capi/libonnxruntime.so.1.31.1", &library);
        assert_eq!(machine.origin(), Origin::Python);
        let cached = machine.has(&format!("cache/onnxruntime/{MACHINE}/libonnxruntime.so.1.32.0"), &library);
        assert_eq!((machine.origin(), machine.find().unwrap().path), (Origin::Cache, cached));
        machine.has("bin/libonnxruntime.so", &library);
        assert_eq!(machine.origin(), Origin::BesideBinary);
        machine.places.variable = Some(machine.has("variable.so", &library));
        assert_eq!(machine.origin(), Origin::Variable);
        machine.places.named = Some(machine.has("named.so", &library));
        assert_eq!(machine.origin(), Origin::Named);
    }

    #[test]
    fn python_is_not_asked_when_something_nearer_is_there() {
        let machine = Machine::new();
        machine.has("bin/libonnxruntime.so", &library_for(MACHINE));
        let found = machine.places.search(|| panic!("asked")).unwrap();
        assert_eq!(found.searched, []);
    }

    #[test]
    fn a_named_path_that_does_not_work_is_refused_though_others_would() {
        let mut machine = Machine::new();
        machine.has("bin/libonnxruntime.so", &library_for(MACHINE));
        for (name, why) in [("none.so", "there is no such file"), ("bin", "it is not a regular file")] {
            machine.places.named = Some(machine.at(name));
            let refused = machine.find().unwrap_err();
            assert!(refused.is_named());
            let searched = refused.searched.into_iter().next().unwrap();
            let place = machine.at(name).display().to_string();
            assert_eq!(searched, Searched { origin: Origin::Named, place, why: why.into() });
        }
        machine.places.named = None;
        machine.places.variable = Some(machine.has("text.so", b"#!/bin/sh"));
        assert_eq!(machine.find().unwrap_err().searched[0].origin, Origin::Variable);
    }

    #[test]
    fn a_wrong_file_in_a_place_is_passed_over_and_remembered() {
        let machine = Machine::new();
        let other = if MACHINE == "aarch64" { "x86_64" } else { "aarch64" };
        let wrong = machine.has("bin/libonnxruntime.so.1.32.0", &library_for(other));
        let right = machine.has("bin/libonnxruntime.so.1.31.1", &library_for(MACHINE));
        let found = machine.find().unwrap();
        assert_eq!((found.path, found.version.as_deref()), (right, Some("1.31.1")));
        assert_eq!(found.searched[0].place, wrong.display().to_string());
        assert_eq!(found.searched[0].why, format!("it is for {other}, this machine is {MACHINE}"));
    }

    #[test]
    fn the_newest_library_of_a_directory_is_taken_and_neighbours_are_not() {
        let (machine, library) = (Machine::new(), library_for(MACHINE));
        for name in ["_providers_shared.so", ".dylib", ".so.1.9.0", ".so.1.10.0", ".so.old", ".so.1.11.0.bak"]
        {
            machine.has(&format!("bin/libonnxruntime{name}"), &library);
        }
        assert_eq!(machine.find().unwrap().version.unwrap(), "1.10.0");
        let chosen = machine.at("bin/libonnxruntime.so");
        std::os::unix::fs::symlink("libonnxruntime.so.1.9.0", &chosen).unwrap();
        let found = machine.find().unwrap();
        assert_eq!((found.path, found.version.unwrap()), (chosen, "1.9.0".into()));
    }

    #[test]
    fn every_place_is_told_when_nothing_is_found() {
        let mut machine = Machine::new();
        machine.places.cache = None;
        let error = machine.places.search(|| Err("there is no python3".into())).unwrap_err();
        let told: Vec<_> =
            error.searched.iter().map(|searched| (searched.origin, &searched.why[..])).collect();
        assert_eq!(
            told,
            [
                (Origin::BesideBinary, "it has no libonnxruntime.so"),
                (Origin::Cache, NO_CACHE),
                (Origin::Python, "there is no python3"),
                (Origin::System, "no libonnxruntime.so"),
            ]
        );
        let system =
            format!("{}, {}", machine.at("usr/local/lib").display(), machine.at("usr/lib").display());
        assert_eq!(error.searched[3].place, system);
    }

    #[test]
    fn the_system_has_the_directories_of_its_loader_each_once() {
        let settings = ["# a comment\n/opt/vendor/lib # ours\ninclude relative\n/usr/local/lib\n".to_owned()];
        let directories =
            system_directories(Some("/opt/mine:relative::/opt/mine".as_ref()), &settings, "m68k");
        assert_eq!(directories[0], Path::new("/opt/mine"));
        assert_eq!(directories[1], Path::new("/opt/vendor/lib"));
        assert!(directories.contains(&"/usr/local/lib/m68k-linux-gnu".into()));
        let once: BTreeSet<_> = directories.iter().collect();
        assert_eq!(once.len(), directories.len());
        assert!(directories.iter().all(|directory| directory.is_absolute()));
    }
}
