//! What the cluster says of its models, in the protocol's messages. Pure.

use std::collections::HashMap;

use lineside_wire::{BatchStatistics, Fault, ModelStatistics as Counted, Spent, TensorSpec};

use super::generated::inference::{
    DataType, InferBatchStatistics, InferResponseStatistics, InferStatistics, MemoryUsage, ModelConfig,
    ModelDynamicBatching, ModelInput, ModelInstanceGroup, ModelMetadataResponse, ModelOutput, ModelParameter,
    ModelResponseCache, ModelSequenceBatching, ModelStatistics, ModelTransactionPolicy, ModelVersionPolicy,
    StatisticDuration, log_settings_request, log_settings_response,
    model_config::SchedulingChoice,
    model_input::Format,
    model_instance_group::Kind,
    model_metadata_response::TensorMetadata,
    model_sequence_batching::{StrategyChoice, StrategyDirect},
    model_version_policy::{All, Latest, PolicyChoice, Specific},
    repository_index_response::ModelIndex,
};
use crate::{
    oip::{ModelMetadata, excerpt, invalid},
    rest,
};

pub(super) fn metadata(model: &ModelMetadata<'_>) -> ModelMetadataResponse {
    let tensors = |specs: &[TensorSpec]| {
        let tensor = |spec: &TensorSpec| TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.datatype.as_str().to_owned(),
            shape: spec.shape.clone(),
        };
        specs.iter().map(tensor).collect()
    };
    ModelMetadataResponse {
        name: model.name.to_owned(),
        versions: model.versions.iter().map(ToString::to_string).collect(),
        platform: model.platform.to_owned(),
        inputs: tensors(model.inputs),
        outputs: tensors(model.outputs),
    }
}

/// The settings of a model, in Triton's form.
pub(super) fn config(config: rest::ModelConfig<'_>) -> ModelConfig {
    let data_type = |name: &str| DataType::from_str_name(name).unwrap_or_default().into();
    let input = |input: rest::config::Input<'_>| ModelInput {
        name: input.name.to_owned(),
        data_type: data_type(input.data_type),
        format: Format::from_str_name(input.format).unwrap_or_default().into(),
        dims: input.dims.to_vec(),
    };
    let output = |output: rest::config::Output<'_>| ModelOutput {
        name: output.name.to_owned(),
        data_type: data_type(output.data_type),
        dims: output.dims.to_vec(),
    };
    let instances = |group: rest::config::InstanceGroup| ModelInstanceGroup {
        name: group.name,
        kind: Kind::from_str_name(group.kind).unwrap_or_default().into(),
        count: i32::try_from(group.count).unwrap_or(i32::MAX),
    };
    let parameter = |(name, parameter): (&str, rest::config::ConfigParameter)| {
        (name.to_owned(), ModelParameter { string_value: parameter.string_value })
    };
    ModelConfig {
        name: config.name.to_owned(),
        platform: config.platform.to_owned(),
        backend: config.backend.to_owned(),
        version_policy: Some(ModelVersionPolicy { policy_choice: Some(policy(config.version_policy)) }),
        max_batch_size: config.max_batch_size,
        input: config.input.into_iter().map(input).collect(),
        output: config.output.into_iter().map(output).collect(),
        instance_group: config.instance_group.into_iter().map(instances).collect(),
        default_model_filename: config.default_model_filename.to_owned(),
        scheduling_choice: scheduling(config.dynamic_batching, config.sequence_batching),
        parameters: config.parameters.into_iter().map(parameter).collect(),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
        response_cache: config.response_cache.map(|cache| ModelResponseCache { enable: cache.enable }),
    }
}

fn policy(policy: rest::config::VersionPolicy) -> PolicyChoice {
    use rest::config::VersionPolicy;

    match policy {
        VersionPolicy::All {} => PolicyChoice::All(All {}),
        VersionPolicy::Latest { num_versions } => PolicyChoice::Latest(Latest { num_versions }),
        VersionPolicy::Specific { versions } => PolicyChoice::Specific(Specific { versions }),
    }
}

/// How requests wait.
fn scheduling(
    joined_by: Option<rest::config::DynamicBatching>,
    sequences: Option<rest::config::SequenceBatching>,
) -> Option<SchedulingChoice> {
    let joined = |joined: rest::config::DynamicBatching| {
        SchedulingChoice::DynamicBatching(ModelDynamicBatching {
            preferred_batch_size: joined.preferred_batch_size,
            max_queue_delay_microseconds: joined.max_queue_delay_microseconds,
            preserve_ordering: joined.preserve_ordering,
            priority_levels: joined.priority_levels,
            default_priority_level: joined.default_priority_level,
        })
    };
    let sequences = sequences.map(|sequences: rest::config::SequenceBatching| {
        let rest::config::SequenceBatching {
            max_sequence_idle_microseconds,
            direct: rest::config::Direct {},
        } = sequences;
        let strategy_choice = Some(StrategyChoice::Direct(StrategyDirect {}));
        SchedulingChoice::SequenceBatching(ModelSequenceBatching {
            max_sequence_idle_microseconds,
            strategy_choice,
        })
    });
    sequences.or_else(|| joined_by.map(joined))
}

pub(super) fn index_row(row: &rest::IndexRow<'_>) -> ModelIndex {
    ModelIndex {
        name: row.name.to_owned(),
        version: row.version.to_string(),
        state: row.state.to_owned(),
        reason: row.reason.to_owned(),
    }
}

