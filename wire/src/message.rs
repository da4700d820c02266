//! The messages: JSON-RPC 2.0's objects in MessagePack, encoded into frames and decoded strictly.
//!
//! The member `jsonrpc` is left out, because the frame's head carries the version; everything else has the names
//! and the meaning that JSON-RPC gives it.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    CallContext, Executed, FRAME_HEAD_BYTES, Fault, FaultCode, FrameHead, FrameKind, PayloadBuilder,
    RunReport,
    fault::shortened,
    strict::{self, DEPTH_MAX, InvalidDocument},
};

/// Most calls in one batch frame.
pub const BATCH_ENTRIES_MAX: usize = 64;

/// The number that matches an answer to its request, chosen by the caller, unique among its open calls on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// Why a document is no message. The frame's borders are intact, so the stream goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// The document breaks a rule of strict MessagePack.
    #[error("invalid document: {0}")]
    Document(#[from] InvalidDocument),
    /// A member that the kind needs is absent.
    #[error("the member {0:?} is missing")]
    MissingMember(&'static str),
    /// A member that the kind does not have.
    #[error("unknown member {0:?}")]
    UnknownMember(String),
    /// A member of the wrong type.
    #[error("the member {member:?} is not valid: {reason}")]
    InvalidMember {
        /// Its name.
        member: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// A fault number that this version does not know.
    #[error("unknown fault number {0}")]
    UnknownFault(i32),
    /// Too many calls in one batch, or none.
    #[error("a batch of {0} calls: 1 to {BATCH_ENTRIES_MAX} are allowed")]
    BatchLength(usize),
}

impl InvalidMessage {
    /// What the sender is told: bytes that are no document, or a document that is no message.
    #[must_use]
    pub const fn fault_code(&self) -> FaultCode {
        match self {
            Self::Document(InvalidDocument::Unexpected { .. })
            | Self::MissingMember(_)
            | Self::UnknownMember(_)
            | Self::InvalidMember { .. }
            | Self::UnknownFault(_)
            | Self::BatchLength(_) => FaultCode::InvalidRequest,
            Self::Document(_) => FaultCode::ParseError,
        }
    }
}

/// A decoded message. Params, results and items stay bytes until the method is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Message<'a> {
    /// A call that wants an answer.
    Request {
        /// Matches the answer to it.
        id: RequestId,
        /// Which method.
        method: &'a str,
        /// Deadline, attempt, trace.
        context: CallContext,
        /// The params, checked but not decoded.
        params: &'a [u8],
    },
    /// A call that wants none.
    Notification {
        /// Which method.
        method: &'a str,
        /// The params, checked but not decoded.
        params: &'a [u8],
    },
    /// An answer.
    Response {
        /// The request that it answers.
        id: RequestId,
        /// The result, checked but not decoded.
        result: &'a [u8],
        /// Who answered and how long it took.
        report: Option<RunReport>,
    },
    /// A typed error.
    Error {
        /// The request that it answers; absent when that could not be read.
        id: Option<RequestId>,
        /// What failed.
        fault: Fault,
        /// Who answered.
        report: Option<RunReport>,
    },
    /// A part of a streamed result.
    Item {
        /// The request that it belongs to.
        id: RequestId,
        /// Its number, from 0 without gaps.
        number: u64,
        /// The part, checked but not decoded.
        item: &'a [u8],
    },
    /// Several requests and notifications, in order. They carry no tensors.
    Batch(Vec<Message<'a>>),
}

/// JSON-RPC's error object.
#[derive(Serialize, Deserialize)]
struct ErrorObject {
    code: i32,
    message: String,
    data: ErrorData,
}

#[derive(Serialize, Deserialize)]
struct ErrorData {
    executed: Executed,
    retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// An empty map: the params of methods that have none.
const NO_PARAMS: &[u8] = &[0x80];

impl<'a> Message<'a> {
    /// Decodes the document of a frame.
    ///
    /// # Errors
    /// The document breaks strict MessagePack, or is not what its kind says. The stream can go on.
    pub fn decode(kind: FrameKind, document: &'a [u8]) -> Result<Self, InvalidMessage> {
        if kind == FrameKind::Batch {
            let entries = strict::elements(document, BATCH_ENTRIES_MAX)?;
            if entries.is_empty() {
                return Err(InvalidMessage::BatchLength(0));
            }
            let call = |entry: &&'a [u8]| {
                let kind = match strict::members(entry)?.iter().any(|(name, _)| *name == "id") {
                    true => FrameKind::Request,
                    false => FrameKind::Notification,
                };
                Members::read(kind, entry)?.message(kind)
            };
            return entries.iter().map(call).collect::<Result<_, _>>().map(Self::Batch);
        }
        Members::read(kind, document)?.message(kind)
    }
}

/// Decodes params, a result or an item into the type that its method has.
///
/// # Errors
/// The bytes are not that type; the text names the field.
pub fn decode_part<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    decode(bytes)
        .map_err(|reason| Fault::new(FaultCode::InvalidParams, format!("params: {}", shortened(&reason))))
}

/// Decodes the bytes of one value; the walk over its message has checked that nothing follows it and no key is twice.
/// The depth is bounded here too, so that bytes from elsewhere cannot exhaust the stack.
fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    decoder.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut decoder).map_err(|error| error.to_string())
}

