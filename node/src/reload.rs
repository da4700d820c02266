//! What a change of the repository means for what is loaded.
//!
//! [`plan`] is pure: what lies there, what is loaded, and what follows. [`Changes`] tells when to look: the system's own
//! notices, or a clock where those do not arrive (NFS). It has no thread; the loader waits for both.

mod plan;

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crossbeam_channel::{Receiver, Sender, bounded, never};
use notify::{
    Config, ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::repository::Stamps;

pub(crate) use plan::{Eager, Known, Situation, Step};

/// Longest time that changes are let go on before they are looked at all the same: a log file in the repository must not
/// keep a model out for ever.
const SETTLE_MAX: Duration = Duration::from_secs(30);

/// How often a watched repository is looked at without a notice: one that was moved away and replaced sends none.
const LOOK_ANYWAY: Duration = Duration::from_secs(60);

/// How often the repository is looked at where the system has no watch to give.
const POLL_INSTEAD: Duration = Duration::from_secs(10);

/// How soon a polled change is looked at again, to see whether it still changes.
const POLL_AGAIN: Duration = Duration::from_secs(1);

/// How often in a row a model whose files are being written is left alone at [`SETTLE_MAX`]: ten minutes, in which a slow
/// network brings gigabytes.
const HURRIED_MAX: u32 = 20;

/// How the repository is looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelControl {
    /// By the system's notices: what is changed is loaded once nothing has changed for `settle`.
    Watch {
        /// How long nothing may change: a file that is being copied changes all the time.
        settle: Duration,
    },
    /// By looking again and again; for file systems that send no notices (NFS).
    Poll {
        /// How often.
        every: Duration,
    },
    /// Only by `models.load` and `models.unload`.
    Explicit {
        /// What is loaded at the start; `None` is everything.
        load: Option<Vec<lineside_wire::ModelName>>,
    },
}

/// Tells when the repository may have changed.
pub(crate) struct Changes {
    repository: PathBuf,
    pace: Pace,
    notices: Receiver<()>,
    watcher: Option<RecommendedWatcher>,
}

impl Changes {
    /// Begins to look after the directory. Nothing with [`ModelControl::Explicit`].
    pub(crate) fn of(repository: &Path, control: &ModelControl, now: Instant) -> Self {
        let mut changes = Self {
            repository: repository.to_owned(),
            pace: Pace::new(control, now),
            notices: never(),
            watcher: None,
        };
        if matches!(control, ModelControl::Watch { .. }) {
            changes.watch(now);
        }
        changes
    }

    /// Sets the watch anew, on what lies at the path now.
    pub(crate) fn watch(&mut self, now: Instant) {
        // One is enough: whoever hears it looks at everything.
        let (notice, notices) = bounded(1);
        match watcher(&self.repository, notice) {
            Ok(watcher) => (self.watcher, self.notices) = (Some(watcher), notices),
            Err(error) => {
                let remedy = match error.kind {
                    ErrorKind::MaxFilesWatch => "raise fs.inotify.max_user_watches with sysctl",
                    _ => "set node.control = \"poll\", or see docs/operations.md",
                };
                let every = POLL_INSTEAD;
                warn!(%error, remedy, ?every, "the model repository cannot be watched: it is looked at instead");
                (self.watcher, self.notices) = (None, never());
                self.pace = Pace::new(&ModelControl::Poll { every }, now);
            }
        }
    }

    /// Where notices arrive; none do where there is no watch.
    pub(crate) const fn notices(&self) -> &Receiver<()> {
        &self.notices
    }

    /// A notice came; false when none will come any more.
    pub(crate) fn noticed(&mut self, alive: bool, now: Instant) {
        match alive {
            true => self.pace.noticed(now),
            false if self.watcher.is_some() => {
                warn!("the watch on the model repository has ended: it is set anew");
                self.watch(now);
            }
            false => self.notices = never(),
        }
    }

    /// When to look.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.pace.due()
    }

    /// The repository was looked at; whether it differed from the look before. Gives whether to act on it: a polled
    /// change is acted on when it has come to rest.
    pub(crate) fn looked(&mut self, differed: bool, now: Instant) -> bool {
        self.pace.looked(differed, now)
    }

    /// The repository could not be read: it may be back in a moment, and nobody will tell.
    pub(crate) fn missed(&mut self, now: Instant) {
        self.pace.missed(now);
    }

    /// Another directory is at the path, and may still be filled: it is looked at again.
    pub(crate) fn replaced(&mut self, now: Instant) {
        match self.watcher.is_some() {
            true => {
                self.watch(now);
                self.pace.noticed(now);
            }
            false => drop(self.pace.looked(true, now)),
        }
    }

    /// Whether these files may be loaded: not while they are being written, where the look could not wait for that.
    pub(crate) fn may_load<'a>(&self, mut files: impl Iterator<Item = &'a Stamps>) -> bool {
        let is_hurried = (1..=HURRIED_MAX).contains(&self.pace.hurried);
        !is_hurried || !files.any(|files| files.were_written_within(self.pace.settle, SystemTime::now()))
    }
}

fn watcher(repository: &Path, notice: Sender<()>) -> notify::Result<RecommendedWatcher> {
    let heard = move |event: notify::Result<Event>| match event {
        // Whoever reads a model changes nothing: the loader itself does.
        Ok(Event { kind: EventKind::Access(kind), .. }) if kind != AccessKind::Close(AccessMode::Write) => {}
        Ok(event) => {
            debug!(?event, "the repository changed");
            // Full: the notice that waits is as good.
            let _full = notice.try_send(());
        }
        // Some notices may be lost: look.
        Err(error) => {
            debug!(%error, "a notice was lost");
            let _full = notice.try_send(());
        }
    };
    let root = std::fs::canonicalize(repository).map_err(notify::Error::io)?;
    let mut watcher = RecommendedWatcher::new(heard, Config::default().with_follow_symlinks(false))?;
    watcher.watch(&root, RecursiveMode::Recursive)?;
    Ok(watcher)
}

