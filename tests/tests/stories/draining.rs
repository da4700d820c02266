//! Machines that are taken out of work on purpose: nobody who asks for something notices.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use lineside_certs::{AUTHORITY_DIRECTORY, Identity};
use lineside_client::Client;
use lineside_tests::{Addends, Floor, Http, Load, PATIENCE, Plan, add_by_http, eventually};
use lineside_wire::{MemberRow, NodeId, Role};
use tokio::{net::UnixDatagram, task::JoinSet, time::timeout};

fn is_busy(row: &MemberRow) -> bool {
    row.member.as_ref().is_some_and(|state| 0 < state.load.running)
}

fn is_cordoned(row: &MemberRow) -> bool {
    row.state == "alive" && row.member.as_ref().is_some_and(|state| state.cordoned)
}

/// Callers over HTTP who know both doors: they go to the other one when a door cannot be reached, breaks off or says that
/// it is closing, as any load balancer does.
struct TwoDoors {
    callers: JoinSet<()>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl TwoDoors {
    fn open(doors: [SocketAddr; 2], callers: u16) -> Self {
        let mut all = Self { callers: JoinSet::new(), stop: Arc::default(), answered: Arc::default() };
        for caller in 0..callers {
            let (stop, answered) = (Arc::clone(&all.stop), Arc::clone(&all.answered));
            all.callers.spawn(async move {
                let mut doors = doors.map(Http::new);
                let mut at = usize::from(caller) % doors.len();
                for number in 0_u16.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let addends = Addends::new(f32::from(number), f32::from(caller));
                    let mut tried = Vec::new();
                    while let Err(reason) = ask(&mut doors[at], addends).await {
                        tried.push(reason);
                        at = (at + 1) % doors.len();
                        assert!(tried.len() < doors.len(), "both doors failed: {tried:?}");
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        all
    }

    async fn answers(&self, more: u64) {
        let wanted = self.answered.load(Ordering::Relaxed) + more;
        eventually("more answers by either door", PATIENCE, async || {
            let answered = self.answered.load(Ordering::Relaxed);
            if wanted <= answered { Ok(()) } else { Err(format!("{answered} of {wanted}")) }
        })
        .await;
    }

    async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// Asks one door; an error is a reason to go to the other one.
async fn ask(http: &mut Http, addends: Addends) -> Result<(), String> {
    let answer = add_by_http(http, addends, &[]).await.map_err(|error| error.to_string())?;
    if answer.status == 503 {
        return Err(answer.text());
    }
    assert!(answer.added(addends).unwrap().right);
    Ok(())
}

#[tokio::test]
async fn every_node_and_every_door_is_restarted_under_load_and_no_request_fails() {
    let mut floor = Floor::empty(&["add"]).await;
    let nodes = ["press", "weld"];
    floor.start_all(nodes.map(Plan::node).into_iter().chain(["door", "gate"].map(Plan::gateway))).await;
    let client = floor.client(&["door", "gate"]).await;
    let quic = Load::of_adds(floor.member("door").http_address(), 0, &client, 3);
    let http = TwoDoors::open(["door", "gate"].map(|door| floor.member(door).http_address()), 4);
    for name in ["press", "door", "weld", "gate"] {
        let node = nodes.contains(&name).then(|| floor.member(name).node());
        http.answers(20).await;
        quic.answers(20).await;
        takes_its_part(&quic, node).await;
        floor.member(name).terminate();
        let status = floor.member_mut(name).ended(PATIENCE).await;
        assert_eq!(status.code(), Some(0), "{name}: {}", floor.member(name).log());
        http.answers(20).await;
        floor.restart(name).await;
        floor.formed().await;
        takes_its_part(&quic, node).await;
    }
    http.answers(20).await;
    assert!(100 <= http.end().await);
    quic.end().await.assert_nothing_lost();
}

/// A node, if it is one, answers callers.
async fn takes_its_part(load: &Load, node: Option<NodeId>) {
    if let Some(node) = node {
        load.answers_of(node, 10).await;
    }
}

#[tokio::test]
async fn a_machine_is_drained_by_a_command_there_which_waits_until_it_has_left() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let load = floor.load(2, 2).await;
    load.answers_of(floor.member("weld").node(), 5).await;

    let drained = floor.lineside("weld", &["drain"]).await;
    assert_eq!((drained.code, drained.stdout.trim()), (Some(0), "weld has left"), "{}", drained.stderr);
    assert_eq!(floor.member_mut("weld").ended(PATIENCE).await.code(), Some(0));
    floor.sees("door", "weld", "has left", |row| row.state == "left").await;
    let log = floor.member("weld").log();
    assert!(log.contains("told to leave (member.drain)") && log.contains("node weld"), "who asked: {log}");

    load.answers(20).await;
    load.end().await.assert_nothing_lost();

    // Press is now the only node: whoever takes it away must mean it.
    let refused = floor.lineside("press", &["drain", "press"]).await;
    refused.assert_failed(1, &["add version 1", "--force"]);
    let drained = floor.lineside("press", &["drain", "--force", "--no-wait"]).await;
    assert_eq!(drained.code, Some(0), "{}", drained.stderr);
    assert_eq!(floor.member_mut("press").ended(PATIENCE).await.code(), Some(0));
}

#[tokio::test]
async fn a_cordoned_node_gets_no_new_work_until_it_is_let_back_in_also_after_a_restart() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let load = floor.load(2, 2).await;
    let weld = floor.member("weld").node();
    load.answers_of(weld, 5).await;

    let cordoned = floor.lineside("weld", &["cordon", "weld"]).await;
    assert_eq!(cordoned.code, Some(0), "{}", cordoned.stderr);
    for watcher in ["door", "press"] {
        floor.sees(watcher, "weld", "is cordoned", is_cordoned).await;
    }
    let list = floor.lineside("press", &["members"]).await;
    assert!(
        list.stdout.lines().any(|row| row.contains("weld") && row.contains("cordoned")),
        "{}",
        list.stdout
    );
    let before = load.tally().by(weld);
    load.answers(60).await;
    let after = load.tally().by(weld);
    assert!(after - before <= 4, "only what was on its way already: {before} then {after}");

    floor.member("weld").terminate();
    assert!(floor.member_mut("weld").ended(PATIENCE).await.success());
    floor.restart("weld").await;
    floor.sees("door", "weld", "is cordoned still", is_cordoned).await;
    let back = load.tally().by(weld);
    load.answers(60).await;
    assert_eq!(load.tally().by(weld), back);

    let undrained = floor.lineside("weld", &["undrain"]).await;
    assert_eq!(undrained.code, Some(0), "{}", undrained.stderr);
    load.answers_of(weld, 5).await;
    load.end().await.assert_nothing_lost();
}

#[tokio::test]
async fn the_door_beside_a_cordoned_node_goes_on_with_the_others() {
    let mut floor = Floor::empty(&["add"]).await;
    floor.start_all([Plan::node("press"), Plan::up("weld")]).await;
    let (press, weld) = (floor.member("press").node(), floor.member("weld").node());
    let cordoned = floor.lineside("weld", &["cordon"]).await;
    assert_eq!(cordoned.code, Some(0), "{}", cordoned.stderr);
    floor.sees("weld", "weld", "is cordoned", is_cordoned).await;
    let mut http = floor.http("weld");
    assert_eq!(http.get("/readyz").await.unwrap().status, 200);
    let mut refused = 0;
    for number in 0..20_u8 {
        let addends = Addends::new(f32::from(number), 1.0);
        let added = add_by_http(&mut http, addends, &[]).await.unwrap().added(addends).unwrap();
        assert!(added.right);
        refused += u32::from(added.node == weld);
        assert_eq!(added.node, press);
    }
    assert_eq!(refused, 0);
    let client = floor.client(&["weld"]).await;
    let addends = Addends::new(2.0, 3.0);
    assert_eq!(lineside_tests::add_by_quic(&client, addends).await.unwrap().node, press);
}

#[tokio::test]
async fn who_may_not_decide_about_a_machine_hears_who_may_and_the_authoritys_machine_may() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let refused = floor.lineside("press", &["cordon", "weld"]).await;
    refused.assert_failed(1, &["run this on weld", "certs admin --out DIR"]);
    // The door itself asks, past the command's own look.
    let client = Client::connect(
        Identity::load(&floor.member("door").data().join("identity")).unwrap(),
        [floor.member("press").address()],
    )
    .await
    .unwrap();
    let weld = floor.member("weld").node();
    let asked = client.ask_member::<_, lineside_wire::Empty>(
        weld,
        lineside_wire::method::MEMBER_CORDON,
        &lineside_wire::Empty {},
    );
    let lineside_client::AskError::Refused { fault, .. } = asked.await.unwrap_err() else {
        panic!("a refusal")
    };
    assert_eq!(fault.code, lineside_wire::FaultCode::PermissionDenied);
    client.close().await;
    floor.member("weld").logs(PATIENCE, &["an operator's order was refused", "gateway door"]).await;
    let admin = floor.identity(Role::Admin);
    let by_admin = Client::connect(admin, [floor.member("press").address()]).await.unwrap();
    let door = floor.member("door").node();
    let pointless = by_admin.ask_member::<_, lineside_wire::Empty>(
        door,
        lineside_wire::method::MEMBER_CORDON,
        &lineside_wire::Empty {},
    );
    assert!(pointless.await.unwrap_err().to_string().contains("runs no models"));
    by_admin.close().await;

    copy_private(&floor.path(AUTHORITY_DIRECTORY), &floor.member("press").data().join(AUTHORITY_DIRECTORY));
    let drained = floor.lineside("press", &["drain", "weld"]).await;
    assert_eq!((drained.code, drained.stdout.trim()), (Some(0), "weld has left"), "{}", drained.stderr);
    assert_eq!(floor.member_mut("weld").ended(PATIENCE).await.code(), Some(0));
    assert!(floor.member("weld").log().contains("admin "), "by an admin made for it");
}

/// Copies a directory as the person at the machine would, for its owner alone.
fn copy_private(from: &std::path::Path, to: &std::path::Path) {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_second_order_ends_a_member_at_once_and_its_calls_are_done_elsewhere() {
    let mut floor = Floor::empty(&["slow-add"]).await;
    floor.start_all(["press", "weld"].map(Plan::node).into_iter().chain([Plan::gateway("door")])).await;
    let load = Load::of_slow_adds(floor.member("door").http_address(), 2, Duration::from_millis(400));
    floor.sees("door", "weld", "is busy", is_busy).await;
    // The first signal after an order by a call is no second one.
    let told = floor.lineside("weld", &["drain", "--no-wait"]).await;
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    floor.member("weld").logs(PATIENCE, &["leaving: what runs is finished"]).await;
    load.answers(2).await;
    assert_eq!(floor.member_mut("weld").ended(PATIENCE).await.code(), Some(0));

    floor.restart("weld").await;
    floor.formed().await;
    // Held up by a call that is longer than the story waits: only the second order ends it now.
    let endless = Addends::new(1.0, 2.0).slowly(Duration::from_secs(20));
    let client = floor.client(&["weld"]).await;
    let held = async {
        // It is lost with its node, or done by the other one in the end.
        drop(timeout(PATIENCE, lineside_tests::add_by_quic(&client, endless)).await);
    };
    let ended = async {
        floor.sees("door", "weld", "is busy", is_busy).await;
        floor.member("weld").terminate();
        // Two signals in one moment are one. Its log has the words already, of its life before.
        let leaves = |row: &MemberRow| row.member.as_ref().is_some_and(|state| state.draining);
        floor.sees("door", "weld", "is leaving", leaves).await;
        floor.member("weld").terminate();
        floor.member("weld").logs(PATIENCE, &["stopped at once"]).await;
        let status = floor.member_mut("weld").ended(PATIENCE).await;
        assert_eq!(status.code(), Some(1));
    };
    tokio::select! {
        () = ended => {}
        () = async { held.await; std::future::pending::<()>().await } => {}
    }
    load.end().await.assert_nothing_lost();
}

#[tokio::test]
async fn a_supervisor_hears_that_a_member_is_ready_lives_reads_its_settings_and_leaves() {
    let mut floor = Floor::empty(&["add"]).await;
    let path = floor.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let plan = Plan::up("press").env("NOTIFY_SOCKET", path.display()).env("WATCHDOG_USEC", 1_000_000);
    floor.start(plan).await;
    let mut heard = Vec::new();
    hears(&socket, &mut heard, "READY=1").await;
    hears(&socket, &mut heard, "STATUS=Takes part").await;
    assert!(!floor.lineside("press", &["models"]).await.stdout.contains("LOADING"), "ready is after loading");
    let signs = heard.iter().filter(|line| *line == "WATCHDOG=1").count();
    hears(&socket, &mut heard, "WATCHDOG=1").await;
    hears(&socket, &mut heard, "WATCHDOG=1").await;
    assert!(signs < heard.iter().filter(|line| *line == "WATCHDOG=1").count());

    floor.member("press").reload();
    hears(&socket, &mut heard, "RELOADING=1").await;
    assert!(heard.iter().any(|line| line.starts_with("MONOTONIC_USEC=")));
    hears(&socket, &mut heard, "READY=1").await;
    let cordoned = floor.lineside("press", &["cordon", "--force"]).await;
    assert_eq!(cordoned.code, Some(0), "{}", cordoned.stderr);
    hears(&socket, &mut heard, "STATUS=Cordoned").await;

    floor.member("press").terminate();
    hears(&socket, &mut heard, "STOPPING=1").await;
    assert!(heard.iter().any(|line| line.starts_with("EXTEND_TIMEOUT_USEC=")));
    assert_eq!(floor.member_mut("press").ended(PATIENCE).await.code(), Some(0));
}

/// Listens until a line begins like this; keeps all that it hears.
async fn hears(socket: &UnixDatagram, heard: &mut Vec<String>, wanted: &str) {
    let mut bytes = [0; 1024];
    let listening = async {
        loop {
            let length = socket.recv(&mut bytes).await.unwrap();
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            heard.extend(text.lines().map(str::to_owned));
            if text.lines().any(|line| line.starts_with(wanted)) {
                return;
            }
        }
    };
    let found = timeout(PATIENCE, listening).await.is_ok();
    assert!(found, "{wanted} was never heard: {heard:?}");
}

#[tokio::test]
async fn a_node_that_is_told_to_end_finishes_its_slow_calls_and_has_left() {
    let mut floor = Floor::empty(&["slow-add"]).await;
    floor.start_all(["press", "weld"].map(Plan::node).into_iter().chain([Plan::gateway("door")])).await;
    let load = Load::of_slow_adds(floor.member("door").http_address(), 2, Duration::from_millis(300));
    floor.sees("door", "weld", "is busy", is_busy).await;
    floor.member("weld").terminate();
    let status = floor.member_mut("weld").ended(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}", floor.member("weld").log());
    let log = floor.member("weld").log();
    assert!(
        log.contains("left the cluster") && !log.contains("not everything that ran was finished"),
        "{log}"
    );
    floor.sees("door", "weld", "has left", |row| row.state == "left").await;
    floor.sees("press", "weld", "has left", |row| row.state == "left").await;
    load.answers(4).await;
    load.end().await.assert_nothing_lost();
}

#[tokio::test]
async fn a_door_tells_check_by_check_whether_it_is_ready() {
    let mut floor = Floor::empty(&["add"]).await;
    floor.start_all([Plan::node("press"), Plan::gateway("door")]).await;
    let mut http = floor.http("door");
    let answer = http.get("/readyz?verbose").await.unwrap();
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (
            200,
            "[+]not-draining ok\n[+]certificate ok\n[+]gossip ok\n[+]discovery ok\n[+]nodes ok\n[+]models ok\n\
             readyz check passed\n"
        )
    );
    floor.lineside("press", &["cordon", "--force"]).await;
    eventually("nobody takes work", PATIENCE, async || {
        let answer = http.get("/readyz?verbose").await.map_err(|error| error.to_string())?;
        let text = answer.text();
        let is_so = answer.status == 503 && text.contains("[-]nodes failed: none of the 1 known nodes");
        if is_so && text.ends_with("readyz check failed\n") { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(http.get("/readyz?exclude=nodes").await.unwrap().status, 200);
    let health = http.get("/health").await.unwrap();
    assert_eq!(health.status, 503);
    let checks = health.json()["checks"].clone();
    let nodes = checks.as_array().unwrap().iter().find(|check| check["name"] == "nodes").unwrap().clone();
    assert_eq!(nodes["ok"], false);
    assert!(http.get("/livez?verbose").await.unwrap().text().contains("[+]ping ok\nlivez check passed"));
}
