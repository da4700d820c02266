//! Texts in, vectors out.
//!
//! The texts of a call run in groups of a bounded size, so that memory does not grow with the call, and between two
//! groups it is seen whether anybody still waits. A model that is not told which tokens are filling gets only texts of
//! one length together.

use bytes::Bytes;
use lineside_wire::{
    Datatype, Fault, FaultCode, InferParams, Limits, ModelName, Task, Tensor, TensorSpec, bytes_elements,
};

use super::{
    Failure, Fit, Turn,
    fitting::names,
    invalid,
    numbers::floats,
    only_input,
    pooling::{groups, normalize, pool},
    wanted, whole,
    words::{TOKENIZER_BYTES_MAX, Words},
};
use crate::{
    engine::RunError,
    settings::{Embed, Pooling, Wrong},
};

/// Most texts of a call: OpenAI's own limit, by which its clients cut their lists.
pub(crate) const TEXTS_MAX: u64 = 2048;

/// Most texts of one run: more fill the machine's arithmetic no better and hold up other calls.
const RUN_TEXTS_MAX: usize = 32;

/// Most tokens of one run, filling included: with 1024 elements a token, its output has 32 MiB.
const RUN_TOKENS_MAX: usize = 8192;

/// Most tokens of a text that the settings can ask for.
const TOKENS_MAX: u32 = 32_768;

/// Longest vector that a request can ask for.
const DIMENSIONS_MAX: u32 = 1 << 16;

/// What a model of texts takes.
const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

/// The outputs that are taken when there are several.
const OUTPUTS: [&str; 2] = ["sentence_embedding", "last_hidden_state"];

/// How a model takes texts and gives vectors.
#[derive(Debug)]
pub(crate) struct Embedder {
    words: Words,
    /// Which of [`INPUTS`] each of the model's inputs is.
    inputs: Vec<(usize, TensorSpec)>,
    output: usize,
    pooling: Pooling,
    normalize: bool,
    prefix: String,
    /// Where the model takes texts of one length only.
    length: Option<usize>,
    /// 1 where the model takes one text at a time.
    texts_max: usize,
    /// Elements of a vector, where the model says it.
    width: Option<u64>,
}

/// Texts, or their tokens, and what their sender wants to see of the answer.
#[derive(Debug)]
pub(crate) struct Sent {
    bytes: Bytes,
    count: u64,
    tokens: bool,
    dimensions: Option<u32>,
    /// Which of both outputs, in order.
    wanted: Vec<usize>,
}

impl Embedder {
    /// Settles how texts come into the model and vectors out of it.
    ///
    /// # Errors
    /// A key does not fit the model, or the tokenizer cannot be used.
    pub(super) fn new(settings: &Embed, fit: Fit<'_>) -> Result<Self, Wrong> {
        let inputs = inputs(fit)?;
        let ids = inputs.iter().find(|(which, _)| *which == 0).map(|(_, spec)| &spec.shape[..]);
        let fixed = |at: usize| ids.and_then(|shape| usize::try_from(*shape.get(at)?).ok());
        let length = fixed(1);
        let texts_max = match fixed(0) {
            None => RUN_TEXTS_MAX,
            Some(1) => 1,
            Some(count) => {
                let reason =
                    format!("the model takes {count} texts at a time: export it with a free first dimension");
                return Err(Wrong::new("embed", reason));
            }
        };
        let tokens_max = match (settings.max_tokens, length) {
            (Some(max), Some(length)) if length < max as usize => {
                return Err(Wrong::new(
                    "embed.max_tokens",
                    format!("the model takes {length} tokens, not {max}"),
                ));
            }
            (Some(max), _) if !(1..=TOKENS_MAX).contains(&max) => {
                return Err(Wrong::new("embed.max_tokens", format!("{max} is not 1 to {TOKENS_MAX}")));
            }
            (Some(max), _) => Some(max as usize),
            (None, length) => length,
        };
        let file = fit.folder.read(&settings.tokenizer, TOKENIZER_BYTES_MAX);
        let words = file.and_then(|file| Words::new(&file, tokens_max));
        let words = words.map_err(|reason| Wrong::new("embed.tokenizer", reason))?;
        let output = output(settings, fit)?;
        let shape = &fit.signature.outputs[output].shape;
        Ok(Self {
            words,
            inputs,
            output,
            pooling: pooling(settings, shape)?,
            normalize: settings.normalize,
            prefix: settings.prefix.clone(),
            length,
            texts_max,
            width: shape.last().and_then(|width| u64::try_from(*width).ok()),
        })
    }

