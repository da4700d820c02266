//! Names that documents explain, looked for in the code.

use std::{fs, path::Path};

/// The text of all code of the product, with strings that go over several lines joined.
fn code() -> String {
    fn read(directory: &Path, text: &mut String) {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                read(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(&path).expect("source"));
            }
        }
    }
    let mut text = String::new();
    for folder in ["certs", "cli", "client", "discovery", "gateway", "mesh", "node", "wire"] {
        read(&Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(folder).join("src"), &mut text);
    }
    let mut parts = text.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |joined, part| joined + part.trim_start())
}

/// The first column of the tables below `head`, up to the next chapter: what stands in it as code.
fn first_column(document: &str, head: &str) -> Vec<String> {
    let chapter = document.split("\n## ").find(|chapter| chapter.starts_with(head)).expect("the chapter");
    let cells = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells.flat_map(|cell| cell.trim_end_matches('`').split("`, `").map(str::to_owned)).collect()
}

#[test]
fn every_log_line_and_metric_that_operations_explains_is_one_of_ours() {
    let (document, code) = (include_str!("../../../docs/operations.md"), code());
    let lines = first_column(document, "Logs");
    assert!(30 < lines.len(), "{lines:?}");
    for line in lines {
        assert!(code.contains(&line), "docs/operations.md explains a log line that nobody writes: {line}");
    }
    let metrics = first_column(document, "Metrics");
    assert!(15 < metrics.len(), "{metrics:?}");
    for metric in metrics.iter().filter(|metric| metric.starts_with("lineside_")) {
        let name: String = metric.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let name = name.trim_end_matches("_total").trim_end_matches("_seconds");
        let name = name.strip_prefix("lineside_").unwrap_or(name);
        assert!(code.contains(name), "docs/operations.md explains a metric that is not there: {metric}");
    }
}
