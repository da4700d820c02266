//! Requests as clients write them, right and wrong.

use proptest::prelude::*;

use super::*;

fn input(name: &str, datatype: &str, shape: &[i64], contents: InferTensorContents) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        contents: Some(contents),
        ..Default::default()
    }
}

fn request(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> ModelInferRequest {
    ModelInferRequest { model_name: "add".to_owned(), inputs, raw_input_contents: raw, ..Default::default() }
}

fn ints(values: &[i32]) -> InferTensorContents {
    InferTensorContents { int_contents: values.to_vec(), ..Default::default() }
}

fn flat(understood: Understood) -> Vec<u8> {
    understood.payload.into_chunks().concat()
}

fn refused(request: ModelInferRequest, words: &str) {
    let fault = read(request).expect_err(words);
    assert!(fault.message.contains(words), "{words:?} is not in {:?}", fault.message);
}

#[test]
fn raw_contents_are_slices_of_the_message() {
    let message = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 128, 63]);
    let contents = InferTensorContents::default;
    let inputs = vec![input("a", "FP32", &[1], contents()), input("b", "FP32", &[1], contents())];
    let understood = read(request(inputs, vec![message.slice(..4), message.slice(4..)])).unwrap();
    assert_eq!((understood.made, understood.sliced), (0, 8));
    let chunks = understood.payload.into_chunks();
    let places: Vec<_> = chunks.iter().map(|chunk| chunk.as_ptr()).collect();
    assert!(places.contains(&message.as_ptr()) && places.contains(&message[4..].as_ptr()));
}

#[test]
fn small_integers_come_in_wider_fields_and_are_checked() {
    let bytes = |datatype: &str, values: &[i32]| {
        let shape = [values.len() as i64];
        read(request(vec![input("a", datatype, &shape, ints(values))], vec![])).map(flat)
    };
    assert_eq!(bytes("INT8", &[-128, 127]), Ok(vec![128, 127]));
    assert_eq!(bytes("INT16", &[-2]), Ok(vec![254, 255]));
    assert_eq!(bytes("INT32", &[1]), Ok(vec![1, 0, 0, 0]));
    for (datatype, value) in [("INT8", 128), ("INT8", -129), ("INT16", 32_768)] {
        let fault = bytes(datatype, &[0, value]).unwrap_err();
        assert!(fault.message.contains(&format!("element 1 is {value}")), "{}", fault.message);
    }
    let uints = InferTensorContents { uint_contents: vec![256], ..Default::default() };
    refused(request(vec![input("a", "UINT8", &[1], uints)], vec![]), "element 0 is 256");
}

#[test]
fn every_mixture_of_forms_is_told_apart() {
    let raw = || vec![Bytes::from_static(&[1, 0, 0, 0])];
    let one = || input("a", "INT32", &[1], ints(&[1]));
    let none = |datatype: &str, shape: &[i64]| input("a", datatype, shape, InferTensorContents::default());
    refused(request(vec![one()], raw()), "use one form for all inputs");
    refused(
        request(vec![none("INT32", &[1]), input("b", "INT32", &[1], ints(&[1]))], raw()),
        "there are 2 inputs",
    );
    refused(request(vec![], raw()), "there are 0 inputs");
    refused(request(vec![none("INT32", &[1])], vec![]), "but int_contents has 0");
    refused(request(vec![input("a", "FP32", &[1], ints(&[1]))], vec![]), "goes into fp32_contents");
    let both = InferTensorContents { fp32_contents: vec![1.0], ..ints(&[1]) };
    refused(request(vec![input("a", "INT32", &[1], both)], vec![]), "fp32_contents is filled");
    for half in ["FP16", "BF16"] {
        refused(request(vec![input("a", half, &[1], ints(&[1]))], vec![]), "send it as raw_input_contents");
        let understood = read(request(vec![none(half, &[2])], raw())).unwrap();
        assert_eq!(understood.sliced, 4);
    }
    assert!(read(request(vec![none("FP32", &[0])], vec![])).is_ok());
}

