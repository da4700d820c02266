//! `lineside models check`: a model repository, looked at without a cluster.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;
use lineside_node::{Examination, Examined, ExaminedVersion, Opening, Outlook, examine, runtime};

use super::list::{joined, size, specs};
use crate::{
    args::{SettingsArgs, flags},
    exit::{Exit, Failure, Outcome},
    member,
    output::{self, Format, FormatArgs, Table},
};

/// `lineside models check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The model repository
    directory: PathBuf,
    /// Open, run and measure what would serve, too, with ONNX Runtime as a node would find it
    #[arg(long)]
    run: bool,
    /// The ONNX Runtime library [default: searched for]
    #[arg(long, value_name = "PATH", requires = "run")]
    onnxruntime: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    format: FormatArgs,
}

impl CheckArgs {
    /// Looks, and tells. Fails where something in the repository cannot be used.
    pub(super) fn run(self) -> Outcome {
        let opening = match self.run {
            true => Some(opening(self.settings, self.onnxruntime)?),
            false => None,
        };
        let examination = examine(&self.directory, opening.as_ref()).map_err(|error| {
            let remedy = "name a directory of models: NAME/VERSION/model.onnx or NAME.onnx";
            Failure::new(Exit::Failure, "cannot look at the models", error, remedy)
        })?;
        match self.format.output {
            Format::Json => output::json(&examination)?,
            Format::Table => {
                output::data(table(&examination))?;
                output::data(details(&examination))?;
            }
        }
        if examination.models.is_empty() && examination.refused.is_empty() {
            output::note("there are no models: they lie at NAME/VERSION/model.onnx or NAME.onnx");
        } else if opening.is_none() {
            output::note("no model was opened: --run opens, runs and measures those that would serve");
        }
        Ok(if examination.is_good() { Exit::Ok } else { Exit::Failure })
    }
}

fn opening(settings: SettingsArgs, library: Option<String>) -> Result<Opening, Failure> {
    let config = settings.load(flags([("node.onnxruntime", "--onnxruntime", library)]))?.config;
    let library = runtime::find(config.node.onnxruntime.as_deref())?.path;
    // As a node does: a model that ends its process must not end this one.
    let trial = config.node.trial.then(|| member::trial(&config.node)).transpose()?;
    Ok(Opening { library, trial })
}

/// What a node would write when it starts.
fn table(examination: &Examination) -> Table {
    let mut table = Table::new(["MODEL", "VERSION", "STATE", "REASON"]);
    for Examined { name, versions, .. } in &examination.models {
        for ExaminedVersion { version, outlook, reason, .. } in versions {
            table.row([
                name.to_string(),
                version.to_string(),
                outlook.as_str().to_owned(),
                reason.clone().unwrap_or_default(),
            ]);
        }
    }
    for refused in &examination.refused {
        let path = refused.path.display().to_string();
        table.row([path, String::new(), "NO MODEL".to_owned(), refused.reason.clone()]);
    }
    table
}

/// A paragraph for each model: what is known of its versions as comments, then its settings as TOML.
fn details(examination: &Examination) -> String {
    let mut text = String::new();
    for Examined { name, source, settings, warnings, versions } in &examination.models {
        // Of a model that cannot be used, the table says why.
        let is_usable = versions.iter().any(|version| version.outlook != Outlook::Unavailable);
        let from = match source {
            _ if settings.is_empty() => continue,
            Some(source) => source.as_str(),
            None if !is_usable => continue,
            None => "no file: all as by default",
        };
        comment(&mut text, &format!("\n# {name}: settings from "), from);
        for warning in warnings {
            comment(&mut text, "# warning: ", warning);
        }
        for version in versions {
            facts(&mut text, version, warnings);
        }
        text.push_str(settings);
    }
    text
}

fn facts(text: &mut String, version: &ExaminedVersion, told: &[String]) {
    let head = format!("# version {}", version.version);
    if let Some(file) = &version.file {
        let opsets = file.opsets.iter().map(|(domain, number)| format!("{domain} {number}"));
        let opsets = opsets.collect::<Vec<_>>().join(", ");
        let mut said = format!("{}, sha256 {}, opset {opsets}", size(file.bytes), file.sha256);
        if !file.producer.is_empty() {
            let _ = write!(said, ", made by {}", file.producer);
        }
        comment(text, &format!("{head}: "), &said);
        for weights in &file.external {
            comment(text, &format!("{head} has weights in "), &weights.display().to_string());
        }
    }
    let Some(engine) = &version.engine else { return };
    comment(text, &format!("{head} takes "), &specs(&version.inputs));
    comment(text, &format!("{head} gives "), &specs(&version.outputs));
    let finding = if engine.finding.is_empty() { String::new() } else { format!(": {}", engine.finding) };
    comment(text, &format!("{head} runs on {}, ", engine.provider), &format!("{}{finding}", joined(engine)));
    if 0 < engine.memory_bytes {
        comment(text, &format!("{head} takes about "), &format!("{} of memory", size(engine.memory_bytes)));
    }
    for warning in engine.warnings.iter().filter(|warning| !told.contains(warning)) {
        comment(text, "# warning: ", warning);
    }
}

/// What files say must not control the terminal.
fn comment(text: &mut String, head: &str, value: &str) {
    let value = value.replace(|c: char| c.is_control(), "?");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{head}{value}");
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A repository with a good model, and one that is none.
    fn repository() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let add = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/repository/add/1/model.onnx");
        put("add/1/model.onnx", &fs::read(add).unwrap());
        put("add/config.pbtxt", b"model_warmup {}\n");
        put("weld/1/model.onnx", b"\x1b[2J");
        put("a b.onnx", b"x");
        home
    }

    #[test]
    fn a_repository_is_told_model_by_model() {
        let home = repository();
        let examination = examine(home.path(), None).unwrap();
        assert!(!examination.is_good());
        let table = table(&examination).to_string();
        let states: Vec<_> = table
            .lines()
            .skip(1)
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>())
            .collect();
        assert_eq!(states[0], ["add", "1", "READY", "-"]);
        assert_eq!(states[1][..3], ["weld", "1", "UNAVAILABLE"]);
        assert_eq!(states[2][..3], ["a b.onnx", "-", "NO MODEL"]);
        let details = details(&examination);
        assert!(details.starts_with(
            "\n# add: settings from add/config.pbtxt\n# warning: add/config.pbtxt line 1: model_warmup"
        ));
        assert!(details.contains("# version 1: ") && details.contains(", opset ai.onnx "), "{details}");
        assert!(details.contains("\nversions = \"latest\"\n\n[instances]\n"), "{details}");
        assert!(!details.contains('\u{1b}') && !details.contains("weld"), "{details}");
    }

    #[test]
    fn what_cannot_be_looked_at_is_told() {
        let args = |directory: &std::path::Path| CheckArgs {
            directory: directory.to_owned(),
            run: false,
            onnxruntime: None,
            settings: SettingsArgs::default(),
            format: FormatArgs { output: Format::Table },
        };
        let home = repository();
        let failure = args(&home.path().join("nowhere")).run().unwrap_err();
        assert_eq!(failure.exit, Exit::Failure);
        assert!(failure.text().contains("fix: name a directory of models"), "{}", failure.text());
    }
}
