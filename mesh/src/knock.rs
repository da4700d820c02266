//! Whether a peer's port is open at all.
//!
//! A process that dies says nothing, but its system does: whoever sends to the port that it had is told that nobody
//! listens there, at once. QUIC must not believe that, because anybody can forge such a word, so it waits for its timeouts.
//! Here it ends a connection, and only when the peer owes an acknowledgement and nothing came for a while: the calls on it may
//! then be tried elsewhere at once. Who forges the word for a live peer has to guess a port within 20 ms, and costs a dial.
//!
//! A router or a firewall may say the same of a peer that lives, because it lets through only what belongs to a
//! connection that it knows. So there is a first knock while the peer is known to live: where that is refused, the word is
//! worth nothing.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use quinn::{Connection, ConnectionStats};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

/// Longest wait for the system of another machine on the LAN. Where a peer lives nothing comes, and all of it is waited.
const WORD_WITHIN: Duration = Duration::from_millis(20);

/// Too short for any QUIC packet: who listens drops it.
const KNOCK: &[u8] = &[0];

/// Whether the system of that machine says that nobody listens at this address. `false` when nothing is said: the peer
/// lives, or its machine is gone, too.
///
/// Sends one byte, and waits 20 ms at most. Cancel-safe.
async fn is_deserted(address: SocketAddr) -> bool {
    let word = async {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any).await.ok()?;
        // Of a connected socket alone the system tells what came back for it.
        socket.connect(address).await.ok()?;
        let told = match socket.send(KNOCK).await {
            Ok(_) => socket.recv(&mut [0; 64]).await.map(drop),
            Err(error) => Err(error),
        };
        Some(told.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
    };
    timeout(WORD_WITHIN, word).await.ok().flatten().unwrap_or(false)
}

/// How often a connection is looked at on which something was sent that is to be acknowledged. A live peer on a LAN does
/// so within half of it, even where QUIC holds the acknowledgement back.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The same for one on which nothing was: 256 members with their connections cost a thousand looks a second.
const LOOK_IDLE_EVERY: Duration = Duration::from_millis(250);

/// Waits until something was sent to the peer, nothing came back, and its system says that nobody listens there. Never
/// ends while the peer lives. `listens` says whether it can be reached where its packets come from: nobody else is knocked
/// at.
pub(crate) async fn until_deserted(connection: &Connection, listens: impl Fn() -> bool) {
    let mut debt = Debt::new(Traffic::of(&connection.stats()));
    let mut is_believed = false;
    loop {
        if !is_believed && debt.was_heard && listens() {
            if is_deserted(address_of(connection)).await {
                return std::future::pending().await;
            }
            is_believed = true;
        }
        sleep(debt.next_look()).await;
        let is_due = debt.look(Traffic::of(&connection.stats()));
        if is_due && is_believed && listens() && is_deserted(address_of(connection)).await {
            return;
        }
    }
}

/// Where its packets go now: a peer may have got another address since the handshake.
fn address_of(connection: &Connection) -> SocketAddr {
    let remote = connection.remote_address();
    SocketAddr::new(remote.ip().to_canonical(), remote.port())
}

/// What went over a connection so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Traffic {
    /// Frames that a peer has to acknowledge: those that all others come with, and what QUIC asks again with.
    asked: u64,
    /// Packets that came.
    heard: u64,
}

impl Traffic {
    const fn of(stats: &ConnectionStats) -> Self {
        let sent = &stats.frame_tx;
        Self { asked: sent.stream + sent.ping + sent.datagram, heard: stats.udp_rx.datagrams }
    }
}

/// Whether a peer owes an acknowledgement, from what went over its connection between two looks. QUIC asks again and again
/// for what is owed, so whatever was lost track of in a look with traffic both ways shows in the next.
#[derive(Clone, Copy, Debug)]
struct Debt {
    before: Traffic,
    /// Whether something came before the last look: it lived a moment ago.
    was_heard: bool,
    asked: bool,
    owes: bool,
}

impl Debt {
    /// Of a connection that has just been made.
    const fn new(before: Traffic) -> Self {
        Self { before, was_heard: true, asked: false, owes: false }
    }

    const fn next_look(&self) -> Duration {
        if self.asked || self.owes { LOOK_EVERY } else { LOOK_IDLE_EVERY }
    }

    /// Whether it is time to knock: the peer was asked before the last look, and nothing came since.
    fn look(&mut self, now: Traffic) -> bool {
        self.was_heard = now.heard != self.before.heard;
        self.asked = now.asked != self.before.asked;
        self.before = now;
        let is_due = self.owes && !self.was_heard;
        self.owes = !self.was_heard && (self.owes || self.asked);
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_nobody_has_any_more_is_told_from_one_that_lives_and_is_silent() {
        // Bound and never read: as a process that stands still.
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("bound");
        assert!(!is_deserted(address).await);
        drop(silent);
        assert!(is_deserted(address).await, "nobody is there");
    }

    /// What was sent, and what came, between one look and the next. Gives which looks are followed by a knock.
    fn knocks<const N: usize>(looks: [(u64, u64); N]) -> [bool; N] {
        let mut now = Traffic { asked: 7, heard: 7 };
        let mut debt = Debt::new(now);
        looks.map(|(asked, heard)| {
            now = Traffic { asked: now.asked + asked, heard: now.heard + heard };
            debt.look(now)
        })
    }

    #[test]
    fn nobody_knocks_where_nothing_is_owed() {
        assert_eq!(knocks([(0, 0), (1, 1), (0, 0), (0, 0), (1, 1), (0, 0)]), [false; 6], "kept alive");
        assert_eq!(
            knocks([(1, 0), (0, 1), (0, 0), (0, 3), (0, 0)]),
            [false; 5],
            "asked just before the look"
        );
        assert_eq!(knocks([(9, 9); 4]), [false; 4], "busy");
    }

    #[test]
    fn who_owes_is_knocked_at_until_it_is_heard() {
        assert_eq!(knocks([(1, 0), (1, 0), (0, 0), (0, 1), (0, 0)]), [false, true, true, false, false]);
        // It answered something first; QUIC asks again for the rest.
        assert_eq!(knocks([(1, 1), (1, 0), (1, 0)]), [false, false, true]);
    }

    #[test]
    fn a_connection_is_looked_at_often_only_while_something_is_sent() {
        let mut debt = Debt::new(Traffic { asked: 0, heard: 0 });
        assert_eq!(debt.next_look(), LOOK_IDLE_EVERY);
        debt.look(Traffic { asked: 1, heard: 0 });
        assert_eq!(debt.next_look(), LOOK_EVERY);
        debt.look(Traffic { asked: 1, heard: 1 });
        assert_eq!(debt.next_look(), LOOK_IDLE_EVERY);
    }
}
