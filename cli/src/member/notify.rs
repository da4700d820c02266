//! What systemd hears of this member: `Type=notify` and its watchdog (`sd_notify(3)`).
//!
//! Datagrams to the socket that `NOTIFY_SOCKET` names, and nothing where there is none. Nothing here ever waits: a
//! supervisor that does not read loses lines, and those that must arrive are told again by [`Pulse`](super::pulse::Pulse).

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Longest line about how things are: what `systemctl status` shows in one.
const STATUS_CHARS_MAX: usize = 200;

/// The program that started this one and wants to hear of it, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// Within this time it wants a sign of life.
    watchdog: Option<Duration>,
    /// Whether it was told that the member is ready: before that, no reading of settings makes it so.
    is_ready: AtomicBool,
}

/// What is said in the environment.
struct Said<'a> {
    socket: Option<&'a OsStr>,
    watchdog_us: Option<&'a OsStr>,
    /// Of which process a sign of life is wanted; without, of whoever reads this.
    watchdog_pid: Option<&'a OsStr>,
}

impl Supervisor {
    /// The one that the environment names. An address that cannot be used is told and left alone.
    pub(crate) fn from_environment() -> Self {
        let [socket, watchdog_us, watchdog_pid] =
            ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].map(std::env::var_os);
        let said = Said {
            socket: socket.as_deref(),
            watchdog_us: watchdog_us.as_deref(),
            watchdog_pid: watchdog_pid.as_deref(),
        };
        Self::of(&said, std::process::id()).unwrap_or_else(|error| {
            tracing::warn!(%error, "NOTIFY_SOCKET cannot be used: the supervisor hears nothing of this member");
            Self::default()
        })
    }

    fn of(said: &Said<'_>, pid: u32) -> io::Result<Self> {
        let Some(socket) = said.socket.filter(|socket| !socket.is_empty()) else {
            return Ok(Self::default());
        };
        let address = match socket.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(socket)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "neither a path nor an abstract name",
                ));
            }
        };
        let from = UnixDatagram::unbound()?;
        from.set_nonblocking(true)?;
        let number = |text: Option<&OsStr>| text.and_then(OsStr::to_str)?.parse::<u64>().ok();
        let is_ours = said.watchdog_pid.is_none() || number(said.watchdog_pid) == Some(u64::from(pid));
        let watchdog = number(said.watchdog_us).filter(|us| is_ours && 0 < *us).map(Duration::from_micros);
        Ok(Self { to: Some((from, address)), watchdog, is_ready: AtomicBool::new(false) })
    }

    /// Whether anybody listens.
    #[cfg(test)]
    const fn listens(&self) -> bool {
        self.to.is_some()
    }

    /// Within which time a sign of life is wanted.
    pub(crate) const fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The member takes part, and its models are loaded or have their reasons. False when it could not be told.
    pub(crate) fn ready(&self) -> bool {
        let told = self.tell("READY=1");
        self.is_ready.fetch_or(told, Ordering::Relaxed);
        told
    }

    /// The settings were read again, or cannot be used.
    pub(crate) fn reloaded(&self) {
        if self.is_ready.load(Ordering::Relaxed) {
            self.ready();
        }
    }

    /// The settings are being read again, until [`Self::reloaded`]. The time tells systemd which order is meant.
    pub(crate) fn reloading(&self) {
        if !self.is_ready.load(Ordering::Relaxed) {
            return;
        }
        let now = clock_gettime(ClockId::Monotonic);
        let us = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    /// The member leaves, which takes so long at most.
    pub(crate) fn stopping(&self, within: Duration) {
        let extend = within.as_micros();
        self.tell(&format!(
            "STOPPING=1\nSTATUS=Leaving: what runs is finished\nEXTEND_TIMEOUT_USEC={extend}"
        ));
    }

    /// It still starts, and will say so again within this time.
    pub(crate) fn starting(&self, again_within: Duration) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}", again_within.as_micros()));
    }

    /// A sign of life.
    pub(crate) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// How things are, for a person.
    pub(crate) fn status(&self, text: &str) {
        let line: String = text.chars().filter(|c| !c.is_control()).take(STATUS_CHARS_MAX).collect();
        self.tell(&format!("STATUS={line}"));
    }

    fn tell(&self, lines: &str) -> bool {
        let Some((from, to)) = &self.to else { return true };
        match from.send_to_addr(lines.as_bytes(), to) {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, lines, "the supervisor was not told");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<'a>(socket: &'a str, watchdog_us: Option<&'a str>, pid: Option<&'a str>) -> Said<'a> {
        Said {
            socket: Some(OsStr::new(socket)),
            watchdog_us: watchdog_us.map(OsStr::new),
            watchdog_pid: pid.map(OsStr::new),
        }
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = socket.recv(&mut bytes).expect("it was sent");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_supervisor_hears_by_a_path_and_by_an_abstract_name() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("free");
        let name = format!("lineside-notify-{}", std::process::id());
        let abstracted = SocketAddr::from_abstract_name(&name).expect("short");
        let by_name = UnixDatagram::bind_addr(&abstracted).expect("free");
        for (socket, at) in [(&by_path, path.display().to_string()), (&by_name, format!("@{name}"))] {
            let supervisor = Supervisor::of(&said(&at, None, None), 7).expect("an address");
            supervisor.reloading();
            supervisor.reloaded();
            assert!(supervisor.listens() && supervisor.ready(), "and this is the first that is heard");
            assert_eq!(heard(socket), "READY=1");
            supervisor.reloading();
            let reloading = heard(socket);
            let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("with its time");
            assert!(time.parse::<u64>().is_ok_and(|us| 0 < us));
            supervisor.reloaded();
            assert_eq!(heard(socket), "READY=1");
            supervisor.status("two\nlines");
            assert_eq!(heard(socket), "STATUS=twolines");
            supervisor.stopping(Duration::from_secs(40));
            assert!(heard(socket).contains("STOPPING=1\n"));
            supervisor.alive();
            assert_eq!(heard(socket), "WATCHDOG=1");
        }
    }

    #[test]
    fn nobody_listens_where_nobody_is_named() {
        let none = Said { socket: None, watchdog_us: Some(OsStr::new("3000000")), watchdog_pid: None };
        let supervisor = Supervisor::of(&none, 7).expect("nothing wrong");
        assert!(!supervisor.listens() && supervisor.ready() && supervisor.watchdog().is_none());
        assert!(!Supervisor::of(&said("", None, None), 7).expect("nothing wrong").listens());
        assert!(Supervisor::of(&said("vsock:2:9", None, None), 7).is_err());
        let gone = Supervisor::of(&said("/no/such/socket", None, None), 7).expect("an address");
        assert!(!gone.ready(), "and is told again");
    }

    #[test]
    fn a_sign_of_life_is_given_by_the_process_that_is_meant() {
        let within = |us, pid| Supervisor::of(&said("/x", us, pid), 7).expect("an address").watchdog();
        assert_eq!(within(Some("10000000"), None), Some(Duration::from_secs(10)));
        assert_eq!(within(Some("10000000"), Some("7")), Some(Duration::from_secs(10)));
        for (us, pid) in [(Some("10000000"), Some("8")), (Some("0"), None), (Some("x"), None), (None, None)] {
            assert_eq!(within(us, pid), None, "{us:?} {pid:?}");
        }
    }
}
