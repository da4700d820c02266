//! Whether settings fit a model: what the sections look up of it.

use std::collections::BTreeMap;

use lineside_wire::TensorSpec;

use super::numbers::is_number;
use crate::{
    engine::Signature,
    settings::{Declared, Folder, Wrong, nearest},
};

/// Largest file of labels, in bytes.
pub(super) const LABELS_BYTES_MAX: u64 = 1 << 20;

/// Most names of a model's tensors in a message.
const NAMES_MAX: usize = 16;

/// A model and where its files lie.
#[derive(Clone, Copy)]
pub(crate) struct Fit<'a> {
    pub(crate) signature: &'a Signature,
    pub(crate) folder: &'a Folder,
}

impl Fit<'_> {
    /// The output of this name, or the only one.
    pub(super) fn output(&self, name: Option<&str>, key: &'static str) -> Result<usize, Wrong> {
        let outputs = &self.signature.outputs;
        let index = match (name, outputs.len()) {
            (None, 1) => 0,
            (None, _) => {
                return Err(Wrong::new(
                    key,
                    format!("the model has several outputs: name one of {}", names(outputs)),
                ));
            }
            (Some(name), _) => position(outputs, name, "output", key)?,
        };
        match is_number(outputs[index].datatype) {
            true => Ok(index),
            false => {
                let TensorSpec { name, datatype, .. } = &outputs[index];
                Err(Wrong::new(key, format!("the output {name:?} is {datatype}: numbers are needed")))
            }
        }
    }

    /// The names of outputs' elements that a `config.pbtxt` has, by the output's place. An empty line names nothing.
    pub(super) fn labels(&self, declared: Option<&Declared>) -> Result<BTreeMap<usize, Vec<String>>, Wrong> {
        let outputs = declared.map_or(&[][..], |declared| &declared.outputs);
        let mut labels = BTreeMap::new();
        for (output, file) in outputs.iter().filter_map(|output| Some((output, output.labels_file.as_ref()?)))
        {
            let text = self.folder.read(file, LABELS_BYTES_MAX).map_err(|reason| {
                Wrong::new(
                    "label_filename",
                    format!("of the output {:?} (line {}): {reason}", output.name, output.line),
                )
            })?;
            // One that the model lacks was told before.
            if let Some(at) = self.signature.outputs.iter().position(|spec| spec.name == output.name) {
                labels.insert(at, text.lines().map(|line| line.trim().to_owned()).collect());
            }
        }
        Ok(labels)
    }
}

/// The place of a tensor of this name.
pub(super) fn position(
    specs: &[TensorSpec],
    name: &str,
    what: &str,
    key: &'static str,
) -> Result<usize, Wrong> {
    specs.iter().position(|spec| spec.name == name).ok_or_else(|| {
        let known: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let hint = match nearest(name, &known) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("it has {}", names(specs)),
        };
        Wrong::new(key, format!("the model has no {what} {name:?}; {hint}"))
    })
}

/// As a person reads them.
pub(super) fn names(specs: &[TensorSpec]) -> String {
    let names: Vec<_> = specs.iter().take(NAMES_MAX).map(|spec| spec.name.as_str()).collect();
    let more = if NAMES_MAX < specs.len() { " and more" } else { "" };
    format!("{}{more}", names.join(", "))
}
