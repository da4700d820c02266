//! What requests mean, and what is wrong with them.

use lineside_wire::Datatype;
use proptest::prelude::*;

use super::*;

fn read(json: &str, binary: &'static [u8]) -> Result<InferRequest, Fault> {
    parse(json.as_bytes(), Bytes::from_static(binary), "add".parse().expect("a name"), None)
}

#[test]
fn binary_and_json_inputs_stand_side_by_side() {
    let json = r#"{"id":"7","inputs":[
        {"name":"a","shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":2}},
        {"name":"b","shape":[1,2],"datatype":"INT16","data":[[1,-1]]},
        {"name":"c","shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":1}}],
        "outputs":[{"name":"x","parameters":{"binary_data":false}},{"name":"y"}],
        "parameters":{"binary_data_output":true,"timeout":1500,"priority":900,"sequence_id":5}}"#;
    let request = read(json, &[1, 2, 3]).unwrap();
    let flat: Vec<u8> = request.payload.into_chunks().concat();
    assert_eq!((&flat[..2], &flat[64..68], &flat[128..]), (&[1, 2][..], &[1, 0, 255, 255][..], &[3][..]));
    assert_eq!((request.wants.form("x"), request.wants.form("y")), (Form::Json, Form::Binary));
    assert_eq!((request.priority, request.timeout), (255, Some(Duration::from_micros(1_500))));
    assert_eq!((request.id.as_deref(), request.session.as_deref()), (Some("7"), Some("5")));
    assert_eq!(request.params.outputs, ["x", "y"]);
    assert_eq!(request.params.parameters.keys().collect::<Vec<_>>(), ["sequence_id"]);
}