/// The members that a message of this kind may have.
const fn members_of(kind: FrameKind) -> &'static [&'static str] {
    match kind {
        FrameKind::Request => &["id", "method", "context", "params"],
        FrameKind::Notification => &["method", "params"],
        FrameKind::Response => &["id", "result", "report"],
        FrameKind::Error => &["id", "error", "report"],
        FrameKind::Item => &["id", "number", "item"],
        FrameKind::Batch => &[],
    }
}

/// The members of a message, each at most once, none that its kind does not have.
#[derive(Default)]
struct Members<'a> {
    id: Option<&'a [u8]>,
    method: Option<&'a [u8]>,
    context: Option<&'a [u8]>,
    params: Option<&'a [u8]>,
    result: Option<&'a [u8]>,
    report: Option<&'a [u8]>,
    error: Option<&'a [u8]>,
    number: Option<&'a [u8]>,
    item: Option<&'a [u8]>,
}

impl<'a> Members<'a> {
    fn read(kind: FrameKind, document: &'a [u8]) -> Result<Self, InvalidMessage> {
        let mut members = Self::default();
        for (name, value) in strict::members(document)? {
            if !members_of(kind).contains(&name) {
                return Err(InvalidMessage::UnknownMember(name.chars().take(64).collect()));
            }
            let place = match name {
                "id" => &mut members.id,
                "method" => &mut members.method,
                "context" => &mut members.context,
                "params" => &mut members.params,
                "result" => &mut members.result,
                "report" => &mut members.report,
                "error" => &mut members.error,
                "number" => &mut members.number,
                "item" => &mut members.item,
                _ => unreachable!("every member of a kind has its place"),
            };
            *place = Some(value);
        }
        Ok(members)
    }

    fn message(&self, kind: FrameKind) -> Result<Message<'a>, InvalidMessage> {
        Ok(match kind {
            FrameKind::Request => Message::Request {
                id: required("id", self.id)?,
                method: required("method", self.method)?,
                context: optional("context", self.context)?.unwrap_or_default(),
                params: self.params.unwrap_or(NO_PARAMS),
            },
            FrameKind::Notification => Message::Notification {
                method: required("method", self.method)?,
                params: self.params.unwrap_or(NO_PARAMS),
            },
            FrameKind::Response => Message::Response {
                id: required("id", self.id)?,
                result: self.result.ok_or(InvalidMessage::MissingMember("result"))?,
                report: optional("report", self.report)?,
            },
            FrameKind::Error => {
                let error: ErrorObject = required("error", self.error)?;
                let code =
                    FaultCode::from_number(error.code).ok_or(InvalidMessage::UnknownFault(error.code))?;
                let ErrorData { executed, retryable, retry_after_ms } = error.data;
                let fault = Fault { code, message: error.message, executed, retryable, retry_after_ms };
                Message::Error {
                    id: required::<Option<_>>("id", self.id)?,
                    fault,
                    report: optional("report", self.report)?,
                }
            }
            FrameKind::Item => Message::Item {
                id: required("id", self.id)?,
                number: required("number", self.number)?,
                item: self.item.ok_or(InvalidMessage::MissingMember("item"))?,
            },
            FrameKind::Batch => return Err(InvalidMessage::MissingMember("method")),
        })
    }
}

fn required<'a, T: Deserialize<'a>>(
    member: &'static str,
    bytes: Option<&'a [u8]>,
) -> Result<T, InvalidMessage> {
    optional(member, bytes)?.ok_or(InvalidMessage::MissingMember(member))
}

fn optional<'a, T: Deserialize<'a>>(
    member: &'static str,
    bytes: Option<&'a [u8]>,
) -> Result<Option<T>, InvalidMessage> {
    let invalid =
        |reason: String| InvalidMessage::InvalidMember { member, reason: shortened(&reason).to_owned() };
    bytes.map(|bytes| decode(bytes).map_err(invalid)).transpose()
}

/// A frame that is ready to be written: head and document in one piece, then the payload's pieces, uncopied.
#[derive(Clone, Debug)]
pub struct EncodedFrame {
    /// The head and the document.
    pub start: Bytes,
    /// The payload.
    pub payload: Vec<Bytes>,
}

