//! Joining: the one thing that a stranger may do, over loopback with a real authority.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::{BoxFuture, FutureExt};
use lineside_certs::{
    Authority, CertificateRequest, Clock, Identity, JoinCertificates, JoinRefusal, Token, TokenOrder,
    join_client_config, join_server_name, provider,
};
use lineside_mesh::{ALPN, CloseCode, Enrolment, JOIN_ALPN, JoinError, join};
use lineside_wire::{
    Empty, Enrolled, Fault, FaultCode, Greeting, JoinParams, NodeId, PROTOCOL_VERSION, Role, method,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::time::timeout;

use crate::floor::{Floor, Member, PATIENCE, Raw, close_code, end_of, raw_request};

/// The authority's desk, as simple as it can be.
struct Desk {
    authority: Arc<Authority>,
    node: NodeId,
    requests: AtomicUsize,
}

impl Enrolment for Desk {
    fn certificates(&self) -> JoinCertificates {
        self.authority.join_certificates(self.node, SystemTime::now()).unwrap()
    }

    fn join(
        &self,
        params: JoinParams,
        exporter: [u8; 32],
        remote: SocketAddr,
    ) -> BoxFuture<'static, Result<Enrolled, Fault>> {
        self.requests.fetch_add(1, SeqCst);
        let answer = self.authority.join(&params, &exporter, &remote.to_string(), SystemTime::now());
        let answer = answer.map_err(|refusal| match refusal {
            JoinRefusal::Unknown | JoinRefusal::Expired | JoinRefusal::Used | JoinRefusal::OtherRole(_) => {
                Fault::new(FaultCode::PermissionDenied, "the token is not accepted")
            }
            JoinRefusal::Request(reason) => Fault::new(FaultCode::InvalidParams, reason),
            JoinRefusal::Authority(error) => Fault::new(FaultCode::Internal, error.to_string()),
        });
        async move { answer }.boxed()
    }
}

/// A floor whose first member has the authority's key.
struct Office {
    floor: Floor,
    member: Member,
    desk: Arc<Desk>,
}

impl Office {
    fn open() -> Self {
        let floor = Floor::new();
        let member = floor.member("office");
        let (authority, node) = (Arc::clone(&floor.authority), member.node());
        let desk = Arc::new(Desk { authority, node, requests: AtomicUsize::new(0) });
        member.mesh.set_enrolment(Some(Arc::clone(&desk) as Arc<dyn Enrolment>));
        Self { floor, member, desk }
    }

    fn address(&self) -> SocketAddr {
        self.member.mesh.local_addr()
    }

    fn token(&self, role: Role) -> Token {
        self.token_made(role, SystemTime::now())
    }

    fn token_made(&self, role: Role, at: SystemTime) -> Token {
        let order = TokenOrder { role, name: None, lifetime: Duration::from_secs(900) };
        self.floor.authority.create_token(&order, at).unwrap().at(vec![self.address().to_string()])
    }

    async fn join(
        &self,
        token: &Token,
        role: Role,
        request: &CertificateRequest,
    ) -> Result<Enrolled, JoinError> {
        join(self.address(), token, role, "press", request).await
    }

    /// A connection under the join protocol, past the check of the authority.
    async fn raw(&self, raw: &Raw, token: &Token) -> quinn::Connection {
        let (tls, _) = join_client_config(token.authority(), &Clock::system(), JOIN_ALPN).unwrap();
        raw.dial(tls, self.address(), &join_server_name(token.authority())).await.unwrap()
    }

    fn requests(&self) -> usize {
        self.desk.requests.load(SeqCst)
    }
}

fn exporter(connection: &quinn::Connection, token: &Token) -> [u8; 32] {
    let mut value = [0; 32];
    connection.export_keying_material(&mut value, b"EXPORTER-lineside-join-v1", &token.id().0).unwrap();
    value
}

/// Sends one request on a stream of its own and gives the answer's frame.
async fn exchange<P: serde::Serialize>(connection: &quinn::Connection, method: &str, params: &P) -> Vec<u8> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&raw_request(method, params)).await.unwrap();
    send.finish().unwrap();
    timeout(PATIENCE, recv.read_to_end(1 << 20)).await.expect("an answer comes").unwrap()
}

fn says(answer: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(answer).contains(text)
}

#[tokio::test]
async fn a_machine_with_a_token_becomes_a_member() {
    let office = Office::open();
    let (token, request) = (office.token(Role::Node), CertificateRequest::new());
    let enrolled = office.join(&token, Role::Node, &request).await.unwrap();
    let issued = request.complete(&enrolled, Some(token.authority())).unwrap();
    let press = Member::start(Arc::new(Identity::of(&issued).unwrap()));
    press.ping(&office.member).await;
    office.member.ping(&press).await;
    // Those who have a certificate come in as ever, before and after.
    office.floor.member("weld").ping(&office.member).await;
    // An answer that was lost can be had again, for the same key.
    let again = office.join(&token, Role::Node, &request).await.unwrap();
    assert_eq!(again.certificates, enrolled.certificates);
}

