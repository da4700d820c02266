//! An mDNS record made by hand, as anybody on the network may send it.
//!
//! The layout is that of discovery's hints. It is written down a second time here, because whoever forges a record does
//! not use our code.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use bytes::{BufMut as _, Bytes, BytesMut};
use lineside_wire::{ClusterId, NodeId};
use tokio::net::UdpSocket;

/// Where mDNS is spoken.
const GROUP: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);

/// How long a record holds, in seconds.
const HOLDS_FOR: u32 = 120;

/// Says that a member of a cluster is at an address.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Which member.
    pub node: NodeId,
    /// Where it is said to listen.
    pub address: SocketAddrV4,
}

impl Record {
    /// Sends the record to all who listen on the loopback interface.
    ///
    /// # Panics
    /// The system takes no multicast there.
    pub async fn announce(&self) {
        // Bound to loopback's address, its packets leave by that interface alone.
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        socket.send_to(&self.bytes(), SocketAddr::from(GROUP)).await.expect("multicast works on loopback");
    }

    fn bytes(&self) -> Bytes {
        const RESPONSE: u16 = 0x8400;
        let service = "_lineside._udp.local";
        let instance = format!("{}.{service}", self.node);
        let host = format!("lineside-{}.local", self.node);
        let mut message = BytesMut::new();
        // No id, no question, four answers.
        for number in [0, RESPONSE, 0, 4, 0, 0] {
            message.put_u16(number);
        }
        put(&mut message, service, Kind::Ptr, &name(&instance));
        let srv = [&[0; 4], &self.address.port().to_be_bytes()[..], &name(&host)].concat();
        put(&mut message, &instance, Kind::Srv, &srv);
        let told = [
            "txtvers=1".to_owned(),
            format!("c={}", self.cluster.short()),
            format!("n={}", self.node),
            "v=1".to_owned(),
        ];
        let text: Vec<u8> = told.iter().flat_map(|one| labelled(one)).collect();
        put(&mut message, &instance, Kind::Txt, &text);
        put(&mut message, &host, Kind::A, &self.address.ip().octets());
        message.freeze()
    }
}

#[derive(Clone, Copy)]
#[repr(u16)]
enum Kind {
    A = 1,
    Ptr = 12,
    Txt = 16,
    Srv = 33,
}

fn put(message: &mut BytesMut, owner: &str, kind: Kind, data: &[u8]) {
    const INTERNET: u16 = 1;
    message.put_slice(&name(owner));
    message.put_u16(kind as u16);
    message.put_u16(INTERNET);
    message.put_u32(HOLDS_FOR);
    message.put_u16(data.len().try_into().expect("a record of a few bytes"));
    message.put_slice(data);
}

/// A name as DNS writes it: each part with its length, and an empty one at the end.
fn name(name: &str) -> Vec<u8> {
    name.split('.').chain([""]).flat_map(labelled).collect()
}

fn labelled(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("a part of a name");
    [&[length], text.as_bytes()].concat()
}
