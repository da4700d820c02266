//! API keys: made here, told to every door, and taken back.

use std::{fs, time::Duration};

use lineside_certs::{
    API_KEY_LIFETIME, ApiKeyOrder, ApiKeyState, Authority, AuthorityError, Trust, WholeApiKey,
};

use crate::office::Office;

fn order(name: &str) -> ApiKeyOrder {
    ApiKeyOrder {
        name: name.to_owned(),
        models: vec!["defect*".to_owned()],
        methods: vec!["infer".to_owned()],
        lifetime: Some(API_KEY_LIFETIME),
        rate: Some(5),
        burst: None,
    }
}

/// What a member goes by that has this list, and never had another.
fn told_by(office: &Office) -> Trust {
    Trust::own(&office.authority.trust().unwrap()).unwrap()
}

/// The keys in it.
fn told(office: &Office) -> Vec<lineside_wire::ApiKey> {
    told_by(office).keys().to_vec()
}

#[test]
fn a_key_is_told_to_every_door_without_its_secret_and_gone_when_it_is_taken_back() {
    let office = Office::new();
    let before = office.list().number;
    let key = office.authority.create_key(&order("press-7"), office.now).unwrap();
    let line = office.last_line();
    assert_eq!((line["event"].as_str(), line["name"].as_str()), (Some("api_key_created"), Some("press-7")));
    assert_eq!(line["key"], key.id().to_string());
    assert_eq!(line["trust"], before + 1);
    let known = told(&office);
    let read: WholeApiKey = key.to_string().parse().unwrap();
    assert!(known.len() == 1 && read.is(&known[0]) && known[0].may_use("defect-v2"));
    assert!(!known[0].may_use("weld") && known[0].rate == Some(5));
    let secret = key.to_string().splitn(3, '_').nth(2).unwrap().to_owned();
    assert_eq!(secret.len(), 43, "all of it: base64url may hold the separator");
    for file in ["registry.json", "audit.jsonl"] {
        assert!(!fs::read_to_string(office.file(file)).unwrap().contains(&secret), "{file}");
    }

    let row = office.reopened().revoke_key(key.id(), office.now).unwrap().unwrap();
    assert_eq!((row.name.as_str(), row.state), ("press-7", ApiKeyState::Revoked));
    assert!(told(&office).is_empty() && office.list().number == before + 2);
    assert_eq!(office.last_line()["event"], "api_key_revoked");
    assert_eq!(office.authority.revoke_key(key.id(), office.now).unwrap(), None);
    assert_eq!(office.list().number, before + 2, "nothing to tell");
}

#[test]
fn an_order_that_could_do_nothing_is_refused_and_nothing_is_told() {
    let office = Office::new();
    let before = office.list().number;
    let with = |change: fn(&mut ApiKeyOrder)| {
        let mut order = order("press-7");
        change(&mut order);
        office.authority.create_key(&order, office.now).unwrap_err()
    };
    let text = |change| match with(change) {
        AuthorityError::ApiKey(text) => text,
        other => panic!("{other}"),
    };
    assert!(matches!(with(|order| order.name = "a/b".to_owned()), AuthorityError::InvalidName(_)));
    assert!(text(|order| order.models.clear()).contains("0 models"));
    assert!(text(|order| order.models = vec!["*".to_owned(); 17]).contains("17 models"));
    assert!(text(|order| order.models = vec!["../x".to_owned()]).contains("../x"));
    assert!(text(|order| order.models = vec!["x".repeat(129)]).contains("pattern"));
    assert!(text(|order| order.methods = vec!["infr".to_owned()]).contains("models.list"));
    assert!(text(|order| order.methods = vec!["x*".to_owned()]).contains("no method"));
    assert!(text(|order| order.lifetime = Some(Duration::ZERO)).contains("1 s"));
    assert!(text(|order| order.lifetime = Some(Duration::MAX)).contains("days"));
    assert!(text(|order| order.rate = Some(0)).contains('0'));
    assert!(text(|order| (order.rate, order.burst) = (None, Some(3))).contains("without a rate"));
    assert_eq!((office.list().number, office.authority.keys(office.now).unwrap().len()), (before, 0));
}

#[test]
fn a_key_of_an_encrypted_authority_needs_its_passphrase() {
    let office = Office::new();
    office.authority.set_passphrase(Some("correct horse")).unwrap();
    assert!(matches!(Authority::load(&office.directory()), Err(AuthorityError::Locked(_))));
    let unlocked = Authority::unlock(&office.directory(), "correct horse").unwrap();
    unlocked.create_key(&order("press-7"), office.now).unwrap();
    assert_eq!(told(&office).len(), 1);
}

#[test]
fn a_copy_that_made_changes_alone_does_not_bring_a_key_back_once_it_hears_of_it() {
    let office = Office::new();
    let (gone, kept) = (order("gone"), order("kept"));
    let gone = office.authority.create_key(&gone, office.now).unwrap();
    let elsewhere = office.copy();
    let member = Trust::own(&office.authority.trust().unwrap()).unwrap();
    office.authority.revoke_key(gone.id(), office.now).unwrap();
    let member = member.succeed(&office.authority.trust().unwrap()).unwrap();
    assert!(member.keys().is_empty());
    // The copy is put back, and counts on: its list is newer by its number.
    for _ in 0..3 {
        elsewhere.authority.create_key(&kept, office.now).unwrap();
    }
    let told = member.succeed(&elsewhere.authority.trust().unwrap()).unwrap();
    assert!(told.keys().iter().all(|key| key.name == "kept") && told.lacks_revocations());
    // Whoever starts with that list knows no better, until the copy is told of the one before.
    assert!(told_by(&elsewhere).keys().iter().any(|key| key.name == "gone"));
    elsewhere.authority.merge(member.signed().unwrap(), office.now).unwrap();
    let mended = told.succeed(&elsewhere.authority.trust().unwrap()).unwrap();
    assert!(!mended.lacks_revocations() && mended.keys().len() == 3);
    assert!(told_by(&elsewhere).keys().iter().all(|key| key.name == "kept"));
}

#[test]
fn two_machines_with_the_key_come_to_one_list_of_keys() {
    let office = Office::new();
    let old = office.authority.create_key(&order("old"), office.now).unwrap();
    let elsewhere = office.copy();
    let copy = &elsewhere.authority;
    office.authority.revoke_key(old.id(), office.now).unwrap();
    copy.create_key(&order("of the copy"), office.now).unwrap();
    let (ours, theirs) = (office.authority.trust().unwrap(), copy.trust().unwrap());
    assert!(office.authority.merge(&theirs, office.now).unwrap());
    copy.merge(&ours, office.now).unwrap();
    for _ in 0..3 {
        office.authority.merge(&copy.trust().unwrap(), office.now).unwrap();
        copy.merge(&office.authority.trust().unwrap(), office.now).unwrap();
    }
    assert_eq!(office.authority.trust().unwrap(), copy.trust().unwrap());
    assert_eq!(told(&office).iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["of the copy"]);
}
