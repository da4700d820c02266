//! SWIM packets in bytes: compact, fixed-size fields, big-endian, strict on the way in.
//!
//! ```text
//! packet   = version(1) cluster-tag(8) source(identity) incarnation(2) target(identity) message
//!            [ count(2) member* ] [ (length(2) summary)* ]
//! identity = node(16) epoch(8) family(1: 4 or 6) ip(4 or 16) port(2)
//! message  = kind(1) [ probe(1) ] [ identity ]        member = identity incarnation(2) state(1)
//! ```
//!
//! The cluster is named once per packet: identities of two clusters cannot meet in one. Count, members and
//! summaries are framed by foca; [`Packet::parse`] reads the same frame, so that a packet is judged before
//! foca acts on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};
use lineside_wire::NodeId;

use crate::identity::{ClusterTag, Identity, canonical, is_dialable};

/// First byte of every packet; another number is another layout.
const PACKET_VERSION: u8 = 1;

/// Node id, epoch, address family.
const IDENTITY_HEAD_BYTES: usize = 16 + 8 + 1;

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("the packet ends early")]
    Short,
    #[error("packet version {0} is unknown; this build speaks {PACKET_VERSION}")]
    Version(u8),
    #[error("the packet belongs to another cluster")]
    ForeignCluster,
    #[error("{field} cannot be {value}")]
    Value { field: &'static str, value: u8 },
    #[error("an address in the packet cannot be a member's")]
    Address,
    #[error("the packet goes on after its end")]
    Trailing,
    #[error("no room is left in the packet")]
    Full,
}

/// Writes and reads packets of one cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codec {
    cluster: ClusterTag,
}

impl Codec {
    pub(crate) fn new(cluster: ClusterTag) -> Self {
        Self { cluster }
    }

    fn put_identity(identity: &Identity, buf: &mut impl BufMut) {
        buf.put_slice(identity.node.as_bytes());
        buf.put_u64(identity.epoch);
        match identity.address.ip() {
            IpAddr::V4(ip) => {
                buf.put_u8(4);
                buf.put_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                buf.put_u8(6);
                buf.put_slice(&ip.octets());
            }
        }
        buf.put_u16(identity.address.port());
    }

    fn get_identity(self, buf: &mut impl Buf) -> Result<Identity, CodecError> {
        let mut node = [0; 16];
        get_slice(buf, &mut node)?;
        let epoch = buf.try_get_u64().map_err(|_| CodecError::Short)?;
        let ip = match get_u8(buf)? {
            4 => {
                let mut octets = [0; 4];
                get_slice(buf, &mut octets)?;
                IpAddr::V4(Ipv4Addr::from(octets))
            }
            6 => {
                let mut octets = [0; 16];
                get_slice(buf, &mut octets)?;
                IpAddr::V6(Ipv6Addr::from(octets))
            }
            value => return Err(CodecError::Value { field: "address family", value }),
        };
        let address = SocketAddr::new(ip, get_u16(buf)?);
        if canonical(address) != address || !is_dialable(address) {
            return Err(CodecError::Address);
        }
        Ok(Identity::new(self.cluster, NodeId::from_bytes(node), address, epoch))
    }

    fn get_message(self, buf: &mut impl Buf) -> Result<Message<Identity>, CodecError> {
        Ok(match get_u8(buf)? {
            0 => Message::Ping(get_u8(buf)?),
            1 => Message::Ack(get_u8(buf)?),
            2 => Message::PingReq { probe_number: get_u8(buf)?, target: self.get_identity(buf)? },
            3 => Message::IndirectPing { probe_number: get_u8(buf)?, origin: self.get_identity(buf)? },
            4 => Message::IndirectAck { probe_number: get_u8(buf)?, target: self.get_identity(buf)? },
            5 => Message::ForwardedAck { probe_number: get_u8(buf)?, origin: self.get_identity(buf)? },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            10 => Message::TurnUndead,
            value => return Err(CodecError::Value { field: "message kind", value }),
        })
    }

    fn header(self, buf: &mut impl Buf) -> Result<Header<Identity>, CodecError> {
        match get_u8(buf)? {
            PACKET_VERSION => {}
            other => return Err(CodecError::Version(other)),
        }
        if buf.try_get_u64().map_err(|_| CodecError::Short)? != self.cluster.0 {
            return Err(CodecError::ForeignCluster);
        }
        Ok(Header {
            src: self.get_identity(buf)?,
            src_incarnation: get_u16(buf)?,
            dst: self.get_identity(buf)?,
            message: self.get_message(buf)?,
        })
    }

