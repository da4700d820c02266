//! An engine that does as the model file says: `echo`, `hold`, `panic`, `hold to open`, anything else is no model.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use lineside_wire::{Datatype, Tensor, TensorSpec};
use tempfile::TempDir;

use crate::{
    engine::{Engine, OpenError, Opened, Options, RunError, Session, Signature, Stopper},
    scan::{Rejected, Scanned},
    settings::ModelLimits,
};

/// The engine, and the directory of its models.
pub(super) struct Workshop {
    home: TempDir,
    bench: Arc<Bench>,
}

/// What is going on, and what may go on.
#[derive(Default)]
struct Bench {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Runs that were begun.
    begun: usize,
    /// Models whose opening was begun, and was done.
    opening: usize,
    opened: usize,
    /// How many that are held may go on.
    permits: usize,
}

impl Bench {
    /// Holds until it may go on, or the brake is on: then false.
    fn hold(&self, brake: Option<&Brake>, count: impl FnOnce(&mut State)) -> bool {
        let mut state = self.state.lock().unwrap();
        count(&mut state);
        let stopped = || brake.is_some_and(|brake| brake.on.load(Ordering::Acquire));
        let mut state = self.changed.wait_while(state, |state| state.permits == 0 && !stopped()).unwrap();
        if stopped() {
            return false;
        }
        state.permits -= 1;
        true
    }
}

impl Workshop {
    pub(super) fn with(models: &[(&str, &str)]) -> Self {
        let workshop = Self { home: tempfile::tempdir().unwrap(), bench: Arc::default() };
        models.iter().for_each(|(path, does)| workshop.put(path, does));
        workshop
    }

    pub(super) fn put(&self, path: &str, does: &str) {
        let path = self.home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, does).unwrap();
    }

    pub(super) fn models(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    pub(super) fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(Tools(Arc::clone(&self.bench)))
    }

    /// Whether no engine and no session of this workshop is left.
    pub(super) fn is_left(&self) -> bool {
        Arc::strong_count(&self.bench) == 1
    }

    /// Lets so many that are held go on.
    pub(super) fn release(&self, count: usize) {
        self.bench.state.lock().unwrap().permits += count;
        self.bench.changed.notify_all();
    }

    /// Takes back what was released and nobody used.
    pub(super) fn take_back(&self) {
        self.bench.state.lock().unwrap().permits = 0;
    }

    pub(super) fn begun(&self) -> usize {
        self.bench.state.lock().unwrap().begun
    }

    pub(super) fn opened(&self) -> usize {
        self.bench.state.lock().unwrap().opened
    }

    pub(super) fn opening(&self) -> usize {
        self.bench.state.lock().unwrap().opening
    }
}

struct Tools(Arc<Bench>);

impl Engine for Tools {
    fn scan(&self, model: &Path, _limits: &ModelLimits) -> Result<Scanned, Rejected> {
        let bytes = fs::metadata(model).unwrap().len();
        Ok(Scanned { sha256: model.display().to_string(), bytes, ..Scanned::default() })
    }

    fn library(&self) -> String {
        "workshop 1".to_owned()
    }

    /// A run that is held, or that is counted, is that of a test.
    fn warms_up(&self) -> bool {
        false
    }

    fn open(&self, model: &Path, options: &Options) -> Result<Opened, OpenError> {
        let sessions = (0..options.sessions).map(|_| self.open_one(model)).collect::<Result<_, _>>()?;
        Ok(Opened { sessions, provider: "cpu".to_owned(), warnings: Vec::new() })
    }
}

impl Tools {
    fn open_one(&self, model: &Path) -> Result<Box<dyn Session>, OpenError> {
        let does = fs::read_to_string(model).unwrap();
        let spec =
            |name: &str| TensorSpec { name: name.to_owned(), datatype: Datatype::Fp32, shape: vec![-1] };
        let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
        match does.as_str() {
            "echo" | "hold" | "panic" => {}
            "hold to open" => _ = self.0.hold(None, |state| state.opening += 1),
            "panic to open" => panic!("a defect in the engine"),
            other => return Err(OpenError::NotAModel(other.to_owned())),
        }
        self.0.state.lock().unwrap().opened += 1;
        let brake = Arc::new(Brake { on: AtomicBool::new(false), bench: Arc::clone(&self.0) });
        Ok(Box::new(Lathe { does, signature, brake, bench: Arc::clone(&self.0) }))
    }
}

struct Lathe {
    does: String,
    signature: Signature,
    brake: Arc<Brake>,
    bench: Arc<Bench>,
}

/// A run here ends by itself.
pub(super) struct NoBrake;

impl Stopper for NoBrake {
    fn stop(&self) {}

    fn reset(&self) {}
}

/// Ends the runs of one session that are held, until it is reset.
struct Brake {
    on: AtomicBool,
    bench: Arc<Bench>,
}

impl Brake {
    fn set(&self, on: bool) {
        // Under the lock, so that a run which begins to wait sees it.
        let _state = self.bench.state.lock().unwrap();
        self.on.store(on, Ordering::Release);
        self.bench.changed.notify_all();
    }
}

impl Stopper for Brake {
    fn stop(&self) {
        self.set(true);
    }

    fn reset(&self) {
        self.set(false);
    }
}

impl Session for Lathe {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn stopper(&self) -> Arc<dyn Stopper> {
        Arc::clone(&self.brake) as _
    }

    fn run(&mut self, inputs: &[Tensor], _wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        match self.does.as_str() {
            "hold" => {
                if !self.bench.hold(Some(&self.brake), |state| state.begun += 1) {
                    return Err(RunError::Stopped);
                }
            }
            "panic" => panic!("a defect in the engine"),
            _ => self.bench.state.lock().unwrap().begun += 1,
        }
        Ok(vec![Tensor { name: "y".to_owned(), ..inputs[0].clone() }])
    }
}
