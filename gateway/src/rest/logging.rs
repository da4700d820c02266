//! `/v2/logging`: what this door logs, in Triton's settings.
//!
//! Triton switches each kind of message on and off; here one level says from which kind on, so that a setting may
//! contradict another one. Levels of single modules stay as they are.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::{
    Cluster, LogControl, answer::Answer, ask::Ask, bounded::Named, errors::Refusal, gate::Permission, oip,
};

/// The levels, the most silent first.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

const OFF: usize = 0;
const ERROR: usize = 1;
const WARN: usize = 2;
const INFO: usize = 3;
const DEBUG: usize = 4;
const TRACE: usize = 5;

/// The only format that there is by this name; `log.format` of the settings chooses between text and JSON.
const FORMAT: &str = "default";

/// The settings, in the protocol's names.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LogSettings {
    pub(crate) log_file: &'static str,
    pub(crate) log_info: bool,
    pub(crate) log_warning: bool,
    pub(crate) log_error: bool,
    pub(crate) log_verbose_level: u32,
    pub(crate) log_format: &'static str,
}

/// What is to change.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogChange {
    #[serde(default)]
    pub(crate) log_file: Option<String>,
    #[serde(default)]
    pub(crate) log_info: Option<bool>,
    #[serde(default)]
    pub(crate) log_warning: Option<bool>,
    #[serde(default)]
    pub(crate) log_error: Option<bool>,
    #[serde(default)]
    pub(crate) log_verbose_level: Option<u32>,
    #[serde(default)]
    pub(crate) log_format: Option<String>,
}

impl LogSettings {
    /// The settings that these directives are.
    pub(crate) fn of(directives: &str) -> Self {
        let level = level(directives);
        Self {
            log_file: "",
            log_info: INFO <= level,
            log_warning: WARN <= level,
            log_error: ERROR <= level,
            log_verbose_level: match level {
                TRACE => 2,
                DEBUG => 1,
                _ => 0,
            },
            log_format: FORMAT,
        }
    }
}

impl LogChange {
    /// The directives after the change.
    ///
    /// # Errors
    /// It asks for what there is not, or contradicts itself.
    pub(crate) fn apply(&self, directives: &str) -> Result<String, String> {
        if self.log_file.as_ref().is_some_and(|file| !file.is_empty()) {
            return Err("log_file cannot be set: the log goes to where the process writes it".to_owned());
        }
        if self.log_format.as_ref().is_some_and(|format| format != FORMAT) {
            return Err(format!(
                "log_format can only be {FORMAT:?}: log.format in the settings chooses another one"
            ));
        }
        let (mut least, mut most) = (OFF, TRACE);
        for (wish, wanted) in [(self.log_error, ERROR), (self.log_warning, WARN), (self.log_info, INFO)] {
            match wish {
                Some(true) => least = least.max(wanted),
                Some(false) => most = most.min(wanted - 1),
                None => {}
            }
        }
        match self.log_verbose_level {
            None => {}
            Some(0) => most = most.min(INFO),
            Some(verbose) => {
                let wanted = if verbose == 1 { DEBUG } else { TRACE };
                (least, most) = (least.max(wanted), most.min(wanted));
            }
        }
        if most < least {
            return Err(format!(
                "the settings contradict each other: they ask for {} and for no more than {}, but each level here \
                 brings those before it (error, warning, info, verbose)",
                LEVELS[least], LEVELS[most]
            ));
        }
        let level = LEVELS[level(directives).clamp(least, most)];
        // The other directives are for single modules.
        let modules =
            directives.split(',').map(str::trim).filter(|one| !one.is_empty() && as_level(one).is_none());
        let all: Vec<_> = std::iter::once(level).chain(modules).collect();
        Ok(all.join(","))
    }
}

/// The level for everything that no directive of its own names.
fn level(directives: &str) -> usize {
    // Of several the last one counts; without any, errors are logged.
    directives.split(',').filter_map(as_level).next_back().unwrap_or(ERROR)
}

