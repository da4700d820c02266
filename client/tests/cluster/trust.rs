//! Becoming a client, staying one, and trusting the right members.

use std::{fs, future::IntoFuture as _, path::Path, sync::Arc, time::Duration};

use lineside_certs::{Identity, Lifetimes};
use lineside_client::{Client, ConnectError, EnrolFailure, JoinFailure, TokenFate};
use lineside_wire::{NodeId, Role, TrustStamp};
use tokio::time::timeout;

use super::floor::{Floor, PATIENCE};

/// So short that half of it can be waited for.
const SHORT: Duration = Duration::from_secs(8);

fn short_lived_clients() -> Lifetimes {
    Lifetimes { client: SHORT, ..Lifetimes::default() }
}

async fn adds(client: &Client) -> NodeId {
    let call = client.infer("add").input("a", &[1], &[1.0_f32]).input("b", &[1], &[2.0_f32]);
    let answer = call.deadline(Duration::from_secs(5)).send().await.unwrap();
    assert_eq!(answer.output("sum").unwrap().to_vec::<f32>().unwrap(), [3.0]);
    answer.node
}

/// Waits until the client goes by another identity or trust list that is as wanted.
async fn becomes(client: &Client, wanted: impl Fn(&Identity) -> bool) -> Arc<Identity> {
    let mut changes = client.credentials().changes();
    let wait = async {
        loop {
            changes.mark_unchanged();
            let identity = client.credentials().identity();
            if wanted(&identity) {
                return identity;
            }
            changes.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, wait).await.expect("the identity changes")
}

/// Waits for what another thread of this process does to files.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

fn silent_address() -> String {
    // Given back: the system says that nobody is there, or says nothing.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    drop(socket);
    address
}

#[tokio::test]
async fn a_program_with_one_token_becomes_a_client() {
    let floor = Floor::new();
    let press = floor.holder("press");
    let token = floor.token(Role::Client, &[&press]).to_string();
    let client = Client::join(token).name("camera-4").await.unwrap();
    let identity = client.credentials().identity();
    assert_eq!((identity.role(), identity.name()), (Role::Client, "camera-4"));
    assert_eq!(adds(&client).await, press.identity.node());
}

#[tokio::test]
async fn a_program_that_keeps_its_identity_starts_again_with_the_same_line_and_the_same_token() {
    let floor = Floor::new();
    let press = floor.holder("press");
    let token = floor.token(Role::Client, &[&press]).to_string();
    let directory = floor.home.path().join("camera/identity");
    let first = Client::join(&token).name("camera-4").keep_in(&directory).await.unwrap();
    let node = first.node();
    first.close().await;
    let again = Client::join(&token).name("camera-4").keep_in(&directory).await.unwrap();
    assert_eq!(again.node(), node);
    adds(&again).await;
}

#[tokio::test]
async fn a_token_that_was_used_is_refused_and_the_text_says_what_to_do() {
    let floor = Floor::new();
    let press = floor.holder("press");
    let token = floor.token(Role::Client, &[&press]).to_string();
    Client::join(&token).await.unwrap().close().await;
    let failure = Client::join(&token).await.unwrap_err();
    let text = failure.to_string();
    assert!(
        matches!(&failure, JoinFailure::Enrol(EnrolFailure::Refused { fate: TokenFate::Spent, .. })),
        "{failure:?}"
    );
    assert!(text.contains(&press.address.to_string()) && text.contains("lineside token create"), "{text}");

    let for_a_node = floor.token(Role::Node, &[&press]);
    let failure = Client::join(for_a_node).await.unwrap_err();
    assert!(matches!(failure, JoinFailure::Enrol(EnrolFailure::Refused { .. })), "{failure}");
}

#[tokio::test]
async fn addresses_that_lead_nowhere_cost_the_token_nothing() {
    let floor = Floor::new();
    let (press, weld) = (floor.holder("press"), floor.node("weld"));
    let (dead, weld) = (silent_address(), weld.address.to_string());
    let token = floor.token(Role::Client, &[&press]);
    let nobody = token.clone().at(vec!["no.such.host.invalid:7443".to_owned(), weld.clone()]);
    let failure = Client::join(nobody).await.unwrap_err();
    let JoinFailure::Enrol(enrol) = &failure else { panic!("{failure}") };
    assert!(matches!(enrol, EnrolFailure::NoAnswer { tries, .. } if tries.len() == 2), "{failure}");
    assert_eq!(enrol.fate(), TokenFate::Usable);
    let text = failure.to_string();
    assert!(text.contains("no.such.host.invalid:7443") && text.contains(&weld), "{text}");

    let found = token.at(vec![dead, weld, press.address.to_string()]);
    let client = Client::join(found).await.unwrap();
    adds(&client).await;
}

#[tokio::test]
async fn a_text_that_is_no_token_and_a_directory_that_cannot_be_written_are_told_before_anybody_is_asked() {
    let floor = Floor::new();
    let press = floor.holder("press");
    assert!(matches!(Client::join("hello").await, Err(JoinFailure::Token(_))));
    let file = floor.home.path().join("file");
    fs::write(&file, "x").unwrap();
    let token = floor.token(Role::Client, &[&press]);
    let failure = Client::join(&token).keep_in(file.join("identity")).await.unwrap_err();
    assert!(failure.to_string().contains("token was not used"), "{failure}");
    Client::join(&token).await.expect("the token is as good as before");
}

#[tokio::test]
async fn a_directory_of_another_cluster_is_named_and_not_replaced() {
    let (floor, neighbour) = (Floor::new(), Floor::new());
    let (press, other) = (floor.holder("press"), neighbour.holder("other"));
    let directory = floor.home.path().join("camera");
    let token = floor.token(Role::Client, &[&press]);
    let node = Client::join(token).keep_in(&directory).await.unwrap().node();

    let token = neighbour.token(Role::Client, &[&other]);
    let failure = Client::join(&token).keep_in(&directory).await.unwrap_err();
    assert!(matches!(failure, JoinFailure::Known { .. }), "{failure:?}");
    let text = failure.to_string();
    assert!(text.contains(&*directory.to_string_lossy()) && text.contains("another cluster"), "{text}");
    assert_eq!(Identity::load(&directory).unwrap().node(), node);
    Client::join(&token).await.expect("the token was not used");
}

#[tokio::test]
async fn a_client_learns_of_a_revoked_node_and_stops_calling_it() {
    let floor = Floor::new();
    let (press, weld) = (floor.holder("press"), floor.node("weld"));
    let client = floor.client(&[&press, &weld]).await;
    client.ping(weld.identity.node()).await.unwrap();
    let program = client.node();

    floor.revoke(weld.identity.node(), &[&press]);
    becomes(&client, |identity| identity.trust().stamp() == press.credentials.identity().trust().stamp())
        .await;
    weld.work.loses(program).await;
    for _ in 0..6 {
        assert_eq!(adds(&client).await, press.identity.node());
    }
    // Between two dials it only says that the address rests.
    let refused = async {
        loop {
            let error = client.ping(weld.identity.node()).await.unwrap_err().to_string();
            if error.contains("revoked") {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let error = timeout(PATIENCE, refused).await.expect("the reason is told");
    assert!(error.contains("is not accepted here"), "{error}");
}

#[tokio::test]
async fn a_trust_list_that_the_authority_did_not_sign_changes_nothing() {
    let (floor, neighbour) = (Floor::new(), Floor::new());
    let (press, weld) = (floor.node("press"), floor.node("weld"));
    let (foreign, stranger) = (neighbour.node("foreign"), NodeId::from_bytes([9; 16]));
    neighbour.revoke(stranger, &[&foreign]);
    let lie = foreign.credentials.identity().trust().signed().cloned();
    *weld.work.false_trust.lock().unwrap() = lie;
    let client = floor.client(&[&press]).await;
    let known = client.credentials().identity().trust().stamp();
    floor.claim(&weld, TrustStamp { number: known.number + 50, hash: 1 });
    weld.work.trust_asked(1).await;

    // The next true one is still taken.
    floor.revoke(stranger, &[&press]);
    let identity = becomes(&client, |identity| identity.trust().stamp() != known).await;
    assert_eq!(identity.trust().stamp(), press.credentials.identity().trust().stamp());
    adds(&client).await;
}

#[tokio::test]
async fn a_client_that_was_revoked_hears_so_in_one_sentence() {
    let floor = Floor::new();
    let (press, weld) = (floor.holder("press"), floor.node("weld"));
    let identity = floor.identity(Role::Client, "program");
    floor.revoke(identity.node(), &[&press, &weld]);
    let error = Client::connect(identity, [press.address, weld.address]).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoMember { .. }), "{error:?}");
    let text = error.to_string();
    assert_eq!(text.matches("refused your certificate").count(), 1, "{text}");
    assert_eq!(text.matches("the certificate was revoked").count(), 1, "{text}");
    assert!(text.contains(&weld.address.to_string()), "{text}");
}

#[tokio::test]
async fn a_client_renews_its_certificate_and_its_directory() {
    let floor = Floor::with_lifetimes(short_lived_clients());
    let press = floor.holder("press");
    let first = floor.identity(Role::Client, "program");
    let directory = floor.home.path().join("program");
    let client = Client::connect(&directory, [press.address]).await.unwrap();
    let renewed = renewed(&client, &first).await;
    adds(&client).await;
    let kept = || Identity::load(&directory).unwrap().holder().serial.clone();
    eventually("the renewed identity is kept", || kept() == renewed.holder().serial).await;
    // The one that is kept is good for the next start.
    client.close().await;
    let again = Client::connect(&directory, [press.address]).await.unwrap();
    adds(&again).await;
}

#[tokio::test]
async fn sixteen_programs_with_one_identity_renew_it_a_few_times_and_all_go_on() {
    let floor = Floor::with_lifetimes(short_lived_clients());
    let press = floor.holder("press");
    let first = floor.identity(Role::Client, "program");
    let directory = floor.home.path().join("program");
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(Client::connect(&directory, [press.address]).await.unwrap());
    }
    for client in &clients {
        renewed(client, &first).await;
        adds(client).await;
    }
    // The first of them renews; who was on its way at the same moment does, too; the others take what is kept.
    let made = floor.certificates_of(first.node());
    assert!((2..=9).contains(&made), "{made} certificates for 16 programs");
    let kept = || Identity::load(&directory).map(|kept| kept.not_after());
    eventually("a renewed identity is kept", || kept().is_ok_and(|ends| first.not_after() < ends)).await;
}

#[tokio::test]
async fn clients_that_share_credentials_never_take_back_what_another_heard() {
    let floor = Floor::with_lifetimes(short_lived_clients());
    let press = floor.holder("press");
    let first = floor.identity(Role::Client, "program");
    let credentials = lineside_certs::Credentials::from(Arc::clone(&first));
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(credentials.clone(), [press.address]).await.unwrap());
    }
    let mut changes = credentials.changes();
    let (mut ends, mut number) = (first.not_after(), first.trust().stamp().number);
    for n in 1..=3 {
        floor.revoke(NodeId::from_bytes([n; 16]), &[&press]);
        let heard = async {
            while credentials.identity().trust().stamp().number <= number {
                changes.changed().await.unwrap();
                let now = credentials.identity();
                assert!(ends <= now.not_after() && number <= now.trust().stamp().number, "taken back");
                ends = now.not_after();
            }
        };
        timeout(PATIENCE, heard).await.expect("the list is heard of");
        number = credentials.identity().trust().stamp().number;
    }
    renewed(&clients[0], &first).await;
    assert!(number <= credentials.identity().trust().stamp().number);
}

