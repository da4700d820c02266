//! Brings file, environment and flags together, and remembers where each value came from.

use std::{collections::BTreeMap, ffi::OsString, fmt, ops::Range, path::Path, path::PathBuf};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config, Control, Gateway, Node, Tls,
    error::{InvalidConfig, Mistake},
    keys::{KEYS, Key},
    setting::Raw,
};

/// Read when no file is named and it is there.
const USUAL_FILE: &str = "/etc/lineside/lineside.toml";

/// Names the file, as `--config` does.
const FILE_VARIABLE: &str = "LINESIDE_CONFIG";

/// What every variable of a setting begins with.
const VARIABLE_PREFIX: &str = "LINESIDE__";

/// What every variable of this program begins with.
const VARIABLE_HEAD: &str = "LINESIDE_";

/// Most edits between a wrong name and the one that is suggested, per three letters of the name.
const EDITS_PER_THREE_LETTERS: usize = 1;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// A line of a file.
    File {
        /// Which file.
        file: PathBuf,
        /// Which line; the first is 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag of the command line.
    Flag {
        /// Its name, with dashes.
        flag: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::Flag { flag } => write!(f, "flag {flag}"),
        }
    }
}

/// A flag that sets a key.
#[derive(Clone, Debug)]
pub(crate) struct Flag {
    /// The key, as `section.name`.
    pub(crate) key: &'static str,
    /// The flag, with dashes.
    pub(crate) flag: &'static str,
    /// Its value.
    pub(crate) value: String,
}

/// Where settings are taken from; later ones win.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// Environment variables, names and values; those of other programs may be among them.
    pub(crate) environment: Vec<(String, String)>,
    /// Flags.
    pub(crate) flags: Vec<Flag>,
}

impl Sources {
    /// The sources of this process: `--config`, else `LINESIDE_CONFIG`, else the system's file if it is there; the
    /// environment; these flags.
    pub(crate) fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let named = || std::env::var_os(FILE_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let usual = || Some(PathBuf::from(USUAL_FILE)).filter(|file| file.exists());
        let text = |os: OsString| os.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Self { file: file.or_else(named).or_else(usual), environment, flags }
    }
}

/// What a process was started with, for reading its settings again while it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Again {
    /// What `--config` named.
    pub(crate) file: Option<PathBuf>,
    /// The flags.
    pub(crate) flags: Vec<Flag>,
}

impl Again {
    /// Reads the settings as they are now.
    ///
    /// # Errors
    /// Every mistake that was found.
    pub(crate) fn load(&self) -> Result<Loaded, InvalidConfig> {
        load(&Sources::of_process(self.file.clone(), self.flags.clone()))
    }
}

/// Settings that passed every check, with their origins.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// The settings.
    pub(crate) config: Config,
    /// Where each key's value came from; a key that is missing has its default.
    pub(crate) origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where a key's value came from.
    pub(crate) fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// Checks that what the settings name is on this machine.
    ///
    /// # Errors
    /// A directory or file that was set is not there.
    pub(crate) fn check_paths(&self) -> Result<(), InvalidConfig> {
        let Config { node, gateway, certs, .. } = &self.config;
        let models = node.models.as_ref().filter(|path| !path.is_dir());
        let models = models.map(|path| ("node.models", format!("{} is no directory", path.display())));
        let files = [
            ("node.onnxruntime", &node.onnxruntime),
            ("gateway.tls_certificate", &gateway.tls_certificate.0),
            ("gateway.tls_key", &gateway.tls_key.0),
            ("certs.passphrase_file", &certs.passphrase_file.0),
        ];
        let files = files.into_iter().filter_map(|(key, path)| {
            let path = path.as_ref().filter(|path| !path.is_file())?;
            Some((key, format!("{} is no file", path.display())))
        });
        let mistakes = models.into_iter().chain(files).map(|(key, why)| Mistake::Conflict {
            place: self.origin(key).clone(),
            key,
            why,
            remedy: "name one that is there, or leave the setting out",
        });
        fail_on(mistakes.collect())
    }
}

/// Loads the settings from their sources.
///
/// # Errors
/// Every mistake that was found.
pub(crate) fn load(sources: &Sources) -> Result<Loaded, InvalidConfig> {
    let mut loading = Loading::default();
    if let Some(file) = &sources.file {
        match std::fs::read_to_string(file) {
            Ok(text) => loading.file(file, &text),
            Err(error) => {
                loading.mistakes.push(Mistake::Unreadable { file: file.clone(), reason: error.to_string() });
            }
        }
    }
    loading.environment(&sources.environment);
    loading.flags(&sources.flags);
    loading.finish()
}

/// Loads the settings from one text alone: no environment, no flags.
///
/// # Errors
/// Every mistake that was found.
pub(crate) fn load_text(file: &Path, text: &str) -> Result<Loaded, InvalidConfig> {
    let mut loading = Loading::default();
    loading.file(file, text);
    loading.finish()
}

#[derive(Default)]
struct Loading {
    config: Config,
    origins: BTreeMap<String, Origin>,
    mistakes: Vec<Mistake>,
}

