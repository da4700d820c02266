//! Stories of the desk: who is served, who waits, who is told to come again.

use futures_util::FutureExt as _;
use lineside_wire::Role;

use super::*;

#[test]
fn whatever_is_wrong_with_a_token_is_told_in_the_same_words() {
    let refusals =
        [JoinRefusal::Unknown, JoinRefusal::Expired, JoinRefusal::Used, JoinRefusal::OtherRole(Role::Node)];
    let told: Vec<_> = refusals.iter().map(|refusal| join_fault(refusal).to_string()).collect();
    assert!(told.iter().all(|text| *text == told[0]), "{told:?}");
    assert_eq!(join_fault(&JoinRefusal::Unknown).code, FaultCode::PermissionDenied);
}

fn peer(n: u8) -> PeerIdentity {
    PeerIdentity {
        cluster: lineside_wire::ClusterId::from_bytes([9; 16]),
        node: NodeId::from_bytes([n; 16]),
        role: Role::Node,
        name: "press".to_owned(),
        not_after: std::time::SystemTime::UNIX_EPOCH,
        serial: String::new(),
        generation: 1,
    }
}

/// A desk that nobody works at yet, and its clerk.
fn desk_and_clerk(directory: &std::path::Path) -> (Desk, Clerk, Receiver<Job>) {
    let authority = Authority::create(directory, "floor", std::time::SystemTime::now());
    let (jobs, jobs_out) = sync_channel(JOBS_MAX);
    let (lists_in, lists) = watch::channel(None);
    let certificates = Arc::<ArcSwap<JoinCertificates>>::default();
    let clerk = Clerk {
        authority: authority.expect("a fresh directory"),
        node: NodeId::from_bytes([1; 16]),
        clock: Clock::system(),
        lists: lists_in,
        certificates: Arc::clone(&certificates),
        version: None,
        refresh_at: Instant::now(),
        troubled: false,
        missed: None,
    };
    let (waiting, waiting_web) = (Waiting::default(), Waiting::default());
    (Desk { jobs, waiting, waiting_web, certificates, lists }, clerk, jobs_out)
}

#[tokio::test]
async fn nothing_is_signed_for_those_who_gave_up_waiting() {
    let home = tempfile::tempdir().expect("a directory");
    let (desk, mut clerk, jobs) = desk_and_clerk(&home.path().join("ca"));
    let cluster = clerk.authority.cluster();
    let request = lineside_certs::CertificateRequest::new();
    let params = RenewParams { csr: request.csr().to_vec().into() };
    let ask = |n| desk.renew(PeerIdentity { cluster, ..peer(n) }, params.clone());
    let (gone, waiting) = (ask(1), ask(2));
    drop(gone);
    while let Ok(job) = jobs.try_recv() {
        clerk.work(job);
    }
    waiting.await.expect("whoever waits is served");
    assert_eq!(clerk.authority.issued().expect("the disk works").len(), 1);
}

#[tokio::test]
async fn a_member_gets_a_certificate_for_https_while_it_waits_for_its_own() {
    let home = tempfile::tempdir().expect("a directory");
    let (desk, mut clerk, jobs) = desk_and_clerk(&home.path().join("ca"));
    let peer = PeerIdentity { cluster: clerk.authority.cluster(), ..peer(1) };
    let csr = lineside_certs::CertificateRequest::new().csr().to_vec();
    let web = |name: &str| {
        desk.web(peer.clone(), WebParams { csr: csr.clone().into(), names: vec![name.to_owned()] })
    };
    let own = desk.renew(peer.clone(), RenewParams { csr: csr.clone().into() });
    let first = web("press.local");
    assert_eq!(web("press.local").await.expect_err("it waits already").code, FaultCode::Busy);
    while let Ok(job) = jobs.try_recv() {
        clerk.work(job);
    }
    own.await.expect("it is renewed");
    first.await.expect("it is issued");
    let public = web("example.org");
    while let Ok(job) = jobs.try_recv() {
        clerk.work(job);
    }
    assert_eq!(public.await.expect_err("it is a public name").code, FaultCode::InvalidParams);
}

