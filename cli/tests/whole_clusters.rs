//! `lineside torture` and `lineside bench ladder` with the debug binary, short and gentle.

use std::{
    process::{Command, Output},
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

/// Each starts a cluster of its own: together they would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn lineside(arguments: &[&str]) -> Output {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new(env!("CARGO_BIN_EXE_lineside"));
    command.args(arguments).output().expect("the binary runs")
}

fn report(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{stdout}\n{stderr}"))
}

#[test]
fn a_tortured_cluster_loses_nothing_and_does_nothing_twice() {
    let output = lineside(&["torture", "--seconds", "20", "--seed", "7", "--rate", "40", "--json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report = report(&output);
    assert!(stderr.lines().next().is_some_and(|line| line.contains("seed 7")), "{stderr}");
    assert!(output.status.success(), "{report:#}\n{stderr}");
    assert_eq!(report["clean"], true);
    let ledger = &report["ledger"];
    for never in ["lost", "duplicates", "wrong", "unrecovered"] {
        assert_eq!(ledger[never], 0, "{never}: {report:#}");
    }
    assert!(100 < ledger["answers"].as_u64().unwrap(), "{report:#}");
    assert!(2 < ledger["faults"].as_u64().unwrap(), "{report:#}");
    for kind in ["HTTP binary", "HTTP JSON", "JSON-RPC", "QUIC", "slow", "sequence"] {
        assert!(
            ledger["kinds"][kind]["answers"].as_u64().is_some_and(|answers| 0 < answers),
            "{kind}: {report:#}"
        );
    }
}

#[test]
fn a_ladder_is_climbed_without_an_error_though_a_node_is_killed_on_each_step() {
    for via in ["http", "quic"] {
        let arguments = ["bench", "ladder", "--steps", "20,40", "--seconds", "3", "--via", via, "--json"];
        let output = lineside(&arguments);
        let report = report(&output);
        assert!(output.status.success(), "{via}: {report:#}\n{}", String::from_utf8_lossy(&output.stderr));
        let steps = report["steps"].as_array().unwrap();
        let killed: Vec<_> = steps.iter().map(|step| &step["killed"]).collect();
        assert_eq!(killed, ["press", "weld"], "{report:#}");
        for (step, due) in steps.iter().zip([60, 120]) {
            assert_eq!((&step["due"], &step["unsent"]), (&due.into(), &0.into()), "{report:#}");
            assert_eq!(step["answers"], due, "{report:#}");
        }
    }
}
