//! The walk through a model's messages, and what it gathers for the [rules](super::rules).
//!
//! Knows the numbers of ONNX's fields, and no file but the stream it is given.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
};

use super::{
    external::{External, FILES_MAX},
    reader::{Reader, Span, Stop, Value},
    rules::{MADE_BYTES_MAX, product},
    tensor::{NAME_BYTES_MAX, NUMBERS_MAX, Tensor, named, shown},
};

/// Most nodes of a model, with those of its functions and branches. The largest language models have some ten thousand;
/// ONNX Runtime takes about a kibibyte for each, and its rewriting of the graph takes more than proportional time.
pub(super) const NODES_MAX: u64 = 1_000_000;

/// Most tensors in a file, those in attributes too; a node has a few at most.
const TENSORS_MAX: u64 = 1_000_000;

/// Most functions that a file defines.
const FUNCTIONS_MAX: usize = 16_384;

/// Most sets of operators that a file names: ONNX's own and Microsoft's are not twenty.
const OPSETS_MAX: usize = 1024;

/// Most operators of foreign domains that are told apart.
const FOREIGN_MAX: usize = 1024;

/// Most inputs of a node that are looked at: those that say a size are among the first three.
const INPUTS_SEEN: usize = 3;

/// Longest name of the program that made the model, in characters: it is shown in lists.
const PRODUCER_CHARS_MAX: usize = 80;

/// Paths of an `EPContext` that are looked at: there must be one.
const CONTEXTS_SEEN: usize = 2;

/// Longest path that an `EPContext` may name, which is the longest that Linux takes.
const CONTEXT_BYTES_MAX: usize = 4096;

/// A graph or a function, as something that is put into the place of its callers.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) nodes: u64,
    /// How often it calls what, by [`operator`].
    pub(super) calls: HashMap<u64, u64>,
}

/// A tensor that the model makes of constants, perhaps.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) operator: &'static str,
    /// Bytes of an element.
    pub(super) width: u64,
    pub(super) size: Size,
}

/// How large it is. Names are hashes, of tensors whose values are looked for when all are known.
#[derive(Debug)]
pub(super) enum Size {
    /// The product of a constant's elements.
    Shape(u64),
    /// From, to and step of a range.
    Range([u64; INPUTS_SEEN]),
    /// In the node itself.
    Elements(u64),
}

/// A small constant of whole numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constant {
    /// Elements of a tensor of this shape.
    pub(super) product: u64,
    /// The first number, or the only one.
    pub(super) first: i64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) ir_version: i64,
    pub(super) producer: String,
    pub(super) opsets: BTreeMap<String, i64>,
    pub(super) has_graph: bool,
    pub(super) main: Body,
    /// Functions of the file itself, by [`operator`].
    pub(super) functions: HashMap<u64, Body>,
    /// Operators of domains that are nobody's here: domain and name.
    pub(super) foreign: BTreeMap<(String, String), u64>,
    /// Files with weights, by the path that the model gives: of each what reaches farthest.
    pub(super) external: BTreeMap<String, External>,
    pub(super) weight_bytes: u64,
    /// Bytes of sparse tensors when they are written out.
    pub(super) sparse_bytes: u64,
    /// Small constants, by the hash of their name.
    pub(super) constants: HashMap<u64, Constant>,
    pub(super) made: Vec<Made>,
    pub(super) nodes: u64,
    pub(super) tensors: u64,
}

/// An operator's identity, by which a function of the file is called.
pub(super) fn operator(domain: &str, name: &str) -> u64 {
    named((domain, name))
}

/// Domains whose operators ONNX Runtime brings itself.
pub(super) fn is_known(domain: &str) -> bool {
    matches!(
        domain,
        "" | "ai.onnx"
            | "ai.onnx.ml"
            | "ai.onnx.preview"
            | "ai.onnx.preview.training"
            | "ai.onnx.training"
            | "com.microsoft"
            | "com.microsoft.dml"
            | "com.microsoft.experimental"
            | "com.microsoft.nchwc"
            | "com.ms.internal.nhwc"
    )
}

/// Reads a `ModelProto` of so many bytes.
pub(super) fn walk<R: Read>(reader: &mut Reader<R>, bytes: u64) -> Result<Found, Stop> {
    let mut walk = Walk { reader, found: Found::default() };
    walk.model(bytes)?;
    Ok(walk.found)
}

struct Walk<'r, R> {
    reader: &'r mut Reader<R>,
    found: Found,
}

