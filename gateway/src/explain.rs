//! The flight record of a request: which node, how many tries, how long where. Told to whoever asks for it.
//!
//! It is a header, so that every form of answer can carry it, errors too.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use lineside_wire::{NodeId, RunReport};
use serde::Serialize;

/// Asks for the record; `?explain` in the path does the same.
const EXPLAIN: HeaderName = HeaderName::from_static("x-explain");
/// The record, as one line of JSON.
const FLIGHT: HeaderName = HeaderName::from_static("x-lineside-flight");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The same times where browsers and other tools look for them.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// One inference, from the door's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Flight {
    /// The node that answered, or of the last try.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<NodeId>,
    attempts: u8,
    queue_us: u64,
    run_us: u64,
    batch: u32,
}

impl From<&RunReport> for Flight {
    fn from(report: &RunReport) -> Self {
        let RunReport { node, attempts, queue_us, run_us, batch, .. } = *report;
        Self { node: Some(node), attempts, queue_us, run_us, batch }
    }
}

impl Flight {
    /// One that brought no answer.
    pub(crate) const fn failed(node: Option<NodeId>, attempts: u8) -> Self {
        Self { node, attempts, queue_us: 0, run_us: 0, batch: 0 }
    }
}

/// What is told of a whole request.
#[derive(Serialize)]
struct Record<'a> {
    request_id: &'a str,
    total_us: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    flight: Option<Flight>,
    /// The limits as the header `RateLimit` tells them, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<&'a str>,
}

/// Whether a request asks for its record: `X-Explain` with anything but 0 or false, or `explain` in the query.
pub(crate) fn is_asked(headers: &HeaderMap, uri: &Uri) -> bool {
    let off = |value: &str| matches!(value, "0" | "false");
    let by_header = headers.get(EXPLAIN).is_some_and(|value| !off(value.to_str().unwrap_or_default()));
    by_header
        || uri.query().is_some_and(|query| {
            query.split('&').any(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                name == "explain" && !off(value)
            })
        })
}

/// Writes the record into the head of an answer, which is complete but for it.
pub(crate) fn write(headers: &mut HeaderMap, request_id: &str, flight: Option<Flight>, total: Duration) {
    let limits = headers.get(RATELIMIT).and_then(|limits| limits.to_str().ok());
    let record = Record { request_id, total_us: total.as_micros(), flight, limits };
    let json = serde_json::to_string(&record).expect("numbers and ids are JSON");
    // A request's id has only characters that a header may have.
    if let Ok(value) = HeaderValue::try_from(json) {
        headers.insert(FLIGHT, value);
    }
    let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
    let mut timing = format!("total;dur={:.3}", total.as_secs_f64() * 1e3);
    if let Some(flight) = flight {
        timing.push_str(&format!(", queue;dur={:.3}, run;dur={:.3}", ms(flight.queue_us), ms(flight.run_us)));
    }
    headers.insert(SERVER_TIMING, HeaderValue::try_from(timing).expect("digits and names are legal"));
}

#[cfg(test)]
mod tests {
    use lineside_wire::LoadReport;

    use super::*;

    #[test]
    fn a_record_is_asked_for_by_header_or_query() {
        let asked = |header: Option<&str>, uri: &str| {
            let headers = header.map(|value| (EXPLAIN, HeaderValue::from_str(value).expect("a legal value")));
            is_asked(&HeaderMap::from_iter(headers), &uri.parse().expect("a URI"))
        };
        for (header, uri) in [
            (Some("1"), "/v2"),
            (Some("yes"), "/v2"),
            (None, "/v2?explain"),
            (None, "/v2?a=b&explain=1"),
            (Some("0"), "/v2?explain"),
        ] {
            assert!(asked(header, uri), "{header:?} {uri}");
        }
        for (header, uri) in
            [(None, "/v2"), (Some("0"), "/v2"), (None, "/v2?explain=false"), (None, "/v2?explained")]
        {
            assert!(!asked(header, uri), "{header:?} {uri}");
        }
    }

    #[test]
    fn the_record_says_who_how_often_and_how_long() {
        let node: NodeId = "00000000000000000000000000000001".parse().expect("an id");
        let load = LoadReport::default();
        let report = RunReport { node, load, queue_us: 40, run_us: 1_500, attempts: 2, batch: 3 };
        let mut headers = HeaderMap::from_iter([(RATELIMIT, HeaderValue::from_static("\"client\";r=4;t=1"))]);
        write(&mut headers, "part-7", Some((&report).into()), Duration::from_micros(2_000));
        let record: serde_json::Value =
            serde_json::from_slice(headers[FLIGHT].as_bytes()).expect("the record is JSON");
        assert_eq!(record["request_id"], "part-7");
        assert_eq!(record["total_us"], 2_000);
        assert_eq!(record["flight"]["node"], node.to_string());
        assert_eq!(record["flight"]["attempts"], 2);
        assert_eq!(record["flight"]["batch"], 3);
        assert_eq!(record["limits"], "\"client\";r=4;t=1");
        assert_eq!(headers[SERVER_TIMING], "total;dur=2.000, queue;dur=0.040, run;dur=1.500");
    }
}
