//! `POST /v2/models/{model}/predict`: an image in, labels, boxes and a verdict out.
//!
//! ```sh
//! curl --data-binary @part.jpg 'http://localhost:8080/v2/models/surface/predict?verdict'   # OK or NOK
//! curl -F image=@part.jpg -F top_k=3 http://localhost:8080/v2/models/surface/predict       # all there is to know
//! ```
//!
//! The image goes to the node as it came. What is done with it there stands in the model's `model.toml`; how many
//! pixels it may have is for the node to say, which alone decodes it.

mod form;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use lineside_wire::{Datatype, Fault, FaultCode, Parameter, Parameters, Task, bytes_elements};
use serde::{Deserialize, Serialize};

use crate::{
    Cluster,
    answer::Answer,
    ask::Ask,
    body::detached,
    errors::Refusal,
    route::Target,
    task::{self, Done, Errand},
};

/// Most labels or boxes that a client can ask for: as many as a node puts into an answer.
const TOP_K_MAX: i64 = 1000;

/// Names of a form's part that holds the image.
const IMAGE_PARTS: [&str; 2] = ["image", "file"];

/// Answers a request whose body is an image, or a form with one.
pub(crate) async fn answer<C: Cluster>(
    ask: &mut Ask<'_, '_, C>,
    target: &Target<'_>,
) -> Result<Answer, Refusal> {
    let kind = Kind::of(&ask.head.headers)?;
    let query = ask.head.uri.query().unwrap_or_default();
    let (mut parameters, only_verdict) = (Parameters::new(), wants_verdict(&ask.head.headers, query));
    for (name, value) in pairs(query) {
        // Others are not for the model: `explain`, `verdict`.
        if let Some(value) = parameter(name, value) {
            add(&mut parameters, name, value?)?;
        }
    }
    let (body, mut room) = ask.body().await?;
    let _place = ask.enter()?;
    let image = match kind {
        Kind::Image => body,
        Kind::Form { boundary } => image_of(form(&body, &boundary)?, &mut parameters)?,
    };
    check_image(&image)?;
    let models = ask.cluster().models();
    let found = task::find(&models, &target.model, target.version.as_deref(), Task::Predict)?;
    let image = detached(image);
    let too_long = |_| Fault::new(FaultCode::LimitExceeded, "the image is longer than 4 GiB");
    let length = u32::try_from(image.len()).map_err(too_long)?.to_le_bytes();
    room.grow(length.len())?;
    let errand = Errand {
        model: found.name.clone(),
        // Left to the nodes unless the client named one: the list may be a moment old.
        version: target.version.is_some().then_some(found.version),
        task: Task::Predict,
        input: Task::IMAGE,
        elements: 1,
        pieces: vec![Bytes::copy_from_slice(&length), image],
        parameters,
    };
    drop(models);
    let done = errand.run(ask, room).await?;
    written(done, only_verdict)
}

/// What a body is, as its head says.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// An image, or nobody said what: its first bytes will tell.
    Image,
    Form {
        boundary: String,
    },
}

impl Kind {
    /// # Errors
    /// 415: something that holds no image.
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Self::Image) };
        let value = value.to_str().unwrap_or_default();
        let media = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.as_str() {
            "multipart/form-data" => {
                let boundary = form::boundary(value).map_err(broken_form)?;
                Ok(Self::Form { boundary })
            }
            // The last is what curl says of every body that it is not told of.
            "" | "application/octet-stream" | "application/x-www-form-urlencoded" => Ok(Self::Image),
            media if media.starts_with("image/") => Ok(Self::Image),
            _ => Err(unsupported(
                "the Content-Type is not one of an image: send a JPEG or PNG file as image/jpeg, image/png or \
                 application/octet-stream, or as the part `image` of multipart/form-data",
            )),
        }
    }
}

fn unsupported(text: &str) -> Refusal {
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", text)
}

fn broken_form(error: form::BrokenForm) -> Refusal {
    Refusal::bad_request(format!("the body is no form (multipart/form-data): {error}"))
}

