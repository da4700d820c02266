//! Models of one node, written as protobuf by hand: what no sample model has.

/// ONNX's numbers of element types.
pub(super) const FLOAT: u64 = 1;
/// Complex numbers, which the wire has no name for.
pub(super) const COMPLEX64: u64 = 14;
pub(super) const INT64: u64 = 7;
pub(super) const STRING: u64 = 8;
pub(super) const BFLOAT16: u64 = 16;
pub(super) const BOOL: u64 = 9;

/// The type of a model's input or output.
pub(super) enum Type {
    /// A tensor of any length in one dimension.
    Row(u64),
    /// A tensor of any shape.
    Any(u64),
    /// A tensor of these dimensions; -1 varies.
    Dims(u64, &'static [i64]),
    /// A sequence of tensors.
    Sequence(u64),
}

/// A model whose only node turns `x` into `y`. `attributes` are the node's, each a name and texts (one: a text).
pub(super) fn one_node(operator: &str, from: &Type, to: &Type, attributes: &[(&str, &str)]) -> Vec<u8> {
    let texts = attributes.iter().map(|(name, value)| {
        // AttributeProto: name, type STRING, s.
        let fields = [text(1, name), number(20, 3), text(4, value)];
        message(5, &fields.concat())
    });
    let node = [text(1, "x"), text(2, "y"), text(4, operator), texts.collect::<Vec<_>>().concat()];
    model(&[message(1, &node.concat()), message(11, &value("x", from)), message(12, &value("y", to))])
}

/// A model of texts that looks each token up in a table of vectors of `width` elements. It has an `attention_mask`,
/// which it does not need, where `masked`.
pub(super) fn look_up(table: &[f32], width: i64, masked: bool) -> Vec<u8> {
    let rows = table.len() as u64 / width.unsigned_abs();
    let raw: Vec<u8> = table.iter().flat_map(|value| value.to_le_bytes()).collect();
    // TensorProto: dims, data_type, name, raw_data.
    let tensor = [
        number(1, rows),
        number(1, width.unsigned_abs()),
        number(2, FLOAT),
        text(8, "table"),
        message(9, &raw),
    ];
    let node = [text(1, "table"), text(1, "input_ids"), text(2, "last_hidden_state"), text(4, "Gather")];
    let ids = Type::Dims(INT64, &[-1, -1]);
    let mut fields = vec![
        message(1, &node.concat()),
        message(5, &tensor.concat()),
        message(11, &value("input_ids", &ids)),
        message(12, &value("last_hidden_state", &Type::Dims(FLOAT, &[-1, -1, -1]))),
    ];
    if masked {
        fields.push(message(11, &value("attention_mask", &ids)));
    }
    model(&fields)
}

/// A model of several operators, of any version.
pub(super) struct Network<'a> {
    /// Each an operator, its domain, what it takes and what it gives.
    pub(super) nodes: &'a [(&'a str, &'a str, &'a [&'a str], &'a [&'a str])],
    /// Each a name, dimensions and values.
    pub(super) weights: &'a [(&'a str, &'a [u64], &'a [f32])],
    /// Weights in a file of their own: a name, how many, and the file.
    pub(super) elsewhere: &'a [(&'a str, u64, &'a str)],
    pub(super) inputs: &'a [(&'a str, Type)],
    pub(super) outputs: &'a [(&'a str, Type)],
    /// Operator domains and their versions.
    pub(super) opsets: &'a [(&'a str, u64)],
    pub(super) ir: u64,
}

impl Default for Network<'_> {
    fn default() -> Self {
        Self {
            nodes: &[],
            weights: &[],
            elsewhere: &[],
            inputs: &[("x", Type::Row(FLOAT))],
            outputs: &[("y", Type::Row(FLOAT))],
            opsets: &[("", 17)],
            ir: 8,
        }
    }
}

impl Network<'_> {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut graph = text(2, "g");
        for (operator, domain, takes, gives) in self.nodes {
            let mut node: Vec<u8> = takes.iter().flat_map(|name| text(1, name)).collect();
            node.extend(gives.iter().flat_map(|name| text(2, name)));
            node.extend([text(4, operator), text(7, domain)].concat());
            graph.extend(message(1, &node));
        }
        for (name, dims, values) in self.weights {
            let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let dims: Vec<u8> = dims.iter().flat_map(|dim| number(1, *dim)).collect();
            graph.extend(message(5, &[dims, number(2, FLOAT), text(8, name), message(9, &raw)].concat()));
        }
        for (name, count, file) in self.elsewhere {
            // TensorProto: external_data, data_location EXTERNAL.
            let place = message(13, &[text(1, "location"), text(2, file)].concat());
            let fields = [number(1, *count), number(2, FLOAT), text(8, name), place, number(14, 1)];
            graph.extend(message(5, &fields.concat()));
        }
        graph.extend(self.inputs.iter().flat_map(|(name, is)| message(11, &value(name, is))));
        graph.extend(self.outputs.iter().flat_map(|(name, is)| message(12, &value(name, is))));
        let opset =
            |(domain, version): &(&str, u64)| message(8, &[text(1, domain), number(2, *version)].concat());
        let opsets: Vec<u8> = self.opsets.iter().flat_map(opset).collect();
        [number(1, self.ir), message(7, &graph), opsets].concat()
    }
}

/// A model around the fields of a graph.
pub(super) fn model(fields: &[Vec<u8>]) -> Vec<u8> {
    let graph = [text(2, "g"), fields.concat()];
    let opset = [text(1, ""), number(2, 17)];
    [number(1, 8), message(7, &graph.concat()), message(8, &opset.concat())].concat()
}

pub(super) fn value(name: &str, is: &Type) -> Vec<u8> {
    [text(1, name), message(2, &type_proto(is))].concat()
}

fn type_proto(is: &Type) -> Vec<u8> {
    match is {
        Type::Row(element) => {
            let shape = message(1, &text(2, "n"));
            message(1, &[number(1, *element), message(2, &shape)].concat())
        }
        Type::Any(element) => message(1, &number(1, *element)),
        Type::Dims(element, dims) => {
            let dim = |(at, dim): (usize, &i64)| match u64::try_from(*dim) {
                Ok(fixed) => message(1, &number(1, fixed)),
                Err(_) => message(1, &text(2, &format!("d{at}"))),
            };
            let shape: Vec<u8> = dims.iter().enumerate().flat_map(dim).collect();
            message(1, &[number(1, *element), message(2, &shape)].concat())
        }
        Type::Sequence(element) => message(4, &message(1, &type_proto(&Type::Any(*element)))),
    }
}

pub(super) fn number(field: u8, value: u64) -> Vec<u8> {
    [key(field, 0), varint(value)].concat()
}

pub(super) fn text(field: u8, value: &str) -> Vec<u8> {
    message(field, value.as_bytes())
}

pub(super) fn message(field: u8, bytes: &[u8]) -> Vec<u8> {
    [key(field, 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn key(field: u8, wire: u8) -> Vec<u8> {
    varint(u64::from(field) << 3 | u64::from(wire))
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
