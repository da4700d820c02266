//! The fuzz targets of certificates, tokens and enrolment, on stable: see `fuzz/src/stable.rs`.
//!
//! Keys and signatures differ each time they are made, so seeds with certificates are not compared with what would be made
//! now: they have to be what their names say.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    collections::BTreeMap,
    str,
    time::{Duration, SystemTime},
};

use lineside_certs::{
    Authority, CertificateRequest, Revoke, Subject, Token, TokenOrder, Trust, enrolled_from_pem,
    enrolled_to_pem, key_of_request, peer_identity, request_from_pem,
};
use lineside_wire::{
    ApiKey, ClusterId, Enrolled, JoinParams, NodeId, RenewParams, RevokedApiKey, Role, SignedTrust,
    TrustList, TrustedAuthority, decode_part,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::Serialize;

#[expect(unreachable_pub, reason = "the fuzzer has it as a library")]
#[path = "../../fuzz/src/certs.rs"]
mod certs;
#[path = "../../fuzz/src/parts.rs"]
mod parts;
#[path = "../../fuzz/src/stable.rs"]
mod stable;

/// Neighbours that each target tries: a second or two in an unoptimised build.
const NEIGHBOURS: usize = 20_000;

const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);

#[test]
fn every_seed_and_its_neighbours_pass_the_token_target() {
    stable::try_all("token", NEIGHBOURS, certs::token);
}

#[test]
fn every_seed_and_its_neighbours_pass_the_identity_target() {
    stable::try_all("identity", NEIGHBOURS, certs::identity);
}

#[test]
fn every_seed_and_its_neighbours_pass_the_enrolment_target() {
    stable::try_all("enrolment", NEIGHBOURS, certs::enrolment);
}

#[test]
fn the_seeds_of_tokens_are_the_lines_that_people_paste() {
    let wanted = tokens();
    stable::write_if_wished("token", &wanted);
    let there = stable::seeds("token");
    for (name, bytes) in wanted {
        assert_eq!(
            there.get(&name),
            Some(&bytes),
            "fuzz/seeds/token/{name}; {}=1 writes it anew",
            stable::WRITE
        );
        let parsed = str::from_utf8(&bytes).unwrap().parse::<Token>();
        assert_eq!(parsed.is_err(), name.starts_with("broken-"), "{name}: {parsed:?}");
    }
}

#[test]
fn the_seeds_of_identities_are_what_their_names_say() {
    let wanted = identities();
    stable::write_if_wished("identity", &wanted);
    let there = stable::seeds("identity");
    for name in wanted.keys() {
        let bytes = there.get(name).unwrap_or_else(|| panic!("{name}: {}=1 writes it", stable::WRITE));
        let certificate = CertificateDer::from(&bytes[..]);
        let is = match name.split_once('-').unwrap().0 {
            "leaf" => peer_identity(&[certificate]).is_ok(),
            "authority" => Trust::bare(vec![certificate.into_owned()]).is_ok(),
            "broken" => {
                peer_identity(std::slice::from_ref(&certificate)).is_err()
                    && Trust::bare(vec![certificate.into_owned()]).is_err()
            }
            "trust" => decode_part::<SignedTrust>(bytes).is_ok_and(|trust| Trust::own(&trust).is_ok()),
            "list" => decode_part::<TrustList>(bytes)
                .is_ok_and(|list| Trust::own(&certs::sign(bytes.clone(), &list)).is_ok()),
            other => panic!("{other}"),
        };
        assert!(is, "{name}");
    }
}

#[test]
fn the_seeds_of_enrolments_are_what_their_names_say() {
    let wanted = enrolments();
    stable::write_if_wished("enrolment", &wanted);
    let there = stable::seeds("enrolment");
    for name in wanted.keys() {
        let bytes = there.get(name).unwrap_or_else(|| panic!("{name}: {}=1 writes it", stable::WRITE));
        let is = match name.split_once('-').unwrap().0 {
            "join" => decode_part::<JoinParams>(bytes).is_ok(),
            "renew" => decode_part::<RenewParams>(bytes).is_ok(),
            "answer" => decode_part::<Enrolled>(bytes).is_ok(),
            "trust" => decode_part::<SignedTrust>(bytes).is_ok(),
            "csr" => key_of_request(bytes).is_ok() != name.contains("broken"),
            "file" => enrolled_from_pem(str::from_utf8(bytes).unwrap()).is_ok() != name.contains("broken"),
            "request" => request_from_pem(str::from_utf8(bytes).unwrap()).is_ok(),
            other => panic!("{other}"),
        };
        assert!(is, "{name}");
    }
}

#[test]
fn the_seeds_are_small() {
    let targets = ["frame", "message", "token", "identity", "enrolment"];
    let bytes: usize =
        targets.iter().flat_map(|target| stable::seeds(target)).map(|(_, seed)| seed.len()).sum();
    assert!(bytes <= 200 << 10, "{bytes} bytes of seeds are checked in");
}

