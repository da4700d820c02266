//! `GET /v2/models[/{model}[/versions/{version}]]/stats`: what the models have done, summed over the nodes.

use std::collections::BTreeMap;

use http::StatusCode;
use lineside_wire::{BatchStatistics, ModelStatistics, ModelVersion, Spent, StatisticsParams};
use serde::Serialize;

use crate::{
    Cluster, answer::Answer, ask::Ask, errors::Refusal, gate::Permission, oip, route::Target, shared::in_time,
};

/// The answer, in Triton's names.
#[derive(Serialize)]
struct Body<'a> {
    model_stats: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    version: ModelVersion,
    /// Milliseconds since 1970; 0 is never.
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: Durations,
    /// By a response's place among those to its request: each request has one, so there is the first alone.
    response_stats: BTreeMap<&'static str, Responses>,
    batch_stats: &'a [BatchStatistics],
    /// Empty where nobody measured it.
    memory_usage: Vec<MemoryUsage>,
}

/// What became of the responses in one place.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Responses {
    pub(crate) compute_infer: Spent,
    pub(crate) compute_output: Spent,
    pub(crate) success: Spent,
    pub(crate) fail: Spent,
    /// There is none without outputs.
    pub(crate) empty_response: Spent,
    pub(crate) cancel: Spent,
}

impl Responses {
    /// The place of the only response.
    pub(crate) const FIRST: &'static str = "0";

    pub(crate) fn of(model: &ModelStatistics) -> Self {
        let computed = model.compute_infer.ns.saturating_add(model.compute_output.ns);
        Self {
            compute_infer: model.compute_infer,
            compute_output: model.compute_output,
            // As Triton has it: the time of a response is that from the run on.
            success: Spent { count: model.success.count, ns: computed },
            fail: model.fail,
            empty_response: Spent::default(),
            cancel: model.cancel,
        }
    }
}

/// What a model holds.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MemoryUsage {
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) id: i64,
    pub(crate) byte_size: u64,
}

impl MemoryUsage {
    /// That of the nodes' main memory, over all nodes, as each measured it at load.
    pub(crate) fn of(model: &ModelStatistics) -> Option<Self> {
        (0 < model.memory_bytes).then_some(Self { kind: "CPU", id: 0, byte_size: model.memory_bytes })
    }
}

#[derive(Serialize)]
struct Durations {
    success: Spent,
    fail: Spent,
    queue: Spent,
    compute_input: Spent,
    compute_infer: Spent,
    compute_output: Spent,
    cache_hit: Spent,
    cache_miss: Spent,
}

impl<'a> From<&'a ModelStatistics> for Row<'a> {
    fn from(model: &'a ModelStatistics) -> Self {
        Self {
            name: model.name.as_str(),
            version: model.version,
            last_inference: model.last_inference_ms,
            inference_count: model.inference_count,
            execution_count: model.execution_count,
            inference_stats: Durations {
                success: model.success,
                fail: model.fail,
                queue: model.queue,
                compute_input: model.compute_input,
                compute_infer: model.compute_infer,
                compute_output: model.compute_output,
                cache_hit: model.cache_hit,
                cache_miss: model.cache_miss,
            },
            response_stats: BTreeMap::from([(Responses::FIRST, Responses::of(model))]),
            batch_stats: &model.batches,
            memory_usage: MemoryUsage::of(model).into_iter().collect(),
        }
    }
}

/// Answers with one model, or with all that the caller may see.
pub(crate) async fn statistics<C: Cluster>(
    ask: &Ask<'_, '_, C>,
    target: Option<&Target<'_>>,
) -> Result<Answer, Refusal> {
    let params = match target {
        None => StatisticsParams::default(),
        Some(target) => {
            let models = ask.cluster().models();
            let model = oip::find(&models, &target.model, target.version.as_deref())?;
            let version = target.version.is_some().then_some(model.version);
            StatisticsParams { model: Some(model.name.clone()), version }
        }
    };
    let _place = ask.enter()?;
    let deadline = ask.deadline(None);
    let result = in_time(deadline, ask.cluster().statistics(params, deadline)).await?;
    let is_seen =
        |model: &&ModelStatistics| ask.may(Permission::Statistics, Some(model.name.as_str())).is_ok();
    let model_stats = result.models.iter().filter(is_seen).map(Row::from).collect();
    Ok(Answer::json(StatusCode::OK, &Body { model_stats }))
}
