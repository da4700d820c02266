use lineside_wire::Datatype;

use super::*;
use crate::settings::Optimization;

fn config(text: &str) -> Config {
    read(text, Some("weld")).unwrap_or_else(|mistake| panic!("{text}: {mistake:?}"))
}

fn told(text: &str) -> String {
    let Mistake { line, field, reason } = read(text, Some("weld")).unwrap_err();
    format!("{line}, {field}: {reason}")
}

fn warnings(text: &str) -> Vec<String> {
    config(text).warnings.into_iter().map(|(line, text)| format!("{line}: {text}")).collect()
}

#[test]
fn a_usual_file_is_read_without_a_warning() {
    let text = r#"
        name: "weld"
        backend: "onnxruntime"
        max_batch_size: 8
        input [ { name: "picture" data_type: TYPE_FP32 format: FORMAT_NONE dims: [ 3, 224, 224 ] } ]
        output [ { name: "scores", data_type: TYPE_FP32, dims: [ 5 ] label_filename: "seams.txt" } ]
        dynamic_batching {
          preferred_batch_size: [ 8, 4 ]
          max_queue_delay_microseconds: 500
          priority_levels: 3
          default_priority_level: 2
          default_queue_policy { max_queue_size: 64, default_timeout_microseconds: 1000000, timeout_action: REJECT }
        }
        instance_group [ { count: 2 kind: KIND_CPU } ]
        version_policy: { latest { num_versions: 2 } }
        parameters { key: "intra_op_thread_count" value: { string_value: "4" } }
        optimization { graph : { level : 1 } }
        response_cache { enable: true }
    "#;
    let Config { settings, warnings, .. } = config(text);
    assert_eq!(warnings, []);
    assert_eq!(settings.check(None), Ok(()));
    let batching = &settings.batching;
    assert_eq!((batching.mode, batching.max_size), (BatchingMode::On, Some(8)));
    assert_eq!(
        (batching.max_delay, &batching.preferred_sizes),
        (Span(Duration::from_micros(500)), &vec![4, 8])
    );
    let queue = &settings.queue;
    assert_eq!((queue.max, queue.priority_levels, queue.default_priority), (Some(64), 3, Some(2)));
    assert_eq!(queue.timeout, Some(Span(Duration::from_secs(1))));
    assert_eq!((settings.instances.count, settings.instances.threads), (Some(2), 4));
    assert_eq!(settings.versions, Versions::Latest { latest: 2 });
    assert_eq!(settings.execution.optimization, Optimization::Extended);
    assert_eq!(settings.cache.bytes_max, RESPONSE_CACHE_BYTES);
    assert_eq!(settings.limits.max_shape["picture"], [8, 3, 224, 224]);
    let declared = settings.declared.unwrap();
    assert_eq!(declared.max_batch_size, 8);
    assert_eq!(declared.inputs[0].datatype, Some(Datatype::Fp32));
    assert_eq!(declared.inputs[0].dims, Some(vec![3, 224, 224]));
    assert_eq!(declared.outputs[0].name, "scores");
    assert_eq!(declared.outputs[0].labels_file.as_deref(), Some("seams.txt"));
}

#[test]
fn what_a_file_leaves_out_is_as_in_triton() {
    let settings = config("").settings;
    assert_eq!(settings.versions, Versions::Word(VersionsWord::Latest));
    assert_eq!(settings.batching.mode, BatchingMode::Off);
    assert_eq!(settings.execution.providers, ["cpu"]);
    // Requests with more rows than this are refused, and nothing is joined.
    let settings = config("max_batch_size: 4 input { name: \"x\" dims: 2 }").settings;
    assert_eq!(settings.batching.mode, BatchingMode::Off);
    assert_eq!(settings.limits.max_shape["x"], [4, 2]);
    assert!(config("max_batch_size: 4 input { name: \"x\" dims: -1 }").settings.limits.max_shape.is_empty());
    let large = config("max_batch_size: 4096 dynamic_batching {}");
    assert_eq!((large.settings.batching.max_size, large.warnings.len()), (Some(1024), 1));
    assert_eq!(config("instance_group { count: 0 }").settings.instances.count, Some(1));
    let warnings = warnings("dynamic_batching {}");
    assert_eq!(warnings, ["1: dynamic_batching joins nothing, as max_batch_size is not above 1"]);
}

#[test]
fn graphics_cards_are_asked_for_in_order() {
    let of = |text| config(text).settings.execution;
    let cuda = of("instance_group { count: 1 kind: KIND_GPU gpus: [ 1 ] }");
    assert_eq!(cuda.providers, ["cuda", "cpu"]);
    assert_eq!(cuda.options["cuda"]["device_id"], toml::Value::Integer(1));
    let tensorrt = of(
        "optimization { execution_accelerators { gpu_execution_accelerator : [ { name : \"tensorrt\" parameters { key: \
         \"precision_mode\" value: \"FP16\" } parameters { key: \"max_workspace_size_bytes\" value: \"1024\" } } ] } } \
         instance_group { kind: KIND_GPU }",
    );
    assert_eq!(tensorrt.providers, ["tensorrt", "cuda", "cpu"]);
    assert_eq!(tensorrt.options["tensorrt"]["trt_fp16_enable"], toml::Value::Boolean(true));
    assert_eq!(tensorrt.options["tensorrt"]["trt_max_workspace_size"], toml::Value::Integer(1024));
    let openvino =
        of("optimization { execution_accelerators { cpu_execution_accelerator { name: \"openvino\" } } }");
    assert_eq!(openvino.providers, ["openvino", "cpu"]);
    let several = warnings("instance_group { kind: KIND_GPU gpus: [0, 1] }");
    assert_eq!(several, ["1: instance_group.gpus names several: all instances run on GPU 0"]);
}

