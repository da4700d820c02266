//! The target of `lineside-node`. Its tests include this file. What it looks at is the crate's own affair, so it is there,
//! in a module that is no part of its interface.

/// A model's file, as a node looks into it before ONNX Runtime does.
pub fn model(bytes: &[u8]) {
    lineside_node::fuzzing::model(bytes);
}
