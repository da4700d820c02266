//! The Open Inference Protocol's service: each method asks the cluster what the REST form asks it.

use std::sync::Arc;

use lineside_wire::{ChangeParams, Fault, FaultCode, StatisticsParams};
use tonic::{Request, Response, Status, Streaming};

use super::{
    generated::inference::{grpc_inference_service_server::GrpcInferenceService, *},
    models, request, status,
    stream::{self, Answers},
    visit::Visit,
};
use crate::{
    Change, Cluster,
    gate::Permission,
    oip::{self, EXTENSIONS, ModelMetadata, excerpt, invalid},
    rest::{self, IndexRow, LogSettings, ModelConfig, Outcome},
    shared::in_time,
};

/// The service for one call.
pub(super) struct Inference<C>(pub(super) Arc<Visit<C>>);

/// What a method gives.
type Answered<T> = Result<Response<T>, Status>;

/// What is not served, with the reason.
fn not_served<T>(why: &str) -> Answered<T> {
    Err(status::of_fault(Fault::new(FaultCode::MethodNotFound, why)))
}

const NO_SHARED_MEMORY: &str =
    "shared memory is not served: models run on other machines; send tensors in the message";

/// A version as a request gives it: empty is none.
fn named(version: &str) -> Option<&str> {
    (!version.is_empty()).then_some(version)
}

impl<C: Cluster> Inference<C> {
    async fn change(&self, change: Change, name: &str) -> Result<(), Status> {
        let visit = &self.0;
        let permission = match change {
            Change::Load => Permission::Load,
            Change::Unload => Permission::Unload,
        };
        visit.may(permission, Some(name))?;
        let (model, _) = request::target(name, "").map_err(status::of_fault)?;
        let params = ChangeParams { model, version: None, nodes: Vec::new() };
        let _place = visit.shared().enter(visit.client()).map_err(status::of_fault)?;
        let deadline = visit.change_deadline();
        let changed = in_time(deadline, visit.cluster().change(change, params, deadline)).await;
        let result = changed.map_err(status::of_fault)?;
        match rest::outcome(change, name, &result).map_err(status::of_fault)? {
            Outcome::Done => Ok(()),
            // It may have begun on some: another try does no harm, but will fail likewise until somebody looks.
            Outcome::Failed { error, executed } => Err(status::of_change(&error, executed)),
        }
    }
}

