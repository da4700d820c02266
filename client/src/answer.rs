//! An answer as a program reads it.

use std::time::Duration;

use bytes::Bytes;
use lineside_wire::{
    Datatype, Fault, ModelName, ModelVersion, NodeId, Parameters, Tensor, bytes_elements, split_tensors,
};

use crate::{Element, InferReply};

/// Why an answer does not hold what was looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// There is no such output.
    #[error("the answer has no output {wanted:?}; it has {}", there.join(", "))]
    NoOutput {
        /// The name asked for.
        wanted: String,
        /// The names there are.
        there: Vec<String>,
    },
    /// The output holds other elements.
    #[error("the output {output:?} holds {found}, not {wanted}")]
    WrongType {
        /// Which output.
        output: String,
        /// The datatype asked for.
        wanted: Datatype,
        /// The datatype it has.
        found: Datatype,
    },
    /// A text that is not UTF-8: read it as bytes.
    #[error("element {at} of the output {output:?} is not UTF-8; read it with to_blobs")]
    NoText {
        /// Which output.
        output: String,
        /// Index of the element.
        at: usize,
    },
}

/// The answer to an inference.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The model that ran.
    pub model: ModelName,
    /// The version that ran.
    pub version: ModelVersion,
    /// The node that did the work.
    pub node: NodeId,
    /// Tries that it took, those of gateways included.
    pub attempts: u8,
    /// How long the call waited on the node.
    pub queued: Duration,
    /// How long the model ran.
    pub ran: Duration,
    /// Parameters of the answer.
    pub parameters: Parameters,
    outputs: Vec<Output>,
}

impl Answer {
    pub(crate) fn new(reply: InferReply) -> Result<Self, Fault> {
        let InferReply { result, payload, report } = reply;
        let tensors = split_tensors(result.outputs, &payload)?;
        Ok(Self {
            model: result.model,
            version: result.version,
            node: report.node,
            attempts: report.attempts,
            queued: Duration::from_micros(report.queue_us),
            ran: Duration::from_micros(report.run_us),
            parameters: result.parameters,
            outputs: tensors.into_iter().map(Output).collect(),
        })
    }

    /// All outputs, in the order asked for.
    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// One output.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn output(&self, name: &str) -> Result<&Output, AnswerError> {
        let there = || self.outputs.iter().map(|output| output.name().to_owned()).collect();
        self.outputs
            .iter()
            .find(|output| output.name() == name)
            .ok_or_else(|| AnswerError::NoOutput { wanted: name.to_owned(), there: there() })
    }
}

/// One output: a tensor whose bytes are known to fit its shape.
#[derive(Clone, Debug)]
pub struct Output(Tensor);

impl Output {
    /// The model's name for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its element type.
    #[must_use]
    pub const fn datatype(&self) -> Datatype {
        self.0.datatype
    }

    /// Its dimensions, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        self.0.shape.dims()
    }

    /// Its elements as they came: little-endian, row-major.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// The tensor itself, for example as the input of the next call; nothing is copied.
    #[must_use]
    pub fn into_tensor(self) -> Tensor {
        self.0
    }

    /// Its elements, row-major.
    ///
    /// # Errors
    /// They are of another type. Nothing is converted: rounding is the caller's choice.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, AnswerError> {
        self.check(T::DATATYPE)?;
        Ok(T::read(self.bytes()))
    }

    /// Its elements as texts.
    ///
    /// # Errors
    /// It holds numbers, or an element is not UTF-8.
    pub fn to_strings(&self) -> Result<Vec<String>, AnswerError> {
        let text = |(at, blob): (usize, Vec<u8>)| {
            String::from_utf8(blob).map_err(|_| AnswerError::NoText { output: self.name().to_owned(), at })
        };
        self.to_blobs()?.into_iter().enumerate().map(text).collect()
    }

    /// Its elements as bytes of varying length.
    ///
    /// # Errors
    /// It holds numbers.
    pub fn to_blobs(&self) -> Result<Vec<Vec<u8>>, AnswerError> {
        self.check(Datatype::Bytes)?;
        // Checked when the tensor was made: an element that does not fit is no longer possible.
        let elements = bytes_elements(self.bytes(), self.0.shape.elements()).unwrap_or_default();
        Ok(elements.into_iter().map(<[u8]>::to_vec).collect())
    }

    fn check(&self, wanted: Datatype) -> Result<(), AnswerError> {
        let found = self.datatype();
        match wanted == found {
            true => Ok(()),
            false => Err(AnswerError::WrongType { output: self.name().to_owned(), wanted, found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{InferResult, LoadReport, RunReport, bytes_tensor, join_tensors};

    use super::*;

    fn answer(tensors: &[Tensor]) -> Result<Answer, Fault> {
        let (outputs, payload) = join_tensors(tensors);
        let node = NodeId::from_bytes([1; 16]);
        Answer::new(InferReply {
            result: InferResult {
                model: "add".parse().unwrap(),
                version: ModelVersion(1),
                outputs,
                parameters: Parameters::new(),
            },
            payload: payload.into_chunks().concat().into(),
            report: RunReport {
                node,
                load: LoadReport::default(),
                queue_us: 5,
                run_us: 7,
                attempts: 2,
                batch: 1,
            },
        })
    }

    fn sum() -> Tensor {
        let bytes = [1.5_f32, -2.0].map(f32::to_le_bytes).concat();
        Tensor::new("sum", Datatype::Fp32, vec![1, 2], bytes.into()).unwrap()
    }

    #[test]
    fn an_output_is_read_as_what_it_is_and_nothing_else() {
        let answer = answer(&[sum()]).unwrap();
        let output = answer.output("sum").unwrap();
        assert_eq!(output.to_vec::<f32>(), Ok(vec![1.5, -2.0]));
        assert_eq!(output.shape(), [1, 2]);
        let error = output.to_vec::<f64>().unwrap_err().to_string();
        assert_eq!(error, "the output \"sum\" holds FP32, not FP64");
        assert!(output.to_strings().is_err());
        let error = answer.output("total").unwrap_err().to_string();
        assert_eq!(error, "the answer has no output \"total\"; it has sum");
    }

    #[test]
    fn texts_come_as_texts_and_anything_else_as_bytes() {
        let tensor = |elements: &[&[u8]]| {
            let bytes = bytes_tensor(elements.iter().copied()).unwrap();
            Tensor::new("label", Datatype::Bytes, vec![elements.len() as u64], bytes.into()).unwrap()
        };
        let good = answer(&[tensor(&[b"ok", "Riß".as_bytes()])]).unwrap();
        assert_eq!(good.outputs()[0].to_strings().unwrap(), ["ok", "Riß"]);
        let odd = answer(&[tensor(&[b"ok", &[0xff]])]).unwrap();
        assert!(matches!(odd.outputs()[0].to_strings(), Err(AnswerError::NoText { at: 1, .. })));
        assert_eq!(odd.outputs()[0].to_blobs().unwrap()[1], [0xff]);
    }

    #[test]
    fn an_answer_whose_bytes_do_not_fit_is_none() {
        let (headers, _) = join_tensors(&[sum()]);
        assert!(split_tensors(headers, &Bytes::from_static(&[0; 7])).is_err());
    }
}
