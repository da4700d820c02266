//! JSON-RPC 2.0 over text: requests in, responses out, whatever the methods are. Pure.

use std::borrow::Cow;

use futures_util::future::join_all;
use lineside_wire::{BATCH_ENTRIES_MAX, Executed, FAULT_MESSAGE_BYTES_MAX, Fault, FaultCode};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::bounded::{List, Text};

/// Longest id, in bytes as it is written: it is held and sent back, and nobody counts so far.
const ID_BYTES_MAX: usize = 4096;

/// A call whose envelope is valid.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: Cow<'a, str>,
    /// An object or an array, if anything.
    pub(crate) params: Option<&'a RawValue>,
    /// Text, a number or null, as it was written; `None` of a notification.
    pub(crate) id: Option<Id<'a>>,
}

/// An id as its sender wrote it: it is given back so, whatever number it is.
pub(crate) type Id<'a> = &'a RawValue;

/// The result of a method as JSON, or why there is none.
pub(crate) type Outcome = Result<Box<RawValue>, Fault>;

/// What a body or message asks for: one request, or a batch of them.
#[derive(Debug)]
pub(crate) enum Document<'a> {
    /// One request.
    One(Entry<'a>),
    /// Between one and [`BATCH_ENTRIES_MAX`] of them.
    Batch(Vec<Entry<'a>>),
    /// Neither.
    Refused(Fault),
}

/// A call, or why it is none, with the id if that could be read.
pub(crate) type Entry<'a> = Result<Call<'a>, (Fault, Option<Id<'a>>)>;

impl<'a> Document<'a> {
    pub(crate) fn read(body: &'a [u8]) -> Self {
        let Ok(document) = serde_json::from_slice::<&RawValue>(body) else {
            return Self::Refused(Fault::new(FaultCode::ParseError, "the text is not valid JSON"));
        };
        if !document.get().starts_with('[') {
            return Self::One(read(document));
        }
        let List(entries): List<&RawValue, BATCH_ENTRIES_MAX> =
            serde_json::from_str(document.get()).unwrap_or_default();
        if entries.is_empty() || BATCH_ENTRIES_MAX < entries.len() {
            let text = format!("a batch holds 1 to {BATCH_ENTRIES_MAX} calls");
            return Self::Refused(Fault::new(FaultCode::InvalidRequest, text));
        }
        Self::Batch(entries.into_iter().map(read).collect())
    }

    /// What it asks for, in its order; nothing where it is refused as a whole.
    pub(crate) fn entries(&self) -> &[Entry<'a>] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Batch(entries) => entries,
            Self::Refused(_) => &[],
        }
    }

    /// Runs the calls side by side, and gives what is to be sent back; `None` when nothing is.
    ///
    /// `handle` runs one call. It also runs notifications; what they bring back goes nowhere.
    pub(crate) async fn answer<F, R>(self, handle: F) -> Option<Vec<u8>>
    where
        F: Fn(Call<'a>) -> R,
        R: Future<Output = Outcome>,
    {
        let mut out = Vec::new();
        match self {
            Self::Refused(fault) => failed(fault, None).write(&mut out),
            Self::One(entry) => one(entry, &handle).await?.write(&mut out),
            Self::Batch(entries) => {
                let responses = join_all(entries.into_iter().map(|entry| one(entry, &handle))).await;
                for response in responses.into_iter().flatten() {
                    out.push(if out.is_empty() { b'[' } else { b',' });
                    response.write(&mut out);
                }
                if out.is_empty() {
                    return None;
                }
                out.push(b']');
            }
        }
        Some(out)
    }
}

async fn one<'a, F, R>(entry: Entry<'a>, handle: &F) -> Option<Response<'a>>
where
    F: Fn(Call<'a>) -> R,
    R: Future<Output = Outcome>,
{
    match entry {
        Err((fault, id)) => Some(failed(fault, id)),
        Ok(call) => {
            let id = call.id;
            let outcome = handle(call).await;
            let id = id?;
            Some(match outcome {
                Ok(result) => Response { jsonrpc: "2.0", result: Some(result), error: None, id: Some(id) },
                Err(fault) => failed(fault, Some(id)),
            })
        }
    }
}

/// The answer to a whole document that has none of its own.
pub(crate) fn refused(fault: Fault) -> Vec<u8> {
    written(&failed(fault, None))
}

/// A notification of ours, which nobody answers.
pub(crate) fn notification<P: Serialize>(method: &str, params: &P) -> Vec<u8> {
    #[derive(Serialize)]
    struct Notification<'a, P> {
        jsonrpc: &'static str,
        method: &'a str,
        params: &'a P,
    }
    written(&Notification { jsonrpc: "2.0", method, params })
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

/// Reads one request.
fn read<'a>(entry: &'a RawValue) -> Entry<'a> {
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
        Some(id) if ID_BYTES_MAX < id.get().len() => {
            let text = format!("the id has {} bytes: use at most {ID_BYTES_MAX}", id.get().len());
            return Err((invalid(&text), None));
        }
        id => id,
    };
    let text = |member: Option<&'a RawValue>| {
        member.and_then(|raw| serde_json::from_str::<Text<'a>>(raw.get()).ok()).map(|text| text.0)
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
    Ok(Call { method, params: members.params, id })
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

impl Response<'_> {
    /// Writes it, and gives its result's memory back at once: those of a whole batch are never held twice.
    fn write(self, out: &mut Vec<u8>) {
        serde_json::to_writer(out, &self).expect("our own types are JSON");
    }
}

/// Why there is no result, in the words of the specification.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorObject {
    code: i32,
    message: String,
    data: ErrorData,
}

#[derive(Debug, Serialize)]
struct ErrorData {
    name: &'static str,
    executed: Executed,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl From<Fault> for ErrorObject {
    fn from(fault: Fault) -> Self {
        let data = ErrorData {
            name: fault.code.name(),
            executed: fault.executed,
            retryable: fault.retryable,
            retry_after_ms: fault.retry_after_ms,
        };
        let mut message = fault.message;
        // What was wrong is repeated in it, however long it is.
        message.truncate(message.floor_char_boundary(FAULT_MESSAGE_BYTES_MAX));
        Self { code: fault.code.number(), message, data }
    }
}

fn failed(fault: Fault, id: Option<Id<'_>>) -> Response<'_> {
    Response { jsonrpc: "2.0", result: None, error: Some(fault.into()), id }
}

fn written<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types are JSON")
}

#[cfg(test)]
mod spec;
#[cfg(test)]
mod tests;