fn form(body: &Bytes, boundary: &str) -> Result<Vec<form::Part>, Refusal> {
    form::parts(body, boundary).map_err(broken_form)
}

/// The image of a form; its other parts are parameters.
fn image_of(parts: Vec<form::Part>, parameters: &mut Parameters) -> Result<Bytes, Refusal> {
    let named = |part: &form::Part| IMAGE_PARTS.contains(&part.name.as_str());
    let at = parts.iter().position(named).or_else(|| parts.iter().position(|part| part.is_file));
    let at = at.ok_or_else(|| no_image("the form has no part with a file: name it `image`"))?;
    let mut image = Bytes::new();
    for (index, part) in parts.into_iter().enumerate() {
        if index == at {
            image = part.bytes;
            continue;
        }
        if part.is_file || named(&part) {
            return Err(Refusal::bad_request("the form has two files: send one image with each request"));
        }
        let value = std::str::from_utf8(&part.bytes).unwrap_or_default();
        let parameter = parameter(&part.name, value).ok_or_else(|| {
            let name: String = part.name.chars().take(80).collect();
            Refusal::bad_request(format!(
                "the form has a part {name:?}: beside the image there may be top_k and threshold"
            ))
        })?;
        add(parameters, &part.name, parameter?)?;
    }
    Ok(image)
}

fn no_image(text: &str) -> Refusal {
    Refusal::bad_request(format!("there is no image: {text}"))
}

/// Looks at the first bytes: what is no JPEG or PNG file need not travel to a node to be refused.
fn check_image(image: &[u8]) -> Result<(), Refusal> {
    match image {
        [] => Err(no_image("the body is empty; send the bytes of a JPEG or PNG file")),
        [0xff, 0xd8, 0xff, ..] | [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(()),
        _ => Err(unsupported(
            "the bytes do not begin like a JPEG or PNG file: send the file as it is, for example \
             `curl --data-binary @part.jpg`",
        )),
    }
}

/// The names and values of a query.
fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// A parameter for the model; `None` where the name is not that of one.
fn parameter(name: &str, value: &str) -> Option<Result<Parameter, Refusal>> {
    let value = value.trim();
    match name {
        "top_k" => {
            let count = value.parse::<i64>().ok().filter(|count| (1..=TOP_K_MAX).contains(count));
            let wrong =
                || Refusal::bad_request(format!("top_k must be a whole number from 1 to {TOP_K_MAX}"));
            Some(count.map(Parameter::Integer).ok_or_else(wrong))
        }
        "threshold" => {
            let score = value.parse::<f64>().ok().filter(|score| score.is_finite());
            let wrong = || Refusal::bad_request("threshold must be a number, for example 0.5");
            Some(score.map(Parameter::Number).ok_or_else(wrong))
        }
        _ => None,
    }
}

fn add(parameters: &mut Parameters, name: &str, value: Parameter) -> Result<(), Refusal> {
    match parameters.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(Refusal::bad_request(format!("{name} is given twice"))),
    }
}

/// Whether the verdict alone is wanted: `?verdict`, or `Accept` names plain text and not JSON.
fn wants_verdict(headers: &HeaderMap, query: &str) -> bool {
    let asked = pairs(query).find(|(name, _)| *name == "verdict");
    if let Some((_, value)) = asked {
        return !matches!(value, "0" | "false");
    }
    let accepts = |media: &str| {
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            value
                .split(',')
                .any(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media))
        })
    };
    let text = accepts("text/plain") || accepts("text/*");
    text && !accepts("application/json")
}

/// What the door reads of a prediction.
#[derive(Deserialize)]
struct Prediction {
    #[serde(default)]
    verdict: Option<String>,
}

/// The members that the door puts before a prediction's own.
#[derive(Serialize)]
struct Front<'a> {
    model_name: &'a str,
    model_version: lineside_wire::ModelVersion,
}

