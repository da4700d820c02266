//! What lies in the model repository.
//!
//! ```text
//! <models>/<name>/<version>/model.onnx      several versions of a model
//! <models>/<name>/model.toml                their settings, if there are any, or Triton's config.pbtxt
//! <models>/<name>.onnx                      version 1 of a model
//! <models>/<name>.toml                      its settings
//! ```
//!
//! [`read`] looks at the directory; [`arrange`] decides, without touching a file, what is a model and what is wrong
//! with the rest. Nothing that a person put there is passed over in silence, but for hidden files and files of other
//! kinds at the top (a README).

mod stamps;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
};

use lineside_wire::{ModelName, ModelVersion};

pub(crate) use stamps::Stamps;

use crate::{
    policy,
    settings::{Settings, Source, Versions},
};

/// The file of a version.
const MODEL_FILE: &str = "model.onnx";

/// The file beside the versions that says what they do beyond tensors.
const SETTINGS_FILE: &str = "model.toml";

/// Largest model file, in bytes: protobuf, which ONNX is written in, ends at 2 GiB.
pub(crate) const MODEL_BYTES_MAX: u64 = (2 << 30) - 1;

/// Most versions of all models together. Each takes a session and a thread per core, and all must fit one list.
pub(crate) const VERSIONS_MAX: usize = 64;

/// Most entries that are read of one directory: a data directory given by mistake is not walked to its end.
const ENTRIES_MAX: usize = 4096;

/// One version of a model, as it is named on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VersionId {
    pub(crate) name: ModelName,
    pub(crate) version: ModelVersion,
}

/// Something in the repository that is no model, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its path within the repository.
    pub path: PathBuf,
    /// What is wrong and what to do.
    pub reason: String,
}

/// A version that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// Where the model really lies.
    pub(crate) model: PathBuf,
    /// Where its settings would lie, within the repository.
    pub(crate) settings: PathBuf,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// The files of each version, or why it cannot be loaded.
    pub(crate) versions: BTreeMap<VersionId, Result<Files, String>>,
    /// What has no name to be listed under.
    pub(crate) refused: Vec<Refused>,
    /// How the files of each version are, to see whether they change.
    pub(crate) stamps: BTreeMap<VersionId, Stamps>,
    /// Which versions of each model serve; models whose settings cannot be read have none.
    pub(crate) policies: BTreeMap<ModelName, Versions>,
    /// The file system and the directory that were read.
    pub(crate) place: Place,
    /// Where each version was found, within the repository.
    places: BTreeMap<VersionId, PathBuf>,
}

/// A directory, whatever its path says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file system. Another one under the same path is a mount that came or went.
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// A model file as the directory shows it, before anything is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its path within the repository: `<name>.onnx`, or `<name>/<version>`.
    pub(crate) path: PathBuf,
    pub(crate) file: ModelFile,
}

/// What was found where a model file should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModelFile {
    /// A file: where it really lies, and its size.
    Found { real: PathBuf, bytes: u64 },
    /// A link that leads out of the repository.
    Outside,
    /// No such file.
    Missing,
    /// Something that cannot be read, in the system's words.
    Unreadable(String),
    /// A model's directory without a directory per version.
    NoVersions,
    /// More in one directory than is read.
    TooMany,
}

/// Reads the repository.
pub(crate) fn read(repository: &Path) -> io::Result<Scan> {
    let root = fs::canonicalize(repository)?;
    let (found, more) = names(&root)?;
    let mut entries = Vec::new();
    for name in found {
        let path = PathBuf::from(&name);
        let at = root.join(&path);
        if at.is_dir() {
            entries.extend(versions(&root, &path));
        } else if path.extension().is_some_and(|extension| extension == "onnx") {
            entries.push(Entry { file: model_file(&root, &at), path });
        }
    }
    let mut scan = arrange(entries);
    if more {
        let reason =
            format!("the repository holds more than {ENTRIES_MAX} entries: the rest was not looked at");
        scan.refused.push(Refused { path: PathBuf::from("."), reason });
    }
    scan.place = place_of(&fs::metadata(&root)?);
    scan.look_around(&root);
    Ok(scan)
}