#[tokio::test]
async fn a_join_that_is_given_up_leaves_nothing_behind_and_the_token_is_as_good_as_before() {
    let floor = Floor::new();
    let press = floor.holder("press");
    let token = floor.token(Role::Client, &[&press]);
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = token.clone().at(vec![silent.local_addr().unwrap().to_string()]);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let directory = floor.home.path().join("camera");
    let join = Client::join(nobody).keep_in(&directory).into_future();
    timeout(Duration::from_millis(100), join).await.expect_err("nobody answers");
    eventually("its tasks end", || tasks() <= before).await;
    adds(&Client::join(token).keep_in(&directory).await.unwrap()).await;
}

#[tokio::test]
async fn a_rotation_of_the_authority_reaches_a_client_and_its_directory_and_no_call_is_lost() {
    let floor = Floor::with_lifetimes(short_lived_clients());
    let (press, weld) = (floor.holder("press"), floor.node("weld"));
    let first = floor.identity(Role::Client, "program");
    let directory = floor.home.path().join("program");
    let client = Client::connect(&directory, [press.address]).await.unwrap();
    floor.begin_rotation(&[&press, &weld]);
    let second_generation = async {
        let wanted = |identity: &Identity| identity.holder().generation == 2;
        becomes(&client, wanted).await
    };
    let calls = async {
        loop {
            adds(&client).await;
        }
    };
    let renewed = tokio::select! {
        renewed = second_generation => renewed,
        () = calls => unreachable!("it goes on"),
    };
    assert_eq!((renewed.trust().issuing(), renewed.node()), (2, first.node()));
    let generation = || Identity::load(&directory).unwrap().holder().generation;
    eventually("the renewed identity is kept", || generation() == 2).await;

    floor.finish_rotation(&[&press, &weld]);
    let number = press.credentials.identity().trust().stamp().number;
    becomes(&client, |identity| identity.trust().stamp().number == number).await;
    let kept = || Identity::load(&directory).unwrap().trust().stamp().number;
    eventually("the trust list is kept", || kept() == number).await;
    adds(&client).await;
    client.close().await;
    let again = Client::connect(&directory, [weld.address]).await.unwrap();
    adds(&again).await;
}

