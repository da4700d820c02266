//! A model's configuration in Triton's form: what follows from its file and from how nodes run it. Pure.

use std::collections::BTreeMap;

use lineside_wire::{Datatype, ModelInfo, TensorSpec};
use serde::Serialize;

/// The configuration of a model, with the names of Triton's `ModelConfig`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ModelConfig<'a> {
    pub(crate) name: &'a str,
    pub(crate) platform: &'static str,
    pub(crate) backend: &'static str,
    pub(crate) version_policy: VersionPolicy,
    /// 0: the dimensions are those of the whole tensor, its batch included.
    pub(crate) max_batch_size: i32,
    pub(crate) input: Vec<Input<'a>>,
    pub(crate) output: Vec<Output<'a>>,
    pub(crate) instance_group: [InstanceGroup; 1],
    pub(crate) default_model_filename: &'static str,
    pub(crate) parameters: BTreeMap<&'static str, ConfigParameter>,
}

/// Which versions are served.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct VersionPolicy {
    pub(crate) all: All,
}

/// All that the repository has.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct All {}

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

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ConfigParameter {
    pub(crate) string_value: String,
}

impl<'a> ModelConfig<'a> {
    pub(crate) fn of(model: &'a ModelInfo) -> Self {
        let input = |spec: &'a TensorSpec| Input {
            name: &spec.name,
            data_type: data_type(spec.datatype),
            format: "FORMAT_NONE",
            dims: &spec.shape,
            is_shape_tensor: false,
            allow_ragged_batch: false,
            optional: false,
        };
        let output = |spec: &'a TensorSpec| Output {
            name: &spec.name,
            data_type: data_type(spec.datatype),
            dims: &spec.shape,
            label_filename: "",
            is_shape_tensor: false,
        };
        let tasks: Vec<_> = model.tasks.iter().map(|task| task.as_str()).collect();
        let tasks = (!tasks.is_empty()).then(|| ("tasks", ConfigParameter { string_value: tasks.join(",") }));
        Self {
            name: model.name.as_str(),
            platform: "onnxruntime_onnx",
            backend: "onnxruntime",
            version_policy: VersionPolicy { all: All {} },
            max_batch_size: 0,
            input: model.inputs.iter().map(input).collect(),
            output: model.outputs.iter().map(output).collect(),
            instance_group: [InstanceGroup {
                name: format!("{}_0", model.name),
                kind: "KIND_CPU",
                count: model.slots,
            }],
            default_model_filename: "model.onnx",
            parameters: tasks.into_iter().collect(),
        }
    }
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
    use lineside_wire::{ModelState, ModelVersion, Task};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_configuration_says_what_the_file_says() {
        let spec = |name: &str, datatype| TensorSpec { name: name.to_owned(), datatype, shape: vec![-1, 2] };
        let model = ModelInfo {
            name: "weld".parse().expect("a name"),
            version: ModelVersion(1),
            state: ModelState::Ready,
            reason: None,
            inputs: vec![spec("x", Datatype::Fp32)],
            outputs: vec![spec("label", Datatype::Bytes)],
            slots: 3,
            tasks: vec![Task::Predict],
        };
        let config = serde_json::to_value(ModelConfig::of(&model)).expect("JSON");
        assert_eq!(config["input"][0]["dims"], json!([-1, 2]));
        assert_eq!(
            (&config["input"][0]["data_type"], &config["output"][0]["data_type"]),
            (&json!("TYPE_FP32"), &json!("TYPE_STRING"))
        );
        assert_eq!(config["instance_group"], json!([{"name": "weld_0", "kind": "KIND_CPU", "count": 3}]));
        assert_eq!(config["parameters"], json!({"tasks": {"string_value": "predict"}}));
        assert_eq!(config["version_policy"], json!({"all": {}}));
    }
}
