//! The documents, held against what is built: their commands are run, their names looked for in the code.

mod blocks;
mod names;
mod newcomer;

use std::{fs, path::Path};

use blocks::{Block, blocks};
use newcomer::Newcomer;

const README: &str = include_str!("../../../README.md");
const HTTP_API: &str = include_str!("../../../docs/http-api.md");
const MODELS: &str = include_str!("../../../docs/models.md");

/// A test of all tests cannot run all tests: continuous integration runs this line itself.
const RUN_ELSEWHERE: &str = "cargo test --workspace";

/// What must be in the output, for the commands whose output README speaks of.
const SAYS: [(&str, &str); 14] = [
    ("cargo run --release -- demo", "lost"),
    ("lineside runtime install", "libonnxruntime"),
    ("lineside token create", "lineside up --join ls1."),
    ("lineside models check", "READY"),
    ("lineside models vibration", "gives: score"),
    ("lineside members", "weld"),
    ("lineside models --data-dir", "surface-defects"),
    ("lineside status", "is well"),
    ("curl -s -F image=@", "\"verdict\":\"NOK\""),
    ("lineside keys create", "lsk_"),
    ("curl -s http://localhost:8080/v2/models/add/infer", "\"data\":[4.0,6.0]"),
    ("curl -s http://localhost:8080/rpc", "\"vibration-anomaly\""),
    ("lineside infer add", "[4.0, 6.0]"),
    ("curl -s http://localhost:8080/v2/models/vibration", "\"features\""),
];

#[test]
fn every_console_block_of_readme_does_what_it_says() {
    let commands: Vec<_> = blocks(README).into_iter().flat_map(|block| block.commands).collect();
    assert!(10 < commands.len(), "README has console blocks");
    for (begins, _) in SAYS {
        assert!(commands.iter().any(|command| command.starts_with(begins)), "README no longer has: {begins}");
    }
    let mut newcomer = Newcomer::new();
    for command in commands.iter().filter(|command| *command != RUN_ELSEWHERE) {
        let wanted =
            SAYS.iter().find(|(begins, _)| command.starts_with(begins)).map_or("", |(_, wanted)| *wanted);
        newcomer.types(command, |said| match said.contains(wanted) {
            true => Ok(()),
            false => Err(format!("{wanted:?} was expected in its output")),
        });
    }
}

#[test]
fn every_console_block_about_http_gives_the_answer_below_it() {
    gives_the_answers_below_its_blocks(HTTP_API, 11);
}

#[test]
fn every_console_block_about_models_gives_the_answer_below_it() {
    gives_the_answers_below_its_blocks(MODELS, 4);
}

fn gives_the_answers_below_its_blocks(document: &str, answers_min: usize) {
    let blocks = blocks(document);
    let answers = blocks.iter().filter(|block| block.answer.is_some()).count();
    assert!(answers_min <= answers, "{answers} blocks with answers");
    let mut newcomer = Newcomer::new();
    for Block { commands, answer } in blocks {
        let (last, before) = commands.split_last().expect("a block has a command");
        before.iter().for_each(|command| newcomer.types(command, |_| Ok(())));
        newcomer.types(last, |said| answer.as_ref().map_or(Ok(()), |answer| answer.is_in(said)));
    }
}

#[test]
fn documents_fit_a_window_of_120_columns() {
    let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    let mut files: Vec<_> = fs::read_dir(docs).expect("docs").flatten().map(|entry| entry.path()).collect();
    files.extend(["README.md", "CHANGELOG.md"].map(|name| docs.join("..").join(name)));
    // The specification has long fields in tables and examples.
    for file in files.iter().filter(|file| !file.ends_with("PROTOCOL.md")) {
        let text = fs::read_to_string(file).expect("a document");
        // A row of a table is one line, however long its fields are.
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('|')) {
            let wide = line.chars().count();
            assert!(wide <= 120, "{}:{}: {wide} columns", file.display(), number + 1);
        }
    }
}

#[test]
fn the_line_that_cannot_run_here_is_run_by_continuous_integration() {
    let commands: Vec<_> = blocks(README).into_iter().flat_map(|block| block.commands).collect();
    assert!(commands.iter().any(|command| command == RUN_ELSEWHERE));
    let recipes = include_str!("../../../justfile");
    assert!(recipes.lines().any(|line| line.trim() == RUN_ELSEWHERE), "`just test` runs it");
}
