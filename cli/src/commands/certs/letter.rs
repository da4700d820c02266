//! Files that a person carries between machines: text, with nothing secret in it.
//!
//! ```text
//! Lineside: a request for a certificate. Nothing in this file is secret.
//! name: press
//!
//! -----BEGIN CERTIFICATE REQUEST-----
//! MIHn…
//! -----END CERTIFICATE REQUEST-----
//! ```
//!
//! What stands above the blocks is for people; only the blocks are checked by keys. Such files lie on USB sticks, whose
//! file systems know neither permissions nor hard links, and may come back with other line ends.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::Path,
};

use anyhow::anyhow;

use crate::exit::{Exit, Failure, OrFail as _};

/// Longest file that is read, in bytes: the longest answer that there can be has less.
const LETTER_BYTES_MAX: u64 = 2 << 20;

/// The one file name that means stdin.
const STDIN: &str = "-";

/// What the first block begins with.
const BLOCK: &str = "-----BEGIN ";

/// Notes for people, and blocks of PEM for machines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Letter {
    head: String,
    pem: String,
}

impl Letter {
    /// One that begins with this line and carries these blocks.
    pub(super) fn new(title: &str, pem: String) -> Self {
        Self { head: format!("{title}\n"), pem }
    }

    /// The same with a note.
    pub(super) fn note(mut self, key: &str, value: impl fmt::Display) -> Self {
        let value = value.to_string().replace(|c: char| c.is_control(), "?");
        self.head.push_str(&format!("{key}: {value}\n"));
        self
    }

    /// The first note of this name.
    pub(super) fn noted(&self, key: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "))
    }

    /// The blocks.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// Reads the text of one.
    fn parse(text: &str) -> Self {
        let at = text.find(BLOCK).unwrap_or(text.len());
        let (head, pem) = text.split_at(at);
        Self { head: format!("{}\n", head.trim_end()), pem: pem.to_owned() }
    }

    /// Reads a file, or stdin for `-`. What is in it is not judged.
    pub(super) fn read(file: &Path, what: &str) -> Result<Self, Failure> {
        let text = match file.as_os_str() == STDIN {
            true => bounded(io::stdin().lock()),
            false => File::open(file).and_then(bounded),
        };
        let text = text.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => anyhow!("{} is no text", file.display()),
            _ => anyhow!("{}: {error}", file.display()),
        });
        let remedy = "name a file that `lineside certs request` or `lineside certs sign` wrote";
        text.map(|text| Self::parse(&text)).or_fail(Exit::Failure, what, remedy)
    }

    /// Writes a new file. One that is there is never replaced; permissions are left to the file system.
    pub(super) fn write(&self, file: &Path) -> Result<(), Failure> {
        write_plainly(file, self.to_string().as_bytes()).or_fail(
            Exit::Failure,
            format!("cannot write {}", file.display()),
            "name a file that is not there yet, on a disk with room, with --out",
        )
    }
}

impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.head, self.pem)
    }
}

fn bounded(from: impl io::Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(LETTER_BYTES_MAX + 1).read_to_string(&mut text)?;
    match text.len() as u64 <= LETTER_BYTES_MAX {
        true => Ok(text),
        false => Err(io::Error::other(format!("it is longer than {LETTER_BYTES_MAX} bytes"))),
    }
}

/// Whole or not at all, where there may be neither permissions nor hard links.
fn write_plainly(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::symlink_metadata(file).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".part");
    let opened = OpenOptions::new().write(true).create(true).truncate(true).open(&unfinished);
    let written = opened.and_then(|mut opened| {
        opened.write_all(bytes)?;
        // The stick is pulled out next.
        opened.sync_all()?;
        fs::rename(&unfinished, file)
    });
    if written.is_err() {
        drop(fs::remove_file(&unfinished));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        let pem = "-----BEGIN CERTIFICATE REQUEST-----\nBwcH\n-----END CERTIFICATE REQUEST-----\n";
        Letter::new("a request", pem.to_owned()).note("name", "press")
    }

    #[test]
    fn what_is_written_is_read_again_also_with_the_line_ends_of_other_systems() {
        let text = letter().to_string();
        for text in [text.clone(), text.replace('\n', "\r\n")] {
            let read = Letter::parse(&text);
            assert_eq!(read.noted("name"), Some("press"));
            assert_eq!(read.pem().replace("\r\n", "\n"), letter().pem());
        }
        let without_block = Letter::parse("hello");
        assert_eq!((without_block.noted("name"), without_block.pem()), (None, ""));
    }

    #[test]
    fn a_note_cannot_make_lines_of_its_own() {
        let letter = letter().note("of", "press\nrenews: x");
        assert_eq!(Letter::parse(&letter.to_string()).noted("renews"), None);
    }

    #[test]
    fn a_file_that_is_there_is_not_replaced_and_nothing_is_left_behind() {
        let stick = tempfile::tempdir().unwrap();
        let file = stick.path().join("request.pem");
        letter().write(&file).unwrap();
        assert_eq!(Letter::read(&file, "cannot read").unwrap().to_string(), format!("{}", letter()));
        let refused = letter().note("name", "weld").write(&file).unwrap_err();
        assert!(refused.text().contains("not there yet"), "{}", refused.text());
        assert!(letter().write(&stick.path().join("no/such/place")).is_err());
        assert_eq!(fs::read_dir(stick.path()).unwrap().count(), 1);
        fs::write(&file, "x".repeat(3 << 20)).unwrap();
        assert!(Letter::read(&file, "cannot read").unwrap_err().text().contains("longer than"));
    }
}
