//! An authority in a directory of its own, and those who ask it for something.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use lineside_certs::{
    Authority, JoinRefusal, PeerIdentity, Subject, TOKEN_LIFETIME, Token, TokenOrder, peer_identity,
};
use lineside_wire::{Enrolled, JoinParams, RenewParams, Role, SignedTrust, TrustList};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;
use serde_bytes::{ByteArray, ByteBuf};
use tempfile::TempDir;

/// What TLS would give both sides of one connection.
pub(crate) const EXPORTER: [u8; 32] = [7; 32];
pub(crate) const FROM: &str = "192.0.2.7:40000";

pub(crate) struct Office {
    home: TempDir,
    pub(crate) authority: Authority,
    pub(crate) now: SystemTime,
}

impl Office {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority = Authority::create(&home.path().join("ca"), "plant 2", now).unwrap();
        Self { home, authority, now }
    }

    /// A whole copy of the directory on another machine.
    pub(crate) fn copy(&self) -> Self {
        let home = tempfile::tempdir().unwrap();
        let to = home.path().join("ca");
        lineside_certs::disk::make_private_directory(&to).unwrap();
        for name in fs::read_dir(self.directory()).unwrap() {
            let name = name.unwrap().file_name();
            fs::copy(self.file(name.to_str().unwrap()), to.join(name)).unwrap();
        }
        let authority = Authority::load(&to).unwrap();
        Self { home, authority, now: self.now }
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.home.path().join("ca")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Another process on the same directory.
    pub(crate) fn reopened(&self) -> Authority {
        Authority::load(&self.directory()).unwrap()
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    pub(crate) fn token(&self, role: Role) -> Token {
        let order = TokenOrder { role, name: None, lifetime: TOKEN_LIFETIME };
        self.authority.create_token(&order, self.now).unwrap()
    }

    pub(crate) fn join(&self, params: &JoinParams) -> Result<Enrolled, JoinRefusal> {
        self.authority.join(params, &EXPORTER, FROM, self.now)
    }

    pub(crate) fn member(&self, role: Role, name: &str) -> PeerIdentity {
        let issued = self.authority.issue(&Subject::new(role, name), self.now).unwrap();
        peer_identity(&chain(&issued.certificate)).unwrap()
    }

    pub(crate) fn renew(&self, peer: &PeerIdentity) -> Result<Enrolled, lineside_certs::RenewRefusal> {
        let params = RenewParams { csr: ByteBuf::from(request(&key())) };
        self.authority.renew(peer, &params, self.now)
    }

    pub(crate) fn list(&self) -> TrustList {
        list(&self.authority.trust().unwrap())
    }

    /// The events of the diary, oldest first.
    pub(crate) fn diary(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.file("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn last_line(&self) -> serde_json::Value {
        self.diary().pop().unwrap()
    }
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// A request that asks for nothing but a certificate.
pub(crate) fn request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

/// A request that asks for everything.
pub(crate) fn greedy_request(key: &KeyPair, cluster: &str) -> Vec<u8> {
    let mut params = CertificateParams::new(["member.example".to_owned()]).unwrap();
    for role in ["admin", "node"] {
        let uri = format!("spiffe://{cluster}/{role}/{}", "ab".repeat(16));
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_after = (SystemTime::now() + Duration::from_secs(10 * 365 * 24 * 3600)).into();
    params.serialize_request(key).unwrap().der().to_vec()
}

/// What the holder of a token sends.
pub(crate) fn ask(token: &Token, role: Role, csr: &[u8]) -> JoinParams {
    let name = "weld";
    JoinParams {
        token: ByteArray::new(token.id().0),
        role,
        name: name.to_owned(),
        csr: ByteBuf::from(csr),
        proof: ByteArray::new(token.proof(&EXPORTER, role, name, csr)),
    }
}

pub(crate) fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    use rustls_pki_types::pem::PemObject as _;
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

pub(crate) fn certificates(enrolled: &Enrolled) -> Vec<CertificateDer<'static>> {
    enrolled.certificates.iter().map(|one| CertificateDer::from(one.to_vec())).collect()
}

pub(crate) fn holder(enrolled: &Enrolled) -> PeerIdentity {
    peer_identity(&certificates(enrolled)).unwrap()
}

pub(crate) fn list(signed: &SignedTrust) -> TrustList {
    rmp_serde::from_slice(&signed.document).unwrap()
}
