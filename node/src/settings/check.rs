//! Whether settings make sense, by themselves and for the model that they are of.
//!
//! What a key of `[predict]`, `[embed]` or `[sequence]` means is looked at where it is used; here is what no other part
//! asks for. The limits say where a number is a slip of the pen, and what it would cost if it were none.

use std::{collections::BTreeMap, collections::BTreeSet, time::Duration};

use lineside_wire::TensorSpec;

use super::{
    Settings, Versions, Wrong,
    declared::{Dims, not_there},
    nearest,
};
use crate::{engine::Signature, measure::ELEMENTS_MAX, repository::VERSIONS_MAX};

/// Most instances: each is a thread and a session. The largest machines beside a line have half as many cores.
pub(crate) const INSTANCES_MAX: u32 = 256;

/// Most threads of an instance, likewise.
pub(crate) const THREADS_MAX: u32 = 256;

/// Most rows of one run. The measurements end at 16; a GPU gains up to some hundred.
pub(crate) const BATCH_MAX: u32 = 1024;

/// Longest wait for others to be joined with: more than that is no delay, it is another system.
pub(crate) const DELAY_MAX: Duration = Duration::from_secs(10);

/// Most priorities: each has a queue of its own, which is looked at for every run.
pub(crate) const PRIORITY_LEVELS_MAX: u8 = 16;

/// Most runs per session at load.
pub(crate) const WARMUP_RUNS_MAX: u32 = 1000;

/// Most bytes of a response cache: a tebibyte is more than the memory of any node.
pub(crate) const CACHE_BYTES_MAX: u64 = 1 << 40;

/// Most sequences at once: each holds its state's bytes.
pub(crate) const SEQUENCES_MAX: u32 = 1 << 20;

/// Most states of a sequence: as many as a call has tensors.
pub(crate) const STATES_MAX: usize = 256;

impl Settings {
    /// Whether the settings make sense; with a signature, also whether they are of that model.
    ///
    /// # Errors
    /// The first key that does not, and why.
    pub(crate) fn check(&self, signature: Option<&Signature>) -> Result<(), Wrong> {
        self.check_versions()?;
        self.check_numbers()?;
        self.check_batching()?;
        self.check_queue()?;
        self.check_execution()?;
        self.check_sequence()?;
        self.check_cache()?;
        self.check_shapes(signature.map(|signature| &signature.inputs[..]))?;
        match (&self.declared, signature) {
            (Some(declared), Some(signature)) => declared.check(signature),
            _ => Ok(()),
        }
    }

    fn check_versions(&self) -> Result<(), Wrong> {
        let wrong = |reason: &str| Err(Wrong::new("versions", reason));
        match &self.versions {
            Versions::Word(_) => Ok(()),
            Versions::Latest { latest: 0 } => wrong("no version would serve: write { latest = 1 } or more"),
            Versions::Latest { .. } => Ok(()),
            Versions::Only(only) if only.is_empty() => {
                wrong("no version would serve: name one, or write \"all\"")
            }
            Versions::Only(only) if VERSIONS_MAX < only.len() => {
                wrong(&format!("{} are named: a node takes {VERSIONS_MAX} at most", only.len()))
            }
            Versions::Only(only) => match first_twice(only) {
                Some(version) => wrong(&format!("{version} is named twice")),
                None => Ok(()),
            },
        }
    }

    fn check_numbers(&self) -> Result<(), Wrong> {
        if let Some(count) = self.instances.count {
            within("instances.count", u64::from(count), 1, u64::from(INSTANCES_MAX))?;
        }
        within("instances.threads", u64::from(self.instances.threads), 1, u64::from(THREADS_MAX))?;
        within("warmup.runs", u64::from(self.warmup.runs), 0, u64::from(WARMUP_RUNS_MAX))?;
        if self.limits.elements_max == Some(0) {
            return Err(Wrong::new("limits.elements_max", "every request would be refused: write 1 or more"));
        }
        match self.limits.domains.iter().any(String::is_empty) {
            true => Err(Wrong::new("limits.domains", "a domain has no name; ONNX's own need not be named")),
            false => Ok(()),
        }
    }

