//! HTTPS: with and without a certificate of the client's, and its end.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lineside_certs::{Authority, Clock, Identity, Revoke, Subject, Trust, server_name_of, web_provider};
use lineside_gateway::{GatewayConfig, WebTls, WebTlsError};
use lineside_wire::Role;
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    caller::Caller,
    gate::{Gate, PATIENCE, config, eventually, impatient},
    h2::Session,
};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// A cluster's authority, the door's certificate, and those of its clients.
struct Office {
    home: TempDir,
    authority: Authority,
    door: Identity,
}

impl Office {
    fn open() -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
        let door = issue(&home, &authority, Role::Gateway, "door");
        Self { home, authority, door }
    }

    fn member(&self, role: Role, name: &str) -> Identity {
        issue(&self.home, &self.authority, role, name)
    }

    fn pair(&self, name: &str) -> (PathBuf, PathBuf) {
        let directory = self.home.path().join(name);
        (directory.join("cert.pem"), directory.join("key.pem"))
    }

    fn trust(&self) -> Trust {
        Trust::own(&self.authority.trust().unwrap()).unwrap()
    }

    fn web(&self, takes_clients: bool) -> WebTls {
        let (chain, key) = self.pair("door");
        let (chain, key) = WebTls::read(&chain, &key).unwrap();
        let (trust, clock) = (self.trust(), Clock::system());
        WebTls::new(chain, key, takes_clients.then_some((&trust, &clock))).unwrap()
    }

    fn replace(&self, tls: &WebTls) {
        let (chain, key) = self.pair("door");
        let (chain, key) = WebTls::read(&chain, &key).unwrap();
        tls.replace(chain, key, Some((&self.trust(), &Clock::system()))).unwrap();
    }

    /// Dials the door, with the certificate of this name if one is given.
    async fn dial(
        &self,
        gate: &Gate,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
        shows: Option<&str>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        let ca = self.trust().authorities_pem();
        for root in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(web_provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shows {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let (chain, key) = self.pair(name);
                let (chain, key) = WebTls::read(&chain, &key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = server_name_of(self.door.node(), self.door.cluster()).try_into().unwrap();
        let stream = TcpStream::connect(gate.address).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

fn issue(home: &TempDir, authority: &Authority, role: Role, name: &str) -> Identity {
    let issued = authority.issue(&Subject::new(role, name), SystemTime::now()).unwrap();
    let directory = home.path().join(name);
    Identity::store(&directory, &issued).unwrap();
    Identity::load(&directory).unwrap()
}

fn with_tls(tls: WebTls) -> GatewayConfig {
    GatewayConfig { tls: Some(Arc::new(tls)), ..config() }
}

#[tokio::test]
async fn one_port_serves_http_1_and_2_plain_and_encrypted() {
    let office = Office::open();
    let gate = Gate::with(with_tls(office.web(false)));
    for versions in [BOTH, &[&TLS12]] {
        for alpn in [&[][..], &["http/1.1"], &["http/1.1", "spdy/3"]] {
            let stream = office.dial(&gate, alpn, versions, None).await.unwrap();
            let mut caller = Caller::over(stream);
            assert_eq!(caller.get("/v2").await.status, 200);
            assert_eq!(caller.post("/v2/models/echo/infer", r#"{"inputs":[]}"#).await.status, 200);
        }
        let stream = office.dial(&gate, &["h2", "http/1.1"], versions, None).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let version = if versions.len() == 1 { ProtocolVersion::TLSv1_2 } else { ProtocolVersion::TLSv1_3 };
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version));
        let mut session = Session::over(stream).await;
        assert_eq!(session.get("/v2").await.status(), 200);
    }
    assert_eq!(gate.caller().await.get("/v2").await.status, 200);
    assert_eq!(Session::open(gate.address).await.get("/v2").await.status(), 200);
    // Nothing that we speak.
    assert!(office.dial(&gate, &["spdy/3"], BOTH, None).await.is_err());
}

#[tokio::test]
async fn a_door_for_https_alone_says_so_to_others() {
    let office = Office::open();
    let gate = Gate::with(GatewayConfig { tls_only: true, ..with_tls(office.web(false)) });
    let mut plain = gate.caller().await;
    let reply = plain.get("/v2").await;
    assert!(reply.error(400).contains("https://"), "{}", reply.text());
    plain.closed().await;
    let mut caller = Caller::over(office.dial(&gate, &[], BOTH, None).await.unwrap());
    assert_eq!(caller.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_client_may_show_a_certificate_of_the_cluster_and_no_other() {
    let office = Office::open();
    office.member(Role::Client, "camera");
    let gate = Gate::with(with_tls(office.web(true)));
    for shows in [None, Some("camera")] {
        let mut caller = Caller::over(office.dial(&gate, &[], BOTH, shows).await.unwrap());
        assert_eq!(caller.get("/v2").await.status, 200, "{shows:?}");
        let stream = office.dial(&gate, &["h2"], BOTH, shows).await.unwrap();
        assert_eq!(Session::over(stream).await.get("/v2").await.status(), 200, "{shows:?}");
    }
    // The same name under another authority.
    let other = Office::open();
    other.member(Role::Client, "camera");
    let (from, to) = (other.pair("camera"), office.home.path().join("stranger"));
    std::fs::create_dir(&to).unwrap();
    std::fs::copy(from.0, to.join("cert.pem")).unwrap();
    std::fs::copy(from.1, to.join("key.pem")).unwrap();
    if let Ok(stream) = office.dial(&gate, &[], BOTH, Some("stranger")).await {
        // With TLS 1.3 the client is through before the door has looked at it.
        let mut caller = Caller::over(stream);
        caller.write("GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        caller.closed().await;
    }
}

#[tokio::test]
async fn who_is_revoked_loses_its_connection_and_gets_no_other() {
    let office = Office::open();
    let camera = office.member(Role::Client, "camera");
    office.member(Role::Client, "robot");
    let tls = Arc::new(office.web(true));
    let gate = Gate::with(GatewayConfig { tls: Some(Arc::clone(&tls)), ..config() });
    let mut one = Caller::over(office.dial(&gate, &[], BOTH, Some("camera")).await.unwrap());
    let mut two = Session::over(office.dial(&gate, &["h2"], BOTH, Some("camera")).await.unwrap()).await;
    let mut other = Caller::over(office.dial(&gate, &[], BOTH, Some("robot")).await.unwrap());
    let mut nobody = Caller::over(office.dial(&gate, &[], BOTH, None).await.unwrap());
    assert_eq!((one.get("/v2").await.status, other.get("/v2").await.status), (200, 200));
    assert_eq!(
        (two.get("/v2").await.status(), nobody.get("/v2").await.status),
        (200.try_into().unwrap(), 200)
    );

    office.authority.revoke(&Revoke::Node(camera.node()), SystemTime::now()).unwrap();
    office.replace(&tls);
    one.write("GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    one.closed().await;
    let request = http::Request::get("http://line/v2").body(http_body_util::Full::default()).unwrap();
    assert!(two.send(request).await.is_err());
    assert_eq!((other.get("/v2").await.status, nobody.get("/v2").await.status), (200, 200));
    if let Ok(stream) = office.dial(&gate, &[], BOTH, Some("camera")).await {
        let mut again = Caller::over(stream);
        again.write("GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        again.closed().await;
    }
}

#[tokio::test]
async fn who_begins_tls_and_falls_silent_is_closed() {
    let office = Office::open();
    let gate = Gate::with(impatient(with_tls(office.web(false))));
    // The head of a handshake, and nothing after it.
    let mut half = gate.caller().await;
    half.write("\x16\x03\x01\x02\0\x01\0").await;
    // A handshake, and nothing after it.
    let mut silent = Caller::over(office.dial(&gate, &[], BOTH, None).await.unwrap());
    silent.closed().await;
    let stream = office.dial(&gate, &["h2"], BOTH, None).await.unwrap();
    let mut h2 = Session::over(stream).await;
    h2.closed().await;
    let mut slow = Caller::over(office.dial(&gate, &[], BOTH, None).await.unwrap());
    slow.write("GET /v2 HT").await;
    slow.closed().await;
    assert!(half.closed().await < PATIENCE);
    eventually("all places are free", async || {
        let caller = Caller::over(office.dial(&gate, &[], BOTH, None).await.unwrap());
        drop(caller);
        gate.metric("lineside_http_connections").await <= 2.0
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_left_unread_under_tls_is_let_go() {
    let office = Office::open();
    let gate = Gate::with(GatewayConfig {
        write_idle_max: Duration::from_millis(150),
        ..with_tls(office.web(false))
    });
    let length = 30 << 20;
    let json = format!(
        r#"{{"inputs":[{{"name":"x","shape":[{length}],"datatype":"UINT8","parameters":{{"binary_data_size":{length}}}}}],"parameters":{{"binary_data_output":true}}}}"#
    );
    let body = [json.as_bytes(), &vec![7; length]].concat();
    let json_length = json.len().to_string();
    let mut caller = Caller::over(office.dial(&gate, &[], BOTH, None).await.unwrap());
    caller.send("/v2/models/echo/infer", &[("Inference-Header-Content-Length", &json_length)], body).await;
    eventually("its place is free", async || gate.metric("lineside_http_connections").await <= 1.0).await;
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_with_what_to_do() {
    let office = Office::open();
    let (chain, key) = office.pair("door");
    let nowhere = office.home.path().join("nowhere.pem");
    let reason = |error: WebTlsError| error.to_string();
    let text = reason(WebTls::read(&nowhere, &key).unwrap_err());
    assert!(text.contains("nowhere.pem") && text.contains("check the path"), "{text}");
    let text = reason(WebTls::read(&key, &key).unwrap_err());
    assert!(text.contains("holds no certificate"), "{text}");
    let text = reason(WebTls::read(&chain, &chain).unwrap_err());
    assert!(text.contains("no private key") && text.contains("passphrase"), "{text}");
    std::fs::write(&nowhere, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").unwrap();
    assert!(matches!(WebTls::read(&nowhere, &key), Err(WebTlsError::File { .. })));

    // A key that belongs to somebody else.
    office.member(Role::Client, "camera");
    let others = office.pair("camera");
    let text = reason(WebTls::read(&chain, &others.1).unwrap_err());
    assert!(text.contains("is not the key of") && text.contains("of one pair"), "{text}");
    let (chain, _) = WebTls::read(&chain, &key).unwrap();
    let (_, key) = WebTls::read(&others.0, &others.1).unwrap();
    assert!(matches!(WebTls::new(chain, key, None), Err(WebTlsError::Unusable(_))));
}