    pub(super) fn fit(
        &self,
        model: &ModelName,
        params: &InferParams,
        given: Vec<Tensor>,
    ) -> Result<Sent, Fault> {
        let (which, tensor) = only_input(model, Task::Embed, &[Task::TEXT, Task::TOKENS], given)?;
        let count = match tensor.shape.dims() {
            [count] if *count == 0 => return Err(invalid("there is no text: send at least one".to_owned())),
            [count] if *count <= TEXTS_MAX => *count,
            [count] => {
                let text = format!("{count} texts: at most {TEXTS_MAX} are taken in one call");
                return Err(Fault::new(FaultCode::LimitExceeded, text));
            }
            shape => return Err(invalid(format!("texts are a list, but the shape {shape:?} was sent"))),
        };
        let wanted = wanted(model, Task::Embed, &[Task::EMBEDDING, Task::TOKEN_COUNT], &params.outputs)?;
        let dimensions = whole(params, "dimensions", DIMENSIONS_MAX)?;
        if let (Some(dimensions), Some(width)) = (dimensions, self.width)
            && width < u64::from(dimensions)
        {
            return Err(invalid(too_many(dimensions, width as usize)));
        }
        Ok(Sent { bytes: tensor.bytes, count, tokens: which == 1, dimensions, wanted })
    }

    pub(super) fn run(&self, sent: &Sent, turn: &mut Turn<'_>) -> Result<Vec<Tensor>, Failure> {
        let texts =
            bytes_elements(&sent.bytes, sent.count).map_err(|error| Failure::Sent(error.to_string()))?;
        let mut tokens = Vec::with_capacity(texts.len());
        for (at, text) in texts.iter().enumerate() {
            turn.still_wanted()?;
            let of_text = turn.prepare(|| self.tokens(text, sent.tokens));
            tokens.push(of_text.map_err(|reason| Failure::Sent(format!("text {at}: {reason}")))?);
        }
        let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
        let alike = self.length.is_none() && !self.inputs.iter().any(|(which, _)| *which == 1);
        let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); tokens.len()];
        for group in groups(&lengths, self.texts_max, RUN_TOKENS_MAX, alike) {
            let length = self.length.or_else(|| group.iter().map(|at| lengths[*at]).max()).unwrap_or(1);
            let inputs = turn.prepare(|| self.tensors(&group, &tokens, length))?;
            let outputs = turn.run(&inputs, &[self.output], group.len() as u64)?;
            turn.finish(|| {
                let pooled = self.vectors(&outputs, &group, &lengths, length, sent)?;
                group.iter().zip(pooled).for_each(|(at, vector)| vectors[*at] = vector);
                within_limit(&vectors, group[0])
            })?;
        }
        turn.finish(|| answered(sent, &vectors, &lengths))
    }

    fn tokens(&self, text: &[u8], given: bool) -> Result<Vec<u32>, String> {
        let tokens = if given {
            let (numbers, rest) = text.as_chunks::<4>();
            if !rest.is_empty() {
                return Err("its tokens are not four bytes each".to_owned());
            }
            self.words.given(numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())?
        } else {
            let text = std::str::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())?;
            match self.prefix.is_empty() {
                true => self.words.tokens(text)?,
                false => self.words.tokens(&format!("{}{text}", self.prefix))?,
            }
        };
        match tokens.is_empty() {
            true => Err("it has no tokens: nothing has no embedding".to_owned()),
            false => Ok(tokens),
        }
    }

    /// The inputs for a group of texts, filled up to `length`.
    fn tensors(&self, group: &[usize], tokens: &[Vec<u32>], length: usize) -> Result<Vec<Tensor>, Failure> {
        let one = |(which, spec): &(usize, TensorSpec)| {
            let mut bytes = Vec::new();
            for at in group {
                for place in 0..length {
                    let token = tokens[*at].get(place);
                    let value = match which {
                        0 => token.copied().unwrap_or(self.words.filling),
                        1 => u32::from(token.is_some()),
                        _ => 0,
                    };
                    match spec.datatype {
                        Datatype::Int32 => bytes.extend_from_slice(&value.to_le_bytes()),
                        _ => bytes.extend_from_slice(&i64::from(value).to_le_bytes()),
                    }
                }
            }
            let dims = vec![group.len() as u64, length as u64];
            Tensor::new(spec.name.clone(), spec.datatype, dims, bytes.into())
        };
        let tensors = self.inputs.iter().map(one).collect::<Result<_, _>>();
        tensors.map_err(|error| Failure::Run(RunError::from(error)))
    }

    /// One vector for each text of a group.
    fn vectors(
        &self,
        outputs: &[Tensor],
        group: &[usize],
        lengths: &[usize],
        length: usize,
        sent: &Sent,
    ) -> Result<Vec<Vec<f32>>, Failure> {
        let output = outputs.first().ok_or_else(|| Failure::Outputs("its output did not come".to_owned()))?;
        let values = floats(output).unwrap_or_default();
        let (count, places) = (group.len() as u64, length as u64);
        let (width, each) = match *output.shape.dims() {
            [texts, width] if texts == count => (width as usize, false),
            [texts, tokens, width] if texts == count && tokens == places => (width as usize, true),
            ref shape => {
                let text =
                    format!("{count} texts of {places} tokens gave the shape {shape:?}: no vector for each");
                return Err(Failure::Outputs(text));
            }
        };
        let cut = sent.dimensions.map_or(width, |dimensions| dimensions as usize);
        if width < cut {
            return Err(Failure::Sent(too_many(sent.dimensions.unwrap_or_default(), width)));
        }
        let stride = if each { length * width } else { width };
        let one = |(at, values): (&usize, &[f32])| {
            let mut vector = match each {
                true => pool(&values[..lengths[*at] * width], width, self.pooling),
                false => values.to_vec(),
            };
            vector.truncate(cut);
            if self.normalize {
                normalize(&mut vector);
            }
            match vector.iter().all(|value| value.is_finite()) {
                true => Ok(vector),
                false => Err(Failure::Outputs(format!("the vector of text {at} holds what is no number"))),
            }
        };
        group.iter().zip(values.chunks_exact(stride.max(1))).map(one).collect()
    }
}

