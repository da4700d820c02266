//! The table of operations: one row for each route.

mod infer;
mod models;
mod server;

use crate::gate::Permission;

/// A media type, and the name of the schema of what has it.
pub(super) type Content = (&'static str, &'static str);

pub(super) const JSON: &str = "application/json";
pub(super) const TEXT: &str = "text/plain";
pub(super) const BINARY: &str = "application/octet-stream";
pub(super) const FORM: &str = "multipart/form-data";
pub(super) const EVENTS: &str = "text/event-stream";

/// Headers of a request that makes a node work.
const OF_WORK: [&str; 5] = ["RequestTimeoutMs", "RequestId", "Traceparent", "Affinity", "Explain"];

/// What a request is sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
}

impl Verb {
    /// Its name in the document.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
        }
    }
}

/// One route with one verb.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    /// The route's label.
    pub(super) label: &'static str,
    pub(super) verb: Verb,
    /// The paths that lead to it; the first is the one to use.
    pub(super) paths: &'static [&'static str],
    pub(super) tag: &'static str,
    /// Its name for programs that make clients of the document.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) text: &'static str,
    /// What its caller must be allowed.
    pub(super) permission: Option<Permission>,
    /// Whether no limit and no key holds it back.
    pub(super) is_free: bool,
    /// Whether no key is asked for, where the setting asks for one everywhere else.
    pub(super) is_public: bool,
    /// Whether a node works for it: its answer then names that node.
    pub(super) works: bool,
    /// Names of further parameters, beside those of the path.
    pub(super) parameters: &'static [&'static str],
    pub(super) takes: &'static [Content],
    /// Whether it can be sent without a body.
    pub(super) body_optional: bool,
    pub(super) gives: &'static [Content],
    /// Other ways in which it succeeds, with their words.
    pub(super) also: &'static [(u16, &'static str)],
    /// Statuses of its errors, beside those that every operation has.
    pub(super) refuses: &'static [u16],
}

impl Operation {
    const fn get(
        label: &'static str,
        tag: &'static str,
        id: &'static str,
        paths: &'static [&'static str],
    ) -> Self {
        Self {
            label,
            verb: Verb::Get,
            paths,
            tag,
            id,
            summary: "",
            text: "",
            permission: None,
            is_free: false,
            is_public: false,
            works: false,
            parameters: &[],
            takes: &[],
            body_optional: false,
            gives: &[],
            also: &[],
            refuses: &[],
        }
    }

    const fn post(
        label: &'static str,
        tag: &'static str,
        id: &'static str,
        paths: &'static [&'static str],
    ) -> Self {
        Self { verb: Verb::Post, ..Self::get(label, tag, id, paths) }
    }

    const fn says(self, summary: &'static str, text: &'static str) -> Self {
        Self { summary, text, ..self }
    }

    const fn free(self) -> Self {
        Self { is_free: true, is_public: true, ..self }
    }

    const fn public(self) -> Self {
        Self { is_public: true, ..self }
    }

    const fn works(self) -> Self {
        Self { works: true, ..self }
    }

    const fn needs(self, permission: Permission) -> Self {
        Self { permission: Some(permission), ..self }
    }

    const fn with(self, parameters: &'static [&'static str]) -> Self {
        Self { parameters, ..self }
    }

    const fn takes(self, takes: &'static [Content]) -> Self {
        Self { takes, ..self }
    }

    const fn may_take(self, takes: &'static [Content]) -> Self {
        Self { takes, body_optional: true, ..self }
    }

    const fn gives(self, gives: &'static [Content]) -> Self {
        Self { gives, ..self }
    }

    const fn also(self, also: &'static [(u16, &'static str)]) -> Self {
        Self { also, ..self }
    }

    const fn refuses(self, refuses: &'static [u16]) -> Self {
        Self { refuses, ..self }
    }

    /// Names of all parameters that its paths do not name.
    pub(super) fn all_parameters(&self) -> impl Iterator<Item = &'static str> {
        let of_work: &[&str] = match (self.works, self.is_free) {
            (true, _) => &OF_WORK,
            (false, false) => &["RequestId"],
            (false, true) => &[],
        };
        self.parameters.iter().chain(of_work).copied()
    }

    /// Statuses of all its errors, in their order.
    pub(super) fn all_refusals(&self) -> Vec<u16> {
        let mut all = self.refuses.to_vec();
        if !self.is_public {
            all.push(401);
        }
        if !self.is_free {
            all.extend([429, 500]);
        }
        if self.permission.is_some() {
            all.push(403);
        }
        if self.works {
            all.extend([502, 503, 504]);
        }
        if !self.takes.is_empty() {
            all.extend([400, 408, 413]);
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Every operation, in the order of the document.
pub(super) fn operations() -> impl Iterator<Item = &'static Operation> {
    infer::OPERATIONS.iter().chain(models::OPERATIONS).chain(server::OPERATIONS)
}

/// The groups of operations, with their words.
pub(super) const TAGS: [(&str, &str); 6] = [
    (
        "Inference",
        "Run a model: the Open Inference Protocol v2 with Triton's extensions, and images as they are.",
    ),
    ("Models", "What models there are, what they take, what they have done."),
    ("Repository", "Load and unload models on every node that has them."),
    ("OpenAI", "The part of OpenAI's API that embedding models need."),
    ("JSON-RPC", "One table of methods over POST and WebSocket; QUIC serves the same."),
    ("Server", "Is it there, how is it, what does it say of itself."),
];
