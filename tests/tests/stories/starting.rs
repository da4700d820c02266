//! Members that cannot start: one error, what to do about it, and an exit code that a supervisor understands.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime},
};

use lineside_certs::{IDENTITY_DIRECTORY, Identity, Subject};
use lineside_tests::{Ended, Floor, Plan};
use lineside_wire::Role;

const FAILURE: i32 = 1;
const CONFIG: i32 = 78;

/// Starts something that cannot start, on a floor of its own.
async fn refused(plan: impl FnOnce(&mut Floor) -> Plan) -> Ended {
    let mut floor = Floor::empty(&["add"]).await;
    let plan = plan(&mut floor);
    floor.fails(plan).await
}

/// A data directory whose identity was issued at another time or for another role.
fn data(floor: &Floor, role: Role, issued_at: SystemTime) -> std::path::PathBuf {
    let data = floor.path("odd");
    let issued = floor.authority().issue(&Subject::new(role, "odd"), issued_at).unwrap();
    Identity::store(&data.join(IDENTITY_DIRECTORY), &issued).unwrap();
    data
}

#[tokio::test]
async fn a_data_directory_serves_one_process_at_a_time() {
    let mut floor = Floor::empty(&["add"]).await;
    floor.start_all([Plan::node("press")]).await;
    let second = floor.fails(Plan::node("press")).await;
    second.assert_failed(FAILURE, &["press is in use", "--data-dir"]);

    // A power cut leaves the lock's file behind, not the lock.
    floor.member_mut("press").kill();
    floor.restart("press").await;
    floor.formed().await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_flag_that_chooses_another() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ended = refused(|_| Plan::node("press").set("member.listen", address)).await;
    ended.assert_failed(FAILURE, &[&address.to_string(), "--listen"]);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ended = refused(|_| Plan::gateway("door").set("gateway.http", address)).await;
    ended.assert_failed(FAILURE, &[&address.to_string(), "--http"]);
}

#[tokio::test]
async fn an_expired_certificate_is_an_error_before_anybody_is_dialled() {
    let two_years_ago = SystemTime::now() - Duration::from_secs(2 * 365 * 24 * 3600);
    let ended = refused(|floor| Plan::node("odd").in_directory(data(floor, Role::Node, two_years_ago))).await;
    ended.assert_failed(CONFIG, &["expired on", "lineside token create"]);
}

#[tokio::test]
async fn a_certificate_for_another_role_is_refused_with_the_one_that_is_needed() {
    for (role, plan) in [(Role::Gateway, Plan::node("odd")), (Role::Client, Plan::gateway("odd"))] {
        let ended = refused(|floor| plan.in_directory(data(floor, role, SystemTime::now()))).await;
        ended.assert_failed(CONFIG, &[&format!("for the role {role}"), "lineside token create --role"]);
    }
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused_with_the_fix() {
    let ended = refused(|floor| {
        let data = data(floor, Role::Node, SystemTime::now());
        let key = data.join(IDENTITY_DIRECTORY).join("key.pem");
        fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
        Plan::node("odd").in_directory(data)
    })
    .await;
    ended.assert_failed(CONFIG, &["key.pem can be read by others", "chmod 600"]);
}

#[tokio::test]
async fn a_directory_that_others_can_enter_is_refused_with_the_fix() {
    for open in ["", "identity"] {
        let ended = refused(|floor| {
            let data = data(floor, Role::Node, SystemTime::now());
            fs::set_permissions(data.join(open), fs::Permissions::from_mode(0o755)).unwrap();
            Plan::node("odd").in_directory(data)
        })
        .await;
        ended.assert_failed(CONFIG, &["chmod 700", open]);
    }
}

#[tokio::test]
async fn a_damaged_trust_list_is_named_and_no_identity_is_made_anew() {
    let ended = refused(|floor| {
        let data = data(floor, Role::Node, SystemTime::now());
        let list = data.join(IDENTITY_DIRECTORY).join("trust.bin");
        let whole = fs::read(&list).unwrap();
        fs::write(&list, &whole[..whole.len() / 2]).unwrap();
        Plan::node("odd").in_directory(data)
    })
    .await;
    ended.assert_failed(CONFIG, &["trust.bin", "damaged"]);
}

#[tokio::test]
async fn without_an_identity_none_is_made_when_none_may_be_made() {
    let ended = refused(|floor| {
        let data = floor.path("fresh");
        fs::create_dir(&data).unwrap();
        Plan::node("odd").in_directory(data).flag("--no-init")
    })
    .await;
    ended.assert_failed(CONFIG, &["holds no identity", "lineside token create"]);
}

#[tokio::test]
async fn a_damaged_certificate_is_named() {
    let ended = refused(|floor| {
        let data = data(floor, Role::Node, SystemTime::now());
        fs::write(data.join(IDENTITY_DIRECTORY).join("cert.pem"), "-----BEGIN nothing").unwrap();
        Plan::node("odd").in_directory(data)
    })
    .await;
    ended.assert_failed(CONFIG, &["cert.pem is damaged"]);
}

#[tokio::test]
async fn a_wrong_setting_is_named_with_what_is_allowed() {
    let ended = refused(|_| Plan::node("press").set("member.preset", "quick")).await;
    ended.assert_failed(CONFIG, &["LINESIDE__MEMBER__PRESET", "fast"]);
}

#[tokio::test]
async fn a_library_that_is_not_there_is_named_before_anything_starts() {
    let ended =
        refused(|floor| Plan::node("press").set("node.onnxruntime", floor.path("no-library.so").display()))
            .await;
    ended.assert_failed(CONFIG, &["node.onnxruntime", "no-library.so is no file"]);
}

#[tokio::test]
async fn a_library_that_is_none_is_one_message_with_what_to_do() {
    let ended = refused(|floor| {
        let text = floor.path("text.so");
        fs::write(&text, "this is no library").unwrap();
        Plan::node("press").set("node.onnxruntime", text.display())
    })
    .await;
    ended.assert_failed(FAILURE, &["text.so is not a usable ONNX Runtime library", "fix:"]);
}

#[tokio::test]
async fn a_full_disk_at_the_start_is_named_and_leaves_the_identity_whole() {
    let mut floor = Floor::empty(&["add"]).await;
    let plan = Plan::node("press");
    let full = floor.fails_on_a_full_disk(plan.clone()).await;
    assert!(matches!(full.code, Some(FAILURE | CONFIG)), "{full:?}");
    assert!(full.stderr.contains("error:") && !full.stderr.contains("panicked"), "{full:?}");
    assert!(full.stderr.contains(&floor.path("press").display().to_string()), "{full:?}");

    // With room again it starts as if nothing had been.
    floor.start_all([plan]).await;
}
