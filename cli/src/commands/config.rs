//! `lineside config check | show`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::{
    args::SettingsArgs,
    config::{Config, Loaded, Style, load_text, sample, show_json, show_text},
    exit::{Exit, Failure, Outcome},
    output::{self, Format, FormatArgs},
};

/// `lineside config …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Find mistakes; exit code 78 when there are any
    Check(CheckArgs),
    /// Show the settings that a member would start with here
    Show(ShowArgs),
}

/// `lineside config check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// A file to check by itself [default: the file and the environment that a member would start with]
    file: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// `lineside config show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The defaults as a file, with what each key means
    #[arg(long, conflicts_with = "origin")]
    default: bool,
    /// Where each value comes from
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    format: FormatArgs,
}

impl ConfigCommand {
    /// Does what the command says.
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Check(args) => check(args),
            Self::Show(args) => show(args),
        }
    }
}

fn check(args: CheckArgs) -> Outcome {
    let (loaded, what) = match &args.file {
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| {
                let what = format!("cannot read {}", file.display());
                Failure::new(Exit::Config, what, error, "name a file that is there and can be read")
            })?;
            (load_text(file, &text)?, file.display().to_string())
        }
        None => (args.settings.load(Vec::new())?, "the configuration".to_owned()),
    };
    loaded.check_paths()?;
    output::note(format_args!("{what} is good"));
    Ok(Exit::Ok)
}

fn show(args: ShowArgs) -> Outcome {
    let loaded = match args.default {
        true => Loaded { config: Config::default(), origins: std::collections::BTreeMap::new() },
        false => args.settings.load(Vec::new())?,
    };
    match args.format.output {
        Format::Json => output::json(&show_json(&loaded))?,
        Format::Table if args.default => output::data(sample())?,
        Format::Table => {
            let style = if args.origin { Style::Origins } else { Style::Plain };
            output::data(show_text(&loaded, style))?;
        }
    }
    Ok(Exit::Ok)
}
