//! Who may stay: revocation, renewal, rotation and wrong clocks, over loopback with real certificates.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use lineside_certs::{Clock, Credentials, Lifetimes, Refusal, Subject, client_config};
use lineside_mesh::{ALPN, CallFailure, CloseCode, DialError, Refuser};
use lineside_wire::{Empty, Greeting, PROTOCOL_VERSION, Role, method};
use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};
use tokio::time::timeout;

use crate::floor::{Floor, Member, PATIENCE, Raw, Seen, close_code, end_of, hold, ping, raw_request};

/// How long a revocation may take from one member's knowing of it to the end of the connection.
const SOON: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_revoked_peer_is_closed_on_both_sides_and_cannot_come_back() {
    let floor = Floor::new();
    let (mut press, mut door, mut weld) = (floor.member("press"), floor.member("door"), floor.member("weld"));
    weld.ping(&press).await;
    door.ping(&weld).await;
    let (press_id, door_id, weld_id) = (press.node(), door.node(), weld.node());
    press.sees(&Seen::Met(weld_id)).await;
    weld.sees(&Seen::Met(door_id)).await;

    floor.revoke(weld_id);
    floor.publish(&[&press, &door]);
    let closed = async {
        press.sees(&Seen::Lost(weld_id)).await;
        door.sees(&Seen::Lost(weld_id)).await;
        let mut lost = Vec::new();
        while lost.len() < 2 {
            match weld.seen.recv().await.unwrap() {
                Seen::Lost(node) => lost.push(node),
                Seen::Met(_) | Seen::Gossip(..) => {}
            }
        }
        lost.sort();
        let mut both = vec![press_id, door_id];
        both.sort();
        assert_eq!(lost, both);
    };
    timeout(SOON, closed).await.expect("the connections end within a second");

    let back = weld.mesh.greet(press.mesh.local_addr(), None).await.unwrap_err();
    assert!(
        matches!(back, DialError::Refused { by: Refuser::Peer, refusal: Refusal::Revoked, .. }),
        "{back:?}"
    );
    let text = back.to_string();
    assert!(
        text.starts_with("the node at 127.0.0.1:") && text.contains("refused your certificate"),
        "{text}"
    );
    let out = door.mesh.greet(weld.mesh.local_addr(), Some(weld_id)).await.unwrap_err();
    assert!(matches!(out, DialError::Refused { by: Refuser::Us, refusal: Refusal::Revoked, .. }), "{out:?}");
    assert!(out.to_string().contains("is not accepted here"), "{out}");
    door.ping(&press).await;
}

#[tokio::test]
async fn a_revoked_peer_that_has_not_said_hello_is_closed_as_well() {
    let floor = Floor::new();
    let (press, plc) = (floor.member("press"), floor.identity(Role::Client, "plc"));
    let raw = Raw::new();
    let connection = raw.dial_member(client_config(&plc, &[ALPN]).unwrap(), &press).await.unwrap();
    // The press has taken the connection once it refuses to answer anything but a hello.
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&raw_request(method::PING, &Empty {})).await.unwrap();
    send.finish().unwrap();
    timeout(PATIENCE, recv.read_to_end(1 << 16)).await.expect("an answer comes").unwrap();
    floor.revoke(plc.node());
    floor.publish(&[&press]);
    let end = timeout(SOON, connection.closed()).await.expect("the connection ends within a second");
    assert_eq!(close_code(&end), CloseCode::Revoked as u64);
}

#[tokio::test]
async fn a_revoked_node_is_refused_with_a_certificate_that_nobody_revoked() {
    let floor = Floor::new();
    let (press, weld) = (floor.member("press"), floor.member("weld"));
    let copy = floor.copied();
    floor.revoke(weld.node());
    floor.publish(&[&press]);
    // Signed after that, on a second machine with the authority's key that has not heard of it.
    let again = Member::start(floor.renewed_by(&copy, &weld.credentials.identity()));
    let back = again.mesh.greet(press.mesh.local_addr(), None).await.unwrap_err();
    let is_revoked =
        |error: &DialError| matches!(error, DialError::Refused { refusal: Refusal::Revoked, .. });
    assert!(is_revoked(&back), "{back:?}");
    let out = press.mesh.greet(again.mesh.local_addr(), None).await.unwrap_err();
    assert!(is_revoked(&out) && out.to_string().contains("not accepted here"), "{out:?}");
}

/// A client's store of sessions that notes what it is asked to keep.
#[derive(Debug)]
struct Saved {
    inner: rustls::client::ClientSessionMemoryCache,
    tickets: AtomicUsize,
}