#[cfg(unix)]
fn place_of(metadata: &fs::Metadata) -> Place {
    use std::os::unix::fs::MetadataExt as _;
    Place { device: metadata.dev(), inode: metadata.ino() }
}

#[cfg(not(unix))]
fn place_of(_metadata: &fs::Metadata) -> Place {
    Place::default()
}

impl Scan {
    /// Reads the settings for what they say of versions and other files, and how the files of each version are.
    fn look_around(&mut self, root: &Path) {
        let mut files: BTreeMap<ModelName, Vec<String>> = BTreeMap::new();
        for (id, place) in &self.places {
            if files.contains_key(&id.name) {
                continue;
            }
            let named = match Source::read(root, &settings_of(place)) {
                Ok((_, settings)) => {
                    let named = files_of(&settings);
                    self.policies.insert(id.name.clone(), settings.versions);
                    named
                }
                // The load says what is wrong with them.
                Err(_) => Vec::new(),
            };
            files.insert(id.name.clone(), named);
        }
        for (id, place) in &self.places {
            let named = files.get(&id.name).map_or(&[][..], Vec::as_slice);
            self.stamps.insert(id.clone(), stamps::stamps(root, place, named));
        }
        self.add_missing();
    }

    /// A version that the settings name and that is not there is listed, with that as its reason.
    fn add_missing(&mut self) {
        for (name, versions) in &self.policies {
            for version in policy::named(versions) {
                let id = VersionId { name: name.clone(), version };
                if self.versions.contains_key(&id) || VERSIONS_MAX <= self.versions.len() {
                    continue;
                }
                let reason = format!(
                    "the settings of {name} name version {version}, and there is no {name}/{version}/{MODEL_FILE}"
                );
                self.versions.insert(id.clone(), Err(reason));
                self.stamps.insert(id, Stamps::default());
            }
        }
    }

    /// The names of all models.
    pub(crate) fn names(&self) -> BTreeSet<ModelName> {
        self.versions.keys().map(|id| id.name.clone()).collect()
    }

    /// How the files of a model's versions are.
    pub(crate) fn of(&self, name: &ModelName) -> BTreeMap<ModelVersion, Stamps> {
        let own = self.stamps.iter().filter(|(id, _)| id.name == *name);
        own.map(|(id, stamps)| (id.version, stamps.clone())).collect()
    }
}

/// The files that settings name.
fn files_of(settings: &Settings) -> Vec<String> {
    let labels = settings.predict.as_ref().and_then(|predict| predict.labels_file.clone());
    let tokenizer = settings.embed.as_ref().map(|embed| embed.tokenizer.clone());
    let outputs = settings.declared.iter().flat_map(|declared| &declared.outputs);
    let declared = outputs.filter_map(|output| output.labels_file.clone());
    labels.into_iter().chain(tokenizer).chain(declared).collect()
}

/// The visible names in a directory, sorted, so that every scan gives the same, and whether there are more.
fn names(directory: &Path) -> io::Result<(Vec<OsString>, bool)> {
    let mut entries = fs::read_dir(directory)?;
    let mut names = Vec::new();
    for entry in entries.by_ref().take(ENTRIES_MAX) {
        let name = entry?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort();
    Ok((names, entries.next().is_some()))
}

fn versions(root: &Path, name: &Path) -> Vec<Entry> {
    let one = |path: PathBuf, file| vec![Entry { path, file }];
    match inside(root, &root.join(name)) {
        Ok(true) => {}
        Ok(false) => return one(name.to_owned(), ModelFile::Outside),
        Err(error) => return one(name.to_owned(), ModelFile::Unreadable(error.to_string())),
    }
    let found = match names(&root.join(name)) {
        Ok((_, true)) => return one(name.to_owned(), ModelFile::TooMany),
        Ok((found, false)) => found,
        Err(error) => return one(name.to_owned(), ModelFile::Unreadable(error.to_string())),
    };
    let directories = found.into_iter().map(|version| name.join(version)).filter(|at| root.join(at).is_dir());
    let entries: Vec<_> = directories
        .map(|path| Entry { file: model_file(root, &root.join(&path).join(MODEL_FILE)), path })
        .collect();
    match entries.is_empty() {
        true => one(name.to_owned(), ModelFile::NoVersions),
        false => entries,
    }
}

fn inside(root: &Path, path: &Path) -> io::Result<bool> {
    Ok(fs::canonicalize(path)?.starts_with(root))
}

fn model_file(root: &Path, path: &Path) -> ModelFile {
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return ModelFile::Missing,
        Err(error) => return ModelFile::Unreadable(error.to_string()),
    };
    if !real.starts_with(root) {
        return ModelFile::Outside;
    }
    match fs::metadata(&real) {
        Ok(metadata) if metadata.is_file() => ModelFile::Found { real, bytes: metadata.len() },
        Ok(_) => ModelFile::Unreadable("it is no file".to_owned()),
        Err(error) => ModelFile::Unreadable(error.to_string()),
    }
}

