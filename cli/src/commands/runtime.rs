//! `lineside runtime install | show`: the ONNX Runtime library of this machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lineside_node::runtime::{self, EnsureError, Found, InstallError, NotFound, Origin, Searched};

use crate::{
    args::{SettingsArgs, flags},
    exit::{Exit, Failure, Outcome},
    output::{self, Format, FormatArgs, Progress, Table},
};

/// `lineside runtime …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Runtime {
    /// Get the library with this machine's pip, unless one is found
    Install(InstallArgs),
    /// Show which library a member would load here, and where it was searched
    Show(ShowArgs),
}

/// `lineside runtime install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Install into the cache also when a library is found elsewhere
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    library: LibraryArgs,
}

/// `lineside runtime show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    library: LibraryArgs,
}

#[derive(Debug, Args)]
struct LibraryArgs {
    /// The library to use [default: searched for]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    format: FormatArgs,
}

impl LibraryArgs {
    /// The path that was named, in the settings or here, and how to write.
    fn read(self) -> Result<(Option<PathBuf>, Format), Failure> {
        let flags = flags([("node.onnxruntime", "--onnxruntime", self.onnxruntime)]);
        Ok((self.settings.load(flags)?.config.node.onnxruntime, self.format.output))
    }
}

impl Runtime {
    /// Does what the command says.
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Install(args) => install(args),
            Self::Show(args) => show(args),
        }
    }
}

fn install(args: InstallArgs) -> Outcome {
    let (named, format) = args.library.read()?;
    let mut progress = Progress::start(false);
    let mut tell = |line: &str| progress.stage(line);
    let mut told = false;
    let mut count = |line: &str| {
        told = true;
        tell(line);
    };
    if args.force {
        runtime::install(&mut count)?;
    }
    // After a forced installation, too: what a member loads may still be another one.
    let found = runtime::ensure(named.as_deref(), &mut count)?;
    drop(progress);
    write(&found, format)?;
    if found.origin != Origin::Cache {
        let did = if args.force { "the one in the cache is not used" } else { "nothing was installed" };
        output::note(format_args!("found: {}; {did}", found.origin));
    } else if !told {
        output::note("it was already there");
    }
    Ok(Exit::Ok)
}

fn show(args: ShowArgs) -> Outcome {
    let (named, format) = args.library.read()?;
    match runtime::find(named.as_deref()) {
        Ok(found) => {
            write(&found, format)?;
            Ok(Exit::Ok)
        }
        Err(error) => {
            // Whoever reads JSON gets the places as data; the sentence goes to stderr either way.
            if format == Format::Json {
                output::json(&document(None, &error.searched))?;
            }
            Err(error.into())
        }
    }
}

fn write(found: &Found, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::json(&document(Some(found), &found.searched))?,
        Format::Table => output::data(text(found))?,
    }
    Ok(())
}

fn document(found: Option<&Found>, searched: &[Searched]) -> serde_json::Value {
    let searched = searched.iter().map(|place| {
        serde_json::json!({ "origin": place.origin.as_str(), "place": place.place, "why": place.why })
    });
    serde_json::json!({
        "path": found.map(|found| found.path.display().to_string()),
        "origin": found.map(|found| found.origin.as_str()),
        "version": found.and_then(|found| found.version.clone()),
        "searched": searched.collect::<Vec<_>>(),
    })
}

/// The library, and below it the places that come earlier in the search.
fn text(found: &Found) -> String {
    let mut library = Table::new(["VERSION", "FOUND", "PATH"]);
    let version = found.version.clone().unwrap_or_default();
    library.row([version, found.origin.to_string(), found.path.display().to_string()]);
    if found.searched.is_empty() {
        return library.to_string();
    }
    let mut places = Table::new(["SEARCHED BEFORE", "PLACE", "RESULT"]);
    for Searched { origin, place, why } in &found.searched {
        places.row([origin.to_string(), place.clone(), why.clone()]);
    }
    format!("{library}\n{places}")
}

/// Lines after the first, set below it.
fn indented(lines: &str) -> String {
    lines.replace('\n', "\n       ")
}

impl From<NotFound> for Failure {
    fn from(error: NotFound) -> Self {
        Self::new(Exit::Failure, &error, indented(&error.why()), indented(&error.remedy()))
    }
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Self {
        Self::new(Exit::Failure, &error, indented(&error.why()), indented(&error.remedy()))
    }
}

impl From<EnsureError> for Failure {
    fn from(error: EnsureError) -> Self {
        match error {
            EnsureError::NotFound(error) => error.into(),
            EnsureError::Install(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn searched() -> Vec<Searched> {
        vec![Searched { origin: Origin::BesideBinary, place: "/opt/bin".into(), why: "empty".into() }]
    }

    fn found() -> Found {
        let (path, version) = ("/c/libonnxruntime.so.1.32.0".into(), Some("1.32.0".into()));
        Found { path, origin: Origin::Cache, version, searched: searched() }
    }

    #[test]
    fn the_library_stands_above_the_places_before_it() {
        assert_eq!(
            text(&found()),
            "VERSION  FOUND      PATH\n1.32.0   the cache  /c/libonnxruntime.so.1.32.0\n\nSEARCHED BEFORE    \
             PLACE     RESULT\nbeside the binary  /opt/bin  empty\n"
        );
        let alone = Found { searched: Vec::new(), version: None, ..found() };
        assert_eq!(text(&alone).lines().nth(1), Some("-        the cache  /c/libonnxruntime.so.1.32.0"));
    }

    #[test]
    fn the_keys_of_the_document_stay_also_when_nothing_is_found() {
        let document_of_it = document(Some(&found()), &searched());
        assert_eq!(document_of_it["origin"], "cache");
        assert_eq!(document_of_it["version"], "1.32.0");
        assert_eq!(document_of_it["searched"][0]["origin"], "binary");
        let nothing = document(None, &searched());
        assert!(nothing["path"].is_null() && nothing["origin"].is_null() && nothing["version"].is_null());
    }

    #[test]
    fn nothing_found_is_a_failure_in_three_parts() {
        let failure = Failure::from(NotFound { searched: searched() });
        assert_eq!(failure.exit, Exit::Failure);
        let text = failure.text();
        assert!(
            text.starts_with(
                "error: ONNX Runtime is not found\n  why: searched, in this order:\n       beside"
            )
        );
        assert!(text.contains("\n  fix: `lineside runtime install`"), "{text}");
    }
}
