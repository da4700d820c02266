//! A model's configuration in Triton's form: what follows from its file and from how nodes run it. Pure.

use std::collections::BTreeMap;

use lineside_wire::{Datatype, EngineInfo, ModelInfo, ModelVersion, TensorSpec, VersionPolicy as Policy};
use serde::Serialize;

/// The configuration of a model, with the names of Triton's `ModelConfig`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ModelConfig<'a> {
    pub(crate) name: &'a str,
    pub(crate) platform: &'static str,
    pub(crate) backend: &'static str,
    pub(crate) version_policy: VersionPolicy,
    /// Most rows of one run. The dimensions below are then without the batch's own, as Triton has them. 0: they are those
    /// of the whole tensor.
    pub(crate) max_batch_size: i32,
    pub(crate) input: Vec<Input<'a>>,
    pub(crate) output: Vec<Output<'a>>,
    pub(crate) instance_group: [InstanceGroup; 1],
    pub(crate) default_model_filename: &'static str,
    /// At most one of this and the next, as in Triton.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dynamic_batching: Option<DynamicBatching>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sequence_batching: Option<SequenceBatching>,
    pub(crate) parameters: BTreeMap<&'static str, ConfigParameter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_cache: Option<ResponseCache>,
}

/// Which versions are served. `All` also where no node says it: all that they list.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VersionPolicy {
    All {},
    Latest { num_versions: u32 },
    Specific { versions: Vec<i64> },
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Input<'a> {
    pub(crate) name: &'a str,
    pub(crate) data_type: &'static str,
    pub(crate) format: &'static str,
    pub(crate) dims: &'a [i64],
    pub(crate) is_shape_tensor: bool,
    pub(crate) allow_ragged_batch: bool,
    pub(crate) optional: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Output<'a> {
    pub(crate) name: &'a str,
    pub(crate) data_type: &'static str,
    pub(crate) dims: &'a [i64],
    pub(crate) label_filename: &'static str,
    pub(crate) is_shape_tensor: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct InstanceGroup {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    /// Calls that can run at once, on all nodes together.
    pub(crate) count: u32,
}

/// How requests are joined, or wait by priority.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DynamicBatching {
    pub(crate) preferred_batch_size: Vec<i32>,
    pub(crate) max_queue_delay_microseconds: u64,
    pub(crate) preserve_ordering: bool,
    pub(crate) priority_levels: u64,
    pub(crate) default_priority_level: u64,
}

/// State between the requests of a sequence.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SequenceBatching {
    pub(crate) max_sequence_idle_microseconds: u64,
    pub(crate) direct: Direct,
}

/// Every request of a sequence goes to the node that has its state, and runs alone there.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Direct {}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ResponseCache {
    pub(crate) enable: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ConfigParameter {
    pub(crate) string_value: String,
}

impl<'a> ModelConfig<'a> {
    pub(crate) fn of(model: &'a ModelInfo) -> Self {
        let engine = model.engine.as_deref();
        let max_batch_size = max_batch_size(model);
        let dims = |spec: &'a TensorSpec| match max_batch_size {
            0 => spec.shape.as_slice(),
            _ => spec.shape.get(1..).unwrap_or_default(),
        };
        let input = |spec: &'a TensorSpec| Input {
            name: &spec.name,
            data_type: data_type(spec.datatype),
            format: "FORMAT_NONE",
            dims: dims(spec),
            is_shape_tensor: false,
            allow_ragged_batch: false,
            optional: false,
        };
        let output = |spec: &'a TensorSpec| Output {
            name: &spec.name,
            data_type: data_type(spec.datatype),
            dims: dims(spec),
            label_filename: "",
            is_shape_tensor: false,
        };
        let is_stateful = engine.is_some_and(|engine| engine.stateful);
        let is_cached = engine.is_some_and(|engine| 0 < engine.cache_bytes_max);
        Self {
            name: model.name.as_str(),
            platform: "onnxruntime_onnx",
            backend: "onnxruntime",
            version_policy: VersionPolicy::of(engine.and_then(|engine| engine.versions.as_ref())),
            max_batch_size,
            input: model.inputs.iter().map(input).collect(),
            output: model.outputs.iter().map(output).collect(),
            instance_group: [InstanceGroup {
                name: format!("{}_0", model.name),
                kind: engine.map_or("KIND_CPU", |engine| kind(&engine.provider)),
                count: model.slots,
            }],
            default_model_filename: "model.onnx",
            dynamic_batching: engine.filter(|_| !is_stateful).and_then(DynamicBatching::of),
            sequence_batching: engine.filter(|_| is_stateful).map(SequenceBatching::of),
            parameters: parameters(model),
            response_cache: is_cached.then_some(ResponseCache { enable: true }),
        }
    }
}

