//! What a model may ask for, decided on what the [walk](super::walk) gathered. Pure: no file, no stream.

use std::collections::{BTreeSet, HashMap};

use super::{
    reader::Stop,
    tensor::shown,
    walk::{Body, Found, Made, NODES_MAX, Size, operator},
};
use crate::repository::MODEL_BYTES_MAX;

/// Most bytes of tensors that a model makes out of constants: as many as a file could hold written out. ONNX Runtime
/// makes them at load, and keeps them.
pub(super) const MADE_BYTES_MAX: u64 = MODEL_BYTES_MAX;

/// Deepest calls of functions that call functions.
const CALLS_DEPTH_MAX: u32 = 64;

/// Most domains in a message.
const TOLD_MAX: usize = 3;

/// Looks at everything but files.
///
/// # Errors
/// A rule is broken, in words for the person who put the model there.
pub(super) fn judge(found: &Found, domains: &[String]) -> Result<(), Stop> {
    if !found.has_graph {
        return Err(Stop::Form("it has no graph".to_owned()));
    }
    foreign(found, domains)?;
    expanded(found)?;
    made(found)
}

/// Operators are ONNX's, Microsoft's, the file's own, or allowed by name.
fn foreign(found: &Found, domains: &[String]) -> Result<(), Stop> {
    let unknown = found.foreign.keys().filter(|(domain, name)| {
        !found.functions.contains_key(&operator(domain, name)) && !domains.contains(domain)
    });
    let (mut names, mut example) = (BTreeSet::new(), None);
    for (domain, name) in unknown {
        names.insert(domain);
        example.get_or_insert_with(|| shown(name));
    }
    let Some(example) = example else { return Ok(()) };
    let told: Vec<_> = names.iter().take(TOLD_MAX).map(|domain| shown(domain)).collect();
    let more = if TOLD_MAX < names.len() { " and more" } else { "" };
    let list = told.join(", ");
    Err(Stop::Rule(format!(
        "the model uses operators of {list}{more} (such as {example}), which are neither ONNX's nor Microsoft's: export it \
         without them, or, if this ONNX Runtime has them, write `domains = [{list}]` below [limits] in its settings"
    )))
}

/// ONNX Runtime puts a function's nodes into the place of each call: calls of calls could make any number of them.
fn expanded(found: &Found) -> Result<(), Stop> {
    let mut sizes = HashMap::new();
    let total = size(&found.main, &found.functions, &mut sizes, 0)?;
    match total <= NODES_MAX {
        true => Ok(()),
        false => Err(Stop::Rule(format!(
            "the model's functions come to more than {NODES_MAX} nodes when they are put into the place of their calls"
        ))),
    }
}

fn size(
    body: &Body,
    functions: &HashMap<u64, Body>,
    sizes: &mut HashMap<u64, u64>,
    depth: u32,
) -> Result<u64, Stop> {
    if CALLS_DEPTH_MAX < depth {
        return Err(Stop::Rule(format!(
            "the model's functions call themselves, or each other {CALLS_DEPTH_MAX} deep"
        )));
    }
    let mut total = body.nodes;
    for (call, count) in &body.calls {
        let Some(function) = functions.get(call) else { continue };
        let one = match sizes.get(call) {
            Some(size) => *size,
            None => {
                let one = size(function, functions, sizes, depth + 1)?;
                sizes.insert(*call, one);
                one
            }
        };
        total = total.saturating_add(one.saturating_mul(*count));
    }
    Ok(total)
}

/// What is made of constants fits into memory, as far as the file says how large it is.
fn made(found: &Found) -> Result<(), Stop> {
    let mut total = found.sparse_bytes;
    for made in &found.made {
        total = total.saturating_add(bytes(made, found));
        if MADE_BYTES_MAX < total {
            return Err(Stop::Rule(format!(
                "the model makes more than {MADE_BYTES_MAX} bytes out of constants (with {}): it would take all memory; export \
                 it with smaller ones",
                made.operator
            )));
        }
    }
    Ok(())
}

fn bytes(made: &Made, found: &Found) -> u64 {
    let constant = |name: &u64| found.constants.get(name);
    let elements = match &made.size {
        Size::Elements(elements) => *elements,
        Size::Shape(name) => constant(name).map_or(0, |shape| shape.product),
        Size::Range(names) => match names.each_ref().map(constant) {
            [Some(from), Some(to), Some(step)] => range(from.first, to.first, step.first),
            _ => 0,
        },
    };
    elements.saturating_mul(made.width)
}

/// The elements of a tensor of this shape. A negative dimension is an error of the model's, which makes nothing.
pub(super) fn product(shape: &[i64]) -> u64 {
    let dims = shape.iter().map(|dim| u64::try_from(*dim).unwrap_or(0));
    match shape.contains(&0) {
        true => 0,
        false => dims.fold(1, u64::saturating_mul),
    }
}

fn range(from: i64, to: i64, step: i64) -> u64 {
    if step == 0 {
        return 0;
    }
    let count = (i128::from(to) - i128::from(from)) / i128::from(step);
    u64::try_from(count.max(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::walk::is_known, *};

    #[test]
    fn sizes_that_no_number_holds_are_large_and_not_small() {
        assert_eq!(product(&[i64::MAX, i64::MAX]), u64::MAX);
        assert_eq!((product(&[]), product(&[3, -1]), product(&[i64::MAX, i64::MAX, 0])), (1, 0, 0));
        assert_eq!((range(0, 10, 3), range(0, i64::MAX, 1)), (3, i64::MAX.unsigned_abs()));
        assert_eq!((range(5, 0, 1), range(i64::MIN, i64::MAX, 1), range(0, 1, 0)), (0, u64::MAX, 0));
    }

    #[test]
    fn functions_of_functions_are_counted_without_being_written_out() {
        let call = |name: &str, count: u64| HashMap::from([(operator("f", name), count)]);
        let level = |at: u32| {
            (operator("f", &at.to_string()), Body { nodes: 2, calls: call(&(at + 1).to_string(), 2) })
        };
        let found = |levels: u32| Found {
            main: Body { nodes: 1, calls: call("0", 1) },
            functions: (0..levels).map(level).collect(),
            has_graph: true,
            ..Found::default()
        };
        assert!(judge(&found(15), &[]).is_ok());
        assert!(judge(&found(40), &[]).is_err());
        let mut endless = found(1);
        endless.functions.insert(operator("f", "0"), Body { nodes: 1, calls: call("0", 1) });
        assert!(matches!(judge(&endless, &[]), Err(Stop::Rule(text)) if text.contains("call themselves")));
    }

    #[test]
    fn operators_of_others_need_a_word_from_the_settings() {
        let mut found = Found { has_graph: true, ..Found::default() };
        found.foreign.insert(("acme".to_owned(), "Weld".to_owned()), 1);
        let Err(Stop::Rule(told)) = judge(&found, &[]) else { panic!("taken") };
        assert!(told.contains("\"acme\"") && told.contains("domains = [\"acme\"]"), "{told}");
        assert!(judge(&found, &["acme".to_owned()]).is_ok());
        found.functions.insert(operator("acme", "Weld"), Body::default());
        assert!(judge(&found, &[]).is_ok());
        assert!(is_known("") && is_known("com.microsoft") && !is_known("com.microsoft.extensions"));
    }
}
