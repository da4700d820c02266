//! Certificates for HTTPS: what clients may believe of them, and what nobody must.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lineside_certs::{
    Authority, CertificateRequest, EnrolError, Identity, PeerIdentityError, RenewRefusal, Revoke, Subject,
    WebCertificate, client_config, peer_identity, provider, server_config, server_name_of,
};
use lineside_wire::{Enrolled, Role, WEB_NAMES_MAX, WebParams};
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tempfile::TempDir;

struct Plant {
    home: TempDir,
    office: Authority,
    press: Identity,
}

impl Plant {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let office = Authority::create(&home.path().join("ca"), "plant 2", SystemTime::now()).unwrap();
        let press = member(&office, &home, Role::Node, "press");
        Self { home, office, press }
    }

    fn answer(&self, request: &CertificateRequest, names: &[&str]) -> Result<Enrolled, RenewRefusal> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let params = WebParams { csr: request.csr().to_vec().into(), names };
        self.office.web(self.press.holder(), &params, SystemTime::now())
    }

    fn certificate(&self, names: &[&str]) -> WebCertificate {
        let request = CertificateRequest::new();
        WebCertificate::of(&request, &self.press, &self.answer(&request, names).unwrap()).unwrap()
    }
}

fn member(office: &Authority, home: &TempDir, role: Role, name: &str) -> Identity {
    let issued = office.issue(&Subject::new(role, name), SystemTime::now()).unwrap();
    Identity::store(&home.path().join(name), &issued).unwrap();
    Identity::load(&home.path().join(name)).unwrap()
}

/// A client that trusts the authorities in this file, and nobody else.
fn verifier(authorities: &str) -> Arc<WebPkiServerVerifier> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap()
}

/// What such a client says of a certificate.
fn visits(authorities: &str, certificate: &WebCertificate, name: &str) -> Result<(), rustls::Error> {
    let verifier = verifier(authorities);
    let chain = certificate.chain();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now()).map(drop)
}

