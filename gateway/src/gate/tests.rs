use std::num::NonZeroU32;

use http::{HeaderName, HeaderValue};
use lineside_certs::WholeApiKey;

use super::*;
use crate::GatewayConfig;

const TEXT: &str = "lsk_1a1a1a1a1a1a1a1a_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

fn known(models: &[&str], methods: &[&str]) -> ApiKey {
    let whole: WholeApiKey = TEXT.parse().expect("a key");
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    ApiKey {
        id: whole.id().0.into(),
        hash: whole.hash().into(),
        name: "press-7".to_owned(),
        models: owned(models),
        methods: owned(methods),
        expires: None,
        rate: None,
        burst: None,
    }
}

fn head(rows: &[(&'static str, &str)]) -> HeaderMap {
    let row = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a legal value"))
    };
    rows.iter().map(row).collect()
}

fn origin() -> Origin {
    Origin { address: IpAddr::from([10, 0, 0, 7]), certificate: None }
}

fn certificate(role: Role) -> Arc<PeerIdentity> {
    Arc::new(PeerIdentity {
        cluster: lineside_wire::ClusterId::from_bytes([1; 16]),
        node: lineside_wire::NodeId::from_bytes([2; 16]),
        role,
        name: "weld".to_owned(),
        not_after: SystemTime::UNIX_EPOCH,
        serial: "01".to_owned(),
        generation: 1,
    })
}

#[test]
fn a_key_is_found_wherever_clients_put_it() {
    let name = HeaderMap::new();
    assert_eq!(shown(&name), None);
    let bearer = format!("bearer  {TEXT} ");
    for rows in [
        &[("x-api-key", TEXT)][..],
        &[("authorization", &bearer)],
        &[("x-api-key", "the proxy"), ("authorization", &bearer)],
        &[("x-api-key", TEXT), ("authorization", "Bearer sk-unused")],
    ] {
        assert_eq!(shown(&head(rows)), Some(TEXT.as_bytes()), "{rows:?}");
    }
    assert_eq!(shown(&head(&[("authorization", "Bearer sk-unused")])), Some(&b"sk-unused"[..]));
    for nothing in [("authorization", "Basic bGluZQ=="), ("authorization", "Bearer "), ("x-api-key", " ")] {
        assert_eq!(shown(&head(&[nothing])), None, "{nothing:?}");
    }
}

#[test]
fn a_key_is_valid_until_its_end_and_only_whole() {
    let key = ApiKey { expires: Some(1_000), ..known(&["*"], &["infer"]) };
    let ring = KeyRing::new(vec![key], &KeyRing::default());
    assert!(ring.find(TEXT.as_bytes(), 999).is_some());
    assert!(ring.find(TEXT.as_bytes(), 1_000).is_none(), "its time is over");
    for wrong in
        [&TEXT[..TEXT.len() - 1], "lsk_", &TEXT.replace("1a1a_", "1b1b_"), &TEXT.replace("_Bw", "_Cw")]
    {
        assert!(ring.find(wrong.as_bytes(), 1).is_none(), "{wrong}");
    }
    assert!(ring.find(&[0xff; 64], 1).is_none());
    assert!(KeyRing::new(Vec::new(), &ring).find(TEXT.as_bytes(), 1).is_none(), "revoked");
}

#[test]
fn a_limit_of_its_own_is_counted_on_while_it_stays_the_same() {
    let key = ApiKey { rate: Some(1), burst: Some(2), ..known(&["*"], &["infer"]) };
    let first = KeyRing::new(vec![key.clone()], &KeyRing::default());
    let charged = |ring: &KeyRing, key: &ApiKey| {
        ring.limit_of(key).expect("its own").charge(ClientKey::Key(*key.id), 2).is_ok()
    };
    assert!(charged(&first, &key));
    let second = KeyRing::new(vec![key.clone()], &first);
    assert!(!charged(&second, &key), "a new list gives nobody a new quota");
    let more = ApiKey { burst: Some(3), ..key };
    assert!(charged(&KeyRing::new(vec![more.clone()], &second), &more));
    assert!(second.limit_of(&known(&["*"], &["infer"])).is_none());
}

#[test]
fn callers_are_their_certificate_then_their_key_then_their_name_then_their_address() {
    let shared = Shared::new(GatewayConfig::default());
    shared.set_keys(vec![known(&["*"], &["infer"])]);
    let caller = |origin: &Origin, rows: &[(&'static str, &str)]| shared.caller(origin, &head(rows)).unwrap();
    let shown = Origin { certificate: Some(certificate(Role::Client)), ..origin() };
    assert!(matches!(caller(&shown, &[("x-api-key", TEXT)]).who, Who::Certificate(_)));
    let keyed = caller(&origin(), &[("x-api-key", TEXT)]);
    assert!(matches!(keyed.who, Who::Key(key) if key.name == "press-7"));
    assert_eq!(keyed.charged, ClientKey::Key([0x1a; 8]));
    let named = caller(&origin(), &[("authorization", "Bearer sk-unused")]);
    assert!(matches!((named.who, named.charged), (Who::Anonymous, ClientKey::Name { .. })));
    let nobody = caller(&origin(), &[]);
    assert!(matches!((nobody.who, nobody.charged), (Who::Anonymous, ClientKey::Address(_))));
}

#[test]
fn behind_a_trusted_proxy_a_client_is_where_the_proxy_says() {
    let trusted_proxies = vec!["10.0.0.7".parse().expect("a network")];
    let shared = Shared::new(GatewayConfig { trusted_proxies, ..GatewayConfig::default() });
    let told = head(&[("x-forwarded-for", "192.0.2.9")]);
    assert_eq!(shared.caller(&origin(), &told).unwrap().address, IpAddr::from([192, 0, 2, 9]));
    let stranger = Origin { address: IpAddr::from([10, 0, 0, 8]), ..origin() };
    assert_eq!(shared.caller(&stranger, &told).unwrap().address, stranger.address);
}

#[test]
fn what_is_required_can_change_while_the_door_is_open() {
    let shared = Shared::new(GatewayConfig::default());
    let config = GatewayConfig { keys: KeysMode::Required, ..GatewayConfig::default() };
    assert!(shared.caller(&origin(), &HeaderMap::new()).is_ok());
    shared.reload(&config).unwrap();
    let refused = shared.caller(&origin(), &head(&[("x-api-key", "press")])).unwrap_err();
    assert_eq!((refused.status, refused.name()), (StatusCode::UNAUTHORIZED, UNAUTHENTICATED));
    assert!(refused.message().contains("lineside keys create"), "{}", refused.message());
    let burst = NonZeroU32::new(3);
    assert!(shared.reload(&GatewayConfig { burst, ..GatewayConfig::default() }).is_err());
    assert!(
        shared.caller(&origin(), &HeaderMap::new()).is_err(),
        "a reload that cannot work changes nothing"
    );
}

#[test]
fn a_key_may_what_it_says_and_is_told_what_it_lacks() {
    let shared = Shared::new(GatewayConfig::default());
    shared.set_keys(vec![known(&["defect*"], &["infer", "models.l*"])]);
    let caller = shared.caller(&origin(), &head(&[("x-api-key", TEXT)])).unwrap();
    let may = |permission, model| shared.may(&caller, permission, model);
    assert_eq!(may(Permission::Infer, Some("defect-v2")), Ok(()));
    assert_eq!(may(Permission::Infer, None), Ok(()), "the model is told later");
    assert_eq!(may(Permission::Models, None), Ok(()), "of a list, what is in it is asked later");
    assert_eq!(may(Permission::Load, Some("defect-v2")), Ok(()), "models.l* is models.load, too");
    let text = |permission, model| may(permission, model).unwrap_err().message;
    let told = text(Permission::Infer, Some("weld"));
    assert!(told.contains("\"press-7\" (1a1a1a1a1a1a1a1a)") && told.contains("defect*"), "{told}");
    assert!(told.contains("lineside keys create --name \"press-7\" --model \"weld\""), "{told}");
    assert!(text(Permission::Unload, Some("defect-v2")).contains("--method models.unload"));
    assert!(text(Permission::Cluster, None).contains("cluster.members"));
    assert!(text(Permission::Infer, Some(&"x".repeat(10_000))).len() < 1_000);
}

#[test]
fn a_key_that_is_revoked_loses_what_it_opened_before() {
    let shared = Shared::new(GatewayConfig::default());
    shared.set_keys(vec![known(&["*"], &["*"])]);
    let caller = shared.caller(&origin(), &head(&[("x-api-key", TEXT)])).unwrap();
    assert!(shared.may(&caller, Permission::Infer, Some("weld")).is_ok() && shared.is_valid(&caller));
    let other = ApiKey { id: [9; 8].into(), ..known(&["*"], &["*"]) };
    shared.set_keys(vec![other]);
    let refused = shared.may(&caller, Permission::Infer, Some("weld")).unwrap_err();
    assert!(refused.code == FaultCode::PermissionDenied && refused.message.contains("revoked"), "{refused}");
    assert!(!shared.is_valid(&caller));
}

#[test]
fn who_may_change_models_is_a_setting() {
    let by = |control| Shared::new(GatewayConfig { model_control: control, ..GatewayConfig::default() });
    let who = |shared: &Shared, certificate: Option<Arc<PeerIdentity>>| {
        shared.caller(&Origin { certificate, ..origin() }, &HeaderMap::new()).unwrap()
    };
    let changes = [Permission::Load, Permission::Unload, Permission::Logging];
    let reads = [Permission::Infer, Permission::Models, Permission::Statistics, Permission::Cluster];
    for (control, anonymous, client, admin) in [
        (ModelControl::Keys, false, false, true),
        (ModelControl::Open, true, true, true),
        (ModelControl::Off, false, false, false),
    ] {
        let shared = by(control);
        let callers = [
            (who(&shared, None), anonymous),
            (who(&shared, Some(certificate(Role::Client))), client),
            (who(&shared, Some(certificate(Role::Admin))), admin),
        ];
        for (caller, may) in &callers {
            for change in changes {
                assert_eq!(
                    shared.may(caller, change, None).is_ok(),
                    *may,
                    "{control:?} {caller:?} {change:?}"
                );
            }
            assert!(reads.iter().all(|read| shared.may(caller, *read, None).is_ok()));
        }
        let peer = shared.peer(&certificate(Role::Admin), origin().address);
        assert_eq!(shared.may(&peer, Permission::Load, None), Ok(()), "over QUIC");
    }
}

#[test]
fn a_certificate_may_over_https_what_the_table_of_roles_lets_it_over_quic() {
    let shared = Shared::new(GatewayConfig::default());
    for row in crate::rpc::table::TABLE {
        for role in Role::ALL {
            let Some(permission) = row.permission else { continue };
            let shown = Origin { certificate: Some(certificate(role)), ..origin() };
            let caller = shared.caller(&shown, &HeaderMap::new()).unwrap();
            let may = shared.may(&caller, permission, None).is_ok();
            assert_eq!(may, roles::may(role, row.name), "{role} {}", row.name);
        }
    }
}

#[test]
fn a_board_whose_clock_starts_anew_takes_no_key_whose_time_is_over() {
    let clock = lineside_certs::Clock::reading(|| SystemTime::UNIX_EPOCH);
    let known_once = SystemTime::now() + std::time::Duration::from_secs(1_000_000);
    clock.learn(known_once);
    let shared = Shared::by_clock(GatewayConfig::default(), clock);
    let ends = seconds(known_once);
    let shown = || shared.caller(&origin(), &head(&[("x-api-key", TEXT)]));
    shared.set_keys(vec![ApiKey { expires: Some(ends - 1), ..known(&["*"], &["infer"]) }]);
    assert!(shown().is_err());
    shared.set_keys(vec![ApiKey { expires: Some(ends + 1_000), ..known(&["*"], &["infer"]) }]);
    assert!(shown().is_ok());
}

#[test]
fn every_permission_goes_by_methods_that_a_key_can_be_allowed() {
    let all = [
        Permission::Infer,
        Permission::Models,
        Permission::Statistics,
        Permission::Load,
        Permission::Unload,
        Permission::Cluster,
        Permission::Logging,
    ];
    let mut methods: Vec<_> = all.iter().flat_map(|one| one.methods()).copied().collect();
    let mut allowed = lineside_certs::API_KEY_METHODS.to_vec();
    methods.sort_unstable();
    allowed.sort_unstable();
    assert_eq!(methods, allowed);
}

#[test]
fn guesses_cost_and_a_valid_key_is_not_shut_out_by_them() {
    let shared = Shared::new(GatewayConfig::default());
    shared.set_keys(vec![known(&["*"], &["infer"])]);
    let guess = |text: &str| shared.caller(&origin(), &head(&[("x-api-key", text)]));
    let wrong = TEXT.replace("_Bw", "_Cw");
    let refusals: Vec<_> = (0..12).map(|_| guess(&wrong).unwrap_err()).collect();
    let (told, held): (Vec<_>, Vec<_>) =
        refusals.iter().partition(|one| one.status == StatusCode::UNAUTHORIZED);
    assert!((10..=11).contains(&told.len()), "{}", told.len());
    assert!(held.iter().all(|one| one.limit == Some("failed-keys") && one.retry_after_seconds().is_some()));
    assert!(guess(TEXT).is_ok());
    let elsewhere = Origin { address: IpAddr::from([10, 0, 0, 8]), ..origin() };
    let refused = shared.caller(&elsewhere, &head(&[("x-api-key", "lsk_")])).unwrap_err();
    assert_eq!(refused.message(), told[0].message(), "one text for all reasons");
}
