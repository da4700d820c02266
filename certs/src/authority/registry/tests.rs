use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use lineside_wire::{API_KEYS_MAX, API_KEYS_REVOKED_MAX, REVOKED_MAX, Role};
use proptest::prelude::*;
use serde_bytes::ByteArray;

use super::*;
use crate::{ApiKeyId, ApiKeyState, TokenId, TokenState, x509::since_1970};

/// Registry of one cluster, with lists that nobody signed.
struct Desk {
    registry: Registry,
    /// Two that sign the same list get different bytes.
    hand: u64,
    now: u64,
}

impl Desk {
    fn new() -> Self {
        let mut desk = Self {
            registry: Registry::new(ClusterId::from_bytes([1; 16]), "plant", [1; 32]),
            hand: 0,
            now: 1_000,
        };
        desk.publish(0);
        desk
    }

    fn now(&self) -> SystemTime {
        since_1970(self.now)
    }

    fn publish(&mut self, above: u64) {
        let plan = self.registry.plan(above, self.now());
        let mut hasher = DefaultHasher::new();
        (format!("{plan:?}"), self.hand).hash(&mut hasher);
        let hash = hasher.finish();
        let published =
            Published { number: plan.number, hash, signed_at: plan.signed_at, ..Published::default() };
        self.registry.publish(published);
    }

    fn token(&mut self, id: u8, lifetime: u64) -> bool {
        let token = NewToken {
            id: TokenId([id; 8]),
            key: [id; 32],
            role: Role::Node,
            name: None,
            expires: self.now + lifetime,
        };
        self.registry.add_token(token, self.now()).is_ok()
    }

    /// As the driver joins; gives the serial number that is told.
    fn join(&mut self, id: u8, key: u8) -> Option<String> {
        let token = TokenId([id; 8]);
        self.registry.admit(token, Role::Node, self.now()).ok()?;
        if let Some(used) = self.registry.answer_of(token, &[key; 32]).ok()? {
            return Some(used.serial.clone());
        }
        let row = self.issue(u64::from(id) << 32 | self.now, 100_000);
        let (node, serial) = (row.node, row.serial.clone());
        let used = Used { at: self.now, node, key: [key; 32], serial, certificates: Vec::new() };
        self.registry.use_token(token, used).ok()?;
        Some(row.serial)
    }

    fn issue(&mut self, what: u64, lifetime: u64) -> IssuedRow {
        let node = NodeId::from_bytes((what as u128).to_be_bytes());
        let row = IssuedRow {
            serial: format!("40{what:030x}"),
            node,
            role: Role::Node,
            name: "press".to_owned(),
            generation: self.registry.issuing().number,
            issued: self.now,
            not_after: self.now + lifetime,
            revoked: None,
        };
        self.registry.record(row.clone(), self.now());
        row
    }

    /// Makes an API key; false when there is no room.
    fn make_key(&mut self, id: u64, expires: Option<u64>) -> bool {
        let key = ApiKey {
            id: ByteArray::new(id.to_be_bytes()),
            hash: ByteArray::new([1; 32]),
            name: "press-7".to_owned(),
            models: vec!["*".to_owned()],
            methods: vec!["infer".to_owned()],
            expires,
            rate: None,
            burst: None,
        };
        self.registry.add_key(&key, self.now()).is_ok()
    }

    /// The same, and publishes it.
    fn key(&mut self, id: u64, expires: Option<u64>) -> bool {
        let made = self.make_key(id, expires);
        if made {
            self.publish(0);
        }
        made
    }

    fn revoke_key(&mut self, id: u64) -> bool {
        let revoked = self.registry.revoke_key(ApiKeyId(id.to_be_bytes()), self.now()).is_some();
        if revoked {
            self.publish(0);
        }
        revoked
    }

    /// The keys that the list in force says are good.
    fn live(&self) -> Vec<u64> {
        let seen = self.seen();
        seen.keys.live.keys().map(|id| u64::from_be_bytes(*id)).collect()
    }

    fn seen(&self) -> Seen {
        let plan = self.registry.plan(0, self.now());
        let authorities =
            plan.authorities.into_iter().zip(&self.registry.generations).map(|((number, revoked), one)| {
                let (fingerprint, crl_number) = (one.fingerprint, one.crl_number);
                SeenAuthority { generation: number, fingerprint, crl_number, revoked }
            });
        Seen {
            published: self.registry.trust.clone(),
            authorities: authorities.collect(),
            nodes: plan.revoked_nodes.into_iter().collect(),
            keys: self.registry.keys_of_list(self.now),
        }
    }

