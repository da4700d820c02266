//! An answer for a person and for a program.

use std::time::Duration;

use half::{bf16, f16};
use lineside_client::{Answer, Element, Output};
use lineside_wire::Datatype;
use serde_json::{Value, json};

use crate::output::time_us;

/// Elements of an output that a person is shown; `-o json` has all.
const SHOWN_MAX: usize = 16;

/// The answer as one JSON object; elements flat, row by row.
pub(super) fn json(answer: &Answer, node_name: &str, took: Duration) -> Value {
    let output = |output: &Output| {
        json!({
            "name": output.name(),
            "datatype": output.datatype(),
            "shape": output.shape(),
            "data": elements(output),
        })
    };
    json!({
        "model": answer.model.as_str(),
        "version": answer.version,
        "outputs": answer.outputs().iter().map(output).collect::<Vec<_>>(),
        "node": answer.node,
        "node_name": node_name,
        "attempts": answer.attempts,
        "queue_us": micros(answer.queued),
        "run_us": micros(answer.ran),
        "total_us": micros(took),
    })
}

/// The answer in lines: an output each, then who gave it and how long it took.
pub(super) fn text(answer: &Answer, node_name: &str, took: Duration) -> String {
    let mut lines: Vec<_> = answer.outputs().iter().map(line).collect();
    let time = |time: Duration| time_us(micros(time));
    lines.push(format!(
        "{} version {} on {node_name}, tries {}, queued {}, ran {}, in all {}",
        answer.model,
        answer.version,
        answer.attempts,
        time(answer.queued),
        time(answer.ran),
        time(took),
    ));
    lines.join("\n") + "\n"
}

fn line(output: &Output) -> String {
    let elements = elements(output);
    let shown: Vec<_> = elements.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
    let more = match elements.len().saturating_sub(SHOWN_MAX) {
        0 => String::new(),
        more => format!(", … {more} more"),
    };
    let dims: Vec<_> = output.shape().iter().map(ToString::to_string).collect();
    format!("{} {}[{}] = [{}{more}]", output.name(), output.datatype(), dims.join(","), shown.join(", "))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The elements as JSON has them: a number that is none becomes `null`, a text that is not UTF-8 is mended.
fn elements(output: &Output) -> Vec<Value> {
    fn numbers<T: Element>(output: &Output, json: impl Fn(T) -> Value) -> Vec<Value> {
        // The type was asked for before.
        output.to_vec::<T>().unwrap_or_default().into_iter().map(json).collect()
    }
    match output.datatype() {
        Datatype::Bool => numbers::<bool>(output, Value::from),
        Datatype::Uint8 => numbers::<u8>(output, Value::from),
        Datatype::Uint16 => numbers::<u16>(output, Value::from),
        Datatype::Uint32 => numbers::<u32>(output, Value::from),
        Datatype::Uint64 => numbers::<u64>(output, Value::from),
        Datatype::Int8 => numbers::<i8>(output, Value::from),
        Datatype::Int16 => numbers::<i16>(output, Value::from),
        Datatype::Int32 => numbers::<i32>(output, Value::from),
        Datatype::Int64 => numbers::<i64>(output, Value::from),
        Datatype::Fp16 => numbers::<f16>(output, |number| short(f32::from(number))),
        Datatype::Bf16 => numbers::<bf16>(output, |number| short(f32::from(number))),
        Datatype::Fp32 => numbers::<f32>(output, short),
        Datatype::Fp64 => numbers::<f64>(output, Value::from),
        Datatype::Bytes => {
            let blobs = output.to_blobs().unwrap_or_default();
            blobs.into_iter().map(|blob| Value::from(String::from_utf8_lossy(&blob).into_owned())).collect()
        }
    }
}

/// A number with no more digits than it has: 0.1, not 0.10000000149011612.
fn short(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_of_their_own_type() {
        assert_eq!(short(0.1).to_string(), "0.1");
        assert_eq!(short(3.0).to_string(), "3.0");
        assert_eq!(short(f32::NAN), Value::Null);
        assert_eq!(short(f32::INFINITY), Value::Null);
    }
}
