//! Child processes that cannot hang us.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::time::Instant;

/// How often a child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(20);

/// How long a killed child may take to die; one that hangs in the kernel is left behind.
const DEATH: Duration = Duration::from_secs(1);

/// The last bytes of an output that are kept: enough for every message we understand.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// Settings of pip that would make it fetch another file, put it elsewhere, or refuse to work without cause.
/// Index, proxy, certificates and timeouts are the machine's own and stay.
const NOT_INHERITED: [&str; 15] = [
    "PIP_ABI",
    "PIP_CONSTRAINT",
    "PIP_DEST",
    "PIP_DESTINATION_DIRECTORY",
    "PIP_IMPLEMENTATION",
    "PIP_LOG",
    "PIP_NO_BINARY",
    "PIP_ONLY_BINARY",
    "PIP_PLATFORM",
    "PIP_PYTHON",
    "PIP_PYTHON_VERSION",
    "PIP_REQUIREMENT",
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_VERBOSE",
    "PYTHONHASHSEED",
];

/// What a child wrote, and whether it was content.
#[derive(Debug)]
pub(super) struct Ended {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// The end of its stdout.
    pub(super) stdout: Vec<u8>,
    /// The end of its stderr, as text.
    pub(super) stderr: String,
}

/// Why a child brought no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// No program of this name. Nothing ran.
    #[error("there is no {0}")]
    NoProgram(String),
    /// It could not be started or watched.
    #[error("{program} cannot run: {source}")]
    Io {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It was killed when its time was over.
    #[error("{program} did not end within {} s and was stopped", .limit.as_secs())]
    Late {
        /// The program.
        program: String,
        /// The time that it had.
        limit: Duration,
    },
}

/// Runs a command to its end, or kills it after `limit`; `tick` is told how long it has been running.
///
/// Its output goes to unnamed files, not through pipes: a grandchild that keeps a pipe open cannot keep us waiting.
/// They lie with the system's temporary files, so that a child that fills another disk can still say so; `scratch` is
/// for a system without such a place. It reads nothing and learns nothing about the member that starts it.
pub(super) fn run(
    mut command: Command,
    scratch: &Path,
    limit: Duration,
    tick: &mut dyn FnMut(Duration),
) -> Result<Ended, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| RunError::Io { program: program.clone(), source };
    let unnamed = || tempfile::tempfile().or_else(|_| tempfile::tempfile_in(scratch)).map_err(failed);
    let (stdout, stderr) = (unnamed()?, unnamed()?);
    command.stdin(Stdio::null());
    command.stdout(stdout.try_clone().map_err(failed)?).stderr(stderr.try_clone().map_err(failed)?);
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.as_encoded_bytes().starts_with(b"LINESIDE")) {
        command.env_remove(name);
    }
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(RunError::NoProgram(program)),
        Err(error) => return Err(failed(error)),
    };
    let Some(status) = wait(&mut child, limit, tick).map_err(failed)? else {
        child.kill().and_then(|()| wait(&mut child, DEATH, &mut |_| ())).map_err(failed)?;
        return Err(RunError::Late { program, limit });
    };
    let stdout = tail(stdout).map_err(failed)?;
    let stderr = String::from_utf8_lossy(&tail(stderr).map_err(failed)?).into_owned();
    Ok(Ended { status, stdout, stderr })
}

/// Waits for a child; `None` when it takes longer than `limit`.
fn wait(
    child: &mut Child,
    limit: Duration,
    tick: &mut dyn FnMut(Duration),
) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let elapsed = started.elapsed();
        if limit <= elapsed {
            return Ok(None);
        }
        tick(elapsed);
        std::thread::sleep(POLL.min(limit - elapsed));
    }
}

fn tail(mut file: File) -> io::Result<Vec<u8>> {
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(OUTPUT_BYTES_MAX)))?;
    let mut tail = Vec::new();
    file.take(OUTPUT_BYTES_MAX).read_to_end(&mut tail)?;
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any of these children needs, shorter than a test may take.
    const AMPLE: Duration = Duration::from_secs(30);

    fn shell(script: &str, limit: Duration) -> Result<Ended, RunError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        run(command, &std::env::temp_dir(), limit, &mut |_| ())
    }

    #[test]
    fn a_child_gives_its_output_and_its_status() {
        let ended = shell("echo out; echo err >&2; exit 3", AMPLE).unwrap();
        assert_eq!(
            (ended.status.code(), &ended.stdout[..], &ended.stderr[..]),
            (Some(3), &b"out\n"[..], "err\n")
        );
    }

    #[test]
    fn a_child_that_hangs_is_killed() {
        let error = shell("exec sleep 1000", Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, RunError::Late { .. }), "{error}");
    }

    #[test]
    fn a_grandchild_that_lives_on_keeps_nobody_waiting() {
        // It ends by itself when its parent's end is known: nothing is left behind by the test.
        let ended = shell("sleep 2 & echo done", Duration::from_secs(1)).unwrap();
        assert_eq!(ended.stdout, b"done\n");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let nothing = Command::new("/nowhere/python3");
        let error = run(nothing, &std::env::temp_dir(), AMPLE, &mut |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "there is no /nowhere/python3");
    }

    #[test]
    fn only_the_end_of_a_long_output_is_kept() {
        let ended = shell("head -c 200000 /dev/zero; echo end", AMPLE).unwrap();
        assert_eq!(ended.stdout.len() as u64, OUTPUT_BYTES_MAX);
        assert!(ended.stdout.ends_with(b"end\n"));
    }

    #[test]
    fn a_child_learns_nothing_about_its_parent() {
        let ended = shell("env; cat", AMPLE).unwrap();
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(
            !text.lines().any(|line| line.starts_with("LINESIDE") || line.starts_with("PYTHONHASHSEED="))
        );
    }
}
