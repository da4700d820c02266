//! What a member tells: gossip its own changes, and the person who started it that it is there.

use std::{io::IsTerminal as _, sync::Arc, time::Duration};

use lineside_certs::{AUTHORITY_DIRECTORY, Identity};
use lineside_discovery::Discovery;
use lineside_node::Node;
use lineside_wire::{MemberState, ModelInfo};
use tokio::time::sleep;

use super::{address::AddressFile, own::Own};
use crate::{
    config::Config,
    output::{self, Table},
};

/// How often gossip is told a load that changed; answers carry it too, at once.
const LOAD_EVERY: Duration = Duration::from_millis(100);

/// How often a door looks whether it has a new life.
const EPOCH_EVERY: Duration = Duration::from_millis(100);

/// Keeps what this process says of itself true, until it is aborted.
pub(crate) async fn own_changes(own: Arc<Own>, node: Option<Node>, discovery: Discovery) -> &'static str {
    let Some(node) = node else {
        // A door by itself has no models and no load of its own.
        loop {
            follow_epoch(&own, &discovery);
            sleep(EPOCH_EVERY).await;
        }
    };
    let mut changed = node.changed();
    let (mut told, mut seen) = (false, None);
    loop {
        let version = *changed.borrow_and_update();
        let is_new = seen.replace(version) != Some(version);
        let is_ready = node.ready();
        let next = own.change(|state| {
            state.epoch = discovery.epoch();
            state.load = node.load();
            if is_new {
                state.models = node.models();
            }
        });
        if let Some(state) = next {
            discovery.own(state);
        }
        if is_ready && !told {
            told = true;
            models_loaded(&node.models());
        }
        tokio::select! {
            () = sleep(LOAD_EVERY) => {}
            Ok(()) = changed.changed() => {}
        }
    }
}

/// Others may force a new life on this member, by taking it for dead: what it says of itself must be of that life.
fn follow_epoch(own: &Own, discovery: &Discovery) {
    if let Some(state) = own.change(|state| state.epoch = discovery.epoch()) {
        discovery.own(state);
    }
}

/// Says that the member is up: a line for the log, and what to do next for a person.
pub(crate) fn up(
    identity: &Identity,
    made: bool,
    own: &MemberState,
    file: &AddressFile,
    config: &Config,
    has_models: bool,
) {
    tracing::info!(
        node = %own.node,
        name = own.name,
        role = %own.role,
        cluster = %identity.cluster(),
        members = %own.address,
        http = file.http.map(tracing::field::display),
        version = own.software,
        made_cluster = made,
        "up"
    );
    if made {
        tracing::warn!(
            "no identity was here, so a new cluster was made: a machine of another cluster needs an identity from it \
             (`lineside certs issue` there), in an empty data directory"
        );
    }
    if !std::io::stderr().is_terminal() {
        return;
    }
    let mut text =
        format!("\n  Lineside {} · {} · cluster {}\n", own.software, own.name, identity.cluster().short());
    text.push_str(&format!("  members   {} (UDP)\n", own.address));
    if let Some(http) = file.http {
        text.push_str(&format!("  HTTP      http://{http}   try: curl http://{http}/health\n"));
    }
    if has_models {
        text.push_str(&format!("  models    {}\n", config.models_dir().display()));
    }
    let data = config.data_dir();
    text.push_str(&format!("  look      lineside members --data-dir {}\n", data.display()));
    if made {
        text.push_str(&format!(
            "\n  A new cluster was made; its authority is in {}: keep a copy.\n  For each further machine, here: \
             lineside certs issue --data-dir {} --role node --name NAME --out DIR\n  then copy DIR to its \
             <data directory>/identity and start `lineside up` there.\n",
            data.join(AUTHORITY_DIRECTORY).display(),
            data.display(),
        ));
    }
    output::note(text);
}

/// Tells a person what became of the models at the start; the log has a line from the loader for each.
fn models_loaded(models: &[ModelInfo]) {
    if models.is_empty() {
        tracing::warn!("the model repository is empty: put <name>/1/model.onnx there and load it");
    }
    if std::io::stderr().is_terminal() && !models.is_empty() {
        let mut table = Table::new(["MODEL", "VERSION", "STATUS"]);
        for ModelInfo { name, version, state, reason, .. } in models {
            let status = reason
                .as_ref()
                .map_or_else(|| state.as_str().to_owned(), |reason| format!("{}: {reason}", state.as_str()));
            table.row([name.to_string(), version.to_string(), status]);
        }
        output::note(table);
    }
}
