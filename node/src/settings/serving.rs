//! The sections of a settings file that say how a model is run.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, written `250us`, `5ms`, `1.5s`, `2m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let seconds = match unit.trim() {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => 0.0,
        };
        let time = number.trim().parse::<f64>().ok().filter(|_| 0.0 < seconds);
        let time = time.and_then(|number| Duration::try_from_secs_f64(number * seconds).ok());
        time.map(Span).ok_or_else(|| {
            de::Error::custom(format!("{text:?} is no time: write 250us, 5ms, 1.5s, 2m or 1h"))
        })
    }
}

/// As it is read: a whole number of the largest unit that has one.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let units = [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000)];
        match units.into_iter().find(|(_, unit)| 0 < micros && micros.is_multiple_of(*unit)) {
            Some((word, unit)) => write!(f, "{}{word}", micros / unit),
            None if micros == 0 => f.write_str("0s"),
            None => write!(f, "{micros}us"),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which versions of a model serve: the key `versions`, as `"latest"`, `"all"`, `{ latest = 2 }` or `[1, 3]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Versions {
    /// One of two words.
    Word(VersionsWord),
    /// The so many highest.
    Latest {
        /// How many.
        latest: u32,
    },
    /// These and no others.
    Only(Vec<u64>),
}

/// The forms of `versions`, for who wrote another.
const VERSIONS_FORMS: &str = "\"latest\", \"all\", { latest = 2 } or [1, 3]";

/// Written out, because what a derived one says of a mistake ("did not match any variant") helps nobody.
impl<'de> Deserialize<'de> for Versions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Forms)
    }
}

struct Forms;

impl<'de> de::Visitor<'de> for Forms {
    type Value = Versions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VERSIONS_FORMS)
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Versions, E> {
        match word {
            "latest" => Ok(Versions::Word(VersionsWord::Latest)),
            "all" => Ok(Versions::Word(VersionsWord::All)),
            _ => Err(E::custom(format!("there is no policy {word:?}: write {VERSIONS_FORMS}"))),
        }
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut numbers: A) -> Result<Versions, A::Error> {
        let mut only = Vec::new();
        while let Some(number) = numbers.next_element()? {
            only.push(number);
        }
        Ok(Versions::Only(only))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut keys: A) -> Result<Versions, A::Error> {
        let mut latest = None;
        while let Some(key) = keys.next_key::<String>()? {
            match key.as_str() {
                "latest" => latest = Some(keys.next_value()?),
                _ => {
                    let text = format!("there is no policy {key:?}: write {VERSIONS_FORMS}");
                    return Err(de::Error::custom(text));
                }
            }
        }
        let latest =
            latest.ok_or_else(|| de::Error::custom(format!("it is empty: write {VERSIONS_FORMS}")))?;
        Ok(Versions::Latest { latest })
    }
}

/// The policies that are a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VersionsWord {
    /// The highest alone.
    Latest,
    /// Every one.
    All,
}

/// As in Triton: each version that serves holds its sessions' memory, and a new one is there to take over.
impl Default for Versions {
    fn default() -> Self {
        Self::Word(VersionsWord::Latest)
    }
}

/// The section `[instances]`: what runs at once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Instances {
    /// Sessions, each on a thread of its own. Default: the node's `sessions`, one per core.
    pub(crate) count: Option<u32>,
    /// Threads of each session that share one operator's work. More than one helps a single caller of a large model, and
    /// costs the others.
    pub(crate) threads: u32,
    /// Whether idle threads of a session spin. Faster for one caller, at the price of a whole core.
    pub(crate) spinning: bool,
}

impl Default for Instances {
    fn default() -> Self {
        Self { count: None, threads: 1, spinning: false }
    }
}

/// The section `[batching]`: whether and how requests are joined for one run, along their first dimension.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Batching {
    /// `"auto"` joins where a measurement at load shows that it pays; `"on"` and `"off"` decide.
    pub(crate) mode: BatchingMode,
    /// Most rows of one run. Default: with `auto` the smallest size that was found to give nine tenths of the best, with
    /// `on` 16.
    pub(crate) max_size: Option<u32>,
    /// How long a request may wait for others while a session is idle.
    pub(crate) max_delay: Span,
    /// Rows that a run should have where there is a choice: with `max_delay`, a run begins as soon as one is reached.
    pub(crate) preferred_sizes: Vec<u32>,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            mode: BatchingMode::Auto,
            max_size: None,
            max_delay: Span::default(),
            preferred_sizes: Vec::new(),
        }
    }
}

/// Whether requests are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BatchingMode {
    /// Where it was measured to pay.
    Auto,
    /// Always, where the model's shapes allow it; else the model does not load.
    On,
    /// Never.
    Off,
}

/// The section `[queue]`: who waits, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct QueueSettings {
    /// Requests of this model that may wait. Default: the node's `queue_max`, which bounds those of all models.
    pub(crate) max: Option<u32>,
    /// Priorities that requests can have, 1 the highest; 0: all are equal.
    pub(crate) priority_levels: u8,
    /// The priority of requests that name none. Default: the lowest.
    pub(crate) default_priority: Option<u8>,
    /// Longest time that a request may wait, whatever its deadline says. Default: none.
    pub(crate) timeout: Option<Span>,
}

/// The section `[execution]`: what computes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Execution {
    /// Execution providers, the first that can is used: `cpu`, `cuda`, `tensorrt`, `openvino`, ...
    pub(crate) providers: Vec<String>,
    /// Options of a provider, by its name, as ONNX Runtime documents them.
    pub(crate) options: BTreeMap<String, BTreeMap<String, toml::Value>>,
    /// How much of the graph is rewritten at load.
    pub(crate) optimization: Optimization,
    /// Whether the optimised model, and a provider's engines, are kept on disk for the next start.
    pub(crate) cache: bool,
}

impl Default for Execution {
    fn default() -> Self {
        Self {
            providers: vec!["cpu".to_owned()],
            options: BTreeMap::new(),
            optimization: Optimization::All,
            cache: false,
        }
    }
}

/// How much of the graph is rewritten at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Optimization {
    /// Nothing.
    Off,
    /// What keeps the operators.
    Basic,
    /// Also fusions.
    Extended,
    /// Also the layout of tensors: half of the speed of convolutional networks.
    All,
}

/// The section `[limits]`: what is refused before it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ModelLimits {
    /// The largest shape of an input, by its name. Default: what the model's file says, where it varies any.
    pub(crate) max_shape: BTreeMap<String, Vec<u64>>,
    /// Most elements of all inputs together. Default: what the frame's payload limit allows.
    pub(crate) elements_max: Option<u64>,
    /// Operator domains beyond ONNX's own and Microsoft's that the model may use.
    pub(crate) domains: Vec<String>,
}

/// The section `[sequence]`: state that the node keeps between the requests of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Sequence {
    /// The inputs that take the state, and the outputs that give the next.
    pub(crate) states: Vec<State>,
    /// A sequence without a request for this long is forgotten.
    pub(crate) idle_timeout: Span,
    /// Most sequences at once. Each holds its state's bytes; beyond, a new one is refused as busy.
    pub(crate) max: u32,
}

impl Default for Sequence {
    fn default() -> Self {
        Self { states: Vec::new(), idle_timeout: Span(Duration::from_secs(60)), max: 1024 }
    }
}

/// One state of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// The input that takes it.
    pub(crate) input: String,
    /// The output that gives the next one.
    pub(crate) output: String,
    /// Its shape at the start of a sequence, filled with zeros. Default: the input's, with 1 for dimensions that vary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shape: Option<Vec<u64>>,
}

/// The section `[cache]`: answers that are given again without a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cache {
    /// Bytes that the answers may take; 0 keeps none. Only for models that give the same answer to the same inputs.
    pub(crate) bytes_max: u64,
    /// How long an answer is kept at most. Default: until the room is needed, or the version goes.
    pub(crate) lifetime: Option<Span>,
}

/// The section `[warmup]`: what is run at load, before the first request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Warmup {
    /// Runs per session. The first run of a model takes memory and plans.
    pub(crate) runs: u32,
    /// The shape of an input, by its name, for dimensions that vary. Default: 1 for the first, 64 for the
    /// others, or 1 where the model takes no 64.
    pub(crate) shape: BTreeMap<String, Vec<u64>>,
}

impl Default for Warmup {
    fn default() -> Self {
        Self { runs: 1, shape: BTreeMap::new() }
    }
}
