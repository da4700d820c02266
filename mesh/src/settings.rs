//! The TLS settings of one mesh, made anew whenever the identity or those who answer joiners change.
//!
//! What is trusted is part of the settings, so each change takes new ones, with nothing kept from the old. They hold for
//! connections that begin from then on; those that stand look at each change by themselves.

use std::{
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use lineside_certs::{Credentials, Identity};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::{BindError, MeshConfig, endpoint, mesh::Inner};

/// How often the certificates for joiners are asked for again; they last for a day.
const JOIN_CERTIFICATES_EVERY: Duration = Duration::from_secs(3600);

/// With what connections are dialled.
pub(crate) struct Dialling {
    pub(crate) config: quinn::ClientConfig,
    /// Whose certificate is shown.
    pub(crate) own: Arc<Identity>,
}

impl Dialling {
    pub(crate) fn new(config: &MeshConfig, credentials: &Credentials) -> Result<Self, BindError> {
        let own = credentials.identity();
        Ok(Self { config: endpoint::client(config, &own, credentials.clock())?, own })
    }
}

impl Inner {
    /// Puts settings in force that are made of what holds now. Those before stay when that fails.
    pub(crate) fn make_settings(&self) {
        let _one_at_a_time = self.making_settings.lock().unwrap_or_else(PoisonError::into_inner);
        let (config, credentials) = (&self.around.config, &self.around.credentials);
        match Dialling::new(config, credentials) {
            Ok(dialling) => self.dialling.store(Arc::new(dialling)),
            Err(error) => {
                error!(%error, "the changed identity cannot be dialled with; going on with the old one");
            }
        }
        if config.listen.is_none() {
            return;
        }
        let enrolment = self.enrolment.borrow().clone();
        let joining = enrolment.map(|enrolment| enrolment.certificates());
        match endpoint::server(config, credentials, joining.as_ref()) {
            Ok(server) => self.endpoint.set_server_config(Some(server)),
            Err(error) => {
                error!(%error, "the changed identity cannot be shown; going on with the old one");
            }
        }
    }
}

/// Follows the credentials until the mesh closes or nobody holds it.
pub(crate) async fn follow(mesh: Weak<Inner>, mut changes: watch::Receiver<u64>, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            _ = changes.changed() => {}
            () = sleep(JOIN_CERTIFICATES_EVERY) => {}
        }
        let Some(inner) = mesh.upgrade() else { return };
        debug!("the TLS settings are made anew");
        inner.make_settings();
    }
}
