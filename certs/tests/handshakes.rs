//! Who can meet whom: real handshakes between two sides in memory.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lineside_certs::{
    Authority, Clock, Identity, Issued, Refusal, Subject, client_config, join_client_config,
    join_server_name, peer_identity, server_config, server_name_of, server_name_of_any_member,
};
use lineside_wire::Role;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion,
    ServerConnection,
};
use tempfile::TempDir;

const ALPN: &[&[u8]] = &[b"lineside/1"];

struct Cluster {
    home: TempDir,
    authority: Authority,
}

impl Cluster {
    fn new(name: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::create(&home.path().join("ca"), name, SystemTime::now()).unwrap();
        Self { home, authority }
    }

    fn member(&self, role: Role, name: &str) -> Identity {
        self.member_since(role, name, SystemTime::now())
    }

    fn member_since(&self, role: Role, name: &str, issued_at: SystemTime) -> Identity {
        let directory = self.home.path().join(name);
        let issued = self.authority.issue(&Subject::new(role, name), issued_at).unwrap();
        Identity::store(&directory, &issued).unwrap();
        Identity::load(&directory).unwrap()
    }
}

struct Meeting {
    client: ClientConnection,
    server: ServerConnection,
}

/// Lets the two sides talk until both are done, or one refuses.
fn meet(dialling: &Identity, answering: &Identity, name: &str) -> Result<Meeting, rustls::Error> {
    meet_with(client_config(dialling, ALPN).unwrap(), answering, name)
}

fn meet_with(
    dialling: Arc<ClientConfig>,
    answering: &Identity,
    name: &str,
) -> Result<Meeting, rustls::Error> {
    let mut client = ClientConnection::new(dialling, name.to_owned().try_into().unwrap())?;
    let mut server = ServerConnection::new(server_config(answering, ALPN).unwrap())?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        let accepted = server.process_new_packets();
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets()?;
        accepted?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Meeting { client, server })
}

fn own_name(identity: &Identity) -> String {
    server_name_of(identity.node(), identity.cluster())
}

#[test]
fn members_of_one_cluster_meet_and_know_each_other() {
    let cluster = Cluster::new("floor");
    let (press, door) = (cluster.member(Role::Node, "press"), cluster.member(Role::Gateway, "door"));
    let meeting = meet(&door, &press, &own_name(&press)).unwrap();

    let seen = peer_identity(meeting.server.peer_certificates().unwrap()).unwrap();
    assert_eq!((seen.node, seen.role, seen.name.as_str()), (door.node(), Role::Gateway, "door"));
    let seen = peer_identity(meeting.client.peer_certificates().unwrap()).unwrap();
    assert_eq!((seen.node, seen.cluster), (press.node(), cluster.authority.cluster()));
    meet(&door, &press, &server_name_of_any_member(press.cluster())).unwrap();
}

#[test]
fn a_handshake_is_tls_13_post_quantum_and_leaves_nothing_to_resume() {
    let cluster = Cluster::new("floor");
    let (press, door) = (cluster.member(Role::Node, "press"), cluster.member(Role::Gateway, "door"));
    let Meeting { client, .. } = meet(&door, &press, &own_name(&press)).unwrap();
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(client.tls13_tickets_received(), 0);

    // The same settings once more, as a process that comes back: a full handshake again.
    let (dial, accept) = (client_config(&door, ALPN).unwrap(), server_config(&press, ALPN).unwrap());
    for _ in 0..2 {
        let name = own_name(&press).try_into().unwrap();
        let mut client = ClientConnection::new(Arc::clone(&dial), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&accept)).unwrap();
        for _ in 0..10 {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut &wire[..]).unwrap();
            server.process_new_packets().unwrap();
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut &wire[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn another_clusters_certificate_is_refused_on_both_sides() {
    let (ours, theirs) = (Cluster::new("floor"), Cluster::new("floor"));
    let (press, stranger) = (ours.member(Role::Node, "press"), theirs.member(Role::Node, "stranger"));
    // The dialler notices first when the name fits no member of its own cluster.
    let refused = meet(&stranger, &press, &own_name(&press)).err().unwrap();
    assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused}");
    let refused = meet(&press, &stranger, &own_name(&stranger)).err().unwrap();
    assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused}");
    assert!(Refusal::from_alert(48).to_string().contains("different clusters"));
}