#[tonic::async_trait]
impl<C: Cluster> GrpcInferenceService for Inference<C> {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Answered<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Answered<ServerReadyResponse> {
        let ready = self.0.shared().ready(self.0.cluster()).is_ok();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answered<ModelReadyResponse> {
        let ModelReadyRequest { name, version } = request.into_inner();
        self.0.may(Permission::Models, Some(&name))?;
        let models = self.0.cluster().models();
        // Clients ask this of models that are still to come: that is no error.
        let found = oip::find(&models, &name, named(&version));
        let ready = found.is_ok_and(oip::takes_requests);
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(&self, _: Request<ServerMetadataRequest>) -> Answered<ServerMetadataResponse> {
        Ok(Response::new(ServerMetadataResponse {
            name: "lineside".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.iter().map(|extension| (*extension).to_owned()).collect(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Answered<ModelMetadataResponse> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        self.0.may(Permission::Models, Some(&name))?;
        let models = self.0.cluster().models();
        let model = oip::find(&models, &name, named(&version)).map_err(status::of_fault)?;
        let metadata = ModelMetadata::of(model, &models).map_err(status::of_fault)?;
        Ok(Response::new(models::metadata(&metadata)))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answered<ModelInferResponse> {
        self.0.infer(request.into_inner()).await
    }

    type ModelStreamInferStream = Answers;

    async fn model_stream_infer(&self, request: Request<Streaming<ModelInferRequest>>) -> Answered<Answers> {
        let (metadata, _, requests) = request.into_parts();
        Ok(Response::new(stream::open(Arc::clone(&self.0), metadata.into_headers(), requests)))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Answered<ModelConfigResponse> {
        let ModelConfigRequest { name, version } = request.into_inner();
        self.0.may(Permission::Models, Some(&name))?;
        let models = self.0.cluster().models();
        let model = oip::find(&models, &name, named(&version)).map_err(status::of_fault)?;
        Ok(Response::new(ModelConfigResponse { config: Some(models::config(ModelConfig::of(model))) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Answered<ModelStatisticsResponse> {
        let (visit, ModelStatisticsRequest { name, version }) = (&self.0, request.into_inner());
        let asked = (!name.is_empty()).then_some(name.as_str());
        visit.may(Permission::Statistics, asked)?;
        let mut params = StatisticsParams::default();
        if let Some(name) = asked {
            oip::find(&visit.cluster().models(), name, named(&version)).map_err(status::of_fault)?;
            let (model, version) = request::target(name, &version).map_err(status::of_fault)?;
            params = StatisticsParams { model: Some(model), version };
        }
        let _place = visit.shared().enter(visit.client()).map_err(status::of_fault)?;
        let deadline = visit.deadline();
        let counted = in_time(deadline, visit.cluster().statistics(params, deadline)).await;
        let counted = counted.map_err(status::of_fault)?;
        let is_seen = |model: &ModelStatistics| visit.may(Permission::Statistics, Some(&model.name)).is_ok();
        let model_stats = counted.models.into_iter().map(models::statistics).filter(is_seen).collect();
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Answered<RepositoryIndexResponse> {
        let (visit, models) = (&self.0, self.0.cluster().models());
        visit.may(Permission::Models, None)?;
        let is_seen = |row: &IndexRow<'_>| visit.may(Permission::Models, Some(row.name)).is_ok();
        let rows = rest::index(&models, request.get_ref().ready).filter(is_seen);
        let models = rows.map(|row| models::index_row(&row)).collect();
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Answered<RepositoryModelLoadResponse> {
        let RepositoryModelLoadRequest { model_name, parameters, .. } = request.into_inner();
        if let Some(name) = parameters.keys().next() {
            let text = "settings and files come from the nodes' repositories: a load takes no parameters";
            return Err(status::of_fault(invalid(format!("the parameter {:?}: {text}", excerpt(name)))));
        }
        self.change(Change::Load, &model_name).await?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Answered<RepositoryModelUnloadResponse> {
        // No model depends on another here, so `unload_dependents` has nothing to say.
        self.change(Change::Unload, &request.get_ref().model_name).await?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        _: Request<SystemSharedMemoryStatusRequest>,
    ) -> Answered<SystemSharedMemoryStatusResponse> {
        not_served(NO_SHARED_MEMORY)
    }

    async fn system_shared_memory_register(
        &self,
        _: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Answered<SystemSharedMemoryRegisterResponse> {
        not_served(NO_SHARED_MEMORY)
    }

    async fn system_shared_memory_unregister(
        &self,
        _: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Answered<SystemSharedMemoryUnregisterResponse> {
        not_served(NO_SHARED_MEMORY)
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<CudaSharedMemoryStatusRequest>,
    ) -> Answered<CudaSharedMemoryStatusResponse> {
        not_served(NO_SHARED_MEMORY)
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Answered<CudaSharedMemoryRegisterResponse> {
        not_served(NO_SHARED_MEMORY)
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Answered<CudaSharedMemoryUnregisterResponse> {
        not_served(NO_SHARED_MEMORY)
    }

    async fn trace_setting(&self, _: Request<TraceSettingRequest>) -> Answered<TraceSettingResponse> {
        not_served(
            "traces have no settings: send a W3C `traceparent` with a call, and it goes on to the node",
        )
    }

    async fn log_settings(&self, request: Request<LogSettingsRequest>) -> Answered<LogSettingsResponse> {
        let (visit, LogSettingsRequest { settings }) = (&self.0, request.into_inner());
        let Some(control) = visit.cluster().log() else {
            return not_served("the log of this gateway cannot be changed while it runs");
        };
        if !settings.is_empty() {
            visit.may(Permission::Logging, None)?;
            let change = models::log_change(settings).map_err(status::of_fault)?;
            let directives = change.apply(&control.level()).map_err(|why| status::of_fault(invalid(why)))?;
            control.set_level(&directives).map_err(|why| status::of_fault(invalid(why)))?;
        }
        let settings = models::log_settings(&LogSettings::of(&control.level()));
        Ok(Response::new(LogSettingsResponse { settings }))
    }
}
