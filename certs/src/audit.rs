//! The authority's diary: one JSON object per line for everything that was made, refused or taken back.
//!
//! A line is on the disk before what it tells of is told to anybody. Of refusals, which anybody can cause, it is only on
//! its way there, and not every one has its line: see [`refusals`](crate::authority). Nothing in it is secret: tokens are
//! named by their public part. Each line is also an event of the `tracing` target `audit`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::SystemTime,
};

use lineside_wire::{NodeId, Role};
use serde::Serialize;
use x509_parser::time::ASN1Time;

use crate::disk::SECRET_MODE;

const FILE: &str = "audit.jsonl";
const OLDER_FILE: &str = "audit.jsonl.1";
/// Length at which a new file is begun, in bytes: with the one before it, some hundred thousand lines.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    AuthorityCreated,
    TokenCreated,
    TokenUsed,
    /// The answer to a token was told once more, to the same key.
    TokenAnsweredAgain,
    TokenRefused,
    TokenRevoked,
    CertificateIssued,
    CertificateRenewed,
    RenewalRefused,
    WebCertificateIssued,
    WebCertificateRefused,
    CertificateRevoked,
    NodeRevoked,
    ApiKeyCreated,
    ApiKeyRevoked,
    RotationStarted,
    RotationFinished,
    PassphraseSet,
    PassphraseRemoved,
    /// What a second holder of the key published was taken over.
    TrustMerged,
    /// The lines just before this one tell of something that could not be written: it did not happen.
    NotDone,
}

/// One line. What does not concern it is left out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) event: Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// Public part of an API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<NodeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<Role>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<String>,
    /// Serial number of the certificate that this one is to take the place of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replaces: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<u32>,
    /// When it ends, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ends: Option<u64>,
    /// Address of whoever asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// How many refusals of the same kind before this one have no line of their own.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) left_out: u64,
    /// What a request asked for and did not get.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ignored: Vec<String>,
    /// Number of the trust list that came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trust: Option<u64>,
}

impl Line {
    pub(crate) const fn new(event: Event) -> Self {
        Self {
            event,
            token: None,
            key: None,
            node: None,
            role: None,
            name: None,
            serial: None,
            replaces: None,
            generation: None,
            ends: None,
            from: None,
            reason: None,
            left_out: 0,
            ignored: Vec::new(),
            trust: None,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Serialize)]
struct Dated<'a> {
    at: String,
    #[serde(flatten)]
    line: &'a Line,
}

/// Appends lines to the diary in `directory`, and waits until they are on the disk.
pub(crate) fn append(directory: &Path, lines: &[Line], now: SystemTime) -> io::Result<()> {
    write(directory, lines, now)?.map_or(Ok(()), |file| file.sync_all())
}

/// As [`append`], without waiting for the disk: nobody gains anything from what they tell of.
pub(crate) fn note(directory: &Path, lines: &[Line], now: SystemTime) -> io::Result<()> {
    write(directory, lines, now).map(drop)
}

/// Gives the file, when there was anything to write.
fn write(directory: &Path, lines: &[Line], now: SystemTime) -> io::Result<Option<File>> {
    if lines.is_empty() {
        return Ok(None);
    }
    let at = rfc3339(now);
    let texts: Vec<String> = lines
        .iter()
        .map(|line| serde_json::to_string(&Dated { at: at.clone(), line }))
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)?;
    let mut file = open(directory)?;
    if BYTES_MAX <= file.metadata()?.len() {
        std::fs::rename(directory.join(FILE), directory.join(OLDER_FILE))?;
        file = open(directory)?;
    }
    let mut bytes = texts.join("\n") + "\n";
    if is_cut_off(&mut file)? {
        bytes.insert(0, '\n');
    }
    file.write_all(bytes.as_bytes())?;
    for text in &texts {
        tracing::info!(target: "audit", line = %text, "audit");
    }
    Ok(Some(file))
}

fn open(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(SECRET_MODE).open(directory.join(FILE))
}

/// Whether a power cut left half a line: the next one must not be lost in it.
fn is_cut_off(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// A moment as RFC 3339 writes it, in UTC.
fn rfc3339(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let at = i64::try_from(seconds).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    let Some(at) = at else { return format!("{seconds} s after 1970") };
    let at = at.to_datetime();
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::x509::since_1970;

    fn lines(directory: &Path) -> Vec<String> {
        fs::read_to_string(directory.join(FILE)).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_says_when_and_what_and_no_more() {
        let home = tempfile::tempdir().unwrap();
        let line = Line { token: Some("0102".to_owned()), ..Line::new(Event::TokenRevoked) };
        append(home.path(), &[line], since_1970(1_795_514_820)).unwrap();
        let expected = r#"{"at":"2026-11-24T10:07:00Z","event":"token_revoked","token":"0102"}"#;
        assert_eq!(lines(home.path()), [expected]);
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_take_the_next_one_along() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(FILE), "{\"at\":").unwrap();
        append(home.path(), &[Line::new(Event::NodeRevoked)], SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(lines(home.path()).len(), 2);
        assert!(lines(home.path())[1].ends_with(r#""event":"node_revoked"}"#));
    }

    #[test]
    fn a_long_diary_is_begun_anew_and_the_one_before_it_kept() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(FILE), vec![b'\n'; usize::try_from(BYTES_MAX).unwrap()]).unwrap();
        append(home.path(), &[Line::new(Event::NodeRevoked)], SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(lines(home.path()).len(), 1);
        assert_eq!(fs::metadata(home.path().join(OLDER_FILE)).unwrap().len(), BYTES_MAX);
    }
}
