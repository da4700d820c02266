//! What the cluster says of its models: one line each, or all of it.

use std::{collections::BTreeSet, fmt::Write as _};

use lineside_client::{Roster, Standing};
use lineside_wire::{EngineInfo, ModelInfo, ModelName, ModelState, NodeId, TensorSpec};
use serde::Serialize;

use super::super::connect::label;
use crate::output::Table;

/// A model as the list shows it.
#[derive(Debug, Serialize)]
pub(super) struct ListedModel {
    #[serde(flatten)]
    model: ModelInfo,
    nodes: Vec<OnNode>,
}

impl ListedModel {
    pub(super) fn is_called(&self, name: &ModelName) -> bool {
        self.model.name == *name
    }

    /// The nodes that serve it.
    fn serving(&self) -> impl Iterator<Item = &OnNode> {
        self.nodes.iter().filter(|node| node.serves())
    }

    /// How the nodes that serve it run it.
    fn engines(&self) -> impl Iterator<Item = &EngineInfo> {
        self.serving().filter_map(|node| node.engine.as_deref())
    }
}

/// What one node says of a model.
#[derive(Debug, Serialize)]
struct OnNode {
    name: String,
    node: NodeId,
    /// What the cluster thinks of the node.
    standing: String,
    state: ModelState,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Calls that it runs at once.
    slots: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<Box<EngineInfo>>,
}

impl OnNode {
    fn serves(&self) -> bool {
        self.state == ModelState::Ready && self.standing.parse().is_ok_and(Standing::is_present)
    }
}

pub(super) fn models_of(roster: &Roster) -> Vec<ListedModel> {
    let on_nodes = |model: &ModelInfo| {
        let nodes = roster.rows().iter().filter_map(|row| {
            let said = row.member.as_ref()?.models.iter();
            let own = said.into_iter().find(|own| own.name == model.name && own.version == model.version)?;
            Some(OnNode {
                name: label(roster.rows(), row),
                node: row.node,
                standing: row.state.clone(),
                state: own.state,
                reason: own.reason.clone(),
                slots: own.slots,
                engine: own.engine.clone(),
            })
        });
        nodes.collect()
    };
    let models = roster.models().iter();
    models.map(|model| ListedModel { nodes: on_nodes(model), model: model.clone() }).collect()
}

/// One line each. What a model takes and gives is in [`full`]: with it a line would not fit a window.
pub(super) fn table(models: &[ListedModel]) -> Table {
    let head = ["MODEL", "VERSION", "STATE", "SLOTS", "BATCHING", "PROVIDER", "NODES", "REASON"];
    let mut table = Table::new(head).right([3]);
    for listed in models {
        let model = &listed.model;
        let serving: Vec<_> = listed.serving().map(|node| node.name.as_str()).collect();
        let providers: BTreeSet<_> = listed.engines().map(|engine| engine.provider.as_str()).collect();
        table.row([
            model.name.to_string(),
            model.version.to_string(),
            model.state.as_str().to_owned(),
            listed.serving().map(|node| node.slots).fold(0, u32::saturating_add).to_string(),
            batching(listed.engines()),
            Vec::from_iter(providers).join(","),
            serving.join(","),
            reason(model, &listed.nodes),
        ]);
    }
    table
}

/// `up to 16`; where the nodes differ, `up to 4-16`.
fn batching<'a>(engines: impl Iterator<Item = &'a EngineInfo>) -> String {
    let sizes = engines.filter_map(|engine| engine.batching.as_ref()).map(|batching| batching.max_size);
    let sizes: BTreeSet<_> = sizes.collect();
    match (sizes.first(), sizes.last()) {
        (Some(least), Some(most)) if least == most => format!("up to {most}"),
        (Some(least), Some(most)) => format!("up to {least}-{most}"),
        _ => String::new(),
    }
}

