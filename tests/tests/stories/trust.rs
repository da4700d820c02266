//! How machines become members, how their certificates change under load, and how they are shown the door.

use std::{fs, net::UdpSocket, time::Duration};

use lineside_certs::Token;
use lineside_mesh::DialError;
use lineside_tests::{Floor, Http, Outsider, PATIENCE, Plan, eventually};
use lineside_wire::{Empty, MemberRow, MembersResult, ModelState, Role, method};

/// Revocation reaches every member within this.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// A life of certificates in which a story can see several: they are renewed after some 8 to 10 s.
const SHORT_LIFE: &str = "20s";

fn founder() -> Plan {
    Plan::up("office")
}

#[tokio::test]
async fn the_printed_line_is_all_that_a_second_machine_needs() {
    let mut floor = Floor::founded(&["add"], founder()).await;
    let token = floor.member("office").printed_token().await;
    // No seed and no mDNS: what the line says is where the cluster is.
    floor.start(Plan::node("weld").set("member.seeds", "").joining(&token)).await;
    floor.formed().await;

    let again = floor.fails(Plan::node("paint").set("member.seeds", "").joining(&token)).await;
    assert_ne!(again.code, Some(0), "a token was used twice");
    assert!(again.stderr.contains("lineside token create"), "{}", again.stderr);
    assert!(!floor.path("paint").join("identity").exists(), "a refused machine has an identity");
    // The flag may stay, in a service's unit say: the machine is a member already.
    floor.member_mut("weld").kill();
    floor.restart("weld").await;
    floor.formed().await;
}

#[tokio::test]
async fn tokens_outlive_the_holder_of_the_key_and_fit_one_role() {
    let mut floor = Floor::founded(&["add"], founder()).await;
    let token = floor.token("office", Role::Gateway, &[]).await;
    floor.member_mut("office").kill();
    floor.restart("office").await;

    let wrong = floor.fails(Plan::node("weld").joining(&token)).await;
    assert!(wrong.stderr.contains("role"), "{}", wrong.stderr);
    floor.start(Plan::gateway("door").joining(&token)).await;
    floor.formed().await;
}

#[tokio::test]
async fn a_token_of_another_cluster_is_refused_by_the_joiner_itself() {
    let floor = Floor::founded(&["add"], founder()).await;
    let other =
        lineside_certs::Authority::create(&floor.path("other"), "other", std::time::SystemTime::now())
            .unwrap();
    let order =
        lineside_certs::TokenOrder { role: Role::Node, name: None, lifetime: lineside_certs::TOKEN_LIFETIME };
    let token = other.create_token(&order, std::time::SystemTime::now()).unwrap();
    let token = token.at(vec![floor.member("office").address().to_string()]).to_string();

    let refused = floor.fails(Plan::node("weld").joining(&token)).await;
    assert!(refused.stderr.contains("fingerprint"), "{}", refused.stderr);
    let audit = fs::read_to_string(floor.member("office").data().join("ca/audit.jsonl")).unwrap();
    assert!(!audit.contains("token_refused"), "the joiner sent something: {audit}");
}

#[tokio::test]
async fn a_line_whose_first_address_is_dead_leads_to_the_second() {
    let mut floor = Floor::founded(&["add"], founder()).await;
    let token: Token = floor.token("office", Role::Node, &[]).await.parse().unwrap();
    // Somebody has the port, and says nothing.
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = [dead.local_addr().unwrap(), floor.member("office").address()];
    let token = token.at(addresses.map(|address| address.to_string()).into());
    floor.start(Plan::node("weld").set("member.seeds", "").joining(&token.to_string())).await;
    floor.formed().await;
}

#[tokio::test]
async fn an_admin_of_a_day_may_change_models_and_a_program_may_not() {
    let mut floor = Floor::founded(&["add"], founder()).await;
    floor.formed().await;
    let [admin, program] = ["admin", "program"].map(|name| floor.path(name).display().to_string());
    let made = floor.lineside("office", &["certs", "admin", "--out", &admin]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let issue = ["certs", "issue", "--role", "client", "--name", "camera", "--out", &program];
    let made = floor.lineside("office", &issue).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);

    let unload =
        async |who: &str| floor.lineside("office", &["models", "unload", "add", "--identity", who]).await;
    unload(&program).await.assert_failed(1, &["the role client may not call models.unload"]);
    let unloaded = unload(&admin).await;
    assert_eq!(unloaded.code, Some(0), "{unloaded:?}");
    let is_unloaded = |row: &MemberRow| {
        row.member
            .as_ref()
            .is_some_and(|state| state.models.iter().all(|model| model.state != ModelState::Ready))
    };
    floor.sees("office", "office", "has unloaded its model", is_unloaded).await;
}

