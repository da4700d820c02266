use std::{fs, path::Path};

use super::*;
use crate::settings::{Embed, Predict, Sequence, Source, Verdict};

fn in_repository(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

fn parse(text: &str) -> Settings {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("weld.toml"), text).unwrap();
    match Source::read(home.path(), Path::new("weld.toml")) {
        Ok((_, settings)) => settings,
        Err(told) => panic!("{told}\n{text}"),
    }
}

#[test]
fn the_sample_file_is_what_the_code_would_write_and_loads_as_the_defaults() {
    let sample = in_repository("config/model.toml");
    assert_eq!(sample, super::sample(), "write it anew: lineside models settings > config/model.toml");
    assert_eq!(parse(&sample), Settings::default());
}

#[test]
fn every_key_of_the_sample_is_one_that_can_be_set() {
    let set = |line: &str| match line.strip_prefix('#') {
        Some(key) if !key.starts_with(' ') => key.to_owned(),
        _ => line.to_owned(),
    };
    let lines: Vec<_> = in_repository("config/model.toml").lines().map(set).collect();
    let mut settings = parse(&lines.join("\n"));
    // The one example that needs another key.
    settings.queue.priority_levels = 1;
    assert_eq!(settings.check(None), Ok(()));
    assert_eq!(settings.predict.unwrap().verdict.unwrap().ok, ["good"]);
    assert_eq!(settings.sequence.unwrap().states.len(), 1);
    assert!(settings.embed.is_some());
}

#[test]
fn the_documentation_has_every_key_with_its_default_and_no_other() {
    let mut documented = Vec::new();
    let mut is_table = false;
    for line in in_repository("docs/models.md").lines() {
        is_table = line.starts_with("| key | default |") || (is_table && line.starts_with('|'));
        if is_table && let Some(rest) = line.strip_prefix("| `") {
            let (key, rest) = rest.split_once("` | ").unwrap();
            let (default, _) = rest.split_once(" | ").unwrap();
            documented.push((key.to_owned(), default.replace('`', "")));
        }
    }
    let sections = sections(&Settings::default());
    let rows = sections.into_iter().flat_map(|section| section.rows);
    let real: Vec<_> =
        rows.map(|row| (row.key.to_owned(), row.value.unwrap_or_else(|| row.without.to_owned()))).collect();
    assert_eq!(documented, real);
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    let text = "versions = { latest = 2 }\n[instances]\ncount = 4\n[batching]\nmax_delay = \"1.5ms\"\n\
                [queue]\ntimeout = \"2m\"\n[execution.options.cuda]\ndevice_id = 1\n[limits.max_shape]\n\"a b\" = [1, 3]\n\
                [cache]\nlifetime = \"90s\"\n[sequence]\nstates = [{ input = \"a\", output = \"b\", shape = [1] }]\n\
                [predict]\nscale = 0.1\nmean = [0.485, 0.456, 0.406]\nlabels = [\"a\\\"b\"]\n[predict.verdict]\n\
                ok = [\"x\"]\n[embed]\npooling = \"cls\"\n";
    let settings = parse(text);
    assert_eq!(parse(&effective(&settings)), settings, "{}", effective(&settings));
    assert_eq!(parse(&effective(&Settings::default())), Settings::default());
}

#[test]
fn what_has_no_value_is_told_in_words() {
    let text = effective(&Settings::default());
    assert!(text.starts_with("versions = \"latest\"\n\n[instances]\n# count: the node's sessions"), "{text}");
    assert!(!text.contains("[predict]") && !text.contains("[sequence]"), "{text}");
    let settings = Settings {
        predict: Some(Predict { verdict: Some(Verdict::default()), ..Predict::default() }),
        embed: Some(Embed::default()),
        sequence: Some(Sequence::default()),
        ..Settings::default()
    };
    let text = effective(&settings);
    assert!(text.contains("# scale: 1/255\n") && text.contains("[predict.verdict]\n# ok: needed"), "{text}");
}