/// Decides what is a model.
pub(crate) fn arrange(entries: Vec<Entry>) -> Scan {
    let mut scan = Scan::default();
    for Entry { path, file } in entries {
        let id = match identify(&path) {
            Ok(id) => id,
            Err(reason) => {
                scan.refused.push(Refused { path, reason });
                continue;
            }
        };
        if let Some(of_file) = scan.versions.get(&id) {
            let kept = of_file.as_ref().map(|files| files.model.display().to_string()).unwrap_or_default();
            let reason = format!("{} version {} is there twice: {kept} is used", id.name, id.version);
            scan.refused.push(Refused { path, reason });
        } else if VERSIONS_MAX <= scan.versions.len() {
            let reason = format!("more than {VERSIONS_MAX} versions: move old ones out of the repository");
            scan.refused.push(Refused { path, reason });
        } else {
            scan.versions.insert(id.clone(), judge(&path, file));
            scan.places.insert(id, path);
        }
    }
    scan
}

/// The name and version that a path means.
fn identify(path: &Path) -> Result<VersionId, String> {
    let text = |part: &OsStr| part.to_string_lossy().into_owned();
    let parts: Vec<String> = path.iter().map(text).collect();
    let (name, version) = match &parts[..] {
        // A directory that was refused as a whole stands for its version 1.
        [single] => (single.strip_suffix(".onnx").unwrap_or(single), None),
        [name, version] => (name.as_str(), Some(version)),
        _ => return Err("a model lies at <name>/<version>/model.onnx or <name>.onnx".to_owned()),
    };
    let name = name.parse().map_err(|error| format!("{error}"))?;
    let version = match version {
        None => ModelVersion::ONLY,
        Some(version) => version.parse().map_err(|error| format!("{error}; rename the directory"))?,
    };
    Ok(VersionId { name, version })
}

/// Where the settings of a version would lie.
fn settings_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(name) if name != Path::new("") => name.join(SETTINGS_FILE),
        // A directory that was refused as a whole.
        _ if path.extension().is_none_or(|extension| extension != "onnx") => path.join(SETTINGS_FILE),
        _ => path.with_extension("toml"),
    }
}

