//! The rows of how a model is run.

use super::{
    super::{
        Batching, Cache, Execution, Instances, ModelLimits, QueueSettings, Sequence, Settings, Versions,
        Warmup,
    },
    Row, Section, open, row, written,
};

pub(super) fn sections(settings: &Settings) -> Vec<Section> {
    // What was declared is no setting; tasks have rows of their own.
    let Settings {
        versions,
        instances,
        batching,
        queue,
        execution,
        limits,
        sequence,
        cache,
        warmup,
        predict: _,
        embed: _,
        declared: _,
    } = settings;
    let there = |name, about, rows| Section { name, is_there: true, about, rows };
    let no_sequence = Sequence::default();
    vec![
        there("", "Which versions serve.", vec![self::versions(versions)]),
        there("instances", "What runs at once.", self::instances(instances)),
        there(
            "batching",
            "Whether and how requests are joined for one run, along their first dimension.",
            self::batching(batching),
        ),
        there("queue", "Who waits, and for how long.", self::queue(queue)),
        there("execution", "What computes.", self::execution(execution)),
        there("limits", "What is refused before it runs.", self::limits(limits)),
        there("cache", "Answers that are given again without a run.", self::cache(cache)),
        there("warmup", "What is run at load, before the first request.", self::warmup(warmup)),
        Section {
            name: "sequence",
            is_there: sequence.is_some(),
            about: "State that the node keeps between the requests of a sequence.",
            rows: self::sequence(sequence.as_ref().unwrap_or(&no_sequence)),
        },
    ]
}

fn versions(versions: &Versions) -> Row {
    let about = "\"latest\" (the highest alone), \"all\", { latest = 2 } or [1, 3].";
    row("versions", versions, about)
}

fn instances(Instances { count, threads, spinning }: &Instances) -> Vec<Row> {
    vec![
        open(
            "count",
            written(count),
            "the node's sessions, one per core",
            "2",
            "Sessions, each on a thread of its own, 1 to 256. More than the machine has cores make none faster.",
        ),
        row(
            "threads",
            threads,
            "Threads of each session that share one operator's work, 1 to 256. More help one caller of a large model, and cost the others.",
        ),
        row(
            "spinning",
            spinning,
            "Whether idle threads of a session spin: faster for one caller, at the price of whole cores.",
        ),
    ]
}

fn batching(Batching { mode, max_size, max_delay, preferred_sizes }: &Batching) -> Vec<Row> {
    vec![
        row(
            "mode",
            mode,
            "\"auto\" joins where a measurement at load shows that it pays; \"on\" and \"off\" decide.",
        ),
        open(
            "max_size",
            written(max_size),
            "what the measurement found, 16 with \"on\"",
            "16",
            "Most rows of one run, 1 to 1024. More rows make each of them wait for the last.",
        ),
        row(
            "max_delay",
            max_delay,
            "How long a request may wait for others while a session is idle, at most 10s. Every lone request waits that long.",
        ),
        row(
            "preferred_sizes",
            preferred_sizes,
            "Rows that a run should have where there is a choice, upwards: with max_delay, a run begins at one of them.",
        ),
    ]
}

fn queue(QueueSettings { max, priority_levels, default_priority, timeout }: &QueueSettings) -> Vec<Row> {
    vec![
        open(
            "max",
            written(max),
            "the node's queue_max, which bounds those of all models",
            "64",
            "Requests of this model that may wait. A longer queue gives late answers where a refusal would have sent the request to an idle node.",
        ),
        row(
            "priority_levels",
            priority_levels,
            "Priorities that requests can have, 1 the highest; 0: all are equal. At most 16.",
        ),
        open(
            "default_priority",
            written(default_priority),
            "the lowest",
            "1",
            "The priority of requests that name none.",
        ),
        open(
            "timeout",
            written(timeout),
            "no limit but the request's deadline",
            "\"1s\"",
            "Longest time that a request may wait, whatever its deadline says.",
        ),
    ]
}

fn execution(Execution { providers, options, optimization, cache }: &Execution) -> Vec<Row> {
    vec![
        row(
            "providers",
            providers,
            "Execution providers in the order of preference: \"cpu\", \"cuda\", \"tensorrt\", \"openvino\", ...",
        ),
        row(
            "options",
            options,
            "Options of a provider, by its name, as ONNX Runtime documents them: { cuda = { device_id = 1 } }.",
        ),
        row(
            "optimization",
            optimization,
            "How much of the graph is rewritten at load: \"all\", \"extended\", \"basic\", \"off\".",
        ),
        row(
            "cache",
            cache,
            "Whether the optimised model, and a provider's engines, are kept on disk for the next start.",
        ),
    ]
}

fn limits(ModelLimits { max_shape, elements_max, domains }: &ModelLimits) -> Vec<Row> {
    vec![
        row(
            "max_shape",
            max_shape,
            "The largest shape of an input, by its name: { image = [8, 3, 640, 640] }. Without one, what varies in the model's file may be as large as a call can bring.",
        ),
        open(
            "elements_max",
            written(elements_max),
            "what a call can bring",
            "1000000",
            "Most elements of all inputs together.",
        ),
        row("domains", domains, "Operator domains beyond ONNX's own and Microsoft's that the model may use."),
    ]
}

fn sequence(Sequence { states, idle_timeout, max }: &Sequence) -> Vec<Row> {
    let example = "[{ input = \"state\", output = \"stateN\" }]";
    vec![
        open(
            "states",
            Some(states).filter(|states| !states.is_empty()).and_then(written),
            "needed",
            example,
            "The inputs that take the state, and the outputs that give the next; shape is that at the start, zeros: by default the input's, with 1 where it varies.",
        ),
        row("idle_timeout", idle_timeout, "A sequence without a request for this long is forgotten."),
        row(
            "max",
            max,
            "Most sequences at once, each with its state's bytes; beyond, a new one is refused as busy.",
        ),
    ]
}

fn cache(Cache { bytes_max, lifetime }: &Cache) -> Vec<Row> {
    vec![
        row(
            "bytes_max",
            bytes_max,
            "Bytes that the answers may take; 0 keeps none. Only for models that give the same inputs the same answer.",
        ),
        open(
            "lifetime",
            written(lifetime),
            "until the room is needed, or the version goes",
            "\"10m\"",
            "How long an answer is kept at most.",
        ),
    ]
}

fn warmup(Warmup { runs, shape }: &Warmup) -> Vec<Row> {
    vec![
        row(
            "runs",
            runs,
            "Runs per session, 0 to 1000. The first run of a model takes memory and plans; 0 leaves it to a caller.",
        ),
        row(
            "shape",
            shape,
            "The shape of an input, by its name: { image = [1, 3, 640, 640] }. Without one, 1 for the first dimension, and 64 (else 1) for each other that varies.",
        ),
    ]
}
