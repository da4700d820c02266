//! What the models have done, in Triton's numbers.

use serde_json::json;

use crate::gate::Gate;

#[tokio::test]
async fn statistics_have_tritons_names_and_whole_numbers() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let spent = |count: u64| json!({"count": count, "ns": 1_000 * count});
    let expected = json!({
        "name": "add", "version": "2", "last_inference": 1_700_000_000_000_u64,
        "inference_count": 8, "execution_count": 4,
        "inference_stats": {
            "success": spent(8), "fail": spent(1), "queue": spent(8), "compute_input": spent(4),
            "compute_infer": spent(4), "compute_output": spent(4), "cache_hit": spent(0), "cache_miss": spent(0),
        },
        "response_stats": {"0": {
            "compute_infer": spent(4), "compute_output": spent(4), "success": {"count": 8, "ns": 8_000},
            "fail": spent(1), "empty_response": spent(0), "cancel": spent(2),
        }},
        "batch_stats": [{
            "batch_size": 2, "compute_input": spent(4), "compute_infer": spent(4), "compute_output": spent(4),
        }],
        "memory_usage": [{"type": "CPU", "id": 0, "byte_size": 1 << 20}],
    });
    let reply = caller.get("/v2/models/add/versions/2/stats").await;
    assert_eq!((reply.status, reply.json()), (200, json!({"model_stats": [expected]})));
}

#[tokio::test]
async fn a_path_chooses_the_models_and_an_unknown_one_is_told() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for (path, names) in [
        ("/v2/models/stats", &["add/1", "add/2", "echo/1"][..]),
        ("/v2/models/stats/", &["add/1", "add/2", "echo/1"]),
        ("/v2/models/add/stats", &["add/1", "add/2"]),
        ("/v2/models/add/versions/1/stats/", &["add/1"]),
        // It is there, and has done nothing.
        ("/v2/models/torn/stats", &[]),
    ] {
        let stats = caller.get(path).await.json();
        let rows = stats["model_stats"].as_array().unwrap().iter();
        let rows: Vec<_> = rows
            .map(|row| format!("{}/{}", row["name"].as_str().unwrap(), row["version"].as_str().unwrap()))
            .collect();
        assert_eq!(rows, names, "{path}");
    }
    for path in
        ["/v2/models/paint/stats", "/v2/models/add/versions/9/stats", "/v2/models/add/versions/x/stats"]
    {
        let words = caller.get(path).await.error(404);
        assert!(words.starts_with("Request for unknown model"), "{path}: {words}");
    }
    caller.post("/v2/models/add/stats", "").await.error(405);
}
