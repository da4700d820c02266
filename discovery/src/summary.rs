//! What a member says of itself in gossip: small, often, and only about itself.
//!
//! Everything larger (the models, the certificate) is fetched by a call when [`MemberSummary::digest`] says that it
//! changed.
//! Members pass summaries on. One that comes from its owner outranks all hearsay, and an owner who hears a
//! number above its own goes past it: a forged summary lives until the owner's next word.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use bytes::{Buf, BufMut};
use lineside_wire::{EngineInfo, LoadReport, MemberState, ModelInfo, NodeId, TrustStamp};

use crate::{MEMBERS_MAX, identity::Identity};

/// First byte of a summary; other numbers are other kinds of news, ignored by members that do not know them.
const SUMMARY_KIND: u8 = 1;

/// Kind, node, epoch, sequence, revision, flags, load, digest, trust.
const SUMMARY_BYTES: usize = 1 + 16 + 8 + 8 + 8 + 1 + 20 + 8 + 16;

/// Longest summary that is read and passed on: a later release may say more behind what this one knows, and several must
/// fit one packet, whatever it says.
const SUMMARY_BYTES_MAX: usize = 160;

/// Largest broadcast of any kind: several must fit one packet.
pub(crate) const BROADCAST_BYTES_MAX: usize = 512;

/// How far past the number that is known one may be that others pass on: a member counts five a second. A single forged
/// summary must not use up all numbers that there are, so that the owner has none above it.
pub(crate) const SEQUENCE_JUMP_MAX: u64 = 1 << 32;

const FLAG_DRAINING: u8 = 1;
const FLAG_LEAVING: u8 = 2;
const FLAG_DOOR: u8 = 4;
const FLAG_CORDONED: u8 = 8;

/// One member's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberSummary {
    pub(crate) node: NodeId,
    pub(crate) epoch: u64,
    /// Counts the summaries of this epoch: the larger one is newer.
    pub(crate) sequence: u64,
    /// The revision of the member's state that this summarises.
    pub(crate) revision: u64,
    pub(crate) draining: bool,
    /// Kept from new work by an operator.
    pub(crate) cordoned: bool,
    /// Said once, at the very end: a member that goes down after this has left, it has not failed.
    pub(crate) leaving: bool,
    pub(crate) door: bool,
    pub(crate) load: LoadReport,
    /// Of the state's slow parts: see [`state_digest`].
    pub(crate) digest: u64,
    /// The newest trust list that it goes by: whoever has an older one asks it for this one.
    pub(crate) trust: TrustStamp,
}

/// Why bytes are no summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidSummary {
    #[error("a broadcast has {0} bytes; at most {BROADCAST_BYTES_MAX} are allowed")]
    TooLong(usize),
    #[error("a summary has {0} bytes; {SUMMARY_BYTES} to {SUMMARY_BYTES_MAX} are allowed")]
    Length(usize),
}

impl MemberSummary {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SUMMARY_BYTES);
        bytes.put_u8(SUMMARY_KIND);
        bytes.put_slice(self.node.as_bytes());
        bytes.put_u64(self.epoch);
        bytes.put_u64(self.sequence);
        bytes.put_u64(self.revision);
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        bytes.put_u8(
            flag(self.draining, FLAG_DRAINING)
                | flag(self.leaving, FLAG_LEAVING)
                | flag(self.door, FLAG_DOOR)
                | flag(self.cordoned, FLAG_CORDONED),
        );
        bytes.put_u32(self.load.running);
        bytes.put_u32(self.load.queued);
        bytes.put_u32(self.load.slots);
        bytes.put_u32(self.load.limit);
        bytes.put_u32(self.load.call_us);
        bytes.put_u64(self.digest);
        bytes.put_u64(self.trust.number);
        bytes.put_u64(self.trust.hash);
        bytes
    }

    /// Reads a summary; `Ok(None)` is a kind that this build does not know.
    ///
    /// Flags and bytes that it does not know are passed over: a later release says more there, and one summary that cannot be
    /// read would cost the rest of its packet.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Option<Self>, InvalidSummary> {
        if BROADCAST_BYTES_MAX < bytes.len() {
            return Err(InvalidSummary::TooLong(bytes.len()));
        }
        match bytes.first() {
            Some(&SUMMARY_KIND) if (SUMMARY_BYTES..=SUMMARY_BYTES_MAX).contains(&bytes.len()) => {
                bytes.advance(1);
            }
            Some(&SUMMARY_KIND) | None => return Err(InvalidSummary::Length(bytes.len())),
            Some(_) => return Ok(None),
        }
        let mut node = [0; 16];
        bytes.copy_to_slice(&mut node);
        let (epoch, sequence, revision) = (bytes.get_u64(), bytes.get_u64(), bytes.get_u64());
        let flags = bytes.get_u8();
        let load = LoadReport {
            running: bytes.get_u32(),
            queued: bytes.get_u32(),
            slots: bytes.get_u32(),
            limit: bytes.get_u32(),
            call_us: bytes.get_u32(),
        };
        Ok(Some(Self {
            node: NodeId::from_bytes(node),
            epoch,
            sequence,
            revision,
            draining: flags & FLAG_DRAINING != 0,
            cordoned: flags & FLAG_CORDONED != 0,
            leaving: flags & FLAG_LEAVING != 0,
            door: flags & FLAG_DOOR != 0,
            load,
            digest: bytes.get_u64(),
            trust: TrustStamp { number: bytes.get_u64(), hash: bytes.get_u64() },
        }))
    }
}