/// A node in the reading: its fields come in any order.
#[derive(Default)]
struct Node {
    operator: String,
    domain: String,
    inputs: Vec<u64>,
    output: Option<u64>,
    /// The attribute `value`, of a constant or of what one is filled with.
    value: Option<Tensor>,
    /// The attributes `value_ints` and `shape`, and `value_int`.
    ints: Option<Vec<i64>>,
    /// The attributes `ep_cache_context` and `embed_mode`, as often as they are there.
    contexts: Vec<Vec<u8>>,
    lies_apart: bool,
    /// Whether an attribute is the caller's: of the function in which the node is.
    refers: bool,
}

/// An attribute in the reading.
#[derive(Default)]
struct Attribute {
    name: String,
    int: Option<i64>,
    ints: Vec<i64>,
    many_ints: bool,
    tensor: Option<Tensor>,
    text: Option<Vec<u8>>,
    refers: bool,
}

impl<R: Read> Walk<'_, R> {
    fn model(&mut self, bytes: u64) -> Result<(), Stop> {
        let whole = self.reader.whole(bytes);
        let mut main = Body::default();
        while let Some((number, value)) = self.reader.field(whole)? {
            match (number, value) {
                (1, Value::Number(version)) => self.found.ir_version = version.cast_signed(),
                (2, Value::Span(span)) => {
                    let name = self.reader.text(span, NAME_BYTES_MAX, "the name of the model's producer")?;
                    self.found.producer = crate::engine::clipped(&name, PRODUCER_CHARS_MAX);
                }
                (7, Value::Span(span)) => {
                    self.found.has_graph = true;
                    self.graph(span, &mut main)?;
                }
                (8, Value::Span(span)) => self.opset(span)?,
                (20, Value::Span(span)) => self.training(span, &mut main)?,
                (25, Value::Span(span)) => self.function(span)?,
                (_, value) => self.reader.pass(value)?,
            }
        }
        self.found.main = main;
        Ok(())
    }

    fn opset(&mut self, span: Span) -> Result<(), Stop> {
        let (mut domain, mut version) = (String::new(), 0);
        while let Some((number, value)) = self.reader.field(span)? {
            match (number, value) {
                (1, Value::Span(span)) => {
                    domain = self.reader.text(span, NAME_BYTES_MAX, "the name of a set of operators")?;
                }
                (2, Value::Number(number)) => version = number.cast_signed(),
                (_, value) => self.reader.pass(value)?,
            }
        }
        if domain.is_empty() {
            "ai.onnx".clone_into(&mut domain);
        }
        if OPSETS_MAX <= self.found.opsets.len() {
            return Err(Stop::Rule(format!("the model names more than {OPSETS_MAX} sets of operators")));
        }
        self.found.opsets.insert(domain, version);
        Ok(())
    }

    fn training(&mut self, span: Span, body: &mut Body) -> Result<(), Stop> {
        while let Some((number, value)) = self.reader.field(span)? {
            match (number, value) {
                (1 | 2, Value::Span(span)) => self.graph(span, body)?,
                (_, value) => self.reader.pass(value)?,
            }
        }
        Ok(())
    }

    fn function(&mut self, span: Span) -> Result<(), Stop> {
        let (mut name, mut domain, mut body) = (String::new(), String::new(), Body::default());
        while let Some((number, value)) = self.reader.field(span)? {
            match (number, value) {
                (1, Value::Span(span)) => {
                    name = self.reader.text(span, NAME_BYTES_MAX, "the name of a function")?;
                }
                (10, Value::Span(span)) => {
                    domain = self.reader.text(span, NAME_BYTES_MAX, "the domain of a function")?;
                }
                (7, Value::Span(span)) => self.node(span, &mut body)?,
                // Its attributes' defaults.
                (11, Value::Span(span)) => drop(self.attribute(span, &mut body)?),
                (_, value) => self.reader.pass(value)?,
            }
        }
        if FUNCTIONS_MAX <= self.found.functions.len() {
            return Err(Stop::Rule(format!("the model defines more than {FUNCTIONS_MAX} functions")));
        }
        // Two of one name differ in their `overload`: either may be meant.
        let of_name = self.found.functions.entry(operator(&domain, &name)).or_default();
        of_name.nodes += body.nodes;
        for (call, count) in body.calls {
            *of_name.calls.entry(call).or_default() += count;
        }
        Ok(())
    }

    fn graph(&mut self, span: Span, body: &mut Body) -> Result<(), Stop> {
        while let Some((number, value)) = self.reader.field(span)? {
            match (number, value) {
                (1, Value::Span(span)) => self.node(span, body)?,
                (5, Value::Span(span)) => {
                    let tensor = self.tensor(span)?;
                    if let Some(numbers) = tensor.small() {
                        self.found.constant(named(&tensor.name), &numbers);
                    }
                }
                (15, Value::Span(span)) => self.sparse(span)?,
                (_, value) => self.reader.pass(value)?,
            }
        }
        Ok(())
    }

    fn tensor(&mut self, span: Span) -> Result<Tensor, Stop> {
        self.found.tensors += 1;
        if TENSORS_MAX < self.found.tensors {
            return Err(Stop::Rule(format!("the model holds more than {TENSORS_MAX} tensors")));
        }
        let tensor = Tensor::read(self.reader, span)?;
        self.found.weight_bytes = self.found.weight_bytes.saturating_add(tensor.bytes());
        if let Some(external) = tensor.check()? {
            self.found.want(external)?;
        }
        Ok(tensor)
    }

    /// Reads a `SparseTensorProto`, which ONNX Runtime writes out when it loads it.
    fn sparse(&mut self, span: Span) -> Result<(), Stop> {
        let (mut elements, mut bits) = (1_u64, 8);
        while let Some((number, value)) = self.reader.field(span)? {
            match (number, value) {
                (1, Value::Span(span)) => bits = self.tensor(span)?.bits().max(8),
                (2, Value::Span(span)) => drop(self.tensor(span)?),
                (3, Value::Number(dim)) => elements = elements.saturating_mul(dim),
                (3, Value::Span(span)) => {
                    let (count, dims) = self.reader.numbers(span, NUMBERS_MAX)?;
                    if dims.len() as u64 != count {
                        return Err(Stop::Rule(format!(
                            "a sparse tensor has more than {NUMBERS_MAX} dimensions"
                        )));
                    }
                    let dims = dims.into_iter().map(i64::cast_unsigned);
                    elements = dims.fold(elements, u64::saturating_mul);
                }
                (_, value) => self.reader.pass(value)?,
            }
        }
        let bytes = elements.saturating_mul(bits / 8);
        self.found.sparse_bytes = self.found.sparse_bytes.saturating_add(bytes);
        match self.found.sparse_bytes <= MADE_BYTES_MAX {
            true => Ok(()),
            false => Err(Stop::Rule(format!(
                "the model's sparse tensors have more than {MADE_BYTES_MAX} bytes when they are written out, as ONNX \
                 Runtime does: export the model with smaller ones"
            ))),
        }
    }

    fn node(&mut self, span: Span, body: &mut Body) -> Result<(), Stop> {
        self.found.nodes += 1;
        body.nodes += 1;
        if NODES_MAX < self.found.nodes {
            return Err(Stop::Rule(format!("the model has more than {NODES_MAX} nodes")));
        }
        let mut node = Node::default();
        while let Some((number, value)) = self.reader.field(span)? {
            match (number, value) {
                (1, Value::Span(span)) if node.inputs.len() < INPUTS_SEEN => {
                    node.inputs.push(self.name_of_value(span)?);
                }
                (2, Value::Span(span)) if node.output.is_none() => {
                    node.output = Some(self.name_of_value(span)?);
                }
                (4, Value::Span(span)) => {
                    node.operator = self.reader.text(span, NAME_BYTES_MAX, "the name of an operator")?;
                }
                (5, Value::Span(span)) => {
                    let attribute = self.attribute(span, body)?;
                    node.take(attribute);
                }
                (7, Value::Span(span)) => {
                    node.domain = self.reader.text(span, NAME_BYTES_MAX, "the domain of an operator")?;
                }
                (_, value) => self.reader.pass(value)?,
            }
        }
        *body.calls.entry(operator(&node.domain, &node.operator)).or_default() += 1;
        self.found.note(node)
    }

    fn name_of_value(&mut self, span: Span) -> Result<u64, Stop> {
        let name = self.reader.text(span, NAME_BYTES_MAX, "the name of a node's input or output")?;
        Ok(named(&name))
    }

    fn attribute(&mut self, span: Span, body: &mut Body) -> Result<Attribute, Stop> {
        let mut attribute = Attribute::default();
        while let Some((number, value)) = self.reader.field(span)? {
            match (number, value) {
                (1, Value::Span(span)) => {
                    attribute.name = self.reader.text(span, NAME_BYTES_MAX, "the name of an attribute")?;
                }
                (3, Value::Number(int)) => attribute.int = Some(int.cast_signed()),
                (4, Value::Span(span)) => {
                    attribute.text = Some(self.reader.head(span, CONTEXT_BYTES_MAX + 1)?);
                }
                (5, Value::Span(span)) => attribute.tensor = Some(self.tensor(span)?),
                (10, Value::Span(span)) => drop(self.tensor(span)?),
                (6 | 11, Value::Span(span)) => self.graph(span, body)?,
                (8, Value::Number(int)) => attribute.ints(1, &[int.cast_signed()]),
                (8, Value::Span(span)) => {
                    let (count, first) = self.reader.numbers(span, NUMBERS_MAX)?;
                    attribute.ints(count, &first);
                }
                (21, value) => {
                    attribute.refers = true;
                    self.reader.pass(value)?;
                }
                (22 | 23, Value::Span(span)) => self.sparse(span)?,
                (_, value) => self.reader.pass(value)?,
            }
        }
        Ok(attribute)
    }
}