#[test]
fn each_wrong_request_is_told_what_is_wrong() {
    let input = |rest: &str| format!(r#"{{"inputs":[{{"name":"a",{rest}}}]}}"#);
    let inputs = |count: usize| {
        let input = |at| format!(r#"{{"name":"{at}","shape":[],"datatype":"INT8","data":1}}"#);
        format!(r#"{{"inputs":[{}]}}"#, (0..count).map(input).collect::<Vec<_>>().join(","))
    };
    assert_eq!(read(&inputs(256), &[]).map(|request| request.params.inputs.len()), Ok(256));
    let many = |list: &str, entry: &str| format!(r#"{{"{list}":[{}]}}"#, vec![entry; 1_000].join(","));
    let wrong = [
        ("{".to_owned(), "EOF"),
        ("\u{feff}{\"inputs\":[]}".to_owned(), "byte order mark"),
        ("[]".to_owned(), "no inference request"),
        (r#"{"inputs":[]} x"#.to_owned(), "trailing"),
        (r#"{"outputs":[]}"#.to_owned(), "missing field `inputs`"),
        (r#"{"inputs":[],"inputs":[]}"#.to_owned(), "duplicate field"),
        (input(r#""shape":[-1],"datatype":"INT8","data":[1]"#), "negative dimension"),
        (input(r#""shape":[1.5],"datatype":"INT8","data":[1]"#), "floating point"),
        (input(r#""shape":[4611686018427387904,4],"datatype":"INT8","data":[1]"#), "more elements"),
        (input(r#""shape":[1152921504606846976],"datatype":"FP64","data":[1]"#), "more than 67108864"),
        (input(r#""shape":[1,1,1,1,1,1,1,1,1],"datatype":"INT8","data":[1]"#), "more than 8 dimensions"),
        (input(r#""shape":[1],"datatype":"FLOAT","data":[1]"#), "unknown datatype"),
        (input(r#""shape":[1],"datatype":"FP32""#), "neither data nor"),
        (input(r#""shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}"#), "both"),
        (input(r#""shape":[1],"datatype":"FP32","parameters":{"binary_data_size":9}"#), "8 bytes are left"),
        (input(r#""shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}"#), "4 bytes follow"),
        (input(r#""shape":[1],"datatype":"FP64","parameters":{"binary_data_size":4}"#), "needs 8 bytes"),
        (
            input(r#""shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"x"}"#),
            "shared memory",
        ),
        (r#"{"inputs":[],"parameters":{"timeout":-1}}"#.to_owned(), "whole number"),
        (r#"{"inputs":[],"parameters":{"x":1,"x":2}}"#.to_owned(), "twice"),
        (inputs(1_000), "more than 256 inputs"),
        (many("inputs\":[],\"outputs", r#"{"name":"a"}"#), "more than 256 outputs"),
        (r#"{"inputs":[],"parameters":{"x":[1]}}"#.to_owned(), "use text, a number"),
        (r#"{"inputs":[],"parameters":{"binary_data_output":1}}"#.to_owned(), "true or false"),
        (r#"{"inputs":[],"outputs":[{"name":"x"},{"name":"x"}]}"#.to_owned(), "asked for twice"),
        (
            r#"{"inputs":[],"outputs":[{"name":"x","parameters":{"classification":-3}}]}"#.to_owned(),
            "expected u32",
        ),
        (
            r#"{"inputs":[],"outputs":[{"name":"x","parameters":{"shared_memory_region":"r"}}]}"#.to_owned(),
            "shared memory",
        ),
        (r#"{"inputs":[],"outputs":[{"name":"x","encoding":"hex"}]}"#.to_owned(), "use \"base64\""),
        (r#"{"inputs":[],"outputs":["x"]}"#.to_owned(), "expected an object"),
        (r#"{"inputs":[],"outputs":[["x"]]}"#.to_owned(), "expected an object"),
        (r#"{"inputs":[["a",[1],"INT8",null,[1]]]}"#.to_owned(), "expected an object"),
        (r#"{"inputs":{}}"#.to_owned(), "expected an array"),
        (r#"{"inputs":[],"id":7}"#.to_owned(), "expected a string"),
        (
            r#"{"inputs":[],"encoding":"base64","parameters":{"binary_data_output":true}}"#.to_owned(),
            "both asked for",
        ),
        (
            r#"{"inputs":[],"parameters":{"sequence_start":1}}"#.to_owned(),
            "\"sequence_start\" must be true or false",
        ),
        (
            r#"{"inputs":[],"parameters":{"sequence_state":"abc"}}"#.to_owned(),
            "\"sequence_state\" must be true or false",
        ),
        (r#"{"inputs":[],"parameters":{"sequence_id":-1}}"#.to_owned(), "\"sequence_id\" must be"),
        (input(r#""shape":[1],"shape":[1],"datatype":"INT8","data":[1]"#), "duplicate field `shape`"),
        (input(r#""shape":[1],"datatype":"INT8","data":[1],"data":[1]"#), "duplicate field `data`"),
        (input(r#""name":"b","shape":[1],"datatype":"INT8","data":[1]"#), "duplicate field `name`"),
        (input(r#""datatype":"INT8","data":[1]"#), "missing field `shape`"),
        (input(r#""shape":[1],"data":[1]"#), "missing field `datatype`"),
        (
            r#"{"inputs":[{"shape":[1],"datatype":"INT8","data":[1]}]}"#.to_owned(),
            "input 0: missing field `name`",
        ),
        (input(r#""shape":[1],"datatype":"INT8","data":[1]x"#), "a comma or }"),
        (input(r#""shape":[1],"datatype":"INT8","data":[1"#), "no JSON from its byte 2"),
        (r#"{"inputs":[{"name":"a","shape":[1],"datatype":"INT8","data":[1"#.to_owned(), "EOF"),
        (input(r#""data":[1.5],"shape":[1],"datatype":"INT8""#), "element 0 is 1.5"),
        (input(r#""shape":[1],"datatype":"INT8","encoding":"base64","data":[1]"#), "it is no text"),
        (input(r#""shape":[1],"datatype":"INT8","data":[1],"encoding":"base64""#), "it is no text"),
        (input(r#""shape":[1],"datatype":"INT8","encoding":"base64","data":"*""#), "no base64"),
        (input(r#""shape":[2],"datatype":"FP32","encoding":"base64","data":"AACAPw==""#), "needs 8 bytes"),
        (input(r#""shape":[1],"datatype":"INT8","encoding":"gzip","data":"AA==""#), "encoding \"gzip\""),
        (input(r#""shape":[1],"datatype":"INT8","data":"AA==""#), "element 0 is \"AA==\""),
    ];
    for (json, expected) in wrong {
        let binary: &[u8] = if json.contains("binary_data_size") { &[0; 8] } else { &[] };
        let fault = read(&json, binary).unwrap_err();
        assert!(fault.message.contains(expected), "{json:.200}: {}", fault.message);
    }
}

proptest! {
    #[test]
    fn what_is_read_fits_its_shape_whatever_was_sent(
        shape in prop::collection::vec(-1..5_i64, 0..4),
        datatype in prop::sample::select(Datatype::ALL.map(Datatype::as_str).to_vec()),
        data in prop::collection::vec("-?[0-9]{1,4}|true|\"[a-z]{0,3}\"|\\[1,2\\]|null|1e9", 0..6),
        size in prop::option::of(0..40_usize),
        binary in prop::collection::vec(0..2_u8, 0..40),
    ) {
        let part = match size {
            Some(size) => format!(r#""parameters":{{"binary_data_size":{size}}}"#),
            None => format!(r#""data":[{}]"#, data.join(",")),
        };
        let json = format!(r#"{{"inputs":[{{"name":"a","shape":{shape:?},"datatype":"{datatype}",{part}}}]}}"#);
        let model = "add".parse().expect("a model name");
        if let Ok(request) = parse(json.as_bytes(), binary.into(), model, None) {
            let payload: Bytes = request.payload.into_chunks().concat().into();
            prop_assert!(lineside_wire::split_tensors(request.params.inputs, &payload).is_ok());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(json in prop::collection::vec(any::<u8>(), 0..200)) {
        let model = "add".parse().expect("a model name");
        let _read = parse(&json, Bytes::new(), model, None);
    }
}

#[test]
fn a_hundred_thousand_brackets_are_an_error_and_no_stack_overflow() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for json in [
        format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"INT8","data":{deep}}}]}}"#),
        format!(r#"{{"inputs":{deep}}}"#),
        format!(r#"{{"inputs":[],"parameters":{{"x":{deep}}}}}"#),
        deep,
    ] {
        assert!(read(&json, &[]).is_err());
    }
}

#[test]
fn an_input_is_the_same_whatever_the_order_of_its_members() {
    let orders = [
        r#""name":"a","shape":[2],"datatype":"FP32","data":[1,2.5]"#,
        r#""data":[1,2.5],"datatype":"FP32","shape":[2],"name":"a""#,
        r#""encoding":"base64","data":"AACAPwAAIEA=","datatype":"FP32","shape":[2],"name":"a""#,
        r#""data":"AACAPwAAIEA","shape":[2],"name":"a","datatype":"FP32","encoding":"base64""#,
        r#""name":"a","shape":[2],"datatype":"FP32","encoding":null,"data":[[1],[2.5]],"more":{"x":[1]}"#,
    ];
    for members in orders {
        let request = read(&format!(r#"{{"inputs":[{{{members}}}]}}"#), &[]).unwrap();
        assert_eq!(request.made, 8);
        assert_eq!(request.payload.into_chunks().concat(), [1.0_f32, 2.5].map(f32::to_le_bytes).concat());
        assert_eq!(
            (&request.params.inputs[0].name[..], &request.params.inputs[0].shape[..]),
            ("a", &[2][..])
        );
    }
}

#[test]
fn what_an_output_shall_look_like_is_its_own_wish_or_the_requests() {
    let json = r#"{"inputs":[],"encoding":"base64","outputs":[{"name":"a"},
        {"name":"b","parameters":{"binary_data":true}},{"name":"c","parameters":{"binary_data":false,"classification":3}},
        {"name":"d","encoding":"base64","parameters":{"classification":0}}]}"#;
    let request = read(json, &[]).unwrap();
    let forms = ["a", "b", "c", "d"].map(|name| request.wants.form(name));
    assert_eq!(forms, [Form::Base64, Form::Binary, Form::Json, Form::Base64]);
    assert!(request.wants.any_binary());
    assert_eq!(request.params.classification, BTreeMap::from([("c".to_owned(), 3)]));
}

#[test]
fn the_words_about_a_wrong_request_do_not_repeat_all_of_it() {
    let long = "x".repeat(1 << 20);
    for json in [
        format!(r#"{{"inputs":[{{"name":"{long}","shape":[1],"datatype":"INT8","data":[1]}}]}}"#),
        format!(r#"{{"inputs":[{{"name":"a","shape":"{long}"}}]}}"#),
        format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"{long}"}}]}}"#),
        format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"INT8","data":["{long}"]}}]}}"#),
        format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"INT8","data":[{long}]}}]}}"#),
        format!(r#"{{"inputs":[{{"name":"a","encoding":"{long}"}}]}}"#),
        format!(r#"{{"inputs":[],"parameters":{{"{long}":[]}}}}"#),
        format!(r#"{{"inputs":[],"outputs":["{long}"]}}"#),
        format!(r#"{{"inputs":[],"id":["{long}"]}}"#),
    ] {
        let fault = read(&json, &[]).unwrap_err();
        assert!(fault.message.len() < 1_000, "{}", fault.message.len());
    }
}
