//! The members of the last run, on disk: whom to dial first when this one starts again.
//!
//! Only hints, as all of discovery's addresses: a peer is what its certificate says. So a damaged file is a warning,
//! and no more.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use lineside_wire::NodeId;
use tokio::time::Instant;

use crate::{
    MEMBERS_MAX, disk,
    identity::{canonical, is_dialable},
    view::ClusterView,
};

/// In the state directory.
const MEMBERS_FILE: &str = "members";

/// First line; another one is another layout.
const HEAD: &str = "lineside members 1";

/// A line has a node id, a space, an address of at most 47 characters and its end.
const FILE_BYTES_MAX: u64 = 128 * (MEMBERS_MAX as u64 + 1);

/// Between two writes: flash wears.
const WRITE_EVERY: Duration = Duration::from_secs(30);

/// Where each member was last.
pub(crate) type Addresses = BTreeMap<NodeId, SocketAddr>;

/// The file, and what it should hold.
#[derive(Debug)]
pub(crate) struct Remembered {
    directory: PathBuf,
    written: Addresses,
    wanted: Addresses,
    /// What is being written now.
    writing: Option<Addresses>,
    last_write: Option<Instant>,
}

/// A write that is to be made, wherever it may wait for the disk: a gossip thread that did would be silent meanwhile,
/// and be taken for dead.
#[derive(Debug)]
pub(crate) struct Write {
    directory: PathBuf,
    bytes: Vec<u8>,
}

impl Write {
    pub(crate) fn make(&self) -> io::Result<()> {
        disk::write_whole(&self.directory, MEMBERS_FILE, &self.bytes)
    }
}

impl Remembered {
    /// Reads the file. What cannot be read is nothing.
    pub(crate) fn open(directory: &Path) -> Self {
        let path = directory.join(MEMBERS_FILE);
        let read = disk::read(&path, FILE_BYTES_MAX).and_then(|bytes| match bytes {
            None => Ok(Addresses::new()),
            Some(bytes) => parse(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        });
        let written = read.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the list of remembered members is damaged and ignored");
            Addresses::new()
        });
        Self {
            directory: directory.to_owned(),
            wanted: written.clone(),
            written,
            writing: None,
            last_write: None,
        }
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.wanted
    }

    /// Takes in who is there now. Nobody there is no reason to forget everybody.
    pub(crate) fn saw(&mut self, view: &ClusterView) {
        let others = view.members.values().filter(|member| member.node != view.own);
        let seen: Addresses = others.map(|member| (member.node, member.address)).take(MEMBERS_MAX).collect();
        if !seen.is_empty() {
            self.wanted = seen;
        }
    }

    /// When [`Self::begin`] is wanted.
    pub(crate) fn next_save(&self, now: Instant) -> Option<Instant> {
        let next = self.last_write.map_or(now, |last| last + WRITE_EVERY);
        (self.writing.is_none() && self.wanted != self.written).then_some(next)
    }

    /// The write to make when the file is not as it should be, and its time has come or `last` is set. None is begun
    /// before the one before has [`ended`](Self::ended).
    pub(crate) fn begin(&mut self, last: bool, now: Instant) -> Option<Write> {
        self.next_save(now).filter(|next| *next <= now || last)?;
        self.last_write = Some(now);
        self.writing = Some(self.wanted.clone());
        Some(Write { directory: self.directory.clone(), bytes: print(&self.wanted) })
    }

    pub(crate) const fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Notes how a write ended.
    pub(crate) fn ended(&mut self, result: Result<(), String>) {
        let Some(written) = self.writing.take() else { return };
        match result {
            Ok(()) => self.written = written,
            Err(error) => {
                let path = self.directory.join(MEMBERS_FILE);
                tracing::warn!(path = %path.display(), error, "the members could not be remembered");
            }
        }
    }
}

fn print(addresses: &Addresses) -> Vec<u8> {
    let lines = addresses.iter().map(|(node, address)| format!("{node} {address}\n"));
    std::iter::once(format!("{HEAD}\n")).chain(lines).collect::<String>().into_bytes()
}