/// Why a model does not serve; of one that serves somewhere, which nodes cannot and why.
fn reason(model: &ModelInfo, nodes: &[OnNode]) -> String {
    if model.state != ModelState::Ready {
        return model.reason.clone().unwrap_or_default();
    }
    let troubles = nodes.iter().filter_map(|node| Some(format!("{}: {}", node.name, node.reason.as_ref()?)));
    troubles.collect::<Vec<_>>().join("; ")
}

/// `a:FP32[-1,4] b:INT64[1]`.
pub(crate) fn specs(specs: &[TensorSpec]) -> String {
    let one = |spec: &TensorSpec| {
        let dims: Vec<_> = spec.shape.iter().map(ToString::to_string).collect();
        format!("{}:{}[{}]", spec.name, spec.datatype, dims.join(","))
    };
    specs.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// All that is known, a paragraph for each version.
pub(super) fn full(models: &[ListedModel]) -> String {
    let mut text = String::new();
    for ListedModel { model, nodes } in models {
        let gap = if text.is_empty() { "" } else { "\n" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{gap}{} version {}: {}", model.name, model.version, model.state.as_str());
        line(&mut text, 1, "takes", &specs(&model.inputs));
        line(&mut text, 1, "gives", &specs(&model.outputs));
        let tasks: Vec<_> = model.tasks.iter().map(|task| task.as_str()).collect();
        line(&mut text, 1, "tasks", &tasks.join(", "));
        for node in nodes {
            let standing =
                if node.standing == "alive" { String::new() } else { format!(" ({})", node.standing) };
            line(&mut text, 1, "node", &format!("{}{standing}: {}", node.name, node.state.as_str()));
            line(&mut text, 2, "reason", node.reason.as_deref().unwrap_or_default());
            if let Some(engine) = &node.engine {
                self::engine(&mut text, engine, node.slots);
            }
        }
    }
    text
}

fn engine(text: &mut String, engine: &EngineInfo, slots: u32) {
    let EngineInfo {
        sha256,
        file_bytes,
        memory_bytes,
        provider,
        threads,
        batching: _,
        finding,
        versions,
        rows_max,
        priority_levels,
        default_priority,
        cache_bytes_max,
        stateful,
        sequence_idle_us: _,
        on_demand,
        warnings,
    } = engine;
    let threads = if *threads == 1 { "one thread".to_owned() } else { format!("{threads} threads") };
    line(text, 2, "runs", &format!("on {provider}, {slots} at once, with {threads} each"));
    line(text, 2, "batching", &joined(engine));
    line(text, 2, "finding", finding);
    let some = |bytes: u64| if bytes == 0 { String::new() } else { size(bytes) };
    line(text, 2, "memory", &some(*memory_bytes));
    line(text, 2, "cache", &some(*cache_bytes_max));
    let priorities = match priority_levels {
        0 => String::new(),
        levels => format!("{levels}, {default_priority} where a request names none"),
    };
    line(text, 2, "priorities", &priorities);
    line(
        text,
        2,
        "rows",
        &if *rows_max == 0 { String::new() } else { format!("at most {rows_max} a request") },
    );
    line(text, 2, "versions", &versions.as_ref().map(ToString::to_string).unwrap_or_default());
    line(text, 2, "sequences", if *stateful { "their state is kept here" } else { "" });
    line(text, 2, "on demand", if *on_demand { "loaded when it is asked for" } else { "" });
    line(text, 2, "files", &format!("{}, sha256 {sha256}", size(*file_bytes)));
    for warning in warnings {
        line(text, 2, "warning", warning);
    }
}

/// How requests are joined, in words.
pub(super) fn joined(engine: &EngineInfo) -> String {
    let Some(batching) = &engine.batching else { return "each request runs alone".to_owned() };
    let mut text = format!("up to {} rows", batching.max_size);
    if 0 < batching.max_delay_us {
        let _ = write!(text, ", waiting {} us for more", batching.max_delay_us);
    }
    if !batching.preferred_sizes.is_empty() {
        let _ = write!(text, ", preferring {:?}", batching.preferred_sizes);
    }
    text
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, power)| 1 << power <= bytes) {
        // A tenth is all that is shown.
        Some((unit, power)) => {
            let tenths = (bytes >> (power - 10)).saturating_mul(10) >> 10;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// A line of [`full`]; what there is nothing to say of has none. Names and reasons come from elsewhere: they must not
/// control the terminal.
fn line(text: &mut String, depth: usize, key: &str, value: &str) {
    if !value.is_empty() {
        let value = value.replace(|c: char| c.is_control(), "?");
        let _ = writeln!(text, "{:1$}{key}: {value}", "", depth * 2);
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::BatchingInfo;

    use super::*;
    use crate::commands::{connect::tests as rows, models::tests::model};

    fn run(max_size: Option<u32>) -> ModelInfo {
        let engine = EngineInfo {
            sha256: "ab".to_owned(),
            file_bytes: 2048,
            memory_bytes: 3 << 20,
            provider: "cpu".to_owned(),
            threads: 1,
            batching: max_size.map(|max_size| BatchingInfo { max_size, ..BatchingInfo::default() }),
            finding: "16 rows run 5.9 times as fast".to_owned(),
            warnings: vec!["model_warmup is not \u{1b}read".to_owned()],
            ..EngineInfo::default()
        };
        ModelInfo { engine: Some(Box::new(engine)), ..model("add", ModelState::Ready) }
    }

    fn cells(line: &str) -> Vec<&str> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }

    #[test]
    fn the_list_says_where_a_model_serves_and_where_it_cannot() {
        let mut weld = rows::row("weld", vec![model("add", ModelState::Ready)]);
        weld.state = "down".to_owned();
        let list = rows::list(vec![
            rows::row("glue", vec![model("add", ModelState::Unavailable)]),
            rows::row("press", vec![run(Some(16))]),
            weld,
        ]);
        let models = models_of(&Roster::new(list));
        let text = table(&models).to_string();
        let expected = ["add", "1", "READY", "2", "up to 16", "cpu", "press", "glue: it is no ONNX model"];
        assert_eq!(cells(text.lines().nth(1).unwrap()), expected);
        let json = serde_json::to_value(&models).unwrap();
        assert_eq!(json[0]["name"], "add");
        assert_eq!(json[0]["nodes"][2]["standing"], "down");
        assert_eq!(json[0]["nodes"][1]["engine"]["provider"], "cpu");
    }

    #[test]
    fn sizes_are_told_to_a_tenth() {
        let told = [0, 1023, 1024, 1536, (3 << 20) + (1 << 19), u64::MAX].map(size);
        assert_eq!(told[..5], ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "3.5 MiB"]);
        assert!(told[5].ends_with("GiB"), "{told:?}");
    }

    #[test]
    fn nodes_that_join_differently_are_told_together() {
        let infos = |sizes: &[Option<u32>]| {
            let members = sizes.iter().enumerate();
            let members = members.map(|(at, size)| rows::row(&format!("n{at}"), vec![run(*size)])).collect();
            let models = models_of(&Roster::new(rows::list(members)));
            batching(models[0].engines())
        };
        assert_eq!(infos(&[Some(16), Some(16)]), "up to 16");
        assert_eq!(infos(&[Some(16), Some(4), None]), "up to 4-16");
        assert_eq!(infos(&[None]), "");
    }

    #[test]
    fn all_of_a_model_is_what_it_takes_and_how_each_node_runs_it() {
        let list = rows::list(vec![rows::row("press", vec![run(Some(16))])]);
        let text = full(&models_of(&Roster::new(list)));
        for line in [
            "add version 1: READY",
            "  takes: a:FP32[-1,2] b:FP32[-1,2]",
            "  node: press: READY",
            "    runs: on cpu, 2 at once, with one thread each",
            "    batching: up to 16 rows",
            "    finding: 16 rows run 5.9 times as fast",
            "    memory: 3.0 MiB",
            "    files: 2.0 KiB, sha256 ab",
            "    warning: model_warmup is not ?read",
        ] {
            assert!(text.lines().any(|said| said == line), "{line}: {text}");
        }
        assert!(!text.contains("sequences") && !text.contains("cache"), "{text}");
    }
}