/// The newest summary of every member.
#[derive(Debug)]
pub(crate) struct Summaries {
    own: NodeId,
    newest: BTreeMap<NodeId, MemberSummary>,
    /// Largest sequence that others believe to be ours.
    own_heard: (u64, u64),
}

impl Summaries {
    pub(crate) fn new(own: NodeId) -> Self {
        Self { own, newest: BTreeMap::new(), own_heard: (0, 0) }
    }

    pub(crate) fn of(&self, node: NodeId) -> Option<&MemberSummary> {
        self.newest.get(&node)
    }

    pub(crate) fn len(&self) -> usize {
        self.newest.len()
    }

    /// The largest sequence heard of ourselves in `epoch`: the next summary must be above.
    pub(crate) fn own_heard(&self, epoch: u64) -> u64 {
        if self.own_heard.0 == epoch { self.own_heard.1 } else { 0 }
    }

    /// Forgets members that are no longer listed.
    pub(crate) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.newest.retain(|node, _| keep(*node));
    }

    /// Takes in a summary, and says whether it was news. `direct` when its owner sent it.
    fn accept(&mut self, summary: MemberSummary, direct: bool) -> bool {
        if summary.node == self.own {
            self.own_heard = self.own_heard.max((summary.epoch, summary.sequence));
            return false;
        }
        let version = |s: &MemberSummary| (s.epoch, s.sequence);
        match self.newest.get(&summary.node) {
            Some(known) if *known == summary => return false,
            // From the owner anything else is true, even a smaller number: the larger one was not the owner's.
            Some(_) if direct => {}
            Some(known) if version(&summary) <= version(known) => return false,
            Some(known)
                if known.epoch == summary.epoch
                    && known.sequence.saturating_add(SEQUENCE_JUMP_MAX) < summary.sequence =>
            {
                return false;
            }
            Some(_) => {}
            // Twice the members: down ones and their successors. More can only be invented.
            None if 2 * MEMBERS_MAX <= self.newest.len() => return false,
            None => {}
        }
        self.newest.insert(summary.node, summary);
        true
    }
}

/// Which broadcast replaces which: one per member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SummaryKey(NodeId);

impl foca::Invalidates for SummaryKey {
    fn invalidates(&self, other: &Self) -> bool {
        self == other
    }
}

/// Foca's ear for summaries. Shares them with [`crate::gossip::Gossip`], on the same thread, because foca
/// keeps its handler to itself.
#[derive(Debug)]
pub(crate) struct SummaryHandler(pub(crate) Rc<RefCell<Summaries>>);

impl foca::BroadcastHandler<Identity> for SummaryHandler {
    type Key = SummaryKey;
    type Error = InvalidSummary;

