//! What a door does for the whole cluster: models everywhere, keys that end, settings that change while it serves, HTTPS.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use lineside_tests::{Addends, Floor, Http, PATIENCE, Plan, add_by_http, eventually};
use serde_json::{Value, json};
use tokio::time::Instant;

const SUM: Addends = Addends::new(2.0, 3.0);

/// How soon a revoked key has to be unknown everywhere.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// A cluster of two members with a door each. The first one has the authority's key.
async fn two_doors() -> Floor {
    let mut floor = Floor::founded(&["add", "echo"], Plan::up("press")).await;
    floor.join_all("press", [Plan::up("weld")]).await;
    floor
}

/// A key that a person makes on the machine of the authority's key.
async fn key(floor: &Floor, scopes: &[&str]) -> String {
    let made = floor.lineside("press", &[&["keys", "create"], scopes].concat()).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    made.stdout.trim().to_owned()
}

/// The status of a request of `add` with this key.
async fn status_with(http: &mut Http, key: &str) -> u16 {
    add_by_http(http, SUM, &[("x-api-key", key)]).await.unwrap().status
}

async fn until_status(http: &mut Http, key: &str, status: u16) {
    eventually(&format!("the key is answered with {status}"), PATIENCE, async || {
        match status_with(http, key).await {
            got if got == status => Ok(()),
            got => Err(format!("{got}")),
        }
    })
    .await;
}

async fn is_ready(floor: &Floor, at: &str, model: &str) -> Vec<String> {
    let mut ready = Vec::new();
    for row in floor.seen_by(at).await.unwrap().members {
        let models = row.member.map(|member| member.models).unwrap_or_default();
        let serves =
            |info: &lineside_wire::ModelInfo| info.name.as_str() == model && info.state.as_str() == "READY";
        if models.iter().any(serves) {
            ready.push(row.name);
        }
    }
    ready.sort();
    ready
}

#[tokio::test]
async fn a_model_is_unloaded_and_loaded_on_every_node_by_one_request() {
    let floor = two_doors().await;
    let key = key(&floor, &["--name", "engineer", "--method", "models.*"]).await;
    let mut http = floor.http("weld");
    let path = |what: &str| format!("/v2/repository/models/echo/{what}");

    let refused = http.post(&path("unload"), &[], b"").await.unwrap();
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert_eq!(is_ready(&floor, "press", "echo").await, ["press", "weld"]);

    for (what, ready) in [("unload", vec![]), ("load", vec!["press", "weld"])] {
        let done = eventually("the door knows the key", PATIENCE, async || {
            let answer = http.post(&path(what), &[("x-api-key", &key)], b"").await.unwrap();
            if answer.status == 200 { Ok(answer) } else { Err(answer.text()) }
        })
        .await;
        let nodes = done.json()["nodes"].clone();
        let done: Vec<_> =
            nodes.as_array().unwrap().iter().map(|node| (&node["name"], &node["done"])).collect();
        assert_eq!(done, [(&"press".into(), &true.into()), (&"weld".into(), &true.into())], "{nodes}");
        eventually(&format!("both doors know of the {what}"), PATIENCE, async || {
            for door in ["press", "weld"] {
                let seen = is_ready(&floor, door, "echo").await;
                if seen != ready {
                    return Err(format!("{door} sees {seen:?}"));
                }
            }
            Ok(())
        })
        .await;
    }
    // A key for this and nothing else.
    assert_eq!(status_with(&mut http, &key).await, 403);
    let missing = http.post("/v2/repository/models/nope/load", &[("x-api-key", &key)], b"").await.unwrap();
    assert_eq!(missing.status, 404, "{}", missing.text());
}

#[tokio::test]
async fn a_revoked_key_opens_no_door_of_the_cluster_after_five_seconds() {
    let floor = two_doors().await;
    let (lasting, ending) =
        (key(&floor, &["--name", "lasting"]).await, key(&floor, &["--name", "ending"]).await);
    let mut doors = [floor.http("press"), floor.http("weld")];
    for http in &mut doors {
        until_status(http, &lasting, 200).await;
        until_status(http, &ending, 200).await;
    }
    let revoked = floor.lineside("press", &["keys", "revoke", "ending"]).await;
    assert_eq!(revoked.code, Some(0), "{}", revoked.stderr);
    let begin = Instant::now();
    for http in &mut doors {
        until_status(http, &ending, 401).await;
    }
    assert!(begin.elapsed() < REVOKED_WITHIN, "it took {:?}", begin.elapsed());
    for http in &mut doors {
        assert_eq!(status_with(http, &lasting).await, 200);
    }
    let listed = floor.lineside("press", &["keys", "list", "-o", "json"]).await;
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert!(!listed.to_string().contains(lasting.splitn(3, '_').nth(2).unwrap()), "a list holds no secret");
}

