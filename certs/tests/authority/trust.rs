//! What was taken back, and how two holders of one key agree on it.

use std::time::Duration;

use lineside_certs::{AuthorityError, Revoke, Trust, TrustError, Verdict};
use lineside_wire::{NodeId, Role, SignedTrust};

use crate::office::{Office, list};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn trust(office: &Office) -> Trust {
    Trust::own(&office.authority.trust().unwrap()).unwrap()
}

fn crl_has(office: &Office, at: usize, serial: &str) -> bool {
    let list = office.list();
    let crl = webpki::BorrowedCertRevocationList::from_der(&list.authorities[at].crl).unwrap();
    let crl = webpki::CertRevocationList::from(crl);
    let bytes: Vec<u8> =
        (0..serial.len()).step_by(2).map(|at| u8::from_str_radix(&serial[at..at + 2], 16).unwrap()).collect();
    crl.find_serial(&bytes).unwrap().is_some()
}

#[test]
fn there_is_a_list_from_the_beginning_and_each_revocation_makes_a_newer_one() {
    let office = Office::new();
    let (press, weld) = (office.member(Role::Node, "press"), office.member(Role::Node, "weld"));
    let first = trust(&office);
    assert_eq!((first.stamp().number, first.judge(&press)), (1, Verdict::Trusted));

    let ended = office.authority.revoke(&Revoke::Serial(press.serial.to_uppercase()), office.now).unwrap();
    assert_eq!(ended.iter().map(|row| &row.serial).collect::<Vec<_>>(), [&press.serial]);
    let second = first.succeed(&office.authority.trust().unwrap()).unwrap();
    assert_eq!((second.judge(&press), second.judge(&weld)), (Verdict::Revoked, Verdict::Trusted));
    assert!(crl_has(&office, 0, &press.serial) && !crl_has(&office, 0, &weld.serial));

    let again = office.member(Role::Node, "weld again");
    let renewed = office.renew(&again).unwrap();
    let ended = office.authority.revoke(&Revoke::Node(again.node), office.now).unwrap();
    assert_eq!(ended.len(), 2, "the certificate and its renewed form");
    let third = second.succeed(&office.authority.trust().unwrap()).unwrap();
    assert_eq!(third.judge(&crate::office::holder(&renewed)), Verdict::Revoked);
    assert!(matches!(third.succeed(&office.authority.trust().unwrap()), Err(TrustError::SameNumber(3))));
    assert!(matches!(third.succeed(second.signed().unwrap()), Err(TrustError::Older { .. })));
    let events: Vec<_> = office.diary().iter().map(|line| line["event"].to_string()).collect();
    assert!(events.iter().any(|event| event.contains("node_revoked")), "{events:?}");
}

#[test]
fn revoking_twice_changes_nothing_and_strangers_can_be_revoked() {
    let office = Office::new();
    let press = office.member(Role::Node, "press");
    office.authority.revoke(&Revoke::Node(press.node), office.now).unwrap();
    let number = office.list().number;
    assert!(office.authority.revoke(&Revoke::Node(press.node), office.now).unwrap().is_empty());
    assert!(office.authority.revoke(&Revoke::Serial(press.serial), office.now).unwrap().is_empty());
    assert_eq!(office.list().number, number);
    assert!(office.authority.revoke(&Revoke::Serial("4a0f".to_owned()), office.now).unwrap().is_empty());
    office.authority.revoke(&Revoke::Node(NodeId::from_bytes([9; 16])), office.now).unwrap();
    assert!(crl_has(&office, 0, "4a0f"));
    assert_eq!(office.list().number, number + 2);
    let refused = office.authority.revoke(&Revoke::Serial("press".to_owned()), office.now);
    assert!(matches!(refused, Err(AuthorityError::Serial(_))));
}