impl DynamicBatching {
    /// `None` where every request runs alone and none goes before another.
    fn of(engine: &EngineInfo) -> Option<Self> {
        let joined = engine.batching.as_ref();
        let sizes = joined.map(|joined| joined.preferred_sizes.as_slice()).unwrap_or_default();
        (joined.is_some() || 0 < engine.priority_levels).then(|| Self {
            preferred_batch_size: sizes.iter().map(|size| signed(*size)).collect(),
            max_queue_delay_microseconds: joined.map_or(0, |joined| joined.max_delay_us),
            preserve_ordering: false,
            priority_levels: engine.priority_levels.into(),
            default_priority_level: engine.default_priority.into(),
        })
    }
}

impl SequenceBatching {
    const fn of(engine: &EngineInfo) -> Self {
        Self { max_sequence_idle_microseconds: engine.sequence_idle_us, direct: Direct {} }
    }
}

impl VersionPolicy {
    fn of(policy: Option<&Policy>) -> Self {
        match policy {
            None | Some(Policy::All) => Self::All {},
            Some(Policy::Latest(latest)) => Self::Latest { num_versions: *latest },
            Some(Policy::Specific(versions)) => {
                let number = |version: &ModelVersion| i64::try_from(version.0).unwrap_or(i64::MAX);
                Self::Specific { versions: versions.iter().map(number).collect() }
            }
        }
    }
}

/// Most rows of a request where the settings say so, else most rows that are joined; where each tensor has a first
/// dimension for them.
fn max_batch_size(model: &ModelInfo) -> i32 {
    let varies = |spec: &TensorSpec| spec.shape.first() == Some(&-1);
    let engine = model.engine.as_ref().filter(|_| model.inputs.iter().chain(&model.outputs).all(varies));
    let joined = |engine: &EngineInfo| engine.batching.as_ref().map_or(0, |joined| joined.max_size);
    engine.map_or(0, |engine| signed(if engine.rows_max == 0 { joined(engine) } else { engine.rows_max }))
}

fn signed(size: u32) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

/// Where a provider of ONNX Runtime computes, in Triton's words. One that chooses the device itself is the backend's affair.
fn kind(provider: &str) -> &'static str {
    match provider {
        "" | "cpu" | "xnnpack" => "KIND_CPU",
        "cuda" | "tensorrt" | "nvrtx" | "rocm" | "migraphx" | "directml" | "webgpu" => "KIND_GPU",
        _ => "KIND_MODEL",
    }
}

/// What Triton's form has no place for, as far as there is something to say.
fn parameters(model: &ModelInfo) -> BTreeMap<&'static str, ConfigParameter> {
    let number = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    let tasks: Vec<_> = model.tasks.iter().map(|task| task.as_str()).collect();
    let mut said = vec![("tasks", tasks.join(","))];
    if let Some(engine) = model.engine.as_deref() {
        said.extend([
            ("sha256", engine.sha256.clone()),
            ("file_bytes", number(engine.file_bytes)),
            ("memory_bytes", number(engine.memory_bytes)),
            ("execution_provider", engine.provider.clone()),
            ("intra_op_thread_count", number(engine.threads.into())),
            ("batching", engine.finding.clone()),
            ("cache_bytes_max", number(engine.cache_bytes_max)),
            ("on_demand", if engine.on_demand { "true".to_owned() } else { String::new() }),
            ("warnings", engine.warnings.join("\n")),
        ]);
    }
    let said = said.into_iter().filter(|(_, value)| !value.is_empty());
    said.map(|(name, string_value)| (name, ConfigParameter { string_value })).collect()
}

