//! Finding and reading a model's files, and the words for what is wrong in them.
//!
//! Settings are in `model.toml`; where there is none, in Triton's `config.pbtxt` beside it.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
};

use super::{
    Settings, Wrong,
    pbtxt::{self, Config},
};

/// Triton's settings file, which lies where `model.toml` does. A model that is a single file has none.
const TRITON_FILE: &str = "config.pbtxt";

/// Largest settings file, in bytes: ten times what a model with every key and a thousand labels needs.
const SETTINGS_BYTES_MAX: u64 = 64 << 10;

/// Most warnings about one file: they travel with the model's state.
const WARNINGS_MAX: usize = 32;

/// Longest word that is looked at for a likely meant key, in bytes.
const WORD_BYTES_MAX: usize = 64;

/// A settings file as it was read: for the words about what is wrong in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its path within the repository.
    name: String,
    text: String,
    /// Whether there is such a file.
    is_there: bool,
    /// The lines that settings come from, where the keys do not say it.
    places: Vec<(&'static str, usize)>,
    /// What the person who wrote it should know.
    warnings: Vec<String>,
}

impl Source {
    /// Reads the settings at `path` within the repository, or what lies there for Triton. No file is the same as an
    /// empty one.
    ///
    /// # Errors
    /// It cannot be read, or is wrong: in words that name the file, the line and the key.
    pub(crate) fn read(repository: &Path, path: &Path) -> Result<(Self, Settings), String> {
        let name = path.display().to_string();
        let root = fs::canonicalize(repository).map_err(|error| format!("{name} cannot be read: {error}"))?;
        let triton = triton_path(path);
        let mut source = match read_inside(&root, &root.join(path), SETTINGS_BYTES_MAX) {
            Ok(text) => Self { name, text, is_there: true, ..Self::default() },
            Err(ReadError::Missing) => {
                return match &triton {
                    Some(triton) => Self::read_triton(&root, triton, name),
                    None => Ok((Self { name, ..Self::default() }, Settings::default())),
                };
            }
            Err(error) => return Err(format!("{name} {error}")),
        };
        let settings = source.parse()?;
        if let Some(triton) = triton.filter(|triton| root.join(triton).exists()) {
            source.warnings.push(format!("{} is not read, as there is {}", triton.display(), source.name));
        }
        Ok((source, settings))
    }

    fn read_triton(root: &Path, path: &Path, instead_of: String) -> Result<(Self, Settings), String> {
        let name = path.display().to_string();
        let text = match read_inside(root, &root.join(path), SETTINGS_BYTES_MAX) {
            Ok(text) => text,
            Err(ReadError::Missing) => {
                return Ok((Self { name: instead_of, ..Self::default() }, Settings::default()));
            }
            Err(error) => return Err(format!("{name} {error}")),
        };
        let directory = path.parent().and_then(Path::file_name).and_then(|directory| directory.to_str());
        let config = pbtxt::read(&text, directory).map_err(|mistake| {
            let field = if mistake.field.is_empty() { String::new() } else { format!(", {}", mistake.field) };
            let told = format!("{name} line {}{field}: {}", mistake.line, mistake.reason);
            told.replace(|c: char| c.is_control(), "?")
        })?;
        let Config { settings, warnings, places } = config;
        let warnings = warnings.into_iter().map(|(line, text)| {
            let told = format!("{name} line {line}: {text}");
            told.replace(|c: char| c.is_control(), "?")
        });
        let mut warnings: Vec<_> = warnings.collect();
        if WARNINGS_MAX < warnings.len() {
            let more = warnings.len() - (WARNINGS_MAX - 1);
            warnings.truncate(WARNINGS_MAX - 1);
            warnings.push(format!("{name}: there are {more} more warnings"));
        }
        Ok((Self { name, text, is_there: true, places, warnings }, settings))
    }

    /// The file's path within the repository, if there is one.
    pub(crate) fn path(&self) -> Option<&str> {
        self.is_there.then_some(self.name.as_str())
    }