fn judge(path: &Path, file: ModelFile) -> Result<Files, String> {
    let settings = settings_of(path);
    let path = path.display();
    match file {
        ModelFile::Found { bytes: 0, .. } => Err("the file is empty: copy the model again".to_owned()),
        ModelFile::Found { bytes, .. } if MODEL_BYTES_MAX < bytes => Err(format!(
            "the file has {bytes} bytes: at most {MODEL_BYTES_MAX} are read; keep the weights of large models in \
             files beside it"
        )),
        ModelFile::Found { real, .. } => Ok(Files { model: real, settings }),
        ModelFile::Outside => {
            Err("it is a link out of the repository: copy the file into the repository".to_owned())
        }
        ModelFile::Missing => Err(format!("there is no {path}/{MODEL_FILE}")),
        ModelFile::Unreadable(error) => Err(format!("{path} cannot be read: {error}")),
        ModelFile::NoVersions => {
            Err(format!("{path} has no directory per version: put the model at {path}/1/{MODEL_FILE}"))
        }
        ModelFile::TooMany => Err(format!("{path} holds more than {ENTRIES_MAX} entries")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, bytes: u64) -> Entry {
        Entry { path: path.into(), file: ModelFile::Found { real: path.into(), bytes } }
    }

    fn id(name: &str, version: u64) -> VersionId {
        VersionId { name: name.parse().unwrap(), version: ModelVersion(version) }
    }

    #[test]
    fn both_layouts_are_models() {
        let scan = arrange(vec![entry("weld/2", 9), entry("weld/10", 9), entry("press.onnx", 9)]);
        let found: Vec<_> = scan.versions.keys().cloned().collect();
        assert_eq!(found, [id("press", 1), id("weld", 2), id("weld", 10)]);
        assert!(scan.refused.is_empty());
        let settings: Vec<_> = scan.versions.values().map(|files| files.clone().unwrap().settings).collect();
        assert_eq!(settings, ["press.toml", "weld/model.toml", "weld/model.toml"].map(PathBuf::from));
    }

    #[test]
    fn bad_names_are_listed_with_their_reason() {
        let scan = arrange(vec![entry("a model.onnx", 9), entry("weld/v2", 9), entry("weld/02", 9)]);
        assert!(scan.versions.is_empty());
        let reasons: Vec<_> = scan.refused.iter().map(|refused| refused.reason.as_str()).collect();
        assert!(reasons[0].contains("cannot name a model"), "{reasons:?}");
        assert!(reasons[1].contains("not a model version"), "{reasons:?}");
        assert_eq!(reasons.len(), 3);
    }

    #[test]
    fn a_version_that_is_there_twice_is_loaded_once() {
        let scan = arrange(vec![entry("weld/1", 9), entry("weld.onnx", 9)]);
        assert_eq!((scan.versions.len(), scan.refused.len()), (1, 1));
    }

    #[test]
    fn sizes_and_counts_have_limits() {
        let scan =
            arrange(vec![entry("empty/1", 0), entry("huge/1", MODEL_BYTES_MAX + 1), entry("fits/1", 9)]);
        assert_eq!(scan.versions.values().filter(|file| file.is_err()).count(), 2);
        let many = (0..=VERSIONS_MAX).map(|version| entry(&format!("weld/{version}"), 9)).collect();
        let scan = arrange(many);
        assert_eq!((scan.versions.len(), scan.refused.len()), (VERSIONS_MAX, 1));
    }

    #[test]
    fn a_directory_is_read_as_it_lies() {
        let home = tempfile::tempdir().unwrap();
        let models = home.path().join("models");
        let put = |path: &str| {
            let path = home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        put("models/weld/1/model.onnx");
        put("models/press.onnx");
        put("models/README.md");
        put("models/.git/1/model.onnx");
        put("models/flat/model.onnx");
        put("models/hollow/3/other.txt");
        put("secret/1/model.onnx");
        std::os::unix::fs::symlink(home.path().join("secret"), models.join("stolen")).unwrap();
        std::os::unix::fs::symlink(home.path().join("secret/1/model.onnx"), models.join("file.onnx"))
            .unwrap();
        std::os::unix::fs::symlink(models.join("press.onnx"), models.join("again.onnx")).unwrap();
        std::os::unix::fs::symlink(models.join("gone.onnx"), models.join("dangling.onnx")).unwrap();

        let scan = read(&models).unwrap();
        let reason = |name: &str, version| scan.versions[&id(name, version)].clone().unwrap_err();
        let loaded: Vec<_> =
            scan.versions.iter().filter(|(_, file)| file.is_ok()).map(|(id, _)| id).collect();
        assert_eq!(loaded, [&id("again", 1), &id("press", 1), &id("weld", 1)]);
        assert!(reason("stolen", 1).contains("out of the repository"));
        assert!(reason("file", 1).contains("out of the repository"));
        assert!(reason("flat", 1).contains("flat/1/model.onnx"));
        assert!(reason("hollow", 3).contains("no hollow/3/model.onnx"));
        assert!(reason("dangling", 1).contains("there is no"));
        assert!(read(&home.path().join("nowhere")).is_err());
    }
}
