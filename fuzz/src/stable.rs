//! The fuzz targets without the fuzzer: every seed, and a bounded number of neighbours of it. For the packages' tests,
//! which include this file.

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

/// Set to write the seeds anew after the samples have changed.
pub(crate) const WRITE: &str = "LINESIDE_WRITE_SEEDS";

/// Where the seeds of a target are.
pub(crate) fn folder(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "fuzz", "seeds", target].iter().collect()
}

/// The seeds of a target by file name. Further files, such as inputs that once failed, may lie beside the samples.
pub(crate) fn seeds(target: &str) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder(target)).unwrap().map(|file| file.unwrap());
    files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
}

/// Writes the seeds anew, when that is wished; says whether it was.
pub(crate) fn write_if_wished(target: &str, wanted: &BTreeMap<String, Vec<u8>>) -> bool {
    let wished = std::env::var_os(WRITE).is_some();
    if wished {
        fs::create_dir_all(folder(target)).unwrap();
        wanted.iter().for_each(|(name, bytes)| fs::write(folder(target).join(name), bytes).unwrap());
    }
    wished
}

/// Gives a target every seed of its own, and then so many neighbours.
pub(crate) fn try_all(target: &str, neighbours: usize, body: impl Fn(&[u8])) {
    let seeds: Vec<_> = seeds(target).into_iter().collect();
    assert!(8 <= seeds.len(), "{} seeds of {target}", seeds.len());
    let guarded = |what: &str, bytes: &[u8]| {
        let passed = catch_unwind(AssertUnwindSafe(|| body(bytes))).is_ok();
        assert!(passed, "{target} failed on {what}: {bytes:02x?}");
    };
    for (name, bytes) in &seeds {
        guarded(name, bytes);
    }
    let mut chance = Chance(0x006c_696e_6573_6964);
    for number in 0..neighbours {
        let (name, bytes) = &seeds[number % seeds.len()];
        let (_, other) = &seeds[chance.below(seeds.len())];
        let neighbour = chance.neighbour(bytes, other);
        guarded(&format!("neighbour {number}, of {name}"), &neighbour);
    }
}

/// Marsaglia's xorshift: the same neighbours on every machine.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap()
    }

    /// `bytes` with one to four small damages, some of them pieces of `other`.
    fn neighbour(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        /// Markers and numbers at which a decoder turns off.
        const TEMPTING: [u8; 16] =
            [0x00, 0x01, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xc0, 0xc1, 0xc4, 0xcb, 0xd4, 0xd9, 0xdc, 0xdf, 0xff];
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                _ if bytes.is_empty() => {}
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = TEMPTING[self.below(TEMPTING.len())],
                2 => drop(bytes.drain(at..(at + 1 + self.below(8)).min(bytes.len()))),
                3 => bytes.insert(at, TEMPTING[self.below(TEMPTING.len())]),
                4 => bytes.truncate(at),
                _ => {
                    let from = self.below(other.len());
                    let piece = &other[from..(from + 1 + self.below(24)).min(other.len())];
                    drop(bytes.splice(at..at, piece.iter().copied()));
                }
            }
        }
        bytes
    }
}