#[test]
fn a_state_is_kept_where_a_file_names_one() {
    let text = "max_batch_size: 1\nsequence_batching {\n max_sequence_idle_microseconds: 5000000\n \
                control_input [ { name: \"START\" } ]\n state [ { input_name: \"state\" output_name: \"stateN\" data_type: \
                TYPE_FP32 dims: [ 2, -1 ] initial_state: { name: \"zero\" zero_data: true } } ]\n}";
    let Config { settings, warnings, .. } = config(text);
    let sequence = settings.sequence.unwrap();
    assert_eq!(sequence.idle_timeout, Span(Duration::from_secs(5)));
    assert_eq!(
        (sequence.states[0].input.as_str(), &sequence.states[0].shape),
        ("state", &Some(vec![1, 2, 1]))
    );
    assert!(warnings[0].1.contains("the input \"START\" is sent with each request"), "{warnings:?}");
    let refused = told("sequence_batching { state { initial_state { data_file: \"x\" } } }");
    assert!(refused.contains("begins with zeros here"), "{refused}");
    assert!(told("sequence_batching { state { input_name: \"a\" } }").contains("lacks its output_name"));
    let nothing = self::warnings("sequence_batching { direct {} }");
    assert!(nothing[1].contains("names no state"), "{nothing:?}");
}

#[test]
fn what_is_not_read_is_named() {
    for (text, warning) in [
        ("name: \"press\"", "1: name is \"press\", but the model's directory, which names it, is \"weld\""),
        ("\nmodel_warmup [ { name: \"a\" } ]", "2: model_warmup is not read"),
        ("zebra: 1", "1: zebra is not read"),
        (
            "dynamic_batching { preserve_ordering: true } max_batch_size: 2",
            "1: dynamic_batching.preserve_ordering is",
        ),
        ("instance_group { rate_limiter {} }", "1: instance_group.rate_limiter is not read"),
        (
            "parameters { key: \"enable_mem_arena\" value { string_value: \"1\" } }",
            "1: parameters: enable_mem_arena is",
        ),
        (
            "parameters { key: \"intra_op_thread_count\" value { string_value: \"0\" } }",
            "1: parameters: intra_op",
        ),
        ("input { name: \"a\" label_filename: \"x\" }", "1: input.label_filename is not read"),
        ("input { name: \"a\" reshape { shape: [] } }", "1: input.reshape is not read"),
        ("input { name: \"a\" format: FORMAT_NCHW }", "1: input.format is not read"),
        ("optimization { cuda { graphs: true } }", "1: optimization.cuda is not read"),
        ("version_policy { latest { newest: 1 } }", "1: version_policy.latest.newest is not read"),
    ] {
        let warnings = warnings(text);
        assert!(warnings.iter().any(|told| told.starts_with(warning)), "{text}: {warnings:?}");
    }
    for quiet in [
        "name: \"\"",
        "platform: \"onnxruntime_onnx\"",
        "default_model_filename: \"model.onnx\"",
        "response_cache {}",
    ] {
        assert_eq!(warnings(quiet), [] as [&str; 0], "{quiet}");
    }
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_reason() {
    for (text, expected) in [
        ("platform: \"tensorrt_plan\"", "1, platform: \"tensorrt_plan\" is not served here"),
        ("backend: \"python\"", "1, backend: \"python\" is not served here"),
        ("default_model_filename: \"a.onnx\"", "1, default_model_filename: the file is called model.onnx"),
        ("model_transaction_policy { decoupled: true }", "1, decoupled: a model that ONNX Runtime runs"),
        ("\nmax_batch_size: -1", "2, max_batch_size: -1 is not within 0 to"),
        ("max_batch_size: 1\nmax_batch_size: 2", "2, max_batch_size: it is set in line 1 already"),
        ("max_batch_size: \"1\"", "1, max_batch_size: a whole number was expected, not a text in quotes"),
        ("name: weld", "1, name: a text in quotes was expected, not weld"),
        ("instance_group { kind: KIND_TPU }", "1, kind: there is no KIND_TPU"),
        ("instance_group { count: -1 }", "1, count: -1 is not within 0 to"),
        ("version_policy { newest {} }", "1, newest: there is no such policy"),
        ("version_policy { specific { versions: -1 } }", "1, versions: -1 is less than 0"),
        ("input { data_type: TYPE_FP33 }", "1, data_type: there is no TYPE_FP33"),
        ("input { dims: 1 }", "1, input: it lacks its name"),
        ("parameters { value {} }", "1, parameters: it lacks its key"),
        ("response_cache { enable: maybe }", "1, enable: true or false was expected, not maybe"),
        ("dynamic_batching { priority_levels: 999 }", "1, priority_levels: 999 is not within 0 to 255"),
    ] {
        let told = told(text);
        assert!(told.starts_with(expected), "{text}: {told}");
    }
}
