use std::fs;

use super::*;

/// A repository of sample models, with more files.
fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let add = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/repository/add/1/model.onnx");
    for version in 1..=3 {
        let directory = home.path().join(format!("add/{version}"));
        fs::create_dir_all(&directory).unwrap();
        fs::copy(&add, directory.join("model.onnx")).unwrap();
    }
    for (path, text) in files {
        let path = home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    home
}

fn outlooks(examined: &Examined) -> Vec<(u64, &'static str)> {
    examined.versions.iter().map(|version| (version.version.0, version.outlook.as_str())).collect()
}

#[test]
fn a_repository_is_looked_at_without_a_library() {
    let home = repository(&[("README.md", "x")]);
    let examination = examine(home.path(), None).unwrap();
    assert!(examination.is_good());
    let add = &examination.models[0];
    assert_eq!((add.name.to_string().as_str(), &add.source), ("add", &None));
    assert_eq!(outlooks(add), [(1, "NOT CHOSEN"), (2, "NOT CHOSEN"), (3, "READY")]);
    assert_eq!(add.versions[0].reason.as_deref(), Some("its settings choose the latest version"));
    assert!(add.settings.starts_with("versions = \"latest\"\n"));
    let file = add.versions[2].file.as_ref().unwrap();
    assert_eq!(file.sha256.len(), 64);
    assert!(file.opsets.iter().any(|(domain, _)| domain == "ai.onnx"), "{file:?}");
}

#[test]
fn where_the_latest_is_bad_the_next_one_stands_in() {
    let home = repository(&[("add/4/model.onnx", "no model"), ("add/5/other.txt", "x")]);
    let examination = examine(home.path(), None).unwrap();
    assert!(!examination.is_good());
    let add = &examination.models[0];
    let expected =
        [(1, "NOT CHOSEN"), (2, "NOT CHOSEN"), (3, "READY"), (4, "UNAVAILABLE"), (5, "UNAVAILABLE")];
    assert_eq!(outlooks(add), expected);
    assert!(add.versions[3].reason.as_ref().unwrap().contains("not an ONNX model"));
}

#[test]
fn wrong_settings_are_the_reason_of_every_version() {
    let home = repository(&[("add/model.toml", "[batching]\nmax_size = 0\n")]);
    let examination = examine(home.path(), None).unwrap();
    let add = &examination.models[0];
    assert_eq!(outlooks(add), [(1, "UNAVAILABLE"), (2, "UNAVAILABLE"), (3, "UNAVAILABLE")]);
    let reason = add.versions[0].reason.as_ref().unwrap();
    assert_eq!(reason, "add/model.toml line 2, batching.max_size: 0 is not within 1 to 1024");
}

#[test]
fn a_file_of_tritons_gives_the_settings_and_says_what_it_does_not_give() {
    let text = "version_policy { all {} }\nmodel_warmup {}\n";
    let home = repository(&[("add/config.pbtxt", text)]);
    let examination = examine(home.path(), None).unwrap();
    let add = &examination.models[0];
    assert_eq!(add.source.as_deref(), Some("add/config.pbtxt"));
    assert_eq!(outlooks(add), [(1, "READY"), (2, "READY"), (3, "READY")]);
    assert_eq!(add.warnings, ["add/config.pbtxt line 2: model_warmup is not read"]);
}

#[test]
fn what_is_no_model_is_told_and_a_directory_that_is_not_there_is_an_error() {
    let home = repository(&[("a model/1/model.onnx", "x")]);
    let examination = examine(home.path(), None).unwrap();
    assert!(!examination.is_good());
    assert_eq!(examination.refused[0].path, Path::new("a model/1"));
    let error = examine(&home.path().join("nowhere"), None).unwrap_err();
    assert!(error.to_string().contains("nowhere cannot be read"), "{error}");
}

#[test]
fn with_a_library_each_version_is_opened() {
    let home = repository(&[("add/model.toml", "[limits.max_shape]\nx = [1]\n")]);
    fs::create_dir_all(home.path().join("sum")).unwrap();
    fs::rename(home.path().join("add/1"), home.path().join("sum/1")).unwrap();
    let library = crate::runtime::ensure(None, &mut |_| {}).expect("these tests need ONNX Runtime").path;
    let opening = Opening { library, trial: None };
    let examination = examine(home.path(), Some(&opening)).unwrap();
    let add = &examination.models[0];
    let reason = add.versions[1].reason.as_ref().unwrap();
    assert!(reason.starts_with("add/model.toml line 1, limits.max_shape: \"x\" is no input"), "{reason}");
    let sum = &examination.models[1].versions[0];
    assert_eq!(sum.outlook, Outlook::Ready, "{:?}", sum.reason);
    let engine = sum.engine.as_ref().unwrap();
    assert_eq!(engine.provider, "cpu");
    assert!(!sum.inputs.is_empty());
}
