//! What the door says of itself, to programs and to people.

use crate::gate::Gate;

#[tokio::test]
async fn programs_find_a_description_of_every_path() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let reply = caller.get("/openapi.json").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    let document = reply.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    for path in ["/v2/models/{model}/infer", "/v1/embeddings", "/rpc", "/v2/repository/index", "/metrics"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert_eq!(caller.get("/openapi.json/").await.body, reply.body, "the same each time");
}

#[tokio::test]
async fn people_find_a_page_that_runs_nothing_but_its_own() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let mut words = Vec::new();
    for path in ["/", "/docs"] {
        let reply = caller.get(path).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")));
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        assert!(reply.text().contains(&format!("<script nonce=\"{nonce}\">")));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        words.push(nonce);
    }
    assert_ne!(words[0], words[1], "the word is new for each answer");
}

#[tokio::test]
async fn head_tells_the_length_of_what_get_would_give() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for path in ["/openapi.json", "/docs", "/v1/models", "/v1/models/add"] {
        let length = caller.get(path).await.body.len();
        caller.write(format!("HEAD {path} HTTP/1.1\r\nHost: line\r\n\r\n")).await;
        let head = caller.head().await;
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some(length.to_string().as_str())),
            "{path}"
        );
    }
}