impl EncodedFrame {
    /// A request.
    pub fn request<P: Serialize>(
        id: RequestId,
        method: &str,
        context: &CallContext,
        params: &P,
        payload: PayloadBuilder,
    ) -> Self {
        let members = 3 + u32::from(!context.is_default());
        Self::build(FrameKind::Request, payload, members, |document| {
            document.member("id", &id);
            document.member("method", method);
            if !context.is_default() {
                document.member("context", context);
            }
            document.member("params", params);
        })
    }

    /// A notification.
    pub fn notification<P: Serialize>(method: &str, params: &P) -> Self {
        Self::build(FrameKind::Notification, PayloadBuilder::new(), 2, |document| {
            document.member("method", method);
            document.member("params", params);
        })
    }

    /// An answer.
    pub fn response<R: Serialize>(
        id: RequestId,
        result: &R,
        report: Option<&RunReport>,
        payload: PayloadBuilder,
    ) -> Self {
        let members = 2 + u32::from(report.is_some());
        Self::build(FrameKind::Response, payload, members, |document| {
            document.member("id", &id);
            document.member("result", result);
            if let Some(report) = report {
                document.member("report", report);
            }
        })
    }

    /// A typed error. `id` is `None` when the request's could not be read.
    pub fn error(id: Option<RequestId>, fault: &Fault, report: Option<&RunReport>) -> Self {
        let members = 2 + u32::from(report.is_some());
        let error = ErrorObject {
            code: fault.code.number(),
            message: shortened(&fault.message).to_owned(),
            data: ErrorData {
                executed: fault.executed,
                retryable: fault.retryable,
                retry_after_ms: fault.retry_after_ms,
            },
        };
        Self::build(FrameKind::Error, PayloadBuilder::new(), members, |document| {
            document.member("id", &id);
            document.member("error", &error);
            if let Some(report) = report {
                document.member("report", report);
            }
        })
    }

    /// A part of a streamed result.
    pub fn item<I: Serialize>(id: RequestId, number: u64, item: &I, payload: PayloadBuilder) -> Self {
        Self::build(FrameKind::Item, payload, 3, |document| {
            document.member("id", &id);
            document.member("number", &number);
            document.member("item", item);
        })
    }

    /// A batch of the given requests and notifications, which must be without payload.
    #[must_use]
    pub fn batch(calls: &[Self]) -> Self {
        let count = u32::try_from(calls.len()).unwrap_or(u32::MAX);
        let mut document = Document::new();
        rmp::encode::write_array_len(&mut (&mut document.0).writer(), count)
            .expect("writing to memory does not fail");
        for call in calls {
            document.0.extend_from_slice(&call.start[FRAME_HEAD_BYTES..]);
        }
        document.finish(FrameKind::Batch, PayloadBuilder::new())
    }

    /// All bytes of the frame: head, document and payload.
    #[must_use]
    pub fn len(&self) -> usize {
        self.start.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }

    /// Never: a frame has at least its head.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    fn build(
        kind: FrameKind,
        payload: PayloadBuilder,
        members: u32,
        fill: impl FnOnce(&mut Document),
    ) -> Self {
        let mut document = Document::new();
        rmp::encode::write_map_len(&mut (&mut document.0).writer(), members)
            .expect("writing to memory does not fail");
        fill(&mut document);
        document.finish(kind, payload)
    }
}

/// A document under construction, with room for the head before it.
struct Document(BytesMut);

/// Room for the document of a small call, so that it is written without growing.
const DOCUMENT_BYTES_USUAL: usize = 512;

impl Document {
    fn new() -> Self {
        let mut bytes = BytesMut::with_capacity(DOCUMENT_BYTES_USUAL);
        bytes.resize(FRAME_HEAD_BYTES, 0);
        Self(bytes)
    }

    fn member<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        rmp::encode::write_str(&mut (&mut self.0).writer(), name).expect("writing to memory does not fail");
        let mut serializer = rmp_serde::Serializer::new((&mut self.0).writer()).with_struct_map();
        value.serialize(&mut serializer).expect("our own types are serializable");
    }

    fn finish(mut self, kind: FrameKind, payload: PayloadBuilder) -> EncodedFrame {
        // Our own documents and payloads are far below 4 GiB; a longer one is refused by every receiver's limit.
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let head = FrameHead {
            kind,
            document_length: length(self.0.len() - FRAME_HEAD_BYTES),
            payload_length: length(payload.length()),
        };
        self.0[..FRAME_HEAD_BYTES].copy_from_slice(&head.encode());
        EncodedFrame { start: self.0.freeze(), payload: payload.into_chunks() }
    }
}

/// Checks a document without decoding it: what a fuzzer and a proxy need.
///
/// # Errors
/// The document breaks strict MessagePack.
pub fn check_document(document: &[u8]) -> Result<(), InvalidDocument> {
    strict::check(document)
}

#[cfg(test)]
mod tests;
