//! A certificate that is renewed, through changes of trust and rotations of the authority.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use lineside_certs::{
    Alarm, Authority, CertificateRequest, CertificateSummary, EnrolError, Identity, IdentityError, Issued,
    Revoke, Subject, Trust, TrustError,
};
use lineside_wire::{Enrolled, NodeId, RenewParams, Role};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Plant {
    home: TempDir,
    office: Authority,
}

impl Plant {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let office = Authority::create(&home.path().join("ca"), "plant 2", SystemTime::now()).unwrap();
        Self { home, office }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn member(&self, role: Role, name: &str) -> Identity {
        let issued = self.office.issue(&Subject::new(role, name), SystemTime::now()).unwrap();
        Identity::store(&self.place(name), &issued).unwrap();
        self.load(name)
    }

    fn load(&self, name: &str) -> Identity {
        Identity::load(&self.place(name)).unwrap()
    }

    /// What the office answers to a member that asks for a new certificate.
    fn answer(&self, present: &Identity, request: &CertificateRequest) -> Enrolled {
        let params = RenewParams { csr: request.csr().to_vec().into() };
        self.office.renew(present.holder(), &params, SystemTime::now()).unwrap()
    }

    fn renewed(&self, present: &Identity) -> Issued {
        let request = CertificateRequest::new();
        request.renew(present, &self.answer(present, &request)).unwrap()
    }

    fn renew(&self, name: &str) -> Identity {
        Identity::store_renewed(&self.place(name), &self.renewed(&self.load(name))).unwrap();
        self.load(name)
    }
}

fn authorities(directory: &Path) -> usize {
    fs::read_to_string(directory.join("ca.pem")).unwrap().matches("BEGIN CERTIFICATE").count()
}

#[test]
fn a_renewed_member_is_the_same_with_another_key() {
    let plant = Plant::new();
    let before = plant.member(Role::Node, "press");
    let key = fs::read(plant.place("press").join("key.pem")).unwrap();
    let after = plant.renew("press");
    assert_eq!((after.node(), after.name(), after.role()), (before.node(), "press", Role::Node));
    assert_ne!(after.holder().serial, before.holder().serial);
    assert_ne!(fs::read(plant.place("press").join("key.pem")).unwrap(), key);
    // Peers of a member that comes back after a renewal still find it at once.
    assert_eq!(after.derive_secret("reset"), before.derive_secret("reset"));
    assert_eq!(plant.renew("press").derive_secret("reset"), before.derive_secret("reset"));
}

#[test]
fn a_trust_list_comes_along_and_is_never_taken_back() {
    let plant = Plant::new();
    let before = plant.member(Role::Node, "press");
    let stranger = NodeId::from_bytes([7; 16]);
    plant.office.revoke(&Revoke::Node(stranger), SystemTime::now()).unwrap();
    let after = plant.renew("press");
    assert!(before.trust().stamp() < after.trust().stamp());

    // An answer with an older list: its certificate is good, its list is not taken.
    let request = CertificateRequest::new();
    let mut answer = plant.answer(&after, &request);
    answer.trust = before.trust().signed().unwrap().clone();
    let issued = request.renew(&after, &answer).unwrap();
    assert_eq!(issued.trust.as_ref(), after.trust().signed());
    Identity::store_renewed(&plant.place("press"), &issued).unwrap();
    assert_eq!(plant.load("press").trust().stamp(), after.trust().stamp());
    Identity::store_trust(&plant.place("press"), before.trust()).unwrap();
    assert_eq!(plant.load("press").trust().stamp(), after.trust().stamp());
}

