//! Operations about models: what there is, and changes of it.

use super::{JSON, Operation};
use crate::gate::Permission;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::get("model_metadata", "Models", "modelMetadata", &[
        "/v2/models/{model}",
        "/v2/models/{model}/versions/{version}",
    ])
    .says("What a model takes and gives", "-1 in a shape is a dimension that varies.")
    .needs(Permission::Models)
    .gives(&[(JSON, "ModelMetadata")])
    .refuses(&[404, 503]),
    Operation::get("model_ready", "Models", "modelReady", &[
        "/v2/models/{model}/ready",
        "/v2/models/{model}/versions/{version}/ready",
    ])
    .says("Whether a model serves", "200 when at least one node serves it, 503 with the reason when none does.")
    .needs(Permission::Models)
    .gives(&[(JSON, "ModelReady")])
    .refuses(&[404, 503]),
    Operation::get("model_config", "Models", "modelConfig", &[
        "/v2/models/{model}/config",
        "/v2/models/{model}/versions/{version}/config",
    ])
    .says("How a model is served", "In the form of Triton's model configuration.")
    .needs(Permission::Models)
    .gives(&[(JSON, "ModelConfig")])
    .refuses(&[404, 503]),
    Operation::get("statistics", "Models", "statistics", &[
        "/v2/models/stats",
        "/v2/models/{model}/stats",
        "/v2/models/{model}/versions/{version}/stats",
    ])
    .says("What models have done", "The sum over the nodes that answer in time, since each of them started.")
    .needs(Permission::Statistics)
    .gives(&[(JSON, "Statistics")])
    .refuses(&[404, 503, 504]),
    Operation::post("repository_index", "Repository", "repositoryIndex", &[
        "/v2/repository/index",
        "/v2/repository/{repository}/index",
    ])
    .says("All models and versions", "There is one repository: its name in the path is passed over.")
    .needs(Permission::Models)
    .may_take(&[(JSON, "IndexRequest")])
    .gives(&[(JSON, "Index")]),
    Operation::post("repository_load", "Repository", "repositoryLoad", &[
        "/v2/repository/models/{model}/load",
        "/v2/repository/{repository}/models/{model}/load",
    ])
    .says(
        "Load a model",
        "On every node that has it in its repository. The answer says what became of it on each. Needs a key with that \
         permission unless the setting `model_control` says otherwise.",
    )
    .needs(Permission::Load)
    .may_take(&[(JSON, "ChangeRequest")])
    .gives(&[(JSON, "Change")])
    .refuses(&[404, 503, 504]),
    Operation::post("repository_unload", "Repository", "repositoryUnload", &[
        "/v2/repository/models/{model}/unload",
        "/v2/repository/{repository}/models/{model}/unload",
    ])
    .says("Unload a model", "On every node; what runs is finished. Needs a key as loading does.")
    .needs(Permission::Unload)
    .may_take(&[(JSON, "ChangeRequest")])
    .gives(&[(JSON, "Change")])
    .refuses(&[404, 503, 504]),
];
