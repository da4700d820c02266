//! Operations that make a model run.

use super::{BINARY, EVENTS, FORM, JSON, Operation, TEXT};
use crate::gate::Permission;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::post("infer", "Inference", "infer", &[
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}/infer",
    ])
    .says(
        "Run a model on tensors",
        "Tensors are JSON, or raw little-endian bytes behind the JSON (the binary tensor data extension; the header \
         Inference-Header-Content-Length then says how long the JSON is). With that header at 0 the whole body is the \
         bytes of the only input. FP16 and BF16 travel as bytes only. Without `outputs` all of them come back.",
    )
    .needs(Permission::Infer)
    .works()
    .with(&["InferenceHeaderContentLength"])
    .takes(&[(JSON, "InferRequest"), (BINARY, "Binary")])
    .gives(&[(JSON, "InferResponse"), (BINARY, "Binary")])
    .refuses(&[404, 415]),
    Operation::post("predict", "Inference", "predict", &[
        "/v2/models/{model}/predict",
        "/v2/models/{model}/versions/{version}/predict",
    ])
    .says(
        "Image in, labels out",
        "The body is a JPEG or PNG file as it is, or a form with one. What becomes of the image and of what the model \
         gives stands in the model's model.toml. With `?verdict` or `Accept: text/plain` the answer is the verdict alone, \
         one word such as OK or NOK and the end of the line: \
         `curl --data-binary @part.jpg 'http://HOST:8080/v2/models/MODEL/predict?verdict'`.",
    )
    .needs(Permission::Infer)
    .works()
    .with(&["TopK", "Threshold", "Verdict"])
    .takes(&[("image/jpeg", "Binary"), ("image/png", "Binary"), (BINARY, "Binary"), (FORM, "PredictForm")])
    .gives(&[(JSON, "Prediction"), (TEXT, "VerdictWord")])
    .refuses(&[404, 415]),
    Operation::post("generate", "Inference", "generate", &[
        "/v2/models/{model}/generate",
        "/v2/models/{model}/versions/{version}/generate",
    ])
    .says(
        "Run a model on fields",
        "The inputs are fields of one object, by their names, and so are the outputs: the shortest form for a model of \
         texts or of a few numbers. Tensors without a form in JSON need infer.",
    )
    .needs(Permission::Infer)
    .works()
    .takes(&[(JSON, "GenerateRequest")])
    .gives(&[(JSON, "GenerateResponse")])
    .refuses(&[404]),
    Operation::post("generate_stream", "Inference", "generateStream", &[
        "/v2/models/{model}/generate_stream",
        "/v2/models/{model}/versions/{version}/generate_stream",
    ])
    .says(
        "The same, as events",
        "One event `data: {...}` for each answer, in the form of generate. An error after the first comes as \
         `data: {\"error\": ...}`.",
    )
    .needs(Permission::Infer)
    .works()
    .takes(&[(JSON, "GenerateRequest")])
    .gives(&[(EVENTS, "GenerateEvents")])
    .refuses(&[404]),
    Operation::post("embeddings", "OpenAI", "createEmbedding", &["/v1/embeddings"])
        .says(
            "Texts to vectors",
            "For models whose model.toml says how a text becomes their input. Members that are not named here are passed \
             over. Each item of `input` counts as a call under the limits.",
        )
        .needs(Permission::Infer)
        .works()
        .takes(&[(JSON, "EmbeddingsRequest")])
        .gives(&[(JSON, "EmbeddingsResponse")])
        .refuses(&[404]),
    Operation::get("openai_models", "OpenAI", "listModels", &["/v1/models"])
        .says("All models by name", "Each once, however many versions of it there are.")
        .needs(Permission::Models)
        .gives(&[(JSON, "OpenAiModels")]),
    Operation::get("openai_model", "OpenAI", "retrieveModel", &["/v1/models/{model}"])
        .says("One model", "")
        .needs(Permission::Models)
        .gives(&[(JSON, "OpenAiModel")])
        .refuses(&[404]),
    Operation::post("rpc", "JSON-RPC", "rpc", &["/rpc"])
        .says(
            "Calls by JSON-RPC 2.0",
            "One call or a batch. Errors of calls come with status 200, in the member `error`; `rpc.discover` describes \
             the methods. Each call needs the permission of its method. A batch is charged per entry.",
        )
        .works()
        .takes(&[(JSON, "RpcRequest")])
        .gives(&[(JSON, "RpcResponse")])
        .also(&[(204, "There were only notifications: nothing is answered.")]),
    Operation::get("rpc_socket", "JSON-RPC", "rpcSocket", &["/rpc/ws"])
        .says(
            "Calls by JSON-RPC 2.0 over a WebSocket",
            "The same methods, answered as they finish, with `$/cancelRequest` and streamed results.",
        )
        .also(&[(101, "The connection is a WebSocket from here on.")])
        .refuses(&[400, 503]),
];
