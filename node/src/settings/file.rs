//! Finding and reading a model's files, and the words for what is wrong in them.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
};

use super::{Settings, Wrong};

/// Largest settings file, in bytes: ten times what a model with every key and a thousand labels needs.
const SETTINGS_BYTES_MAX: u64 = 64 << 10;

/// Longest word that is looked at for a likely meant key, in bytes.
const WORD_BYTES_MAX: usize = 64;

/// A settings file as it was read: for the words about what is wrong in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its path within the repository.
    name: String,
    text: String,
}

impl Source {
    /// Reads the settings file at `path` within the repository. No file is the same as an empty one.
    ///
    /// # Errors
    /// It cannot be read, or is wrong: in words that name the file, the line and the key.
    pub(crate) fn read(repository: &Path, path: &Path) -> Result<(Self, Settings), String> {
        let name = path.display().to_string();
        let root = fs::canonicalize(repository).map_err(|error| format!("{name} cannot be read: {error}"))?;
        let text = match read_inside(&root, &root.join(path), SETTINGS_BYTES_MAX) {
            Ok(text) => text,
            Err(ReadError::Missing) => return Ok((Self { name, text: String::new() }, Settings::default())),
            Err(error) => return Err(format!("{name} {error}")),
        };
        let source = Self { name, text };
        let settings = source.parse()?;
        Ok((source, settings))
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
        let (section, key) = key.rsplit_once('.').unwrap_or((key, ""));
        let mut current = "";
        let mut section_line = None;
        for (at, line) in self.text.lines().enumerate() {
            let line = line.trim();
            if let Some(head) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                current = head.trim();
                if current == section {
                    section_line = Some(at + 1);
                }
            } else if current == section
                && line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
            {
                return Some(at + 1);
            }
        }
        // A key that is missing is missing in its section.
        section_line
    }
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

    fn parse(text: &str) -> Result<Settings, String> {
        Source { name: "weld/model.toml".to_owned(), text: text.to_owned() }.parse()
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
        let source = Source { name: "w.toml".to_owned(), text: text.to_owned() };
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
}
