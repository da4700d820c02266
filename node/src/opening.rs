//! From files to a version that serves, step by step.
//!
//! ```text
//!   settings ─> scan, hash ─> trial (a process of its own) ─> sessions ─> warm-up, measurement ─> tasks, sequences, cache
//!   wrong key   bad files     aborts, memory, time            engine      does joining pay?       does it all fit?
//! ```
//!
//! Whatever fails gives a sentence for the person who put the model there, and changes nothing else.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lineside_wire::{BatchingInfo, EngineInfo};
use tracing::debug;

use crate::{
    batcher::Rules,
    cache::ResponseCache,
    engine::{Engine, Options, Session, Signature, guarded},
    measure::{self, Decision},
    policy,
    repository::Files,
    scan::Scanned,
    sequence::Sequences,
    settings::{Folder, Settings, Source},
    task::Tasks,
    trial::{self, TrialConfig, Tried},
};

/// What opening needs of the node.
pub(crate) struct Bench {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) repository: PathBuf,
    /// ONNX Runtime's file, for trials.
    pub(crate) library: PathBuf,
    /// Sessions of a model whose settings name no number.
    pub(crate) sessions: NonZeroUsize,
    pub(crate) trial: Option<TrialConfig>,
    /// Where findings, optimised models and compiled engines are kept.
    pub(crate) cache: Option<PathBuf>,
}

/// A version that is ready to serve.
pub(crate) struct Ready {
    pub(crate) sessions: Vec<Box<dyn Session>>,
    pub(crate) signature: Signature,
    pub(crate) settings: Settings,
    pub(crate) tasks: Tasks,
    pub(crate) sequences: Option<Sequences>,
    pub(crate) cache: Option<ResponseCache>,
    pub(crate) rules: Rules,
    pub(crate) info: EngineInfo,
    /// How long a run of one row takes, where that was measured.
    pub(crate) run_time: Option<Duration>,
    /// How one session is opened again.
    pub(crate) options: Options,
}

impl Bench {
    /// Opens a version.
    ///
    /// # Errors
    /// For the person who put it there.
    pub(crate) fn open(&self, files: &Files) -> Result<Ready, String> {
        let (source, settings) = Source::read(&self.repository, &files.settings)?;
        settings.check(None).map_err(|wrong| source.tell(&wrong))?;
        let scanned = self.engine.scan(&files.model, &settings.limits).map_err(|error| error.to_string())?;
        let tried = self.tried(files, &scanned)?;
        let options = self.options(&settings, &scanned);
        let opened =
            guarded(|| self.engine.open(&files.model, &options))?.map_err(|error| error.to_string())?;
        let mut sessions = opened.sessions;
        let count = sessions.len() as u64;
        let signature = sessions.first().map(|session| session.signature().clone()).unwrap_or_default();
        settings.check(Some(&signature)).map_err(|wrong| source.tell(&wrong))?;
        let folder = Folder::new(&self.repository, &files.model, &files.settings)
            .map_err(|error| format!("the repository cannot be read: {error}"))?;
        let sequences = Sequences::new(&settings, &signature, &scanned.sha256);
        let sequences = sequences.map_err(|wrong| source.tell(&wrong))?;
        let visible = sequences.as_ref().map(|sequences| sequences.visible(&signature));
        let tasks = guarded(|| Tasks::new(&settings, visible.as_ref().unwrap_or(&signature), &folder))?;
        let tasks = tasks.map_err(|wrong| source.tell(&wrong))?;
        self.warm_up(&mut sessions, &settings);
        let tried = match tried {
            Some(tried) => tried,
            None => self.measured(&mut sessions, &settings),
        };
        let decision = measure::decide(&tried.measured, &settings.batching)?;
        let rules = rules(&settings, &decision);
        let warnings = source.warnings().iter().cloned().chain(opened.warnings).collect();
        let memory_bytes = memory(&tried, scanned.bytes, count);
        let tried = Tried { memory_bytes, ..tried };
        let info = info(&settings, &scanned, &tried, &decision, &rules, &opened.provider, warnings);
        let cache = ResponseCache::new(&settings.cache);
        let run_time = tried.measured.timings.first().map(|(_, ns)| Duration::from_nanos(*ns));
        Ok(Ready { sessions, signature, settings, tasks, sequences, cache, rules, info, run_time, options })
    }

