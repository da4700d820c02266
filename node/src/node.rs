//! The handle of a node.

use std::{
    fs, io,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam_channel::bounded;
use lineside_wire::{LoadReport, ModelInfo, NodeId};
use tokio::{sync::watch, time::timeout};

use crate::{
    engine::{Engine, LibraryError, OnnxRuntime},
    loader::{Loader, ORDERS_MAX, Parts},
    lobby::Lobby,
    model::Ended,
    opening::Bench,
    queue::Queue,
    reload::ModelControl,
    repository::Refused,
    service::{Desk, End, NodeService},
    shelf::{Shelf, fitting},
    trial::TrialConfig,
    watch::Watch,
};

/// How a node runs models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The model repository: `<name>/<version>/model.onnx` and `<name>.onnx`.
    pub models: PathBuf,
    /// Sessions of each model version, each on a thread of its own: calls of it that run at once, and the node's
    /// weight. More than the machine has cores makes every call slower and none faster.
    pub sessions: NonZeroUsize,
    /// Calls that may wait on the whole node. Worst-case memory is this times the largest payload; a larger queue
    /// makes late answers where a refusal would have sent the call to an idle node.
    pub queue_max: NonZeroUsize,
    /// Whether the node lets fewer wait where waiting takes too long: as many as its measured waits allow, and never more
    /// than `queue_max`. Off, there are always `queue_max` places.
    pub adaptive: bool,
    /// ONNX Runtime's library.
    pub library: PathBuf,
    /// How the repository is looked after.
    pub control: ModelControl,
    /// Whether a request loads a model that is not loaded yet, and models nobody asks for may go again.
    pub on_demand: bool,
    /// Memory that loaded models may take together, in bytes; beyond, those that were not asked for the longest go. Only
    /// with `on_demand`.
    pub memory_max: Option<u64>,
    /// How models are tried before they are loaded; `None` loads them untried.
    pub trial: Option<TrialConfig>,
    /// Where findings, optimised models and compiled engines are kept; `None` keeps none.
    pub cache: Option<PathBuf>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The file is no ONNX Runtime that can be used.
    #[error("{} is no usable ONNX Runtime: {reason}; `lineside runtime install` gets one that is", path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// The model repository cannot be read.
    #[error("the model repository {} cannot be read: {error}; create the directory or name another", path.display())]
    Repository {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The system gives no more threads.
    #[error("the system gives no more threads: {0}")]
    Thread(io::Error),
}

/// A running node; clones are handles of the same one.
///
/// When the last handle and its [`NodeService`] are dropped, it finishes the calls it has and ends its threads; the
/// drop waits for that, at most five seconds.
#[derive(Clone)]
pub struct Node {
    service: Arc<NodeService>,
}

impl Node {
    /// Loads ONNX Runtime and begins to load the models; returns before they are loaded.
    ///
    /// # Errors
    /// No usable library, no readable repository, no threads. A model that does not load is no error: it is listed
    /// with its reason.
    pub fn start(config: NodeConfig, id: NodeId) -> Result<Self, NodeError> {
        let engine = OnnxRuntime::load(&config.library).map_err(|error: LibraryError| {
            NodeError::Library { path: config.library.clone(), reason: error.to_string() }
        })?;
        Self::with_engine(config, id, Arc::new(engine))
    }

    /// A node whose models are run by this engine.
    pub(crate) fn with_engine(
        config: NodeConfig,
        id: NodeId,
        engine: Arc<dyn Engine>,
    ) -> Result<Self, NodeError> {
        let NodeConfig { models, sessions, queue_max, adaptive, library, .. } = config;
        let NodeConfig { control, on_demand, memory_max, trial, cache, .. } = config;
        if let Err(error) = fs::read_dir(&models) {
            return Err(NodeError::Repository { path: models, error });
        }
        let (orders, to_do) = bounded(ORDERS_MAX);
        let (alive, ended) = Ended::pair();
        let shelf = Arc::new(Shelf::new());
        let watch = Watch::start(alive.clone()).map_err(NodeError::Thread)?;
        let lobby = on_demand.then(|| Lobby::open(queue_max.get(), alive.clone())).transpose();
        let lobby = lobby.map_err(NodeError::Thread)?;
        let loader = Loader::new(Parts {
            node: id,
            bench: Bench { engine, repository: models, library, sessions, trial, cache },
            shelf: Arc::clone(&shelf),
            watch: Arc::clone(&watch),
            queue_max,
            orders: to_do,
            control,
            lobby: lobby.clone(),
            memory_max,
            alive,
        });
        thread::Builder::new()
            .name("lineside-loader".to_owned())
            .stack_size(crate::engine::STACK_BYTES)
            .spawn(move || loader.run())
            .map_err(NodeError::Thread)?;
        let queue = Arc::new(Queue::new(sessions.get(), queue_max.get(), adaptive));
        let (draining, cleared) = (AtomicBool::new(false), Mutex::default());
        let desk = Arc::new(Desk { node: id, shelf, queue, orders, draining, cleared, watch, lobby });
        if let Some(lobby) = &desk.lobby {
            lobby.serves(Arc::downgrade(&desk));
        }
        Ok(Self { service: Arc::new(NodeService { desk, _end: End(ended) }) })
    }

    /// What answers peers.
    #[must_use]
    pub fn service(&self) -> Arc<NodeService> {
        Arc::clone(&self.service)
    }

    /// Every version that is known, by name and number, with as much of each as fits a document.
    #[must_use]
    pub fn models(&self) -> Vec<ModelInfo> {
        fitting(self.service.desk.shelf.all())
    }

    /// What lies in the repository and is no model, for the start's table and `lineside models`.
    #[must_use]
    pub fn refused(&self) -> Vec<Refused> {
        self.service.desk.shelf.refused()
    }

    /// How much there is to do.
    #[must_use]
    pub fn load(&self) -> LoadReport {
        self.service.desk.queue.load()
    }

    /// Counts the changes of the models and of [`Self::ready`].
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.service.desk.shelf.changed()
    }

    /// Whether every model that was found at the start is loaded or has its reason.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.service.desk.shelf.is_scanned()
    }

    /// Refuses new work from now on, also for calls that wait for their model to be loaded. What was accepted goes on.
    pub fn drain(&self) {
        let desk = &self.service.desk;
        desk.draining.store(true, Ordering::Release);
        if let Some(lobby) = &desk.lobby {
            lobby.clear();
        }
    }

    /// Waits until every accepted call is answered; false when that takes longer than `within`. Cancel-safe.
    pub async fn finished(&self, within: Duration) -> bool {
        timeout(within, self.service.desk.queue.until_idle()).await.is_ok()
    }
}
