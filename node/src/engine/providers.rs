//! Execution providers: what computes a model, where the loaded library has it.
//!
//! A model's settings list them in the order of preference. All that the library has are handed to ONNX Runtime in that
//! order: an operator that the first does not know runs on the next, in the end on the CPU. A provider that the library
//! lacks, or whose driver does not start, is left out and told; the CPU computes the whole model only where it is in the list.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ort::{
    ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch},
    session::builder::SessionBuilder,
};

use super::{OpenError, library::OnnxRuntime};
use crate::settings::Execution;

/// A provider that the settings can name.
struct Known {
    /// The name in the settings, and others that it goes by.
    names: &'static [&'static str],
    /// Whether the loaded library was built with it.
    has: fn() -> ort::Result<bool>,
    make: fn(Given<'_>) -> Result<ExecutionProviderDispatch, String>,
}

/// What a provider is made with.
#[derive(Clone, Copy)]
struct Given<'a> {
    /// Options of the settings, as texts.
    options: &'a BTreeMap<String, String>,
    /// Where it may keep what it compiles.
    kept: Option<&'a Path>,
}

/// The name of the one that every library has.
pub(super) const CPU: &str = "cpu";

/// The order is the one in which they are listed for a person.
const KNOWN: [Known; 14] = [
    Known { names: &[CPU], has: || Ok(true), make: |_| Err("it takes no options".to_owned()) },
    Known {
        names: &["cuda"],
        has: ep::CUDA::is_available,
        make: |given| any(ep::CUDA::default(), given, &[]),
    },
    Known {
        names: &["tensorrt", "trt"],
        has: ep::TensorRT::is_available,
        make: |given| {
            let keeps = ["trt_engine_cache_path", "trt_timing_cache_path"];
            let switches = ["trt_engine_cache_enable", "trt_timing_cache_enable"];
            let provider = switched(ep::TensorRT::default(), given, &switches);
            any(provider, given, &keeps)
        },
    },
    Known {
        names: &["nvrtx", "tensorrt-rtx"],
        has: ep::NVRTX::is_available,
        make: |given| any(ep::NVRTX::default(), given, &["nv_runtime_cache_path"]),
    },
    Known {
        names: &["openvino"],
        has: ep::OpenVINO::is_available,
        make: |given| any(ep::OpenVINO::default(), given, &["cache_dir"]),
    },
    Known { names: &["migraphx"], has: ep::MIGraphX::is_available, make: migraphx },
    Known {
        names: &["rocm"],
        has: ep::ROCm::is_available,
        make: |given| any(ep::ROCm::default(), given, &[]),
    },
    Known { names: &["directml", "dml"], has: ep::DirectML::is_available, make: directml },
    Known {
        names: &["coreml"],
        has: ep::CoreML::is_available,
        make: |given| any(ep::CoreML::default(), given, &["ModelCacheDirectory"]),
    },
    Known { names: &["qnn"], has: ep::QNN::is_available, make: |given| any(ep::QNN::default(), given, &[]) },
    Known {
        names: &["xnnpack"],
        has: ep::XNNPACK::is_available,
        make: |given| any(ep::XNNPACK::default(), given, &[]),
    },
    Known {
        names: &["onednn", "dnnl"],
        has: ep::OneDNN::is_available,
        make: |given| any(ep::OneDNN::default(), given, &[]),
    },
    Known { names: &["acl"], has: ep::ACL::is_available, make: acl },
    Known {
        names: &["cann"],
        has: ep::CANN::is_available,
        make: |given| any(ep::CANN::default(), given, &[]),
    },
];

/// A provider of the list that the library has.
pub(super) struct Usable {
    /// The name by which it is shown.
    pub(super) name: &'static str,
    /// `None` is the CPU, which needs no order.
    provider: Option<ExecutionProviderDispatch>,
}

impl Usable {
    /// # Errors
    /// Its libraries are not there, or its driver does not start.
    pub(super) fn register(&self, builder: &mut SessionBuilder) -> ort::Result<()> {
        self.provider.as_ref().map_or(Ok(()), |provider| provider.register(builder))
    }
}