#[test]
fn a_newer_trust_list_is_stored_with_its_authorities() {
    let plant = Plant::new();
    let press = plant.member(Role::Node, "press");
    assert_eq!(authorities(&plant.place("press")), 1);
    plant.office.rotation_start(SystemTime::now()).unwrap();
    let newer = press.trust().succeed(&plant.office.trust().unwrap()).unwrap();
    let live = press.with_trust(newer.clone());
    Identity::store_trust(&plant.place("press"), &newer).unwrap();
    let found = plant.load("press");
    assert_eq!((found.trust().stamp(), live.trust().stamp()), (newer.stamp(), newer.stamp()));
    assert_eq!((found.holder(), authorities(&plant.place("press"))), (live.holder(), 2));

    // One that is damaged on disk is mended.
    fs::write(plant.place("press").join("trust.bin"), b"half").unwrap();
    Identity::store_trust(&plant.place("press"), &newer).unwrap();
    assert_eq!(plant.load("press").trust().stamp(), newer.stamp());
}

#[test]
fn a_member_goes_through_a_rotation_by_renewals() {
    let plant = Plant::new();
    let before = plant.member(Role::Gateway, "door");
    plant.office.rotation_start(SystemTime::now()).unwrap();
    // Although all that it trusts is the first generation: the second one's key is signed by it.
    let between = plant.renew("door");
    assert_eq!((before.holder().generation, between.holder().generation), (1, 2));
    assert_eq!((between.trust().issuing(), authorities(&plant.place("door"))), (2, 2));
    plant.office.rotation_finish(SystemTime::now()).unwrap();
    let after = plant.renew("door");
    assert_eq!((after.holder().generation, authorities(&plant.place("door"))), (2, 1));
    assert_eq!(after.node(), before.node());
}

#[test]
fn a_member_that_knows_only_the_first_generation_takes_a_certificate_of_the_second() {
    let plant = Plant::new();
    let press = plant.member(Role::Node, "press");
    plant.office.rotation_start(SystemTime::now()).unwrap();
    let request = CertificateRequest::new();
    let mut answer = plant.answer(&press, &request);
    answer.trust = press.trust().signed().unwrap().clone();
    let issued = request.renew(&press, &answer).unwrap();
    assert_eq!(Identity::of(&issued).unwrap().holder().generation, 2);
    // Without the certificate between the two there is no way from one to the other.
    answer.certificates.truncate(1);
    assert_eq!(request.renew(&press, &answer).err(), Some(EnrolError::NotSigned));
}

#[test]
fn a_member_that_missed_a_whole_rotation_is_told_to_join_anew() {
    let plant = Plant::new();
    let press = plant.member(Role::Node, "press");
    plant.office.rotation_start(SystemTime::now()).unwrap();
    let between = plant.office.trust().unwrap();
    plant.office.rotation_finish(SystemTime::now()).unwrap();
    let latest = plant.office.trust().unwrap();
    let trust = press.trust().succeed(&between).unwrap().succeed(&latest).unwrap();
    Identity::store_trust(&plant.place("press"), &trust).unwrap();
    let error = Identity::load(&plant.place("press")).unwrap_err();
    assert!(matches!(error, IdentityError::Retired { generation: 1, .. }), "{error}");
    assert!(error.to_string().contains("lineside token create"), "{error}");

    // An answer that was on its way all the while still helps.
    let issued = plant.renewed(&press.with_trust(trust));
    Identity::store_renewed(&plant.place("press"), &issued).unwrap();
    assert_eq!(plant.load("press").node(), press.node());
}