#[tokio::test]
async fn a_disk_that_hangs_has_those_in_the_queue_wait_and_nobody_else() {
    let home = tempfile::tempdir().expect("a directory");
    let directory = home.path().join("ca");
    let authority = Authority::create(&directory, "floor", std::time::SystemTime::now());
    let authority = authority.expect("a fresh directory");
    let cluster = authority.cluster();
    let desk = Desk::open(authority, NodeId::from_bytes([1; 16]), Clock::system()).expect("a thread");
    let request = lineside_certs::CertificateRequest::new();
    let params = RenewParams { csr: request.csr().to_vec().into() };
    let ask = |n| desk.renew(PeerIdentity { cluster, ..peer(n) }, params.clone());
    let hangs = std::fs::File::open(directory.join("lock")).expect("it is there");
    hangs.lock().expect("nobody has it");

    // One is at work, or will be; so many wait behind it; all others hear at once that there is no room.
    let mut waiting = Vec::new();
    for mut answer in (1..=50).map(ask) {
        match (&mut answer).now_or_never() {
            Some(told) => assert_eq!(told.expect_err("there is no room").code, FaultCode::Busy),
            None => waiting.push(answer),
        }
    }
    let places = JOBS_MAX..=JOBS_MAX + 1;
    assert!(places.contains(&waiting.len()), "{} wait", waiting.len());
    let _at_once = desk.certificates();
    assert_eq!(ask(1).await.expect_err("it waits already").code, FaultCode::Busy);
    drop(hangs);
    for answer in waiting {
        answer.await.expect("the disk works again");
    }
    ask(1).await.expect("it waits no more");
}

#[test]
fn what_another_holder_changed_is_taken_in_once_the_disk_has_room_again() {
    let home = tempfile::tempdir().expect("a directory");
    let [first, second] = ["first", "second"].map(|name| home.path().join(name));
    let (_desk, mut clerk, _jobs) = desk_and_clerk(&first);
    let copied = std::process::Command::new("cp").arg("-a").args([&first, &second]).status();
    assert!(copied.expect("cp can be run").success());
    let other = Authority::load(&second).expect("a copy is as good");
    let (node, now) = (NodeId::from_bytes([7; 16]), std::time::SystemTime::now());
    other.revoke(&lineside_certs::Revoke::Node(node), now).expect("the disk works");
    let told = other.trust().expect("the disk works");

    // Nothing can be appended to a directory: as with a full disk, but also for root.
    let (audit, aside) = (first.join("audit.jsonl"), first.join("aside"));
    std::fs::rename(&audit, &aside).expect("writable");
    std::fs::create_dir(&audit).expect("writable");
    clerk.merge(Box::new(told.clone()));
    assert!(clerk.missed.is_some() && clerk.authority.trust().expect("readable") != told);
    std::fs::remove_dir(&audit).expect("it is empty");
    std::fs::rename(&aside, &audit).expect("writable");
    clerk.merge_missed();
    assert!(clerk.missed.is_some(), "not before its time");
    clerk.missed.as_mut().expect("it was missed").1 = Instant::now();
    clerk.merge_missed();
    assert!(clerk.missed.is_none());
    assert_eq!(clerk.authority.trust().expect("readable"), told);
}

#[tokio::test]
async fn a_full_desk_says_busy_at_once_and_a_closed_one_says_so() {
    let (jobs, jobs_out) = sync_channel(1);
    let (lists_in, lists) = watch::channel(None);
    let (waiting, waiting_web) = (Waiting::default(), Waiting::default());
    let desk = Desk { jobs, waiting, waiting_web, certificates: Arc::default(), lists };
    let ask = |n| desk.renew(peer(n), RenewParams { csr: Vec::new().into() });
    let waiting = ask(1);
    assert_eq!(ask(2).await.expect_err("one job fills it").code, FaultCode::Busy);
    assert!(desk.is_open());
    drop((jobs_out, lists_in));
    assert_eq!(waiting.await.expect_err("nobody works").code, FaultCode::Unreachable);
    assert_eq!(ask(3).await.expect_err("nobody works").code, FaultCode::Unreachable);
    assert!(!desk.is_open());
}
