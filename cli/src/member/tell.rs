//! What a member tells: gossip its own changes, and the person who started it that it is there.

use std::{io::IsTerminal as _, sync::Arc, time::Duration};

use lineside_certs::{AUTHORITY_DIRECTORY, Identity, TOKEN_LIFETIME, Token};
use lineside_discovery::Discovery;
use lineside_node::{Node, Refused};
use lineside_wire::{MemberState, ModelInfo};
use tokio::time::sleep;

use super::{address::AddressFile, enter::Way, own::Own};
use crate::{
    config::{Config, Tls},
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
        own.set_loaded();
        loop {
            follow_epoch(&own, &discovery);
            sleep(EPOCH_EVERY).await;
        }
    };
    let mut changed = node.changed();
    let (mut told, mut seen) = (false, None);
    loop {
        // First: what the models are told to be must be at least as new.
        let is_ready = node.ready();
        let version = *changed.borrow_and_update();
        let is_new = seen.replace(version) != Some(version);
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
            own.set_loaded();
            models_loaded(&node.models(), &node.refused());
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

/// How this member came to be one.
pub(super) struct Start<'a> {
    pub(super) identity: &'a Identity,
    pub(super) way: Way,
    /// For a second machine, when a cluster was made.
    pub(super) token: Option<Token>,
}

/// Says that the member is up: a line for the log, what to do next for a person, and, when a cluster was made, one line
/// on stdout that makes another machine a member.
pub(super) fn up(
    start: &Start<'_>,
    own: &MemberState,
    file: &AddressFile,
    config: &Config,
    has_models: bool,
) {
    let Start { identity, way, token } = start;
    let made = *way == Way::Made;
    tracing::info!(
        node = %own.node,
        name = own.name,
        role = %own.role,
        cluster = %identity.cluster(),
        members = %own.address,
        http = file.http.map(tracing::field::display),
        https = file.http.filter(|_| config.gateway.tls != Tls::Off).map(tracing::field::display),
        grpc = file.grpc.or(file.http).map(tracing::field::display),
        version = own.software,
        made_cluster = made,
        "up"
    );
    if made {
        tracing::warn!(
            "no identity was here, so a new cluster was made: if this machine was to join another one, stop it, move \
             its data directory away and start it with a line from there (`lineside token create`)"
        );
    }
    if std::io::stderr().is_terminal() {
        output::note(greeting(start, own, file, config, has_models));
    }
    if let Some(token) = token {
        // Nobody may be reading stdout; the line is had again with a command.
        let _closed = output::data(format_args!("{}\n", line_to_paste(token, own, file)));
    }
}

/// What makes another machine a member.
fn line_to_paste(token: &Token, own: &MemberState, file: &AddressFile) -> String {
    let mut addresses: Vec<String> = file.reachable.iter().map(ToString::to_string).collect();
    if addresses.is_empty() {
        // Without a network: a second member on this machine can use it.
        addresses.push(own.address.to_string());
    }
    format!("lineside up --join {}", token.clone().at(addresses))
}

/// For the person who started it.
fn greeting(
    start: &Start<'_>,
    own: &MemberState,
    file: &AddressFile,
    config: &Config,
    has_models: bool,
) -> String {
    let Start { identity, way, token } = start;
    let mut text =
        format!("\n  Lineside {} · {} · cluster {}\n", own.software, own.name, identity.cluster().short());
    text.push_str(&format!("  members   {} (UDP)\n", own.address));
    text.push_str(&door_lines(file, config));
    if has_models {
        text.push_str(&format!("  models    {}\n", config.models_dir().display()));
    }
    let data = config.data_dir();
    text.push_str(&format!("  look      lineside members --data-dir {}\n", data.display()));
    if *way == Way::Made {
        text.push_str(&format!(
            "\n  A new cluster was made; its authority is in {}: keep a copy.\n",
            data.join(AUTHORITY_DIRECTORY).display(),
        ));
    }
    match token {
        Some(_) => text.push_str(&format!(
            "  For a second machine, paste the line below there, within {} minutes; it is good for one.\n  For each \
             further one, make another here: lineside token create --data-dir {}\n",
            TOKEN_LIFETIME.as_secs() / 60,
            data.display(),
        )),
        None if own.authority || *way == Way::Made => text.push_str(&format!(
            "  For each further machine, make a line here: lineside token create --data-dir {}\n",
            data.display(),
        )),
        None => {}
    }
    text
}