#[tokio::test]
async fn a_machine_that_no_network_reaches_joins_by_files() {
    let mut floor = Floor::founded(&["add"], founder()).await;
    let data = floor.path("weld");
    let [request, answer] = ["request.pem", "answer.pem"].map(|name| floor.path(name).display().to_string());
    let asked = floor.lineside_in(&data, &["certs", "request", "--name", "weld", "--out", &request]).await;
    assert_eq!(asked.code, Some(0), "{}", asked.stderr);
    let sign = ["certs", "sign", &request, "--role", "node", "--name", "weld", "--out", &answer];
    let signed = floor.lineside("office", &sign).await;
    assert_eq!(signed.code, Some(0), "{}", signed.stderr);
    for file in [&request, &answer] {
        assert!(!fs::read_to_string(file).unwrap().contains("PRIVATE KEY"), "a key is on the stick");
    }
    let installed = floor.lineside_in(&data, &["certs", "install", &answer]).await;
    assert_eq!(installed.code, Some(0), "{}", installed.stderr);

    floor.start(Plan::node("weld").in_directory(data)).await;
    floor.formed().await;
}

#[tokio::test]
async fn a_revoked_node_is_out_within_five_seconds_and_nothing_is_lost() {
    let mut floor = Floor::founded(&["add"], founder()).await;
    floor.join_all("office", [Plan::node("weld"), Plan::node("paint"), Plan::gateway("door")]).await;
    let load = floor.load(4, 4).await;
    let weld = floor.member("weld").node();
    load.answers_of(weld, 20).await;
    // What paint writes has to wait: as on a disk that hangs.
    let hangs = fs::File::open(floor.member("paint").data().join("identity")).unwrap();
    hangs.lock().unwrap();

    let revoked = floor.lineside("office", &["certs", "revoke", "weld"]).await;
    assert_eq!(revoked.code, Some(0), "{}", revoked.stderr);
    for name in ["office", "paint", "door"] {
        let what = format!("{name} has closed its connection with weld");
        eventually(&what, REVOKED_WITHIN, async || {
            let log = floor.member(name).log();
            let closed = log.lines().any(|line| line.contains("revoked") && line.contains(&weld.to_string()));
            if closed { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
    }
    drop(hangs);
    // The door has a connection for each of its threads, and what was answered on the last one may still be on its way.
    eventually("a hundred answers come from others", REVOKED_WITHIN, async || {
        let before = load.tally().by(weld);
        load.answers(100).await;
        match load.tally().by(weld) - before {
            0 => Ok(()),
            more => Err(format!("{more} came from the revoked node")),
        }
    })
    .await;
    load.end().await.assert_nothing_lost();

    // Not by coming back either.
    floor.member_mut("weld").kill();
    floor.restart("weld").await;
    floor.member("weld").logs(PATIENCE, &["revoked"]).await;
    floor.sees("paint", "weld", "was revoked", |row| row.state == "revoked").await;
    let told = floor.lineside("office", &["status"]).await;
    assert_eq!(told.code, Some(0), "whoever was shut out is missed: {told:?}");
}

#[tokio::test]
async fn what_is_revoked_while_the_holder_of_the_key_is_off_is_out_when_it_starts() {
    let mut floor = Floor::founded(&["add"], founder()).await;
    floor.join_all("office", [Plan::node("weld"), Plan::gateway("door")]).await;
    floor.member_mut("office").kill();
    let revoked = floor.lineside("office", &["certs", "revoke", "weld"]).await;
    assert_eq!(revoked.code, Some(0), "{}", revoked.stderr);

    floor.restart("office").await;
    for name in ["office", "door"] {
        floor.sees(name, "weld", "takes no part", |row| row.state != "alive").await;
    }
    let mut http = floor.http("door");
    let number = "lineside_trust_list_number";
    eventually("the door goes by the newest list", PATIENCE, async || {
        match metric(&mut http, number).await? {
            2.0.. => Ok(()),
            old => Err(format!("list {old}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_second_holder_of_the_key_does_all_that_the_first_did_and_the_first_learns_of_it() {
    let office = founder().set("certs.member_lifetime", SHORT_LIFE);
    let mut floor = Floor::founded(&["add"], office).await;
    let spare = Plan::node("spare").set("certs.member_lifetime", SHORT_LIFE);
    floor.join_all("office", [spare, Plan::node("weld"), Plan::gateway("door")]).await;
    floor.member_mut("spare").kill();
    copy(&floor.member("office").data().join("ca"), &floor.member("spare").data().join("ca"));
    floor.restart("spare").await;
    floor.sees("door", "spare", "holds the key", holds_key).await;

    floor.member_mut("office").kill();
    let first = expiry(&floor, "door").await;
    renewed_after(&floor, "door", first).await;
    let token = floor.token("spare", Role::Node, &[]).await;
    floor.start(Plan::node("lathe").joining(&token)).await;
    let revoked = floor.lineside("spare", &["certs", "revoke", "weld"]).await;
    assert_eq!(revoked.code, Some(0), "{}", revoked.stderr);
    floor.sees("door", "weld", "takes no part", |row| row.state != "alive").await;

    // What the first one signs next is not less than that.
    floor.restart("office").await;
    let audit = floor.member("office").data().join("ca/audit.jsonl");
    eventually("the first holder has taken in what the second did", PATIENCE, async || {
        let audit = fs::read_to_string(&audit).unwrap();
        if audit.contains("trust_merged") { Ok(()) } else { Err(audit) }
    })
    .await;
    let last = expiry(&floor, "door").await;
    renewed_after(&floor, "door", last).await;
    floor.sees("office", "weld", "takes no part", |row| row.state != "alive").await;
}

#[tokio::test]
async fn a_live_connection_of_a_revoked_program_is_closed_and_none_is_made_again() {
    let mut floor = Floor::founded(&["add"], founder()).await;
    let identity = floor.identity(Role::Client);
    let program = Outsider::new(std::sync::Arc::clone(&identity));
    let office = floor.member("office").address();
    let _: Empty = program.ask(office, method::PING, &Empty {}).await.unwrap();

    let revoked = floor.lineside("office", &["certs", "revoke", &identity.holder().serial]).await;
    assert_eq!(revoked.code, Some(0), "{}", revoked.stderr);
    let refused = eventually("the program is shut out", REVOKED_WITHIN, async || {
        match program.ask::<_, Empty>(office, method::PING, &Empty {}).await {
            Ok(_) => Err("it is still served".to_owned()),
            Err(error) => Ok(error),
        }
    });
    refused.await;
    let refused =
        eventually("the refusal names its reason", PATIENCE, async || match program.greet(office).await {
            Err(DialError::Resting { .. }) => Err("it has to wait before it may dial again".to_owned()),
            Err(error) => Ok(error.to_string()),
            Ok(_) => panic!("a revoked program came in again"),
        })
        .await;
    assert!(refused.contains("revoked"), "{refused}");
}

#[tokio::test]
async fn certificates_renew_under_load_also_after_a_rest_of_the_authority() {
    let mut floor = Floor::founded(&["add"], founder().set("certs.member_lifetime", SHORT_LIFE)).await;
    floor.join_all("office", [Plan::node("weld"), Plan::node("paint"), Plan::gateway("door")]).await;
    let load = floor.load(50, 50).await;
    let first = expiry(&floor, "weld").await;
    let second = renewed_after(&floor, "weld", first).await;
    renewed_after(&floor, "weld", second).await;

    floor.member_mut("office").kill();
    let mut http = floor.http("door");
    eventually("two renewals have failed", PATIENCE, async || {
        let failed = metric(&mut http, "lineside_certificate_renewals_total{result=\"failed\"}").await?;
        if 2.0 <= failed { Ok(()) } else { Err(format!("{failed} failed")) }
    })
    .await;
    load.answers(50).await;
    floor.restart("office").await;
    let last = expiry(&floor, "weld").await;
    renewed_after(&floor, "weld", last).await;
    load.answers(50).await;
    load.end().await.assert_nothing_lost();
}

#[tokio::test]
async fn the_authority_is_rotated_under_load_and_a_machine_that_was_off_follows() {
    let mut floor = Floor::founded(&["add"], founder().set("certs.member_lifetime", "120s")).await;
    floor.join_all("office", [Plan::node("weld"), Plan::node("paint"), Plan::gateway("door")]).await;
    let load = floor.load(4, 4).await;
    load.answers(20).await;
    floor.member_mut("paint").kill();

    let started = floor.lineside("office", &["certs", "rotate-ca", "start"]).await;
    assert_eq!(started.code, Some(0), "{}", started.stderr);
    for name in ["office", "weld", "door"] {
        floor.sees("door", name, "is of the second generation", |row| generation(row) == 2).await;
    }
    let early = floor.lineside("office", &["certs", "rotate-ca", "finish"]).await;
    early.assert_failed(1, &["paint", "--force"]);

    floor.restart("paint").await;
    floor.sees("door", "paint", "is of the second generation", |row| generation(row) == 2).await;
    load.answers_of(floor.member("paint").node(), 20).await;
    load.end().await.assert_nothing_lost();

    // By force: those who watch and call for this test have certificates of the first generation, which nobody renews.
    let finished = floor.lineside("office", &["certs", "rotate-ca", "finish", "--force"]).await;
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    // The identities of this test are of the first generation, too: from here on the office itself is asked.
    let token = floor.token("office", Role::Node, &[]).await;
    floor.start(Plan::node("lathe").joining(&token)).await;
    eventually("all five are alive, of the second generation", PATIENCE, async || {
        let told = floor.lineside("office", &["members", "-o", "json"]).await;
        let list: MembersResult =
            serde_json::from_str(&told.stdout).map_err(|error| format!("{error}: {told:?}"))?;
        let good = |row: &&MemberRow| row.state == "alive" && generation(row) == 2;
        match list.members.iter().filter(good).count() {
            5 => Ok(()),
            _ => Err(format!("{:?}", list.members)),
        }
    })
    .await;
}

#[tokio::test]
async fn members_that_start_again_in_the_middle_of_a_rotation_come_out_of_it() {
    let mut floor = Floor::founded(&["add"], founder().set("certs.member_lifetime", "60s")).await;
    floor.join_all("office", [Plan::node("weld"), Plan::gateway("door")]).await;
    let started = floor.lineside("office", &["certs", "rotate-ca", "start"]).await;
    assert_eq!(started.code, Some(0), "{}", started.stderr);
    // The list is on its way, some have it, nobody needs to have renewed.
    for name in ["weld", "office"] {
        floor.member_mut(name).kill();
        floor.restart(name).await;
    }
    for name in ["office", "weld", "door"] {
        floor.sees("door", name, "is of the second generation", |row| generation(row) == 2).await;
    }
    // And again with a certificate of the second, while the first is still trusted.
    floor.member_mut("weld").kill();
    floor.restart("weld").await;
    floor.formed().await;
}

fn holds_key(row: &MemberRow) -> bool {
    row.member.as_ref().is_some_and(|member| member.authority)
}

/// Copies a directory, as a person would.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

fn generation(row: &MemberRow) -> u32 {
    row.member.as_ref().map_or(0, |member| member.certificate_generation)
}

/// When a member's certificate ends, as the office sees it.
async fn expiry(floor: &Floor, name: &str) -> u64 {
    let row = floor.sees("door", name, "says when its certificate ends", |row| row.member.is_some()).await;
    row.member.map_or(0, |member| member.certificate_expires)
}

/// Waits for a later certificate of a member.
async fn renewed_after(floor: &Floor, name: &str, before: u64) -> u64 {
    let later =
        |row: &MemberRow| row.member.as_ref().is_some_and(|member| before < member.certificate_expires);
    floor.sees("door", name, "has a new certificate", later).await;
    expiry(floor, name).await
}

/// One value of a door's metrics.
async fn metric(http: &mut Http, name: &str) -> Result<f64, String> {
    let text = http.get("/metrics").await.map_err(|error| error.to_string())?.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or(format!("no {name} in {text}"))?;
    line.trim().parse().map_err(|error| format!("{line}: {error}"))
}
