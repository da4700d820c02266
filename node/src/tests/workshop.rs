//! An engine that does as the model file says: `echo`, `hold`, `panic`, `hold to open`, anything else is no model.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
};

use lineside_wire::{Datatype, Tensor, TensorSpec};
use tempfile::TempDir;

use crate::engine::{Engine, OpenError, RunError, Session, Signature};

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
    fn hold(&self, count: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap();
        count(&mut state);
        let mut state = self.changed.wait_while(state, |state| state.permits == 0).unwrap();
        state.permits -= 1;
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
    fn open(&self, model: &Path) -> Result<Box<dyn Session>, OpenError> {
        let does = fs::read_to_string(model).unwrap();
        let spec =
            |name: &str| TensorSpec { name: name.to_owned(), datatype: Datatype::Fp32, shape: vec![-1] };
        let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
        match does.as_str() {
            "echo" | "hold" | "panic" => {}
            "hold to open" => self.0.hold(|state| state.opening += 1),
            "panic to open" => panic!("a defect in the engine"),
            other => return Err(OpenError::NotAModel(other.to_owned())),
        }
        self.0.state.lock().unwrap().opened += 1;
        Ok(Box::new(Lathe { does, signature, bench: Arc::clone(&self.0) }))
    }
}

struct Lathe {
    does: String,
    signature: Signature,
    bench: Arc<Bench>,
}

impl Session for Lathe {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, inputs: &[Tensor], _wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        match self.does.as_str() {
            "hold" => self.bench.hold(|state| state.begun += 1),
            "panic" => panic!("a defect in the engine"),
            _ => self.bench.state.lock().unwrap().begun += 1,
        }
        Ok(vec![Tensor { name: "y".to_owned(), ..inputs[0].clone() }])
    }
}