#[test]
fn wrong_inputs_are_refused_in_words() {
    let one = |name: &str, datatype: &str, shape: &[i64]| {
        request(vec![input(name, datatype, shape, ints(&[1]))], vec![])
    };
    refused(one("a", "FLOAT", &[1]), "unknown datatype");
    refused(one("a", "INT32", &[-1]), "negative dimension");
    refused(one("a", "INT32", &[1 << 62, 4]), "more elements");
    refused(one("a", "INT32", &[1; 9]), "8 dimensions");
    refused(one("", "INT32", &[1]), "name");
    refused(one("a", "INT32", &[2]), "needs 2 elements");
    let twice = vec![input("a", "INT32", &[1], ints(&[1])), input("a", "INT32", &[1], ints(&[1]))];
    refused(request(twice, vec![]), "there twice");
    let mut region = input("a", "INT32", &[1], ints(&[1]));
    region.parameters.insert("shared_memory_region".into(), parameter(Parameter::Text("r".into())));
    refused(request(vec![region], vec![]), "shared memory");
    let none = input("a", "BOOL", &[1], InferTensorContents::default());
    refused(request(vec![none], vec![Bytes::from_static(&[2])]), "BOOL");
    for (name, version) in [("../add", ""), ("", ""), ("add", "one"), ("add", "-1")] {
        let model_version = version.to_owned();
        let asked = ModelInferRequest { model_name: name.to_owned(), model_version, ..Default::default() };
        refused(asked, "Request for unknown model");
    }
}

#[test]
fn parameters_say_how_the_call_is_made_and_outputs_what_comes_back() {
    let mut asked = request(vec![], vec![]);
    let mut set =
        |name: &str, value: Parameter| drop(asked.parameters.insert(name.to_owned(), parameter(value)));
    set("timeout", Parameter::Integer(1_500));
    set("priority", Parameter::Unsigned(2));
    set("sequence_id", Parameter::Integer(7));
    set("shift", Parameter::Text("night".to_owned()));
    let output = |name: &str, classification: Option<Parameter>| InferRequestedOutputTensor {
        name: name.to_owned(),
        parameters: classification
            .map(|value| ("classification".to_owned(), parameter(value)))
            .into_iter()
            .collect(),
    };
    asked.outputs =
        vec![output("label", Some(Parameter::Integer(3))), output("all", Some(Parameter::Integer(0)))];
    let understood = read(asked.clone()).unwrap();
    assert_eq!(understood.timeout(), Some(Duration::from_micros(1_500)));
    assert_eq!(understood.params.outputs, ["label", "all"]);
    assert_eq!(understood.params.classification, BTreeMap::from([("label".to_owned(), 3)]));
    let call = understood.call(Instant::now(), None);
    assert_eq!((call.context.priority, call.context.session.as_deref()), (2, Some("7")));
    assert_eq!(call.params.parameters.get("shift"), Some(&Parameter::Text("night".to_owned())));

    asked.outputs.push(output("label", None));
    refused(asked.clone(), "asked for twice");
    asked.outputs = vec![output("label", Some(Parameter::Text("3".to_owned())))];
    refused(asked.clone(), "whole number");
    asked.outputs.clear();
    asked.parameters.insert("empty".to_owned(), InferParameter::default());
    refused(asked, "has no value");
}

proptest! {
    #[test]
    fn what_is_read_fits_its_shape_whatever_was_sent(
        shape in prop::collection::vec(-1..5_i64, 0..4),
        datatype in prop::sample::select(Datatype::ALL.map(Datatype::as_str).to_vec()),
        ints in prop::collection::vec(any::<i32>(), 0..6),
        doubles in prop::collection::vec(any::<f64>(), 0..3),
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..5),
        raw in prop::option::of(prop::collection::vec(0..2_u8, 0..40)),
    ) {
        let contents = InferTensorContents {
            int_contents: ints,
            fp64_contents: doubles,
            bytes_contents: texts.into_iter().map(Bytes::from).collect(),
            ..Default::default()
        };
        let raw = raw.map(Bytes::from).into_iter().collect();
        if let Ok(understood) = read(request(vec![input("a", datatype, &shape, contents)], raw)) {
            let headers = understood.params.inputs.clone();
            let payload: Bytes = flat(understood).into();
            prop_assert!(split_tensors(headers, &payload).is_ok());
        }
    }
}
