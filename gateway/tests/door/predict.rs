//! Images in, labels or one word out.

use lineside_wire::{Parameter, Task};
use serde_json::json;

use crate::{caller::Caller, line::PRESS, tasks};

const JPEG: &[u8] = b"\xff\xd8\xff\xe0 made up";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n made up";

/// A form as clients write it.
fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, bytes) in parts {
        let file = file.map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
        let head = format!("--line17\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--line17--\r\n");
    body
}

const FORM: (&str, &str) = ("Content-Type", "multipart/form-data; boundary=line17");

async fn sent(caller: &mut Caller, path: &str, body: &[u8]) -> crate::caller::Reply {
    caller.post_with(path, &[FORM], body).await
}

#[tokio::test]
async fn an_engineer_with_curl_and_an_image_gets_one_word() {
    let gate = tasks::gate();
    let mut caller = gate.caller().await;
    // What curl says of a body with --data-binary.
    let curl = [("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "*/*")];
    let reply = caller.post_with("/v2/models/surface/predict?verdict", &curl, JPEG).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "NOK\n"));
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(reply.header("x-lineside-node"), Some(PRESS.to_string().as_str()));
    let plain = [("Accept", "text/plain")];
    assert_eq!(caller.post_with("/v2/models/surface/predict", &plain, JPEG).await.text(), "NOK\n");
    let words = caller.post_with("/v2/models/depth/predict", &plain, JPEG).await.error(400);
    assert!(words.contains("gives no verdict") && words.contains("model.toml"), "{words}");
}

#[tokio::test]
async fn an_image_is_answered_with_all_that_the_model_says_and_which_model_it_was() {
    let gate = tasks::gate();
    let mut caller = gate.caller().await;
    for (media, image) in [("image/jpeg", JPEG), ("image/png", PNG), ("application/octet-stream", PNG)] {
        let reply = caller.post_with("/v2/models/surface/predict", &[("Content-Type", media)], image).await;
        let expected = json!({
            "model_name": "surface", "model_version": "1",
            "labels": [{"label": "scratch", "index": image.len(), "score": 0.91}], "verdict": "NOK",
        });
        assert_eq!((reply.status, reply.json()), (200, expected), "{media}");
        // As the node wrote it.
        assert!(reply.text().contains("0.910"), "{}", reply.text());
    }
    assert_eq!(caller.post("/v2/models/surface/versions/1/predict/", JPEG).await.status, 200);
    let (call, _) = gate.line.last_call();
    assert_eq!(
        (call.params.task, call.params.version.map(|version| version.0)),
        (Some(Task::Predict), Some(1))
    );
}

#[tokio::test]
async fn a_form_brings_an_image_and_what_to_do_with_it() {
    let gate = tasks::gate();
    let mut caller = gate.caller().await;
    let parts: &[_] =
        &[("top_k", None, &b"3"[..]), ("image", Some("a.jpg"), JPEG), ("threshold", None, b"0.25")];
    let reply = sent(&mut caller, "/v2/models/surface/predict", &form(parts)).await;
    assert_eq!(reply.json()["labels"][0]["index"], JPEG.len());
    let parameters = gate.line.last_call().0.params.parameters;
    assert_eq!(parameters.get("top_k"), Some(&Parameter::Integer(3)));
    assert_eq!(parameters.get("threshold"), Some(&Parameter::Number(0.25)));
    // By the name of the part, or as the only file.
    for parts in [&[("file", None, PNG)][..], &[("picture", Some("a.png"), PNG)]] {
        let path = "/v2/models/surface/predict?top_k=2&explain";
        assert_eq!(sent(&mut caller, path, &form(parts)).await.status, 200);
        assert_eq!(gate.line.last_call().0.params.parameters.get("top_k"), Some(&Parameter::Integer(2)));
    }
}

#[tokio::test]
async fn a_large_image_is_not_copied_on_its_way() {
    let gate = tasks::gate();
    let mut caller = gate.caller().await;
    let image = [JPEG, &vec![7; 300_000]].concat();
    for body in [image.clone(), form(&[("image", Some("a.jpg"), &image)])] {
        let is_form = body.len() != image.len();
        let headers: &[_] = if is_form { &[FORM] } else { &[] };
        assert_eq!(caller.post_with("/v2/models/surface/predict", headers, &body).await.status, 200);
        let (_, chunks) = gate.line.last_call();
        // The length that leads it, and the image itself.
        assert_eq!(chunks.iter().map(|chunk| chunk.len()).collect::<Vec<_>>(), [4, image.len()]);
        assert_eq!(chunks[1], image);
    }
}

#[tokio::test]
async fn what_is_no_image_is_refused_with_what_to_send() {
    let gate = tasks::gate();
    let mut caller = gate.caller().await;
    let path = "/v2/models/surface/predict";
    let json = [("Content-Type", "application/json")];
    assert!(caller.post_with(path, &json, "{}").await.error(415).contains("image/jpeg"));
    assert!(caller.post(path, "GIF89a").await.error(415).contains("JPEG or PNG"));
    assert!(caller.post(path, "").await.error(400).contains("no image"));
    let text = form(&[("top_k", None, b"3")]);
    assert!(sent(&mut caller, path, &text).await.error(400).contains("no part with a file"));
    let two = form(&[("image", Some("a"), JPEG), ("file", Some("b"), JPEG)]);
    assert!(sent(&mut caller, path, &two).await.error(400).contains("two files"));
    let typo = form(&[("image", Some("a"), JPEG), ("treshold", None, b"0.5")]);
    assert!(sent(&mut caller, path, &typo).await.error(400).contains("treshold"));
    let whole = form(&[("image", Some("a"), JPEG)]);
    assert!(
        sent(&mut caller, path, &whole[..whole.len() - 6]).await.error(400).contains("ends within a part")
    );
    let broken = [("Content-Type", "multipart/form-data")];
    assert!(caller.post_with(path, &broken, &whole).await.error(400).contains("boundary"));
    let twice = form(&[("image", Some("a"), JPEG), ("top_k", None, b"3")]);
    let path = "/v2/models/surface/predict?top_k=3";
    assert!(sent(&mut caller, path, &twice).await.error(400).contains("twice"));
    assert!(caller.post("/v2/models/surface/predict?top_k=0", JPEG).await.error(400).contains("top_k"));
    assert!(gate.line.calls.lock().unwrap().is_empty(), "none of it reached a node");
}

#[tokio::test]
async fn a_model_that_takes_no_images_says_what_its_settings_lack() {
    let gate = tasks::gate();
    let mut caller = gate.caller().await;
    let words = caller.post("/v2/models/texts/predict", JPEG).await.error(400);
    assert!(words.contains("[predict]") && words.contains("model.toml"), "{words}");
    assert!(
        caller
            .post("/v2/models/weld/predict", JPEG)
            .await
            .error(404)
            .starts_with("Request for unknown model")
    );
    assert!(caller.post("/v2/models/torn/predict", JPEG).await.error(503).contains("the file is damaged"));
    let reply = caller.post("/v2/models/dumb/predict", JPEG).await;
    assert!(reply.error(500).contains("has no output prediction"));
    assert_eq!(reply.json()["executed"], "yes");
}
