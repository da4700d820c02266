//! JSON-RPC 2.0 over text: requests in, responses out, whatever the methods are. Pure.

use std::borrow::Cow;

use futures_util::future::join_all;
use lineside_wire::{BATCH_ENTRIES_MAX, Executed, Fault, FaultCode};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::bounded::List;

/// A call whose envelope is valid.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: Cow<'a, str>,
    /// An object or an array, if anything.
    pub(crate) params: Option<&'a RawValue>,
}

/// The result of a method as JSON, or why there is none.
pub(crate) type Outcome = Result<Box<RawValue>, Fault>;

/// Answers a body: one request, or a batch of them, which run side by side. `None` when nothing is to be answered.
///
/// `handle` runs one call. It also runs notifications; what they bring back goes nowhere.
pub(crate) async fn answer<'a, F, R>(body: &'a [u8], handle: F) -> Option<Vec<u8>>
where
    F: Fn(Call<'a>) -> R,
    R: Future<Output = Outcome>,
{
    let Ok(document) = serde_json::from_slice::<&RawValue>(body) else {
        let text = "the body is not valid JSON";
        return Some(written(&failed(Fault::new(FaultCode::ParseError, text), None)));
    };
    if !document.get().starts_with('[') {
        return one(document, &handle).await.as_ref().map(written);
    }
    let List(entries): List<&RawValue, BATCH_ENTRIES_MAX> =
        serde_json::from_str(document.get()).unwrap_or_default();
    if entries.is_empty() || BATCH_ENTRIES_MAX < entries.len() {
        let text = format!("a batch holds 1 to {BATCH_ENTRIES_MAX} calls");
        return Some(written(&failed(Fault::new(FaultCode::InvalidRequest, text), None)));
    }
    let answers = join_all(entries.into_iter().map(|entry| one(entry, &handle))).await;
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    (!answers.is_empty()).then(|| written(&answers))
}

async fn one<'a, F, R>(entry: &'a RawValue, handle: &F) -> Option<Response<'a>>
where
    F: Fn(Call<'a>) -> R,
    R: Future<Output = Outcome>,
{
    match read(entry) {
        Err((fault, id)) => Some(failed(fault, id)),
        Ok((call, id)) => {
            let outcome = handle(call).await;
            let id = id?;
            Some(match outcome {
                Ok(result) => Response { jsonrpc: "2.0", result: Some(result), error: None, id: Some(id) },
                Err(fault) => failed(fault, Some(id)),
            })
        }
    }
}

/// The members of a request, each only as text: one that is wrong must not hide the id.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(default, borrow, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    method: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    id: Option<&'a RawValue>,
}

/// A member that is there, even as null: a request with a null id wants an answer, one without an id does not.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

type Id<'a> = &'a RawValue;

/// Reads one request: the call, and its id unless it is a notification.
fn read(entry: &RawValue) -> Result<(Call<'_>, Option<Id<'_>>), (Fault, Option<Id<'_>>)> {
    let invalid = |text: &str| Fault::new(FaultCode::InvalidRequest, text);
    let is_object = entry.get().starts_with('{');
    let members: Members<'_> = match serde_json::from_str(entry.get()) {
        Ok(members) if is_object => members,
        _ => return Err((invalid("a request is an object, with each member at most once"), None)),
    };
    let id = match members.id {
        Some(id)
            if !id.get().starts_with(['"', '-', 'n'])
                && !id.get().starts_with(|c: char| c.is_ascii_digit()) =>
        {
            return Err((invalid("the id must be text, a number or null"), None));
        }
        id => id,
    };
    let text = |member: Option<&'_ RawValue>| {
        member
            .and_then(|raw| serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|text| text.0.into_owned()))
    };
    if text(members.jsonrpc).as_deref() != Some("2.0") {
        return Err((invalid("the member jsonrpc must be \"2.0\""), id));
    }
    let Some(method) = text(members.method) else {
        return Err((invalid("the member method must be text"), id));
    };
    if members.params.is_some_and(|params| !params.get().starts_with(['{', '['])) {
        return Err((invalid("the member params must be an object or an array"), id));
    }
    Ok((Call { method: method.into(), params: members.params }, id))
}

#[derive(Serialize)]
struct Response<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorObject>,
    /// Null when the request's could not be read.
    id: Option<Id<'a>>,
}

#[derive(Serialize)]
struct ErrorObject {
    code: i32,
    message: String,
    data: ErrorData,
}

#[derive(Serialize)]
struct ErrorData {
    name: &'static str,
    executed: Executed,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

fn failed(fault: Fault, id: Option<Id<'_>>) -> Response<'_> {
    let data = ErrorData {
        name: fault.code.name(),
        executed: fault.executed,
        retryable: fault.retryable,
        retry_after_ms: fault.retry_after_ms,
    };
    let error = ErrorObject { code: fault.code.number(), message: fault.message, data };
    Response { jsonrpc: "2.0", result: None, error: Some(error), id }
}

fn written<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types are JSON")
}

#[cfg(test)]
mod tests;
