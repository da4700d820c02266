//! What the fuzz targets reach of this crate. No part of its interface.

#![doc(hidden)]

mod oip;

use std::{
    future::ready,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt;
use lineside_wire::{BATCH_ENTRIES_MAX, ChangeParams, Fault, FaultCode, ModelParams, StatisticsParams};
use serde_json::value::RawValue;

use crate::{
    jsonrpc::{Call, Document, Outcome},
    rpc::{
        Params,
        json::{self, Json},
        table::{self, Method, Wire},
    },
};

pub use oip::{oip, parse_fp32};

/// A body or message of JSON-RPC, with methods that read their params and do nothing.
///
/// # Panics
/// A call is lost or answered twice, an answer is no JSON, or an id is not given back as it came.
pub fn jsonrpc(bytes: &[u8]) {
    let document = Document::read(bytes);
    let is_batch = matches!(document, Document::Batch(_));
    let is_refused = matches!(document, Document::Refused(_));
    let entries = document.entries();
    assert!(entries.len() <= BATCH_ENTRIES_MAX);
    let calls = entries.iter().filter(|entry| entry.is_ok()).count();
    let mut wanted: Vec<String> = entries
        .iter()
        .filter_map(|entry| match entry {
            Ok(call) => call.id.map(|id| id.get().to_owned()),
            Err((_, id)) => Some(id.map_or("null", RawValue::get).to_owned()),
        })
        .collect();
    if is_refused {
        wanted.push("null".to_owned());
    }
    let handled = AtomicUsize::new(0);
    let answered = document.answer(|call| {
        handled.fetch_add(1, Ordering::Relaxed);
        ready(dispatched(&call))
    });
    let answered = answered.now_or_never().expect("no method waits");
    assert_eq!(
        handled.load(Ordering::Relaxed),
        calls,
        "each call is handled once, whatever becomes of its answer"
    );
    let given = answered.map_or_else(Vec::new, |json| ids(&json, is_batch));
    assert_eq!(given, wanted);
}

/// Reads the params as each wire's method would.
fn dispatched(call: &Call<'_>) -> Outcome {
    let row = [Wire::Socket, Wire::Quic].map(|wire| table::find(&call.method, wire));
    let [Ok(row), _] = row else { return Err(Fault::new(FaultCode::MethodNotFound, "none")) };
    let params = Json(call.params);
    match row.method {
        Method::Infer => drop(json::inference(call.params)?),
        Method::ModelsGet => drop(params.read::<ModelParams>()?),
        Method::ModelsLoad | Method::ModelsUnload => drop(params.read::<ChangeParams>()?),
        Method::ModelsStatistics => drop(params.read::<StatisticsParams>()?),
        Method::ModelsList
        | Method::ClusterMembers
        | Method::ClusterStatus
        | Method::ClusterWatch
        | Method::Health
        | Method::Discover => {}
    }
    json::result(&call.params)
}

/// The ids of the responses, as they are written, after a look at each response.
fn ids(json: &[u8], is_batch: bool) -> Vec<String> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Response<'a> {
        jsonrpc: &'a str,
        #[serde(default, borrow)]
        result: Option<&'a RawValue>,
        #[serde(default, borrow)]
        error: Option<&'a RawValue>,
        #[serde(borrow)]
        id: &'a RawValue,
    }
    let responses: Vec<Response<'_>> = match is_batch {
        true => serde_json::from_slice(json).expect("a batch is answered by an array"),
        false => vec![serde_json::from_slice(json).expect("a request is answered by an object")],
    };
    assert!(!responses.is_empty(), "an empty array is no answer");
    let id = |response: Response<'_>| {
        assert_eq!(response.jsonrpc, "2.0");
        // A result that is null reads as none here.
        assert!(response.error.is_none() || response.result.is_none());
        response.id.get().to_owned()
    };
    responses.into_iter().map(id).collect()
}