#[test]
fn a_client_that_trusts_the_authority_believes_every_name_and_no_other() {
    let plant = Plant::new();
    let names = ["localhost", "press.local", "door.plant2.lan", "10.0.0.7", "127.0.0.1", "fd00::7"];
    let certificate = plant.certificate(&names);
    let authorities = plant.press.trust().authorities_pem();
    for name in names {
        visits(&authorities, &certificate, name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for other in ["weld.local", "press.lan", "10.0.0.8", "::1"] {
        assert!(visits(&authorities, &certificate, other).is_err(), "{other}");
    }
    let told: Vec<_> = certificate.names().iter().map(ToString::to_string).collect();
    assert_eq!(told, names);
}

#[test]
fn the_authority_speaks_for_nothing_public_and_for_no_member() {
    let plant = Plant::new();
    let member = server_name_of(plant.press.node(), plant.press.cluster());
    for name in ["example.org", "8.8.8.8", "press", "*.local", &member, "member.lineside.internal"] {
        let refused = plant.answer(&CertificateRequest::new(), &["press.local", name]).unwrap_err();
        assert!(
            matches!(&refused, RenewRefusal::Request(text) if text.contains(&name[..name.len().min(40)])),
            "{refused}"
        );
    }
    let too_many = vec!["press.local"; WEB_NAMES_MAX + 1];
    assert!(plant.answer(&CertificateRequest::new(), &too_many).is_err());
    assert!(plant.answer(&CertificateRequest::new(), &[]).is_err());
    let diary = fs::read_to_string(plant.home.path().join("ca/audit.jsonl")).unwrap();
    assert_eq!(diary.matches("web_certificate_refused").count(), 8, "{diary}");
}

#[test]
fn whoever_stole_the_key_of_the_authority_is_believed_for_no_public_name() {
    let plant = Plant::new();
    let read = |name: &str| fs::read_to_string(plant.home.path().join("ca").join(name)).unwrap();
    let key = KeyPair::from_pem(&read("ca-g1.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca-g1.pem"), key).unwrap();
    let own = KeyPair::generate().unwrap();
    for (name, believed) in [
        ("press.local", true),
        ("10.0.0.7", true),
        ("example.org", false),
        ("local.example.org", false),
        // Constraints of addresses would keep out clients on BoringSSL: the authority's own rule stands alone there.
        ("8.8.8.8", true),
    ] {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&own, &issuer).unwrap();
        let (authorities, name) =
            (plant.press.trust().authorities_pem(), name.to_owned().try_into().unwrap());
        let verifier = verifier(&authorities);
        let verdict = verifier.verify_server_cert(certificate.der(), &[], &name, &[], UnixTime::now());
        assert_eq!(verdict.is_ok(), believed, "{name:?}: {verdict:?}");
    }
}

#[test]
fn whoever_lost_its_right_or_is_no_member_gets_none() {
    let plant = Plant::new();
    let client = member(&plant.office, &plant.home, Role::Client, "camera");
    let params = WebParams {
        csr: CertificateRequest::new().csr().to_vec().into(),
        names: vec!["press.local".to_owned()],
    };
    let now = SystemTime::now();
    assert!(matches!(plant.office.web(client.holder(), &params, now), Err(RenewRefusal::Role(Role::Client))));
    plant.office.revoke(&Revoke::Node(plant.press.node()), now).unwrap();
    assert!(matches!(plant.office.web(plant.press.holder(), &params, now), Err(RenewRefusal::Revoked)));
}

#[test]
fn it_is_told_in_the_diary_with_its_names() {
    let plant = Plant::new();
    plant.certificate(&["press.local", "10.0.0.7"]);
    let diary = fs::read_to_string(plant.home.path().join("ca/audit.jsonl")).unwrap();
    let line = diary.lines().last().unwrap();
    assert!(line.contains(r#""event":"web_certificate_issued""#), "{line}");
    assert!(line.contains(r#""name":"press.local 10.0.0.7""#), "{line}");
    // It is nobody's right to be a member: the list of those has only members.
    assert_eq!(plant.office.issued().unwrap().len(), 1);
}

#[test]
fn nobody_is_a_member_by_it_neither_answering_nor_dialling() {
    let plant = Plant::new();
    let door = member(&plant.office, &plant.home, Role::Gateway, "door");
    let certificate = plant.certificate(&["press.local"]);
    assert_eq!(peer_identity(&certificate.chain()), Err(PeerIdentityError::UriCount(0)));

    // In the place of a member that is dialled.
    let mut shows = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificate.chain(), certificate.key())
        .unwrap();
    shows.alpn_protocols = vec![b"lineside/1".to_vec()];
    let name = server_name_of(plant.press.node(), plant.press.cluster());
    assert!(meets(client_config(&door, &[b"lineside/1"]).unwrap(), Arc::new(shows), &name).is_err());

    // In the place of a member that dials.
    let mut roots = RootCertStore::empty();
    let authorities = plant.press.trust().authorities_pem();
    roots.add(CertificateDer::from_pem_slice(authorities.as_bytes()).unwrap()).unwrap();
    let mut shows = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(certificate.chain(), certificate.key())
        .unwrap();
    shows.alpn_protocols = vec![b"lineside/1".to_vec()];
    let name = server_name_of(door.node(), door.cluster());
    assert!(meets(Arc::new(shows), server_config(&door, &[b"lineside/1"]).unwrap(), &name).is_err());
}

/// Lets the two sides talk until both are done, or one refuses.
fn meets(dialling: Arc<ClientConfig>, answering: Arc<ServerConfig>, name: &str) -> Result<(), rustls::Error> {
    let mut client = ClientConnection::new(dialling, name.to_owned().try_into().unwrap())?;
    let mut server = ServerConnection::new(answering)?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

#[test]
fn during_a_rotation_clients_of_the_old_and_of_the_new_authority_get_in() {
    let plant = Plant::new();
    let old = plant.press.trust().authorities_pem();
    let before = plant.certificate(&["press.local", "10.0.0.7"]);
    plant.office.rotation_start(SystemTime::now()).unwrap();
    let after = plant.certificate(&["press.local", "10.0.0.7"]);
    for (authorities, name) in [
        (&old, "press.local"),
        (&old, "10.0.0.7"),
        (&plant.office.certificate(), "press.local"),
        (&plant.office.certificate(), "10.0.0.7"),
    ] {
        visits(authorities, &after, name).unwrap();
    }
    let trust = plant.press.trust().succeed(&plant.office.trust().unwrap()).unwrap();
    assert!(after.is_of(&trust) && !before.is_of(&trust), "the one from before is to be replaced");
    assert!(before.is_of(plant.press.trust()));
}

#[test]
fn it_lives_as_long_as_members_certificates_and_a_month_at_most() {
    let plant = Plant::new();
    let day = Duration::from_secs(24 * 3600);
    let days = |certificate: &WebCertificate| certificate.life().validity().as_secs() / day.as_secs();
    assert_eq!(days(&plant.certificate(&["press.local"])), 14);
    let lifetimes = lineside_certs::Lifetimes { member: 365 * day, ..Default::default() };
    let office = Authority::load(&plant.home.path().join("ca")).unwrap().with_lifetimes(lifetimes);
    let request = CertificateRequest::new();
    let params = WebParams { csr: request.csr().to_vec().into(), names: vec!["press.local".to_owned()] };
    let answer = office.web(plant.press.holder(), &params, SystemTime::now()).unwrap();
    assert_eq!(days(&WebCertificate::of(&request, &plant.press, &answer).unwrap()), 30);
}

#[test]
fn an_answer_is_taken_only_for_the_own_key_and_from_the_own_authority() {
    let plant = Plant::new();
    let (ours, theirs) = (CertificateRequest::new(), CertificateRequest::new());
    let answer = plant.answer(&theirs, &["press.local"]).unwrap();
    assert_eq!(WebCertificate::of(&ours, &plant.press, &answer).unwrap_err(), EnrolError::OtherKey);
    let elsewhere = Plant::new();
    let answer = elsewhere.answer(&ours, &["press.local"]).unwrap();
    assert!(WebCertificate::of(&ours, &plant.press, &answer).is_err());
}

#[test]
fn it_is_kept_privately_and_half_of_a_new_pair_is_not_used() {
    let plant = Plant::new();
    let directory = plant.home.path().join("web");
    assert!(WebCertificate::load(&directory).unwrap().is_none());
    let [first, second] = ["press.local", "weld.local"].map(|name| plant.certificate(&[name]));
    first.store(&directory).unwrap();
    let mode = |name: &str| fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("key.pem")), (0o700, 0o600));
    let kept = WebCertificate::load(&directory).unwrap().unwrap();
    assert_eq!((kept.chain(), kept.names(), kept.life()), (first.chain(), first.names(), first.life()));

    // A power cut after the key.
    let certificate = fs::read(directory.join("cert.pem")).unwrap();
    second.store(&directory).unwrap();
    fs::write(directory.join("cert.pem"), certificate).unwrap();
    assert!(WebCertificate::load(&directory).unwrap().is_none());
    fs::write(directory.join("cert.pem"), "nonsense").unwrap();
    assert!(WebCertificate::load(&directory).unwrap().is_none());
    fs::set_permissions(directory.join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(WebCertificate::load(&directory).is_err());
}