#[tokio::test]
async fn limits_change_while_the_door_serves_and_a_broken_file_changes_nothing() {
    let floor_file = |text: &str, path: &PathBuf| fs::write(path, text).unwrap();
    let mut floor = Floor::empty(&["add"]).await;
    let file = floor.path("lineside.toml");
    floor_file("", &file);
    let door = Plan::gateway("door").flag("--config").flag(file.to_str().unwrap());
    floor.start_all([door, Plan::node("press")]).await;
    let mut http = floor.http("door");
    for _ in 0..20 {
        assert_eq!(add_by_http(&mut http, SUM, &[]).await.unwrap().status, 200);
    }

    floor_file("[gateway]\nrate_per_second = 1\nburst = 2\n", &file);
    floor.member("door").reload();
    let refused = eventually("the limit is in force", PATIENCE, async || {
        let answer = add_by_http(&mut http, SUM, &[]).await.unwrap();
        if answer.status == 429 { Ok(answer) } else { Err(answer.status.to_string()) }
    })
    .await;
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!(1 <= wait, "{wait}");

    floor_file("[gateway]\nrate_per_second = \"many\"\n", &file);
    floor.member("door").reload();
    floor.member("door").logs(PATIENCE, &["gateway.rate_per_second"]).await;
    eventually("the old limit holds", PATIENCE, async || {
        let answer = add_by_http(&mut http, SUM, &[]).await.unwrap();
        if answer.status == 429 { Ok(()) } else { Err(answer.status.to_string()) }
    })
    .await;

    floor_file("[gateway]\nrate_per_second = 0\n", &file);
    floor.member("door").reload();
    eventually("there is no limit any more", PATIENCE, async || {
        for _ in 0..10 {
            let answer = add_by_http(&mut http, SUM, &[]).await.unwrap();
            if answer.status != 200 {
                return Err(answer.status.to_string());
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_door_serves_https_with_a_certificate_of_the_cluster() {
    let floor = Floor::founded(&["add"], Plan::up("press").set("gateway.tls", "cluster")).await;
    let authority = floor.lineside("press", &["certs", "ca"]).await;
    assert_eq!(authority.code, Some(0), "{}", authority.stderr);
    let file = floor.path("cluster-ca.pem");
    fs::write(&file, &authority.stdout).unwrap();
    let port = floor.member("press").http_address().port();
    let body = json!({"inputs": [
        {"name": "a", "datatype": "FP32", "shape": [1], "data": [2.0]},
        {"name": "b", "datatype": "FP32", "shape": [1], "data": [3.0]},
    ]});
    let curl = |version: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", version, "--cacert"]).arg(&file).args(["-w", "\n%{http_version}", "-d"]);
        curl.arg(body.to_string()).arg(format!("https://localhost:{port}/v2/models/add/infer"));
        let output = curl.output().expect("curl is there");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    let said = eventually("HTTPS is served", PATIENCE, async || curl("--http2")).await;
    assert!(said.contains("\"data\":[5.0]") && said.ends_with("\n2"), "{said}");
    let said = curl("--http1.1").unwrap();
    assert!(said.contains("\"data\":[5.0]") && said.ends_with("\n1.1"), "{said}");
    // Plain HTTP is served beside it, on the same port.
    assert_eq!(add_by_http(&mut floor.http("press"), SUM, &[]).await.unwrap().status, 200);
}

#[tokio::test]
async fn an_answer_tells_how_it_came_about_when_it_is_asked() {
    let floor = Floor::with_nodes(["press", "weld"]).await;
    let mut http = floor.http("door");
    let answer =
        add_by_http(&mut http, SUM, &[("x-explain", "1"), ("x-request-id", "part-7")]).await.unwrap();
    let record: Value = serde_json::from_str(answer.header("x-lineside-flight").unwrap()).unwrap();
    assert_eq!(record["request_id"], "part-7");
    assert_eq!(record["flight"]["attempts"], 1);
    assert_eq!(record["flight"]["node"], answer.header("x-lineside-node").unwrap());
    assert!(record["total_us"].as_u64() >= record["flight"]["run_us"].as_u64(), "{record}");
    let quiet = add_by_http(&mut http, SUM, &[]).await.unwrap();
    assert_eq!(quiet.header("x-lineside-flight"), None);
}
