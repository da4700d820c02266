//! Networks that lose, delay, double, damage and cut what members say to each other. Nobody who asks notices.
//!
//! Each member stands behind a relay whose chances come from a seed, the number of the relay.

use std::{net::SocketAddrV4, time::Duration};

use lineside_certs::{Authority, IDENTITY_DIRECTORY, Identity, Subject};
use lineside_faults::relay::Weather;
use lineside_tests::{Floor, Load, PATIENCE, Plan, Record, Tally, eventually};
use lineside_wire::{ClusterId, NodeId, Role};
use tokio::{net::UdpSocket, time::sleep};

const MEMBERS: [&str; 3] = ["press", "weld", "paint"];

/// Three nodes and a door, each behind a relay.
async fn relayed(models: &[&str]) -> Floor {
    let mut floor = Floor::empty(models).await;
    let nodes = MEMBERS.map(|name| Plan::node(name).behind_relay());
    floor.start_all(nodes.into_iter().chain([Plan::gateway("door").behind_relay()])).await;
    floor
}

/// Ends the load: all was answered, and rightly, by nodes of the floor.
async fn all_answered(floor: &Floor, load: Load) -> Tally {
    let tally = load.end().await;
    tally.assert_nothing_lost();
    floor.assert_ours(&tally);
    tally
}

#[tokio::test]
async fn in_bad_weather_everything_is_answered_and_rightly() {
    let mut floor = relayed(&["add"]).await;
    let load = floor.load(4, 4).await;
    load.answers(50).await;

    let (delay, jitter) = (Duration::from_millis(1), Duration::from_millis(8));
    floor.weather_everywhere(Weather { loss: 0.05, duplicates: 0.05, delay, jitter, ..Weather::FAIR });
    load.answers(300).await;
    let rain = floor.packets();
    assert!(0 < rain.lost && 0 < rain.doubled, "{rain:?}");

    floor.weather_everywhere(Weather { damage: 0.01, ..Weather::FAIR });
    eventually("packets are damaged", PATIENCE, async || match floor.packets().damaged {
        damaged if 3 < damaged => Ok(()),
        damaged => Err(format!("{damaged} so far")),
    })
    .await;
    load.answers(100).await;
    all_answered(&floor, load).await;
}

#[tokio::test]
async fn a_path_that_takes_short_packets_only_carries_large_tensors() {
    let mut floor = Floor::empty(&["add"]).await;
    let nodes = ["press", "weld"].map(|name| Plan::node(name).behind_relay());
    floor.start_all(nodes.into_iter().chain([Plan::gateway("door").behind_relay()])).await;
    let load = floor.load(2, 2).await;
    load.answers(20).await;

    // The paths are known to take more by now, or soon will be: what is longer vanishes without a word.
    floor.weather_everywhere(Weather { bytes_max: 1200, ..Weather::FAIR });
    let mut http = floor.http("door");
    for _ in 0..6 {
        let answer = http.post("/v2/models/add/infer", &[], large_sum().as_bytes()).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let sums = answer.json()["outputs"][0]["data"].as_array().unwrap().clone();
        assert!(sums.len() == LARGE && sums.iter().all(|sum| sum == 3.0), "{} sums", sums.len());
    }
    load.answers(50).await;
    assert!(0 < floor.packets().too_long, "no packet was too long: {:?}", floor.packets());
    all_answered(&floor, load).await;
}

/// Elements of a large tensor: 80 kB.
const LARGE: usize = 20_000;

fn large_sum() -> String {
    let input = |name: &str, value: f32| serde_json::json!({"name": name, "datatype": "FP32", "shape": [LARGE], "data": vec![value; LARGE]});
    serde_json::json!({"inputs": [input("a", 1.0), input("b", 2.0)]}).to_string()
}

#[tokio::test]
async fn nothing_is_lost_when_a_link_is_open_one_way_only() {
    let floor = relayed(&["add"]).await;
    let door = floor.member("door").http_address();
    let load = Load::per_second(50, door, 10, None);
    let weld = floor.member("weld").node();
    load.answers_of(weld, 10).await;
    for (towards, back) in [(Weather::CUT, Weather::FAIR), (Weather::FAIR, Weather::CUT)] {
        floor.weather("weld", towards, back);
        load.answers(150).await;
        floor.weather("weld", Weather::FAIR, Weather::FAIR);
        load.answers_of(weld, 5).await;
    }
    all_answered(&floor, load).await;
}

#[tokio::test]
async fn nothing_is_lost_when_a_node_falls_silent_and_it_comes_back_by_itself() {
    let floor = relayed(&["add"]).await;
    let door = floor.member("door").http_address();
    let load = Load::per_second(50, door, 10, None);
    let weld = floor.member("weld").node();
    load.answers_of(weld, 10).await;

    // No packet says that it is gone: neither a reset nor a goodbye.
    floor.weather("weld", Weather::CUT, Weather::CUT);
    load.answers(50).await;
    floor.sees("door", "weld", "is down", |row| row.state == "down").await;
    load.answers(50).await;

    floor.weather("weld", Weather::FAIR, Weather::FAIR);
    for watcher in ["door", "press", "paint"] {
        floor.sees(watcher, "weld", "is alive", |row| row.state == "alive").await;
    }
    load.answers_of(weld, 5).await;
    all_answered(&floor, load).await;
}