fn tokens() -> BTreeMap<String, Vec<u8>> {
    const PARTS: &str = "ls1.wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t8.AQIDBAUGBwg.EBESExQVFhcYGRobHB0eHw";
    let long = format!("{0}.{0}.{0}.{1}", "h".repeat(63), "h".repeat(61));
    let good = [
        ("v4", format!("{PARTS}@192.168.1.20:7443")),
        ("v6", format!("{PARTS}@[fd00::7]:7443")),
        ("v6-mapped", format!("{PARTS}@[::ffff:10.0.0.7]:1")),
        ("host", format!("{PARTS}@press-1.hall_2.example:65535")),
        ("without-port", format!("{PARTS}@press,10.0.0.7,[fd00::7]")),
        ("several", format!("{PARTS}@{}", ["10.0.0.7:7443"; 8].join(","))),
        ("longest-host", format!("{PARTS}@{long}:7443")),
        ("zeros", format!("ls1.{}.{}.{}@a", "A".repeat(43), "A".repeat(11), "A".repeat(22))),
    ];
    let broken = [
        ("empty", String::new()),
        ("version", PARTS.replace("ls1", "ls2") + "@a"),
        ("no-address", PARTS.to_owned()),
        ("empty-address", format!("{PARTS}@")),
        ("comma", format!("{PARTS}@a,")),
        ("nine", format!("{PARTS}@{}", ["a"; 9].join(","))),
        ("blank", format!("{PARTS} @a")),
        ("line-break", format!("{PARTS}@a\n")),
        ("standard-base64", PARTS.replace('w', "/") + "@a"),
        ("padding", PARTS.replace("Hw", "Hw==") + "@a"),
        ("spare-bits", PARTS.replace("Hw", "Hx") + "@a"),
        ("short-secret", format!("{}@a", &PARTS[..PARTS.len() - 1])),
        ("part-too-many", PARTS.to_owned() + ".AAAA@a"),
        ("port-zero", format!("{PARTS}@a:0")),
        ("port-sign", format!("{PARTS}@a:+7")),
        ("zone", format!("{PARTS}@[fe80::1%eth0]:7443")),
        ("unspecified", format!("{PARTS}@0.0.0.0:7443")),
        ("not-ascii", format!("{PARTS}@prüfstand:7443")),
    ];
    let good = good.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes()));
    good.chain(broken.map(|(name, text)| (format!("broken-{name}"), text.into_bytes()))).collect()
}

/// A cluster at work, with a node that was revoked and a rotation that runs.
struct Office {
    _home: tempfile::TempDir,
    authority: Authority,
    now: SystemTime,
}