#[test]
fn what_is_no_renewal_of_this_member_is_refused() {
    let plant = Plant::new();
    let (press, weld) = (plant.member(Role::Node, "press"), plant.member(Role::Node, "weld"));
    let request = CertificateRequest::new();
    let answer = plant.answer(&press, &request);

    let other_key = CertificateRequest::new().renew(&press, &answer).err().unwrap();
    assert_eq!(other_key, EnrolError::OtherKey);
    let other_member = request.renew(&weld, &answer).err().unwrap();
    assert!(matches!(other_member, EnrolError::OtherMember { .. }), "{other_member}");

    let elsewhere = Plant::new();
    let stranger = elsewhere.member(Role::Node, "press");
    let mut of_strangers = answer.clone();
    of_strangers.trust = elsewhere.office.trust().unwrap();
    elsewhere.office.revoke(&Revoke::Node(weld.node()), SystemTime::now()).unwrap();
    let newer_of_strangers = Enrolled { trust: elsewhere.office.trust().unwrap(), ..answer.clone() };
    for foreign in [of_strangers, newer_of_strangers] {
        let error = request.renew(&press, &foreign).err().unwrap();
        assert!(matches!(error, EnrolError::Trust(TrustError::OtherCluster { .. })), "{error}");
    }
    let error = request.renew(&press, &elsewhere.answer(&stranger, &request)).err().unwrap();
    assert!(matches!(error, EnrolError::OtherMember { .. }), "{error}");

    for (certificates, expected) in [(0, EnrolError::NoCertificate), (9, EnrolError::TooManyCertificates(9))]
    {
        let certificates = vec![answer.certificates[0].clone(); certificates];
        let refused = request.renew(&press, &Enrolled { certificates, ..answer.clone() });
        assert_eq!(refused.err(), Some(expected));
    }
    let certificates = vec![b"0\x03abc".to_vec().into()];
    let error = request.renew(&press, &Enrolled { certificates, ..answer.clone() }).err().unwrap();
    assert!(matches!(error, EnrolError::Certificate(_)), "{error}");

    // The office's clock is behind: what it gives ends before what is there.
    let params = RenewParams { csr: request.csr().to_vec().into() };
    let yesterday = SystemTime::now() - DAY;
    if let Ok(answer) = plant.office.renew(press.holder(), &params, yesterday) {
        assert_eq!(request.renew(&press, &answer).err(), Some(EnrolError::EndsEarlier));
    }
    request.renew(&press, &answer).unwrap();
}

#[test]
fn a_member_that_was_revoked_says_so_at_its_next_start() {
    let plant = Plant::new();
    let press = plant.member(Role::Node, "press");
    plant.office.revoke(&Revoke::Node(press.node()), SystemTime::now()).unwrap();
    let trust = press.trust().succeed(&plant.office.trust().unwrap()).unwrap();
    Identity::store_trust(&plant.place("press"), &trust).unwrap();
    let error = plant.load("press").check_validity(SystemTime::now()).unwrap_err();
    assert!(matches!(error, IdentityError::Revoked { .. }), "{error}");
}

#[test]
fn trust_without_a_list_is_never_written() {
    let plant = Plant::new();
    let press = plant.member(Role::Node, "press");
    let pem = fs::read(plant.place("press").join("ca.pem")).unwrap();
    let list = fs::read(plant.place("press").join("trust.bin")).unwrap();
    let certificate = rustls_pki_types::pem::PemObject::from_pem_slice(&pem).unwrap();
    Identity::store_trust(&plant.place("press"), &Trust::bare(vec![certificate]).unwrap()).unwrap();
    assert_eq!(fs::read(plant.place("press").join("trust.bin")).unwrap(), list);
    assert_eq!(plant.load("press").trust().stamp(), press.trust().stamp());
}

#[test]
fn a_certificate_shows_who_signed_it_and_when_it_is_renewed() {
    let plant = Plant::new();
    let press = plant.member(Role::Node, "press");
    let shown = |name: &str, file: &str| {
        let pem = fs::read_to_string(plant.place(name).join(file)).unwrap();
        CertificateSummary::of_pem(&pem).unwrap()
    };
    let summary = shown("press", "cert.pem");
    assert_eq!((summary.generation, summary.serial.as_str()), (Some(1), press.holder().serial.as_str()));
    let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(summary.renewal_from, Some(seconds(press.renewal().due_at(0.0))));
    assert_eq!(summary.renewal_until, Some(seconds(press.renewal().due_at(1.0))));
    assert_eq!(summary.alarm(SystemTime::now()), Alarm::None);
    assert_eq!(summary.alarm(SystemTime::now() + 12 * DAY), Alarm::Warn);
    assert_eq!(summary.alarm(SystemTime::now() + 15 * DAY), Alarm::Expired);
    plant.member(Role::Admin, "anna");
    for unrenewed in [shown("press", "ca.pem"), shown("anna", "cert.pem")] {
        assert_eq!((unrenewed.renewal_from, unrenewed.renewal_until), (None, None));
    }
}