    fn merge(&mut self, seen: &Seen) -> Merged {
        let merged = self.registry.merge(seen, Duration::from_secs(100_000), self.now()).unwrap();
        if let Merged::Publish(above) = merged {
            self.publish(above);
        }
        merged
    }
}

#[test]
fn a_registry_reads_as_it_was_written() {
    let mut desk = Desk::new();
    desk.token(1, 100);
    desk.join(1, 1).unwrap();
    desk.registry.begin_rotation([2; 32]);
    desk.registry.revoke_node(NodeId::from_bytes([9; 16]), desk.now()).unwrap();
    assert!(
        !desk.registry.to_json().contains("keys\""),
        "one without keys reads for releases that knew none"
    );
    assert!(desk.key(1, None) && desk.key(2, Some(5_000)) && desk.revoke_key(2));
    assert_eq!(Registry::from_json(&desk.registry.to_json()).unwrap(), desk.registry);
}

#[test]
fn a_registry_that_says_more_or_less_than_it_can_is_refused() {
    let text = Desk::new().registry.to_json();
    for wrong in [
        text.replace("\"layout\":1", "\"layout\":2"),
        text.replace("\"number\":1,\"hash\"", "\"number\":0,\"hash\""),
        text.replace("\"tokens\"", "\"coins\""),
        text[..text.len() - 3].to_owned(),
        text.clone() + "x",
    ] {
        assert!(Registry::from_json(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn open_tokens_have_a_bound_and_used_ones_make_room() {
    let mut desk = Desk::new();
    for id in 0..=u8::MAX {
        assert!(desk.token(id, 100));
    }
    assert_eq!(usize::from(u8::MAX) + 1, OPEN_TOKENS_MAX);
    assert!(!desk.token(0, 100));
    assert!(desk.registry.revoke_token(TokenId([7; 8]), desk.now()));
    assert!(desk.token(7, 100));
    desk.now += 100;
    assert!(desk.token(8, 100), "expired ones do not count");
}

#[test]
fn closed_tokens_are_forgotten_oldest_first() {
    let mut desk = Desk::new();
    for _ in 0..=CLOSED_TOKENS_MAX {
        assert!(desk.token(1, 100));
        assert!(desk.registry.revoke_token(TokenId([1; 8]), desk.now()));
    }
    assert!(desk.token(2, 100));
    let rows = desk.registry.token_rows(desk.now());
    assert_eq!((rows.len(), rows[0].state), (CLOSED_TOKENS_MAX + 1, TokenState::Open));
}

#[test]
fn certificates_that_are_over_are_forgotten_first() {
    let mut desk = Desk::new();
    for what in 0..10 {
        desk.issue(what, 1);
    }
    desk.now += DAY + 1;
    for what in 10..ISSUED_MAX as u64 + 10 {
        desk.issue(what, 100);
    }
    let oldest = |desk: &Desk| desk.registry.issued().pop().unwrap().serial;
    assert_eq!((desk.registry.issued().len(), oldest(&desk)), (ISSUED_MAX, format!("40{:030x}", 10)));
    desk.issue(1 << 40, 100);
    assert_eq!((desk.registry.issued().len(), oldest(&desk)), (ISSUED_MAX, format!("40{:030x}", 11)));
}

#[test]
fn revocations_have_a_bound_and_what_is_over_makes_room() {
    let mut desk = Desk::new();
    for what in 0..REVOKED_MAX as u64 {
        let row = desk.issue(what, 100);
        desk.registry.revoke_serial(&row.serial, Duration::ZERO, desk.now()).unwrap();
    }
    let before = desk.registry.clone();
    let one_more = desk.registry.revoke_node(NodeId::from_bytes([9; 16]), desk.now());
    assert_eq!((one_more, desk.registry == before), (Err(ListFull), true));
    desk.now += DAY + 100;
    desk.registry.revoke_node(NodeId::from_bytes([9; 16]), desk.now()).unwrap();
}

#[test]
fn a_node_with_any_number_of_certificates_can_be_revoked_and_leaves_room_for_others() {
    let mut desk = Desk::new();
    let node = NodeId::from_bytes([7; 16]);
    for what in 0..REVOKED_MAX as u64 + 10 {
        let row = IssuedRow { node, serial: format!("41{what:030x}"), ..desk.issue(what, 100) };
        desk.registry.record(row, desk.now());
    }
    let revoked = desk.registry.revoke_node(node, desk.now()).unwrap();
    assert_eq!(revoked.rows.len(), REVOKED_MAX + 10);
    assert!(revoked.rows.iter().all(|row| row.revoked.is_some()));
    let listed = desk.registry.serials_of(1);
    assert_eq!(listed.len(), REVOKED_MAX / 2 - 1);
    assert!(listed.iter().any(|(serial, _)| *serial == format!("41{:030x}", REVOKED_MAX + 9)), "the newest");
    desk.registry.revoke_node(NodeId::from_bytes([8; 16]), desk.now()).unwrap();
}

#[test]
fn a_node_waits_until_its_newest_certificate_is_of_the_new_generation() {
    let mut desk = Desk::new();
    let (press, weld) = (desk.issue(1, 100), desk.issue(2, 100));
    desk.issue(3, 10);
    desk.registry.begin_rotation([2; 32]);
    desk.now += 10;
    desk.issue(1, 100);
    let waiting = desk.registry.rotation(desk.now()).waiting;
    assert_eq!(waiting.iter().collect::<Vec<_>>(), [&weld], "one renewed, one is over");
    desk.registry.revoke_node(weld.node, desk.now()).unwrap();
    assert!(desk.registry.rotation(desk.now()).waiting.is_empty());
    assert_eq!(press.generation, 1);
}

#[test]
fn a_key_is_in_force_until_a_day_after_its_end_and_listed_until_it_is_removed() {
    let mut desk = Desk::new();
    let states = |desk: &Desk| -> Vec<_> {
        desk.registry.key_rows(desk.now()).into_iter().map(|row| row.state).collect()
    };
    assert!(desk.key(1, Some(desk.now + 100)) && desk.key(2, None));
    desk.now += 100;
    assert_eq!((states(&desk), desk.live()), (vec![ApiKeyState::Live, ApiKeyState::Expired], vec![1, 2]));
    desk.now += DAY;
    assert_eq!((states(&desk).len(), desk.live()), (2, vec![2]));
    assert!(desk.revoke_key(1) && !desk.revoke_key(1) && desk.revoke_key(2));
    assert!(desk.live().is_empty());
    // What is long over needs no word any more; the other could come back from a copy for ever.
    assert_eq!(desk.seen().keys.revoked.len(), 1);
    assert_eq!(states(&desk), [ApiKeyState::Revoked], "the one that was in force");
    desk.now += DAY;
    assert!(states(&desk).is_empty());
}

#[test]
fn keys_have_a_bound_and_what_is_over_makes_room() {
    let mut desk = Desk::new();
    for id in 0..API_KEYS_MAX as u64 {
        assert!(desk.make_key(id, (id == 7).then_some(desk.now + 10)));
    }
    assert!(!desk.make_key(1 << 40, None));
    desk.now += DAY + 10;
    assert!(desk.make_key(1 << 40, None) && !desk.make_key(1 << 41, None));
}

#[test]
fn a_key_can_be_taken_back_however_many_were_before() {
    let mut desk = Desk::new();
    for id in 0..API_KEYS_REVOKED_MAX as u64 + 10 {
        desk.now += 1;
        assert!(desk.make_key(id, None));
        assert!(desk.registry.revoke_key(ApiKeyId(id.to_be_bytes()), desk.now()).is_some());
    }
    let gone = desk.seen().keys.revoked;
    assert_eq!(gone.len(), API_KEYS_REVOKED_MAX);
    assert_eq!(gone.keys().next(), Some(&10_u64.to_be_bytes()), "the oldest are forgotten first");
}

#[test]
fn keys_of_both_holders_stay_and_what_either_took_back_is_gone() {
    let mut one = Desk::new();
    assert!(one.key(1, None) && one.key(2, None) && one.key(3, None));
    let mut two = Desk { registry: one.registry.clone(), hand: 1, now: one.now };
    assert!(one.revoke_key(1) && one.key(4, None));
    assert!(two.revoke_key(2) && two.key(5, None));
    // The same number, and another content.
    assert_eq!(one.registry.trust.number, two.registry.trust.number);
    one.merge(&two.seen());
    two.merge(&one.seen());
    assert_eq!((one.live(), two.live()), (vec![3, 4, 5], vec![3, 4, 5]));
    assert_eq!(one.registry.trust, two.registry.trust);
    let rows = two.registry.key_rows(two.now());
    assert_eq!(rows.iter().filter(|row| row.state == ApiKeyState::Live).count(), 3);
    assert_eq!(rows.iter().find(|row| row.id.0 == 4_u64.to_be_bytes()).unwrap().created, None);
}

#[test]
fn a_copy_that_was_kept_for_a_year_does_not_bring_a_key_back() {
    let mut one = Desk::new();
    assert!(one.key(1, None));
    let mut copy = Desk { registry: one.registry.clone(), hand: 1, now: one.now };
    assert!(one.revoke_key(1));
    (one.now, copy.now) = (one.now + 365 * DAY, copy.now + 365 * DAY);
    for id in 10..20 {
        assert!(copy.key(id, None));
    }
    one.merge(&copy.seen());
    copy.merge(&one.seen());
    assert!(!one.live().contains(&1) && one.live() == copy.live());
}

#[test]
fn two_holders_with_too_many_keys_together_keep_the_same() {
    let (mut one, mut two) = (Desk::new(), Desk { hand: 1, ..Desk::new() });
    for id in 0..API_KEYS_MAX as u64 {
        assert!(one.make_key(2 * id, None) && two.make_key(2 * id + 1, None));
    }
    one.publish(0);
    two.publish(0);
    for _ in 0..4 {
        let (of_one, of_two) = (one.seen(), two.seen());
        one.merge(&of_two);
        two.merge(&of_one);
    }
    assert_eq!((one.live(), &one.registry.trust), (two.live(), &two.registry.trust));
    assert_eq!(one.live(), (0..API_KEYS_MAX as u64).collect::<Vec<_>>());
}

#[derive(Clone, Debug)]
enum Step {
    Token(u8, u64),
    Join(u8, u8),
    TakeBack(u8),
    RevokeNode(u8),
    RevokeSerial(u8),
    Issue(u8),
    Key(u8),
    RevokeKey(u8),
    Rotate,
    Merge,
    Copy,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u8, 1..5_000u64).prop_map(|(id, lifetime)| Step::Token(id, lifetime)),
        (0..6u8, 0..3u8).prop_map(|(id, key)| Step::Join(id, key)),
        (0..6u8).prop_map(Step::TakeBack),
        (0..6u8).prop_map(Step::RevokeNode),
        (0..6u8).prop_map(Step::RevokeSerial),
        (0..6u8).prop_map(Step::Issue),
        (0..6u8).prop_map(Step::Key),
        (0..6u8).prop_map(Step::RevokeKey),
        Just(Step::Rotate),
        Just(Step::Merge),
        Just(Step::Copy),
        (1..50_000u64).prop_map(Step::Pass),
    ]
}

/// Everything that ever was decided, to hold the next decisions against.
struct Witness {
    desk: Desk,
    other: Desk,
    made: u8,
    /// Token ids are never used twice: each order makes a fresh one, named by its place.
    fresh: BTreeMap<u8, u8>,
    told: BTreeMap<u8, (u8, String)>,
    nodes: Vec<NodeId>,
    /// The keys that were made, and those that were taken back.
    keys: BTreeMap<u8, bool>,
    keys_gone: Vec<u64>,
}

impl Witness {
    fn new() -> Self {
        let (desk, other) = (Desk::new(), Desk::new());
        let (fresh, told, keys) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { desk, other, made: 0, fresh, told, nodes: Vec::new(), keys, keys_gone: Vec::new() }
    }

    fn take(&mut self, step: &Step) {
        let now = self.desk.now();
        match *step {
            Step::Token(place, lifetime) if self.made < u8::MAX => {
                self.made += 1;
                self.fresh.insert(place, self.made);
                self.desk.token(self.made, lifetime);
            }
            Step::Token(..) => {}
            Step::Join(place, key) => {
                let Some(id) = self.fresh.get(&place).copied() else { return };
                let Some(serial) = self.desk.join(id, key) else { return };
                let first = self.told.entry(id).or_insert_with(|| (key, serial.clone()));
                assert_eq!(*first, (key, serial), "one token, one key, one certificate");
            }
            Step::TakeBack(place) => {
                let Some(id) = self.fresh.get(&place) else { return };
                self.desk.registry.revoke_token(TokenId([*id; 8]), now);
            }
            Step::RevokeNode(what) => {
                let node = NodeId::from_bytes(u128::from(what).to_be_bytes());
                let revoked = self.desk.registry.revoke_node(node, now).unwrap();
                self.nodes.push(node);
                if revoked.changed {
                    self.desk.publish(0);
                }
            }
            Step::RevokeSerial(what) => {
                let serial = format!("40{what:030x}");
                if self
                    .desk
                    .registry
                    .revoke_serial(&serial, Duration::from_secs(100_000), now)
                    .unwrap()
                    .changed
                {
                    self.desk.publish(0);
                }
            }
            Step::Issue(what) => drop(self.desk.issue(u64::from(what), 100_000)),
            Step::Key(place) => {
                let key = self.keys.entry(place).or_default();
                // An id is never used twice by one holder.
                if !std::mem::replace(key, true) {
                    self.desk.key(u64::from(place), None);
                }
            }
            Step::RevokeKey(place) => {
                if self.desk.revoke_key(u64::from(place)) {
                    self.keys_gone.push(u64::from(place));
                }
            }
            Step::Rotate => {
                match self.desk.registry.retiring() {
                    Some(_) => drop(self.desk.registry.finish_rotation(now)),
                    None => drop(self.desk.registry.begin_rotation([self.desk.now as u8; 32])),
                }
                self.desk.publish(0);
            }
            Step::Merge => {
                let seen = self.other.seen();
                // The driver refuses a list of one that rotated apart.
                let same = seen.authorities.iter().all(|seen| {
                    let ours = self.desk.registry.generation(seen.generation);
                    ours.is_none_or(|ours| ours.fingerprint == seen.fingerprint)
                });
                if same {
                    self.desk.merge(&seen);
                    let told = self.desk.seen();
                    self.other.merge(&told);
                }
            }
            Step::Copy => {
                self.other = Desk { registry: self.desk.registry.clone(), hand: 1, now: self.desk.now };
                // It revokes something, and publishes, without the first one's knowledge.
                let node = NodeId::from_bytes([self.desk.now as u8; 16]);
                let other_now = self.other.now();
                self.other.registry.revoke_node(node, other_now).unwrap();
                self.other.publish(0);
            }
            Step::Pass(time) => {
                self.desk.now += time;
                self.other.now = self.desk.now;
                let now = self.desk.now();
                self.desk.registry.forget_what_is_over(now);
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_numbers_grow_and_a_token_makes_one_member(steps in prop::collection::vec(step(), 1..60)) {
        let mut witness = Witness::new();
        let mut number = 0;
        for step in &steps {
            witness.take(step);
            let registry = &witness.desk.registry;
            prop_assert!(number <= registry.trust.number, "{step:?} took the list back");
            number = registry.trust.number;
            prop_assert!(witness.nodes.iter().all(|node| registry.is_node_revoked(*node)));
            prop_assert!(witness.keys_gone.iter().all(|key| !witness.desk.live().contains(key)), "{step:?}");
            prop_assert_eq!(&Registry::from_json(&registry.to_json()).unwrap(), registry);
        }
    }

    #[test]
    fn two_holders_agree_whatever_each_has_done(
        left in prop::collection::vec(step(), 0..20),
        right in prop::collection::vec(step(), 0..20),
    ) {
        let (mut one, mut two) = (Witness::new(), Witness::new());
        two.desk.hand = 1;
        let only = |steps: Vec<Step>| steps.into_iter().filter(|step| {
            matches!(
                step,
                Step::RevokeNode(_) | Step::RevokeSerial(_) | Step::Issue(_) | Step::Key(_) | Step::RevokeKey(_)
            )
        });
        only(left).for_each(|step| one.take(&step));
        // Other certificates under the same numbers there are none: each holder issues its own.
        only(right).filter(|step| !matches!(step, Step::Issue(_))).for_each(|step| two.take(&step));
        let mut quiet = false;
        for _ in 0..6 {
            let (of_one, of_two) = (one.desk.seen(), two.desk.seen());
            quiet = [one.desk.merge(&of_two), two.desk.merge(&of_one)] == [Merged::Nothing; 2];
            if quiet {
                break;
            }
        }
        prop_assert!(quiet, "they answer each other for ever");
        prop_assert_eq!(&one.desk.registry.trust, &two.desk.registry.trust);
        prop_assert_eq!(&one.desk.seen().nodes, &two.desk.seen().nodes);
        let gone = [&one.keys_gone[..], &two.keys_gone].concat();
        let mut made: Vec<u64> = one.keys.keys().chain(two.keys.keys()).map(|key| u64::from(*key)).collect();
        made.sort_unstable();
        made.dedup();
        made.retain(|key| !gone.contains(key));
        prop_assert_eq!(one.desk.live(), made.clone());
        prop_assert_eq!(two.desk.live(), made);
    }
}
