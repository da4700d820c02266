//! Operations about the door itself.

use super::{JSON, Operation, TEXT};
use crate::gate::Permission;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("live", "Server", "live", &["/livez", "/v2/health/live"])
        .says("Whether the process answers", "Whatever the cluster does.")
        .free()
        .with(&["Verbose"])
        .gives(&[(JSON, "Live"), (TEXT, "Text")]),
    Operation::get("ready", "Server", "ready", &["/readyz", "/v2/health/ready"])
        .says("Whether new work is taken", "503 with the reason where it is not.")
        .free()
        .with(&["Verbose", "Exclude"])
        .gives(&[(JSON, "Ready"), (TEXT, "Text")])
        .refuses(&[503]),
    Operation::get("health", "Server", "health", &["/health"])
        .says("Both, with the reason and every check", "")
        .free()
        .gives(&[(JSON, "Health")])
        .refuses(&[503]),
    Operation::get("metrics", "Server", "metrics", &["/metrics"])
        .says("Metrics", "In the text form of OpenMetrics, as Prometheus reads it.")
        .free()
        .gives(&[("application/openmetrics-text", "Text")]),
    Operation::get("server_metadata", "Server", "serverMetadata", &["/v2"])
        .says("Name, version, extensions", "")
        .gives(&[(JSON, "ServerMetadata")]),
    Operation::get("logging", "Server", "logSettings", &["/v2/logging"])
        .says("What is logged", "")
        .gives(&[(JSON, "LogSettings")])
        .refuses(&[501]),
    Operation::post("logging", "Server", "changeLogSettings", &["/v2/logging"])
        .says("Change what is logged", "At this door, until it ends. Needs a key as loading models does.")
        .needs(Permission::Logging)
        .may_take(&[(JSON, "LogSettings")])
        .gives(&[(JSON, "LogSettings")])
        .refuses(&[501]),
    Operation::get("openapi", "Server", "openapi", &["/openapi.json"])
        .says("This document", "No key is asked for, whatever `gateway.keys` says.")
        .public()
        .gives(&[(JSON, "Document")]),
    Operation::get("docs", "Server", "docs", &["/docs", "/"])
        .says("The page that shows it", "No key is asked for, whatever `gateway.keys` says.")
        .public()
        .gives(&[("text/html", "Text")]),
];
