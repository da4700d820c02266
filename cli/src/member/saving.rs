//! Writing for the trust keeper, beside the network's thread: that one has calls to carry meanwhile.

use std::{path::PathBuf, sync::Arc, thread};

use lineside_certs::{Identity, IdentityError, Issued};
use tokio::sync::oneshot;

/// Writes a renewed certificate, if there is one, and the trust list.
pub(super) async fn save(
    directory: PathBuf,
    issued: Option<Arc<Issued>>,
    identity: Arc<Identity>,
) -> Result<(), String> {
    on_thread(move || {
        let write = || {
            if let Some(issued) = &issued {
                Identity::store_renewed(&directory, issued)?;
            }
            Identity::store_trust(&directory, identity.trust())
        };
        write().map_err(|error: IdentityError| error.to_string())
    })
    .await
}

/// Waits for the disk on a thread of its own.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (done, result) = oneshot::channel();
    let thread = thread::Builder::new().name("lineside-store".to_owned()).spawn(move || {
        let _nobody_waits = done.send(work());
    });
    thread.map_err(|error| error.to_string())?;
    result.await.unwrap_or_else(|_| Err("the thread that writes ended; see the log".to_owned()))
}
