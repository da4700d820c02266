//! Gossip packets made by hand, as somebody would who wants to harm the cluster.
//!
//! The layout is that of discovery's codec. It is written down a second time here, because whoever forges a packet
//! does not use our code.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut as _, Bytes, BytesMut};
use lineside_wire::{ClusterId, NodeId};

/// One life of a member, as gossip names it.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Who.
    pub node: NodeId,
    /// Which of its lives.
    pub epoch: u64,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What gossip says of a member.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Standing {
    /// It lives.
    Alive = 0,
    /// It may be dead.
    Suspect = 1,
    /// It is dead.
    Down = 2,
}

/// A packet of news.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The cluster that it is for.
    pub cluster: ClusterId,
    /// Who says it; nothing keeps a forger from writing somebody else here.
    pub from: Life,
    /// Whom it is said to.
    pub to: Life,
    /// What it says about members.
    pub news: Vec<(Life, Standing)>,
}

impl Packet {
    /// The packet as bytes.
    ///
    /// # Panics
    /// There is more news than a packet counts.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        const VERSION: u8 = 1;
        const GOSSIP: u8 = 8;
        let mut bytes = BytesMut::new();
        bytes.put_u8(VERSION);
        bytes.put_slice(&self.cluster.as_bytes()[..8]);
        put_life(&mut bytes, &self.from);
        bytes.put_u16(0);
        put_life(&mut bytes, &self.to);
        bytes.put_u8(GOSSIP);
        bytes.put_u16(self.news.len().try_into().expect("a packet of a few members"));
        for (life, standing) in &self.news {
            put_life(&mut bytes, life);
            bytes.put_u16(u16::MAX - 1);
            bytes.put_u8(*standing as u8);
        }
        bytes.freeze()
    }
}

fn put_life(bytes: &mut BytesMut, life: &Life) {
    bytes.put_slice(life.node.as_bytes());
    bytes.put_u64(life.epoch);
    match life.address.ip() {
        IpAddr::V4(ip) => {
            bytes.put_u8(4);
            bytes.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.put_u8(6);
            bytes.put_slice(&ip.octets());
        }
    }
    bytes.put_u16(life.address.port());
}
