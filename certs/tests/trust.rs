//! Trust lists of a real authority, and what TLS makes of them.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{sync::Arc, time::SystemTime};

use lineside_certs::{
    Authority, Clock, Identity, JoinCertificates, Joining, PeerIdentity, Presented, Revoke, Subject, Trust,
    TrustError, Verdict, client_config_by, join_client_config, join_server_name, peer_identity, provider,
    server_config_by, server_name_of, server_name_of_any_member, web_client_verifier, web_provider,
};
use lineside_wire::{Role, SignedTrust};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tempfile::TempDir;

const ALPN: &[u8] = b"lineside/1";
const JOIN_ALPN: &[u8] = b"lineside-join/1";

struct Office {
    _home: TempDir,
    authority: Authority,
}

impl Office {
    fn open() -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
        Self { _home: home, authority }
    }

    fn says(&self) -> SignedTrust {
        self.authority.trust().unwrap()
    }

    fn member(&self, role: Role, name: &str) -> Identity {
        let issued = self.authority.issue(&Subject::new(role, name), SystemTime::now()).unwrap();
        let identity = Identity::of(&issued).unwrap();
        identity.with_trust(Trust::own(&self.says()).unwrap())
    }

    fn revoke(&self, member: &Identity) {
        self.authority.revoke(&Revoke::Node(member.node()), SystemTime::now()).unwrap();
    }

    fn join_certificates(&self, office: &Identity) -> JoinCertificates {
        self.authority.join_certificates(office.node(), SystemTime::now()).unwrap()
    }
}

/// The same member, after it has heard of a newer list.
fn told(member: &Identity, signed: &SignedTrust) -> Identity {
    member.with_trust(member.trust().succeed(signed).unwrap())
}

fn server(identity: &Identity, joining: Option<&JoinCertificates>) -> Arc<ServerConfig> {
    let joining = joining.map(|certificates| Joining { alpn: JOIN_ALPN, certificates });
    server_config_by(identity, &Clock::system(), &[ALPN], joining).unwrap()
}

fn client(identity: &Identity) -> Arc<ClientConfig> {
    client_config_by(identity, &Clock::system(), &[ALPN]).unwrap()
}

fn joiner(authority: &[u8; 32]) -> (Arc<ClientConfig>, Presented) {
    join_client_config(authority, &Clock::system(), JOIN_ALPN).unwrap()
}

