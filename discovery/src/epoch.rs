//! The count of this member's lives, on disk.
//!
//! Of two identities with one node id the larger epoch wins, everywhere and for good. So an epoch must never be
//! used twice, whatever the clock says and however the process ended. The file holds one number: every epoch up to
//! it may have been used. A start takes the next one and writes it before anybody hears of it. Lives within a run
//! are rare, but may come at the pace of the network: the first one reserves a block, and the rest of the block
//! costs no disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{DiscoveryError, disk};

/// In the state directory.
const EPOCH_FILE: &str = "epoch";

/// Lives reserved at once.
const BLOCK: u64 = 1024;

/// `epoch `, twenty digits, a line end, and room to see that there is more.
const FILE_BYTES_MAX: u64 = 64;

/// The file, and the epoch that this start has.
#[derive(Debug)]
pub(crate) struct EpochFile {
    directory: PathBuf,
    epoch: u64,
    reserved: u64,
}

impl EpochFile {
    /// Counts this start.
    pub(crate) fn count_start(directory: &Path) -> Result<Self, DiscoveryError> {
        let path = directory.join(EPOCH_FILE);
        let used = match disk::read(&path, FILE_BYTES_MAX) {
            Ok(None) => 0,
            Ok(Some(bytes)) => {
                parse(&bytes).ok_or_else(|| DiscoveryError::EpochDamaged { path: path.clone() })?
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(DiscoveryError::EpochDamaged { path });
            }
            Err(source) => return Err(DiscoveryError::EpochUnreadable { path, source }),
        };
        let epoch = used.checked_add(1).ok_or_else(|| DiscoveryError::EpochDamaged { path: path.clone() })?;
        let mut file = Self { directory: directory.to_owned(), epoch, reserved: used };
        file.reserve(epoch).map_err(|source| DiscoveryError::EpochUnwritable { path, source })?;
        Ok(file)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Keeps in mind that this epoch is used from now on.
    pub(crate) fn renewed(&mut self, epoch: u64) -> io::Result<()> {
        self.epoch = epoch;
        if epoch <= self.reserved { Ok(()) } else { self.reserve(epoch.saturating_add(BLOCK - 1)) }
    }

    fn reserve(&mut self, up_to: u64) -> io::Result<()> {
        disk::write_whole(&self.directory, EPOCH_FILE, format!("epoch {up_to}\n").as_bytes())?;
        self.reserved = up_to;
        Ok(())
    }
}

/// Strict: a number that lost a digit would be another epoch.
fn parse(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let digits = text.strip_prefix("epoch ")?.strip_suffix('\n')?;
    let epoch: u64 = digits.parse().ok()?;
    (epoch.to_string() == digits).then_some(epoch)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::cut::{self, Step};

    #[test]
    fn every_start_counts_one() {
        let directory = tempfile::tempdir().unwrap();
        let epochs: Vec<u64> =
            (0..3).map(|_| EpochFile::count_start(directory.path()).unwrap().epoch()).collect();
        assert_eq!(epochs, [1, 2, 3]);
    }

    #[test]
    fn lives_within_a_run_are_never_used_again_and_cost_one_write_per_block() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = EpochFile::count_start(directory.path()).unwrap();
        file.renewed(2).unwrap();
        let written = fs::metadata(directory.path().join(EPOCH_FILE)).unwrap().modified().unwrap();
        (3..=2 + BLOCK - 1).for_each(|epoch| file.renewed(epoch).unwrap());
        assert_eq!(fs::metadata(directory.path().join(EPOCH_FILE)).unwrap().modified().unwrap(), written);
        file.renewed(5000).unwrap();
        let next = EpochFile::count_start(directory.path()).unwrap().epoch();
        assert_eq!(next, 5000 + BLOCK);
    }

    #[test]
    fn a_damaged_file_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let long = "epoch 1\n".repeat(100);
        for damaged in ["", "epoch", "epoch 1", "epoch -1\n", "epoch 01\n", "epoch 1\n\n", "\0\0\0\0", &long]
        {
            fs::write(directory.path().join(EPOCH_FILE), damaged).unwrap();
            let error = EpochFile::count_start(directory.path()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("damaged") && text.contains("delete"), "{damaged:?}: {text}");
            assert_eq!(fs::read(directory.path().join(EPOCH_FILE)).unwrap(), damaged.as_bytes());
        }
        fs::write(directory.path().join(EPOCH_FILE), format!("epoch {}\n", u64::MAX)).unwrap();
        assert!(matches!(EpochFile::count_start(directory.path()), Err(DiscoveryError::EpochDamaged { .. })));
    }

    #[test]
    fn a_start_that_cannot_be_counted_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join(EPOCH_FILE)).unwrap();
        assert!(EpochFile::count_start(directory.path()).is_err());
    }

    #[test]
    fn a_power_cut_at_any_step_uses_no_epoch_twice() {
        for step in Step::ALL {
            let directory = tempfile::tempdir().unwrap();
            let mut told = Vec::new();
            let mut file = EpochFile::count_start(directory.path()).unwrap();
            told.push(file.epoch());
            // While a life is counted that others forced on it. It is told to nobody before.
            assert!(cut::during(0, step, || file.renewed(2)).is_none(), "{step:?}");
            // While the next start is counted.
            let cut = cut::during(0, step, || EpochFile::count_start(directory.path()));
            assert!(cut.is_none(), "{step:?}");
            for _ in 0..3 {
                let epoch = EpochFile::count_start(directory.path()).unwrap().epoch();
                assert!(told.iter().all(|told| *told < epoch), "{step:?}: {epoch} after {told:?}");
                told.push(epoch);
            }
        }
    }

    #[test]
    fn a_count_that_is_missing_begins_anew_and_one_of_a_newer_release_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(EpochFile::count_start(directory.path()).unwrap().epoch(), 1);
        fs::remove_file(directory.path().join(EPOCH_FILE)).unwrap();
        assert_eq!(EpochFile::count_start(directory.path()).unwrap().epoch(), 1);
        for newer in ["epoch 17 of-block 4\n", "epochs 2\nepoch 17\n"] {
            fs::write(directory.path().join(EPOCH_FILE), newer).unwrap();
            let error = EpochFile::count_start(directory.path()).unwrap_err();
            assert!(matches!(error, DiscoveryError::EpochDamaged { .. }), "{error}");
        }
    }
}
