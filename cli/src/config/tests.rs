//! Stories of settings: where they come from, what is refused, and that the documents agree with the code.

use std::{num::NonZeroU32, path::Path, time::Duration};

use super::{error::Mistake, keys::KEYS, load::*, show::*, *};

fn from_text(text: &str) -> Result<Loaded, InvalidConfig> {
    load_text(Path::new("line.toml"), text)
}

fn only_mistake(text: &str) -> Mistake {
    let mut mistakes = from_text(text).expect_err("a mistake").mistakes;
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    mistakes.remove(0)
}

fn in_repository(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn an_empty_file_is_all_defaults() {
    assert_eq!(from_text("").unwrap().config, Config::default());
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("line.toml");
    std::fs::write(&file, "[gateway]\nhttp = \"127.0.0.1:1\"\ndeadline = \"1s\"\nburst = 7\n").unwrap();
    let sources = Sources {
        file: Some(file.clone()),
        environment: vec![
            ("LINESIDE__GATEWAY__HTTP".into(), "127.0.0.1:2".into()),
            ("LINESIDE__GATEWAY__DEADLINE".into(), "2s".into()),
            ("PATH".into(), "/bin".into()),
            ("LINESIDE_CONFIG".into(), "elsewhere".into()),
        ],
        flags: vec![Flag { key: "gateway.http", flag: "--http", value: "127.0.0.1:3".into() }],
    };
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.gateway.http, "127.0.0.1:3".parse().unwrap());
    assert_eq!(loaded.config.gateway.deadline, Duration::from_secs(2));
    assert_eq!(loaded.config.gateway.burst, NonZeroU32::new(7).unwrap());
    assert_eq!(loaded.origin("gateway.http"), &Origin::Flag { flag: "--http" });
    let variable = "LINESIDE__GATEWAY__DEADLINE".to_owned();
    assert_eq!(loaded.origin("gateway.deadline"), &Origin::Environment { variable });
    assert_eq!(loaded.origin("gateway.burst"), &Origin::File { file, line: 4 });
    assert_eq!(loaded.origin("gateway.shards"), &Origin::Default);
}

#[test]
fn a_mistyped_key_is_refused_with_its_line_and_the_right_name() {
    let mistake = only_mistake("[gateway]\nburst = 3\n\ndeadlin = \"5s\"\n");
    assert_eq!(mistake.what(), "line.toml:4: unknown key gateway.deadlin");
    assert!(mistake.remedy().contains("did you mean gateway.deadline?"), "{}", mistake.remedy());
}

#[test]
fn a_key_in_the_wrong_section_is_sent_to_the_right_one() {
    for text in ["[node]\ndeadline = \"5s\"", "deadline = \"5s\"", "[gatway]\ndeadline = \"5s\""] {
        let remedy = only_mistake(text).remedy();
        assert!(remedy.contains("did you mean gateway.deadline?"), "{text:?}: {remedy}");
    }
}

#[test]
fn a_key_like_no_other_gets_no_suggestion() {
    let Mistake::UnknownKey { suggestion, .. } = only_mistake("[gateway]\nfrobnicate = 1") else { panic!() };
    assert_eq!(suggestion, None);
    assert!(matches!(only_mistake("[telemetry]"), Mistake::UnknownKey { .. }));
}

#[test]
fn a_mistyped_variable_is_refused_with_the_right_name() {
    let environment = vec![("LINESIDE__GATEWAY__DEADLINES".into(), "5s".into())];
    let error = load(&Sources { environment, ..Sources::default() }).unwrap_err();
    let mistake = &error.mistakes[0];
    assert_eq!(mistake.what(), "environment LINESIDE__GATEWAY__DEADLINES: unknown key gateway.deadlines");
    assert!(mistake.remedy().contains("LINESIDE__GATEWAY__DEADLINE?"), "{}", mistake.remedy());
}

#[test]
fn a_wrong_value_is_refused_with_what_is_allowed() {
    let mistake = only_mistake("[gateway]\ndeadline = 5");
    assert_eq!(mistake.what(), "line.toml:2: gateway.deadline cannot be 5");
    assert!(mistake.why().starts_with("allowed is a time"), "{}", mistake.why());
}

#[test]
fn every_mistake_is_reported_at_once() {
    let error = from_text("[gateway]\nburst = 0\nhttp = 1\n[node]\nmodel = \"x\"").unwrap_err();
    assert_eq!(error.mistakes.len(), 3, "{error:?}");
}

#[test]
fn what_is_no_toml_is_refused_with_its_line() {
    let mistake = only_mistake("[gateway]\nburst = = 3\n");
    assert_eq!(mistake.what(), "line.toml:2: not valid TOML");
    assert!(matches!(only_mistake("[node]\nqueue_max = 1\nqueue_max = 2"), Mistake::Syntax { .. }));
}

