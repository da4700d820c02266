//! Findings on disk, so that a node that starts again need not try every model again.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Once,
    time::SystemTime,
};

use tracing::warn;

use super::{LINE_BYTES_MAX, Subject, Tried, decisive};
use crate::{
    digest::{Sha256, is_hash},
    settings::Settings,
};

/// The directory of the findings, in the node's cache.
const DIRECTORY: &str = "trials";

/// Most findings. Four times as many versions as a node serves; beyond, the oldest goes.
const FINDINGS_MAX: usize = 256;

/// Where the finding about a model lies: named by what it holds for. `None` when the model's files have no hash.
pub(super) fn place(cache: &Path, subject: &Subject<'_>, settings: &Settings) -> Option<PathBuf> {
    let sha256 = &subject.scanned.sha256;
    // Another version of Lineside may measure otherwise.
    let about = [subject.library_name, env!("CARGO_PKG_VERSION"), &decisive(settings)].join("\n");
    let about = Sha256::of(about.as_bytes());
    is_hash(sha256).then(|| cache.join(DIRECTORY).join(format!("{sha256}-{about}.json")))
}

/// What was found before. A file that is damaged counts as none: the model is tried again, and the file written anew.
pub(super) fn read(place: &Path) -> Option<Tried> {
    let mut bytes = Vec::new();
    File::open(place).ok()?.take(LINE_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// So that a full disk is told of once, and not with each model.
static TOLD: Once = Once::new();

/// Keeps a finding. A disk that takes none costs the next start a trial, and is no reason not to serve.
pub(super) fn write(place: &Path, tried: &Tried) {
    let kept = write_whole(place, tried).and_then(|()| thin_out(place.parent().unwrap_or(Path::new("."))));
    if let Err(error) = kept {
        TOLD.call_once(|| {
            let place = place.parent().unwrap_or(place).display();
            warn!(%place, %error, "findings of trials are not kept: each start tries the models anew");
        });
    }
}

fn write_whole(place: &Path, tried: &Tried) -> io::Result<()> {
    let directory = place.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer(&mut file, tried)?;
    file.flush()?;
    file.as_file().sync_all()?;
    file.persist(place)?;
    Ok(())
}

/// Removes the oldest files beyond the limit, those of a write that was cut off too.
fn thin_out(directory: &Path) -> io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let beyond = files.len().saturating_sub(FINDINGS_MAX);
    files.iter().take(beyond).try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_few_whole_and_read_again() {
        let home = tempfile::tempdir().unwrap();
        let place = |at: usize| home.path().join(DIRECTORY).join(format!("{at}.json"));
        let tried = Tried { memory_bytes: 7, ..Tried::default() };
        for at in 0..FINDINGS_MAX + 5 {
            write(&place(at), &tried);
        }
        let left = fs::read_dir(home.path().join(DIRECTORY)).unwrap().count();
        assert_eq!((left, read(&place(FINDINGS_MAX + 4))), (FINDINGS_MAX, Some(tried.clone())));

        fs::write(place(300), "{\"memory_by").unwrap();
        assert_eq!((read(&place(300)), read(&place(301))), (None, None));
        write(&place(300), &tried);
        assert_eq!(read(&place(300)), Some(tried));
    }
}
