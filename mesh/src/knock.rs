//! Whether a peer's port is open at all.
//!
//! A process that dies says nothing, but its system does: whoever sends to the port that it had is told that nobody
//! listens there, at once. QUIC must not believe that, because anybody can forge such a word, so it waits for its timeouts.
//! Here it ends a connection, and only when the peer owes an acknowledgement and nothing came for a while: the calls on it may
//! then be tried elsewhere at once. Who forges the word for a live peer has to guess a port within 20 ms, and costs a dial.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use quinn::Connection;
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

/// How often a connection on which something is sent is looked at. A live peer on a LAN acknowledges within a
/// tenth of it, so that calls are hardly ever answered later for the knock's sake.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The same for one on which nothing was sent: 256 members with their connections cost a thousand looks a second.
const LOOK_IDLE_EVERY: Duration = Duration::from_millis(250);

/// Waits until something was sent to the peer, nothing came back, and its system says that nobody listens there. Never
/// ends while the peer lives.
pub(crate) async fn until_deserted(connection: &Connection, remote: SocketAddr) {
    let mut before = connection.stats();
    // Whether the packets of the last look are owed an answer still.
    let mut owes = false;
    loop {
        let pause = if owes { LOOK_EVERY } else { LOOK_IDLE_EVERY };
        sleep(pause).await;
        let now = connection.stats();
        let (heard, sent) = (
            now.udp_rx.datagrams != before.udp_rx.datagrams,
            now.udp_tx.datagrams != before.udp_tx.datagrams,
        );
        before = now;
        if owes && !heard && is_deserted(remote).await {
            return;
        }
        owes = sent || (owes && !heard);
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
}