#[test]
fn a_heartbeat_whose_timeout_leaves_no_time_to_ask_others_is_a_conflict() {
    for text in [
        "[member]\nprobe_timeout = \"501ms\"\n",
        "[member]\nprobe_interval = \"900ms\"\n",
        "[member]\npreset = \"fast\"\nprobe_interval = \"200ms\"\n",
    ] {
        let mistake = only_mistake(text);
        assert!(matches!(mistake, Mistake::Conflict { .. }), "{text}: {mistake:?}");
        assert!(format!("{mistake:?}").contains("more than half of the interval"), "{mistake:?}");
        assert_ne!(mistake.line(), usize::MAX, "{text}: the place is where somebody set it");
    }
    for text in [
        "[member]\nprobe_interval = \"2s\"\nprobe_timeout = \"1s\"\nprobe_retries = 3\n",
        "[member]\npreset = \"fast\"\nprobe_timeout = \"250ms\"\n",
    ] {
        let loaded = from_text(text).expect("half of it is enough");
        loaded.config.member.pace().check().expect("it was checked");
    }
}

#[test]
fn a_deadline_beyond_the_longest_one_is_a_conflict() {
    let mistake = only_mistake("[gateway]\ndeadline_max = \"5s\"\n");
    assert!(matches!(mistake, Mistake::Conflict { place: Origin::File { line: 2, .. }, .. }), "{mistake:?}");
    assert!(from_text("[gateway]\ndeadline_max = \"5s\"\ndeadline = \"5s\"").is_ok());
}

#[test]
fn a_rest_beyond_the_longest_one_is_a_conflict() {
    let mistake = only_mistake("[gateway]\neject_time_max = \"1s\"\n");
    assert!(matches!(mistake, Mistake::Conflict { place: Origin::File { line: 2, .. }, .. }), "{mistake:?}");
    assert!(from_text("[gateway]\neject_time_max = \"1s\"\neject_time = \"1s\"").is_ok());
}

#[test]
fn settings_of_https_that_do_not_fit_together_are_conflicts() {
    for (text, key) in [
        ("tls = \"files\"\ntls_key = \"/k\"", "gateway.tls_certificate"),
        ("tls = \"files\"\ntls_certificate = \"/c\"", "gateway.tls_key"),
        ("tls_key = \"/k\"", "gateway.tls_key"),
        ("tls = \"cluster\"\ntls_certificate = \"/c\"", "gateway.tls_certificate"),
        ("tls_only = true", "gateway.tls_only"),
        ("tls_names = [\"press.local\"]", "gateway.tls_names"),
        ("grpc = \"127.0.0.1:8080\"", "gateway.grpc"),
    ] {
        let mistake = only_mistake(&format!("[gateway]\n{text}\n"));
        let Mistake::Conflict { key: found, place, .. } = &mistake else { panic!("{text}: {mistake:?}") };
        assert_eq!(*found, key, "{text}");
        assert!(matches!(place, Origin::File { .. }), "{text}: {place}");
    }
    for text in [
        "tls = \"files\"\ntls_certificate = \"/c\"\ntls_key = \"/k\"\ntls_only = true",
        "tls = \"cluster\"\ntls_names = [\"press.local\", \"10.0.0.7\"]",
        "http = \"127.0.0.1:0\"\ngrpc = \"127.0.0.1:0\"",
    ] {
        assert!(from_text(&format!("[gateway]\n{text}\n")).is_ok(), "{text}");
    }
}

#[test]
fn settings_of_models_that_do_nothing_are_conflicts() {
    for (text, key) in [("load = [\"add\"]", "node.load"), ("memory_max = \"1GiB\"", "node.memory_max")] {
        let mistake = only_mistake(&format!("[node]\n{text}\n"));
        assert!(matches!(&mistake, Mistake::Conflict { key: found, .. } if *found == key), "{mistake:?}");
    }
    let loaded =
        from_text("[node]\ncontrol = \"explicit\"\nload = []\non_demand = true\nmemory_max = \"1GiB\"");
    assert_eq!(loaded.unwrap().config.node.load, Some(vec![]));
    let cache = |text: &str| from_text(text).unwrap().config.model_cache();
    assert!(cache("[member]\ndata_dir = \"/data\"").unwrap().ends_with("cache/models"));
    assert_eq!(cache("[node]\nmodel_cache = \"none\""), None);
}

#[test]
fn paths_that_are_not_there_are_found_before_the_start() {
    let loaded = from_text("[node]\nmodels = \"/no/such/place\"").unwrap();
    let error = loaded.check_paths().unwrap_err();
    assert_eq!(error.mistakes[0].why(), "/no/such/place is no directory");
    let loaded = from_text("[certs]\npassphrase_file = \"/no/such/file\"").unwrap();
    assert_eq!(loaded.check_paths().unwrap_err().mistakes[0].why(), "/no/such/file is no file");
    let files = "tls = \"files\"\ntls_certificate = \"/no/such/cert\"\ntls_key = \"/no/such/key\"";
    let loaded = from_text(&format!("[gateway]\n{files}")).unwrap();
    assert_eq!(loaded.check_paths().unwrap_err().mistakes.len(), 2);
    assert!(from_text("").unwrap().check_paths().is_ok());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let sources = Sources { file: Some("/no/such/file.toml".into()), ..Sources::default() };
    let error = load(&sources).unwrap_err();
    assert_eq!(error.mistakes[0].what(), "cannot read the configuration /no/such/file.toml");
}

