//! Whom a command asks, and as who; and rows that other commands' tests need.

use std::time::SystemTime;

use lineside_certs::{Authority, Subject};
use lineside_wire::{LoadReport, MemberState, MembersResult, ModelInfo, NodeId, Role};

use super::*;

/// A member as other commands' tests need it: a node, alive, of these models.
pub(crate) fn row(name: &str, models: Vec<ModelInfo>) -> MemberRow {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    let node = NodeId::from_bytes(bytes);
    let address = ([10, 0, 0, 7], 7443).into();
    let member = MemberState {
        node,
        name: name.to_owned(),
        role: Role::Node,
        software: "0.1.0".to_owned(),
        address,
        http: None,
        door: false,
        epoch: 1,
        revision: 1,
        draining: false,
        cordoned: false,
        weight: 100,
        load: LoadReport { running: 1, queued: 2, slots: 4, limit: 0, call_us: 0 },
        models,
        certificate_expires: 0,
        certificate_generation: 1,
        trust: lineside_wire::TrustStamp::default(),
        authority: false,
    };
    MemberRow {
        node,
        name: name.to_owned(),
        address,
        state: "alive".to_owned(),
        role: Some(Role::Node),
        member: Some(member),
        seen_ms_ago: 12,
        in_flight: 0,
        p95_us: None,
        calls: 0,
        failures: 0,
        rests: None,
        ejections: std::collections::BTreeMap::new(),
        clock_ahead_ms: None,
        double: None,
    }
}

pub(crate) fn list(members: Vec<MemberRow>) -> MembersResult {
    let cluster = lineside_wire::ClusterId::from_bytes([1; 16]);
    MembersResult { cluster, answered_by: members[0].node, members }
}

#[test]
fn an_address_without_a_port_means_the_default_one() {
    let said = ["10.0.0.7", "10.0.0.7:9", "press", "press:9", "::1", "[::1]", "[::1]:9"].map(with_port);
    let meant =
        ["10.0.0.7:7443", "10.0.0.7:9", "press:7443", "press:9", "[::1]:7443", "[::1]:7443", "[::1]:9"];
    assert_eq!(said, meant.map(|address| Ok(address.to_owned())));
    let wrong = ["", ":7443", "press:", "press:x", "press:0", "press:70000"];
    assert!(wrong.iter().all(|text| with_port(text).is_err()));
}

#[test]
fn a_command_asks_those_named_else_the_member_here_and_the_seeds() {
    let home = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.member.data_dir = Some(home.path().to_owned());
    let nobody = addresses(&[], &config).unwrap_err();
    assert_eq!(nobody.exit, Exit::Unreachable);
    assert!(
        nobody.text().contains("run/address") && nobody.text().contains("--connect"),
        "{}",
        nobody.text()
    );

    config.member.seeds = vec![([10, 0, 0, 9], 7443).into()];
    assert_eq!(addresses(&[], &config).unwrap().found, ["10.0.0.9:7443"]);
    fs::create_dir(home.path().join("run")).unwrap();
    let node = NodeId::from_bytes([1; 16]);
    let json = format!(r#"{{"pid":1,"node":"{node}","members":"127.0.0.1:7555"}}"#);
    fs::write(home.path().join(ADDRESS_FILE), json).unwrap();
    assert_eq!(addresses(&[], &config).unwrap().found, ["127.0.0.1:7555", "10.0.0.9:7443"]);
    assert_eq!(addresses(&["press:9".to_owned()], &config).unwrap().found, ["press:9"]);
}

#[test]
fn a_member_that_was_killed_does_not_run() {
    let home = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.member.data_dir = Some(home.path().to_owned());
    assert!(running_here(&config).unwrap_err().contains("run/address"));
    fs::create_dir(home.path().join("run")).unwrap();
    let node = NodeId::from_bytes([1; 16]);
    let wrote = |pid: u32| {
        let json = format!(r#"{{"pid":{pid},"node":"{node}","members":"127.0.0.1:7555"}}"#);
        fs::write(home.path().join(ADDRESS_FILE), json).unwrap();
        running_here(&config)
    };
    assert_eq!(wrote(std::process::id()).unwrap().node, node);
    // Beyond the largest that Linux gives.
    assert!(wrote(1 << 23).unwrap_err().contains("was killed"));
    assert!(wrote(0).unwrap_err().contains("was killed"));
}

#[test]
fn an_identity_is_a_directory_or_a_pair_of_files_and_else_the_members() {
    let mut config = Config::default();
    config.member.data_dir = Some("/data".into());
    let here = Place::Directory("/data/identity".into());
    assert_eq!(Place::named(None, None, None, &config), here);
    let there = Place::named(Some("/camera".into()), None, None, &config);
    assert_eq!(there, Place::Directory("/camera".into()));
    let pair = Place::named(None, Some("c.pem".into()), Some("k.pem".into()), &config);
    let refused = load_identity(&pair, &config).map(drop).unwrap_err();
    assert!(refused.text().contains("c.pem") && refused.text().contains("--cert FILE"), "{}", refused.text());
}

#[test]
fn a_command_goes_by_the_time_that_the_member_here_knew() {
    let home = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.member.data_dir = Some(home.path().to_owned());
    let (identity, _) = Identity::ensure(home.path(), "press", Role::Node, true, SystemTime::now()).unwrap();
    let place = Place::named(None, None, None, &config);
    assert!(load_identity(&place, &config).is_ok());
    let state = state_directory(&config);
    fs::create_dir(&state).unwrap();
    let end = identity.not_after().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    fs::write(state.join("clock"), format!("{end}\n")).unwrap();
    let refused = load_identity(&place, &config).map(drop).unwrap_err();
    assert!(refused.text().contains("expired") && !refused.text().contains("--cert"), "{}", refused.text());
    fs::write(home.path().join(IDENTITY_DIRECTORY).join("cert.pem"), "").unwrap();
    let damaged = load_identity(&place, &config).map(drop).unwrap_err();
    assert_eq!(damaged.exit, Exit::Config, "{}", damaged.text());
}

#[test]
fn a_member_is_meant_by_its_name_or_by_the_beginning_of_its_id() {
    let mut rows = vec![row("press", Vec::new()), row("weld", Vec::new())];
    assert_eq!(select(&rows, "weld").unwrap().name, "weld");
    let id = rows[0].node.short();
    assert_eq!(select(&rows, &id).unwrap().name, "press");
    assert!(select(&rows, "").is_err() && select(&rows, "glue").unwrap_err().text().contains("press, weld"));
    assert_eq!(label(&rows, &rows[0]), "press");

    rows[1].name = "press".to_owned();
    assert!(select(&rows, "press").unwrap_err().text().contains("more of the id"));
    assert_eq!(label(&rows, &rows[1]), format!("press {}", rows[1].node.short()));
}

#[test]
fn who_may_not_change_models_hears_how_to_get_to_be_one_who_may() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
    let issued = authority.issue(&Subject::new(Role::Client, "camera"), SystemTime::now()).unwrap();
    Identity::store(&home.path().join("identity"), &issued).unwrap();
    let identity = Identity::load(&home.path().join("identity")).unwrap();
    let refused = check_role(&identity, lineside_wire::method::MODELS_LOAD).unwrap_err();
    assert!(refused.text().contains("certs admin --out DIR"), "{}", refused.text());
    assert!(check_role(&identity, lineside_wire::method::CLUSTER_WATCH).is_ok());
}
