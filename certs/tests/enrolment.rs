//! The first certificate: by a token, and on a USB stick.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::SystemTime};

use lineside_certs::{
    Authority, CertificateRequest, EnrolError, Identity, IdentityError, Subject, TOKEN_LIFETIME, Token,
    TokenOrder, enrolled_from_pem, enrolled_to_pem, request_from_pem,
};
use lineside_wire::{CSR_BYTES_MAX, Enrolled, JoinParams, Role};
use tempfile::TempDir;

struct Plant {
    home: TempDir,
    office: Authority,
}

impl Plant {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let office = Authority::create(&home.path().join("ca"), "plant 2", SystemTime::now()).unwrap();
        Self { home, office }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn token(&self) -> Token {
        let order = TokenOrder { role: Role::Node, name: None, lifetime: TOKEN_LIFETIME };
        self.office.create_token(&order, SystemTime::now()).unwrap().at(vec!["127.0.0.1:7443".to_owned()])
    }

    /// What `certs sign` answers to the request in a file.
    fn signed(&self, request: &str) -> Enrolled {
        let subject = Subject::new(Role::Client, "camera-4");
        self.office.sign(&request_from_pem(request).unwrap(), &subject, SystemTime::now()).unwrap()
    }
}

#[test]
fn one_line_makes_a_member() {
    let plant = Plant::new();
    let line = plant.token().to_string();

    let token: Token = line.parse().unwrap();
    let (request, exporter) = (CertificateRequest::new(), [3; 32]);
    let params: JoinParams = request.join_params(&token, Role::Node, "press", &exporter);
    let answer = plant.office.join(&params, &exporter, "10.0.0.7", SystemTime::now()).unwrap();
    let issued = request.complete(&answer, Some(token.authority())).unwrap();
    Identity::store(&plant.place("press"), &issued).unwrap();

    let press = Identity::load(&plant.place("press")).unwrap();
    assert_eq!((press.cluster(), press.name()), (plant.office.cluster(), "press"));
    assert_eq!(press.trust().stamp().number, Identity::of(&issued).unwrap().trust().stamp().number);
    press.check_validity(SystemTime::now()).unwrap();
}

#[test]
fn an_answer_of_another_authority_than_the_tokens_is_refused() {
    let (plant, elsewhere) = (Plant::new(), Plant::new());
    let (token, request) = (plant.token(), CertificateRequest::new());
    let answer = elsewhere.signed(&request.pem());
    assert_eq!(request.complete(&answer, Some(token.authority())).err(), Some(EnrolError::OtherAuthority));
    // And one whose list is another cluster's than its certificate.
    let mixed = Enrolled { trust: plant.signed(&request.pem()).trust, ..answer };
    assert_eq!(request.complete(&mixed, Some(token.authority())).err(), Some(EnrolError::NotSigned));
}

#[test]
fn a_machine_without_a_network_is_enrolled_by_files() {
    let plant = Plant::new();
    let stick = plant.place("camera");
    CertificateRequest::new().store(&stick).unwrap();
    let answer = enrolled_to_pem(&plant.signed(&fs::read_to_string(stick.join("request.pem")).unwrap()));

    let request = CertificateRequest::load(&stick).unwrap();
    let issued = request.complete(&enrolled_from_pem(&answer).unwrap(), None).unwrap();
    Identity::store(&plant.place("identity"), &issued).unwrap();
    CertificateRequest::remove(&stick).unwrap();
    assert_eq!(fs::read_dir(&stick).unwrap().count(), 0);
    let camera = Identity::load(&plant.place("identity")).unwrap();
    assert_eq!((camera.name(), camera.role()), ("camera-4", Role::Client));

    // The answer for one machine is of no use on another.
    let other = CertificateRequest::new();
    assert_eq!(other.complete(&enrolled_from_pem(&answer).unwrap(), None).err(), Some(EnrolError::OtherKey));
}

#[test]
fn an_answer_survives_the_file_also_during_a_rotation() {
    let plant = Plant::new();
    plant.office.rotation_start(SystemTime::now()).unwrap();
    let answer = plant.signed(&CertificateRequest::new().pem());
    assert_eq!(answer.certificates.len(), 2, "the new authority's key, signed by the old one, goes along");
    let read = enrolled_from_pem(&enrolled_to_pem(&answer)).unwrap();
    assert_eq!((read.certificates, read.trust, read.now), (answer.certificates, answer.trust, 0));
}

#[test]
fn a_damaged_answer_is_refused_wherever_it_was_cut() {
    let plant = Plant::new();
    let request = CertificateRequest::new();
    let whole = enrolled_to_pem(&plant.signed(&request.pem()));
    for length in (0..whole.len() - 1).step_by(3) {
        assert!(enrolled_from_pem(&whole[..length]).is_err(), "cut at {length}");
    }
    // One character within a block is another one.
    for at in (40..whole.len()).step_by(97) {
        let other = if &whole[at..=at] == "A" { "B" } else { "A" };
        let mut damaged = whole.clone();
        damaged.replace_range(at..=at, other);
        let read = enrolled_from_pem(&damaged).and_then(|answer| request.complete(&answer, None));
        assert!(read.is_err(), "changed at {at}");
    }
    let twice = whole.clone() + &whole;
    assert!(matches!(enrolled_from_pem(&twice), Err(EnrolError::File(_))));
    assert!(matches!(enrolled_from_pem(&" ".repeat(3 << 20)), Err(EnrolError::File(_))));
    assert!(matches!(enrolled_from_pem(&request.pem()), Err(EnrolError::File(_))));
    assert_eq!(enrolled_from_pem("").err(), Some(EnrolError::NoCertificate));
}

