//! Opens the sessions of a version: all with one set of settings, and the weights that can be shared in memory once.

use std::path::Path;

use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use tracing::debug;

use super::{
    Engine, OpenError, Opened, Options, Session,
    explain::explain,
    guarded,
    kept::{self, Optimised, Place},
    library::OnnxRuntime,
    providers::{self, CPU, Kept, Usable},
    session::OnnxSession,
    signature::signature,
};
use crate::settings::Optimization;

impl Engine for OnnxRuntime {
    fn open(&self, model: &Path, options: &Options) -> Result<Opened, OpenError> {
        guarded(|| self.opened(model, options)).unwrap_or_else(|panic| Err(OpenError::Panicked(panic)))
    }

    fn library(&self) -> String {
        self.name.to_string()
    }
}

impl OnnxRuntime {
    /// Tries the providers of the list in turn, each time with all that come behind it, until the model opens.
    fn opened(&self, model: &Path, options: &Options) -> Result<Opened, OpenError> {
        let key = kept::key(options, &self.name);
        let kept = options.cache.as_deref().zip(key.as_deref()).map(|(home, key)| Kept { home, key });
        let (mut usable, mut warnings) = providers::usable(self, &options.execution, kept.as_ref())?;
        usable.retain(|provider| match self.starts(provider) {
            Ok(()) => true,
            Err(error) => {
                warnings.push(providers::left_out(provider.name, error.message()));
                false
            }
        });
        let mut usable = usable.as_slice();
        while let Some((first, behind)) = usable.split_first() {
            let opener = Opener { runtime: self, options, usable };
            match opener.sessions(model, kept.as_ref(), &mut warnings) {
                Ok(sessions) => {
                    return Ok(Opened { sessions, provider: first.name.to_owned(), warnings });
                }
                // What the last of the list cannot open is the model's fault, not the provider's.
                Err(error) if behind.is_empty() => return Err(error),
                Err(error) => warnings.push(providers::left_out(first.name, &error.to_string())),
            }
            usable = behind;
        }
        Err(OpenError::Provider(format!("no execution provider is left: {}", warnings.join("; "))))
    }

    /// Whether a provider's libraries are there and its driver starts.
    fn starts(&self, provider: &Usable) -> ort::Result<()> {
        provider.register(&mut ort::session::Session::builder(&self.environment)?)
    }
}

/// How one file is opened.
#[derive(Clone, Copy)]
pub(super) enum How<'a> {
    /// As the settings say.
    Plain,
    /// As the settings say, and what comes out is written to this directory.
    Writing(&'a Path),
    /// As it is: what was written before.
    Optimised,
}

/// Opens sessions of one version.
pub(super) struct Opener<'a> {
    runtime: &'a OnnxRuntime,
    options: &'a Options,
    usable: &'a [Usable],
}

impl Opener<'_> {
    fn sessions(
        &self,
        model: &Path,
        kept: Option<&Kept<'_>>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Box<dyn Session>>, OpenError> {
        let explain = |error: ort::Error| explain(&self.runtime.name, error.code(), error.message());
        let count = self.options.sessions.max(1);
        let is_cpu = self.usable.iter().all(|provider| provider.name == CPU);
        // What other providers make of a model they keep themselves, on their device.
        let place = match kept {
            _ if !is_cpu => None,
            Some(kept) => Some(Place::Kept { home: kept.home, key: kept.key }),
            None if 1 < count => Some(Place::Passing),
            None => None,
        };
        let optimised = match place.as_ref().map(|place| place.open(model, self)) {
            Some(Ok(optimised)) => Some(optimised),
            Some(Err(reason)) if kept.is_some() => {
                warnings.push(format!("the optimised model is not kept: {reason}"));
                None
            }
            Some(Err(reason)) => {
                debug!(reason, model = %model.display(), "the sessions do not share their weights");
                None
            }
            None => None,
        };
        let mut sessions = Vec::with_capacity(count);
        let mut add = |session: ort::session::Session| {
            let signature = signature(&session)?;
            sessions
                .push(Box::new(OnnxSession::new(session, signature).map_err(explain)?) as Box<dyn Session>);
            Ok(())
        };
        let mut open = 0;
        let (mut file, mut how, mut _directory) = (model, How::Plain, None);
        let graph;
        if let Some(optimised) = optimised {
            let Optimised { graph: at, first, passing } = optimised;
            add(first)?;
            graph = at;
            (file, how, _directory) = (&graph, How::Optimised, passing);
            open = 1;
        }
        (open..count).try_for_each(|_| add(self.open(file, how).map_err(explain)?))?;
        Ok(sessions)
    }

    /// One session of a file.
    pub(super) fn open(&self, file: &Path, how: How<'_>) -> ort::Result<ort::session::Session> {
        let mut builder = self.builder(how)?;
        for provider in self.usable {
            provider.register(&mut builder)?;
        }
        builder.commit_from_file(file)
    }

    fn builder(&self, how: How<'_>) -> ort::Result<SessionBuilder> {
        let Options { threads, spinning, .. } = *self.options;
        let builder = ort::session::Session::builder(&self.runtime.environment)?
            // One thread means no pool: the thread that runs the session computes.
            .with_intra_threads(threads.max(1) as usize)?
            .with_inter_threads(1)?
            // A spinning pool burns whole cores between two calls.
            .with_intra_op_spinning(spinning && 1 < threads)?
            .with_inter_op_spinning(false)?;
        let level = match self.options.execution.optimization {
            Optimization::Off => GraphOptimizationLevel::Disable,
            Optimization::Basic => GraphOptimizationLevel::Level1,
            Optimization::Extended => GraphOptimizationLevel::Level2,
            Optimization::All => GraphOptimizationLevel::All,
        };
        let builder = match how {
            How::Plain => builder.with_optimization_level(level)?,
            How::Optimised => builder.with_optimization_level(GraphOptimizationLevel::Disable)?,
            How::Writing(directory) => {
                let mut builder = builder
                    .with_optimization_level(level)?
                    .with_optimized_model_path(directory.join(kept::GRAPH))?;
                for (key, value) in WRITING {
                    builder = builder.with_config_entry(key, value)?;
                }
                builder
            }
        };
        Ok(builder)
    }
}

/// Weights go to a file of their own, beside the graph, in the form that the kernels want. A library that is too old for one
/// of these leaves the weights as they are, or in the graph: then less is shared.
const WRITING: [(&str, &str); 3] = [
    ("session.optimized_model_external_initializers_file_name", kept::WEIGHTS),
    ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
    ("session.save_external_prepacked_constant_initializers", "1"),
];
