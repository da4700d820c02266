//! `input` and `output`.

use lineside_wire::Datatype;

use super::{
    super::{Field, Mistake},
    Config,
    fields::{Fields as _, once},
};
use crate::settings::declared::DeclaredTensor;

/// One tensor; `None` where it has no name to be found by.
pub(super) fn tensor(
    config: &mut Config,
    side: &'static str,
    field: &Field,
    max_batch_size: u32,
) -> Result<Option<DeclaredTensor>, Mistake> {
    let parts = field.message()?;
    once(parts, side, &["dims"])?;
    let mut tensor = DeclaredTensor {
        name: String::new(),
        line: field.line,
        datatype: None,
        dims: Some(Vec::new()),
        labels_file: None,
    };
    let mut dims = Vec::new();
    let mut is_reshaped = false;
    for part in parts {
        match part.name.as_str() {
            "name" => part.text()?.clone_into(&mut tensor.name),
            "data_type" => tensor.datatype = datatype(part)?,
            "dims" => dims.push(part.whole(-1, i64::MAX)?),
            "format" if part.word()? == "FORMAT_NONE" => {}
            "reshape" => {
                is_reshaped = true;
                config.warn(
                    part.line,
                    format!("{side}.reshape is not read: requests have the model's own shape"),
                );
            }
            "label_filename" if side == "output" => {
                tensor.labels_file = Some(part.text()?.to_owned()).filter(|file| !file.is_empty());
            }
            "optional" | "is_shape_tensor" | "is_non_linear_format_io" | "allow_ragged_batch"
                if !part.flag()? => {}
            _ => config.unread(side, part),
        }
    }
    if tensor.name.is_empty() {
        return Err(field.wrong("it lacks its name"));
    }
    if side == "input"
        && 0 < max_batch_size
        && let Some(shape) = largest(max_batch_size, &dims).filter(|_| !is_reshaped)
    {
        config.settings.limits.max_shape.insert(tensor.name.clone(), shape);
        config.place("limits.max_shape", field);
    }
    tensor.dims = Some(dims).filter(|_| !is_reshaped);
    Ok(Some(tensor))
}

/// The largest shape of an input, where all but its batch dimension is fixed.
fn largest(max_batch_size: u32, dims: &[i64]) -> Option<Vec<u64>> {
    let dims = dims.iter().map(|dim| u64::try_from(*dim).ok().filter(|dim| 0 < *dim));
    std::iter::once(Some(u64::from(max_batch_size))).chain(dims).collect()
}

/// `TYPE_FP32`; `None` where the file leaves it open.
pub(super) fn datatype(field: &Field) -> Result<Option<Datatype>, Mistake> {
    let word = field.word()?;
    let name = match word.strip_prefix("TYPE_") {
        Some("INVALID") => return Ok(None),
        Some("STRING") => "BYTES",
        Some(name) => name,
        None => word,
    };
    name.parse().map(Some).map_err(|_| {
        let types: Vec<_> = Datatype::ALL.iter().map(|datatype| datatype.as_str()).collect();
        field.wrong(format!(
            "there is no {}; there are TYPE_ and {}",
            super::super::short(word),
            types.join(", ")
        ))
    })
}
