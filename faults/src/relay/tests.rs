//! A member that answers what it hears, and senders that reach it through a relay.

use std::collections::BTreeSet;

use tokio::time::{Duration, timeout};

use super::*;

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers each packet with itself, and after it the port that it came from.
struct Echo {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Echo {
    async fn open() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut buffer = vec![0; 2000];
            loop {
                let (bytes, from) = socket.recv_from(&mut buffer).await.unwrap();
                let answer = [&buffer[..bytes], &from.port().to_be_bytes()].concat();
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self { address, _task: task }
    }
}

struct Caller(UdpSocket);

impl Caller {
    async fn of(relay: &Relay) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(relay.address()).await.unwrap();
        Self(socket)
    }

    async fn say(&self, packet: &[u8]) {
        self.0.send(packet).await.unwrap();
    }

    /// What comes next, and the port that the member saw.
    async fn hear(&self) -> (Vec<u8>, u16) {
        let mut buffer = vec![0; 2000];
        let bytes = timeout(PATIENCE, self.0.recv(&mut buffer)).await.expect("a packet").unwrap();
        let (packet, port) = buffer[..bytes].split_at(bytes - 2);
        (packet.to_vec(), u16::from_be_bytes([port[0], port[1]]))
    }
}

async fn relayed() -> (Relay, Echo) {
    let (relay, echo) = (Relay::open(1).await.unwrap(), Echo::open().await);
    relay.leads_to(echo.address);
    (relay, echo)
}

/// Waits until the relay has counted so many packets of a kind.
async fn counted(relay: &Relay, wanted: impl Fn(Counts) -> bool) {
    let counted = async {
        while !wanted(relay.counts()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{:?}", relay.counts()));
}

#[tokio::test]
async fn packets_pass_both_ways_and_each_sender_has_its_own_way() {
    let (relay, _echo) = relayed().await;
    let callers = [Caller::of(&relay).await, Caller::of(&relay).await, Caller::of(&relay).await];
    let mut ports = BTreeSet::new();
    for round in 0..3_u8 {
        for (number, caller) in (0_u8..).zip(&callers) {
            caller.say(&[round, number]).await;
        }
        for (number, caller) in (0_u8..).zip(&callers) {
            let (packet, port) = caller.hear().await;
            assert_eq!(packet, [round, number], "nobody hears what is for another");
            ports.insert(port);
        }
    }
    assert_eq!(ports.len(), 3, "one way for each, and the same one each time");
    assert_eq!(relay.counts(), Counts { passed: 18, ..Counts::default() });
}

#[tokio::test]
async fn a_link_that_is_open_one_way_brings_the_question_and_not_the_answer() {
    let (relay, _echo) = relayed().await;
    let caller = Caller::of(&relay).await;
    relay.weather(Weather::FAIR, Weather::CUT);
    caller.say(b"lost on its way back").await;
    counted(&relay, |counts| (counts.passed, counts.lost) == (1, 1)).await;

    relay.weather(Weather::CUT, Weather::FAIR);
    caller.say(b"lost on its way there").await;
    counted(&relay, |counts| (counts.passed, counts.lost) == (1, 2)).await;

    relay.weather(Weather::FAIR, Weather::FAIR);
    caller.say(b"here").await;
    assert_eq!(caller.hear().await.0, b"here");
}

#[tokio::test]
async fn one_sender_is_cut_off_and_another_is_not() {
    let (relay, _echo) = relayed().await;
    let (near, far) = (Caller::of(&relay).await, Caller::of(&relay).await);
    let of_far = far.0.local_addr().unwrap();
    relay.weather_of(of_far, Weather::CUT, Weather::CUT);
    far.say(b"from afar").await;
    counted(&relay, |counts| counts.lost == 1).await;
    near.say(b"from near").await;
    assert_eq!(near.hear().await.0, b"from near");

    relay.weather_of(of_far, Weather::FAIR, Weather::FAIR);
    far.say(b"again").await;
    assert_eq!(far.hear().await.0, b"again");
}

#[tokio::test]
async fn packets_come_twice_late_and_in_another_order() {
    let (relay, _echo) = relayed().await;
    let caller = Caller::of(&relay).await;
    let jitter = Duration::from_millis(40);
    relay.weather(Weather { duplicates: 1.0, jitter, ..Weather::FAIR }, Weather::FAIR);
    for number in 0..50_u8 {
        caller.say(&[number]).await;
    }
    let mut heard = Vec::new();
    for _ in 0..100 {
        heard.push(caller.hear().await.0[0]);
    }
    assert!(!heard.is_sorted(), "all came in order");
    heard.sort_unstable();
    let twice: Vec<_> = (0..50_u8).flat_map(|number| [number; 2]).collect();
    assert_eq!(heard, twice);
}

#[tokio::test]
async fn damage_and_length_are_dealt_with_as_asked() {
    let (relay, _echo) = relayed().await;
    let caller = Caller::of(&relay).await;
    relay.weather(Weather { damage: 1.0, bytes_max: 100, ..Weather::FAIR }, Weather::FAIR);
    caller.say(&[0; 101]).await;
    caller.say(&[0; 100]).await;
    let (packet, _) = caller.hear().await;
    assert_eq!((packet.len(), packet.iter().filter(|byte| **byte != 0).count()), (100, 1));
    let counts = relay.counts();
    assert_eq!((counts.too_long, counts.damaged), (1, 1));
}

#[tokio::test]
async fn a_member_that_was_started_again_elsewhere_is_found() {
    let (relay, first) = relayed().await;
    let caller = Caller::of(&relay).await;
    caller.say(b"one").await;
    assert_eq!(caller.hear().await.0, b"one");
    drop(first);
    let second = Echo::open().await;
    relay.leads_to(second.address);
    caller.say(b"two").await;
    assert_eq!(caller.hear().await.0, b"two");
}

#[tokio::test]
async fn before_the_member_is_there_all_is_lost_and_nothing_breaks() {
    let relay = Relay::open(1).await.unwrap();
    let caller = Caller::of(&relay).await;
    caller.say(b"too early").await;
    counted(&relay, |counts| counts.passed == 1).await;
    let echo = Echo::open().await;
    relay.leads_to(echo.address);
    caller.say(b"now").await;
    assert_eq!(caller.hear().await.0, b"now");
}

#[tokio::test]
async fn more_senders_than_there_is_room_for_take_the_oldest_ones_place() {
    let (relay, _echo) = relayed().await;
    let first = Caller::of(&relay).await;
    first.say(b"first").await;
    first.hear().await;
    for _ in 0..256 {
        let caller = Caller::of(&relay).await;
        caller.say(b"more").await;
        assert_eq!(caller.hear().await.0, b"more");
    }
    // Its place was given away; it gets another. Its port says nothing: the system may give the same one again.
    first.say(b"again").await;
    assert_eq!(first.hear().await.0, b"again");
}
