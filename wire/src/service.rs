//! What members tell each other about serving: tasks beyond tensors, changes of models, statistics.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ModelInfo, ModelName, ModelVersion, NodeId};

/// What a model does with an input that is no tensor of its own. The node turns it into tensors and back, as the
/// model's settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// An image to labels, boxes and a verdict. The one input is [`Task::IMAGE`], one element of BYTES: a JPEG or PNG
    /// file. The one output is [`Task::PREDICTION`], one element of BYTES: a JSON document.
    Predict,
    /// Texts to vectors. The one input is [`Task::TEXT`], BYTES of shape `[n]`, or [`Task::TOKENS`]. The outputs are
    /// [`Task::EMBEDDING`], FP32 of shape `[n, d]`, and [`Task::TOKEN_COUNT`], UINT32 of shape `[n]`.
    Embed,
}

impl Task {
    /// Input of [`Task::Predict`].
    pub const IMAGE: &str = "image";
    /// Output of [`Task::Predict`].
    pub const PREDICTION: &str = "prediction";
    /// Input of [`Task::Embed`].
    pub const TEXT: &str = "text";
    /// Another input of [`Task::Embed`]: BYTES of shape `[n]`, each element the ids of one text's tokens as
    /// little-endian `u32`s.
    pub const TOKENS: &str = "tokens";
    /// Output of [`Task::Embed`].
    pub const EMBEDDING: &str = "embedding";
    /// Output of [`Task::Embed`]: the tokens of each text.
    pub const TOKEN_COUNT: &str = "token_count";

    /// Its name, as in a document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Predict => "predict",
            Self::Embed => "embed",
        }
    }
}

/// The params of `models.load` and `models.unload` where a door is asked, which asks the nodes. A node reads the first
/// two members, as [`ModelParams`](crate::ModelParams).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeParams {
    /// Which model.
    pub model: ModelName,
    /// Which version; `None` is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<ModelVersion>,
    /// Which nodes; empty is every node that has the model in its repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeId>,
}

/// What a door answers to `models.load` and `models.unload`: [`ModelsResult`](crate::ModelsResult) with what became of
/// it on each node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeResult {
    /// The model's versions as the cluster has them afterwards.
    pub models: Vec<ModelInfo>,
    /// What each node that was asked said, by name.
    pub nodes: Vec<NodeChange>,
}

/// What became of a change on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChange {
    /// Which node.
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// Whether it did it.
    pub done: bool,
    /// Whether it does not have the model at all; not an error of the node.
    #[serde(default)]
    pub absent: bool,
    /// Why it did not, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How often something was done, and how long it took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// How often.
    pub count: u64,
    /// Nanoseconds together.
    pub ns: u64,
}

/// Runs of one batch size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchStatistics {
    /// Rows of one run.
    pub batch_size: u64,
    /// Making the inputs ready.
    pub compute_input: Spent,
    /// The runs themselves.
    pub compute_infer: Spent,
    /// Making the outputs ready.
    pub compute_output: Spent,
}

/// What one version of a model has done since it was loaded first; a reload keeps it, an unload ends it. Triton's names. From a door, the sum over the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatistics {
    /// Which model.
    pub name: ModelName,
    /// Which version.
    pub version: ModelVersion,
    /// When the last one came, in milliseconds since 1970; 0 is never.
    pub last_inference_ms: u64,
    /// Rows that were answered: an inference of a batch of eight counts eight.
    pub inference_count: u64,
    /// Runs of the model.
    pub execution_count: u64,
    /// Requests that were answered, from arrival to answer.
    pub success: Spent,
    /// Requests that failed after they were accepted.
    pub fail: Spent,
    /// Waiting for a session.
    pub queue: Spent,
    /// Making the inputs ready.
    pub compute_input: Spent,
    /// The runs themselves.
    pub compute_infer: Spent,
    /// Making the outputs ready.
    pub compute_output: Spent,
    /// Answers that came from the cache.
    #[serde(default)]
    pub cache_hit: Spent,
    /// Look-ups in the cache that found nothing.
    #[serde(default)]
    pub cache_miss: Spent,
    /// Requests whose caller went away after they were accepted, from arrival until they were dropped.
    #[serde(default)]
    pub cancel: Spent,
    /// Requests whose time ran out while they waited, or that waited longer than their model's queue allows. They are
    /// also among `fail`; nothing was run for them.
    #[serde(default)]
    pub expired: u64,
    /// Requests that were refused at once: no room, or no time for them.
    #[serde(default)]
    pub rejected: u64,
    /// Requests that were sent away while they waited, so that one of a higher priority, or of a caller with fewer, could
    /// have their place: by priority, the highest first. They are also among `fail`; nothing was run for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shed: Vec<u64>,
    /// Runs that were stopped on the way, because nobody waited for them any more.
    #[serde(default)]
    pub stopped: u64,
    /// What the loaded version takes of the node's memory, in bytes, as measured when it was loaded.
    #[serde(default)]
    pub memory_bytes: u64,
    /// By rows of a run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batches: Vec<BatchStatistics>,
}

