//! Stories of a node: a real mesh over loopback, and either ONNX Runtime or an engine that does as the test says.

mod batching;
mod deadlines;
mod engine;
mod floor;
mod graph;
#[cfg(target_os = "linux")]
pub(crate) mod idle;
mod onnx;
mod overload;
mod reload;
mod safety;
mod sequences;
mod tasks;
mod trials;
mod workshop;

mod stories;