/// The providers of the list that can be tried, in its order, and what a person should know of the others. Behind the CPU
/// nothing is tried: it takes every model.
///
/// # Errors
/// A name is unknown, an option is wrong, or the library has none of the list.
pub(super) fn usable(
    runtime: &OnnxRuntime,
    execution: &Execution,
    kept: Option<&Kept<'_>>,
) -> Result<(Vec<Usable>, Vec<String>), OpenError> {
    let listed = execution.providers.iter().map(|name| known(name)).collect::<Result<Vec<_>, _>>()?;
    execution.options.keys().try_for_each(|name| known(name).map(drop))?;
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    for (known, asked) in listed.into_iter().zip(&execution.providers) {
        let name = known.names[0];
        if !(known.has)().unwrap_or(false) {
            warnings.push(lacking(runtime, name));
            continue;
        }
        if name == CPU {
            found.push(Usable { name, provider: None });
            break;
        }
        let options = execution.options.get(asked).or_else(|| execution.options.get(name));
        let options = options.into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect();
        let directory = kept.map(|kept| kept.directory(name)).transpose()?;
        let given = Given { options: &options, kept: directory.as_deref() };
        let provider =
            (known.make)(given).map_err(|reason| OpenError::Provider(format!("{name}: {reason}")))?;
        found.push(Usable { name, provider: Some(provider) });
    }
    if found.is_empty() {
        let listed = execution.providers.join(", ");
        return Err(OpenError::Provider(format!(
            "{} has {} and none of [execution] providers ({listed}): add \"{CPU}\" to them, or install a library with \
             one and name its file in node.onnxruntime",
            runtime.name,
            has().join(", ")
        )));
    }
    Ok((found, warnings))
}

/// What the loaded library can compute with.
pub(super) fn has() -> Vec<&'static str> {
    let has = KNOWN.iter().filter(|known| (known.has)().unwrap_or(false));
    has.map(|known| known.names[0]).collect()
}

/// What a person should know of a provider that was left out.
pub(super) fn left_out(name: &str, reason: &str) -> String {
    // Behind the place in the engine's own source, and the kind of its error.
    let marked =
        reason.rsplit_once("[ONNXRuntimeError] : ").and_then(|(_, rest)| rest.splitn(3, " : ").nth(2));
    let reason = marked.unwrap_or(reason).trim();
    let lacks = reason.contains("cannot open shared object file");
    let remedy = if lacks { "; install what it needs where the system's loader finds it" } else { "" };
    format!("[execution] {name} does not start and is left out: {reason}{remedy}")
}

fn lacking(runtime: &OnnxRuntime, name: &str) -> String {
    format!(
        "[execution] {name} is not in {}, which has {}: to use it, install a library with it and name its file in \
         node.onnxruntime",
        runtime.name,
        has().join(", ")
    )
}

/// Where providers keep what they compile for one model.
pub(super) struct Kept<'a> {
    /// The directory of all of them.
    pub(super) home: &'a Path,
    /// Names the model, the library and the machine.
    pub(super) key: &'a str,
}

impl Kept<'_> {
    fn directory(&self, provider: &str) -> Result<PathBuf, OpenError> {
        let directory = self.home.join(format!("{}-{provider}", self.key));
        std::fs::create_dir_all(&directory).map_err(|error| {
            OpenError::Provider(format!("{provider}: {} cannot be made: {error}", directory.display()))
        })?;
        Ok(directory)
    }
}

fn known(name: &str) -> Result<&'static Known, OpenError> {
    let wanted = name.to_ascii_lowercase();
    let wanted = wanted.strip_suffix("executionprovider").unwrap_or(&wanted);
    KNOWN.iter().find(|known| known.names.contains(&wanted)).ok_or_else(|| {
        let names = KNOWN.iter().flat_map(|known| known.names);
        let nearest = names.map(|known| (strsim::osa_distance(wanted, known), *known)).min();
        let nearest = nearest.filter(|(distance, known)| distance * 2 < known.len());
        let meant = nearest.map(|(_, known)| format!(": did you mean {known:?}?")).unwrap_or(";".to_owned());
        let all: Vec<_> = KNOWN.iter().map(|known| known.names[0]).collect();
        let name = super::clipped(name, 64);
        let all = all.join(", ");
        OpenError::Provider(format!("there is no execution provider {name:?}{meant} known are {all}"))
    })
}

/// A value of the settings as ONNX Runtime takes it.
fn text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Boolean(true) => "1".to_owned(),
        toml::Value::Boolean(false) => "0".to_owned(),
        other => other.to_string(),
    }
}