pub(super) fn statistics(counted: Counted) -> ModelStatistics {
    let batch = |batch: BatchStatistics| InferBatchStatistics {
        batch_size: batch.batch_size,
        compute_input: spent(batch.compute_input),
        compute_infer: spent(batch.compute_infer),
        compute_output: spent(batch.compute_output),
    };
    let first = response(&rest::Responses::of(&counted));
    let memory = rest::MemoryUsage::of(&counted).map(|memory| MemoryUsage {
        r#type: memory.kind.to_owned(),
        id: memory.id,
        byte_size: memory.byte_size,
    });
    ModelStatistics {
        name: counted.name.as_str().to_owned(),
        version: counted.version.to_string(),
        last_inference: counted.last_inference_ms,
        inference_count: counted.inference_count,
        execution_count: counted.execution_count,
        inference_stats: Some(InferStatistics {
            success: spent(counted.success),
            fail: spent(counted.fail),
            queue: spent(counted.queue),
            compute_input: spent(counted.compute_input),
            compute_infer: spent(counted.compute_infer),
            compute_output: spent(counted.compute_output),
            cache_hit: spent(counted.cache_hit),
            cache_miss: spent(counted.cache_miss),
        }),
        batch_stats: counted.batches.into_iter().map(batch).collect(),
        memory_usage: memory.into_iter().collect(),
        response_stats: HashMap::from([(rest::Responses::FIRST.to_owned(), first)]),
    }
}

const fn response(counted: &rest::Responses) -> InferResponseStatistics {
    InferResponseStatistics {
        compute_infer: spent(counted.compute_infer),
        compute_output: spent(counted.compute_output),
        success: spent(counted.success),
        fail: spent(counted.fail),
        empty_response: spent(counted.empty_response),
        cancel: spent(counted.cancel),
    }
}

const fn spent(spent: Spent) -> Option<StatisticDuration> {
    Some(StatisticDuration { count: spent.count, ns: spent.ns })
}

/// The door's log in Triton's settings.
pub(super) fn log_settings(
    settings: &rest::LogSettings,
) -> HashMap<String, log_settings_response::SettingValue> {
    use log_settings_response::{SettingValue, setting_value::ParameterChoice};

    [
        ("log_file", ParameterChoice::StringParam(settings.log_file.to_owned())),
        ("log_info", ParameterChoice::BoolParam(settings.log_info)),
        ("log_warning", ParameterChoice::BoolParam(settings.log_warning)),
        ("log_error", ParameterChoice::BoolParam(settings.log_error)),
        ("log_verbose_level", ParameterChoice::Uint32Param(settings.log_verbose_level)),
        ("log_format", ParameterChoice::StringParam(settings.log_format.to_owned())),
    ]
    .map(|(name, choice)| (name.to_owned(), SettingValue { parameter_choice: Some(choice) }))
    .into()
}

/// What is to change in the log.
///
/// # Errors
/// A setting is not known, or is of another type.
pub(super) fn log_change(
    settings: HashMap<String, log_settings_request::SettingValue>,
) -> Result<rest::LogChange, Fault> {
    use log_settings_request::setting_value::ParameterChoice;

    let mut change = rest::LogChange::default();
    for (name, value) in settings {
        match (name.as_str(), value.parameter_choice) {
            ("log_file", Some(ParameterChoice::StringParam(file))) => change.log_file = Some(file),
            ("log_info", Some(ParameterChoice::BoolParam(on))) => change.log_info = Some(on),
            ("log_warning", Some(ParameterChoice::BoolParam(on))) => change.log_warning = Some(on),
            ("log_error", Some(ParameterChoice::BoolParam(on))) => change.log_error = Some(on),
            ("log_verbose_level", Some(ParameterChoice::Uint32Param(level))) => {
                change.log_verbose_level = Some(level);
            }
            ("log_format", Some(ParameterChoice::StringParam(format))) => change.log_format = Some(format),
            _ => {
                let name = excerpt(&name);
                return Err(invalid(format!(
                    "the setting {name:?} is not known or has another type: use log_error, log_warning and log_info \
                     (true, false) or log_verbose_level (a whole number)"
                )));
            }
        }
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use lineside_wire::{Datatype, ModelInfo, ModelState, ModelVersion, TensorSpec};

    use super::*;

    #[test]
    fn every_name_in_a_configuration_is_one_of_the_wire() {
        for datatype in Datatype::ALL {
            let spec = TensorSpec { name: "x".to_owned(), datatype, shape: vec![-1] };
            let model = ModelInfo {
                name: "echo".parse().expect("a name"),
                version: ModelVersion(1),
                state: ModelState::Ready,
                reason: None,
                inputs: vec![spec.clone()],
                outputs: vec![spec],
                slots: 1,
                tasks: Vec::new(),
                engine: None,
            };
            let told = rest::ModelConfig::of(&model);
            let (data_type, kind) = (told.input[0].data_type, told.instance_group[0].kind);
            let config = config(told);
            assert_eq!(
                DataType::try_from(config.input[0].data_type).map(|it| it.as_str_name()),
                Ok(data_type)
            );
            assert_eq!(config.input[0].data_type, config.output[0].data_type);
            assert_eq!(Kind::try_from(config.instance_group[0].kind).map(|it| it.as_str_name()), Ok(kind));
        }
    }
}