/// Lets two sides talk until both are done, or one refuses.
fn talk(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(client, name.to_owned().try_into().unwrap())?;
    let mut server = ServerConnection::new(server)?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        let accepted = server.process_new_packets();
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        // The reason is with the side that refuses; the other only gets the alert.
        match (client.process_new_packets(), accepted) {
            (Err(rustls::Error::AlertReceived(_)), Err(error)) | (Err(error), _) | (Ok(_), Err(error)) => {
                return Err(error);
            }
            (Ok(_), Ok(_)) => {}
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn meet(dialling: &Identity, answering: &Identity) -> Result<(), rustls::Error> {
    let name = server_name_of(answering.node(), answering.cluster());
    talk(client(dialling), server(answering, None), &name).map(drop)
}

fn is_revoked(result: &Result<(), rustls::Error>) -> bool {
    matches!(result, Err(rustls::Error::InvalidCertificate(CertificateError::Revoked)))
}

#[test]
fn who_is_revoked_is_refused_by_those_who_have_heard_of_it_in_both_directions() {
    let office = Office::open();
    let (press, door) = (office.member(Role::Node, "press"), office.member(Role::Gateway, "door"));
    let before = office.says();
    meet(&door, &press).unwrap();
    office.revoke(&press);
    meet(&door, &press).unwrap();
    let door = told(&door, &office.says());
    assert_eq!(door.trust().judge(press.holder()), Verdict::Revoked);
    assert!(is_revoked(&meet(&door, &press)) && is_revoked(&meet(&press, &door)));
    let weld = office.member(Role::Node, "weld");
    meet(&door, &weld).unwrap();
    // What was revoked stays so: the list from before is never taken back.
    assert!(matches!(door.trust().succeed(&before), Err(TrustError::Older { .. })));
    assert!(matches!(door.trust().succeed(&office.says()), Err(TrustError::SameNumber(_))));
}

#[test]
fn one_certificate_alone_can_be_revoked_and_its_node_stays() {
    let office = Office::open();
    let (press, door) = (office.member(Role::Node, "press"), office.member(Role::Gateway, "door"));
    let serial = press.holder().serial.clone();
    office.authority.revoke(&Revoke::Serial(serial), SystemTime::now()).unwrap();
    let door = told(&door, &office.says());
    assert!(is_revoked(&meet(&press, &door)));
    let (role, node, name) = (press.role(), press.node(), press.name().to_owned());
    let issued = office.authority.issue(&Subject { role, node, name }, SystemTime::now()).unwrap();
    meet(&Identity::of(&issued).unwrap(), &door).unwrap();
}

#[test]
fn a_rotation_lets_everybody_meet_until_it_ends() {
    let office = Office::open();
    let (old, other) = (office.member(Role::Node, "old"), office.member(Role::Node, "other"));
    office.authority.rotation_start(SystemTime::now()).unwrap();
    let new = office.member(Role::Node, "new");
    let peer: &PeerIdentity = new.holder();
    assert_eq!((peer.generation, old.trust().issuing(), new.trust().issuing()), (2, 1, 2));
    let heard = told(&other, &office.says());
    for (one, another) in [(&old, &new), (&heard, &new), (&old, &heard)] {
        meet(one, another).unwrap();
        meet(another, one).unwrap();
        assert_eq!(one.trust().judge(another.holder()), Verdict::Trusted);
    }
    // A revocation by the new authority reaches those who know it, and one by the old still counts.
    office.revoke(&new);
    office.revoke(&old);
    let heard = told(&heard, &office.says());
    assert!(is_revoked(&meet(&heard, &new)) && is_revoked(&meet(&heard, &old)));

    office.authority.rotation_finish(SystemTime::now()).unwrap();
    let after = told(&heard, &office.says());
    assert_eq!(after.trust().judge(other.holder()), Verdict::UnknownAuthority);
    assert!(meet(&other, &after).is_err());
    assert_eq!(other.trust().succeed(&office.says()).unwrap_err(), TrustError::NotSigned);
    meet(&office.member(Role::Node, "last"), &office.member(Role::Node, "late")).unwrap();
}

#[test]
fn a_joiner_meets_the_authority_of_its_token_and_no_other() {
    let (ours, theirs) = (Office::open(), Office::open());
    let holder = ours.member(Role::Node, "office");
    let certificates = ours.join_certificates(&holder);
    let server = || server(&holder, Some(&certificates));
    let token = ours.authority.fingerprint();
    let (config, presented) = joiner(&token);
    let (client, server_side) = talk(config, server(), &join_server_name(&token)).unwrap();
    assert_eq!(presented.instead(), None);
    assert_eq!((client.alpn_protocol(), server_side.peer_certificates()), (Some(JOIN_ALPN), None));

    let foreign = theirs.authority.fingerprint();
    let (config, presented) = joiner(&foreign);
    assert!(talk(config, server(), &join_server_name(&foreign)).is_err());
    assert_eq!(presented.instead(), Some(Some(token)));
}

#[test]
fn during_a_rotation_tokens_of_both_generations_meet_their_authority() {
    let office = Office::open();
    let first = office.authority.fingerprint();
    office.authority.rotation_start(SystemTime::now()).unwrap();
    let second = office.authority.fingerprint();
    assert_ne!(first, second);
    let holder = office.member(Role::Node, "office");
    let certificates = office.join_certificates(&holder);
    for token in [first, second] {
        let (config, _) = joiner(&token);
        talk(config, server(&holder, Some(&certificates)), &join_server_name(&token)).unwrap();
    }
}

#[test]
fn members_are_judged_as_ever_where_strangers_may_join() {
    let (office, elsewhere) = (Office::open(), Office::open());
    let (holder, press) = (office.member(Role::Node, "office"), office.member(Role::Node, "press"));
    let certificates = office.join_certificates(&holder);
    let name = server_name_of(holder.node(), holder.cluster());
    let (_, accepted) = talk(client(&press), server(&holder, Some(&certificates)), &name).unwrap();
    assert!(accepted.peer_certificates().is_some());
    // Who offers both protocols gets the members', and the member's certificate.
    let mut both = ClientConfig::clone(&client(&press));
    both.alpn_protocols = vec![JOIN_ALPN.to_vec(), ALPN.to_vec()];
    let (dialled, _) = talk(Arc::new(both), server(&holder, Some(&certificates)), &name).unwrap();
    assert_eq!(dialled.alpn_protocol(), Some(ALPN));
    // A stranger's certificate is refused, under either name.
    let mut stranger = ClientConfig::clone(&client(&elsewhere.member(Role::Node, "stranger")));
    stranger.dangerous().set_certificate_verifier(joiner_verifier(&office));
    stranger.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    let join_name = join_server_name(&office.authority.fingerprint());
    assert!(talk(Arc::new(stranger), server(&holder, Some(&certificates)), &join_name).is_err());
    office.revoke(&press);
    let holder = told(&holder, &office.says());
    let refused = talk(client(&press), server(&holder, Some(&certificates)), &name).map(drop);
    assert!(is_revoked(&refused));
}

/// Takes the join certificates of an office as a joiner does.
fn joiner_verifier(office: &Office) -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(office.authority.certificate().as_bytes()).unwrap()).unwrap();
    #[derive(Debug)]
    struct Any(Arc<rustls::client::WebPkiServerVerifier>);
    impl rustls::client::danger::ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.0.verify_tls12_signature(message, certificate, signed)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.0.verify_tls13_signature(message, certificate, signed)
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.supported_verify_schemes()
        }
    }
    let webpki = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
    Arc::new(Any(webpki.build().unwrap()))
}