impl ClientSessionStore for Saved {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.inner.set_kx_hint(server, group);
    }
    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.inner.kx_hint(server)
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.tickets.fetch_add(1, SeqCst);
        self.inner.insert_tls13_ticket(server, ticket);
    }
    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.inner.take_tls13_ticket(server)
    }
}

#[tokio::test]
async fn there_is_no_saved_session_by_which_a_revoked_client_could_come_back() {
    let floor = Floor::new();
    let (press, plc) = (floor.member("press"), floor.identity(Role::Client, "plc"));
    let saved = Arc::new(Saved {
        inner: rustls::client::ClientSessionMemoryCache::new(32),
        tickets: AtomicUsize::new(0),
    });
    let mut tls = rustls::ClientConfig::clone(&client_config(&plc, &[ALPN]).unwrap());
    tls.resumption = Resumption::store(Arc::clone(&saved) as Arc<dyn ClientSessionStore>);
    tls.enable_early_data = true;
    let (tls, raw) = (Arc::new(tls), Raw::new());
    let connection = raw.dial_member(Arc::clone(&tls), &press).await.unwrap();
    let greeting = Greeting { protocol: PROTOCOL_VERSION, cluster: plc.cluster(), member: None, clock_ms: 0 };
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&raw_request(method::HELLO, &greeting)).await.unwrap();
    send.finish().unwrap();
    let answer = timeout(PATIENCE, recv.read_to_end(1 << 16)).await.expect("an answer comes").unwrap();
    assert_eq!(answer[1], 3, "the hello was refused");
    // A ticket would have come with the end of the handshake, before the answer.
    assert_eq!(saved.tickets.load(SeqCst), 0);
    connection.close(0_u8.into(), b"");

    floor.revoke(plc.node());
    floor.publish(&[&press]);
    let again = raw.dial_member(tls, &press).await;
    let end = match again {
        // The refusal comes late: the client's side of the handshake is done before its certificate is looked at.
        Ok(connection) => end_of(&connection).await,
        Err(error) => error,
    };
    assert!(end.to_string().contains("Revoked"), "{end}");
}

#[tokio::test]
async fn certificates_renewed_under_a_hundred_open_calls_lose_none() {
    let floor = Floor::new();
    let (press, door) = (floor.member("press"), floor.member("door"));
    let before = door.ping(&press).await;
    let calls = futures_util::future::join_all((0..100).map(|_| door.mesh.call(press.destination(), hold())));
    let renew = async {
        press.held.until(100).await;
        for member in [&press, &door] {
            member.credentials.replace(floor.renewed(&member.credentials.identity()));
        }
        assert_eq!(door.ping(&press).await, before, "the connection stays");
        press.held.answer();
    };
    let (answers, ()) = tokio::join!(calls, renew);
    for answer in answers {
        answer.unwrap();
    }
    // Who comes now sees the new one, and shows its own new one.
    let weld = floor.member("weld");
    let met = weld.mesh.greet(press.mesh.local_addr(), None).await.unwrap();
    assert_eq!(met.identity.serial, press.credentials.identity().holder().serial);
    assert_eq!(door.ping(&weld).await, door.credentials.identity().holder().serial);
    assert_ne!(door.credentials.identity().holder().serial, before);
}

#[tokio::test]
async fn a_member_of_the_next_generation_is_taken_by_one_that_has_not_heard_of_it() {
    let floor = Floor::new();
    let (old, other) = (floor.member("old"), floor.member("other"));
    floor.authority.rotation_start(SystemTime::now()).unwrap();
    let new = floor.member("new");
    assert_eq!(new.credentials.identity().holder().generation, 2);
    assert_eq!(old.credentials.identity().trust().issuing(), 1);
    // Both ways, and with one that knows both generations.
    old.ping(&new).await;
    new.ping(&other).await;
    floor.publish(&[&old]);
    assert_eq!(old.credentials.identity().trust().issuing(), 2);
    old.ping(&new).await;
    old.ping(&other).await;
}