/// The params of `models.statistics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticsParams {
    /// Which model; `None` is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// Which version; `None` is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<ModelVersion>,
}

/// The result of `models.statistics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticsResult {
    /// By name and version.
    pub models: Vec<ModelStatistics>,
}

/// How a node runs one version of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// SHA-256 of the model's files, in hexadecimal digits: of `model.onnx` alone, or, where it has external data, of the
    /// list of all its files' hashes.
    pub sha256: String,
    /// Bytes of the model's files.
    #[serde(default)]
    pub file_bytes: u64,
    /// What the loaded version takes of the node's memory, in bytes; 0 where it was not measured.
    #[serde(default)]
    pub memory_bytes: u64,
    /// What runs it: `cpu`, `cuda`, ...
    #[serde(default)]
    pub provider: String,
    /// Threads of each of its instances.
    #[serde(default)]
    pub threads: u32,
    /// How requests are joined; `None` where each runs alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<BatchingInfo>,
    /// Why they are joined or not, for a person: what was measured, or which setting says so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub finding: String,
    /// Which of the versions in the repository serve; `None` where the node does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<VersionPolicy>,
    /// Most rows that one request may have, where the model's settings say so; 0 is no such limit. Then the first
    /// dimension of every tensor is that of the rows.
    #[serde(default)]
    pub rows_max: u32,
    /// Priorities that requests can have; 0 where all are equal.
    #[serde(default)]
    pub priority_levels: u8,
    /// The priority of requests that name none; 0 where all are equal.
    #[serde(default)]
    pub default_priority: u8,
    /// Bytes that its answers may take in the response cache; 0 is no cache.
    #[serde(default)]
    pub cache_bytes_max: u64,
    /// Whether the node keeps state between the requests of a sequence.
    #[serde(default)]
    pub stateful: bool,
    /// After how many microseconds without a request a sequence is forgotten; 0 where none is kept.
    #[serde(default)]
    pub sequence_idle_us: u64,
    /// Whether a request makes the node load it. Then a version that is not READY may be asked, too.
    #[serde(default)]
    pub on_demand: bool,
    /// What the person who put the model there should know, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Which versions of a model serve, of those that a node's repository holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionPolicy {
    /// Every one.
    All,
    /// The so many highest.
    Latest(u32),
    /// These and no others.
    Specific(Vec<ModelVersion>),
}

/// As it ends the sentence "of this model serve ...".
impl fmt::Display for VersionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all versions"),
            Self::Latest(1) => f.write_str("the latest version"),
            Self::Latest(latest) => write!(f, "the latest {latest} versions"),
            Self::Specific(versions) => {
                let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
                write!(f, "only the versions {}", versions.join(", "))
            }
        }
    }
}

/// How a node joins requests for one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchingInfo {
    /// Most rows of one run.
    pub max_size: u32,
    /// How long a request may wait for others while a session is idle, in microseconds.
    #[serde(default)]
    pub max_delay_us: u64,
    /// Rows that runs should have where there is a choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferred_sizes: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::decode_part;

    #[test]
    fn a_version_policy_is_written_as_the_protocol_says() {
        let specific = VersionPolicy::Specific(vec![ModelVersion(1), ModelVersion(5)]);
        for (policy, written, told) in [
            (VersionPolicy::All, json!("all"), "all versions"),
            (VersionPolicy::Latest(1), json!({"latest": 1}), "the latest version"),
            (VersionPolicy::Latest(2), json!({"latest": 2}), "the latest 2 versions"),
            (specific, json!({"specific": ["1", "5"]}), "only the versions 1, 5"),
        ] {
            let bytes = rmp_serde::to_vec_named(&policy).unwrap();
            assert_eq!(decode_part::<VersionPolicy>(&bytes).unwrap(), policy);
            assert_eq!(serde_json::to_value(&policy).unwrap(), written);
            assert_eq!(policy.to_string(), told);
        }
        assert!(decode_part::<VersionPolicy>(&rmp_serde::to_vec_named(&Value::Null).unwrap()).is_err());
    }
}
