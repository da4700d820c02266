//! A client and members over loopback.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod examples;
mod floor;
mod trust;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::join_all};
use lineside_client::{AskError, CallError, Client, ConnectError};
use lineside_mesh::Cancelled;
use lineside_wire::{MembersResult, NodeId, Role};
use tokio::time::timeout;

use floor::{Floor, PATIENCE};

#[tokio::test]
async fn a_program_adds_two_numbers_on_the_line() {
    let floor = Floor::new();
    let press = floor.node("press");
    let client = floor.client(&[&press]).await;
    let answer = client
        .infer("add")
        .input("a", &[2], &[1.0_f32, 2.0])
        .input("b", &[2], &[10.0_f32, 20.0])
        .deadline(Duration::from_secs(5))
        .parameter("mark", "part 17")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.output("sum").unwrap().to_vec::<f32>().unwrap(), [11.0, 22.0]);
    assert_eq!((answer.node, answer.attempts), (press.identity.node(), 1));
    assert_eq!(answer.parameters.len(), 1);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_many_threads_sends_many_calls_at_once_over_one_connection() {
    let floor = Floor::new();
    let press = floor.node("press");
    let client = floor.client(&[&press]).await;
    let calls = (0..50_u8).map(|i| {
        let number = f32::from(i);
        client.infer("add").input("a", &[1], &[number]).input("b", &[1], &[1.0_f32]).send()
    });
    for (i, answer) in join_all(calls).await.into_iter().enumerate() {
        let sum = answer.unwrap().output("sum").unwrap().to_vec::<f32>().unwrap();
        assert_eq!(sum, [i as f32 + 1.0]);
    }
    assert!(client.statistics().values().all(|peer| peer.in_flight == 0));
}