    fn tried(&self, files: &Files, scanned: &Scanned) -> Result<Option<Tried>, String> {
        let Some(config) = &self.trial else { return Ok(None) };
        let library_name = self.engine.library();
        let subject = trial::Subject {
            library: &self.library,
            library_name: &library_name,
            repository: &self.repository,
            files,
            scanned,
            kept: self.cache.as_deref(),
        };
        trial::try_out(config, &subject).map(Some)
    }

    fn options(&self, settings: &Settings, scanned: &Scanned) -> Options {
        let count = settings.instances.count.and_then(|count| usize::try_from(count).ok());
        Options {
            sessions: count.unwrap_or(self.sessions.get()).max(1),
            threads: settings.instances.threads,
            spinning: settings.instances.spinning,
            execution: settings.execution.clone(),
            cache: self.cache.as_deref().filter(|_| settings.execution.cache).map(Path::to_owned),
            sha256: scanned.sha256.clone(),
        }
    }

    /// Runs each session once before its first request: that takes memory and makes plans. One that fails on what is made
    /// up may do well with what callers send.
    fn warm_up(&self, sessions: &mut [Box<dyn Session>], settings: &Settings) {
        if !self.engine.warms_up() || settings.warmup.runs == 0 {
            return;
        }
        for session in sessions {
            if let Ok(Ok(())) = guarded(|| measure::warm_up(session.as_mut(), &settings.warmup)) {
                continue;
            }
            debug!("the model fails on made-up inputs: its first requests take longer");
            return;
        }
    }

    fn measured(&self, sessions: &mut [Box<dyn Session>], settings: &Settings) -> Tried {
        let Some(session) = sessions.first_mut().filter(|_| self.engine.warms_up()) else {
            return Tried::default();
        };
        let measured = guarded(|| measure::measure(session.as_mut(), &settings.warmup, &settings.batching));
        match measured {
            Ok(Ok(measured)) => Tried { measured, memory_bytes: 0 },
            Ok(Err(_)) | Err(_) => Tried::default(),
        }
    }
}

fn rules(settings: &Settings, decision: &Decision) -> Rules {
    let queue = &settings.queue;
    Rules {
        max_size: decision.max_size,
        max_delay: settings.batching.max_delay.0,
        preferred: settings.batching.preferred_sizes.iter().map(|size| u64::from(*size)).collect(),
        levels: queue.priority_levels,
        default_priority: queue.default_priority.unwrap_or(queue.priority_levels),
    }
}

/// What all sessions of a version take of memory: the first what was measured, each further one that without the model's
/// file, whose weights they share. 0 where nothing was measured.
fn memory(tried: &Tried, file_bytes: u64, sessions: u64) -> u64 {
    let further = tried.memory_bytes.saturating_sub(file_bytes);
    tried.memory_bytes.saturating_add(further.saturating_mul(sessions.saturating_sub(1)))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn info(
    settings: &Settings,
    scanned: &Scanned,
    tried: &Tried,
    decision: &Decision,
    rules: &Rules,
    provider: &str,
    warnings: Vec<String>,
) -> EngineInfo {
    let joins = 1 < rules.max_size;
    EngineInfo {
        sha256: scanned.sha256.clone(),
        file_bytes: scanned.bytes,
        memory_bytes: tried.memory_bytes,
        provider: provider.to_owned(),
        threads: settings.instances.threads,
        batching: joins.then(|| BatchingInfo {
            max_size: u32::try_from(rules.max_size).unwrap_or(u32::MAX),
            max_delay_us: micros(rules.max_delay),
            preferred_sizes: settings.batching.preferred_sizes.clone(),
        }),
        finding: decision.finding.clone(),
        versions: Some(policy::told(&settings.versions)),
        rows_max: settings.rows_max(),
        priority_levels: rules.levels,
        default_priority: rules.default_priority,
        cache_bytes_max: settings.cache.bytes_max,
        stateful: settings.sequence.is_some(),
        sequence_idle_us: settings.sequence.as_ref().map_or(0, |sequence| micros(sequence.idle_timeout.0)),
        on_demand: false,
        warnings,
    }
}