fn parse(bytes: &[u8]) -> Option<Addresses> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != HEAD {
        return None;
    }
    let mut addresses = Addresses::new();
    for line in lines {
        let (node, address) = line.split_once(' ')?;
        let address: SocketAddr = address.parse().ok()?;
        let known = addresses.insert(node.parse().ok()?, address);
        if known.is_some() || !is_dialable(address) || canonical(address) != address {
            return None;
        }
    }
    (addresses.len() <= MEMBERS_MAX).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        disk::cut::{self, Step},
        sim::{CLUSTER, node, state_of},
        view::{Life, Roster},
    };

    fn view(others: impl IntoIterator<Item = u8>, now: Instant) -> Arc<ClusterView> {
        let mut roster = Roster::new(CLUSTER, &state_of(1, 1), now);
        for n in others {
            let tag = crate::identity::ClusterTag::of(CLUSTER);
            let identity = crate::identity::Identity::new(tag, node(n), state_of(n, 1).address, 1);
            roster.set_life(&identity, Life::Down, None, now);
        }
        roster.snapshot()
    }

    fn save(remembered: &mut Remembered, last: bool, now: Instant) {
        if let Some(write) = remembered.begin(last, now) {
            let written = write.make().map_err(|error| error.to_string());
            remembered.ended(written);
        }
    }

    #[test]
    fn a_disk_that_hangs_has_one_write_wait() {
        let (directory, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let mut remembered = Remembered::open(directory.path());
        remembered.saw(&view([2], now));
        assert!(remembered.begin(false, now).is_some());
        remembered.saw(&view([2, 3], now));
        let later = now + 2 * WRITE_EVERY;
        assert!(remembered.begin(true, later).is_none() && remembered.next_save(later).is_none());
        remembered.ended(Ok(()));
        assert!(remembered.begin(false, later).is_some(), "what came since is written");
    }

    #[test]
    fn who_was_there_is_known_after_a_restart() {
        let (directory, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let mut remembered = Remembered::open(directory.path());
        assert_eq!(remembered.next_save(now), None);
        remembered.saw(&view([2, 3], now));
        save(&mut remembered, false, now);
        let next = Remembered::open(directory.path());
        assert_eq!(next.addresses().keys().copied().collect::<Vec<_>>(), [node(2), node(3)]);
        assert_eq!(next.next_save(now), None);
    }

    #[test]
    fn the_file_is_written_seldom_and_at_the_end() {
        let (directory, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let mut remembered = Remembered::open(directory.path());
        remembered.saw(&view([2], now));
        save(&mut remembered, false, now);
        let soon = now + Duration::from_secs(1);
        remembered.saw(&view([2, 3], soon));
        assert_eq!(remembered.next_save(soon), Some(now + WRITE_EVERY));
        save(&mut remembered, false, soon);
        assert_eq!(Remembered::open(directory.path()).addresses().len(), 1);
        save(&mut remembered, true, soon);
        assert_eq!(Remembered::open(directory.path()).addresses().len(), 2);
    }

    #[test]
    fn a_member_that_is_alone_forgets_nobody() {
        let (directory, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let mut remembered = Remembered::open(directory.path());
        remembered.saw(&view([2], now));
        remembered.saw(&view([], now));
        assert_eq!(remembered.addresses().len(), 1);
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let good = format!("{HEAD}\n{} 10.0.0.2:7443\n", node(2));
        assert_eq!(parse(good.as_bytes()).map(|read| read.len()), Some(1));
        let twice = format!("{good}{} 10.0.0.2:7443\n", node(2));
        let nobody = format!("{HEAD}\n{} 0.0.0.0:7443\n", node(2));
        for damaged in
            ["", HEAD, "lineside members 2\n", &good[..good.len() - 1], &good[1..], &twice, &nobody]
        {
            fs::write(directory.path().join(MEMBERS_FILE), damaged).unwrap();
            assert!(Remembered::open(directory.path()).addresses().is_empty(), "{damaged:?} was believed");
        }
        let endless = good.repeat(2000);
        fs::write(directory.path().join(MEMBERS_FILE), endless).unwrap();
        assert!(Remembered::open(directory.path()).addresses().is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn the_largest_list_fits_its_file() {
        let address: SocketAddr = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap();
        let ids = (0..MEMBERS_MAX).map(|n| NodeId::from_bytes((u128::MAX - n as u128).to_be_bytes()));
        let all: Addresses = ids.map(|id| (id, address)).collect();
        let bytes = print(&all);
        assert!(u64::try_from(bytes.len()).unwrap() <= FILE_BYTES_MAX);
        assert_eq!(parse(&bytes), Some(all));
    }

    #[test]
    fn a_power_cut_at_any_step_leaves_those_of_before_or_those_of_now() {
        for step in Step::ALL {
            let (directory, now) = (tempfile::tempdir().unwrap(), Instant::now());
            let mut remembered = Remembered::open(directory.path());
            remembered.saw(&view([2], now));
            save(&mut remembered, true, now);
            remembered.saw(&view([2, 3], now));
            assert!(cut::during(0, step, || save(&mut remembered, true, now)).is_none(), "{step:?}");
            let mut next = Remembered::open(directory.path());
            let count = if step == Step::Renamed { 2 } else { 1 };
            assert_eq!(next.addresses().len(), count, "{step:?}");
            next.saw(&view([4, 5, 6], now));
            save(&mut next, true, now);
            assert_eq!(Remembered::open(directory.path()).addresses().len(), 3);
        }
    }
}
