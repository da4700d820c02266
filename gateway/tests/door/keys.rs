//! API keys at the door: who is let in, to what, how often, and until when.

use std::{
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use lineside_certs::{API_KEY_LIFETIME, ApiKeyId, ApiKeyOrder, Authority, Trust, WholeApiKey};
use lineside_gateway::{GatewayConfig, KeysMode, ModelControl};
use serde_json::json;

use crate::{
    caller::Reply,
    gate::{Gate, config},
};

const ECHO: &str = "/v2/models/echo/infer";
const ADD: &str = "/v2/models/add/infer";
const REQUEST: &str = r#"{"inputs":[]}"#;

/// The machine with the authority's key.
pub(crate) struct Office {
    authority: Authority,
    _home: tempfile::TempDir,
}

impl Office {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::create(&home.path().join("ca"), "plant 2", SystemTime::now()).unwrap();
        Self { authority, _home: home }
    }

    pub(crate) fn order(name: &str) -> ApiKeyOrder {
        ApiKeyOrder {
            name: name.to_owned(),
            models: vec!["*".to_owned()],
            methods: vec!["infer".to_owned(), "models.list".to_owned()],
            lifetime: Some(API_KEY_LIFETIME),
            rate: None,
            burst: None,
        }
    }

    pub(crate) fn key(&self, order: &ApiKeyOrder) -> String {
        self.authority.create_key(order, SystemTime::now()).unwrap().to_string()
    }

    fn revoke(&self, key: &str) {
        let id: ApiKeyId = key.parse::<WholeApiKey>().unwrap().id();
        self.authority.revoke_key(id, SystemTime::now()).unwrap().unwrap();
    }

    /// What a member does when a new trust list comes.
    pub(crate) fn tell(&self, gate: &Gate) {
        let trust = Trust::own(&self.authority.trust().unwrap()).unwrap();
        gate.shared.set_keys(trust.keys().to_vec());
    }
}

fn is_unauthenticated(reply: &Reply) -> bool {
    let _says_why = reply.error(401);
    reply.header("www-authenticate") == Some("Bearer") && reply.json()["code"] == "UNAUTHENTICATED"
}

#[tokio::test]
async fn a_key_opens_the_door_to_what_it_says_and_nothing_else() {
    let (gate, office) = (Gate::open(), Office::new());
    let key = office.key(&ApiKeyOrder { models: vec!["ech*".to_owned()], ..Office::order("press-7") });
    let loader = office.key(&ApiKeyOrder { methods: vec!["models.*".to_owned()], ..Office::order("loader") });
    office.tell(&gate);
    let mut caller = gate.caller().await;
    let bearer = format!("Bearer {key}");
    for shown in [("X-Api-Key", key.as_str()), ("Authorization", &bearer)] {
        assert_eq!(caller.post_with(ECHO, &[shown], REQUEST).await.status, 200);
        let refused = caller.post_with(ADD, &[shown], REQUEST).await.error(403);
        assert!(refused.contains("\"press-7\"") && refused.contains("\"add\""), "{refused}");
    }
    let load = "/v2/repository/models/echo/load";
    let refused = caller.post_with(load, &[("X-Api-Key", &key)], "{}").await.error(403);
    assert!(refused.contains("--method models.load"), "{refused}");
    // Whoever has the right gets on to the cluster; this made-up one cannot change models.
    let allowed = caller.post_with(load, &[("X-Api-Key", &loader)], "{}").await;
    assert!(![401, 403].contains(&allowed.status), "{}", allowed.text());
    let refused = caller.post_with(ECHO, &[("X-Api-Key", &loader)], REQUEST).await.error(403);
    assert!(refused.contains("models.*"), "{refused}");
    // Nobody needs a key to run models here, but to change them everybody does.
    assert_eq!(caller.post(ADD, json!({"inputs": []}).to_string()).await.status, 400);
    assert!(caller.post(load, "{}").await.error(403).contains("lineside keys create"));
}