#[test]
fn a_member_that_answers_in_anothers_place_is_refused() {
    let cluster = Cluster::new("floor");
    let (press, weld, door) = (
        cluster.member(Role::Node, "press"),
        cluster.member(Role::Node, "weld"),
        cluster.member(Role::Gateway, "door"),
    );
    assert!(meet(&door, &weld, &own_name(&press)).is_err());
}

#[test]
fn a_client_cannot_pose_as_a_member() {
    let cluster = Cluster::new("floor");
    let (client, door) = (cluster.member(Role::Client, "plc"), cluster.member(Role::Gateway, "door"));
    meet(&client, &door, &own_name(&door)).unwrap();
    assert!(meet(&door, &client, &own_name(&client)).is_err());
    assert!(meet(&door, &client, &server_name_of_any_member(client.cluster())).is_err());
}

#[test]
fn a_member_cannot_pose_as_one_that_has_the_authoritys_key() {
    let cluster = Cluster::new("floor");
    let issued = cluster.authority.issue(&Subject::new(Role::Node, "press"), SystemTime::now()).unwrap();
    // It shows what a holder of the key shows: its certificate, and the authority's behind it.
    let certificate = issued.certificate.clone() + &cluster.authority.certificate();
    let press = Identity::of(&Issued { certificate, ..issued }).unwrap();
    let expected = cluster.authority.fingerprint();
    let (joining, presented) = join_client_config(&expected, &Clock::system(), ALPN[0]).unwrap();
    let refused = meet_with(joining, &press, &join_server_name(&expected)).err().unwrap();
    assert_eq!(refused, CertificateError::ApplicationVerificationFailure.into());
    assert_eq!(presented.instead(), None, "the authority is the right one");
}

#[test]
fn an_authority_can_sign_for_names_of_its_own_cluster_alone() {
    let cluster = Cluster::new("floor");
    let authority = cluster.authority.certificate();
    let key = fs::read_to_string(cluster.home.path().join("ca/ca-g1.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&authority, KeyPair::from_pem(&key).unwrap()).unwrap();
    let own = format!("{}.lineside.internal", cluster.authority.cluster());
    let other = format!("{}.lineside.internal", Cluster::new("floor").authority.cluster());
    for (domain, is_taken) in
        [(own.as_str(), true), (&other, false), ("internal", false), ("example.org", false)]
    {
        let mut params = CertificateParams::new([format!("press.{domain}")]).unwrap();
        let uri = format!("spiffe://{}/node/{}", cluster.authority.cluster(), "de".repeat(16));
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        let key = key.serialize_pem().into();
        let identity = Identity::of(&Issued { certificate, key, authority: authority.clone(), trust: None });
        assert_eq!(identity.is_ok(), is_taken, "{domain}");
    }
}

#[test]
fn an_expired_certificate_can_be_shown_and_opens_no_door() {
    let cluster = Cluster::new("floor");
    let long_ago = SystemTime::now() - Duration::from_secs(400 * 24 * 3600);
    let (press, door) =
        (cluster.member_since(Role::Node, "press", long_ago), cluster.member(Role::Gateway, "door"));
    assert_eq!(press.expires_in(SystemTime::now()), None);
    assert!(meet(&door, &press, &own_name(&press)).is_err());
    assert!(meet(&press, &door, &own_name(&door)).is_err());
}

#[test]
fn an_admin_certificate_lasts_a_day() {
    let cluster = Cluster::new("floor");
    let admin = cluster.member(Role::Admin, "anna");
    let left = admin.expires_in(SystemTime::now()).unwrap();
    assert!(Duration::from_secs(23 * 3600) < left && left <= Duration::from_secs(24 * 3600));
}

#[test]
fn secrets_of_an_identity_are_stable_and_differ_by_purpose() {
    let cluster = Cluster::new("floor");
    let press = cluster.member(Role::Node, "press");
    let again = Identity::load(&cluster.home.path().join("press") as &Path).unwrap();
    assert_eq!(press.derive_secret("reset"), again.derive_secret("reset"));
    assert_ne!(press.derive_secret("reset"), press.derive_secret("ids"));
}
