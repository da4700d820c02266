//! Getting the library: pip fetches the wheel, Python unpacks one file, a rename makes it visible.
//!
//! Everything happens in a working directory inside the cache, under a lock that the system releases when its
//! holder dies. So what an ended process left behind is nobody's, and the next one clears it away.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    EnsureError, Found, InstallError, Origin, Places, cache, header,
    pin::{self, Wheel},
    process::{self, RunError},
    python::{NoPip, Tools, last_line},
};

/// How long the download may take: 28 MB over a line of 50 kB/s.
const DOWNLOAD: Duration = Duration::from_secs(600);

/// How long to wait for another process that installs: its download, and a little for the rest.
const OTHERS: Duration = Duration::from_secs(720);

/// Room that the cache's disk must have: the wheel twice, as pip copies it, or the wheel and the library.
const ROOM: u64 = 70_000_000;

/// How often the lock is tried.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// How often a long download says how far it is.
const TELL: Duration = Duration::from_secs(5);

/// The lock, in the cache. It stays: removing a lock file lets two processes hold it.
const LOCK: &str = "install.lock";

/// The working directory, in the cache. Only the holder of the lock touches it.
const WORK: &str = "install.tmp";

impl Places {
    /// Puts the pinned library into the cache, unless it is there, and gives its path.
    ///
    /// # Errors
    /// See [`super::install`].
    pub fn install(&self, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, InstallError> {
        let cache = self.cache.as_deref().ok_or(InstallError::NoCache)?;
        let wheel = pin::wheel().ok_or_else(|| InstallError::NoPlatform(pin::platform()))?;
        let tools = &Tools::default();
        Install { cache, wheel, tools, room: ROOM, download: DOWNLOAD, others: OTHERS }.run(progress)
    }

    /// Finds the library, else installs it.
    ///
    /// # Errors
    /// See [`super::ensure`].
    pub fn ensure(&self, progress: &mut dyn FnMut(&str)) -> Result<Found, EnsureError> {
        match self.find() {
            Ok(found) => Ok(found),
            Err(error) if error.is_named() => Err(error.into()),
            Err(error) => {
                let path = self.install(progress)?;
                let version = Some(pin::VERSION.to_owned());
                let before = error.searched.into_iter().filter(|searched| searched.origin < Origin::Cache);
                Ok(Found { path, origin: Origin::Cache, version, searched: before.collect() })
            }
        }
    }
}

/// One installation.
struct Install<'a> {
    cache: &'a Path,
    wheel: &'a Wheel,
    tools: &'a Tools,
    room: u64,
    download: Duration,
    others: Duration,
}