#[tokio::test]
async fn a_client_of_two_files_renews_both() {
    let floor = Floor::with_lifetimes(short_lived_clients());
    let press = floor.holder("press");
    let first = floor.identity(Role::Client, "program");
    let (certificate, key) = pair(&floor.home.path().join("program"), floor.home.path());
    let client = Client::connect((&certificate, &key), [press.address]).await.unwrap();
    let renewed = renewed(&client, &first).await;
    let serial = || Identity::load_pair(&certificate, &key).map(|kept| kept.holder().serial.clone()).ok();
    eventually("the renewed pair is kept", || serial().as_ref() == Some(&renewed.holder().serial)).await;
    adds(&client).await;
}

#[tokio::test]
async fn without_the_authority_a_client_goes_on_and_is_renewed_when_it_is_back() {
    let floor = Floor::with_lifetimes(Lifetimes { client: SHORT * 2, ..Lifetimes::default() });
    let press = floor.node("press");
    let first = floor.identity(Role::Client, "program");
    let client = Client::connect(Arc::clone(&first), [press.address]).await.unwrap();
    // Until after the first try, which finds nobody.
    let half = first.not_before() + first.not_after().duration_since(first.not_before()).unwrap() / 2;
    eventually("half of its time goes by", || half < std::time::SystemTime::now()).await;
    adds(&client).await;
    assert_eq!(client.credentials().identity().holder().serial, first.holder().serial);
    let _back = floor.holder("weld");
    renewed(&client, &first).await;
    adds(&client).await;
}

