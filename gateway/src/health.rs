//! What probes ask: whether the door lives, and whether it is ready. Pure.
//!
//! Without a query the answer is JSON. `?verbose` gives a line for each check, as those who run Kubernetes know them, and
//! `?exclude=NAME` leaves a check out: for a probe that must not follow what an operator does on purpose.

use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::answer::Answer;

/// How text for people is sent.
const TEXT: &str = "text/plain; charset=utf-8";

/// Checks that a request can leave out: more than there are.
const EXCLUDED_MAX: usize = 16;

/// One thing that must be so for a door to be ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name: letters and dashes, the same in every release.
    pub name: &'static str,
    /// Why it is not so, for a person.
    pub failure: Option<String>,
}

impl Check {
    /// A check with what came of it.
    #[must_use]
    pub fn new(name: &'static str, outcome: Result<(), String>) -> Self {
        Self { name, failure: outcome.err() }
    }
}

/// What the query of a probe asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    verbose: bool,
    excluded: Vec<&'a str>,
}

impl<'a> Asked<'a> {
    /// Reads the query. What it does not know it passes over: probes are written once, for many servers.
    pub(crate) fn of(query: Option<&'a str>) -> Self {
        let mut asked = Self::default();
        for part in query.unwrap_or_default().split('&') {
            match part.split_once('=').unwrap_or((part, "")) {
                ("verbose", value) => asked.verbose = !matches!(value, "0" | "false"),
                ("exclude", name) if asked.excluded.len() < EXCLUDED_MAX => asked.excluded.push(name),
                _ => {}
            }
        }
        asked
    }

    fn excludes(&self, check: &Check) -> bool {
        self.excluded.contains(&check.name)
    }

    /// The first check that counts and failed.
    fn failure<'c>(&self, checks: &'c [Check]) -> Option<&'c str> {
        checks.iter().filter(|check| !self.excludes(check)).find_map(|check| check.failure.as_deref())
    }
}

/// `/livez`: the process answers, and that is all there is to it.
pub(crate) fn live(asked: &Asked<'_>) -> Answer {
    #[derive(Serialize)]
    struct Live {
        live: bool,
    }
    match asked.verbose {
        true => Answer::text(StatusCode::OK, TEXT, lines("livez", &[Check::new("ping", Ok(()))], asked)),
        false => Answer::json(StatusCode::OK, &Live { live: true }),
    }
}

/// `/readyz`.
pub(crate) fn ready(checks: &[Check], asked: &Asked<'_>, id: &HeaderValue) -> Answer {
    #[derive(Serialize)]
    struct Ready {
        ready: bool,
    }
    let failure = asked.failure(checks);
    match asked.verbose {
        true => Answer::text(status(failure), TEXT, lines("readyz", checks, asked)),
        false => readiness(failure, id, &Ready { ready: failure.is_none() }),
    }
}

/// `/health`: everything, for people and for what draws it.
pub(crate) fn health(checks: &[Check], id: &HeaderValue) -> Answer {
    #[derive(Serialize)]
    struct Whole<'a> {
        live: bool,
        ready: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        checks: Vec<Row<'a>>,
    }
    #[derive(Serialize)]
    struct Row<'a> {
        name: &'static str,
        ok: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    }
    let reason = Asked::default().failure(checks);
    let rows = checks.iter().map(|check| Row {
        name: check.name,
        ok: check.failure.is_none(),
        reason: check.failure.as_deref(),
    });
    let whole = Whole { live: true, ready: reason.is_none(), reason, checks: rows.collect() };
    readiness(reason, id, &whole)
}

const fn status(failure: Option<&str>) -> StatusCode {
    match failure {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// What is `said`; with an error like any other where the door is not ready.
fn readiness<T: Serialize>(failure: Option<&str>, id: &HeaderValue, said: &T) -> Answer {
    #[derive(Serialize)]
    struct NotReady<'a, T> {
        error: &'a str,
        code: &'static str,
        request_id: &'a str,
        #[serde(flatten)]
        said: &'a T,
    }
    let Some(error) = failure else { return Answer::json(status(failure), said) };
    let request_id = id.to_str().unwrap_or_default();
    Answer::json(status(failure), &NotReady { error, code: "NOT_READY", request_id, said })
}

/// A line for each check, and one for all together.
fn lines(what: &str, checks: &[Check], asked: &Asked<'_>) -> String {
    let mut text = String::new();
    for check in checks {
        let line = match &check.failure {
            _ if asked.excludes(check) => format!("[+]{} excluded: ok", check.name),
            None => format!("[+]{} ok", check.name),
            Some(reason) => format!("[-]{} failed: {reason}", check.name),
        };
        // Names in the reason come from other machines.
        text.extend(line.chars().map(|c| if c.is_control() { '?' } else { c }));
        text.push('\n');
    }
    let unknown = |name: &&&str| !checks.iter().any(|check| check.name == **name);
    for name in asked.excluded.iter().filter(unknown) {
        text.extend(format!("warn: there is no check {name:?} to leave out\n").chars());
    }
    let verdict = if asked.failure(checks).is_none() { "passed" } else { "failed" };
    text.push_str(&format!("{what} check {verdict}\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> [Check; 3] {
        [
            Check::new("certificate", Ok(())),
            Check::new("models", Err("2 of 3 are\nloaded".to_owned())),
            Check::new("nodes", Ok(())),
        ]
    }

    #[test]
    fn each_check_has_its_line_and_what_is_left_out_does_not_count() {
        let told = |query| lines("readyz", &checks(), &Asked::of(Some(query)));
        assert_eq!(
            told("verbose"),
            "[+]certificate ok\n[-]models failed: 2 of 3 are?loaded\n[+]nodes ok\nreadyz check failed\n"
        );
        assert_eq!(
            told("verbose&exclude=models"),
            "[+]certificate ok\n[+]models excluded: ok\n[+]nodes ok\nreadyz check passed\n"
        );
        assert!(told("exclude=etcd").contains("warn: there is no check \"etcd\""));
    }

    #[test]
    fn a_query_asks_in_the_ways_that_probes_do() {
        for verbose in ["verbose", "verbose=", "verbose=1", "verbose=true", "x=1&verbose"] {
            assert!(Asked::of(Some(verbose)).verbose, "{verbose}");
        }
        for brief in [None, Some(""), Some("verbose=0"), Some("verbose=false"), Some("verbosely")] {
            assert!(!Asked::of(brief).verbose, "{brief:?}");
        }
        let many = "exclude=x&".repeat(1_000);
        assert_eq!(Asked::of(Some(&many)).excluded.len(), EXCLUDED_MAX);
    }

    #[test]
    fn the_first_failure_that_counts_decides() {
        let id = HeaderValue::from_static("7");
        let asked = |query| ready(&checks(), &Asked::of(query), &id).status;
        assert_eq!(asked(None), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(asked(Some("exclude=models")), StatusCode::OK);
        assert_eq!(asked(Some("exclude=nodes&verbose")), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(health(&checks(), &id).status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(live(&Asked::of(Some("verbose"))).status, StatusCode::OK);
    }
}
