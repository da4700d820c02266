//! Running models: repository, queue, engine.
//!
//! ```text
//!   infer ──> service ──> task ────> queue ──> (batcher) ──> worker ──> task ───> engine ──> answer
//!             decodes     fits the   a place   comes later   a thread   tensors   ONNX
//!                         model?     or "busy"               a session  of it     Runtime
//!
//!   start, models.load, models.unload ──> loader ──> repository, engine ──> shelf: what serves, what does not and why
//! ```
//!
//! Everything up to the place in the queue happens on the network's thread and takes microseconds; the run and its
//! answer belong to the worker. Each version of a model has a fixed number of sessions, each session its own thread,
//! which yields to the network's threads, so that a node that computes on every core still answers.
//!
//! Limits: a node's waiting calls ([`NodeConfig::queue_max`]), 60 seconds for a call without a deadline, 64 versions
//! of all models together, 2 GiB of a model file, 256 tensors and 64 MiB a call each way, 16 waiting orders to load or
//! unload. Texts are UTF-8 without zero bytes, as ONNX Runtime takes them. An image has at most 50 megapixels, a call
//! to embed at most 2048 texts; `task.rs` and the files below it name their other limits.
//!
//! **Invariants:** only `engine.rs` names `ort`, only `task/picture.rs` names `image`, only `task/words.rs` names
//! `tokenizers`, only `settings/file.rs` names `toml`. A call that was accepted is answered, whatever the engine does: a
//! panic in it costs one call and one session, which is opened anew. A model that does not load is listed with its
//! reason and changes nothing for the others. No lock is on the path of a call. No link leads out of the repository
//! (files that a model itself names for its weights are left to ONNX Runtime's own check). This crate knows no gateway
//! and no HTTP.
//!
//! ```no_run
//! # use std::{num::NonZeroUsize, time::Duration};
//! # use lineside_node::{Node, NodeConfig, runtime};
//! # async fn example(id: lineside_wire::NodeId) -> Result<(), Box<dyn std::error::Error>> {
//! let config = NodeConfig {
//!     models: "models/repository".into(),
//!     sessions: NonZeroUsize::new(2).expect("two is not zero"),
//!     queue_max: NonZeroUsize::new(64).expect("64 is not zero"),
//!     library: runtime::find(None)?.path,
//! };
//! let node = Node::start(config, id)?;
//! let service = node.service(); // For the mesh, which serves peers with it.
//! // ... and when the process is asked to end:
//! node.drain();
//! let all_answered = node.finished(Duration::from_secs(30)).await;
//! # drop((service, all_answered));
//! # Ok(())
//! # }
//! ```

mod check;
mod engine;
mod loader;
mod model;
mod node;
mod queue;
mod repository;
pub mod runtime;
mod service;
mod settings;
mod shelf;
mod statistics;
mod task;
#[cfg(test)]
mod tests;
mod worker;

pub use node::{Node, NodeConfig, NodeError};
pub use repository::Refused;
pub use service::NodeService;