fn written(done: Done, only_verdict: bool) -> Result<Answer, Refusal> {
    let body = match only_verdict {
        true => verdict(&done).map(|word| (TEXT, word)),
        false => whole(&done).map(|json| ("application/json", json)),
    };
    match body {
        Ok((content_type, body)) => done.answer(content_type, body),
        Err(fault) => Err(done.refused(fault)),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The node's document, and what it says of the verdict. It is known to be a JSON object.
fn document(done: &Done) -> Result<(&[u8], Prediction), Fault> {
    let output = done.output(Task::PREDICTION, Datatype::Bytes)?;
    let elements = bytes_elements(&output.bytes, output.shape.elements()).unwrap_or_default();
    let [document] = elements[..] else {
        return Err(done.broken("it is not one prediction"));
    };
    let document = document.trim_ascii();
    let prediction = serde_json::from_slice(document).ok().filter(|_| document.starts_with(b"{"));
    Ok((document, prediction.ok_or_else(|| done.broken("its prediction is no JSON object"))?))
}

fn verdict(done: &Done) -> Result<Vec<u8>, Fault> {
    let verdict = document(done)?.1.verdict.ok_or_else(|| {
        let text = format!(
            "the model {} version {} gives no verdict: write a section [predict.verdict] into its model.toml, or ask for JSON",
            done.model, done.version
        );
        Fault::new(FaultCode::InvalidParams, text)
    })?;
    Ok(format!("{verdict}\n").into_bytes())
}

/// The node's document with the model before it. Its numbers stay as the node wrote them.
fn whole(done: &Done) -> Result<Vec<u8>, Fault> {
    let (document, _) = document(done)?;
    let front = Front { model_name: done.model.as_str(), model_version: done.version };
    let mut json = serde_json::to_vec(&front).expect("names and numbers are JSON");
    let members = document[1..].trim_ascii_start();
    // In the place of the front's end.
    json.pop();
    if members != b"}" {
        json.push(b',');
    }
    json.extend_from_slice(members);
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a legal value"))])
    }

    #[test]
    fn a_body_is_an_image_unless_its_head_says_something_else() {
        let kind = |value: &str| Kind::of(&headers(header::CONTENT_TYPE, value));
        assert_eq!(Kind::of(&HeaderMap::new()).ok(), Some(Kind::Image));
        for image in
            ["image/jpeg", "IMAGE/PNG", "application/octet-stream", "application/x-www-form-urlencoded", ""]
        {
            assert_eq!(kind(image).ok(), Some(Kind::Image), "{image}");
        }
        let form = Kind::Form { boundary: "x".to_owned() };
        assert_eq!(kind("multipart/form-data; boundary=x").ok(), Some(form));
        assert_eq!(kind("multipart/form-data").unwrap_err().status, StatusCode::BAD_REQUEST);
        for other in ["application/json", "text/plain", "multipart/mixed; boundary=x", "imagery"] {
            assert_eq!(kind(other).unwrap_err().status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{other}");
        }
    }

    #[test]
    fn one_word_comes_to_whoever_asks_for_one_word() {
        let wants = |accept: &str, query: &str| wants_verdict(&headers(header::ACCEPT, accept), query);
        assert!(wants("text/plain", "") && wants("text/html, Text/Plain;q=0.5", "") && wants("text/*", ""));
        assert!(wants("*/*", "verdict") && wants("application/json", "top_k=1&verdict=1"));
        assert!(!wants("*/*", "") && !wants("application/json, text/plain", ""));
        assert!(!wants("text/plain", "verdict=0") && !wants("*/*", "verdicts"));
    }

    #[test]
    fn a_parameter_that_no_model_could_take_is_refused_before_it_travels() {
        let taken = |name, value| parameter(name, value).and_then(Result::ok);
        assert_eq!(taken("top_k", "3"), Some(Parameter::Integer(3)));
        assert_eq!(taken("threshold", " 0.5 "), Some(Parameter::Number(0.5)));
        assert!(parameter("explain", "").is_none());
        for (name, value) in
            [("top_k", "0"), ("top_k", "-1"), ("top_k", "1.5"), ("top_k", ""), ("threshold", "NaN")]
        {
            assert!(parameter(name, value).is_some_and(|value| value.is_err()), "{name}={value}");
        }
    }
}
