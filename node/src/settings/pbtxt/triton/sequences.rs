//! `sequence_batching`.

use std::time::Duration;

use super::{
    super::{Field, Mistake},
    Config,
    fields::{Fields as _, once},
};
use crate::settings::{Sequence, Span, State};

/// How long Triton waits for a sequence's next request where the file does not say.
const IDLE_DEFAULT: Duration = Duration::from_secs(1);

pub(super) fn sequence(config: &mut Config, field: &Field, is_batched: bool) -> Result<(), Mistake> {
    let parts = field.message()?;
    once(parts, &field.name, &["state", "control_input"])?;
    let mut sequence = Sequence { idle_timeout: Span(IDLE_DEFAULT), ..Sequence::default() };
    config.place("sequence", field);
    for part in parts {
        match part.name.as_str() {
            "max_sequence_idle_microseconds" => {
                sequence.idle_timeout = part.micros()?;
                config.place("sequence.idle_timeout", part);
            }
            "state" => {
                sequence.states.push(state(config, part, is_batched)?);
                config.place("sequence.states", part);
            }
            "control_input" => control(config, part)?,
            "direct" | "oldest" => config.warn(
                part.line,
                format!("sequence_batching.{} is not read: requests of sequences run one by one", part.name),
            ),
            _ => config.unread(&field.name, part),
        }
    }
    if sequence.states.is_empty() {
        let text = "sequence_batching names no state, so nothing is kept between the requests of a sequence";
        config.warn(field.line, text);
        return Ok(());
    }
    config.settings.sequence = Some(sequence);
    Ok(())
}

/// The model has these inputs; here, nobody but the caller fills them.
fn control(config: &mut Config, field: &Field) -> Result<(), Mistake> {
    let name = field.message()?.iter().find(|part| part.name == "name");
    let name = name.map(|part| part.text()).transpose()?.unwrap_or_default();
    let text = format!(
        "sequence_batching.control_input is not read: the input {:?} is sent with each request",
        super::super::short(name)
    );
    config.warn(field.line, text);
    Ok(())
}

fn state(config: &mut Config, field: &Field, is_batched: bool) -> Result<State, Mistake> {
    let parts = field.message()?;
    once(parts, "state", &["dims", "initial_state"])?;
    let (mut input, mut output, mut dims) = (None, None, Vec::new());
    for part in parts {
        match part.name.as_str() {
            "input_name" => input = Some(part.text()?.to_owned()),
            "output_name" => output = Some(part.text()?.to_owned()),
            // The model's own is used.
            "data_type" => drop(super::tensors::datatype(part)?),
            // What varies begins as 1.
            "dims" => dims.push(part.whole(-1, i64::MAX)?.unsigned_abs()),
            "initial_state" => initial(part)?,
            "use_same_buffer_for_input_output" | "use_growable_memory" if !part.flag()? => {}
            _ => config.unread("sequence_batching.state", part),
        }
    }
    let named = |name: Option<String>, key| name.ok_or_else(|| field.wrong(format!("it lacks its {key}")));
    let batch = is_batched.then_some(1);
    let shape = (!dims.is_empty()).then(|| batch.into_iter().chain(dims).collect());
    Ok(State { input: named(input, "input_name")?, output: named(output, "output_name")?, shape })
}

/// A sequence begins with zeros; another beginning would be another answer.
fn initial(field: &Field) -> Result<(), Mistake> {
    let parts = field.message()?;
    match parts.iter().find(|part| part.name == "data_file") {
        Some(part) => {
            Err(part.wrong("a state begins with zeros here: send the first state as an input instead"))
        }
        None => Ok(()),
    }
}