impl Attribute {
    fn ints(&mut self, count: u64, first: &[i64]) {
        self.ints.extend_from_slice(first);
        self.many_ints |= (first.len() as u64) < count || NUMBERS_MAX < self.ints.len();
        self.ints.truncate(NUMBERS_MAX);
    }
}

impl Node {
    fn take(&mut self, attribute: Attribute) {
        self.refers |= attribute.refers;
        match attribute.name.as_str() {
            "value" => self.value = attribute.tensor,
            "value_ints" | "shape" if !attribute.many_ints => self.ints = Some(attribute.ints),
            "value_int" => self.ints = attribute.int.map(|int| vec![int]),
            // Several are one too many; which of them counts is the reader's choice.
            "ep_cache_context" if self.contexts.len() < CONTEXTS_SEEN => self.contexts.extend(attribute.text),
            "embed_mode" => self.lies_apart |= attribute.int == Some(0),
            _ => {}
        }
    }
}

impl Found {
    /// Keeps of a node what the rules need.
    fn note(&mut self, node: Node) -> Result<(), Stop> {
        let input = |at: usize| node.inputs.get(at).copied().unwrap_or_default();
        let mut made = |operator, width, size| self.made.push(Made { operator, width, size });
        match node.operator.as_str() {
            "Constant" => {
                let numbers = node.value.as_ref().and_then(Tensor::small).or(node.ints);
                if let (Some(output), Some(numbers)) = (node.output, numbers) {
                    self.constant(output, &numbers);
                }
            }
            "ConstantOfShape" => {
                // Without a value it is filled with floats.
                let width = node.value.as_ref().map_or(4, |value| value.bits().div_ceil(8).max(1));
                made("ConstantOfShape", width, Size::Shape(input(0)));
            }
            // What they repeat has at least a byte.
            "Expand" => made("Expand", 1, Size::Shape(input(1))),
            "Tile" => made("Tile", 1, Size::Shape(input(1))),
            "Range" => made("Range", 8, Size::Range([input(0), input(1), input(2)])),
            "RandomNormal" | "RandomUniform" => {
                let shape = node.ints.unwrap_or_default();
                made("RandomNormal", 4, Size::Elements(product(&shape)));
            }
            "EPContext" => self.context(&node)?,
            _ => {}
        }
        if !is_known(&node.domain) {
            if FOREIGN_MAX <= self.foreign.len() {
                return Err(Stop::Rule(format!(
                    "the model uses more than {FOREIGN_MAX} operators that are neither ONNX's nor Microsoft's"
                )));
            }
            *self.foreign.entry((node.domain, node.operator)).or_default() += 1;
        }
        Ok(())
    }

