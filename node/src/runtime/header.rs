//! Whether a file can be a library of this machine, told by its ELF header.
//!
//! Loading a wrong file gives a loader's riddle at best; these few bytes give a sentence.

use std::{fs::File, io::Read as _, path::Path};

/// The head of a 64-bit ELF file.
const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
/// `ET_DYN`: may be loaded anywhere.
const SHARED: u16 = 3;

/// Numbers of `e_machine` with their names; names are those of `std::env::consts::ARCH`.
const MACHINES: [(u16, &str); 6] =
    [(3, "x86"), (22, "s390x"), (40, "arm"), (62, "x86_64"), (183, "aarch64"), (243, "riscv64")];

/// Why a file cannot be the library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is nothing at this path.
    #[error("there is no such file")]
    Missing,
    /// A directory, a device, a pipe.
    #[error("it is not a regular file")]
    NotAFile,
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// No ELF file.
    #[error("it is not a Linux library (no ELF header)")]
    NotElf,
    /// A program's part or a core dump.
    #[error("it is an ELF file, but not a shared library")]
    NotShared,
    /// For another processor.
    #[error("it is for {library}, this machine is {machine}")]
    OtherMachine {
        /// What the file is for.
        library: String,
        /// What this process is for.
        machine: &'static str,
    },
    /// The end of the file is missing, as after a copy that broke off.
    #[error("it is cut off: {bytes} bytes of at least {expected}")]
    CutOff {
        /// The file's length.
        bytes: u64,
        /// The length that its header tells.
        expected: u64,
    },
}

/// Checks the file at a path.
pub(super) fn check(path: &Path) -> Result<(), Unusable> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Unusable::Missing,
        _ => Unusable::Unreadable(error.to_string()),
    };
    let metadata = path.metadata().map_err(unreadable)?;
    // Before it is opened: a pipe would wait for its other end.
    if !metadata.is_file() {
        return Err(Unusable::NotAFile);
    }
    let mut head = Vec::with_capacity(HEADER_BYTES);
    let file = File::open(path).map_err(unreadable)?;
    file.take(HEADER_BYTES as u64).read_to_end(&mut head).map_err(unreadable)?;
    check_header(&head, metadata.len(), std::env::consts::ARCH)
}

fn check_header(head: &[u8], bytes: u64, machine: &'static str) -> Result<(), Unusable> {
    if head.get(..MAGIC.len()) != Some(&MAGIC) {
        return Err(Unusable::NotElf);
    }
    let head: &[u8; HEADER_BYTES] =
        head.try_into().map_err(|_| Unusable::CutOff { bytes, expected: HEADER_BYTES as u64 })?;
    let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let library = match (head[4], head[5]) {
        (CLASS_64, LITTLE_ENDIAN) => match MACHINES.iter().find(|(number, _)| *number == half(18)) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("processor {}", half(18)),
        },
        (_, LITTLE_ENDIAN) => "a 32-bit machine".to_owned(),
        _ => "a big-endian machine".to_owned(),
    };
    if library != machine {
        return Err(Unusable::OtherMachine { library, machine });
    }
    if half(16) != SHARED {
        return Err(Unusable::NotShared);
    }
    // The section table is the last thing in the file; a stripped file may have none.
    let table = u64::from_le_bytes(std::array::from_fn(|at| head[40 + at]));
    let expected = table.saturating_add(u64::from(half(58)) * u64::from(half(60)));
    if bytes < expected { Err(Unusable::CutOff { bytes, expected }) } else { Ok(()) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The head of a library of 4,096 bytes and no more in it.
    pub(in super::super) fn library_for(machine: &str) -> Vec<u8> {
        let (number, _) = MACHINES.iter().find(|(_, name)| *name == machine).unwrap();
        let mut file = vec![0; 4096];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', CLASS_64, LITTLE_ENDIAN]);
        file[16..18].copy_from_slice(&SHARED.to_le_bytes());
        file[18..20].copy_from_slice(&number.to_le_bytes());
        file[40..48].copy_from_slice(&4032_u64.to_le_bytes());
        file[58..60].copy_from_slice(&64_u16.to_le_bytes());
        file[60..62].copy_from_slice(&1_u16.to_le_bytes());
        file
    }

    fn verdict(file: &[u8]) -> Result<(), Unusable> {
        check_header(&file[..file.len().min(HEADER_BYTES)], file.len() as u64, "x86_64")
    }

    #[test]
    fn a_library_of_this_machine_is_taken() {
        assert_eq!(verdict(&library_for("x86_64")), Ok(()));
        let mut stripped = library_for("x86_64");
        stripped[40..64].fill(0);
        assert_eq!(verdict(&stripped), Ok(()));
    }

    #[test]
    fn what_is_no_library_is_named() {
        assert_eq!(verdict(b""), Err(Unusable::NotElf));
        assert_eq!(verdict(b"version https://"), Err(Unusable::NotElf));
        assert_eq!(verdict(b"\x7fEL"), Err(Unusable::NotElf));
        let mut object = library_for("x86_64");
        object[16] = 1;
        assert_eq!(verdict(&object), Err(Unusable::NotShared));
    }

    #[test]
    fn a_library_of_another_machine_says_which() {
        let told = |file: &[u8]| verdict(file).unwrap_err().to_string();
        assert_eq!(told(&library_for("aarch64")), "it is for aarch64, this machine is x86_64");
        let mut unknown = library_for("x86_64");
        unknown[18..20].copy_from_slice(&4711_u16.to_le_bytes());
        assert_eq!(told(&unknown), "it is for processor 4711, this machine is x86_64");
        let mut narrow = library_for("x86_64");
        narrow[4] = 1;
        assert_eq!(told(&narrow), "it is for a 32-bit machine, this machine is x86_64");
        let mut big = library_for("x86_64");
        big[5] = 2;
        assert_eq!(told(&big), "it is for a big-endian machine, this machine is x86_64");
    }

    #[test]
    fn a_copy_that_broke_off_is_noticed() {
        let library = library_for("x86_64");
        for bytes in [4, 20, 63, 64, 1000, 4095] {
            assert!(matches!(verdict(&library[..bytes]), Err(Unusable::CutOff { .. })), "{bytes}");
        }
        let mut absurd = library;
        absurd[40..48].fill(0xff);
        assert!(matches!(verdict(&absurd), Err(Unusable::CutOff { expected: u64::MAX, .. })));
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(check(directory.path()), Err(Unusable::NotAFile));
        assert_eq!(check(&directory.path().join("none")), Err(Unusable::Missing));
        assert_eq!(check(Path::new("/dev/zero")), Err(Unusable::NotAFile));
    }

    #[test]
    fn this_program_is_of_this_machine() {
        assert_eq!(check(&std::env::current_exe().unwrap()), Ok(()));
    }
}