    fn check_batching(&self) -> Result<(), Wrong> {
        let batching = &self.batching;
        if let Some(size) = batching.max_size {
            within("batching.max_size", u64::from(size), 1, u64::from(BATCH_MAX))?;
        }
        if DELAY_MAX < batching.max_delay.0 {
            let reason = format!("{} is more than {DELAY_MAX:?}", batching.max_delay);
            return Err(Wrong::new("batching.max_delay", reason));
        }
        let wrong = |reason: String| Err(Wrong::new("batching.preferred_sizes", reason));
        let sizes = &batching.preferred_sizes;
        if let Some(pair) = sizes.windows(2).find(|pair| pair[1] <= pair[0]) {
            return wrong(format!(
                "{} does not come behind {}: write them upwards, each once",
                pair[1], pair[0]
            ));
        }
        let most = batching.max_size.unwrap_or(BATCH_MAX);
        match (sizes.first(), sizes.last()) {
            (Some(0), _) => wrong("no run has 0 rows".to_owned()),
            (_, Some(last)) if most < *last => {
                wrong(format!("{last} is more than the {most} rows that a run may have (max_size)"))
            }
            _ => Ok(()),
        }
    }

    fn check_queue(&self) -> Result<(), Wrong> {
        let queue = &self.queue;
        if queue.max == Some(0) {
            return Err(Wrong::new("queue.max", "nothing could wait, and so nothing run: write 1 or more"));
        }
        let levels = queue.priority_levels;
        within("queue.priority_levels", u64::from(levels), 0, u64::from(PRIORITY_LEVELS_MAX))?;
        match queue.default_priority {
            Some(_) if levels == 0 => {
                return Err(Wrong::new(
                    "queue.default_priority",
                    "there are no priorities: set priority_levels",
                ));
            }
            Some(priority) => within("queue.default_priority", u64::from(priority), 1, u64::from(levels))?,
            None => {}
        }
        match queue.timeout {
            Some(timeout) if timeout.0.is_zero() => {
                Err(Wrong::new("queue.timeout", "nothing could wait: leave the key out for no limit"))
            }
            _ => Ok(()),
        }
    }

    fn check_execution(&self) -> Result<(), Wrong> {
        let providers = &self.execution.providers;
        if providers.is_empty() {
            return Err(Wrong::new(
                "execution.providers",
                "nothing would compute: name one, such as \"cpu\"",
            ));
        }
        if let Some(provider) = first_twice(providers) {
            return Err(Wrong::new("execution.providers", format!("{provider:?} is named twice")));
        }
        let unknown = self.execution.options.keys().find(|of| !providers.contains(of));
        unknown.map_or(Ok(()), |of| {
            let known: Vec<_> = providers.iter().map(String::as_str).collect();
            let near =
                nearest(of, &known).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
            Err(Wrong::new("execution.options", format!("{of:?} is not among the providers{near}")))
        })
    }

    fn check_sequence(&self) -> Result<(), Wrong> {
        let Some(sequence) = &self.sequence else { return Ok(()) };
        let wrong = |reason: String| Err(Wrong::new("sequence.states", reason));
        let states = &sequence.states;
        if states.is_empty() {
            return wrong("nothing would be kept: name the state's input and output".to_owned());
        }
        if STATES_MAX < states.len() {
            return wrong(format!("there are {} states: at most {STATES_MAX} can be", states.len()));
        }
        let inputs: Vec<_> = states.iter().map(|state| &state.input).collect();
        let outputs: Vec<_> = states.iter().map(|state| &state.output).collect();
        if let Some(name) = first_twice(&inputs).or_else(|| first_twice(&outputs)) {
            return wrong(format!("{name:?} is the state twice"));
        }
        within("sequence.max", u64::from(sequence.max), 1, u64::from(SEQUENCES_MAX))?;
        match sequence.idle_timeout.0.is_zero() {
            true => Err(Wrong::new("sequence.idle_timeout", "every sequence would be forgotten at once")),
            false => Ok(()),
        }
    }

    fn check_cache(&self) -> Result<(), Wrong> {
        within("cache.bytes_max", self.cache.bytes_max, 0, CACHE_BYTES_MAX)?;
        if 0 < self.cache.bytes_max && self.sequence.is_some() {
            let reason =
                "with [sequence], the same inputs have other answers each time: leave one of them out";
            return Err(Wrong::new("cache.bytes_max", reason));
        }
        match self.cache.lifetime {
            Some(lifetime) if lifetime.0.is_zero() => {
                Err(Wrong::new("cache.lifetime", "no answer would be kept: leave the key out for no limit"))
            }
            _ => Ok(()),
        }
    }