    fn receive_item(
        &mut self,
        data: &[u8],
        sender: Option<&Identity>,
    ) -> Result<Option<SummaryKey>, InvalidSummary> {
        let Some(summary) = MemberSummary::decode(data)? else { return Ok(None) };
        let Some(sender) = sender else {
            return Ok(Some(SummaryKey(summary.node))); // Our own: published, never heard.
        };
        let news = self.0.borrow_mut().accept(summary, sender.node == summary.node);
        Ok(news.then_some(SummaryKey(summary.node)))
    }
}

/// A number for what a member says of itself and no summary carries: its models, its certificate, its names. They change
/// seldom, and whoever knows another number asks for the state.
///
/// FNV-1a: equal states have equal numbers on every machine and in every build. It guards against missing a change, not
/// against malice: each member publishes its own.
pub(crate) fn state_digest(state: &MemberState) -> u64 {
    let mut digest = Fnv::new();
    digest.models(&state.models);
    digest.text(&state.name);
    digest.text(&state.software);
    digest.text(&state.http.as_ref().map(ToString::to_string).unwrap_or_default());
    digest.bytes(&state.certificate_expires.to_be_bytes());
    digest.bytes(&state.certificate_generation.to_be_bytes());
    digest.bytes(&[u8::from(state.authority)]);
    digest.0
}

struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn models(&mut self, models: &[ModelInfo]) {
        for model in models {
            self.text(model.name.as_str());
            self.bytes(&model.version.0.to_be_bytes());
            self.text(model.state.as_str());
            self.text(model.reason.as_deref().unwrap_or(""));
            self.bytes(&model.slots.to_be_bytes());
            for task in &model.tasks {
                self.text(task.as_str());
            }
            if let Some(engine) = &model.engine {
                self.engine(engine);
            }
            for (kind, specs) in [(0, &model.inputs), (1, &model.outputs)] {
                for spec in specs {
                    self.bytes(&[kind]);
                    self.text(&spec.name);
                    self.text(spec.datatype.as_str());
                    spec.shape.iter().for_each(|dimension| self.bytes(&dimension.to_be_bytes()));
                }
            }
        }
    }

    /// How a node runs a model. The warnings of a load change with the rest of it, or with the model's reason.
    fn engine(&mut self, engine: &EngineInfo) {
        for text in [&engine.sha256, &engine.provider, &engine.finding] {
            self.text(text);
        }
        self.bytes(&[u8::from(engine.on_demand), u8::from(engine.stateful)]);
        self.bytes(&[engine.priority_levels, engine.default_priority]);
        self.text(&engine.versions.as_ref().map(ToString::to_string).unwrap_or_default());
        self.bytes(&engine.rows_max.to_be_bytes());
        let joined = engine.batching.as_ref().map_or(0, |batching| batching.max_size);
        self.bytes(&engine.threads.to_be_bytes());
        self.bytes(&joined.to_be_bytes());
        let EngineInfo { file_bytes, memory_bytes, cache_bytes_max, sequence_idle_us, .. } = engine;
        for bytes in [file_bytes, memory_bytes, cache_bytes_max, sequence_idle_us] {
            self.bytes(&bytes.to_be_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Text with its length, so that two neighbours cannot trade letters.
    fn text(&mut self, text: &str) {
        // Eight bytes also where a length has four.
        self.bytes(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.bytes(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{ModelState, ModelVersion, Task, VersionPolicy};
    use proptest::prelude::*;

    use super::*;
    use crate::sim::{model, state_of};

    /// Behind kind, node, epoch, sequence and revision.
    const FLAGS_AT: usize = 1 + 16 + 8 + 8 + 8;

    const PRESS: NodeId = NodeId::from_bytes([1; 16]);
    const WELD: NodeId = NodeId::from_bytes([2; 16]);

    fn summary(node: NodeId, epoch: u64, sequence: u64) -> MemberSummary {
        MemberSummary {
            node,
            epoch,
            sequence,
            revision: 0,
            draining: false,
            cordoned: false,
            leaving: false,
            door: false,
            load: LoadReport::default(),
            digest: 0,
            trust: TrustStamp::default(),
        }
    }

    fn summaries() -> impl Strategy<Value = MemberSummary> {
        let numbers = any::<(u64, u64, u64, u64, u64, u64)>();
        (any::<[u8; 16]>(), numbers, any::<(bool, bool, bool)>(), any::<(u32, u32, u32)>()).prop_map(
            |(node, numbers, flags, load)| MemberSummary {
                node: NodeId::from_bytes(node),
                epoch: numbers.0,
                sequence: numbers.1,
                revision: numbers.2,
                draining: flags.0,
                cordoned: flags.0,
                leaving: flags.1,
                door: flags.2,
                load: LoadReport {
                    running: load.0,
                    queued: load.1,
                    slots: load.2,
                    limit: load.0 ^ load.1,
                    call_us: load.1 ^ load.2,
                },
                digest: numbers.3,
                trust: TrustStamp { number: numbers.4, hash: numbers.5 },
            },
        )
    }

    #[test]
    fn the_layout_is_the_one_that_is_written_down() {
        // docs/PROTOCOL.md, 11: other programs read these bytes.
        let summary = MemberSummary {
            draining: true,
            cordoned: false,
            door: true,
            load: LoadReport { running: 1, queued: 2, slots: 3, limit: 4, call_us: 5 },
            digest: 0x0d0d,
            trust: TrustStamp { number: 7, hash: 0x0abc },
            ..summary(WELD, 5, 9)
        };
        let hex: String = summary.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        let node = "02".repeat(16);
        assert_eq!(
            hex,
            format!(
                "01{node}00000000000000050000000000000009000000000000000005\
                 00000001000000020000000300000004000000050000000000000d0d00000000000000070000000000000abc"
            )
        );
    }

    #[test]
    fn one_that_says_more_is_passed_on_to_those_who_understand_it() {
        use foca::BroadcastHandler as _;
        let tag = crate::identity::ClusterTag(7);
        let sender = Identity::new(tag, WELD, "10.0.0.2:7443".parse().unwrap(), 2);
        let heard = Rc::new(RefCell::new(Summaries::new(PRESS)));
        let later = [summary(WELD, 2, 5).encode(), vec![0xa5; 8]].concat();
        // Foca passes on the bytes of whatever was news, as they came.
        let key = SummaryHandler(Rc::clone(&heard)).receive_item(&later, Some(&sender));
        assert_eq!(key, Ok(Some(SummaryKey(WELD))));
        assert_eq!(heard.borrow().of(WELD), Some(&summary(WELD, 2, 5)));
    }

    #[test]
    fn only_newer_hearsay_is_news() {
        let mut summaries = Summaries::new(PRESS);
        assert!(summaries.accept(summary(WELD, 2, 5), false));
        for old in [summary(WELD, 2, 5), summary(WELD, 2, 4), summary(WELD, 1, 9)] {
            assert!(!summaries.accept(old, false), "{old:?} was taken for news");
        }
        assert!(summaries.accept(summary(WELD, 3, 0), false));
    }

    #[test]
    fn the_owner_outranks_a_forged_summary() {
        let mut summaries = Summaries::new(PRESS);
        assert!(summaries.accept(summary(WELD, u64::MAX, u64::MAX), false));
        assert!(summaries.accept(summary(WELD, 2, 5), true));
        assert_eq!(summaries.of(WELD).map(|s| s.sequence), Some(5));
    }

    #[test]
    fn hearsay_of_a_number_far_past_the_owners_is_not_believed() {
        let mut summaries = Summaries::new(PRESS);
        assert!(summaries.accept(summary(WELD, 2, 5), false));
        assert!(!summaries.accept(summary(WELD, 2, u64::MAX), false));
        assert!(!summaries.accept(summary(WELD, 2, 6 + SEQUENCE_JUMP_MAX), false));
        assert!(summaries.accept(summary(WELD, 2, 5 + SEQUENCE_JUMP_MAX), false));
        assert!(summaries.accept(summary(WELD, 2, u64::MAX), true), "what the owner says of itself is true");
    }

    #[test]
    fn nobody_else_can_speak_for_us() {
        let mut summaries = Summaries::new(PRESS);
        assert!(!summaries.accept(summary(PRESS, 2, 70), false));
        assert_eq!(summaries.of(PRESS), None);
        assert_eq!(summaries.own_heard(2), 70);
        assert_eq!(summaries.own_heard(3), 0);
    }

    #[test]
    fn invented_members_cannot_fill_the_memory() {
        let mut summaries = Summaries::new(PRESS);
        let invented = |n: u128| summary(NodeId::from_bytes(n.to_be_bytes()), 1, 1);
        assert_eq!((1000..5000).filter(|n| summaries.accept(invented(*n), false)).count(), 2 * MEMBERS_MAX);
    }

    #[test]
    fn a_digest_tells_every_slow_change_and_no_fast_one() {
        let mut state = state_of(2, 1);
        state.models = vec![model("add")];
        let digest = state_digest(&state);
        let add = &state.models[0];
        let with_engine = |engine| vec![ModelInfo { engine: Some(Box::new(engine)), ..add.clone() }];
        let models = [
            vec![],
            vec![ModelInfo { name: "adds".parse().unwrap(), ..add.clone() }],
            vec![ModelInfo { version: ModelVersion(2), ..add.clone() }],
            vec![ModelInfo { state: ModelState::Unavailable, ..add.clone() }],
            vec![ModelInfo { reason: Some("damaged".into()), ..add.clone() }],
            vec![ModelInfo { slots: 7, ..add.clone() }],
            vec![ModelInfo { tasks: vec![Task::Embed], ..add.clone() }],
            with_engine(EngineInfo::default()),
            with_engine(EngineInfo { on_demand: true, ..EngineInfo::default() }),
            with_engine(EngineInfo { versions: Some(VersionPolicy::All), ..EngineInfo::default() }),
            with_engine(EngineInfo { rows_max: 8, ..EngineInfo::default() }),
            with_engine(EngineInfo { sha256: "00".into(), ..EngineInfo::default() }),
        ];
        let other_models = models.map(|models| MemberState { models, ..state.clone() });
        let others = [
            MemberState { name: "weld".into(), ..state.clone() },
            MemberState { software: "0.2.0".into(), ..state.clone() },
            MemberState { http: Some(state.address), ..state.clone() },
            MemberState { certificate_expires: 7, ..state.clone() },
            MemberState { certificate_generation: 2, ..state.clone() },
            MemberState { authority: true, ..state.clone() },
        ];
        for changed in other_models.iter().chain(&others) {
            assert_ne!(state_digest(changed), digest, "{changed:?}");
        }
        let load = LoadReport { running: 9, queued: 9, slots: 9, limit: 0, call_us: 0 };
        let trust = TrustStamp { number: 9, hash: 9 };
        let fast = MemberState { load, trust, draining: true, door: true, revision: 9, epoch: 9, ..state };
        assert_eq!(state_digest(&fast), digest);
    }

    proptest! {
        #[test]
        fn every_summary_comes_back_as_it_was(summary in summaries()) {
            let bytes = summary.encode();
            prop_assert_eq!(bytes.len(), SUMMARY_BYTES);
            prop_assert_eq!(MemberSummary::decode(&bytes), Ok(Some(summary)));
        }

        #[test]
        fn a_summary_that_is_cut_or_far_too_long_is_refused(summary in summaries(), bytes in 0..SUMMARY_BYTES) {
            let whole = summary.encode();
            // Cut anywhere, also where a summary without a trust list would end.
            prop_assert_eq!(MemberSummary::decode(&whole[..bytes]), Err(InvalidSummary::Length(bytes)));
            let long = [&whole[..], &[0; SUMMARY_BYTES_MAX + 1 - SUMMARY_BYTES]].concat();
            prop_assert_eq!(MemberSummary::decode(&long), Err(InvalidSummary::Length(SUMMARY_BYTES_MAX + 1)));
            // Another kind is other news, and none of ours.
            let mut other = whole;
            other[0] = SUMMARY_KIND + 1;
            prop_assert_eq!(MemberSummary::decode(&other), Ok(None));
        }

        #[test]
        fn what_a_later_release_says_besides_does_not_keep_this_one_from_reading_the_rest(
            summary in summaries(),
            more in prop::collection::vec(any::<u8>(), 0..=SUMMARY_BYTES_MAX - SUMMARY_BYTES),
            flags in 0..16_u8,
        ) {
            let mut later = [summary.encode(), more].concat();
            later[FLAGS_AT] |= flags << 4;
            prop_assert_eq!(MemberSummary::decode(&later), Ok(Some(summary)));
        }

        #[test]
        fn no_bytes_can_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = MemberSummary::decode(&bytes);
        }
    }
}
