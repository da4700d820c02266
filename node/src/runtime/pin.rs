//! Which wheel is installed: one version, one file per processor, with its hashes.
//!
//! To take a newer version, change [`VERSION`], download both wheels as [`Wheel::arguments`] does, and write down
//! their hashes, lengths, and those of the library inside.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The version of ONNX Runtime that is installed where none is found.
pub const VERSION: &str = "1.32.0";

/// The Python whose wheel is taken. Any would do, as only the library inside counts; one for all machines gives
/// one hash per processor.
const PYTHON: (&str, &str) = ("3.12", "cp312");

/// The C library that the wheel needs at least, in the words of wheel names: glibc 2.28.
const MANYLINUX: &str = "manylinux_2_28";

/// A file in the registry, and the library inside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wheel {
    /// The processor, as both Rust and wheel names call it.
    pub(super) machine: &'static str,
    /// SHA-256 of the wheel.
    pub(super) sha256: &'static str,
    /// Length of the wheel, for progress only.
    pub(super) bytes: u64,
    /// SHA-256 of the library.
    pub(super) library_sha256: &'static str,
}

const WHEELS: [Wheel; 2] = [
    Wheel {
        machine: "x86_64",
        sha256: "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8",
        bytes: 27_780_211,
        library_sha256: "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
    },
    Wheel {
        machine: "aarch64",
        sha256: "e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054",
        bytes: 23_196_724,
        library_sha256: "49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a",
    },
];

/// The platform of this binary: system, C library, processor.
pub(super) fn platform() -> String {
    let library = if cfg!(target_env = "gnu") {
        "glibc"
    } else if cfg!(target_env = "musl") {
        "musl"
    } else {
        "another C library"
    };
    format!("{} with {library} on {}", std::env::consts::OS, std::env::consts::ARCH)
}

/// The wheel for this binary's platform, if there is one.
pub(super) fn wheel() -> Option<&'static Wheel> {
    let glibc = cfg!(all(target_os = "linux", target_env = "gnu"));
    WHEELS.iter().find(|wheel| glibc && wheel.machine == std::env::consts::ARCH)
}

/// The library's file name, in the wheel and in the cache.
pub(super) fn library_name() -> String {
    format!("libonnxruntime.so.{VERSION}")
}

/// Where the library lies in the wheel.
pub(super) fn library_in_wheel() -> String {
    format!("onnxruntime/capi/{}", library_name())
}

impl Wheel {
    /// The wheel's file name.
    pub(super) fn name(&self) -> String {
        let (_, abi) = PYTHON;
        format!("onnxruntime-{VERSION}-{abi}-{abi}-{MANYLINUX}_{}.whl", self.machine)
    }

    /// What a requirements file says, so that pip takes this file and no other.
    pub(super) fn requirement(&self) -> String {
        format!("onnxruntime=={VERSION} --hash=sha256:{}\n", self.sha256)
    }

    /// The arguments for pip: fetch the wheel of the requirements file into a directory.
    ///
    /// Where from is pip's business: the machine's own index, mirror, proxy and certificates count.
    pub(super) fn arguments(&self, requirements: &Path, into: &Path) -> Vec<OsString> {
        let (python, abi) = PYTHON;
        let platform = format!("{MANYLINUX}_{}", self.machine);
        let fixed =
            ["download", "--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"];
        // Two more tries bear a weak line, and a machine without a network knows it soon.
        let bounded = ["--retries", "2"];
        let exact = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--implementation", "cp"];
        let mut arguments: Vec<OsString> =
            [&fixed[..], &bounded, &exact].concat().into_iter().map(Into::into).collect();
        arguments
            .extend(["--python-version", python, "--abi", abi, "--platform", &platform].map(OsString::from));
        let paths = [("--dest", into), ("--requirement", requirements)];
        arguments.extend(paths.into_iter().flat_map(|(flag, path)| [flag.into(), path.into()]));
        arguments
    }

    /// What a person does on a machine with a network, to bring the library here.
    pub(super) fn manual(&self, directory: Option<PathBuf>) -> String {
        let (python, _) = PYTHON;
        let target = directory.map_or_else(
            || "a file of your choice, and name it with --onnxruntime".to_owned(),
            |directory| format!("{}/ (or name it with --onnxruntime)", directory.display()),
        );
        format!(
            "by hand, with a machine that has a network:\n\
             1. python3 -m pip download --no-deps --only-binary :all: --python-version {python} --platform \
             {MANYLINUX}_{} onnxruntime=={VERSION}\n\
             2. python3 -m zipfile -e {} unpacked\n\
             3. copy unpacked/{} to {target}",
            self.machine,
            self.name(),
            library_in_wheel(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_are_written_as_pip_writes_them() {
        for wheel in &WHEELS {
            for hash in [wheel.sha256, wheel.library_sha256] {
                assert_eq!(hash.len(), 64);
                assert!(hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
            }
        }
    }

    #[test]
    fn pip_is_told_one_file_and_where_it_goes_and_no_host() {
        let [wheel, _] = &WHEELS;
        let arguments = wheel.arguments(Path::new("/w/requirements.txt"), Path::new("/w/wheel"));
        let line = arguments.iter().map(|argument| argument.to_str().unwrap()).collect::<Vec<_>>().join(" ");
        assert_eq!(
            line,
            "download --quiet --no-input --disable-pip-version-check --progress-bar off --retries 2 --no-deps \
             --only-binary :all: --require-hashes --implementation cp --python-version 3.12 --abi cp312 --platform \
             manylinux_2_28_x86_64 --dest /w/wheel --requirement /w/requirements.txt"
        );
        assert!(!line.contains("://") && !wheel.requirement().contains("://"));
        assert_eq!(wheel.requirement(), format!("onnxruntime==1.32.0 --hash=sha256:{}\n", wheel.sha256));
        assert_eq!(wheel.name(), "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl");
    }

    #[test]
    fn the_manual_steps_name_the_wheel_the_file_and_the_place() {
        let [_, wheel] = &WHEELS;
        let steps = wheel.manual(Some("/var/cache/lineside/onnxruntime/aarch64".into()));
        for part in [
            "manylinux_2_28_aarch64 onnxruntime==1.32.0\n",
            "onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_aarch64.whl",
            "onnxruntime/capi/libonnxruntime.so.1.32.0 to /var/cache/lineside/onnxruntime/aarch64/",
        ] {
            assert!(steps.contains(part), "{part} in {steps}");
        }
        assert!(wheel.manual(None).contains("--onnxruntime"));
    }
}