#[test]
fn who_shows_the_right_authority_without_its_signature_is_no_office() {
    let office = Office::open();
    let token = office.authority.fingerprint();
    let authority = CertificateDer::from_pem_slice(office.authority.certificate().as_bytes()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let name = format!("member.{}.lineside.internal", office.authority.cluster());
    let forged = rcgen::CertificateParams::new(vec![name]).unwrap().self_signed(&key).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![forged.der().clone(), authority], key)
        .unwrap();
    config.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    let (client, presented) = joiner(&token);
    assert!(talk(client, Arc::new(config), &join_server_name(&token)).is_err());
    assert_eq!(presented.instead(), None, "the authority was there, and had not signed");
}

/// A certificate of the office's, for TLS as others do it.
fn pair(
    office: &Office,
    role: Role,
    name: &str,
) -> (Identity, CertificateDer<'static>, PrivateKeyDer<'static>) {
    let issued = office.authority.issue(&Subject::new(role, name), SystemTime::now()).unwrap();
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    (Identity::of(&issued).unwrap(), certificate, key)
}

/// Who the door of HTTPS sees when a client comes with this certificate, or with none.
fn visit(
    door: &Office,
    shows: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> Result<Option<PeerIdentity>, rustls::Error> {
    let trust = Trust::own(&door.says()).unwrap();
    let (_, certificate, key) = pair(door, Role::Gateway, "door");
    let server = ServerConfig::builder_with_provider(web_provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(web_client_verifier(&trust).unwrap())
        .with_single_cert(vec![certificate], key)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trust.authorities_pem().as_bytes()).unwrap())?;
    let client = ClientConfig::builder_with_provider(web_provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let client = match shows {
        None => client.with_no_client_auth(),
        Some((certificate, key)) => client.with_client_auth_cert(vec![certificate], key)?,
    };
    let name = server_name_of_any_member(door.authority.cluster());
    let (_, server) = talk(Arc::new(client), Arc::new(server), &name)?;
    Ok(server.peer_certificates().map(|chain| peer_identity(chain).unwrap()))
}

#[test]
fn a_client_of_https_may_show_a_certificate_of_the_cluster_and_no_other() {
    let (ours, theirs) = (Office::open(), Office::open());
    assert_eq!(visit(&ours, None), Ok(None));
    let (camera, certificate, key) = pair(&ours, Role::Client, "camera");
    let seen = visit(&ours, Some((certificate.clone(), key.clone_key()))).unwrap().unwrap();
    assert_eq!(&seen, camera.holder());
    let (_, foreign, foreign_key) = pair(&theirs, Role::Client, "camera");
    assert!(visit(&ours, Some((foreign, foreign_key))).is_err());
    ours.revoke(&camera);
    assert!(is_revoked(&visit(&ours, Some((certificate, key))).map(drop)));
}

#[test]
fn only_https_may_speak_anything_older_than_members_do() {
    assert!(provider().cipher_suites.iter().all(|suite| suite.tls13().is_some()));
    let first = web_provider().cipher_suites[0].suite();
    assert_eq!(first, provider().cipher_suites[0].suite());
}