#[test]
fn what_is_over_leaves_the_list_and_a_revoked_node_never_does() {
    let mut office = Office::new();
    let press = office.member(Role::Node, "press");
    office.authority.revoke(&Revoke::Node(press.node), office.now).unwrap();
    assert!(crl_has(&office, 0, &press.serial));
    office.pass(15 * DAY + Duration::from_secs(60));
    // Issuing is an occasion to sign the list anew: it has grown old.
    let number = office.list().number;
    let weld = office.member(Role::Node, "weld");
    office.authority.revoke(&Revoke::Node(weld.node), office.now).unwrap();
    assert!(number + 1 < office.list().number);
    assert!(!crl_has(&office, 0, &press.serial) && crl_has(&office, 0, &weld.serial));
    assert_eq!(trust(&office).judge(&press), Verdict::Revoked);
}

/// Lets each holder see what the other published, until neither has anything new to say.
fn talk(left: &Office, right: &Office) {
    for _ in 0..6 {
        let (of_left, of_right) = (left.authority.trust().unwrap(), right.authority.trust().unwrap());
        let left_changed = left.authority.merge(&of_right, left.now).unwrap();
        let right_changed = right.authority.merge(&of_left, right.now).unwrap();
        if !left_changed && !right_changed {
            assert_eq!(left.authority.trust().unwrap(), right.authority.trust().unwrap());
            return;
        }
    }
    panic!("two holders answer each other for ever");
}

#[test]
fn two_holders_of_one_key_come_to_one_list() {
    let left = Office::new();
    let (press, weld) = (left.member(Role::Node, "press"), left.member(Role::Node, "weld"));
    let right = left.copy();
    left.authority.revoke(&Revoke::Node(press.node), left.now).unwrap();
    right.authority.revoke(&Revoke::Serial(weld.serial.clone()), right.now).unwrap();
    assert_eq!(left.list().number, right.list().number);
    talk(&left, &right);
    for office in [&left, &right] {
        assert_eq!(
            (trust(office).judge(&press), trust(office).judge(&weld)),
            (Verdict::Revoked, Verdict::Revoked)
        );
        assert!(crl_has(office, 0, &press.serial) && crl_has(office, 0, &weld.serial));
    }
    // What one holder issued and the other one never saw.
    let drill = left.member(Role::Node, "drill");
    right.authority.revoke(&Revoke::Serial(drill.serial.clone()), right.now).unwrap();
    talk(&left, &right);
    assert!(left.authority.issued().unwrap()[0].revoked.is_some());
    assert!(left.renew(&drill).is_err());
}

#[test]
fn of_two_lists_that_say_the_same_one_wins() {
    let left = Office::new();
    let press = left.member(Role::Node, "press");
    let right = left.copy();
    for office in [&left, &right] {
        office.authority.revoke(&Revoke::Node(press.node), office.now).unwrap();
    }
    assert_ne!(left.authority.trust().unwrap(), right.authority.trust().unwrap(), "signatures differ");
    talk(&left, &right);
}

#[test]
fn a_list_that_is_behind_changes_nothing_and_one_that_is_ahead_is_taken() {
    let left = Office::new();
    let right = left.copy();
    let old = left.authority.trust().unwrap();
    left.authority.revoke(&Revoke::Node(NodeId::from_bytes([9; 16])), left.now).unwrap();
    assert!(!left.authority.merge(&old, left.now).unwrap());
    let new = left.authority.trust().unwrap();
    assert!(right.authority.merge(&new, right.now).unwrap());
    assert_eq!(right.authority.trust().unwrap(), new);
    assert!(!right.authority.merge(&new, right.now).unwrap());
}

#[test]
fn nobody_elses_list_is_taken() {
    let (office, stranger) = (Office::new(), Office::new());
    let theirs = stranger.authority.trust().unwrap();
    assert!(matches!(office.authority.merge(&theirs, office.now), Err(AuthorityError::Trust(_))));
    let mut changed = list(&office.authority.trust().unwrap());
    changed.number += 1;
    let forged = SignedTrust {
        document: rmp_serde::to_vec_named(&changed).unwrap().into(),
        signatures: office.authority.trust().unwrap().signatures,
    };
    let refused = office.authority.merge(&forged, office.now);
    assert!(matches!(refused, Err(AuthorityError::Trust(TrustError::NotSigned))));
    assert_eq!(office.list().number, 1);
}