#[tokio::test]
async fn when_a_rotation_ends_connections_of_the_old_generation_end_with_it() {
    let floor = Floor::new();
    let (press, mut weld) = (floor.member("press"), floor.member("weld"));
    weld.ping(&press).await;
    floor.authority.rotation_start(SystemTime::now()).unwrap();
    floor.publish(&[&press]);
    weld.ping(&press).await;
    press.credentials.replace(floor.renewed(&press.credentials.identity()));
    floor.authority.rotation_finish(SystemTime::now()).unwrap();
    floor.publish(&[&press]);
    timeout(SOON, weld.sees(&Seen::Lost(press.node()))).await.expect("it ends within a second");
    let back = press.mesh.greet(weld.mesh.local_addr(), None).await.unwrap_err();
    assert!(matches!(back, DialError::Refused { by: Refuser::Us, .. }), "{back:?}");
}

#[tokio::test]
async fn who_came_in_by_a_stolen_authority_leaves_with_it_whatever_it_calls_the_next_one() {
    let floor = Floor::new();
    let (stolen, press) = (floor.copied(), floor.member("press"));
    // The thief names one of his own as the true one will be named, and the stolen one vouches for it.
    stolen.rotation_start(SystemTime::now()).unwrap();
    let mut thief = Member::start(floor.issue(&stolen, &Subject::new(Role::Node, "thief")));
    assert_eq!(thief.credentials.identity().holder().generation, 2);
    thief.ping(&press).await;
    floor.authority.rotation_start(SystemTime::now()).unwrap();
    floor.publish(&[&press]);
    floor.authority.rotation_finish(SystemTime::now()).unwrap();
    floor.publish(&[&press]);
    timeout(SOON, thief.sees(&Seen::Lost(press.node()))).await.expect("it ends within a second");
}

#[tokio::test]
async fn a_board_that_woke_up_in_1970_meets_the_others_by_the_time_that_it_kept() {
    let floor = Floor::new();
    let door = floor.member("door");
    let identity = floor.identity(Role::Node, "press");
    Clock::system().keep(floor.home.path(), identity.not_after()).unwrap();
    let clock = Clock::reading(|| SystemTime::UNIX_EPOCH).not_before_kept_in(floor.home.path());
    let press = Member::start_with(Credentials::new(identity, clock), Member::config());
    press.ping(&door).await;
    door.ping(&press).await;
    let weld = floor.member("weld");
    weld.ping(&press).await;
}

#[tokio::test]
async fn a_connection_ends_with_its_certificates_and_calls_go_over_a_fresh_one() {
    let short = Duration::from_secs(4);
    let lifetimes = Lifetimes { member: short, ..Lifetimes::default() };
    let floor = Floor::with_lifetimes(lifetimes);
    let start = |name| {
        let mut config = Member::config();
        config.timing.expired_grace = Duration::from_millis(500);
        Member::start_with(Credentials::new(floor.identity(Role::Node, name), Clock::system()), config)
    };
    let (press, mut door) = (start("press"), start("door"));
    let before = door.ping(&press).await;
    let last = door.mesh.call(press.destination(), hold());
    let meanwhile = async {
        press.held.until(1).await;
        // Renewed in time, for a fortnight; the connection goes on until the end of the first certificates is near.
        let longer = floor.copied();
        for member in [&press, &door] {
            member.credentials.replace(floor.renewed_by(&longer, &member.credentials.identity()));
        }
        assert_eq!(door.ping(&press).await, before);
        let fresh = async {
            while door.ping(&press).await == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, fresh).await.expect("a fresh connection is made");
    };
    let (last, ()) = tokio::join!(last, meanwhile);
    assert!(matches!(last, Err(CallFailure::Lost { sent: true, .. })), "{last:?}");
    door.ping(&press).await;
    while let Ok(seen) = door.seen.try_recv() {
        assert_ne!(seen, Seen::Lost(press.node()), "the press was never gone");
    }
}

#[tokio::test]
async fn who_shows_a_certificate_that_has_ended_hears_why() {
    let floor = Floor::with_lifetimes(Lifetimes { client: Duration::from_secs(1), ..Lifetimes::default() });
    let (press, plc) = (floor.member("press"), floor.identity(Role::Client, "plc"));
    let config = lineside_mesh::MeshConfig::dialling();
    let plc = Member::start_with(Credentials::new(plc, Clock::system()), config);
    // TLS counts whole seconds, and the last one still holds.
    let over = async {
        while SystemTime::now() <= plc.credentials.identity().not_after() + Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, over).await.expect("the certificate ends");
    let refused = plc.mesh.call(press.destination(), ping()).await.unwrap_err();
    let CallFailure::Unreachable { error, .. } = refused else { panic!("{refused:?}") };
    let by_peer = matches!(error, DialError::Refused { by: Refuser::Peer, refusal: Refusal::Expired, .. });
    assert!(by_peer, "{error:?}");
}