#[test]
fn what_is_no_request_is_not_read() {
    let good = CertificateRequest::new();
    assert_eq!(request_from_pem(&good.pem()).unwrap(), good.csr());
    let long = good.pem().replace("\n-----END", &format!("{}\n-----END", "\nAAAA".repeat(CSR_BYTES_MAX / 3)));
    let wrong = [
        String::new(),
        "ls1.x".to_owned(),
        good.pem().replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        good.pem() + &good.pem(),
        long,
        "x".repeat(1 << 20),
    ];
    for text in &wrong {
        let error = request_from_pem(text).unwrap_err();
        assert!(
            matches!(error, EnrolError::File(_)) && error.to_string().contains("brought again"),
            "{error}"
        );
    }
}

#[test]
fn a_kept_request_is_private_whole_and_never_replaced() {
    let plant = Plant::new();
    let place = plant.place("camera");
    let missing = CertificateRequest::load(&place).unwrap_err();
    assert!(matches!(missing, IdentityError::RequestMissing(_)), "{missing}");
    let request = CertificateRequest::new();
    request.store(&place).unwrap();
    assert_eq!(CertificateRequest::load(&place).unwrap().csr(), request.csr());
    let again = CertificateRequest::new().store(&place).unwrap_err();
    assert!(matches!(again, IdentityError::RequestExists(_)), "{again}");

    let (key, file) = (place.join("request.key"), place.join("request.pem"));
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(CertificateRequest::load(&place).unwrap_err().to_string().contains("chmod 600"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let good = fs::read(&file).unwrap();
    for damaged in [CertificateRequest::new().pem().into_bytes(), good[..good.len() / 2].to_vec()] {
        fs::write(&file, damaged).unwrap();
        let error = CertificateRequest::load(&place).unwrap_err();
        assert!(
            matches!(error, IdentityError::Damaged { .. }) && error.to_string().contains("request.pem"),
            "{error}"
        );
    }
    fs::write(&file, good).unwrap();
    fs::remove_file(&key).unwrap();
    let half = CertificateRequest::load(&place).unwrap_err();
    assert!(
        matches!(half, IdentityError::RequestMissing(_)) && half.to_string().contains("request.key"),
        "{half}"
    );
}

#[test]
fn a_client_identity_is_one_pair_of_files() {
    let plant = Plant::new();
    let issued = plant.office.issue(&Subject::new(Role::Client, "camera-4"), SystemTime::now()).unwrap();
    let (certificate, key) = (plant.place("camera.pem"), plant.place("camera.key"));
    fs::write(&certificate, format!("{}{}", issued.certificate, issued.authority)).unwrap();
    fs::write(&key, &*issued.key).unwrap();
    let error = Identity::load_pair(&certificate, &key).unwrap_err();
    assert!(error.to_string().contains("chmod 600") && error.to_string().contains("camera.key"), "{error}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    let camera = Identity::load_pair(&certificate, &key).unwrap();
    assert_eq!((camera.name(), camera.trust().stamp().number), ("camera-4", 0));

    // Without the authorities nobody could be believed.
    fs::write(&certificate, &issued.certificate).unwrap();
    let error = Identity::load_pair(&certificate, &key).unwrap_err();
    assert!(
        matches!(error, IdentityError::Damaged { .. }) && error.to_string().contains("camera.pem"),
        "{error}"
    );
    fs::write(&certificate, &issued.authority).unwrap();
    assert!(matches!(Identity::load_pair(&certificate, &key), Err(IdentityError::Damaged { .. })));
    let other = plant.office.issue(&Subject::new(Role::Client, "camera-5"), SystemTime::now()).unwrap();
    fs::write(&certificate, format!("{}{}", other.certificate, other.authority)).unwrap();
    assert!(matches!(Identity::load_pair(&certificate, &key), Err(IdentityError::KeyMismatch(_))));
}

#[test]
fn an_answer_and_the_key_of_its_request_are_a_pair_too() {
    let plant = Plant::new();
    let place = plant.place("camera");
    CertificateRequest::new().store(&place).unwrap();
    let answer = plant.signed(&fs::read_to_string(place.join("request.pem")).unwrap());
    fs::write(place.join("answer.pem"), enrolled_to_pem(&answer)).unwrap();
    let camera = Identity::load_pair(&place.join("answer.pem"), &place.join("request.key")).unwrap();
    assert_eq!(camera.name(), "camera-4");
    assert!(0 < camera.trust().stamp().number);
}