    fn check_shapes(&self, inputs: Option<&[TensorSpec]>) -> Result<(), Wrong> {
        shapes("limits.max_shape", &self.limits.max_shape, inputs, |dim, real| real <= dim)?;
        shapes("warmup.shape", &self.warmup.shape, inputs, |dim, real| real == dim)?;
        for (name, shape) in &self.warmup.shape {
            let elements = shape.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
            if elements.is_none_or(|elements| ELEMENTS_MAX < elements) {
                let reason = format!("{name:?} would have more than {ELEMENTS_MAX} elements");
                return Err(Wrong::new("warmup.shape", reason));
            }
        }
        Ok(())
    }
}

/// Whether shapes are of inputs that there are, and could be theirs.
fn shapes(
    key: &'static str,
    shapes: &BTreeMap<String, Vec<u64>>,
    inputs: Option<&[TensorSpec]>,
    fits: impl Fn(u64, u64) -> bool,
) -> Result<(), Wrong> {
    for (name, shape) in shapes {
        let wrong = |reason: String| Err(Wrong::new(key, format!("{name:?} {reason}")));
        if shape.contains(&0) {
            return wrong("has a dimension of 0: write 1 or more".to_owned());
        }
        let Some(inputs) = inputs else { continue };
        let Some(spec) = inputs.iter().find(|spec| spec.name == *name) else {
            return wrong(not_there("input", name, inputs));
        };
        // The file leaves it open, or it is a single number, which the request will show.
        if spec.shape.is_empty() {
            continue;
        }
        let real = |dim: &i64| u64::try_from(*dim).ok();
        let fits_one = |(dim, spec): (&u64, &i64)| real(spec).is_none_or(|real| fits(*dim, real));
        if shape.len() != spec.shape.len() || !shape.iter().zip(&spec.shape).all(fits_one) {
            return wrong(format!("cannot be {shape:?}: the model's shape is {}", Dims(&spec.shape)));
        }
    }
    Ok(())
}

fn within(key: &'static str, number: u64, min: u64, max: u64) -> Result<(), Wrong> {
    match (min..=max).contains(&number) {
        true => Ok(()),
        false => Err(Wrong::new(key, format!("{number} is not within {min} to {max}"))),
    }
}

fn first_twice<T: Ord>(things: &[T]) -> Option<&T> {
    let mut seen = BTreeSet::new();
    things.iter().find(|thing| !seen.insert(*thing))
}

#[cfg(test)]
mod tests {
    use lineside_wire::Datatype;

    use super::*;
    use crate::settings::Source;

    fn model() -> Signature {
        let spec = |name: &str, shape: &[i64]| TensorSpec {
            name: name.to_owned(),
            datatype: Datatype::Fp32,
            shape: shape.to_vec(),
        };
        Signature { inputs: vec![spec("picture", &[-1, 3, -1, -1])], outputs: vec![spec("label", &[-1])] }
    }