    fn member(self, buf: &mut impl Buf) -> Result<Member<Identity>, CodecError> {
        let id = self.get_identity(buf)?;
        let incarnation = get_u16(buf)?;
        let state = match get_u8(buf)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            value => return Err(CodecError::Value { field: "member state", value }),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

impl foca::Codec<Identity> for Codec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Identity>, mut buf: impl BufMut) -> Result<(), CodecError> {
        let third = match &header.message {
            Message::PingReq { target: id, .. }
            | Message::IndirectPing { origin: id, .. }
            | Message::IndirectAck { target: id, .. }
            | Message::ForwardedAck { origin: id, .. } => Some(id),
            Message::Ping(_)
            | Message::Ack(_)
            | Message::Announce
            | Message::Feed
            | Message::Gossip
            | Message::Broadcast
            | Message::TurnUndead => None,
        };
        let identities =
            identity_len(&header.src) + identity_len(&header.dst) + third.map_or(0, identity_len);
        if buf.remaining_mut() < 1 + 8 + 2 + 2 + identities {
            return Err(CodecError::Full);
        }
        buf.put_u8(PACKET_VERSION);
        buf.put_u64(self.cluster.0);
        Self::put_identity(&header.src, &mut buf);
        buf.put_u16(header.src_incarnation);
        Self::put_identity(&header.dst, &mut buf);
        let (kind, probe) = match header.message {
            Message::Ping(probe) => (0, Some(probe)),
            Message::Ack(probe) => (1, Some(probe)),
            Message::PingReq { probe_number, .. } => (2, Some(probe_number)),
            Message::IndirectPing { probe_number, .. } => (3, Some(probe_number)),
            Message::IndirectAck { probe_number, .. } => (4, Some(probe_number)),
            Message::ForwardedAck { probe_number, .. } => (5, Some(probe_number)),
            Message::Announce => (6, None),
            Message::Feed => (7, None),
            Message::Gossip => (8, None),
            Message::Broadcast => (9, None),
            Message::TurnUndead => (10, None),
        };
        buf.put_u8(kind);
        if let Some(probe) = probe {
            buf.put_u8(probe);
        }
        if let Some(id) = third {
            Self::put_identity(id, &mut buf);
        }
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, CodecError> {
        self.header(&mut buf)
    }

    fn encode_member(&mut self, member: &Member<Identity>, mut buf: impl BufMut) -> Result<(), CodecError> {
        // Checked first: nothing may be left behind when the member does not fit.
        if buf.remaining_mut() < identity_len(member.id()) + 2 + 1 {
            return Err(CodecError::Full);
        }
        Self::put_identity(member.id(), &mut buf);
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, CodecError> {
        self.member(&mut buf)
    }
}

/// A packet taken apart, to be judged before foca sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) header: Header<Identity>,
    /// What the sender says about members, itself among them.
    pub(crate) members: Vec<Member<Identity>>,
    /// The summaries, still framed.
    pub(crate) tail: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Takes a packet apart. Memory is bounded by the packet's own length.
    pub(crate) fn parse(codec: Codec, mut bytes: &'a [u8]) -> Result<Self, CodecError> {
        let header = codec.header(&mut bytes)?;
        let mut members = Vec::new();
        match header.message {
            Message::Announce | Message::TurnUndead if !bytes.is_empty() => return Err(CodecError::Trailing),
            Message::Announce | Message::TurnUndead | Message::Broadcast => {}
            _ if bytes.is_empty() => {}
            _ => {
                for _ in 0..get_u16(&mut bytes)? {
                    members.push(codec.member(&mut bytes)?);
                }
            }
        }
        Ok(Self { header, members, tail: bytes })
    }

    /// The packet in bytes again, after members were taken out.
    pub(crate) fn write(&self, mut codec: Codec) -> Result<Vec<u8>, CodecError> {
        use foca::Codec as _;
        let mut bytes = Vec::new();
        codec.encode_header(&self.header, &mut bytes)?;
        if !matches!(self.header.message, Message::Announce | Message::TurnUndead | Message::Broadcast) {
            bytes.put_u16(u16::try_from(self.members.len()).map_err(|_| CodecError::Full)?);
            for member in &self.members {
                codec.encode_member(member, &mut bytes)?;
            }
        }
        bytes.put_slice(self.tail);
        Ok(bytes)
    }
}

fn identity_len(identity: &Identity) -> usize {
    IDENTITY_HEAD_BYTES + if identity.address.is_ipv4() { 4 + 2 } else { 16 + 2 }
}

fn get_u8(buf: &mut impl Buf) -> Result<u8, CodecError> {
    buf.try_get_u8().map_err(|_| CodecError::Short)
}

fn get_u16(buf: &mut impl Buf) -> Result<u16, CodecError> {
    buf.try_get_u16().map_err(|_| CodecError::Short)
}

fn get_slice(buf: &mut impl Buf, into: &mut [u8]) -> Result<(), CodecError> {
    buf.try_copy_to_slice(into).map_err(|_| CodecError::Short)
}

#[cfg(test)]
mod tests {
    use foca::Codec as _;
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: ClusterTag = ClusterTag(0x1122_3344_5566_7788);