/// A provider whose options are all texts. Those of `keeps` name the directory of what is kept, unless they are given.
fn any<P>(mut provider: P, given: Given<'_>, keeps: &[&str]) -> Result<ExecutionProviderDispatch, String>
where
    P: ArbitrarilyConfigurableExecutionProvider + Into<ExecutionProviderDispatch>,
{
    if let Some(directory) = given.kept.and_then(Path::to_str) {
        for key in keeps.iter().filter(|key| !given.options.contains_key(**key)) {
            provider = provider.with_arbitrary_config(key, directory);
        }
    }
    for (key, value) in given.options {
        if key.contains('\0') || value.contains('\0') {
            return Err("an option holds a zero byte".to_owned());
        }
        provider = provider.with_arbitrary_config(key, value);
    }
    Ok(provider.into())
}

/// Turns on what keeps what is compiled, where it is kept.
fn switched<P: ArbitrarilyConfigurableExecutionProvider>(
    provider: P,
    given: Given<'_>,
    switches: &[&str],
) -> P {
    let wanted = switches.iter().filter(|key| given.kept.is_some() && !given.options.contains_key(**key));
    wanted.fold(provider, |provider, key| provider.with_arbitrary_config(key, "1"))
}

/// A provider with a few options, each of which `set` knows or not.
fn some<P: Into<ExecutionProviderDispatch>>(
    provider: P,
    given: Given<'_>,
    takes: &str,
    set: impl Fn(P, &str, &str) -> Result<P, String>,
) -> Result<ExecutionProviderDispatch, String> {
    let mut provider = provider;
    for (key, value) in given.options {
        provider = set(provider, key, value)
            .map_err(|reason| format!("the option {key} = {value:?}: {reason}; it takes {takes}"))?;
    }
    Ok(provider.into())
}

fn migraphx(given: Given<'_>) -> Result<ExecutionProviderDispatch, String> {
    let takes = "device_id, fp16, int8, exhaustive_tune, save_model, load_model and mem_limit";
    some(ep::MIGraphX::default(), given, takes, |provider, key, value| {
        Ok(match key {
            "device_id" => provider.with_device_id(number(value)?),
            "fp16" => provider.with_fp16(switch(value)?),
            "int8" => provider.with_int8(switch(value)?),
            "exhaustive_tune" => provider.with_exhaustive_tune(switch(value)?),
            "save_model" => provider.with_save_model(value),
            "load_model" => provider.with_load_model(value),
            "mem_limit" => provider.with_mem_limit(number(value)?),
            _ => return Err("it is unknown".to_owned()),
        })
    })
}

fn directml(given: Given<'_>) -> Result<ExecutionProviderDispatch, String> {
    some(ep::DirectML::default(), given, "device_id", |provider, key, value| match key {
        "device_id" => Ok(provider.with_device_id(number(value)?)),
        _ => Err("it is unknown".to_owned()),
    })
}

fn acl(given: Given<'_>) -> Result<ExecutionProviderDispatch, String> {
    some(ep::ACL::default(), given, "fast_math", |provider, key, value| match key {
        "fast_math" => Ok(provider.with_fast_math(switch(value)?)),
        _ => Err("it is unknown".to_owned()),
    })
}

fn number<N: std::str::FromStr>(value: &str) -> Result<N, String> {
    value.parse().map_err(|_| "it is no number that fits".to_owned())
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_provider_is_told_with_the_nearest_one() {
        let told = |name| known(name).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(told("cudda").contains("did you mean \"cuda\"?"), "{}", told("cudda"));
        assert!(told("tensor-rt").contains("did you mean \"tensorrt\"?"), "{}", told("tensor-rt"));
        assert!(!told("abacus").contains("did you mean"), "{}", told("abacus"));
        assert!(told("abacus").contains("cpu, cuda, tensorrt"), "{}", told("abacus"));
        assert_eq!(known("CUDAExecutionProvider").map(|known| known.names[0]).unwrap_or("none"), "cuda");
        assert_eq!(known("trt").map(|known| known.names[0]).unwrap_or("none"), "tensorrt");
    }

    #[test]
    fn a_provider_that_does_not_start_is_told_with_what_it_lacks() {
        let reason = "/src/provider_bridge_ort.cc:2043 Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library \
                      a.so with error: libcublas.so.13: cannot open shared object file: No such file or directory\n";
        let told = left_out("cuda", reason);
        assert!(
            told.starts_with("[execution] cuda does not start and is left out: Failed to load"),
            "{told}"
        );
        assert!(
            told.ends_with("directory; install what it needs where the system's loader finds it"),
            "{told}"
        );
        assert!(left_out("cuda", "no device").ends_with("left out: no device"));
    }

    #[test]
    fn options_are_handed_on_as_texts_and_wrong_ones_are_told() {
        assert_eq!(text(&toml::Value::Boolean(true)), "1");
        assert_eq!(text(&toml::Value::Integer(3)), "3");
        assert_eq!(text(&toml::Value::String("GPU.0".to_owned())), "GPU.0");
        let options = BTreeMap::from([("warp_speed".to_owned(), "9".to_owned())]);
        let given = Given { options: &options, kept: None };
        let refused = directml(given).err().unwrap_or_default();
        assert!(refused.contains("warp_speed") && refused.contains("device_id"), "{refused}");
        assert!(any(ep::CUDA::default(), given, &[]).is_ok());
    }
}