    /// What is wrong with a file's key, and the line of it.
    fn told(text: &str) -> String {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("weld.toml"), text).unwrap();
        let read = Source::read(home.path(), "weld.toml".as_ref());
        match read {
            Ok((source, settings)) => match settings.check(Some(&model())) {
                Ok(()) => String::new(),
                Err(wrong) => source.tell(&wrong),
            },
            Err(told) => told,
        }
    }

    #[test]
    fn the_defaults_and_what_fits_the_model_are_good() {
        assert_eq!(Settings::default().check(None), Ok(()));
        let text = "versions = { latest = 2 }\n[instances]\ncount = 4\nthreads = 2\nspinning = true\n\
                    [batching]\nmode = \"on\"\nmax_size = 8\nmax_delay = \"2ms\"\npreferred_sizes = [4, 8]\n\
                    [queue]\nmax = 9\npriority_levels = 3\ndefault_priority = 2\ntimeout = \"1s\"\n\
                    [execution]\nproviders = [\"cuda\", \"cpu\"]\n[execution.options.cuda]\ndevice_id = 1\n\
                    [limits.max_shape]\npicture = [8, 3, 640, 640]\n[cache]\nbytes_max = 9\nlifetime = \"1m\"\n\
                    [warmup]\nruns = 2\n[warmup.shape]\npicture = [1, 3, 32, 32]\n";
        assert_eq!(told(text), "");
    }

    #[test]
    fn each_key_that_makes_no_sense_is_told_with_its_line_and_reason() {
        let many = format!("versions = {:?}", (1..=65).collect::<Vec<_>>());
        for (text, line, words) in [
            ("versions = []", 1, "versions: no version would serve"),
            ("versions = { latest = 0 }", 1, "versions: no version would serve"),
            ("versions = [1, 1]", 1, "versions: 1 is named twice"),
            (&many, 1, "versions: 65 are named: a node takes 64 at most"),
            ("[instances]\ncount = 0", 2, "instances.count: 0 is not within 1 to 256"),
            ("[instances]\n\nthreads = 257", 3, "instances.threads: 257 is not within 1 to 256"),
            ("[batching]\nmax_size = 1025", 2, "batching.max_size: 1025 is not within 1 to 1024"),
            ("[batching]\nmax_delay = \"11s\"", 2, "batching.max_delay: 11s is more than 10s"),
            ("[batching]\npreferred_sizes = [8, 4]", 2, "4 does not come behind 8"),
            ("[batching]\npreferred_sizes = [0, 4]", 2, "no run has 0 rows"),
            ("[batching]\nmax_size = 4\npreferred_sizes = [8]", 3, "8 is more than the 4 rows"),
            ("[queue]\nmax = 0", 2, "queue.max: nothing could wait"),
            ("[queue]\npriority_levels = 17", 2, "queue.priority_levels: 17 is not within 0 to 16"),
            ("[queue]\ndefault_priority = 1", 2, "set priority_levels"),
            ("[queue]\npriority_levels = 2\ndefault_priority = 3", 3, "3 is not within 1 to 2"),
            ("[queue]\ntimeout = \"0s\"", 2, "queue.timeout: nothing could wait"),
            ("[execution]\nproviders = []", 2, "nothing would compute"),
            ("[execution]\nproviders = [\"cpu\", \"cpu\"]", 2, "\"cpu\" is named twice"),
            (
                "[execution]\nproviders = [\"cuda\"]\n[execution.options.cudo]\na = 1",
                3,
                "did you mean \"cuda\"?",
            ),
            ("[limits]\nelements_max = 0", 2, "every request would be refused"),
            ("[limits.max_shape]\npictur = [1, 3, 4, 4]", 1, "did you mean \"picture\"?"),
            ("[limits.max_shape]\npicture = [1, 2, 4, 4]", 1, "the model's shape is [-1, 3, -1, -1]"),
            ("[limits.max_shape]\npicture = [1, 3]", 1, "cannot be [1, 3]"),
            ("[warmup.shape]\npicture = [1, 4, 4, 4]", 1, "cannot be [1, 4, 4, 4]"),
            ("[warmup.shape]\npicture = [1, 3, 0, 4]", 1, "has a dimension of 0"),
            ("[warmup.shape]\npicture = [1, 3, 90000, 90000]", 1, "more than 16777216 elements"),
            ("[warmup]\nruns = 1001", 2, "warmup.runs: 1001 is not within 0 to 1000"),
            ("[sequence]", 1, "nothing would be kept"),
            ("[sequence]\nmax = 0\nstates = [{ input = \"a\", output = \"b\" }]", 2, "sequence.max: 0"),
            ("[cache]\nbytes_max = 2000000000000", 2, "cache.bytes_max: 2000000000000 is not within"),
            (
                "[cache]\nbytes_max = 1\n[sequence]\nstates = [{ input = \"a\", output = \"b\" }]",
                2,
                "other answers each time",
            ),
        ] {
            let told = told(text);
            assert!(told.contains(words), "{text}: {told}");
            assert!(told.contains(&format!("line {line}, ")), "{text}: {told}");
        }
    }

    #[test]
    fn a_policy_of_versions_in_another_form_is_told_which_there_are() {
        let forms = "\"latest\", \"all\", { latest = 2 } or [1, 3]";
        for text in ["versions = 3", "versions = \"newest\"", "versions = { oldest = 1 }", "versions = {}"] {
            let told = told(text);
            assert!(
                told.starts_with("weld.toml line 1, versions: ") && told.contains(forms),
                "{text}: {told}"
            );
        }
        let told = told("versions = [1, \"a\"]");
        assert!(told.contains("invalid type: string \"a\""), "{told}");
    }
}
