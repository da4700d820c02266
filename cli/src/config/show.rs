//! Writes settings back, as a file with comments, with origins, or as JSON.

use std::fmt::Write as _;

use super::{
    Config,
    keys::KEYS,
    load::{Loaded, Origin},
};

/// The head of every file that is written.
const HEAD: &str = "\
# Settings of a Lineside member. Everything here is optional; what is shown is the default.
# An environment variable wins over this file (gateway.deadline is LINESIDE__GATEWAY__DEADLINE), a flag over both.
# Times are written 250ms, 5s, 2m, 1h; sizes 512B, 64KiB, 64MiB, 1GiB. Unknown keys are refused.
# `lineside config check FILE` finds mistakes; `lineside config show --origin` tells where each value comes from.
";

/// How settings are written for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A file with what each key means.
    Comments,
    /// Each value with where it comes from.
    Origins,
    /// The values alone.
    Plain,
}

/// The settings as TOML.
pub(crate) fn show_text(loaded: &Loaded, style: Style) -> String {
    let mut text = String::new();
    if style == Style::Comments {
        text.push_str(HEAD);
    }
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            // With comments, every key is followed by an empty line already.
            let gap = if text.is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{gap}[{section}]");
        }
        let line = format!("{} = {}", key.name, (key.get)(&loaded.config));
        match style {
            Style::Plain => text.push_str(&line),
            Style::Origins => {
                let _ = write!(text, "{line:40} # {}", loaded.origin(&key.path()));
            }
            Style::Comments => {
                for about in key.about.lines() {
                    let _ = writeln!(text, "# {about}");
                }
                let _ = write!(text, "# Allowed: {}.\n{line}\n", key.allowed);
            }
        }
        text.push('\n');
    }
    if style == Style::Comments {
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// The settings as JSON: section, key, then value and origin.
pub(crate) fn show_json(loaded: &Loaded) -> serde_json::Value {
    let mut sections = serde_json::Map::new();
    for key in KEYS {
        let origin = match loaded.origin(&key.path()) {
            Origin::Default => serde_json::json!({"kind": "default"}),
            Origin::File { file, line } => serde_json::json!({"kind": "file", "file": file, "line": line}),
            Origin::Environment { variable } => {
                serde_json::json!({"kind": "environment", "variable": variable})
            }
            Origin::Flag { flag } => serde_json::json!({"kind": "flag", "flag": flag}),
        };
        let value = serde_json::json!({"value": (key.get)(&loaded.config), "origin": origin});
        let section = sections.entry(key.section).or_insert_with(|| serde_json::json!({}));
        section[key.name] = value;
    }
    serde_json::Value::Object(sections)
}

/// The sample file: every key with its default and what it means.
pub(crate) fn sample() -> String {
    let origins = std::collections::BTreeMap::new();
    show_text(&Loaded { config: Config::default(), origins }, Style::Comments)
}
