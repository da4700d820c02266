//! What the fields of Triton's `config.pbtxt` mean for a model that ONNX Runtime runs.
//!
//! A field that is not read is named in a warning, never passed over: whoever comes from Triton must not think that it
//! holds. One that cannot be kept without changing what the model answers is refused.

mod execution;
mod fields;
mod sequences;
mod tensors;

use std::time::Duration;

use fields::{Fields, once};

use super::{Field, Mistake, parse};
use crate::settings::{
    Batching, BatchingMode, Settings, Span, Versions, VersionsWord, check::BATCH_MAX, declared::Declared,
};

/// Bytes of a response cache that is merely switched on; Triton's is as large as its server is told, and shared.
pub(crate) const RESPONSE_CACHE_BYTES: u64 = 64 << 20;

/// The fields of a file that may stand there several times.
const REPEATED: [&str; 7] =
    ["input", "output", "instance_group", "parameters", "model_warmup", "batch_input", "batch_output"];

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Config {
    pub(crate) settings: Settings,
    /// What a person should know, and the line that it is about.
    pub(crate) warnings: Vec<(usize, String)>,
    /// The lines that settings come from.
    pub(crate) places: Vec<(&'static str, usize)>,
}

impl Config {
    fn warn(&mut self, line: usize, text: impl Into<String>) {
        self.warnings.push((line, text.into()));
    }

    /// Says that a field is not read.
    fn unread(&mut self, within: &str, field: &Field) {
        let dot = if within.is_empty() { "" } else { "." };
        self.warn(field.line, format!("{within}{dot}{} is not read", super::short(&field.name)));
    }

    fn place(&mut self, key: &'static str, field: &Field) {
        self.places.push((key, field.line));
    }
}

/// Reads a file, which lies in a directory of this name.
///
/// # Errors
/// The first mistake.
pub(crate) fn read(text: &str, directory: Option<&str>) -> Result<Config, Mistake> {
    let fields = parse(text)?;
    once(&fields, "", &REPEATED)?;
    let mut config = Config::default();
    let batch = fields.iter().find(|field| field.name == "max_batch_size");
    let max_batch_size = match batch {
        Some(field) => u32::try_from(field.whole(0, i64::from(u32::MAX))?).unwrap_or(u32::MAX),
        None => 0,
    };
    let mut declared = Declared { max_batch_size, ..Declared::default() };
    batching(&mut config, &fields, max_batch_size)?;
    execution::instances(&mut config, &fields)?;
    for field in &fields {
        match field.name.as_str() {
            "name" => name(&mut config, field, directory)?,
            "platform" => engine(field, &["onnxruntime_onnx"])?,
            "backend" => engine(field, &["onnxruntime"])?,
            "max_batch_size" | "dynamic_batching" | "instance_group" => {}
            "version_policy" => versions(&mut config, field)?,
            "input" => declared.inputs.extend(tensors::tensor(&mut config, "input", field, max_batch_size)?),
            "output" => {
                declared.outputs.extend(tensors::tensor(&mut config, "output", field, max_batch_size)?);
            }
            "parameters" => execution::parameter(&mut config, field)?,
            "optimization" => execution::optimization(&mut config, field)?,
            "sequence_batching" => sequences::sequence(&mut config, field, 0 < max_batch_size)?,
            "response_cache" => response_cache(&mut config, field)?,
            "default_model_filename" => file_name(field)?,
            "model_transaction_policy" => answers(&mut config, field)?,
            _ => config.unread("", field),
        }
    }
    config.settings.declared = Some(declared);
    Ok(config)
}

fn name(config: &mut Config, field: &Field, directory: Option<&str>) -> Result<(), Mistake> {
    let name = field.text()?;
    if let Some(directory) = directory.filter(|directory| *directory != name && !name.is_empty()) {
        let text = format!(
            "name is {:?}, but the model's directory, which names it, is {directory:?}",
            super::short(name)
        );
        config.warn(field.line, text);
    }
    Ok(())
}

/// Another engine's model is none of ours, and nothing would say so but its failing.
fn engine(field: &Field, known: &[&str]) -> Result<(), Mistake> {
    let name = field.text()?;
    match name.is_empty() || known.contains(&name) {
        true => Ok(()),
        false => Err(field.wrong(format!(
            "{:?} is not served here: only models of {} are; export the network to ONNX",
            super::short(name),
            known.join(", ")
        ))),
    }
}

fn file_name(field: &Field) -> Result<(), Mistake> {
    match field.text()? {
        "" | "model.onnx" => Ok(()),
        other => {
            Err(field.wrong(format!("the file is called model.onnx here: rename {:?}", super::short(other))))
        }
    }
}

fn answers(config: &mut Config, field: &Field) -> Result<(), Mistake> {
    for part in field.message()? {
        match part.name.as_str() {
            "decoupled" if part.flag()? => {
                return Err(part.wrong("a model that ONNX Runtime runs gives one answer to a request"));
            }
            "decoupled" => {}
            _ => config.unread(&field.name, part),
        }
    }
    Ok(())
}

fn response_cache(config: &mut Config, field: &Field) -> Result<(), Mistake> {
    for part in field.message()? {
        match part.name.as_str() {
            "enable" => {
                let enabled = part.flag()?;
                config.settings.cache.bytes_max = if enabled { RESPONSE_CACHE_BYTES } else { 0 };
                config.place("cache.bytes_max", part);
            }
            _ => config.unread(&field.name, part),
        }
    }
    Ok(())
}

fn versions(config: &mut Config, field: &Field) -> Result<(), Mistake> {
    let fields = field.message()?;
    once(fields, "version_policy", &[])?;
    config.place("versions", field);
    for part in fields {
        config.settings.versions = match part.name.as_str() {
            "latest" => {
                let mut latest = 1;
                for inner in part.message()? {
                    match inner.name.as_str() {
                        "num_versions" => latest = inner.number(1, u32::MAX)?,
                        _ => config.unread("version_policy.latest", inner),
                    }
                }
                Versions::Latest { latest }
            }
            "all" => Versions::Word(VersionsWord::All),
            "specific" => {
                let mut only = Vec::new();
                for inner in part.message()? {
                    match inner.name.as_str() {
                        "versions" => only.push(inner.whole(0, i64::MAX)?.unsigned_abs()),
                        _ => config.unread("version_policy.specific", inner),
                    }
                }
                Versions::Only(only)
            }
            _ => {
                let reason = "there is no such policy: there are latest, all and specific";
                return Err(part.wrong(reason));
            }
        };
    }
    Ok(())
}

/// With `dynamic_batching` requests are joined up to `max_batch_size`, without it never: no measurement is asked.
fn batching(config: &mut Config, fields: &[Field], max_batch_size: u32) -> Result<(), Mistake> {
    let size = fields.iter().find(|field| field.name == "max_batch_size");
    let dynamic = fields.iter().find(|field| field.name == "dynamic_batching");
    config.settings.batching = Batching { mode: BatchingMode::Off, ..Batching::default() };
    let Some(field) = dynamic else { return Ok(()) };
    config.place("batching", field);
    match size.filter(|_| 1 < max_batch_size) {
        Some(size) => {
            if BATCH_MAX < max_batch_size {
                config.warn(size.line, format!("max_batch_size: at most {BATCH_MAX} rows are joined"));
            }
            config.place("batching.max_size", size);
            let batching = &mut config.settings.batching;
            (batching.mode, batching.max_size) = (BatchingMode::On, Some(max_batch_size.min(BATCH_MAX)));
        }
        None => config.warn(field.line, "dynamic_batching joins nothing, as max_batch_size is not above 1"),
    }
    let parts = field.message()?;
    once(parts, &field.name, &["preferred_batch_size", "priority_queue_policy"])?;
    for part in parts {
        let queue = &mut config.settings.queue;
        match part.name.as_str() {
            "preferred_batch_size" => {
                let preferred = part.number(1, u32::MAX)?;
                config.settings.batching.preferred_sizes.push(preferred);
                config.place("batching.preferred_sizes", part);
            }
            "max_queue_delay_microseconds" => {
                config.settings.batching.max_delay = part.micros()?;
                config.place("batching.max_delay", part);
            }
            "priority_levels" => {
                queue.priority_levels = part.small()?;
                config.place("queue.priority_levels", part);
            }
            "default_priority_level" => {
                queue.default_priority = Some(part.small()?).filter(|level| 0 < *level);
                config.place("queue.default_priority", part);
            }
            "default_queue_policy" => queue_policy(config, part)?,
            // Answers go to whoever asked, each by its id.
            "preserve_ordering" if !part.flag()? => {}
            _ => config.unread(&field.name, part),
        }
    }
    config.settings.batching.preferred_sizes.sort_unstable();
    config.settings.batching.preferred_sizes.dedup();
    Ok(())
}

fn queue_policy(config: &mut Config, field: &Field) -> Result<(), Mistake> {
    let parts = field.message()?;
    once(parts, &field.name, &[])?;
    for part in parts {
        match part.name.as_str() {
            "max_queue_size" => {
                let max = part.number(0, u32::MAX)?;
                config.settings.queue.max = Some(max).filter(|max| 0 < *max);
                config.place("queue.max", part);
            }
            "default_timeout_microseconds" => {
                let timeout = part.micros()?;
                config.settings.queue.timeout =
                    Some(timeout).filter(|timeout| Span(Duration::ZERO) < *timeout);
                config.place("queue.timeout", part);
            }
            "timeout_action" if part.word()? == "REJECT" => {}
            // What a caller asks for can only be shorter here, and is always allowed.
            "allow_timeout_override" if part.flag()? => {}
            _ => config.unread("default_queue_policy", part),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
