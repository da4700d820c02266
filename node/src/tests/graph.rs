//! Models of one node, written as protobuf by hand: what no sample model has.

/// ONNX's numbers of element types.
pub(super) const FLOAT: u64 = 1;
pub(super) const INT64: u64 = 7;
pub(super) const STRING: u64 = 8;
pub(super) const BFLOAT16: u64 = 16;

/// The type of a model's input or output.
pub(super) enum Type {
    /// A tensor of any length in one dimension.
    Row(u64),
    /// A tensor of any shape.
    Any(u64),
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
    let graph = [
        message(1, &node.concat()),
        text(2, "g"),
        message(11, &value("x", from)),
        message(12, &value("y", to)),
    ];
    let opset = [text(1, ""), number(2, 17)];
    [number(1, 8), message(7, &graph.concat()), message(8, &opset.concat())].concat()
}

fn value(name: &str, is: &Type) -> Vec<u8> {
    [text(1, name), message(2, &type_proto(is))].concat()
}

fn type_proto(is: &Type) -> Vec<u8> {
    match is {
        Type::Row(element) => {
            let shape = message(1, &text(2, "n"));
            message(1, &[number(1, *element), message(2, &shape)].concat())
        }
        Type::Any(element) => message(1, &number(1, *element)),
        Type::Sequence(element) => message(4, &message(1, &type_proto(&Type::Any(*element)))),
    }
}

fn number(field: u8, value: u64) -> Vec<u8> {
    [key(field, 0), varint(value)].concat()
}

fn text(field: u8, value: &str) -> Vec<u8> {
    message(field, value.as_bytes())
}

fn message(field: u8, bytes: &[u8]) -> Vec<u8> {
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
