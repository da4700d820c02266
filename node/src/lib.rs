//! Running models: repository, queue, engine.
//!
//! ```text
//!   infer ──> service ──> task ────> queue ──> line, batcher ──> worker ──> task ───> engine ──> answer
//!             decodes     fits the   a place   who is next,      a thread   tensors   ONNX
//!                         model?     or "busy" who joins?        a session  of it     Runtime
//!
//!   start, models.load, models.unload,  ──> loader ──> repository, reload (plan) ──> opening ──> shelf: what serves,
//!   a changed file, a call in the lobby     a thread   what lies there, what now     engine      what not and why
//! ```
//!
//! Everything up to the place in the queue happens on the network's thread and takes microseconds; the run and its
//! answer belong to the worker. Each version of a model has a fixed number of sessions, each session its own thread,
//! which yields to the network's threads, so that a node that computes on every core still answers.
//!
//! Limits: a node's waiting calls ([`NodeConfig::queue_max`]), 60 seconds for a call without a deadline, 64 versions
//! of all models together, 2 GiB of a model file, 256 tensors and 64 MiB a call each way, 16 waiting orders to load or
//! unload, 256 calls that wait for a model to be loaded. Texts are UTF-8 without zero bytes, as ONNX Runtime takes them.
//! An image has at most 50 megapixels, a call to embed at most 2048 texts; `task.rs` and the files below it name their
//! other limits.
//!
//! **Invariants:** only `engine.rs` and its folder name `ort`, only `task/picture.rs` names `image`, only `task/words.rs`
//! names `tokenizers`, only `reload.rs` names `notify`, only `settings/` reads TOML. A call that was accepted is
//! answered, whatever the engine does: a panic in it costs the calls of one run and one session, which is opened anew. A
//! model that does not load is listed with its reason and changes nothing for the others. No lock is on the path of a
//! call, but for a look-up among the sequences of a model with a state, and in the lobby for a model that is not loaded.
//! No link leads out of the repository, and no file that a model names for its weights lies outside its own directory:
//! `scan` looks before ONNX Runtime does. This crate knows no gateway and no HTTP.
//!
//! ```no_run
//! # use std::{num::NonZeroUsize, time::Duration};
//! # use lineside_node::{ModelControl, Node, NodeConfig, runtime};
//! # async fn example(id: lineside_wire::NodeId) -> Result<(), Box<dyn std::error::Error>> {
//! let config = NodeConfig {
//!     models: "models/repository".into(),
//!     sessions: NonZeroUsize::new(2).expect("two is not zero"),
//!     queue_max: NonZeroUsize::new(64).expect("64 is not zero"),
//!     adaptive: true,
//!     library: runtime::find(None)?.path,
//!     control: ModelControl::Explicit { load: None },
//!     on_demand: false,
//!     memory_max: None,
//!     trial: None,
//!     cache: None,
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

mod batcher;
mod cache;
mod check;
mod demand;
mod digest;
mod engine;
mod examine;
pub mod fuzzing;
mod joining;
mod line;
mod loader;
mod lobby;
mod measure;
mod memory;
mod model;
mod node;
mod opening;
mod policy;
mod queue;
mod reload;
mod repository;
pub mod runtime;
mod scan;
mod sequence;
mod service;
mod settings;
mod shelf;
mod statistics;
mod task;
#[cfg(test)]
mod tests;
pub mod trial;
mod watch;
mod worker;

pub use examine::{
    Examination, ExamineError, Examined, ExaminedVersion, FileFacts, NoModel, Opening, Outlook, examine,
    sample_settings,
};
pub use loader::is_by_order;
pub use node::{Node, NodeConfig, NodeError};
pub use reload::ModelControl;
pub use repository::Refused;
pub use service::NodeService;