impl Office {
    fn open() -> Self {
        let (home, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let authority = Authority::create(&home.path().join("ca"), "plant 2", now).unwrap();
        Self { _home: home, authority, now }
    }

    fn member(&self, role: Role) -> Vec<u8> {
        let issued = self.authority.issue(&Subject::new(role, role.as_str()), self.now).unwrap();
        CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap().to_vec()
    }

    fn signed(&self, name: &str) -> Enrolled {
        let subject = Subject::new(Role::Node, name);
        self.authority.sign(CertificateRequest::new().csr(), &subject, self.now).unwrap()
    }
}

fn identities() -> BTreeMap<String, Vec<u8>> {
    let office = Office::open();
    let mut seeds = BTreeMap::new();
    let mut seed = |name: &str, bytes: Vec<u8>| assert!(seeds.insert(name.to_owned(), bytes).is_none());
    for role in Role::ALL {
        seed(&format!("leaf-{role}"), office.member(role));
    }
    seed("trust-first", document(&office.authority.trust().unwrap()));
    let list: TrustList = decode_part(&office.authority.trust().unwrap().document).unwrap();
    seed("authority-first", list.authorities[0].certificate.to_vec());
    office.authority.revoke(&Revoke::Node(NodeId::from_bytes([0xdd; 16])), office.now).unwrap();
    office.authority.revoke(&Revoke::Serial("40".repeat(16)), office.now).unwrap();
    seed("trust-revoked", document(&office.authority.trust().unwrap()));
    office.authority.rotation_start(office.now).unwrap();
    seed("trust-rotating", document(&office.authority.trust().unwrap()));
    seed("leaf-rotated", office.member(Role::Node));
    let crossed = office.signed("press").certificates[1].to_vec();
    seed("broken-crossed-authority", crossed);

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let bare = CertificateParams::default().self_signed(&key).unwrap();
    seed("broken-no-name", bare.der().to_vec());
    let mut many = CertificateParams::new(["press.example".to_owned(), "10.0.0.7".to_owned()]).unwrap();
    let uri = "spiffe://c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1/node/dededededededededededededededede";
    many.subject_alt_names.extend([uri, uri].map(|uri| SanType::URI(uri.try_into().unwrap())));
    seed("broken-two-names", many.self_signed(&key).unwrap().der().to_vec());

    let ours = [authority(1), authority(2)];
    let list = |number, authorities: &[TrustedAuthority]| TrustList {
        cluster: CLUSTER,
        number,
        signed_at: 1_795_514_820,
        issuing: authorities.last().unwrap().generation,
        authorities: authorities.to_vec(),
        revoked_nodes: vec![NodeId::from_bytes([0xdd; 16])],
        keys: Vec::new(),
        revoked_keys: Vec::new(),
    };
    seed("list-first", document(&list(1, &ours[..1])));
    seed("list-rotating", document(&list(4, &ours)));
    seed("list-last", document(&list(u64::MAX, &ours[1..])));
    let keys = vec![api_key(1, None), api_key(2, Some(1_795_514_820))];
    let gone = |id: u8, ends| RevokedApiKey { at: 1_795_514_000, id: [id; 8].into(), ends };
    let revoked_keys = vec![gone(2, Some(1_795_514_820)), gone(3, None)];
    seed("list-keys", document(&TrustList { keys, revoked_keys, ..list(5, &ours[..1]) }));
    seeds
}

fn api_key(id: u8, expires: Option<u64>) -> ApiKey {
    ApiKey {
        id: [id; 8].into(),
        hash: [0xee; 32].into(),
        name: "press-7".to_owned(),
        models: vec!["defect*".to_owned(), "weld".to_owned()],
        methods: vec!["infer".to_owned(), "models.*".to_owned()],
        expires,
        rate: expires.map(|_| 5),
        burst: expires.map(|_| 20),
    }
}

fn enrolments() -> BTreeMap<String, Vec<u8>> {
    let office = Office::open();
    let mut seeds = BTreeMap::new();
    let mut seed = |name: &str, bytes: Vec<u8>| assert!(seeds.insert(name.to_owned(), bytes).is_none());
    let order = TokenOrder { role: Role::Node, name: None, lifetime: Duration::from_secs(900) };
    let token = office.authority.create_token(&order, office.now).unwrap();
    let request = CertificateRequest::new();
    let params = request.join_params(&token, Role::Node, "press", &[7; 32]);
    let joined = office.authority.join(&params, &[7; 32], "10.0.0.7", office.now).unwrap();
    seed("join-node", document(&params));
    seed("join-client", document(&JoinParams { role: Role::Client, name: String::new(), ..params }));
    seed("renew-node", document(&RenewParams { csr: request.csr().to_vec().into() }));
    seed("answer-joined", document(&joined));
    seed("file-joined", enrolled_to_pem(&joined).into_bytes());
    office.authority.rotation_start(office.now).unwrap();
    let rotated = office.signed("weld");
    seed("answer-rotated", document(&rotated));
    let file = enrolled_to_pem(&rotated);
    seed("file-broken-cut", file.as_bytes()[..file.len() / 2].to_vec());
    seed("file-rotated", file.into_bytes());
    seed("trust-rotated", document(&rotated.trust));

    seed("csr-own", request.csr().to_vec());
    seed("request-file", request.pem().into_bytes());
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    seed("csr-wishes", greedy(&key));
    seed("csr-broken-ed25519", greedy(&KeyPair::generate_for(&PKCS_ED25519).unwrap()));
    let mut changed = greedy(&key);
    *changed.last_mut().unwrap() ^= 1;
    seed("csr-broken-signature", changed);
    seeds
}

/// A request that wants to be an authority, an administrator, and more.
fn greedy(key: &KeyPair) -> Vec<u8> {
    let mut wishes = CertificateParams::new(["press.example".to_owned(), "10.0.0.7".to_owned()]).unwrap();
    let admin = "spiffe://c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1/admin/dededededededededededededededede";
    wishes.subject_alt_names.push(SanType::URI(admin.try_into().unwrap()));
    wishes.distinguished_name.push(DnType::CommonName, "root");
    wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    wishes.serialize_request(key).unwrap().der().to_vec()
}

/// An authority with the key of the fuzz target, so that what is changed can be signed again.
fn authority(generation: u32) -> TrustedAuthority {
    let key =
        KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8()), &PKCS_ECDSA_P256_SHA256);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("plant 2 CA g{generation}"));
    params.distinguished_name.push(DnType::OrganizationName, CLUSTER.to_string());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{CLUSTER}").try_into().unwrap())];
    params.serial_number = Some(SerialNumber::from(u64::from(generation)));
    let key = key.unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_820);
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(0x4040_4040_u64),
        revocation_time: at.into(),
        reason_code: None,
        invalidity_date: None,
    };
    let crl = CertificateRevocationListParams {
        this_update: at.into(),
        next_update: (at + Duration::from_secs(86400)).into(),
        crl_number: SerialNumber::from(3_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let crl = crl.signed_by(&Issuer::from_params(&params, &key)).unwrap();
    TrustedAuthority {
        generation,
        certificate: certificate.der().to_vec().into(),
        crl: crl.der().to_vec().into(),
    }
}

/// The target's key as rcgen reads it: version, algorithm, curve, private key, public key.
fn pkcs8() -> Vec<u8> {
    const HEAD: [u8; 36] = [
        0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
        0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01,
        0x04, 0x20,
    ];
    [&HEAD[..], &certs::KEY, &[0xa1, 0x44, 0x03, 0x42, 0x00], &certs::POINT].concat()
}

fn document<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).unwrap()
}
