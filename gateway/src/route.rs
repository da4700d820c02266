//! Which path asks for what. Pure.

use std::borrow::Cow;

use http::Method;

use crate::{errors::Refusal, gate::Permission};

/// Everything the door can be asked over HTTP/1.1 and HTTP/2; gRPC has paths of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `/livez`, `/v2/health/live`: the process answers, whatever the cluster does.
    Live,
    /// `/readyz`, `/v2/health/ready`: new work is taken; check by check with `?verbose`.
    Ready,
    /// `/health`: both, with the reason and every check.
    Health,
    /// `/metrics`.
    Metrics,
    /// `/v2`.
    Server,
    /// `/v2/models/{model}[/versions/{version}]`.
    Model(Target<'a>),
    /// The same with `/ready`.
    ModelReady(Target<'a>),
    /// The same with `/config`.
    ModelConfig(Target<'a>),
    /// The same with `/stats`; without a model all of them, at `/v2/models/stats`.
    Statistics(Option<Target<'a>>),
    /// `/v2/models/{model}[/versions/{version}]/infer`.
    Infer(Target<'a>),
    /// The same with `/predict`: an image in, labels out.
    Predict(Target<'a>),
    /// The same with `/generate`.
    Generate(Target<'a>),
    /// The same with `/generate_stream`.
    GenerateStream(Target<'a>),
    /// `/v2/repository[/{repository}]/index`.
    RepositoryIndex,
    /// `/v2/repository[/{repository}]/models/{model}/load`.
    RepositoryLoad(Cow<'a, str>),
    /// The same with `/unload`.
    RepositoryUnload(Cow<'a, str>),
    /// `/v2/logging`.
    Logging,
    /// `/v1/models`.
    OpenAiModels,
    /// `/v1/models/{model}`.
    OpenAiModel(Cow<'a, str>),
    /// `/v1/embeddings`.
    Embeddings,
    /// `/rpc`.
    Rpc,
    /// `/rpc/ws`.
    RpcSocket,
    /// `/openapi.json`.
    OpenApi,
    /// `/docs`.
    Docs,
}

/// A model as a path names it; not yet known to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) model: Cow<'a, str>,
    pub(crate) version: Option<Cow<'a, str>>,
}

/// The label of requests that no route takes.
pub(crate) const NO_ROUTE: &str = "none";

/// The label of gRPC calls.
pub(crate) const GRPC: &str = "grpc";

impl Route<'_> {
    /// Every label that [`Route::label`] gives, [`GRPC`] and [`NO_ROUTE`].
    pub(crate) const LABELS: [&'static str; 26] = [
        "infer",
        "rpc",
        "live",
        "ready",
        "health",
        "metrics",
        "server_metadata",
        "model_metadata",
        "model_ready",
        "model_config",
        "statistics",
        "predict",
        "generate",
        "generate_stream",
        "repository_index",
        "repository_load",
        "repository_unload",
        "logging",
        "openai_models",
        "openai_model",
        "embeddings",
        "rpc_socket",
        "openapi",
        "docs",
        GRPC,
        NO_ROUTE,
    ];
}

impl<'a> Route<'a> {
    /// The route for a method and path. A slash at the end changes nothing.
    pub(crate) fn find(method: &Method, path: &'a str) -> Result<Self, Refusal> {
        let route = Self::at(path).ok_or_else(|| {
            let status = http::StatusCode::NOT_FOUND;
            Refusal::new(status, "NOT_FOUND", "there is nothing at this path; GET /docs tells what is served")
        })?;
        match route.methods() {
            (allowed, _) if allowed.contains(method) => Ok(route),
            (_, allow) => Err(Refusal::wrong_method(allow)),
        }
    }

    /// The methods that it takes, and the same for `Allow`.
    const fn methods(&self) -> (&'static [Method], &'static str) {
        match self {
            Self::Infer(_)
            | Self::Predict(_)
            | Self::Generate(_)
            | Self::GenerateStream(_)
            | Self::RepositoryIndex
            | Self::RepositoryLoad(_)
            | Self::RepositoryUnload(_)
            | Self::Embeddings
            | Self::Rpc => (&[Method::POST], "POST"),
            Self::Logging => (&[Method::GET, Method::HEAD, Method::POST], "GET, HEAD, POST"),
            Self::RpcSocket => (&[Method::GET], "GET"),
            Self::Live
            | Self::Ready
            | Self::Health
            | Self::Metrics
            | Self::Server
            | Self::Model(_)
            | Self::ModelReady(_)
            | Self::ModelConfig(_)
            | Self::Statistics(_)
            | Self::OpenAiModels
            | Self::OpenAiModel(_)
            | Self::OpenApi
            | Self::Docs => (&[Method::GET, Method::HEAD], "GET, HEAD"),
        }
    }

    fn at(path: &'a str) -> Option<Self> {
        let whole = path.strip_prefix('/')?;
        let path = whole.strip_suffix('/').unwrap_or(whole);
        // What has more parts than the longest route is none.
        let mut parts = [""; PARTS_MAX];
        let mut count = 0;
        for part in path.split('/') {
            *parts.get_mut(count)? = part;
            count += 1;
        }
        match &parts[..count] {
            ["livez"] | ["v2", "health", "live"] => Some(Self::Live),
            ["readyz"] | ["v2", "health", "ready"] => Some(Self::Ready),
            ["health"] => Some(Self::Health),
            ["metrics"] => Some(Self::Metrics),
            ["v2"] => Some(Self::Server),
            ["v2", "models", "stats"] => Some(Self::Statistics(None)),
            ["v2", "models", model] => Self::on_model(model, None, None),
            ["v2", "models", model, "versions", version] => Self::on_model(model, Some(version), None),
            ["v2", "models", model, "versions", version, action] => {
                Self::on_model(model, Some(version), Some(action))
            }
            ["v2", "models", model, action] => Self::on_model(model, None, Some(action)),
            ["v2", "repository", rest @ ..] => Self::in_repository(rest),
            ["v2", "logging"] => Some(Self::Logging),
            ["v1", "models"] => Some(Self::OpenAiModels),
            ["v1", "models", model] => Some(Self::OpenAiModel(decoded(model))),
            ["v1", "embeddings"] => Some(Self::Embeddings),
            ["rpc"] => Some(Self::Rpc),
            ["rpc", "ws"] => Some(Self::RpcSocket),
            ["openapi.json"] => Some(Self::OpenApi),
            ["docs"] => Some(Self::Docs),
            [""] if whole.is_empty() => Some(Self::Docs),
            _ => None,
        }
    }

    fn on_model(model: &'a str, version: Option<&'a str>, action: Option<&str>) -> Option<Self> {
        let target = Target { model: decoded(model), version: version.map(decoded) };
        Some(match action {
            None => Self::Model(target),
            Some("ready") => Self::ModelReady(target),
            Some("config") => Self::ModelConfig(target),
            Some("stats") => Self::Statistics(Some(target)),
            Some("infer") => Self::Infer(target),
            Some("predict") => Self::Predict(target),
            Some("generate") => Self::Generate(target),
            Some("generate_stream") => Self::GenerateStream(target),
            Some(_) => return None,
        })
    }

    /// There is one repository, whatever clients call it: a name before the rest is passed over.
    fn in_repository(rest: &[&'a str]) -> Option<Self> {
        match rest {
            ["index"] | [_, "index"] => Some(Self::RepositoryIndex),
            ["models", model, "load"] | [_, "models", model, "load"] => {
                Some(Self::RepositoryLoad(decoded(model)))
            }
            ["models", model, "unload"] | [_, "models", model, "unload"] => {
                Some(Self::RepositoryUnload(decoded(model)))
            }
            _ => None,
        }
    }

    /// The label in metrics: a closed set, whatever paths are asked for.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Server => "server_metadata",
            Self::Model(_) => "model_metadata",
            Self::ModelReady(_) => "model_ready",
            Self::ModelConfig(_) => "model_config",
            Self::Statistics(_) => "statistics",
            Self::Infer(_) => "infer",
            Self::Predict(_) => "predict",
            Self::Generate(_) => "generate",
            Self::GenerateStream(_) => "generate_stream",
            Self::RepositoryIndex => "repository_index",
            Self::RepositoryLoad(_) => "repository_load",
            Self::RepositoryUnload(_) => "repository_unload",
            Self::Logging => "logging",
            Self::OpenAiModels => "openai_models",
            Self::OpenAiModel(_) => "openai_model",
            Self::Embeddings => "embeddings",
            Self::Rpc => "rpc",
            Self::RpcSocket => "rpc_socket",
            Self::OpenApi => "openapi",
            Self::Docs => "docs",
        }
    }

    /// Whether limits pass it by: a full door must still be able to say that it is full.
    pub(crate) const fn is_free(&self) -> bool {
        matches!(self, Self::Live | Self::Ready | Self::Health | Self::Metrics)
    }

    /// Whether nobody is asked for a key: it is the same for every cluster, and says how to send one.
    pub(crate) const fn is_public(&self) -> bool {
        matches!(self, Self::OpenApi | Self::Docs)
    }

    /// What its caller must be allowed; `None` where what is asked for says it, or anybody may.
    pub(crate) const fn permission(&self) -> Option<Permission> {
        match self {
            Self::Infer(_) | Self::Predict(_) | Self::Generate(_) | Self::GenerateStream(_) => {
                Some(Permission::Infer)
            }
            Self::Model(_)
            | Self::ModelReady(_)
            | Self::ModelConfig(_)
            | Self::RepositoryIndex
            | Self::OpenAiModels
            | Self::OpenAiModel(_) => Some(Permission::Models),
            Self::Statistics(_) => Some(Permission::Statistics),
            Self::RepositoryLoad(_) => Some(Permission::Load),
            Self::RepositoryUnload(_) => Some(Permission::Unload),
            Self::Live
            | Self::Ready
            | Self::Health
            | Self::Metrics
            | Self::Server
            | Self::Logging
            | Self::Embeddings
            | Self::Rpc
            | Self::RpcSocket
            | Self::OpenApi
            | Self::Docs => None,
        }
    }

    /// Whether a request makes the door or the cluster do something: looking on is left to browsers, which show no
    /// page what another host has answered.
    pub(crate) fn works(&self, method: &Method) -> bool {
        *method == Method::POST || matches!(self, Self::RpcSocket)
    }

    /// The model that its path names.
    pub(crate) fn model(&self) -> Option<&str> {
        match self {
            Self::Model(target)
            | Self::ModelReady(target)
            | Self::ModelConfig(target)
            | Self::Statistics(Some(target))
            | Self::Infer(target)
            | Self::Predict(target)
            | Self::Generate(target)
            | Self::GenerateStream(target) => Some(&target.model),
            Self::RepositoryLoad(model) | Self::RepositoryUnload(model) | Self::OpenAiModel(model) => {
                Some(model)
            }
            Self::Live
            | Self::Ready
            | Self::Health
            | Self::Metrics
            | Self::Server
            | Self::Statistics(None)
            | Self::RepositoryIndex
            | Self::Logging
            | Self::OpenAiModels
            | Self::Embeddings
            | Self::Rpc
            | Self::RpcSocket
            | Self::OpenApi
            | Self::Docs => None,
        }
    }
}

/// Parts of the longest path: `/v2/repository/{repository}/models/{model}/unload`.
const PARTS_MAX: usize = 6;

/// A path segment without its percent signs. What does not decode stays as it is: it names no model.
fn decoded(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, after @ ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| (h << 4 | l, after)),
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((*first, tail));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(segment), Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn target<'a>(model: &'a str, version: Option<&'a str>) -> Target<'a> {
        Target { model: model.into(), version: version.map(Into::into) }
    }

    #[test]
    fn each_path_leads_where_it_should_with_and_without_a_slash_at_the_end() {
        let expected = [
            ("/livez", Route::Live),
            ("/v2/health/live", Route::Live),
            ("/readyz", Route::Ready),
            ("/v2/health/ready", Route::Ready),
            ("/health", Route::Health),
            ("/metrics", Route::Metrics),
            ("/v2", Route::Server),
            ("/v2/models/add", Route::Model(target("add", None))),
            ("/v2/models/add/ready", Route::ModelReady(target("add", None))),
            ("/v2/models/add/versions/3", Route::Model(target("add", Some("3")))),
            ("/v2/models/add/versions/3/ready", Route::ModelReady(target("add", Some("3")))),
            ("/v2/models/a%64d", Route::Model(target("add", None))),
            ("/v2/models/add/config", Route::ModelConfig(target("add", None))),
            ("/v2/models/stats", Route::Statistics(None)),
            ("/v2/models/add/versions/3/stats", Route::Statistics(Some(target("add", Some("3"))))),
            ("/v2/logging", Route::Logging),
            ("/v1/models", Route::OpenAiModels),
            ("/v1/models/add", Route::OpenAiModel("add".into())),
            ("/rpc/ws", Route::RpcSocket),
            ("/openapi.json", Route::OpenApi),
            ("/docs", Route::Docs),
        ];
        for (path, route) in expected {
            assert_eq!(Route::find(&Method::GET, path).ok().as_ref(), Some(&route), "{path}");
            let slashed = format!("{path}/");
            assert_eq!(Route::find(&Method::GET, &slashed).ok(), Some(route), "{slashed}");
        }
        let infer = Route::find(&Method::POST, "/v2/models/add/versions/3/infer").ok();
        assert_eq!(infer, Some(Route::Infer(target("add", Some("3")))));
        assert_eq!(Route::find(&Method::POST, "/rpc/").ok(), Some(Route::Rpc));
    }

    #[test]
    fn every_label_is_one_of_those_that_are_counted() {
        for path in
            ["/livez", "/readyz", "/health", "/metrics", "/v2", "/v2/models/add", "/v2/models/add/ready"]
        {
            let route = Route::find(&Method::GET, path).expect("a route");
            assert!(Route::LABELS.contains(&route.label()), "{path}");
        }
        for path in ["/rpc", "/v2/models/add/infer"] {
            let route = Route::find(&Method::POST, path).expect("a route");
            assert!(Route::LABELS.contains(&route.label()), "{path}");
        }
    }

    #[test]
    fn a_path_that_is_nearly_right_is_not_taken() {
        for path in [
            "",
            "*",
            "//",
            "/v3",
            "/v2/health",
            "/v2/models",
            "/v2/models/add/versions",
            "/v2/models/add/infer/now",
            "/v2/models/add/versions/3/infer/now",
            "/v2/models/add/versions/3/infer/now/then",
            "/metrics/x",
        ] {
            let status = Route::find(&Method::GET, path).err().map(|refusal| refusal.status);
            assert_eq!(status, Some(StatusCode::NOT_FOUND), "{path}");
        }
    }

    #[test]
    fn the_wrong_method_is_told_the_right_one() {
        let refusal = Route::find(&Method::GET, "/rpc").unwrap_err();
        assert_eq!((refusal.status, refusal.allow), (StatusCode::METHOD_NOT_ALLOWED, Some("POST")));
        let refusal = Route::find(&Method::POST, "/v2").unwrap_err();
        assert_eq!(refusal.allow, Some("GET, HEAD"));
    }
}