    /// What the person who wrote the file should know.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn parse(&self) -> Result<Settings, String> {
        toml::from_str(&self.text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(self.text.len()));
            let before = self.text.get(..start).unwrap_or_default();
            let number = before.matches('\n').count() + 1;
            let line = self.text.lines().nth(number - 1).unwrap_or_default();
            let key = line.split(['=', '#']).next().unwrap_or_default().trim();
            let message = error.message();
            let mut told = format!("{} line {number}", self.name);
            match unknown_key(message) {
                Some((key, known)) => {
                    told += &format!(": there is no key {key:?} here");
                    told += &match nearest(key, &known) {
                        Some(near) => format!("; did you mean {near:?}?"),
                        None => format!("; there are {}", known.join(", ")),
                    };
                }
                None if key.is_empty() => told += &format!(": {message}"),
                None => told += &format!(", {key}: {message}"),
            }
            told.lines().collect::<Vec<_>>().join(" ")
        })
    }

    /// What is wrong with a key, with its place.
    pub(crate) fn tell(&self, wrong: &Wrong) -> String {
        let line = self.line_of(wrong.key).map(|line| format!(" line {line}")).unwrap_or_default();
        format!("{}{line}, {}: {}", self.name, wrong.key, wrong.reason)
    }

    /// The line of a key, as people write it: one line each below its section's.
    fn line_of(&self, key: &str) -> Option<usize> {
        if !self.places.is_empty() {
            return self.places.iter().find(|(of, _)| *of == key).map(|(_, line)| *line);
        }
        let whole = key;
        let (section, key) = whole.rsplit_once('.').unwrap_or(("", whole));
        let sets = |line: &str| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
        let mut current = "";
        let mut section_line = None;
        for (at, line) in self.text.lines().enumerate() {
            let line = line.trim();
            if let Some(head) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                current = head.trim_start_matches('[').trim();
                // A key may have a section of its own, or several.
                if current.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
                    return Some(at + 1);
                }
                if current == section {
                    section_line = Some(at + 1);
                }
            } else if current == section && sets(line) {
                return Some(at + 1);
            }
        }
        // A key that is missing is missing in its section.
        section_line
    }
}

/// Where Triton's file would be: in the directory of a model that has one.
fn triton_path(path: &Path) -> Option<PathBuf> {
    let has_directory = path.parent().is_some_and(|parent| parent != Path::new(""));
    has_directory.then(|| path.with_file_name(TRITON_FILE))
}

/// Where a model's other files lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    root: PathBuf,
    /// The version's own directory, then the settings file's.
    places: [PathBuf; 2],
}

impl Folder {
    /// Of the model at `model`, whose settings file lies at `settings` within the repository.
    ///
    /// # Errors
    /// The repository is gone.
    pub(crate) fn new(repository: &Path, model: &Path, settings: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(repository)?;
        let parent = |path: &Path| path.parent().unwrap_or(&root).to_owned();
        Ok(Self { places: [parent(model), parent(&root.join(settings))], root })
    }

    /// Reads a file that the settings name.
    ///
    /// # Errors
    /// It leads out of the model's directory, is not there, is too large, or is no text.
    pub(crate) fn read(&self, name: &str, bytes_max: u64) -> Result<String, String> {
        let path = Path::new(name);
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !plain {
            return Err(format!("{name:?} leads out of the model's directory: name a file in it"));
        }
        for place in &self.places {
            match read_inside(&self.root, &place.join(path), bytes_max) {
                Ok(text) => return Ok(text),
                Err(ReadError::Missing) => {}
                Err(error) => return Err(format!("{name} {error}")),
            }
        }
        Err(format!("there is no file {name} in the model's directory"))
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("is not there")]
    Missing,
    #[error("is a link out of the repository: copy the file into it")]
    Outside,
    #[error("is no file")]
    NoFile,
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
    #[error("is not UTF-8")]
    NoText,
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
}