#[tokio::test]
async fn a_key_of_the_table_holds_for_each_call_of_a_batch() {
    let (gate, office) = (Gate::open(), Office::new());
    let key = office.key(&ApiKeyOrder { models: vec!["echo".to_owned()], ..Office::order("press-7") });
    office.tell(&gate);
    let infer = |id: usize, model: &str| json!({"jsonrpc": "2.0", "method": "infer", "params": {"model": model, "inputs": []}, "id": id});
    let batch =
        json!([infer(1, "echo"), infer(2, "add"), {"jsonrpc": "2.0", "method": "cluster.members", "id": 3}]);
    let reply = gate.caller().await.post_with("/rpc", &[("X-Api-Key", &key)], batch.to_string()).await.json();
    let name = |id: usize| {
        let answer = reply.as_array().unwrap().iter().find(|answer| answer["id"] == id).unwrap();
        answer["error"]["data"]["name"].as_str().map(str::to_owned)
    };
    assert_eq!(
        [name(1), name(2), name(3)].map(Option::unwrap_or_default),
        ["", "PERMISSION_DENIED", "PERMISSION_DENIED"]
    );
}

#[tokio::test]
async fn a_key_that_is_not_valid_is_refused_in_the_same_words_whatever_is_wrong() {
    let (gate, office) = (Gate::open(), Office::new());
    let good = office.key(&Office::order("press-7"));
    let long_ago = SystemTime::now() - Duration::from_secs(7_200);
    let short = ApiKeyOrder { lifetime: Some(Duration::from_secs(3_600)), ..Office::order("old") };
    let expired = office.authority.create_key(&short, long_ago).unwrap().to_string();
    office.tell(&gate);
    let mut caller = gate.caller().await;
    let unknown = format!("{}{}", &good[..4], "0".repeat(16)) + &good[20..];
    let wrong_secret = format!("{}{}", &good[..21], "A".repeat(43));
    let mut words = Vec::new();
    for wrong in [expired.as_str(), &unknown, &wrong_secret, &good[..60], "lsk_"] {
        let reply = caller.post_with(ECHO, &[("X-Api-Key", wrong)], REQUEST).await;
        assert!(is_unauthenticated(&reply), "{wrong}");
        words.push(reply.error(401));
    }
    words.dedup();
    assert_eq!(words.len(), 1, "{words:?}");
    assert_eq!(caller.post_with(ECHO, &[("X-Api-Key", &good)], REQUEST).await.status, 200);
    // What is no key of a cluster is a name, as clients that have to send something send it.
    assert_eq!(caller.post_with(ECHO, &[("Authorization", "Bearer sk-unused")], REQUEST).await.status, 200);
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_on_connections_that_are_open_too() {
    let (gate, office) = (Gate::open(), Office::new());
    let (key, other) = (office.key(&Office::order("press-7")), office.key(&Office::order("weld")));
    office.tell(&gate);
    let mut caller = gate.caller().await;
    assert_eq!(caller.post_with(ECHO, &[("X-Api-Key", &key)], REQUEST).await.status, 200);
    office.revoke(&key);
    office.tell(&gate);
    assert!(is_unauthenticated(&caller.post_with(ECHO, &[("X-Api-Key", &key)], REQUEST).await));
    assert_eq!(caller.post_with(ECHO, &[("X-Api-Key", &other)], REQUEST).await.status, 200);
}

#[tokio::test]
async fn a_door_that_requires_keys_says_how_to_get_one_and_tells_its_health_to_everybody() {
    let gate = Gate::with(GatewayConfig { keys: KeysMode::Required, ..config() });
    let office = Office::new();
    let key = office.key(&Office::order("press-7"));
    office.tell(&gate);
    let mut caller = gate.caller().await;
    for shown in [&[][..], &[("X-Api-Key", "press-7")], &[("Authorization", "Bearer sk-unused")]] {
        let reply = caller.post_with(ECHO, shown, REQUEST).await;
        assert!(is_unauthenticated(&reply));
        assert!(reply.error(401).contains("lineside keys create"));
    }
    assert!(is_unauthenticated(&caller.get("/v2").await));
    for path in ["/livez", "/readyz", "/health", "/metrics", "/v2/health/ready"] {
        assert_eq!(caller.get(path).await.status, 200, "{path}");
    }
    assert_eq!(caller.post_with(ECHO, &[("X-Api-Key", &key)], REQUEST).await.status, 200);
    gate.shared.reload(&config()).unwrap();
    assert_eq!(caller.post(ECHO, REQUEST).await.status, 200, "the setting changed while the door was open");
}

#[tokio::test]
async fn guessing_is_held_back_and_whoever_has_a_key_is_not() {
    let (gate, office) = (Gate::open(), Office::new());
    let key = office.key(&Office::order("press-7"));
    office.tell(&gate);
    let mut caller = gate.caller().await;
    let mut statuses = Vec::new();
    for guess in 0..30 {
        let text = format!("{}{guess:043}", &key[..21]);
        let reply = caller.post_with(ECHO, &[("X-Api-Key", &text)], REQUEST).await;
        if reply.status == 429 {
            assert!(reply.error(429).contains("\"failed-keys\""));
            assert_eq!(reply.json()["limit"], "failed-keys");
            assert!(1 <= reply.header("retry-after").unwrap().parse::<u64>().unwrap());
        }
        statuses.push(reply.status);
    }
    let heard = statuses.iter().filter(|status| **status == 401).count();
    // Ten, and one that a slow machine may earn in six seconds.
    assert!((10..=13).contains(&heard), "{heard} guesses were heard");
    assert!(statuses.iter().all(|status| [401, 429].contains(status)));
    assert_eq!(caller.post_with(ECHO, &[("X-Api-Key", &key)], REQUEST).await.status, 200);
}

/// V14.
#[tokio::test]
async fn a_key_at_ten_times_its_limit_waits_and_another_key_loses_nothing() {
    let (gate, office) = (Gate::open(), Office::new());
    let limited = ApiKeyOrder { rate: Some(1), burst: Some(20), ..Office::order("greedy") };
    let (greedy, modest) = (office.key(&limited), office.key(&Office::order("modest")));
    office.tell(&gate);
    let (mut first, mut second) = (gate.caller().await, gate.caller().await);
    let since = tokio::time::Instant::now();
    let too_much = async {
        let mut served = 0;
        for _ in 0..200 {
            let reply = first.post_with(ECHO, &[("X-Api-Key", &greedy)], REQUEST).await;
            match reply.status {
                200 => served += 1,
                _ => {
                    assert!(reply.error(429).contains("\"client\" allows 1 a second and 20 at once"));
                    let after: u64 = reply.header("retry-after").unwrap().parse().unwrap();
                    assert!((1..=2).contains(&after), "{after}");
                    assert_eq!(reply.header("ratelimit"), Some("\"client\";r=0;t=1"));
                    assert_eq!(reply.header("ratelimit-policy"), Some("\"client\";q=20;w=20"));
                    assert_eq!(reply.json()["limit"], "client");
                }
            }
        }
        served
    };
    let little = async {
        for _ in 0..100 {
            let reply = second.post_with(ECHO, &[("X-Api-Key", &modest)], REQUEST).await;
            assert_eq!((reply.status, reply.header("ratelimit")), (200, None), "{}", reply.text());
        }
    };
    let (served, ()) = tokio::join!(too_much, little);
    let most = 21 + since.elapsed().as_secs();
    assert!(20 <= served && served <= most, "{served} of at most {most} were served");
}

#[tokio::test]
async fn keys_of_the_cluster_share_no_quota_of_their_address() {
    let limits = GatewayConfig { rate: NonZeroU32::new(1), burst: NonZeroU32::new(2), ..config() };
    let (gate, office) = (Gate::with(limits), Office::new());
    let keys: Vec<_> = (0..30).map(|n| office.key(&Office::order(&format!("press-{n}")))).collect();
    office.tell(&gate);
    let mut caller = gate.caller().await;
    for key in &keys {
        for _ in 0..2 {
            assert_eq!(caller.post_with(ECHO, &[("X-Api-Key", key)], REQUEST).await.status, 200);
        }
    }
    assert_eq!(caller.post(ECHO, REQUEST).await.status, 200, "the address has its own");
}

#[tokio::test]
async fn who_may_change_models_is_decided_by_the_setting() {
    let load = "/v2/repository/models/echo/load";
    for (control, let_in) in [(ModelControl::Open, true), (ModelControl::Off, false)] {
        let (gate, office) =
            (Gate::with(GatewayConfig { model_control: control, ..config() }), Office::new());
        let key = office.key(&ApiKeyOrder { methods: vec!["*".to_owned()], ..Office::order("operator") });
        office.tell(&gate);
        let mut caller = gate.caller().await;
        for shown in [&[][..], &[("X-Api-Key", key.as_str())]] {
            let reply = caller.post_with(load, shown, "{}").await;
            assert_eq!(reply.status == 403, !let_in, "{control:?} {}", reply.text());
        }
    }
}