impl Loading {
    fn file(&mut self, file: &Path, text: &str) {
        let place =
            |span: Range<usize>| Origin::File { file: file.to_owned(), line: line_of(text, span.start) };
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let place = place(error.span().unwrap_or_default());
                return self.mistakes.push(Mistake::Syntax { place, reason: one_line(error.message()) });
            }
        };
        for (section, entries) in table {
            let DeValue::Table(entries) = entries.into_inner() else {
                self.unknown(place(section.span()), section.get_ref());
                continue;
            };
            if entries.is_empty() && !KEYS.iter().any(|key| key.section == section.get_ref()) {
                self.unknown(place(section.span()), section.get_ref());
            }
            for (name, value) in entries {
                let path = format!("{}.{}", section.get_ref(), name.get_ref());
                self.set(&path, &raw_spanned(&value), place(name.span()));
            }
        }
    }

    fn environment(&mut self, variables: &[(String, String)]) {
        for (variable, _) in variables.iter().filter(|(name, _)| is_nearly_a_setting(name)) {
            let place = Origin::Environment { variable: variable.clone() };
            self.unknown(place, &variable[VARIABLE_HEAD.len()..].to_lowercase());
        }
        for (variable, value) in variables.iter().filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)) {
            let path = variable[VARIABLE_PREFIX.len()..].to_lowercase().replace("__", ".");
            self.set(&path, &Raw::Text(value.clone()), Origin::Environment { variable: variable.clone() });
        }
    }

    fn flags(&mut self, flags: &[Flag]) {
        for Flag { key, flag, value } in flags {
            self.set(key, &Raw::Text(value.clone()), Origin::Flag { flag });
        }
    }

    fn set(&mut self, path: &str, raw: &Raw, place: Origin) {
        let Some(key) = KEYS.iter().find(|key| key.path() == path) else {
            return self.unknown(place, path);
        };
        if (key.set)(&mut self.config, raw) {
            self.origins.insert(path.to_owned(), place);
        } else {
            let (key, value, allowed) = (path.to_owned(), raw.describe(), key.allowed);
            self.mistakes.push(Mistake::NotAllowed { place, key, value, allowed });
        }
    }

    fn unknown(&mut self, place: Origin, key: &str) {
        let suggestion = match &place {
            Origin::Environment { .. } => suggest(key).map(Key::variable),
            Origin::Default | Origin::File { .. } | Origin::Flag { .. } => suggest(key).map(Key::path),
        };
        self.mistakes.push(Mistake::UnknownKey { place, key: key.to_owned(), suggestion });
    }

    fn finish(mut self) -> Result<Loaded, InvalidConfig> {
        self.check_models();
        self.check_heartbeat();
        self.check_deadlines();
        self.check_rests();
        self.check_tls();
        self.check_ports();
        // In the order of the file; what is of no file keeps its place behind.
        self.mistakes.sort_by_key(Mistake::line);
        fail_on(self.mistakes)?;
        Ok(Loaded { config: self.config, origins: self.origins })
    }

    /// Two settings that do not fit together; the place is that of the first of `keys` that somebody set.
    fn conflict(&mut self, keys: &[&'static str], why: String, remedy: &'static str) {
        let place = keys.iter().find_map(|key| self.origins.get(*key).cloned());
        let place = place.unwrap_or(Origin::Default);
        self.mistakes.push(Mistake::Conflict { place, key: keys[0], why, remedy });
    }

    fn check_models(&mut self) {
        let Node { control, on_demand, memory_max, ref load, .. } = self.config.node;
        if control != Control::Explicit && load.is_some() {
            let why = "it is set, and only used where node.control is \"explicit\"".to_owned();
            self.conflict(&["node.load"], why, "set node.control to \"explicit\", or leave it out");
        }
        if !on_demand && memory_max.0 != 0 {
            let why = "it is set, and only used where node.on_demand is true".to_owned();
            self.conflict(&["node.memory_max"], why, "set node.on_demand to true, or leave it out");
        }
    }

    fn check_heartbeat(&mut self) {
        // By the values in force: a preset's timeout may be too long for an interval that was set.
        if let Err(error) = self.config.member.pace().check() {
            self.conflict(
                &["member.probe_timeout", "member.probe_interval", "member.preset"],
                error.to_string(),
                "set member.probe_timeout to half of member.probe_interval at most",
            );
        }
    }

    fn check_deadlines(&mut self) {
        let Gateway { deadline, deadline_max, .. } = self.config.gateway;
        if deadline_max < deadline {
            self.conflict(
                &["gateway.deadline", "gateway.deadline_max"],
                format!("{deadline:?} is more than gateway.deadline_max, {deadline_max:?}"),
                "raise gateway.deadline_max or lower gateway.deadline",
            );
        }
    }

    fn check_rests(&mut self) {
        let Gateway { eject_time, eject_time_max, .. } = self.config.gateway;
        if eject_time_max < eject_time {
            self.conflict(
                &["gateway.eject_time", "gateway.eject_time_max"],
                format!("{eject_time:?} is more than gateway.eject_time_max, {eject_time_max:?}"),
                "raise gateway.eject_time_max or lower gateway.eject_time",
            );
        }
    }

    fn check_tls(&mut self) {
        let Gateway { tls, tls_only, tls_certificate, tls_key, tls_names, .. } = self.config.gateway.clone();
        let files = [("gateway.tls_certificate", tls_certificate.0), ("gateway.tls_key", tls_key.0)];
        for (key, file) in files {
            match (tls, file.is_some()) {
                (Tls::Files, false) => self.conflict(
                    &[key, "gateway.tls"],
                    format!("gateway.tls is \"files\", and {key} names none"),
                    "name the files with certificate and key, or set gateway.tls to \"cluster\"",
                ),
                (Tls::Off | Tls::Cluster, true) => self.conflict(
                    &[key],
                    "it is set, and only used where gateway.tls is \"files\"".to_owned(),
                    "set gateway.tls to \"files\", or leave the file out",
                ),
                (Tls::Files, true) | (Tls::Off | Tls::Cluster, false) => {}
            }
        }
        if tls != Tls::Cluster && tls_names.is_some() {
            let why = "it is set, and only used where gateway.tls is \"cluster\"".to_owned();
            self.conflict(&["gateway.tls_names"], why, "set gateway.tls to \"cluster\", or leave it out");
        }
        if tls == Tls::Off && tls_only {
            let why = "plain HTTP is refused, and gateway.tls is \"off\": nobody could get in".to_owned();
            self.conflict(&["gateway.tls_only", "gateway.tls"], why, "set gateway.tls, or leave it out");
        }
    }

    fn check_ports(&mut self) {
        let Gateway { http, grpc, .. } = self.config.gateway;
        if http.port() != 0 && grpc.0.is_some_and(|grpc| grpc.port() == http.port()) {
            self.conflict(
                &["gateway.grpc", "gateway.http"],
                format!("port {} is that of gateway.http, where gRPC is served anyway", http.port()),
                "choose another port, or leave gateway.grpc out",
            );
        }
    }
}