#[tokio::test]
async fn no_step_of_a_sequence_is_run_twice_whatever_happens_to_its_packets() {
    let mut floor = Floor::empty(&["add", "accumulate"]).await;
    let nodes = ["press", "weld"].map(|name| Plan::node(name).behind_relay());
    floor.start_all(nodes.into_iter().chain([Plan::gateway("door").behind_relay()])).await;
    let door = floor.member("door").http_address();
    let load = Load::per_second(20, door, 2, None).and_sequences(door, 6);
    let steps = |more: u64, load: &Load| {
        let so_far = load.ledger().sums(tokio::time::Instant::now());
        more + so_far.kinds.get("step").map_or(0, |steps| steps.answers)
    };
    let wanted = steps(40, &load);
    load.until_sums("steps in fair weather", |sums| steps_of(sums) >= wanted).await;

    let jitter = Duration::from_millis(10);
    floor.weather_everywhere(Weather { loss: 0.05, duplicates: 0.1, jitter, ..Weather::FAIR });
    let wanted = steps(100, &load);
    load.until_sums("steps in bad weather", |sums| steps_of(sums) >= wanted).await;

    // It stands still with steps that it has read and not answered, and goes on with them later.
    floor.member_mut("weld").pause();
    sleep(Duration::from_millis(1500)).await;
    floor.member_mut("weld").resume();
    let wanted = steps(60, &load);
    load.until_sums("steps after a standstill", |sums| steps_of(sums) >= wanted).await;

    floor.member_mut("weld").kill();
    let wanted = steps(60, &load);
    load.until_sums("steps of the node that is left", |sums| steps_of(sums) >= wanted).await;
    let ledger = load.ledger().clone();
    // Looks for steps that were run twice, too. Errors there may be, with a name each.
    all_answered(&floor, load).await;
    let sums = ledger.sums(tokio::time::Instant::now());
    assert_eq!(sums.lost, 0, "{sums}\n{:?}", ledger.complaints());
}

fn steps_of(sums: &lineside_faults::ledger::Sums) -> u64 {
    sums.kinds.get("step").map_or(0, |steps| steps.answers)
}

#[tokio::test]
async fn records_of_another_cluster_are_ignored_and_nobody_dials_there() {
    let mut floor = Floor::empty(&["add"]).await;
    let other = Authority::create(&floor.path("other-ca"), "other", std::time::SystemTime::now()).unwrap();
    let issued = other.issue(&Subject::new(Role::Node, "alien"), std::time::SystemTime::now()).unwrap();
    let alien = floor.path("alien-data");
    Identity::store(&alien.join(IDENTITY_DIRECTORY), &issued).unwrap();
    floor.start(Plan::up("alien").in_directory(alien).by_mdns()).await;
    for plan in [Plan::node("press"), Plan::gateway("door")] {
        floor.start(plan.by_mdns()).await;
    }
    let mut http = floor.http("door");
    eventually("two of one cluster found each other, and no third", PATIENCE, async || {
        let answer = http.get("/readyz").await.map_err(|error| error.to_string())?;
        let rows = floor.seen_by("door").await?.members;
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        if answer.status == 200 && names == ["door", "press"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;

    let (theirs, ours) = (Ear::open().await, Ear::open().await);
    let stranger = NodeId::from_bytes([0x7a; 16]);
    let foreign = ClusterId::from_bytes([0x5e; 16]);
    let hint = |cluster, ear: &Ear| Record { cluster, node: stranger, address: ear.address };
    // The same member of a foreign cluster, and then of ours: only the second one is dialled, which shows that the first
    // one was heard, by the same daemon and before.
    hint(foreign, &theirs).announce().await;
    let record = Record { node: NodeId::from_bytes([0x7b; 16]), ..hint(floor.cluster(), &ours) };
    eventually("a record of our cluster is dialled", PATIENCE, async || {
        hint(foreign, &theirs).announce().await;
        record.announce().await;
        sleep(Duration::from_millis(100)).await;
        if ours.has_heard() { Ok(()) } else { Err("no packet came".to_owned()) }
    })
    .await;
    let told = http.get("/metrics").await.unwrap().text();
    let name = "lineside_discovery_rejected_total{reason=\"foreign_cluster_record\"} ";
    let count = told.lines().find_map(|line| line.strip_prefix(name));
    assert!(count.is_some_and(|count| count != "0"), "not counted: {told}");
    assert!(!theirs.has_heard(), "somebody dialled where a foreign record led");
    let rows = floor.seen_by("door").await.unwrap().members;
    assert_eq!(rows.len(), 2, "nobody is a member because a record says so: {rows:?}");
}

/// A port where nobody answers, and where any packet shows that somebody dialled.
struct Ear {
    socket: UdpSocket,
    address: SocketAddrV4,
}

impl Ear {
    async fn open() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(address) = socket.local_addr().unwrap() else { unreachable!("IPv4") };
        Self { socket, address }
    }

    fn has_heard(&self) -> bool {
        self.socket.try_recv(&mut [0; 1500]).is_ok()
    }
}
