//! Mistakes in the settings, each with its place and its remedy.

use std::path::PathBuf;

use super::load::Origin;

/// Settings that cannot be used. All mistakes at once, so that one look at the file is enough.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{} in the configuration", count(mistakes.len()))]
pub(crate) struct InvalidConfig {
    /// At least one.
    pub(crate) mistakes: Vec<Mistake>,
}

fn count(mistakes: usize) -> String {
    match mistakes {
        1 => "one mistake".to_owned(),
        more => format!("{more} mistakes"),
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mistake {
    /// The file cannot be read.
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not TOML.
    Syntax {
        /// Where.
        place: Origin,
        /// What the parser said.
        reason: String,
    },
    /// No setting has this name.
    UnknownKey {
        /// Where.
        place: Origin,
        /// The name that was found.
        key: String,
        /// The setting that was probably meant.
        suggestion: Option<String>,
    },
    /// The setting does not take this value.
    NotAllowed {
        /// Where.
        place: Origin,
        /// Which setting.
        key: String,
        /// The value that was found.
        value: String,
        /// What it takes.
        allowed: &'static str,
    },
    /// Two settings, or a setting and the machine, do not fit together.
    Conflict {
        /// Where.
        place: Origin,
        /// Which setting.
        key: &'static str,
        /// What does not fit.
        why: String,
        /// The remedy.
        remedy: &'static str,
    },
}

impl Mistake {
    /// What happened.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::Unreadable { file, .. } => format!("cannot read the configuration {}", file.display()),
            Self::Syntax { place, .. } => format!("{place}: not valid TOML"),
            Self::UnknownKey { place, key, .. } => format!("{place}: unknown key {key}"),
            Self::NotAllowed { place, key, value, .. } => format!("{place}: {key} cannot be {value}"),
            Self::Conflict { place, key, .. } => format!("{place}: {key} does not fit"),
        }
    }

    /// Why.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Unreadable { reason, .. } | Self::Syntax { reason, .. } => reason.clone(),
            Self::UnknownKey { .. } => "no setting has this name".to_owned(),
            Self::NotAllowed { allowed, .. } => format!("allowed is {allowed}"),
            Self::Conflict { why, .. } => why.clone(),
        }
    }

    /// What to do.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::Unreadable { .. } => {
                "name a file that can be read with --config, or leave it out".to_owned()
            }
            Self::Syntax { .. } => {
                "mend the line; `lineside config show --default` is a valid file".to_owned()
            }
            Self::UnknownKey { suggestion: Some(key), .. } => {
                format!("did you mean {key}? `lineside config show --default` lists every key")
            }
            Self::UnknownKey { suggestion: None, .. } => {
                "remove it; `lineside config show --default` lists every key".to_owned()
            }
            Self::NotAllowed { key, .. } => {
                format!("change the value; docs/configuration.md says what {key} does")
            }
            Self::Conflict { remedy, .. } => (*remedy).to_owned(),
        }
    }

    /// Its line in the file; after all lines when it is not in a line.
    pub(crate) fn line(&self) -> usize {
        match self {
            Self::Syntax { place, .. }
            | Self::UnknownKey { place, .. }
            | Self::NotAllowed { place, .. }
            | Self::Conflict { place, .. } => match place {
                Origin::File { line, .. } => *line,
                Origin::Default | Origin::Environment { .. } | Origin::Flag { .. } => usize::MAX,
            },
            Self::Unreadable { .. } => 0,
        }
    }

    /// Whether the person at the keyboard made it just now.
    pub(crate) const fn is_of_a_flag(&self) -> bool {
        match self {
            Self::Syntax { place, .. }
            | Self::UnknownKey { place, .. }
            | Self::NotAllowed { place, .. }
            | Self::Conflict { place, .. } => matches!(place, Origin::Flag { .. }),
            Self::Unreadable { .. } => false,
        }
    }
}
