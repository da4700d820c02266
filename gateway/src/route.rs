//! Which path asks for what. Pure.

use std::borrow::Cow;

use http::Method;

use crate::errors::Refusal;

/// Everything the door can be asked over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `/livez`, `/v2/health/live`: the process answers, whatever the cluster does.
    Live,
    /// `/readyz`, `/v2/health/ready`: new work is taken.
    Ready,
    /// `/health`: both, with the reason.
    Health,
    /// `/metrics`.
    Metrics,
    /// `/v2`.
    Server,
    /// `/v2/models/{model}[/versions/{version}]`.
    Model(Target<'a>),
    /// The same with `/ready`.
    ModelReady(Target<'a>),
    /// The same with `/infer`.
    Infer(Target<'a>),
    /// `/rpc`.
    Rpc,
}

/// A model as a path names it; not yet known to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) model: Cow<'a, str>,
    pub(crate) version: Option<Cow<'a, str>>,
}

/// The label of requests that no route takes.
pub(crate) const NO_ROUTE: &str = "none";

impl Route<'_> {
    /// Every label that [`Route::label`] gives, and [`NO_ROUTE`].
    pub(crate) const LABELS: [&'static str; 10] = [
        "infer",
        "rpc",
        "live",
        "ready",
        "health",
        "metrics",
        "server_metadata",
        "model_metadata",
        "model_ready",
        NO_ROUTE,
    ];
}

impl<'a> Route<'a> {
    /// The route for a method and path. A slash at the end changes nothing.
    pub(crate) fn find(method: &Method, path: &'a str) -> Result<Self, Refusal> {
        let route = Self::at(path).ok_or_else(|| {
            let status = http::StatusCode::NOT_FOUND;
            Refusal::new(status, "NOT_FOUND", "there is nothing at this path; GET /v2 tells what is served")
        })?;
        let allowed = match &route {
            Self::Infer(_) | Self::Rpc => method == Method::POST,
            Self::Live
            | Self::Ready
            | Self::Health
            | Self::Metrics
            | Self::Server
            | Self::Model(_)
            | Self::ModelReady(_) => method == Method::GET || method == Method::HEAD,
        };
        match (allowed, &route) {
            (true, _) => Ok(route),
            (false, Self::Infer(_) | Self::Rpc) => Err(Refusal::wrong_method("POST")),
            (false, _) => Err(Refusal::wrong_method("GET, HEAD")),
        }
    }

    fn at(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut parts = path.split('/');
        // The longest route has seven parts at most: what follows cannot match and is not looked at.
        let mut next = || parts.next();
        let route = match (next()?, next(), next(), next(), next(), next()) {
            ("livez", None, ..) | ("v2", Some("health"), Some("live"), None, ..) => Self::Live,
            ("readyz", None, ..) | ("v2", Some("health"), Some("ready"), None, ..) => Self::Ready,
            ("health", None, ..) => Self::Health,
            ("metrics", None, ..) => Self::Metrics,
            ("rpc", None, ..) => Self::Rpc,
            ("v2", None, ..) => Self::Server,
            ("v2", Some("models"), Some(model), Some("versions"), Some(version), action) => {
                let target = Target { model: decoded(model), version: Some(decoded(version)) };
                return (parts.next().is_none()).then(|| Self::on_model(target, action))?;
            }
            ("v2", Some("models"), Some(model), action, None, ..) => {
                return Self::on_model(Target { model: decoded(model), version: None }, action);
            }
            _ => return None,
        };
        Some(route)
    }

    fn on_model(target: Target<'a>, action: Option<&str>) -> Option<Self> {
        match action {
            None => Some(Self::Model(target)),
            Some("ready") => Some(Self::ModelReady(target)),
            Some("infer") => Some(Self::Infer(target)),
            Some(_) => None,
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
            Self::Infer(_) => "infer",
            Self::Rpc => "rpc",
        }
    }

    /// Whether limits pass it by: a full door must still be able to say that it is full.
    pub(crate) const fn is_free(&self) -> bool {
        match self {
            Self::Live | Self::Ready | Self::Health | Self::Metrics => true,
            Self::Server | Self::Model(_) | Self::ModelReady(_) | Self::Infer(_) | Self::Rpc => false,
        }
    }
}

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
            "/",
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