#[tokio::test]
async fn an_identity_whose_time_is_over_is_told_before_anybody_is_asked() {
    let floor = Floor::with_lifetimes(Lifetimes { client: Duration::from_secs(1), ..Lifetimes::default() });
    let press = floor.holder("press");
    let identity = floor.identity(Role::Client, "program");
    eventually("its time is over", || identity.expires_in(std::time::SystemTime::now()).is_none()).await;
    let error = Client::connect(identity, [press.address]).await.unwrap_err();
    assert!(matches!(error, ConnectError::Identity(_)) && error.to_string().contains("expired"), "{error}");
}

async fn renewed(client: &Client, first: &Identity) -> Arc<Identity> {
    let serial = &first.holder().serial;
    let renewed = becomes(client, |identity| identity.holder().serial != *serial).await;
    assert_eq!((renewed.node(), renewed.name()), (first.node(), first.name()));
    assert!(first.not_after() < renewed.not_after());
    renewed
}

/// The identity in a directory as two files elsewhere.
fn pair(directory: &Path, to: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let text = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let (certificate, key) = (to.join("camera.pem"), to.join("camera.key"));
    fs::write(&certificate, format!("{}\n{}", text("cert.pem"), text("ca.pem"))).unwrap();
    fs::copy(directory.join("key.pem"), &key).unwrap();
    (certificate, key)
}