fn fail_on(mistakes: Vec<Mistake>) -> Result<(), InvalidConfig> {
    match mistakes.is_empty() {
        true => Ok(()),
        false => Err(InvalidConfig { mistakes }),
    }
}

/// The key that was probably meant: the same name in another section, else the nearest.
fn suggest(path: &str) -> Option<&'static Key> {
    let (section, name) = path.split_once('.').unwrap_or(("", path));
    let distance = |key: &Key| match section {
        // Without a section, or with one that is right or wrong in the same way as the name, names are compared.
        "" => strsim::damerau_levenshtein(name, key.name),
        _ => strsim::damerau_levenshtein(path, &key.path()),
    };
    // In the environment, one underscore too few.
    let joined = path.replace('.', "_").replace("__", "_");
    let elsewhere = KEYS
        .iter()
        .find(|key| key.name == name)
        .or_else(|| KEYS.iter().find(|key| format!("{}_{}", key.section, key.name) == joined));
    let edits_max = (name.chars().count() * EDITS_PER_THREE_LETTERS).div_ceil(3).max(1);
    let nearest = || KEYS.iter().map(|key| (distance(key), key)).min_by_key(|(distance, _)| *distance);
    elsewhere.or_else(|| nearest().filter(|(distance, _)| *distance <= edits_max).map(|(_, key)| key))
}

/// Whether a variable is a setting written with one underscore where two belong: it would be ignored in silence.
fn is_nearly_a_setting(variable: &str) -> bool {
    let rest = variable.strip_prefix(VARIABLE_HEAD).filter(|rest| !rest.starts_with('_'));
    rest.is_some_and(|rest| {
        let section = rest.split('_').next().unwrap_or_default().to_lowercase();
        section.len() < rest.len() && KEYS.iter().any(|key| key.section == section)
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn raw_spanned(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Boolean(flag) => Raw::Bool(*flag),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("a whole number beyond 64 bits"), Raw::Integer),
        DeValue::Float(_) => Raw::Other("a number with a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
        DeValue::Array(entries) => {
            let texts = entries.iter().map(|entry| entry.get_ref().as_str().map(str::to_owned));
            texts
                .collect::<Option<Vec<_>>>()
                .map_or(Raw::Other("a list of other things than text"), Raw::List)
        }
    }
}

/// The raw form of a value that was written by [`super::setting::Setting::write`].
#[cfg(test)]
pub(super) fn raw(value: &toml::Value) -> Raw {
    match value {
        toml::Value::String(text) => Raw::Text(text.clone()),
        toml::Value::Integer(number) => Raw::Integer(*number),
        toml::Value::Boolean(flag) => Raw::Bool(*flag),
        toml::Value::Array(entries) => Raw::List(
            entries.iter().map(|entry| entry.as_str().expect("lists are of text").to_owned()).collect(),
        ),
        _ => Raw::Other("never written"),
    }
}
