//! `lineside certs audit`: what the authority did, refused and was told to do, one JSON object per line.

use std::{fs, io, path::Path};

use clap::Args;
use lineside_certs::AUTHORITY_DIRECTORY;

use crate::{
    args::SettingsArgs,
    exit::{Exit, Failure, Outcome},
    output,
};

/// The parts of the log, oldest first. Each ends at 16 MiB.
const FILES: [&str; 2] = ["audit.jsonl.1", "audit.jsonl"];

/// `lineside certs audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// How many of the last lines to show; 0 shows all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    lines: usize,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl AuditArgs {
    pub(super) fn run(self) -> Outcome {
        output::data(self.text()?)?;
        Ok(Exit::Ok)
    }

    fn text(self) -> Result<String, Failure> {
        let directory = self.settings.load(Vec::new())?.config.data_dir().join(AUTHORITY_DIRECTORY);
        let [older, newer] = FILES.map(|name| read(&directory.join(name)));
        let log = [older?, newer?].map(Option::unwrap_or_default).concat();
        if log.is_empty() {
            return Err(Failure::new(
                Exit::Failure,
                "there is no audit log",
                format!("{} holds no authority that has done anything", directory.display()),
                "run this on the machine with the authority's key, or name its --data-dir",
            ));
        }
        Ok(last(&log, self.lines))
    }
}

/// The text of a part; `None` when it is not there. Broken bytes, of a power cut say, are shown as such.
fn read(file: &Path) -> Result<Option<String>, Failure> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(file, &error)),
    }
}

fn unreadable(file: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot read {}", file.display());
    Failure::new(Exit::Failure, what, error, "run this as the owner of the data directory")
}

/// The last lines of a text, each with its end; all for 0.
fn last(log: &str, lines: usize) -> String {
    let all: Vec<_> = log.lines().collect();
    let from = if lines == 0 { 0 } else { all.len().saturating_sub(lines) };
    // What a joiner called itself is in it: nothing may control the terminal.
    all[from..].iter().map(|line| line.replace(|c: char| c.is_control(), "?") + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::certs::tests::Desk;

    #[test]
    fn the_last_lines_are_shown() {
        let log = "one\ntwo\nthr\u{1b}ee";
        assert_eq!(last(log, 2), "two\nthr?ee\n");
        assert_eq!(last(log, 0), "one\ntwo\nthr?ee\n");
        assert_eq!(last(log, 9), "one\ntwo\nthr?ee\n");
    }

    #[test]
    fn a_new_authority_has_begun_its_log_and_other_machines_have_none() {
        let audit = |desk: &Desk| AuditArgs { lines: 5, settings: desk.settings() }.text();
        let text = audit(&Desk::founded("press")).unwrap();
        assert!(text.contains("authority_created") && text.contains("press"), "{text}");
        let refused = audit(&Desk::empty("weld")).unwrap_err();
        assert!(refused.text().contains("--data-dir"), "{}", refused.text());
    }
}