fn as_level(directive: &str) -> Option<usize> {
    let directive = directive.trim();
    LEVELS.iter().position(|level| level.eq_ignore_ascii_case(directive))
}

/// Answers with the settings, after it has changed what a POST asks for.
pub(crate) async fn logging<C: Cluster>(ask: &mut Ask<'_, '_, C>) -> Result<Answer, Refusal> {
    let log: Option<Arc<dyn LogControl>> = ask.cluster().log();
    let log = log.ok_or_else(|| {
        let text =
            "the log of this gateway cannot be seen or changed while it runs: use log.level in the settings";
        Refusal::new(StatusCode::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", text)
    })?;
    if ask.head.method == Method::POST {
        ask.may(Permission::Logging, None)?;
        let (body, _room) = ask.body().await?;
        if !body.trim_ascii().is_empty() {
            let change: Named<LogChange> = serde_json::from_slice(&body).map_err(|error| {
                Refusal::bad_request(format!(
                    "the body is no log setting: {}",
                    oip::excerpt(&error.to_string())
                ))
            })?;
            let directives = change.0.apply(&log.level()).map_err(Refusal::bad_request)?;
            log.set_level(&directives).map_err(Refusal::bad_request)?;
        }
    }
    Ok(Answer::json(StatusCode::OK, &LogSettings::of(&log.level())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(json: &str, before: &str) -> Result<String, String> {
        serde_json::from_str::<LogChange>(json).map_err(|error| error.to_string())?.apply(before)
    }

    #[test]
    fn a_change_becomes_a_level_and_leaves_modules_alone() {
        for (json, before, after) in [
            (r#"{"log_verbose_level":1}"#, "info", "debug"),
            (r#"{"log_verbose_level":7}"#, "info,lineside_mesh=warn", "trace,lineside_mesh=warn"),
            (r#"{"log_verbose_level":0}"#, "trace", "info"),
            (r#"{"log_verbose_level":0}"#, "warn", "warn"),
            (r#"{"log_info":false}"#, "debug", "warn"),
            (r#"{"log_info":true}"#, "off", "info"),
            (r#"{"log_info":true}"#, "debug", "debug"),
            (r#"{"log_info":false,"log_warning":false}"#, "info", "error"),
            (r#"{"log_error":false}"#, "info", "off"),
            (r#"{"log_warning":true}"#, "", "warn"),
            (
                r#"{"log_file":"","log_format":"default"}"#,
                "lineside_mesh=debug, WARN",
                "warn,lineside_mesh=debug",
            ),
            ("{}", "info", "info"),
        ] {
            assert_eq!(change(json, before).as_deref(), Ok(after), "{json} after {before}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        for (json, expected) in [
            (r#"{"log_info":true,"log_warning":false}"#, "contradict"),
            (r#"{"log_info":false,"log_verbose_level":1}"#, "contradict"),
            (r#"{"log_file":"/tmp/x"}"#, "log_file cannot be set"),
            (r#"{"log_format":"ISO8601"}"#, "log.format"),
            (r#"{"log_level":"debug"}"#, "unknown field `log_level`"),
            (r#"{"log_info":1}"#, "expected a boolean"),
            (r#"{"log_verbose_level":-1}"#, "expected u32"),
        ] {
            let problem = change(json, "info").unwrap_err();
            assert!(problem.contains(expected), "{json}: {problem}");
        }
    }

    #[test]
    fn settings_tell_the_level() {
        let told = |directives| {
            let LogSettings { log_error, log_warning, log_info, log_verbose_level, .. } =
                LogSettings::of(directives);
            (log_error, log_warning, log_info, log_verbose_level)
        };
        assert_eq!(told("info"), (true, true, true, 0));
        assert_eq!(told("off"), (false, false, false, 0));
        assert_eq!(told("lineside_mesh=debug"), (true, false, false, 0));
        assert_eq!(told("debug"), (true, true, true, 1));
        assert_eq!(told("Trace,lineside_mesh=off"), (true, true, true, 2));
    }
}