    /// An `EPContext` holds what a provider compiled, or names a file that does.
    fn context(&mut self, node: &Node) -> Result<(), Stop> {
        let rule = |text: &str| Err(Stop::Rule(format!("an EPContext {text}: make it again for this model")));
        if node.refers {
            return rule("takes what it names from the caller of its function");
        }
        if !node.lies_apart {
            return Ok(());
        }
        let [context] = &node.contexts[..] else { return rule("does not name one file") };
        match String::from_utf8(context.clone()) {
            Ok(location) if location.len() <= CONTEXT_BYTES_MAX => {
                self.want(External { tensor: shown("EPContext"), location, offset: 0, bytes: 0 })
            }
            _ => rule("has a path that is none"),
        }
    }

    fn want(&mut self, external: External) -> Result<(), Stop> {
        let full = FILES_MAX <= self.external.len();
        match self.external.get_mut(&external.location) {
            Some(known) if known.end() < external.end() => *known = external,
            Some(_) => {}
            None if full => {
                return Err(Stop::Rule(format!(
                    "the model's weights lie in more than {FILES_MAX} files: export it with one file for all"
                )));
            }
            None => drop(self.external.insert(external.location.clone(), external)),
        }
        Ok(())
    }

    /// Two branches may have a constant of one name each: the larger one counts.
    fn constant(&mut self, name: u64, numbers: &[i64]) {
        let constant =
            Constant { product: product(numbers), first: numbers.first().copied().unwrap_or_default() };
        let known = self.constants.entry(name).or_insert(constant);
        if known.product < constant.product {
            *known = constant;
        }
    }
}