impl Install<'_> {
    fn run(&self, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, InstallError> {
        let directory = cache::libraries(self.cache);
        let target = directory.join(pin::library_name());
        // Without the lock: a rename made it visible, so it is whole, and the cache may be read-only.
        if header::check(&target).is_ok() {
            return Ok(target);
        }
        fs::create_dir_all(&directory).map_err(|error| cannot_store(&directory, error))?;
        let _lock = self.lock(progress)?;
        if header::check(&target).is_ok() {
            return Ok(target);
        }
        let work = self.cache.join(WORK);
        clear(&work)?;
        // Before half of it is downloaded. A file system that does not tell is tried.
        if let Ok(disk) = rustix::fs::statvfs(self.cache)
            && disk.f_bavail.saturating_mul(disk.f_frsize) < self.room
        {
            return Err(InstallError::DiskFull { path: self.cache.to_owned() });
        }
        let stored = self.fetch(&work, progress).and_then(|library| store(&library, &target));
        let cleared = clear(&work);
        stored?;
        cleared?;
        progress(&format!("ONNX Runtime {} is in {}", pin::VERSION, target.display()));
        Ok(target)
    }

    /// Waits until no other process installs into this cache.
    fn lock(&self, progress: &mut dyn FnMut(&str)) -> Result<File, InstallError> {
        let path = self.cache.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|error| cannot_store(&path, error))?;
        let started = Instant::now();
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(cannot_store(&path, error)),
                Err(TryLockError::WouldBlock) => {}
            }
            let waited = started.elapsed();
            if self.others <= waited {
                return Err(InstallError::Busy { waited });
            }
            if !told {
                progress("waiting for another process that installs ONNX Runtime");
                told = true;
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    /// Downloads the wheel and unpacks the library, both into the working directory.
    fn fetch(&self, work: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, InstallError> {
        let pip = self.tools.find_pip().map_err(|error| match error {
            NoPip::NoPython => InstallError::NoPython,
            NoPip::Absent(said) => InstallError::NoPip { said },
        })?;
        let [scratch, wheels] = ["scratch", "wheel"].map(|name| work.join(name));
        let requirements = work.join("requirements.txt");
        fs::create_dir_all(&scratch)
            .and_then(|()| fs::create_dir(&wheels))
            .and_then(|()| fs::write(&requirements, self.wheel.requirement()))
            .map_err(|error| cannot_store(work, error))?;
        let whole = megabytes(self.wheel.bytes);
        progress(&format!("downloading ONNX Runtime {} with pip ({whole} MB)", pin::VERSION));
        let mut command = pip.command(self.wheel.arguments(&requirements, &wheels));
        // pip downloads here, so that what a killed pip leaves is cleared away with the rest.
        command.env("TMPDIR", &scratch);
        let mut next = TELL;
        let ended = process::run(command, work, self.download, &mut |elapsed| {
            if next <= elapsed {
                next = elapsed + TELL;
                progress(&format!(
                    "downloading ONNX Runtime: {} of {whole} MB",
                    megabytes(largest_in(work, DEPTH))
                ));
            }
        });
        let ended = ended.map_err(|error| did_not_run(error, work, |said| InstallError::Pip { said }))?;
        if !ended.status.success() {
            return Err(read_pip(&ended.stderr, work));
        }
        let wheel = wheels.join(self.wheel.name());
        if !wheel.is_file() {
            return Err(InstallError::Pip { said: format!("it brought no {}", self.wheel.name()) });
        }
        self.unpack(&wheel, &work.join(pin::library_name()), work, progress)
    }

    fn unpack(
        &self,
        wheel: &Path,
        library: &Path,
        work: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<PathBuf, InstallError> {
        progress("unpacking the library");
        let member = pin::library_in_wheel();
        let ended = self.tools.unpack(wheel, &member, library, self.wheel.library_sha256);
        let ended = ended.map_err(|error| did_not_run(error, work, |said| InstallError::Unpack { said }))?;
        if !ended.status.success() {
            let said = last_line(&ended.stderr);
            return Err(match () {
                () if is_full(&ended.stderr) => InstallError::DiskFull { path: work.to_owned() },
                () if said.starts_with("the library has the hash") => InstallError::WrongFile { said },
                () => InstallError::Unpack { said },
            });
        }
        header::check(library).map_err(|why| InstallError::Unpack { said: why.to_string() })?;
        Ok(library.to_owned())
    }
}

/// Makes the library visible under its name: whole, and on the disk.
fn store(library: &Path, target: &Path) -> Result<(), InstallError> {
    let directory = target.parent().unwrap_or(target);
    File::open(library)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(library, target))
        .and_then(|()| File::open(directory)?.sync_all())
        .map_err(|error| cannot_store(target, error))
}

/// Removes the working directory, whoever left it.
fn clear(work: &Path) -> Result<(), InstallError> {
    match fs::remove_dir_all(work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot_store(work, error)),
        _ => Ok(()),
    }
}

fn cannot_store(path: &Path, source: io::Error) -> InstallError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            InstallError::DiskFull { path: path.to_owned() }
        }
        _ => InstallError::Cache { path: path.to_owned(), source },
    }
}

fn did_not_run(error: RunError, work: &Path, otherwise: impl Fn(String) -> InstallError) -> InstallError {
    match error {
        RunError::Late { .. } => InstallError::Late { said: error.to_string() },
        RunError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            InstallError::DiskFull { path: work.to_owned() }
        }
        RunError::NoProgram(_) | RunError::Io { .. } => otherwise(error.to_string()),
    }
}

/// What pip meant. It has one exit code for everything, so its words decide.
fn read_pip(stderr: &str, work: &Path) -> InstallError {
    let has = |any: &[&str]| any.iter().any(|words| stderr.contains(words));
    let error = stderr.lines().map(str::trim).find(|line| line.starts_with("ERROR:"));
    let said = last_line(error.unwrap_or(stderr));
    if is_full(stderr) {
        InstallError::DiskFull { path: work.to_owned() }
    } else if has(&["DO NOT MATCH THE HASHES", "Hashes are required"]) {
        let told = |label| stderr.lines().map(str::trim).find(|line: &&str| line.starts_with(label));
        let differs = told("Expected sha256").zip(told("Got"));
        let differs = differs.map(|(expected, got)| format!("{}; {}", squeeze(expected), squeeze(got)));
        InstallError::WrongFile { said: differs.unwrap_or(said) }
    } else if has(&["(from versions: none)", "Max retries exceeded", "Connection broken", "Read timed out"]) {
        // The retries say why; the last line only says that no version was seen.
        let retry = stderr.lines().find_map(|line| line.split_once("after connection broken by "));
        InstallError::Offline { said: retry.map_or(said, |(_, why)| last_line(sentence_of(why))) }
    } else if has(&["No matching distribution found", "Could not find a version"]) {
        InstallError::NoVersion { said }
    } else {
        InstallError::Pip { said }
    }
}