/// Reads a file that lies in `root`, wherever links lead within it.
fn read_inside(root: &Path, path: &Path, bytes_max: u64) -> Result<String, ReadError> {
    let real = fs::canonicalize(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ReadError::Missing,
        _ => ReadError::Unreadable(error),
    })?;
    if !real.starts_with(root) {
        return Err(ReadError::Outside);
    }
    // Looked at before it is opened: a pipe would wait for its writer.
    if !fs::metadata(&real).map_err(ReadError::Unreadable)?.is_file() {
        return Err(ReadError::NoFile);
    }
    let mut bytes = Vec::new();
    let file = File::open(&real).map_err(ReadError::Unreadable)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(ReadError::Unreadable)?;
    if bytes_max < bytes.len() as u64 {
        return Err(ReadError::TooLarge(bytes_max));
    }
    String::from_utf8(bytes).map_err(|_| ReadError::NoText)
}

/// The key that is unknown and those that are known, out of the parser's message.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let words = message.strip_prefix("unknown field ")?;
    let mut words = words.split('`').skip(1).step_by(2);
    Some((words.next()?, words.collect()))
}

/// The known word that differs in the fewest letters, if it is few.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if WORD_BYTES_MAX < word.len() {
        return None;
    }
    let (distance, near) = known.iter().map(|known| (letters_apart(word, known), *known)).min()?;
    (distance <= (word.len() / 3).max(1)).then_some(near)
}

