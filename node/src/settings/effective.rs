//! Settings written back as TOML: what a model is run with, and the sample file.
//!
//! A key is one [`Row`]: its value where it has one, the words for what holds where it has none, and what it means. The
//! sample, what `lineside models check` prints and the tables of docs/models.md come from the same rows, and the
//! structs are taken apart field by field, so that a new key without a row does not compile.

mod serving;
mod tasks;

use std::fmt::Write as _;

use serde::Serialize;

use super::Settings;

/// A part of the file.
struct Section {
    /// As in `[name]`; empty for the keys above all.
    name: &'static str,
    /// Whether the file would mean another thing without it: such a section is not merely its defaults.
    is_there: bool,
    /// What it is for.
    about: &'static str,
    rows: Vec<Row>,
}

/// A key.
struct Row {
    key: &'static str,
    /// In TOML.
    value: Option<String>,
    /// What holds without one.
    without: &'static str,
    /// A value, for who has none to begin with.
    example: &'static str,
    about: &'static str,
}

/// A key that always has a value.
fn row(key: &'static str, value: impl Serialize, about: &'static str) -> Row {
    Row { key, value: written(value), without: "", example: "", about }
}

/// A key that may have none.
fn open(
    key: &'static str,
    value: Option<String>,
    without: &'static str,
    example: &'static str,
    about: &'static str,
) -> Row {
    Row { key, value, without, example, about }
}

/// A value in TOML; `None` of an option has none there.
fn written(value: impl Serialize) -> Option<String> {
    toml::Value::try_from(value).ok().map(|value| value.to_string())
}

/// A number of the precision that it was written in.
fn float(number: f32) -> Option<String> {
    number.to_string().parse::<f64>().ok().and_then(written)
}

fn floats(numbers: &[f32]) -> Option<String> {
    let numbers: Option<Vec<_>> = numbers.iter().copied().map(float).collect();
    Some(format!("[{}]", numbers?.join(", ")))
}

fn sections(settings: &Settings) -> Vec<Section> {
    let mut sections = serving::sections(settings);
    sections.extend(tasks::sections(settings));
    sections
}

/// What a model is run with: every key, those that have no value as a comment.
pub(crate) fn effective(settings: &Settings) -> String {
    let mut text = String::new();
    for section in sections(settings).iter().filter(|section| section.is_there) {
        head(&mut text, section, "");
        for Row { key, value, without, .. } in &section.rows {
            // Writing to a String cannot fail.
            let _ = match value {
                Some(value) => writeln!(text, "{key} = {value}"),
                None => writeln!(text, "# {key}: {without}"),
            };
        }
    }
    text
}

fn head(text: &mut String, section: &Section, mark: &str) {
    if !section.name.is_empty() {
        let gap = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{gap}{mark}[{}]", section.name);
    }
}

/// Widest line of the sample.
const COLUMNS_MAX: usize = 118;

/// The head of the sample.
const HEAD: &str = "\
# Settings of a model: <models>/NAME/model.toml for all versions of a model, <models>/NAME.toml beside NAME.onnx.
# Everything here is optional. A value that is shown is the default; a line that begins with #key = has an example, and
# its text says what holds without it. Times are written 250us, 5ms, 1.5s, 2m, 1h. Unknown keys are refused.
# `lineside models check DIR` finds mistakes and shows what each model is run with; docs/models.md says what it costs.
";

/// The sample file: every key with its default and what it means.
pub(crate) fn sample() -> String {
    let settings = Settings {
        sequence: Some(super::Sequence::default()),
        predict: Some(super::Predict { verdict: Some(super::Verdict::default()), ..Default::default() }),
        embed: Some(super::Embed::default()),
        ..Settings::default()
    };
    let mut text = HEAD.to_owned();
    let is_default =
        |name| sections(&Settings::default()).iter().any(|other| other.name == name && other.is_there);
    for section in sections(&settings) {
        text.push('\n');
        comment(&mut text, section.about);
        // A section that is not merely its defaults is left to who wants it.
        let mark = if is_default(section.name) { "" } else { "#" };
        if !section.name.is_empty() {
            let _ = writeln!(text, "{mark}[{}]", section.name);
        }
        for Row { key, value, without, example, about } in section.rows {
            let without = match without {
                "" => String::new(),
                needed if needed.starts_with("needed") => format!(" It is {needed}."),
                other => format!(" Without it: {other}."),
            };
            comment(&mut text, &format!("{about}{without}"));
            let _ = match value {
                Some(value) if example.is_empty() => writeln!(text, "{mark}{key} = {value}"),
                _ => writeln!(text, "#{key} = {example}"),
            };
        }
    }
    text
}

/// Sentences as comments, no line wider than the documents are.
fn comment(text: &mut String, sentences: &str) {
    let mut line = "#".to_owned();
    for word in sentences.split_whitespace() {
        if COLUMNS_MAX < line.len() + 1 + word.len() {
            let _ = writeln!(text, "{line}");
            line = "#".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests;