/// The sentence inside a printed exception, without the object that it is about.
fn sentence_of(exception: &str) -> &str {
    let Some((_, sentence)) = exception.split_once(">: ") else { return exception };
    sentence.split('\'').next().unwrap_or(sentence)
}

fn is_full(stderr: &str) -> bool {
    ["No space left on device", "[Errno 28]", "Disk quota exceeded", "[Errno 122]"]
        .iter()
        .any(|words| stderr.contains(words))
}

/// One space where there were several.
fn squeeze(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How deep pip's unfinished download lies in the working directory.
const DEPTH: u32 = 3;

/// The length of the largest file below a directory: while pip runs, the wheel so far.
fn largest_in(directory: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let sizes = entries.filter_map(Result::ok).filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some(match metadata.is_dir() {
            true if depth == 0 => 0,
            true => largest_in(&entry.path(), depth - 1),
            false => metadata.len(),
        })
    });
    sizes.max().unwrap_or(0)
}

const fn megabytes(bytes: u64) -> u64 {
    (bytes + 500_000) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::{super::header::tests::library_for, super::python::Tool, *};

    /// Longer than a child of these tests needs.
    const AMPLE: Duration = Duration::from_secs(30);

    /// A machine whose Python is a shell script. It is called as `-m pip --version`, `-m pip download ... --dest DIR
    /// --requirement FILE` and `-c SCRIPT WHEEL MEMBER TARGET HASH`.
    struct Machine {
        root: tempfile::TempDir,
        tools: Tools,
        download: Duration,
        others: Duration,
        room: u64,
    }

    impl Machine {
        /// One where pip fetches with `download`, and Python unpacks with `unpack`; `$DEST` and `$TARGET` are told.
        fn new(download: &str, unpack: &str) -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join("library"), library_for(std::env::consts::ARCH)).unwrap();
            let wheel = pin::wheel().unwrap().name();
            let script = format!(
                "ROOT={root}; WHEEL={wheel}\n\
                 case \"$*\" in\n\
                 *--version) exit 0;;\n\
                 *download*) for word; do if [ \"$last\" = --dest ]; then DEST=$word; fi; last=$word; done\n\
                 echo run >> $ROOT/runs\n{download}\n;;\n\
                 *) TARGET=$5\n{unpack}\n;;\n\
                 esac",
                root = root.path().display(),
            );
            let tools = Tools {
                python: Tool::new(["/bin/sh", "-c", &script, "sh"]),
                pip: Tool::new(["/nowhere/pip3"]),
            };
            Self { root, tools, download: AMPLE, others: AMPLE, room: 0 }
        }

        fn good() -> Self {
            Self::new("cp $ROOT/library $DEST/$WHEEL", "cp $ROOT/library $TARGET")
        }

        fn cache(&self) -> PathBuf {
            self.root.path().join("cache")
        }

        fn install(&self) -> (Result<PathBuf, InstallError>, Vec<String>) {
            let mut lines = Vec::new();
            let (cache, wheel) = (self.cache(), pin::wheel().unwrap());
            let install = Install {
                cache: &cache,
                wheel,
                tools: &self.tools,
                download: self.download,
                others: self.others,
                room: self.room,
            };
            let result = install.run(&mut |line| lines.push(line.to_owned()));
            (result, lines)
        }

        /// The error of an installation that must leave nothing behind.
        fn fail(&self) -> InstallError {
            let error = self.install().0.unwrap_err();
            assert!(!self.cache().join(WORK).exists());
            let left = fs::read_dir(cache::libraries(&self.cache())).into_iter().flatten().count();
            assert_eq!(left, 0);
            error
        }

        fn runs(&self) -> usize {
            fs::read_to_string(self.root.path().join("runs")).unwrap_or_default().lines().count()
        }
    }

    #[test]
    fn the_library_is_fetched_once_and_told() {
        let machine = Machine::good();
        let (path, lines) = machine.install();
        let path = path.unwrap();
        assert_eq!(path, cache::libraries(&machine.cache()).join("libonnxruntime.so.1.32.0"));
        assert_eq!(header::check(&path), Ok(()));
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(!machine.cache().join(WORK).exists());
        let (again, lines) = machine.install();
        assert_eq!((again.unwrap(), lines, machine.runs()), (path, Vec::new(), 1));
    }

    #[test]
    fn two_at_once_share_one_download() {
        let machine = Machine::new("sleep 0.3; cp $ROOT/library $DEST/$WHEEL", "cp $ROOT/library $TARGET");
        let paths: Vec<_> = std::thread::scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(|| machine.install().0.unwrap()));
            both.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!((&paths[0], machine.runs()), (&paths[1], 1));
    }

    #[test]
    fn a_broken_library_and_what_a_killed_process_left_are_replaced() {
        let machine = Machine::good();
        let target = cache::libraries(&machine.cache()).join(pin::library_name());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(&target, b"half").unwrap();
        fs::create_dir_all(machine.cache().join(WORK).join("wheel/old")).unwrap();
        assert_eq!(header::check(&machine.install().0.unwrap()), Ok(()));
    }

    #[test]
    fn a_pip_that_hangs_is_stopped() {
        let mut machine = Machine::new("exec sleep 1000", "");
        machine.download = Duration::from_millis(200);
        assert!(matches!(machine.fail(), InstallError::Late { .. }));
    }

    #[test]
    fn another_process_that_hangs_is_not_waited_for_without_end() {
        let mut machine = Machine::good();
        machine.others = Duration::from_millis(150);
        fs::create_dir_all(machine.cache()).unwrap();
        let lock = File::create(machine.cache().join(LOCK)).unwrap();
        lock.try_lock().unwrap();
        let (result, lines) = machine.install();
        assert!(matches!(result, Err(InstallError::Busy { .. })));
        assert_eq!(lines.len(), 1);
        drop(lock);
        assert!(machine.install().0.is_ok());
    }

    #[test]
    fn what_comes_wrong_out_of_the_wheel_is_not_stored() {
        let good = "cp $ROOT/library $DEST/$WHEEL";
        let fails = |unpack| Machine::new(good, unpack).fail();
        let wrong =
            fails("cp $ROOT/library $TARGET; echo the library has the hash 0, wanted is 1 >&2; exit 1");
        assert!(matches!(wrong, InstallError::WrongFile { .. }), "{wrong}");
        let full = fails("echo 'OSError: [Errno 28] No space left on device' >&2; exit 1");
        assert!(matches!(full, InstallError::DiskFull { .. }), "{full}");
        let text = fails("echo text > $TARGET");
        assert!(matches!(text, InstallError::Unpack { .. }), "{text}");
        let nothing = Machine::new("exit 0", "").fail();
        assert!(matches!(nothing, InstallError::Pip { .. }), "{nothing}");
    }

    #[test]
    fn a_machine_without_python_or_pip_is_told_so() {
        let mut machine = Machine::good();
        machine.tools.python = Tool::new(["/nowhere/python3"]);
        assert!(matches!(machine.fail(), InstallError::NoPython));
        machine.tools.python = Tool::new(["/bin/sh", "-c", "echo No module named pip >&2; exit 1"]);
        let error = machine.fail();
        assert_eq!(error.why(), "No module named pip; there is no /nowhere/pip3");
    }

    #[test]
    fn a_disk_without_room_is_told_before_anything_is_downloaded() {
        let mut machine = Machine::good();
        machine.room = u64::MAX;
        assert!(matches!(machine.fail(), InstallError::DiskFull { .. }));
        assert_eq!(machine.runs(), 0);
    }

    #[test]
    fn a_cache_that_cannot_be_made_is_named() {
        let machine = Machine::good();
        fs::write(machine.cache(), b"a file").unwrap();
        let (result, _) = machine.install();
        assert!(matches!(result, Err(InstallError::Cache { .. })), "{result:?}");
    }

    #[test]
    fn the_words_of_pip_are_understood() {
        let meant = |stderr: &str| read_pip(stderr, Path::new("/work"));
        let offline = meant(
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<X at \
             0x7f>: Failed to establish a new connection: refused')': /simple/\n\
             ERROR: Could not find a version that satisfies the requirement onnxruntime==1.32.0 (from versions: none)\n\
             ERROR: No matching distribution found for onnxruntime==1.32.0\n",
        );
        assert!(matches!(offline, InstallError::Offline { .. }), "{offline:?}");
        assert_eq!(offline.why(), "Failed to establish a new connection: refused");
        let old = meant(
            "ERROR: Could not find a version that satisfies the requirement onnxruntime==1.32.0 (from versions: \
             1.17.0)\nERROR: No matching distribution found for onnxruntime==1.32.0\n",
        );
        assert!(matches!(&old, InstallError::NoVersion { said } if said.contains("1.17.0")), "{old:?}");
        let changed = meant(
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n    onnxruntime==1.32.0:\n        \
             Expected sha256 aa\n             Got        bb\n",
        );
        assert_eq!(changed.why(), "Expected sha256 aa; Got bb");
        let full = meant(
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
        );
        assert!(matches!(full, InstallError::DiskFull { .. }));
        assert_eq!(meant("Traceback\nValueError: odd\n").why(), "ValueError: odd");
    }
}