    fn identities() -> impl Strategy<Value = Identity> {
        let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
        let v6 = any::<[u8; 16]>().prop_map(IpAddr::from);
        (any::<[u8; 16]>(), any::<u64>(), prop_oneof![v4, v6], 1..=u16::MAX)
            .prop_map(|(node, epoch, ip, port)| {
                Identity::new(CLUSTER, NodeId::from_bytes(node), SocketAddr::new(ip, port), epoch)
            })
            .prop_filter("only addresses of hosts", |identity| is_dialable(identity.address))
    }

    fn messages() -> impl Strategy<Value = Message<Identity>> {
        (0..11_u8, any::<u8>(), identities()).prop_map(|(kind, probe_number, id)| match kind {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: id, probe_number },
            3 => Message::IndirectPing { origin: id, probe_number },
            4 => Message::IndirectAck { target: id, probe_number },
            5 => Message::ForwardedAck { origin: id, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            _ => Message::TurnUndead,
        })
    }

    fn members() -> impl Strategy<Value = Member<Identity>> {
        let states = prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Down)];
        (identities(), any::<u16>(), states)
            .prop_map(|(id, incarnation, state)| Member::new(id, incarnation, state))
    }

    fn packets() -> impl Strategy<Value = Packet<'static>> {
        let header = (identities(), any::<u16>(), identities(), messages())
            .prop_map(|(src, src_incarnation, dst, message)| Header { src, src_incarnation, dst, message });
        (header, prop::collection::vec(members(), 0..20)).prop_map(|(header, mut members)| {
            if matches!(header.message, Message::Announce | Message::TurnUndead | Message::Broadcast) {
                members.clear();
            }
            Packet { header, members, tail: &[] }
        })
    }

    proptest! {
        #[test]
        fn every_packet_comes_back_as_it_was(packet in packets()) {
            let codec = Codec::new(CLUSTER);
            let bytes = packet.write(codec).expect("a packet fits");
            prop_assert_eq!(Packet::parse(codec, &bytes), Ok(packet));
        }

        #[test]
        fn no_bytes_can_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            let _ = Packet::parse(Codec::new(CLUSTER), &bytes);
        }

        #[test]
        fn a_damaged_packet_is_refused_or_reads_as_another_whole_one(
            packet in packets(), at in any::<prop::sample::Index>(), flip in 1..=u8::MAX,
        ) {
            let codec = Codec::new(CLUSTER);
            let mut bytes = packet.write(codec).expect("a packet fits");
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(read) = Packet::parse(codec, &bytes) {
                prop_assert_eq!(read.write(codec).expect("a packet fits"), bytes);
            }
        }

        #[test]
        fn a_cut_header_is_refused(packet in packets(), cut in any::<prop::sample::Index>()) {
            let mut codec = Codec::new(CLUSTER);
            let mut bytes = Vec::new();
            codec.encode_header(&packet.header, &mut bytes).expect("a header fits");
            bytes.truncate(cut.index(bytes.len()));
            prop_assert_eq!(Packet::parse(codec, &bytes), Err(CodecError::Short));
        }

        #[test]
        fn a_member_without_room_leaves_nothing_behind(member in members(), room in 0..60_usize) {
            let mut buf = Vec::new().limit(room);
            let fits = Codec::new(CLUSTER).encode_member(&member, &mut buf).is_ok();
            let written = buf.into_inner();
            prop_assert_eq!(fits, !written.is_empty());
        }
    }

    #[test]
    fn a_packet_of_another_cluster_is_refused_by_its_tag() {
        let id =
            |node| Identity::new(CLUSTER, NodeId::from_bytes([node; 16]), "10.0.0.1:1".parse().unwrap(), 1);
        let header = Header { src: id(1), src_incarnation: 0, dst: id(2), message: Message::Announce };
        let bytes = Packet { header, members: vec![], tail: &[] }.write(Codec::new(ClusterTag(9))).unwrap();
        assert_eq!(Packet::parse(Codec::new(CLUSTER), &bytes), Err(CodecError::ForeignCluster));
    }
}