#[test]
fn the_sample_file_is_what_the_code_would_write_and_loads_as_the_defaults() {
    let sample = in_repository("config/lineside.toml");
    assert_eq!(
        sample,
        show::sample(),
        "write it anew: lineside config show --default > config/lineside.toml"
    );
    assert_eq!(from_text(&sample).unwrap().config, Config::default());
}

#[test]
fn every_other_sample_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let mut samples = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // A model's settings are another file, which the node's tests load.
        if path.extension().is_none_or(|extension| extension != "toml") || path.ends_with("model.toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        if let Err(error) = load_text(&path, &text) {
            panic!("{error:?}");
        }
        samples += 1;
    }
    assert!(2 <= samples, "the full sample and at least one for a gateway");
}

#[test]
fn the_documentation_has_every_key_with_its_default_and_no_other() {
    let document = in_repository("docs/configuration.md");
    let row = |line: &str| {
        let (key, rest) = line.strip_prefix("- `")?.split_once("` = `")?;
        let (default, _) = rest.split_once("`: ")?;
        Some((key.to_owned(), default.to_owned()))
    };
    let documented: Vec<_> = document.lines().filter_map(row).collect();
    let real: Vec<_> =
        KEYS.iter().map(|key| (key.path(), (key.get)(&Config::default()).to_string())).collect();
    assert_eq!(documented, real);
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    let loaded =
        from_text("[gateway]\nburst = 9\n[member]\nseeds = [\"10.0.0.1:7443\"]\nname = \"press\"").unwrap();
    for style in [Style::Plain, Style::Origins, Style::Comments] {
        let again = from_text(&show_text(&loaded, style)).unwrap();
        assert_eq!(again.config, loaded.config, "{style:?}");
    }
    let json = show_json(&loaded);
    assert_eq!(json["gateway"]["burst"]["value"], 9);
    assert_eq!(json["gateway"]["burst"]["origin"]["line"], 2);
}

#[test]
fn a_variable_with_one_underscore_is_told_in_the_place_of_being_ignored() {
    let environment = ["LINESIDE_GATEWAY__DEADLINE", "LINESIDE_GATEWAY_DEADLINE", "LINESIDE_MEMBER_DATA_DIR"];
    for variable in environment {
        let environment = vec![(variable.to_owned(), "5s".to_owned())];
        let error = load(&Sources { environment, ..Sources::default() }).unwrap_err();
        let remedy = error.mistakes[0].remedy();
        assert!(
            remedy.contains("LINESIDE__GATEWAY__DEADLINE") || remedy.contains("LINESIDE__MEMBER__DATA_DIR"),
            "{remedy}"
        );
    }
    let others =
        ["LINESIDE_CONFIG", "LINESIDE_CACHE", "LINESIDE_NODE"].map(|name| (name.to_owned(), "x".to_owned()));
    assert!(load(&Sources { environment: others.into(), ..Sources::default() }).is_ok());
}

#[test]
fn certificates_live_as_long_as_is_set_and_an_admins_a_day() {
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(Config::default().lifetimes(), lineside_certs::Lifetimes::default());
    let lifetimes = from_text("[certs]\nmember_lifetime = \"20s\"").unwrap().config.lifetimes();
    assert_eq!((lifetimes.member, lifetimes.client), (Duration::from_secs(20), 30 * day));
    assert_eq!(lifetimes.admin, day);
}

#[test]
fn mistakes_come_in_the_order_of_the_file() {
    let text = "[member]\nname = \"a b\"\n[gateway]\ndeadlin = \"5s\"\nburst = 0\n";
    let error = load_text(Path::new("line.toml"), text).unwrap_err();
    assert_eq!(error.mistakes.iter().map(Mistake::line).collect::<Vec<_>>(), [2, 4, 5]);
}

#[test]
fn the_unit_for_systemd_starts_a_member_and_leaves_one_whose_settings_are_wrong() {
    use clap::Parser as _;

    use crate::exit::Exit;
    let unit = in_repository("config/lineside.service");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("the unit has no {key}"))
    };
    let wrong = [Exit::Config, Exit::Usage].map(|exit| exit.number().to_string());
    assert_eq!(value("RestartPreventExitStatus"), wrong.join(" "));
    assert!(value("ExecReload").contains("-HUP $MAINPID"));
    assert_eq!(value("Type"), "notify");
    let seconds = |key: &str| Duration::from_secs(value(key).parse().expect("whole seconds"));
    assert!(Config::default().member.drain_within + Duration::from_secs(10) <= seconds("TimeoutStopSec"));
    // The gossip thread counts as stuck after five seconds, and that ends the member in order.
    assert!(Duration::from_secs(10) <= seconds("WatchdogSec"));
    let command = value("ExecStart").split_whitespace();
    assert!(crate::args::Cli::try_parse_from(command).is_ok());
}
