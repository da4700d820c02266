//! `POST /v1/embeddings`: texts or tokens in, vectors out.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use lineside_wire::{Datatype, Fault, FaultCode, Parameter, Parameters, Task};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::input;
use crate::{
    Cluster,
    answer::Answer,
    ask::Ask,
    errors::Refusal,
    gate::{Cost, Permission},
    oip::invalid,
    task::{self, Done, Errand},
};

/// Longest vector that a client can ask for: more than any model gives.
const DIMENSIONS_MAX: u32 = 1 << 20;

/// What is read of a request; the rest is passed over.
#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    input: &'a RawValue,
    #[serde(default, borrow)]
    encoding_format: Option<Cow<'a, str>>,
    #[serde(default)]
    dimensions: Option<u32>,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// Numbers.
    Float,
    /// Their bytes, little-endian, in base64: a third of the length, and exact.
    Base64,
}

/// Answers a request for vectors.
pub(crate) async fn embeddings<C: Cluster>(ask: &mut Ask<'_, '_, C>) -> Result<Answer, Refusal> {
    let (body, mut room) = ask.body().await?;
    let request: Request<'_> = serde_json::from_slice(&body)
        .map_err(|error| invalid(format!("the body is no embeddings request: {error}")))?;
    let encoding = encoding(request.encoding_format.as_deref())?;
    let parameters = parameters(request.dimensions)?;
    let name = request.model.as_ref();
    ask.may(Permission::Infer, Some(name))?;
    let models = ask.cluster().models();
    let model = task::find(&models, name, None, Task::Embed)?.name.clone();
    drop(models);
    room.grow(request.input.get().len().saturating_mul(input::GROWTH))?;
    let input = input::read(request.input.get())?;
    // The first is what the request has paid for.
    ask.charge(Cost { calls: input.items - 1, bytes: 0, model: Some(name) })?;
    let _place = ask.enter()?;
    let errand = Errand {
        model,
        version: None,
        task: Task::Embed,
        input: input.name,
        elements: input.items.into(),
        pieces: vec![Bytes::from(input.bytes)],
        parameters,
    };
    let done = errand.run(ask, room).await?;
    match written(&done, name, input.items, encoding) {
        Ok(json) => Ok(Answer { compress: true, ..done.answer("application/json", json)? }),
        Err(fault) => Err(done.refused(fault)),
    }
}

fn encoding(format: Option<&str>) -> Result<Encoding, Fault> {
    match format {
        None | Some("float") => Ok(Encoding::Float),
        Some("base64") => Ok(Encoding::Base64),
        Some(_) => Err(invalid("encoding_format must be float or base64")),
    }
}

fn parameters(dimensions: Option<u32>) -> Result<Parameters, Fault> {
    match dimensions {
        Some(dimensions) if !(1..=DIMENSIONS_MAX).contains(&dimensions) => {
            Err(invalid(format!("dimensions must be a whole number from 1 to {DIMENSIONS_MAX}")))
        }
        Some(dimensions) => {
            Ok(Parameters::from([("dimensions".to_owned(), Parameter::Integer(dimensions.into()))]))
        }
        None => Ok(Parameters::new()),
    }
}

#[derive(Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

#[derive(Serialize)]
struct Body<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: Usage,
}

/// One vector's bytes.
struct Vector<'a>(&'a [u8], Encoding);

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            Encoding::Float => serializer.collect_seq(floats(self.0)),
            Encoding::Base64 => serializer.serialize_str(&BASE64.encode(self.0)),
        }
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

fn written(done: &Done, model: &str, items: u32, encoding: Encoding) -> Result<Vec<u8>, Fault> {
    let vectors = done.output(Task::EMBEDDING, Datatype::Fp32)?;
    let counts = done.output(Task::TOKEN_COUNT, Datatype::Uint32)?;
    let items = u64::from(items);
    let &[rows, width] = vectors.shape.dims() else {
        return Err(done.broken("its embedding is no list of vectors"));
    };
    if rows != items || width == 0 || counts.shape.dims() != [items] {
        return Err(done.broken("it does not have one vector and one count for each text"));
    }
    if encoding == Encoding::Float && floats(&vectors.bytes).any(|value| !value.is_finite()) {
        let text = "a vector holds NaN or infinity, which JSON does not have: ask for encoding_format base64";
        return Err(invalid(text));
    }
    // As many bytes as a vector has, which the tensor was checked to hold.
    let bytes_each = vectors.bytes.len() / usize::try_from(rows).unwrap_or(usize::MAX);
    let embeddings = vectors.bytes.chunks_exact(bytes_each).enumerate().map(|(index, bytes)| Embedding {
        object: "embedding",
        index,
        embedding: Vector(bytes, encoding),
    });
    let tokens = counts.bytes.as_chunks().0.iter().map(|bytes| u64::from(u32::from_le_bytes(*bytes))).sum();
    let body = Body {
        object: "list",
        data: embeddings.collect(),
        model,
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    };
    let mut json = Vec::with_capacity(256 + 3 * vectors.bytes.len());
    serde_json::to_writer(&mut json, &body)
        .map_err(|error| Fault::new(FaultCode::Internal, format!("the answer does not fit JSON: {error}")))?;
    Ok(json)
}