/// The model's inputs, which must be those of a model of texts.
fn inputs(fit: Fit<'_>) -> Result<Vec<(usize, TensorSpec)>, Wrong> {
    let wrong = |reason: String| Err(Wrong::new("embed", reason));
    let mut inputs = Vec::new();
    for spec in &fit.signature.inputs {
        let TensorSpec { name, datatype, shape } = spec;
        let Some(which) = INPUTS.iter().position(|known| known == name) else {
            return wrong(format!("the model has an input {name:?}: texts fill {}", INPUTS.join(", ")));
        };
        if !matches!(datatype, Datatype::Int64 | Datatype::Int32) || !matches!(shape.len(), 0 | 2) {
            return wrong(format!(
                "the input {name} is {datatype} {shape:?}: texts fill INT64 or INT32 [-1, -1]"
            ));
        }
        inputs.push((which, spec.clone()));
    }
    match inputs.iter().any(|(which, _)| *which == 0) {
        true => Ok(inputs),
        false => wrong(format!("the model has no input {}: it is no model of texts", INPUTS[0])),
    }
}

fn output(settings: &Embed, fit: Fit<'_>) -> Result<usize, Wrong> {
    const KEY: &str = "embed.output";
    let outputs = &fit.signature.outputs;
    let known = OUTPUTS.iter().find(|known| outputs.iter().any(|spec| spec.name == **known));
    let name = match settings.output.as_deref() {
        None if 1 < outputs.len() => known.copied(),
        name => name,
    };
    let index = fit.output(name, KEY)?;
    let TensorSpec { name, shape, .. } = &outputs[index];
    match shape.len() {
        0 | 2 | 3 => Ok(index),
        _ => Err(Wrong::new(
            KEY,
            format!(
                "{name} has the shape {shape:?}: vectors are [texts, n] or [texts, tokens, n]; the model has {}",
                names(outputs)
            ),
        )),
    }
}

fn pooling(settings: &Embed, shape: &[i64]) -> Result<Pooling, Wrong> {
    const KEY: &str = "embed.pooling";
    match (settings.pooling, shape.len()) {
        (Some(Pooling::None), 3) => {
            Err(Wrong::new(KEY, "the output has a vector for each token: say how they become one"))
        }
        (Some(Pooling::Mean | Pooling::Cls | Pooling::Max), 2) => {
            Err(Wrong::new(KEY, "the output has one vector for each text already: leave it out"))
        }
        (given, _) => Ok(given.unwrap_or(Pooling::Mean)),
    }
}

fn too_many(dimensions: u32, width: usize) -> String {
    format!("{dimensions} dimensions are asked for, of {width} that the model gives")
}

/// Whether the answer can be sent: all vectors have the length of this one.
fn within_limit(vectors: &[Vec<f32>], known: usize) -> Result<(), Failure> {
    // The count of tokens too.
    let bytes = (vectors.len() * (vectors[known].len() + 1) * 4) as u64;
    let max = Limits::default().payload_bytes_max;
    match bytes <= u64::from(max) {
        true => Ok(()),
        false => Err(Failure::Run(RunError::TooLarge { bytes, max })),
    }
}

fn answered(sent: &Sent, vectors: &[Vec<f32>], lengths: &[usize]) -> Result<Vec<Tensor>, Failure> {
    let width = vectors.first().map_or(0, Vec::len);
    if vectors.iter().any(|vector| vector.len() != width) {
        return Err(Failure::Outputs("its vectors are not of one length".to_owned()));
    }
    let count = vectors.len() as u64;
    let one = |which: &usize| {
        if *which == 0 {
            let bytes: Vec<u8> = vectors.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
            Tensor::new(Task::EMBEDDING, Datatype::Fp32, vec![count, width as u64], bytes.into())
        } else {
            // A text has at most as many tokens as the settings allow.
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| (*length as u32).to_le_bytes()).collect();
            Tensor::new(Task::TOKEN_COUNT, Datatype::Uint32, vec![count], bytes.into())
        }
    };
    let tensors = sent.wanted.iter().map(one).collect::<Result<_, _>>();
    tensors.map_err(|error| Failure::Run(RunError::from(error)))
}