#[tokio::test]
async fn large_inputs_go_and_come_whole() {
    let floor = Floor::new();
    let press = floor.node("press");
    let client = floor.client(&[&press]).await;
    let ones = vec![1.0_f32; 150_528];
    let call = client.infer("add").input("a", &[3, 224, 224], &ones).input("b", &[3, 224, 224], &ones);
    let mut answers = Box::pin(call.stream());
    let answer = answers.next().await.unwrap().unwrap();
    assert_eq!(answer.output("sum").unwrap().to_vec::<f32>().unwrap(), vec![2.0; 150_528]);
    assert_eq!(answer.outputs()[0].shape(), [3, 224, 224]);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn calls_go_through_the_doors_where_there_are_some() {
    let floor = Floor::new();
    let (press, gate, port) = (floor.node("press"), floor.door("gate"), floor.door("port"));
    let client = floor.client(&[&press]).await;
    let add = || client.infer("add").input("a", &[1], &[1.0_f32]).input("b", &[1], &[1.0_f32]).send();
    let mut share = BTreeMap::<NodeId, usize>::new();
    for answer in join_all((0..10).map(|_| add())).await {
        *share.entry(answer.unwrap().node).or_default() += 1;
    }
    assert_eq!(share, [(gate.identity.node(), 5), (port.identity.node(), 5)].into());
}

#[tokio::test]
async fn a_client_outlives_the_member_that_it_came_by() {
    let floor = Floor::new();
    let (gate, port) = (floor.door("gate"), floor.door("port"));
    let client = floor.client(&[&gate, &port]).await;
    let add = || client.infer("add").input("a", &[1], &[1.0_f32]).input("b", &[1], &[1.0_f32]).send();
    assert!(add().await.is_ok());
    gate.mesh.shutdown().await;
    for _ in 0..6 {
        assert_eq!(add().await.unwrap().node, port.identity.node());
    }
    assert!(client.health().await.unwrap().ready);
}

#[tokio::test]
async fn calls_questions_and_watches_outlive_the_last_door() {
    let floor = Floor::new();
    let (gate, press) = (floor.door("gate"), floor.node("press"));
    let client = floor.client(&[&gate]).await;
    let add = || client.infer("add").input("a", &[1], &[1.0_f32]).input("b", &[1], &[1.0_f32]).send();
    assert_eq!(add().await.unwrap().node, gate.identity.node());
    let mut lists = Box::pin(client.watch_members());
    assert_eq!(lists.next().await.unwrap().unwrap().answered_by, gate.identity.node());

    // The member list goes on saying that the door is alive.
    gate.mesh.shutdown().await;
    let by_node = press.identity.node();
    assert_eq!(add().await.unwrap().node, by_node);
    let list = timeout(PATIENCE, lists.next()).await.expect("the node tells").unwrap().unwrap();
    assert_eq!(list.answered_by, by_node);
    assert_eq!(client.members().await.unwrap().answered_by, by_node);
    assert_eq!(client.models().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_where_it_waits() {
    let floor = Floor::new();
    let press = floor.door("press");
    let client = floor.client(&[&press]).await;
    let mut call = Box::pin(client.infer("slow").deadline(Duration::from_secs(60)).send());
    let flag: Cancelled = tokio::select! {
        answer = &mut call => panic!("{answer:?}"),
        held = press.work.held(1) => {
            let flag = held[0].reply.cancelled();
            press.work.held.lock().unwrap().extend(held);
            flag
        }
    };
    assert!(!flag.is_set());
    drop(call);
    timeout(PATIENCE, flag.wait()).await.expect("the cancellation arrives");
    assert!(client.statistics().values().all(|peer| peer.in_flight == 0));
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_nobody_answers() {
    let floor = Floor::new();
    let press = floor.door("press");
    let client = floor.client(&[&press]).await;
    let error = client.infer("slow").deadline(Duration::from_millis(150)).send().await.unwrap_err();
    assert!(matches!(error, CallError::Late { attempts: 1, .. }), "{error:?}");
    let held = press.work.held(1).await;
    let left = held[0].context.timeout_us.unwrap();
    assert!(left <= 150_000, "the node was told {left} us");
}

#[tokio::test]
async fn a_request_that_is_wrong_is_not_sent() {
    let floor = Floor::new();
    let press = floor.node("press");
    let client = floor.client(&[&press]).await;
    let wrong = [
        client.infer("../etc"),
        client.infer("add").input("a", &[3], &[1.0_f32]),
        client.infer("add").input_strings("a", &[2], &["one"]),
        client.infer("add").input("a", &[u64::MAX, u64::MAX], &[1_u8]),
    ];
    for request in wrong {
        let error = request.send().await.unwrap_err();
        assert!(matches!(error, CallError::Refused { attempts: 0, .. }), "{error:?}");
    }
    let error = client.infer("subtract").send().await.unwrap_err();
    assert!(matches!(error, CallError::UnknownModel { .. }), "{error:?}");
    let error = client.infer("add").input("a", &[1], &[1.0_f32]).send().await.unwrap_err();
    assert!(matches!(error, CallError::Refused { attempts: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn members_models_pings_and_notes_reach_the_cluster() {
    let floor = Floor::new();
    let (press, weld) = (floor.node("press"), floor.node("weld"));
    let client = floor.client(&[&press]).await;
    let members = client.members().await.unwrap().members;
    assert_eq!(members.iter().map(|row| &*row.name).collect::<Vec<_>>(), ["press", "weld"]);
    let models = client.models().await.unwrap();
    assert_eq!((&*models[0].name.to_string(), models[0].slots), ("add", 8));
    assert!(client.ping(weld.identity.node()).await.unwrap() < PATIENCE);
    let stranger = NodeId::from_bytes([9; 16]);
    assert!(matches!(client.ping(stranger).await, Err(AskError::UnknownMember(node)) if node == stranger));

    client.tell(lineside_certs::roles::LOG, &"shift 2 begins").await.unwrap();
    let logs = [&press, &weld].map(|member| member.work.log.lock().unwrap().clone()).concat();
    assert_eq!(logs, ["shift 2 begins"]);
}

#[tokio::test]
async fn a_notification_arrives_once_and_is_not_answered_even_when_nobody_knows_what_it_is() {
    let floor = Floor::new();
    let press = floor.node("press");
    let client = floor.client(&[&press]).await;
    client.notify("no.such.method", &"?").await.unwrap();
    for part in 0..100 {
        client.notify(lineside_certs::roles::LOG, &format!("part {part}")).await.unwrap();
    }
    // On the same stream, so behind them all.
    client.tell(lineside_certs::roles::LOG, &"end").await.unwrap();
    let mut expected: Vec<_> = (0..100).map(|part| format!("part {part}")).collect();
    expected.push("end".to_owned());
    assert_eq!(*press.work.log.lock().unwrap(), expected);
    assert!(client.statistics().values().all(|peer| peer.in_flight == 0));

    let error = client.notify(lineside_certs::roles::LOG, &"x".repeat(20_000)).await.unwrap_err();
    assert!(
        matches!(&error, AskError::Refused { fault, .. } if fault.message.contains("16384")),
        "{error:?}"
    );
    press.mesh.shutdown().await;
    let error = client.notify(lineside_certs::roles::LOG, &"lost").await.unwrap_err();
    assert!(matches!(error, AskError::Broken { .. } | AskError::NoMember), "{error:?}");
}

#[tokio::test]
async fn a_watch_tells_the_members_at_once_and_at_each_change() {
    let floor = Floor::new();
    let press = floor.node("press");
    let client = floor.client(&[&press]).await;
    let mut lists = Box::pin(client.watch_members());
    let names = |list: MembersResult| list.members.into_iter().map(|row| row.name).collect::<Vec<_>>();
    assert_eq!(names(lists.next().await.unwrap().unwrap()), ["press"]);
    // It is no call in flight: others still choose this member.
    assert!(client.statistics().values().all(|peer| peer.in_flight == 0));
    let _weld = floor.node("weld");
    let change = timeout(PATIENCE, lists.next()).await.expect("the change is told");
    assert_eq!(names(change.unwrap().unwrap()), ["press", "weld"]);
    assert_eq!(client.roster().rows().len(), 2);
    press.work.watched_by(1).await;
    drop(lists);
    press.work.watched_by(0).await;
}

#[tokio::test]
async fn a_watch_moves_on_when_the_member_that_tells_is_lost() {
    let floor = Floor::new();
    let (gate, port) = (floor.door("gate"), floor.door("port"));
    let client = floor.client(&[&gate, &port]).await;
    let mut lists = Box::pin(client.watch_members());
    let first = lists.next().await.unwrap().unwrap().answered_by;
    let (told_by, other) = if first == gate.identity.node() { (gate, port) } else { (port, gate) };
    assert_eq!((told_by.work.watchers(), other.work.watchers()), (1, 0));
    let (name, address) = (told_by.identity.name().to_owned(), told_by.address);
    told_by.mesh.shutdown().await;
    drop(told_by);
    let list = timeout(PATIENCE, lists.next()).await.expect("the other tells").unwrap().unwrap();
    assert_eq!(list.answered_by, other.identity.node());

    // Without anybody it says so, and goes on when somebody is there.
    other.mesh.shutdown().await;
    let silence = timeout(PATIENCE, lists.next()).await.expect("the silence is told").unwrap();
    assert!(matches!(silence, Err(AskError::Broken { .. } | AskError::NoMember)), "{silence:?}");
    let again = floor.door_at(&name, address).await;
    let found = async {
        loop {
            if let Ok(list) = lists.next().await.unwrap() {
                break list;
            }
        }
    };
    let list = timeout(PATIENCE, found).await.expect("the watch goes on");
    assert_eq!(list.answered_by, again.identity.node());
}

#[tokio::test]
async fn a_dead_address_delays_the_others_only_a_little_and_an_unknown_name_not_at_all() {
    let floor = Floor::new();
    let press = floor.node("press");
    let dead: Vec<_> = (0..8).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let mut addresses = vec!["no.such.host.invalid:7443".to_owned()];
    addresses.extend(dead.iter().map(|socket| socket.local_addr().unwrap().to_string()));
    addresses.push(press.address.to_string());
    let started = tokio::time::Instant::now();
    let client = Client::connect(floor.identity(Role::Client, "program"), addresses).await.unwrap();
    // One after another, the eight would have taken a second each.
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(client.roster().rows().len(), 1);
}

#[tokio::test]
async fn without_members_connecting_says_whom_it_tried() {
    let floor = Floor::new();
    let identity = floor.identity(Role::Client, "program");
    let error = Client::connect(Arc::clone(&identity), ["127.0.0.1:9"]).await.unwrap_err();
    assert!(matches!(&error, ConnectError::NoMember { tries, .. } if tries.len() == 1), "{error}");
    assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
    let error = Client::connect(Arc::clone(&identity), ["nowhere"]).await.unwrap_err();
    assert!(error.to_string().contains("host:port"), "{error}");
    let error = Client::connect(identity, [""; 0]).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoAddress));
    let error = Client::connect(floor.home.path().join("nothing"), ["127.0.0.1:9"]).await.unwrap_err();
    assert!(matches!(error, ConnectError::Identity(_)), "{error}");
}

#[tokio::test]
async fn the_identity_of_another_cluster_opens_no_door() {
    let (floor, neighbour) = (Floor::new(), Floor::new());
    let press = floor.node("press");
    let identity = neighbour.identity(Role::Client, "program");
    let error = Client::connect(identity, [press.mesh.local_addr()]).await.unwrap_err();
    assert!(error.to_string().contains("cluster"), "{error}");
}

#[tokio::test]
async fn clients_that_are_dropped_leave_no_task_behind() {
    let floor = Floor::new();
    let press = floor.holder("press");
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..10 {
        let client = floor.client_again(&[&press]).await;
        let watch = Box::pin(client.watch_members());
        client.ping(press.identity.node()).await.unwrap();
        drop((watch, client));
    }
    let gone = async {
        while before < tasks() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("{before} tasks, then {}", tasks()));
}

#[tokio::test]
async fn a_client_that_is_dropped_leaves_no_connection_behind() {
    let floor = Floor::new();
    let press = floor.node("press");
    let client = floor.client(&[&press]).await;
    let program = client.node();
    drop(client);
    press.work.loses(program).await;
}
