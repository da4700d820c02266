//! The language between members.
//!
//! A stream carries frames both ways. A reply comes on the stream of its request, matched by id.
//!
//! ```text
//! | head | MessagePack document | tensor bytes |    both lengths checked against limits before reading on
//! ```
//!
//! The documents are JSON-RPC 2.0's objects in MessagePack; tensors follow them as raw little-endian bytes,
//! each 64-byte aligned, so that neither end copies or re-encodes them. `docs/PROTOCOL.md` specifies all of it.
//!
//! This crate knows no socket, no runtime, no model.

mod address;
mod calls;
mod fault;
mod frame;
mod ids;
mod keys;
mod message;
mod payload;
mod service;
mod split;
mod standing;
mod strict;
mod tensor;
mod trust;

pub use calls::{
    CallContext, CancelParams, ClusterStatus, Empty, Greeting, Health, InferParams, InferResult, LoadReport,
    MemberRow, MemberState, MembersResult, ModelInfo, ModelParams, ModelState, ModelsResult,
    PROTOCOL_VERSION, Parameter, Parameters, RunReport, TensorHeader, TensorSpec, method,
};
pub use fault::{Executed, FAULT_MESSAGE_BYTES_MAX, Fault, FaultCode};
pub use frame::{FRAME_HEAD_BYTES, FrameHead, FrameKind, InvalidFrame, Limits};
pub use ids::{ClusterId, InvalidId, InvalidModelName, ModelName, ModelVersion, NodeId, Role};
pub use keys::{
    API_KEY_PATTERN_BYTES_MAX, API_KEY_PATTERNS_MAX, API_KEYS_BYTES_MAX, API_KEYS_MAX, API_KEYS_REVOKED_MAX,
    ApiKey, RevokedApiKey, matches_pattern,
};
pub use message::{
    BATCH_ENTRIES_MAX, EncodedFrame, InvalidMessage, Message, RequestId, check_document, decode_part,
};
pub use payload::{AlignedBuffer, PayloadBuilder, TENSOR_ALIGN, aligned_len};
pub use service::{
    BatchStatistics, BatchingInfo, ChangeParams, ChangeResult, EngineInfo, ModelStatistics, NodeChange,
    Spent, StatisticsParams, StatisticsResult, Task, VersionPolicy,
};
pub use split::{TENSORS_MAX, Tensor, join_tensors, split_tensors};
pub use standing::{InvalidStanding, Standing};
pub use strict::{DEPTH_MAX, InvalidDocument, MAP_ENTRIES_MAX};
pub use tensor::{Datatype, InvalidTensor, RANK_MAX, Shape, bytes_elements, bytes_tensor};
pub use trust::{
    AUTHORITIES_MAX, CSR_BYTES_MAX, Enrolled, JoinParams, REVOKED_MAX, RenewParams, SignedTrust, TrustList,
    TrustSignature, TrustStamp, TrustedAuthority, WEB_NAMES_MAX, WebParams,
};
