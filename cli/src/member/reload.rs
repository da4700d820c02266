//! Reads the settings again when somebody asks for it (SIGHUP), and puts in force what can change while a member runs.

use std::sync::Arc;

use lineside_gateway::{LogControl as _, Shared};
use tokio::sync::watch;

use super::{door, notify::Supervisor, rules::Rules, saving::on_thread};
use crate::{
    config::{Again, ChangedKeys, Config, Loaded, changed_keys},
    log,
};

/// What of a member follows its settings.
pub(super) struct Reloader {
    pub(super) again: Again,
    /// The settings in force. Rings at every reading: what they name may be another file under the same name.
    pub(super) settings: watch::Sender<Arc<Config>>,
    /// The door, where there is one, and whether models run beside it.
    pub(super) door: Option<(Arc<Shared>, bool)>,
    /// By which that door chooses nodes.
    pub(super) rules: Arc<Rules>,
    /// Waits for the end of what it has ordered.
    pub(super) supervisor: Arc<Supervisor>,
}

impl Reloader {
    /// Runs until it is aborted, or nobody can ask any more.
    pub(super) async fn run(self, mut orders: watch::Receiver<u64>) -> &'static str {
        while orders.changed().await.is_ok() {
            self.supervisor.reloading();
            let again = self.again.clone();
            let loaded = on_thread(move || {
                let checked = again.load().and_then(|loaded| loaded.check_paths().map(|()| loaded));
                Ok(checked)
            });
            match loaded.await {
                Ok(Ok(loaded)) => self.put_in_force(loaded),
                Ok(Err(invalid)) => {
                    for mistake in &invalid.mistakes {
                        tracing::error!(
                            what = mistake.what(),
                            why = mistake.why(),
                            fix = mistake.remedy(),
                            "the settings cannot be used: nothing was changed"
                        );
                    }
                }
                Err(error) => tracing::error!(error, "the settings could not be read: nothing was changed"),
            }
            self.supervisor.reloaded();
        }
        "the listener for orders"
    }

    fn put_in_force(&self, loaded: Loaded) {
        let (present, new) = (Arc::clone(&self.settings.borrow()), loaded.config);
        let ChangedKeys { mut live, mut later } = changed_keys(&present, &new);
        if self.door.is_none() {
            // A door's settings are in force nowhere here, and a restart would not change that.
            for keys in [&mut live, &mut later] {
                keys.retain(|key| !key.starts_with("gateway."));
            }
        }
        let mut next = Config::clone(&present);
        next.take_live(&new);
        if let Some((shared, with_models)) = &self.door
            && let Err(error) = shared.reload(&door::settings(&next, *with_models))
        {
            tracing::error!(error, "the settings cannot be used: nothing was changed");
            return;
        }
        self.rules.put_in_force(&next.gateway);
        if next.log.level != present.log.level
            && let Some(log) = log::control()
            && let Err(error) = log.set_level(&next.log.level)
        {
            tracing::error!(error, "the log stays as it is");
        }
        self.settings.send_replace(Arc::new(next));
        tracing::info!(changed = live.join(", "), "the settings were read again and are in force");
        if !later.is_empty() {
            tracing::warn!(settings = later.join(", "), "these settings changed, too, and need a restart");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, time::Duration};

    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    /// A member without a door, whose settings are in a file.
    struct Machine {
        _home: tempfile::TempDir,
        file: PathBuf,
        settings: watch::Receiver<Arc<Config>>,
        orders: watch::Sender<u64>,
        _tasks: JoinSet<&'static str>,
    }

    impl Machine {
        fn start(text: &str) -> Self {
            let home = tempfile::tempdir().expect("a directory");
            let file = home.path().join("line.toml");
            fs::write(&file, text).expect("writable");
            let again = Again { file: Some(file.clone()), flags: Vec::new() };
            let config = again.load().expect("good settings").config;
            let (settings, seen) = watch::channel(Arc::new(config));
            let (orders, ordered) = watch::channel(0);
            let mut tasks = JoinSet::new();
            let (rules, supervisor) = (Rules::new(&settings.borrow().gateway), Arc::default());
            tasks.spawn(Reloader { again, settings, door: None, rules, supervisor }.run(ordered));
            Self { _home: home, file, settings: seen, orders, _tasks: tasks }
        }

        async fn reads(&mut self, text: &str) -> Arc<Config> {
            fs::write(&self.file, text).expect("writable");
            self.orders.send_modify(|count| *count += 1);
            timeout(Duration::from_secs(10), self.settings.changed()).await.expect("soon").expect("it runs");
            Arc::clone(&self.settings.borrow_and_update())
        }
    }

    #[tokio::test]
    async fn what_can_change_is_in_force_and_the_rest_waits_for_a_restart() {
        let mut machine = Machine::start("[gateway]\nrate_per_second = 5\n");
        let now = machine.reads("[gateway]\nrate_per_second = 7\nhttp = \"127.0.0.1:1\"\n").await;
        assert_eq!(now.gateway.rate_per_second, 7);
        assert_eq!(now.gateway.http, Config::default().gateway.http);
    }

    #[tokio::test]
    async fn a_broken_file_changes_nothing_and_a_mended_one_is_read() {
        let mut machine = Machine::start("[gateway]\nrate_per_second = 5\n");
        fs::write(&machine.file, "[gateway]\nrate_per_second = \"many\"\nburst = 3\n").expect("writable");
        machine.orders.send_modify(|count| *count += 1);
        let now = machine.reads("[gateway]\nrate_per_second = 6\n").await;
        assert_eq!((now.gateway.rate_per_second, now.gateway.burst), (6, Config::default().gateway.burst));
    }
}
