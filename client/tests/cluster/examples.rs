//! Every example program runs and says what its page promises.

use std::{path::PathBuf, process::Stdio};

use lineside_wire::Role;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use super::floor::{Floor, Member, PATIENCE};

/// Where cargo puts the examples that it builds with the tests.
fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let profile = this.parent().and_then(|deps| deps.parent()).unwrap();
    let program = profile.join("examples").join(name);
    assert!(program.exists(), "{} is not built: run `cargo test -p lineside-client`", program.display());
    program
}

fn command(floor: &Floor, member: &Member, name: &str) -> Command {
    floor.identity(Role::Client, name);
    let mut command = Command::new(program(name));
    command.arg(floor.home.path().join(name)).arg(member.mesh.local_addr().to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(floor: &Floor, member: &Member, name: &str) -> String {
    let output =
        timeout(PATIENCE, command(floor, member, name).output()).await.expect("the example ends").unwrap();
    let (said, wailed) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} failed: {wailed}");
    said
}

#[tokio::test]
async fn every_example_does_what_it_says() {
    let floor = Floor::new();
    let press = floor.node("press");
    let said = run(&floor, &press, "infer").await;
    assert!(said.starts_with("sum = [4.0, 6.0]\n"), "{said}");
    let said = run(&floor, &press, "many_in_flight").await;
    assert!(said.contains("total = 5050\n") && said.contains("answered 100\n"), "{said}");
    let said = run(&floor, &press, "deadline_and_cancel").await;
    assert!(
        said.contains("late: ") && said.contains("cancelled\n") && said.ends_with("sum = [3.0]\n"),
        "{said}"
    );
    let said = run(&floor, &press, "members_and_models").await;
    assert!(said.contains("member press ") && said.contains("model add 1 READY slots 4\n"), "{said}");
    let said = run(&floor, &press, "notify").await;
    assert_eq!(said, "sent\ntaken\n");
    assert_eq!(*press.work.log.lock().unwrap(), ["shift 2 begins", "part 1 is on the belt"]);
}

#[tokio::test]
async fn the_joining_example_needs_its_token_once() {
    let floor = Floor::new();
    let press = floor.holder("press");
    let token = floor.token(Role::Client, &[&press]).to_string();
    for _ in 0..2 {
        let mut joining = Command::new(program("join"));
        joining.arg(&token).arg(floor.home.path().join("camera")).kill_on_drop(true);
        let output = timeout(PATIENCE, joining.output()).await.expect("the example ends").unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.starts_with("camera-4 is a client for ") && said.ends_with("sum = [3.0]\n"), "{said}");
    }
}

#[tokio::test]
async fn the_watching_example_tells_a_change_and_leaves_nothing_behind() {
    let floor = Floor::new();
    let press = floor.node("press");
    let mut example = command(&floor, &press, "watch_members").spawn().unwrap();
    let mut said = BufReader::new(example.stdout.take().unwrap()).lines();
    let mut line = async || timeout(PATIENCE, said.next_line()).await.expect("a line comes").unwrap();
    assert_eq!(line().await.as_deref(), Some("1 members: press"));
    let _weld = floor.node("weld");
    assert_eq!(line().await.as_deref(), Some("2 members: press, weld"));
    assert_eq!(line().await, None);
    assert!(timeout(PATIENCE, example.wait()).await.expect("the example ends").unwrap().success());
    press.work.watched_by(0).await;
}