/// The name of a datatype in a configuration.
pub(crate) const fn data_type(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "TYPE_BOOL",
        Datatype::Uint8 => "TYPE_UINT8",
        Datatype::Uint16 => "TYPE_UINT16",
        Datatype::Uint32 => "TYPE_UINT32",
        Datatype::Uint64 => "TYPE_UINT64",
        Datatype::Int8 => "TYPE_INT8",
        Datatype::Int16 => "TYPE_INT16",
        Datatype::Int32 => "TYPE_INT32",
        Datatype::Int64 => "TYPE_INT64",
        Datatype::Fp16 => "TYPE_FP16",
        Datatype::Bf16 => "TYPE_BF16",
        Datatype::Fp32 => "TYPE_FP32",
        Datatype::Fp64 => "TYPE_FP64",
        Datatype::Bytes => "TYPE_STRING",
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{BatchingInfo, ModelState, Task};
    use serde_json::{Value, json};

    use super::*;

    fn weld(engine: Option<EngineInfo>) -> ModelInfo {
        let spec = |name: &str, datatype| TensorSpec { name: name.to_owned(), datatype, shape: vec![-1, 2] };
        ModelInfo {
            name: "weld".parse().expect("a name"),
            version: ModelVersion(1),
            state: ModelState::Ready,
            reason: None,
            inputs: vec![spec("x", Datatype::Fp32)],
            outputs: vec![spec("label", Datatype::Bytes)],
            slots: 3,
            tasks: vec![Task::Predict],
            engine: engine.map(Box::new),
        }
    }

    fn told(model: &ModelInfo) -> Value {
        serde_json::to_value(ModelConfig::of(model)).expect("JSON")
    }

    fn joining() -> EngineInfo {
        let batching = BatchingInfo { max_size: 16, max_delay_us: 250, preferred_sizes: vec![4, 8] };
        EngineInfo { batching: Some(batching), provider: "cpu".to_owned(), ..EngineInfo::default() }
    }

    #[test]
    fn a_configuration_says_what_the_file_says() {
        let config = told(&weld(None));
        assert_eq!(config["input"][0]["dims"], json!([-1, 2]));
        assert_eq!(
            (&config["input"][0]["data_type"], &config["output"][0]["data_type"]),
            (&json!("TYPE_FP32"), &json!("TYPE_STRING"))
        );
        assert_eq!(config["instance_group"], json!([{"name": "weld_0", "kind": "KIND_CPU", "count": 3}]));
        assert_eq!(config["parameters"], json!({"tasks": {"string_value": "predict"}}));
        assert_eq!((&config["version_policy"], &config["max_batch_size"]), (&json!({"all": {}}), &json!(0)));
        for unsaid in ["dynamic_batching", "sequence_batching", "response_cache"] {
            assert_eq!(config.get(unsaid), None);
        }
    }

    #[test]
    fn where_requests_are_joined_the_dimensions_are_those_of_a_row() {
        let config = told(&weld(Some(joining())));
        assert_eq!((&config["max_batch_size"], &config["input"][0]["dims"]), (&json!(16), &json!([2])));
        assert_eq!(config["output"][0]["dims"], json!([2]));
        let wanted = json!({
            "preferred_batch_size": [4, 8], "max_queue_delay_microseconds": 250, "preserve_ordering": false,
            "priority_levels": 0, "default_priority_level": 0,
        });
        assert_eq!(config["dynamic_batching"], wanted);

        let mut odd = weld(Some(joining()));
        odd.outputs[0].shape = vec![1];
        let config = told(&odd);
        assert_eq!((&config["max_batch_size"], &config["input"][0]["dims"]), (&json!(0), &json!([-1, 2])));
    }

    #[test]
    fn priorities_are_told_without_joining_and_a_model_with_state_is_one_of_sequences() {
        let levels = EngineInfo { priority_levels: 3, ..EngineInfo::default() };
        let config = told(&weld(Some(levels)));
        assert_eq!(
            (&config["max_batch_size"], &config["dynamic_batching"]["priority_levels"]),
            (&json!(0), &json!(3))
        );
        let config = told(&weld(Some(EngineInfo { stateful: true, ..joining() })));
        assert_eq!(
            (&config["sequence_batching"], config.get("dynamic_batching")),
            (&json!({"max_sequence_idle_microseconds": 0, "direct": {}}), None)
        );
    }

    #[test]
    fn what_a_person_wrote_is_told_as_it_was_written() {
        let told = |engine| told(&weld(Some(engine)));
        let policy = |versions| told(EngineInfo { versions: Some(versions), ..EngineInfo::default() });
        assert_eq!(policy(Policy::All)["version_policy"], json!({"all": {}}));
        assert_eq!(policy(Policy::Latest(2))["version_policy"], json!({"latest": {"num_versions": 2}}));
        let specific = policy(Policy::Specific(vec![ModelVersion(1), ModelVersion(5)]));
        assert_eq!(specific["version_policy"], json!({"specific": {"versions": [1, 5]}}));

        // Nothing is joined, and yet the first dimension is that of the rows.
        let config = told(EngineInfo { rows_max: 8, ..EngineInfo::default() });
        assert_eq!((&config["max_batch_size"], &config["input"][0]["dims"]), (&json!(8), &json!([2])));
        assert_eq!(config.get("dynamic_batching"), None);
        let levels = EngineInfo { priority_levels: 3, default_priority: 2, ..joining() };
        assert_eq!(told(levels)["dynamic_batching"]["default_priority_level"], 2);
    }

    #[test]
    fn what_runs_it_and_why_is_among_the_parameters() {
        let engine = EngineInfo {
            sha256: "ab".repeat(32),
            file_bytes: 7,
            provider: "tensorrt".to_owned(),
            threads: 1,
            finding: "16 rows at once give 5.8 times the rows per second".to_owned(),
            cache_bytes_max: 1 << 20,
            warnings: vec!["one".to_owned(), "two".to_owned()],
            ..EngineInfo::default()
        };
        let config = told(&weld(Some(engine)));
        assert_eq!(config["instance_group"][0]["kind"], "KIND_GPU");
        assert_eq!(config["response_cache"], json!({"enable": true}));
        let said = |name: &str| config["parameters"][name]["string_value"].clone();
        assert_eq!((said("sha256"), said("file_bytes")), (json!("ab".repeat(32)), json!("7")));
        assert_eq!((said("execution_provider"), said("warnings")), (json!("tensorrt"), json!("one\ntwo")));
        assert!(said("batching").as_str().is_some_and(|finding| finding.contains("5.8")));
        assert_eq!((said("memory_bytes"), said("on_demand")), (Value::Null, Value::Null));
    }
}