/// How many letters must be put in, left out or changed to make one word of the other.
fn letters_apart(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Channels, Embed, Pooling, Predict, Resize};

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.to_owned(), text: text.to_owned(), ..Source::default() }
    }

    fn parse(text: &str) -> Result<Settings, String> {
        source("weld/model.toml", text).parse()
    }

    #[test]
    fn a_file_is_read_key_by_key_and_the_rest_is_as_it_was() {
        let text = "[predict]\nsize = [64, 32]\nresize = \"fit\"\nchannels = \"bgr\"\nlabels = [\"a\", \"b\"]\n\n\
                    [predict.verdict]\nok = [\"a\"]\n\n[embed]\npooling = \"cls\"\n";
        let settings = parse(text).unwrap();
        let predict = settings.predict.unwrap();
        assert_eq!((predict.size, predict.resize), (Some([64, 32]), Resize::Fit));
        assert_eq!((predict.channels, predict.top_k), (Some(Channels::Bgr), Predict::default().top_k));
        let verdict = predict.verdict.unwrap();
        assert_eq!(
            (verdict.ok, verdict.pass.as_str(), verdict.fail.as_str()),
            (vec!["a".to_owned()], "OK", "NOK")
        );
        let embed = Embed { pooling: Some(Pooling::Cls), ..Embed::default() };
        assert_eq!(settings.embed, Some(embed));
        assert_eq!(parse(""), Ok(Settings::default()));
    }

    #[test]
    fn what_is_wrong_is_told_with_file_line_and_key() {
        let told = |text: &str| parse(text).unwrap_err();
        let unknown = told("[predict]\nsize = [1, 1]\nreszie = \"fit\"\n");
        assert!(unknown.starts_with("weld/model.toml line 3: "), "{unknown}");
        assert!(unknown.contains("no key \"reszie\" here; did you mean \"resize\"?"), "{unknown}");
        let section = told("[perdict]\n");
        assert!(section.contains("did you mean \"predict\"?"), "{section}");
        let strange = told("[embed]\nzebra = 1\n");
        assert!(strange.contains("there are tokenizer, max_tokens"), "{strange}");
        let kind = told("[predict]\n\ntop_k = \"five\"\n");
        assert!(kind.starts_with("weld/model.toml line 3, top_k: invalid type"), "{kind}");
        let value = told("[predict]\nlayout = \"chw\"\n");
        assert!(
            value.contains("line 2, layout: unknown variant `chw`, expected `nchw` or `nhwc`"),
            "{value}"
        );
        let syntax = told("[predict\n");
        assert!(syntax.starts_with("weld/model.toml line 1"), "{syntax}");
        assert!(told(&format!("[predict]\n{} = 1\n", "x".repeat(9000))).contains("there are input"), "long");
    }

    #[test]
    fn a_keys_line_is_found_in_its_section() {
        let text = "[embed]\noutput = \"e\"\n[predict]\n# output = \"no\"\noutput = \"p\"\n[predict.verdict]\nok = []\n";
        let source = source("w.toml", text);
        let told = |key| source.tell(&Wrong::new(key, "x"));
        assert_eq!(told("predict.output"), "w.toml line 5, predict.output: x");
        assert_eq!(told("embed.output"), "w.toml line 2, embed.output: x");
        assert_eq!(told("predict.size"), "w.toml line 3, predict.size: x");
        assert_eq!(told("embed"), "w.toml line 1, embed: x");
        assert_eq!(told("predict.verdict.ok"), "w.toml line 7, predict.verdict.ok: x");
    }

    #[test]
    fn files_lie_in_the_repository_and_have_a_limit() {
        let home = tempfile::tempdir().unwrap();
        let models = home.path().join("models");
        fs::create_dir_all(models.join("weld/1")).unwrap();
        fs::write(home.path().join("secret.toml"), "").unwrap();
        let settings = Path::new("weld/model.toml");
        assert_eq!(Source::read(&models, settings).unwrap().1, Settings::default());
        fs::write(models.join(settings), "#".repeat((64 << 10) + 1)).unwrap();
        assert!(Source::read(&models, settings).unwrap_err().contains("larger than 65536 bytes"));
        fs::remove_file(models.join(settings)).unwrap();
        assert_eq!(Source::read(&models, settings).unwrap().0.path(), None);
        std::os::unix::fs::symlink(home.path().join("secret.toml"), models.join(settings)).unwrap();
        assert!(Source::read(&models, settings).unwrap_err().contains("link out of the repository"));

        let folder =
            Folder::new(&models, &fs::canonicalize(&models).unwrap().join("weld/1/model.onnx"), settings);
        let folder = folder.unwrap();
        fs::write(models.join("weld/labels.txt"), "old").unwrap();
        assert_eq!(folder.read("labels.txt", 9).unwrap(), "old");
        fs::write(models.join("weld/1/labels.txt"), "new").unwrap();
        assert_eq!(folder.read("labels.txt", 9).unwrap(), "new", "the version's own comes first");
        assert!(folder.read("labels.txt", 2).unwrap_err().contains("larger than 2 bytes"));
        for out in ["../weld/labels.txt", "/etc/passwd", "", "./labels.txt"] {
            assert!(folder.read(out, 9).unwrap_err().contains("leads out of the model's directory"), "{out}");
        }
        assert!(folder.read("other.txt", 9).unwrap_err().contains("no file other.txt"));
    }

    #[test]
    fn what_was_written_for_triton_is_read_where_there_is_no_file_of_ours() {
        let home = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let read = || Source::read(home.path(), Path::new("weld/model.toml"));
        put("weld/config.pbtxt", "name: \"press\"\nmodel_warmup {}\ninstance_group [ { count: 3 } ]\n");
        let (source, settings) = read().unwrap();
        assert_eq!((source.path(), settings.instances.count), (Some("weld/config.pbtxt"), Some(3)));
        let warnings = source.warnings().join("|");
        assert!(warnings.contains("weld/config.pbtxt line 1: name is \"press\", but"), "{warnings}");
        assert!(warnings.contains("weld/config.pbtxt line 2: model_warmup is not read"), "{warnings}");
        let told = source.tell(&Wrong::new("instances.count", "x"));
        assert_eq!(told, "weld/config.pbtxt line 3, instances.count: x");

        put("weld/config.pbtxt", "backend: \"python\"");
        let told = read().unwrap_err();
        assert!(told.starts_with("weld/config.pbtxt line 1, backend: \"python\" is not served"), "{told}");

        put("weld/model.toml", "[instances]\ncount = 2\n");
        let (source, settings) = read().unwrap();
        assert_eq!((source.path(), settings.instances.count), (Some("weld/model.toml"), Some(2)));
        assert_eq!(source.warnings(), ["weld/config.pbtxt is not read, as there is weld/model.toml"]);
        // At the top, a file of this name belongs to no model.
        put("config.pbtxt", "backend: \"python\"");
        assert!(Source::read(home.path(), Path::new("model.toml")).unwrap().0.warnings().is_empty());
    }
}