#[tokio::test]
async fn tokens_that_are_no_good_are_refused_with_one_and_the_same_text() {
    let office = Office::open();
    let request = CertificateRequest::new();
    let used = office.token(Role::Node);
    office.join(&used, Role::Node, &request).await.unwrap();
    let expired = office.token_made(Role::Node, SystemTime::now() - Duration::from_secs(3600));
    let other_role = office.token(Role::Client);
    let changed = {
        // The secret is the last part in front of the address; its first character has six bits that all count.
        let good = office.token(Role::Node).to_string();
        let secret = good.split('@').next().unwrap().rfind('.').unwrap() + 1;
        let flipped = if good[secret..].starts_with('A') { "B" } else { "A" };
        format!("{}{flipped}{}", &good[..secret], &good[secret + 1..]).parse::<Token>().unwrap()
    };
    let other = CertificateRequest::new();
    let mut texts = Vec::new();
    for token in [&used, &expired, &other_role, &changed] {
        let refused = office.join(token, Role::Node, &other).await.unwrap_err();
        let JoinError::Refused { fault, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(fault.code, FaultCode::PermissionDenied);
        assert!(
            !refused.leaves_token() && refused.to_string().contains("lineside token create"),
            "{refused}"
        );
        texts.push(fault.message.clone());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
}

#[tokio::test]
async fn a_joiner_at_another_clusters_member_leaves_before_it_has_sent_anything() {
    let (ours, theirs) = (Office::open(), Office::open());
    let token = ours.token(Role::Node);
    let refused =
        join(theirs.address(), &token, Role::Node, "press", &CertificateRequest::new()).await.unwrap_err();
    let JoinError::WrongAuthority { expected, found, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(expected.0, *token.authority());
    assert_eq!(found.unwrap().0, theirs.floor.authority.fingerprint());
    let text = refused.to_string();
    assert!(text.contains(&expected.to_string()) && text.contains(&found.unwrap().to_string()), "{text}");
    assert!(refused.leaves_token() && text.contains("can still be used"), "{text}");
    assert_eq!(theirs.requests(), 0);
    ours.join(&token, Role::Node, &CertificateRequest::new()).await.unwrap();
}

#[tokio::test]
async fn a_proof_that_is_relayed_to_another_connection_is_worth_nothing() {
    let office = Office::open();
    let (token, request, raw) = (office.token(Role::Node), CertificateRequest::new(), Raw::new());
    let (first, second) = (office.raw(&raw, &token).await, office.raw(&raw, &token).await);
    assert_ne!(exporter(&first, &token), exporter(&second, &token));
    let params = request.join_params(&token, Role::Node, "press", &exporter(&first, &token));
    let relayed = exchange(&second, method::ENROL_JOIN, &params).await;
    assert!(says(&relayed, "the token is not accepted"));
    let own = exchange(&first, method::ENROL_JOIN, &params).await;
    assert!(says(&own, "certificates"), "{}", String::from_utf8_lossy(&own));
}

#[tokio::test]
async fn only_a_member_with_the_authoritys_key_lets_anybody_join() {
    let office = Office::open();
    let (token, press) = (office.token(Role::Node), office.floor.member("press"));
    let address = press.mesh.local_addr();
    let refused = join(address, &token, Role::Node, "weld", &CertificateRequest::new()).await.unwrap_err();
    assert!(matches!(refused, JoinError::NotAHolder { .. }) && refused.leaves_token(), "{refused:?}");
    office.member.mesh.set_enrolment(None);
    let refused = office.join(&token, Role::Node, &CertificateRequest::new()).await.unwrap_err();
    assert!(matches!(refused, JoinError::NotAHolder { .. }), "{refused:?}");
    office.member.mesh.set_enrolment(Some(Arc::clone(&office.desk) as Arc<dyn Enrolment>));
    office.join(&token, Role::Node, &CertificateRequest::new()).await.unwrap();
}

#[tokio::test]
async fn where_nobody_listens_the_token_is_as_good_as_before() {
    let office = Office::open();
    let token = office.token(Role::Node);
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let late = join(address, &token, Role::Node, "press", &CertificateRequest::new()).await.unwrap_err();
    assert!(matches!(late, JoinError::Timeout { sent: false, .. }) && late.leaves_token(), "{late:?}");
}

/// Settings of somebody who trusts the cluster and has no certificate.
fn without_certificate(floor: &Floor) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let pem = floor.trust().authorities_pem();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(tls)
}

#[tokio::test]
async fn a_stranger_among_members_is_sent_away_and_served_nothing() {
    let office = Office::open();
    let (raw, press) = (Raw::new(), office.floor.member("press"));
    let connection = raw.dial_member(without_certificate(&office.floor), &office.member).await.unwrap();
    // It may write what it likes; nobody reads.
    let cluster = office.floor.authority.cluster();
    let greeting = Greeting { protocol: PROTOCOL_VERSION, cluster, member: None, clock_ms: 0 };
    if let Ok((mut send, mut recv)) = connection.open_bi().await {
        let _it_may_be_over = send.write_all(&raw_request(method::HELLO, &greeting)).await;
        let _the_same = send.finish();
        assert!(recv.read_to_end(1 << 16).await.is_err());
    }
    assert_eq!(close_code(&end_of(&connection).await), CloseCode::NoCertificate as u64);
    // Where nobody can join, TLS says the same.
    let end = match raw.dial_member(without_certificate(&office.floor), &press).await {
        Ok(connection) => end_of(&connection).await,
        Err(error) => error,
    };
    assert!(end.to_string().contains("certificate"), "{end}");
    press.ping(&office.member).await;
}

#[tokio::test]
async fn the_sixth_try_of_a_minute_waits() {
    let office = Office::open();
    let foreign = Office::open().token(Role::Node);
    let wrong = {
        // A token of this authority with a secret of another one's.
        let (ours, theirs) = (office.token(Role::Node).to_string(), foreign.to_string());
        let (head, address) = ours.split_once('@').unwrap();
        let (head, _) = head.rsplit_once('.').unwrap();
        let (_, secret) = theirs.split_once('@').unwrap().0.rsplit_once('.').unwrap();
        format!("{head}.{secret}@{address}").parse::<Token>().unwrap()
    };
    let request = CertificateRequest::new();
    for _ in 0..5 {
        let refused = office.join(&wrong, Role::Node, &request).await.unwrap_err();
        assert!(matches!(refused, JoinError::Refused { .. }), "{refused:?}");
    }
    let good = office.token(Role::Node);
    let late = office.join(&good, Role::Node, &request).await.unwrap_err();
    let JoinError::RateLimited { retry_after, .. } = late else { panic!("{late:?}") };
    assert!(
        Duration::from_secs(30) < retry_after && retry_after <= Duration::from_secs(60),
        "{retry_after:?}"
    );
    assert!(late.leaves_token());
    assert_eq!(office.requests(), 5);
    // Members are not strangers.
    office.floor.member("press").ping(&office.member).await;
}

#[tokio::test]
async fn a_joiners_connection_can_do_nothing_else() {
    let office = Office::open();
    let (token, raw) = (office.token(Role::Node), Raw::new());

    let other_method = office.raw(&raw, &token).await;
    assert!(says(&exchange(&other_method, method::PING, &Empty {}).await, "without a certificate"));
    assert_eq!(close_code(&end_of(&other_method).await), CloseCode::Bye as u64);

    let gossip = office.raw(&raw, &token).await;
    gossip.send_datagram(b"hear hear".as_slice().into()).unwrap();
    assert_eq!(close_code(&end_of(&gossip).await), CloseCode::ProtocolError as u64);

    let second = office.raw(&raw, &token).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let (mut send, recv) = second.open_bi().await.unwrap();
        send.write_all(&[1]).await.unwrap();
        streams.push((send, recv));
    }
    assert_eq!(close_code(&end_of(&second).await), CloseCode::ProtocolError as u64);

    let too_long = office.raw(&raw, &token).await;
    let (mut send, _recv) = too_long.open_bi().await.unwrap();
    send.write_all(&raw_request(method::ENROL_JOIN, &"x".repeat(8 << 10))).await.unwrap();
    assert_eq!(close_code(&end_of(&too_long).await), CloseCode::ProtocolError as u64);
    assert_eq!(office.requests(), 0);
}

#[tokio::test]
async fn silent_joiners_lose_their_places_and_too_many_are_sent_away() {
    let office = Office::open();
    let (token, raw) = (office.token(Role::Node), Raw::new());
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(office.raw(&raw, &token).await);
    }
    let mut codes = Vec::new();
    for connection in &silent {
        codes.push(close_code(&end_of(connection).await));
    }
    assert!(codes.contains(&(CloseCode::TooManyConnections as u64)), "{codes:?}");
    let others = [CloseCode::TooManyConnections as u64, CloseCode::NoHello as u64];
    assert!(codes.iter().all(|code| others.contains(code)), "{codes:?}");
    assert_eq!(office.requests(), 0);
    office.floor.member("press").ping(&office.member).await;
}