/// Where the door is, by each of its protocols.
fn door_lines(file: &AddressFile, config: &Config) -> String {
    let Some(http) = file.http else { return String::new() };
    let mut lines = String::new();
    let gateway = &config.gateway;
    if !gateway.tls_only {
        lines.push_str(&format!("  HTTP      http://{http}   try: curl http://{http}/health\n"));
    }
    match gateway.tls {
        Tls::Off => {}
        Tls::Files => lines.push_str(&format!("  HTTPS     https://{http}\n")),
        Tls::Cluster => lines.push_str(&format!(
            "  HTTPS     https://{http}   clients need the output of: lineside certs ca{}\n",
            config.data_dir_flag()
        )),
    }
    let more = file.grpc.map_or_else(String::new, |grpc| format!(" and {grpc}"));
    lines.push_str(&format!("  gRPC      {http}{more}\n"));
    lines
}

/// Tells a person what became of the models at the start; the log has a line from the loader for each.
fn models_loaded(models: &[ModelInfo], refused: &[Refused]) {
    if models.is_empty() {
        tracing::warn!("the model repository is empty: put <name>/1/model.onnx there");
    }
    if std::io::stderr().is_terminal() && !(models.is_empty() && refused.is_empty()) {
        output::note(models_table(models, refused));
    }
}

/// A row for each version, and for each thing in the repository that is none: nothing that somebody put there is passed
/// over in silence.
fn models_table(models: &[ModelInfo], refused: &[Refused]) -> Table {
    let mut table = Table::new(["MODEL", "VERSION", "STATE", "REASON"]);
    for ModelInfo { name, version, state, reason, .. } in models {
        let reason = reason.clone().unwrap_or_default();
        table.row([name.to_string(), version.to_string(), state.as_str().to_owned(), reason]);
    }
    for Refused { path, reason } in refused {
        table.row([path.display().to_string(), "-".to_owned(), "NO MODEL".to_owned(), reason.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_tells_of_every_model_and_of_what_is_none() {
        let info = |name: &str, state, reason: Option<&str>| ModelInfo {
            name: name.parse().expect("a name"),
            version: lineside_wire::ModelVersion(2),
            state,
            reason: reason.map(str::to_owned),
            inputs: Vec::new(),
            outputs: Vec::new(),
            slots: 1,
            tasks: Vec::new(),
            engine: None,
        };
        use lineside_wire::ModelState::{Ready, Unavailable};
        let models = [info("add", Ready, None), info("weld", Unavailable, Some("not an ONNX model"))];
        let refused = Refused { path: "a model.onnx".into(), reason: "it cannot name a model".to_owned() };
        let table = models_table(&models, &[refused]).to_string();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["MODEL", "VERSION", "STATE", "REASON"]);
        assert_eq!(lines[1], ["add", "2", "READY", "-"]);
        assert_eq!(lines[2], ["weld", "2", "UNAVAILABLE", "not", "an", "ONNX", "model"]);
        assert!(table.contains("a model.onnx") && table.contains("cannot name a model"), "{table}");
    }

    #[test]
    fn the_door_is_told_by_each_of_its_protocols() {
        let address = |text: &str| text.parse().expect("an address");
        let mut file = AddressFile {
            pid: 1,
            node: lineside_wire::NodeId::from_bytes([1; 16]),
            members: address("127.0.0.1:7443"),
            http: Some(address("127.0.0.1:8080")),
            grpc: None,
            reachable: Vec::new(),
        };
        let mut config = Config::default();
        let plain = door_lines(&file, &config);
        assert!(
            plain.contains("http://127.0.0.1:8080/health") && plain.contains("gRPC      127.0.0.1:8080\n")
        );
        assert!(!plain.contains("HTTPS"));
        config.gateway.tls = Tls::Cluster;
        config.gateway.tls_only = true;
        file.grpc = Some(address("127.0.0.1:8001"));
        let safe = door_lines(&file, &config);
        assert!(safe.contains("https://127.0.0.1:8080") && safe.contains("certs ca"), "{safe}");
        assert!(!safe.contains("http://") && safe.contains("and 127.0.0.1:8001"), "{safe}");
        file.http = None;
        assert_eq!(door_lines(&file, &config), "");
    }
}
