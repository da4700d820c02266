//! `instance_group`, `parameters` and `optimization`.

use std::collections::BTreeSet;

use super::{
    super::{Field, Mistake},
    Config,
    fields::{Fields as _, entry, once},
};
use crate::settings::Optimization;

/// Instances of all groups are those of the model.
pub(super) fn instances(config: &mut Config, fields: &[Field]) -> Result<(), Mistake> {
    let mut count = 0_u32;
    let mut devices = BTreeSet::new();
    let mut is_cuda = false;
    for field in fields.iter().filter(|field| field.name == "instance_group") {
        let parts = field.message()?;
        once(parts, &field.name, &["gpus", "secondary_devices", "profile"])?;
        let mut of_group = 1;
        for part in parts {
            match part.name.as_str() {
                "name" => {}
                // None is as many as Triton finds right: one.
                "count" => of_group = part.number(0, u32::MAX)?.max(1),
                "kind" => match part.word()? {
                    "KIND_GPU" => is_cuda = true,
                    "KIND_CPU" | "KIND_AUTO" => {}
                    other => {
                        let reason =
                            format!("there is no {}: write KIND_CPU or KIND_GPU", super::super::short(other));
                        return Err(part.wrong(reason));
                    }
                },
                "gpus" => drop(devices.insert(part.whole(0, i64::from(u16::MAX))?)),
                _ => config.unread(&field.name, part),
            }
        }
        count = count.saturating_add(of_group);
        config.settings.instances.count = Some(count);
        config.place("instances.count", field);
        if let [first, _, ..] = devices.iter().collect::<Vec<_>>()[..] {
            let text = format!("instance_group.gpus names several: all instances run on GPU {first}");
            config.warn(field.line, text);
        }
    }
    if is_cuda {
        first(config, "cuda");
    }
    if let Some(device) = devices.first().filter(|_| is_cuda) {
        option(config, "cuda", "device_id", *device);
    }
    Ok(())
}

/// Puts a provider before the others.
fn first(config: &mut Config, provider: &str) {
    let providers = &mut config.settings.execution.providers;
    if !providers.iter().any(|known| known == provider) {
        providers.insert(0, provider.to_owned());
    }
}

fn option(config: &mut Config, provider: &str, key: &str, value: impl Into<toml::Value>) {
    let options = config.settings.execution.options.entry(provider.to_owned()).or_default();
    options.insert(key.to_owned(), value.into());
}

/// Parameters of Triton's backend for ONNX Runtime.
pub(super) fn parameter(config: &mut Config, field: &Field) -> Result<(), Mistake> {
    let (key, value) = entry(field)?;
    let text = match value {
        Some(value) => {
            let inner = value.message()?.iter().find(|part| part.name == "string_value");
            inner.map(|part| part.text()).transpose()?.unwrap_or_default()
        }
        None => "",
    };
    match (key, text.trim().parse::<u32>()) {
        ("intra_op_thread_count", Ok(0)) => {
            let text = "parameters: intra_op_thread_count 0 (as many threads as cores) is not read: one thread is used";
            config.warn(field.line, text);
        }
        ("intra_op_thread_count", Ok(threads)) => {
            config.settings.instances.threads = threads;
            config.place("instances.threads", field);
        }
        ("intra_op_thread_count", Err(_)) => {
            return Err(
                field.wrong(format!("intra_op_thread_count {:?} is no number", super::super::short(text)))
            );
        }
        // Operators run one after the other, in one thread pool: what these say is so.
        ("execution_mode" | "inter_op_thread_count", Ok(0)) | ("inter_op_thread_count", Ok(1)) => {}
        _ => config.warn(field.line, format!("parameters: {} is not read", super::super::short(key))),
    }
    Ok(())
}

pub(super) fn optimization(config: &mut Config, field: &Field) -> Result<(), Mistake> {
    let parts = field.message()?;
    once(parts, &field.name, &[])?;
    for part in parts {
        match part.name.as_str() {
            "graph" => graph(config, part)?,
            "execution_accelerators" => accelerators(config, part)?,
            _ => config.unread(&field.name, part),
        }
    }
    Ok(())
}

fn graph(config: &mut Config, field: &Field) -> Result<(), Mistake> {
    for part in field.message()? {
        match part.name.as_str() {
            // As Triton's backend reads the number.
            "level" => {
                config.settings.execution.optimization = match part.whole(-1, 2)? {
                    -1 => Optimization::Basic,
                    1 => Optimization::Extended,
                    2 => Optimization::Off,
                    _ => Optimization::All,
                };
            }
            _ => config.unread("optimization.graph", part),
        }
    }
    Ok(())
}

fn accelerators(config: &mut Config, field: &Field) -> Result<(), Mistake> {
    let mut found = Vec::new();
    for part in field.message()? {
        let known: &[&str] = match part.name.as_str() {
            "gpu_execution_accelerator" => &["tensorrt", "cuda"],
            "cpu_execution_accelerator" => &["openvino"],
            _ => {
                config.unread("optimization.execution_accelerators", part);
                continue;
            }
        };
        let parts = part.message()?;
        once(parts, &part.name, &["parameters"])?;
        let name = parts.iter().find(|part| part.name == "name");
        let name = name.map(|name| name.text()).transpose()?.unwrap_or_default().to_owned();
        if !known.contains(&name.as_str()) {
            let text = format!("{} {:?} is not read", part.name, super::super::short(&name));
            config.warn(part.line, text);
            continue;
        }
        for parameter in parts.iter().filter(|part| part.name == "parameters") {
            accelerator_parameter(config, &name, parameter)?;
        }
        if part.name == "gpu_execution_accelerator" {
            found.push("cuda".to_owned());
        }
        found.push(name);
    }
    // The last one is put first: what was named comes before what stands in for it, in the order of the file.
    let (cuda, mut others): (Vec<_>, Vec<_>) = found.into_iter().partition(|name| name == "cuda");
    others.reverse();
    for name in cuda.into_iter().chain(others) {
        first(config, &name);
    }
    Ok(())
}

fn accelerator_parameter(config: &mut Config, provider: &str, field: &Field) -> Result<(), Mistake> {
    let (key, value) = entry(field)?;
    let text = value.map(|value| value.text()).transpose()?.unwrap_or_default();
    match (provider, key, text.parse::<i64>()) {
        ("tensorrt", "precision_mode", _) if text == "FP16" => {
            option(config, provider, "trt_fp16_enable", true);
        }
        ("tensorrt", "precision_mode", _) if text == "FP32" => {}
        ("tensorrt", "max_workspace_size_bytes", Ok(bytes)) => {
            option(config, provider, "trt_max_workspace_size", bytes);
        }
        ("tensorrt", key, _) if key.starts_with("trt_") => option(config, provider, key, text),
        ("cuda", _, _) => option(config, provider, key, text),
        _ => {
            let text = format!("{provider}'s parameter {} is not read", super::super::short(key));
            config.warn(field.line, text);
        }
    }
    Ok(())
}
