//! Stories of a node: a real mesh over loopback, and either ONNX Runtime or an engine that does as the test says.

mod floor;
mod graph;
mod onnx;
mod tasks;
mod workshop;

mod stories;