/// When to look: pure.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// How long nothing may change after a notice.
    settle: Duration,
    /// How often to look without one; `None`: never.
    every: Option<Duration>,
    /// Whether a change is acted on only when the next look finds no other.
    twice: bool,
    /// The first and the last notice since the last look.
    noticed: Option<(Instant, Instant)>,
    next: Option<Instant>,
    /// Looks in a row for which changes did not come to rest.
    hurried: u32,
}

impl Pace {
    fn new(control: &ModelControl, now: Instant) -> Self {
        let (settle, every, twice) = match control {
            ModelControl::Watch { settle } => (*settle, Some(LOOK_ANYWAY), false),
            ModelControl::Poll { every } => (Duration::ZERO, Some(*every), true),
            ModelControl::Explicit { .. } => (Duration::ZERO, None, false),
        };
        Self { settle, every, twice, noticed: None, next: every.map(|every| now + every), hurried: 0 }
    }

    fn noticed(&mut self, now: Instant) {
        let (first, _) = self.noticed.unwrap_or((now, now));
        self.noticed = Some((first, now));
    }

    fn due(&self) -> Option<Instant> {
        match self.noticed {
            Some((first, last)) => Some((last + self.settle).min(first + SETTLE_MAX)),
            None => self.next,
        }
    }

    fn looked(&mut self, differed: bool, now: Instant) -> bool {
        let is_hurried = self.noticed.is_some_and(|(_, last)| now < last + self.settle);
        self.hurried = if is_hurried { self.hurried.saturating_add(1) } else { 0 };
        // What was left alone is looked at again.
        self.noticed = is_hurried.then_some((now, now));
        let restless = self.twice && differed;
        self.next = self.every.map(|every| now + if restless { every.min(POLL_AGAIN) } else { every });
        !restless
    }

    fn missed(&mut self, now: Instant) {
        self.noticed = None;
        self.next = self.every.map(|every| now + every.min(POLL_AGAIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_change_is_looked_at_when_it_has_come_to_rest() {
        let start = Instant::now();
        let mut pace = Pace::new(&ModelControl::Watch { settle: s(1) }, start);
        assert_eq!(pace.due(), Some(start + LOOK_ANYWAY));
        pace.noticed(start + s(5));
        pace.noticed(start + s(6));
        assert_eq!(pace.due(), Some(start + s(7)));
        assert!(pace.looked(true, start + s(7)));
        assert_eq!(pace.due(), Some(start + s(7) + LOOK_ANYWAY));
        (0..100).for_each(|second| pace.noticed(start + s(10 + second)));
        assert_eq!(pace.due(), Some(start + s(10) + SETTLE_MAX), "not for ever");
    }

    #[test]
    fn a_look_that_could_not_wait_is_followed_by_another() {
        let start = Instant::now();
        let mut pace = Pace::new(&ModelControl::Watch { settle: s(1) }, start);
        for hurried in 1..=3 {
            let now = start + s(u64::from(hurried) * 30);
            pace.noticed(now);
            assert!(pace.looked(true, now));
            assert_eq!((pace.hurried, pace.due()), (hurried, Some(now + s(1))));
        }
        assert!(pace.looked(true, start + s(91)));
        assert_eq!((pace.hurried, pace.due()), (0, Some(start + s(91) + LOOK_ANYWAY)));
    }

    #[test]
    fn a_repository_that_is_gone_is_soon_looked_for() {
        let start = Instant::now();
        let mut pace = Pace::new(&ModelControl::Watch { settle: s(1) }, start);
        pace.missed(start);
        assert_eq!(pace.due(), Some(start + POLL_AGAIN));
        let mut never = Pace::new(&ModelControl::Explicit { load: None }, start);
        never.missed(start);
        assert_eq!(never.due(), None);
    }

    #[test]
    fn a_polled_change_is_looked_at_twice() {
        let start = Instant::now();
        let mut pace = Pace::new(&ModelControl::Poll { every: s(5) }, start);
        assert_eq!(pace.due(), Some(start + s(5)));
        assert!(!pace.looked(true, start + s(5)));
        assert_eq!(pace.due(), Some(start + s(5) + POLL_AGAIN));
        assert!(pace.looked(false, start + s(6)));
        assert_eq!(pace.due(), Some(start + s(11)));
    }

    #[test]
    fn without_notices_and_clock_nobody_looks() {
        let changes = Changes::of(Path::new("."), &ModelControl::Explicit { load: None }, Instant::now());
        assert_eq!(changes.due(), None);
        assert!(changes.watcher.is_none() && changes.notices().is_empty());
    }

    #[test]
    fn a_watch_hears_what_is_written_and_not_what_is_read() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("weld/1")).unwrap();
        std::fs::write(home.path().join("weld/1/model.onnx"), "x").unwrap();
        let control = ModelControl::Watch { settle: s(1) };
        let changes = Changes::of(home.path(), &control, Instant::now());
        assert!(changes.watcher.is_some());
        std::fs::read(home.path().join("weld/1/model.onnx")).unwrap();
        assert!(changes.notices().recv_timeout(Duration::from_millis(200)).is_err());
        std::fs::write(home.path().join("weld/1/model.onnx"), "y").unwrap();
        assert!(changes.notices().recv_timeout(s(30)).is_ok());
    }
}
