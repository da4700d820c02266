use std::{hash::BuildHasher as _, hash::RandomState};

use governor::clock::FakeRelativeClock;
use http::HeaderMap;
use lineside_wire::{Fault, FaultCode};

use super::*;
use crate::errors::Refusal;

type Fake = Limiter<FakeRelativeClock>;

fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

fn limiter_of(limit: Limit, rate: u32, burst: u32, clients_max: usize) -> (Fake, FakeRelativeClock) {
    let clock = FakeRelativeClock::default();
    let quota = quota(number(rate), Some(number(burst)));
    (Limiter::with_clock(limit, quota, clients_max, clock.clone()), clock)
}

fn limiter(rate: u32, burst: u32, clients_max: usize) -> (Fake, FakeRelativeClock) {
    limiter_of(Limit::Client, rate, burst, clients_max)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Gives names to callers, as a door does.
struct Names(RandomState);

impl Names {
    fn new() -> Self {
        Self(RandomState::new())
    }

    fn named(&self, name: impl std::hash::Hash, from: &str) -> ClientKey {
        ClientKey::Name { name: self.0.hash_one(name), address: machine_at(address(from)) }
    }
}

fn nameless(from: &str) -> ClientKey {
    ClientKey::Address(machine_at(address(from)))
}

#[test]
fn a_client_has_its_burst_then_its_rate_and_is_told_how_long_to_wait() {
    let (limiter, clock) = limiter(2, 3, 100);
    let press = ClientKey::Key([1; 8]);
    let left: Vec<_> = (0..3).map(|_| limiter.charge(press, 1).map(|left| left.remaining)).collect();
    assert_eq!(left, [Ok(2), Ok(1), Ok(0)]);
    assert_eq!(limiter.charge(press, 1).unwrap_err().wait, Duration::from_millis(500));
    clock.advance(Duration::from_millis(500));
    assert!(limiter.charge(press, 1).is_ok());
    assert!(limiter.charge(press, 1).is_err());
}

#[test]
fn several_at_once_are_let_through_all_or_not_at_all() {
    let (limiter, clock) = limiter(10, 10, 100);
    let press = ClientKey::Key([1; 8]);
    assert_eq!(limiter.charge(press, 7).unwrap().remaining, 3);
    assert_eq!(limiter.charge(press, 4).unwrap_err().wait, Duration::from_millis(100));
    assert_eq!(limiter.charge(press, 3).unwrap().remaining, 0, "the refusal has cost nothing");
    clock.advance(Duration::from_secs(1));
    assert_eq!(limiter.charge(press, 0).map(|left| left.remaining), Ok(10), "nothing costs nothing");
}

#[test]
fn what_is_larger_than_the_burst_is_let_through_once_and_paid_off() {
    let (limiter, clock) = limiter_of(Limit::ClientBytes, 1_000, 1_000, 100);
    let press = ClientKey::Key([1; 8]);
    let left = limiter.charge(press, 3_500).unwrap();
    assert_eq!((left.remaining, left.more_in_seconds), (0, 3));
    assert_eq!(limiter.charge(press, 1).unwrap_err().wait, Duration::from_millis(2_501));
    clock.advance(Duration::from_millis(2_501));
    assert!(limiter.charge(press, 1).is_ok() && limiter.charge(press, 1).is_err());
    // Not with less than the full quota, or it would never be paid.
    clock.advance(Duration::from_millis(500));
    assert!(limiter.charge(press, 3_500).is_err());
    clock.advance(Duration::from_millis(501));
    assert!(limiter.charge(press, u64::MAX).is_ok());
    assert!(limiter.charge(press, 1).unwrap_err().wait <= DEBT_MAX + Duration::from_secs(1));
}

#[test]
fn clients_do_not_pay_for_each_other() {
    let ((limiter, _), names) = (limiter(1, 1, 100), Names::new());
    let (press, weld) = (names.named("press", "10.0.0.1"), names.named("weld", "10.0.0.1"));
    assert!(limiter.charge(press, 1).is_ok());
    assert!(limiter.charge(press, 1).is_err());
    for other in [weld, nameless("10.0.0.1"), ClientKey::Key([1; 8]), ClientKey::Key([2; 8])] {
        assert!(limiter.charge(other, 1).is_ok(), "{other:?}");
    }
}

#[test]
fn who_invents_names_gets_a_bounded_share_and_nobody_else_pays() {
    let ((limiter, clock), names) = (limiter(1, 5, 100_000), Names::new());
    let invented = |i: u32| names.named(i.to_le_bytes(), "10.0.0.1");
    let flood = |from: u32| (from..from + 2_000).filter(|i| limiter.charge(invented(*i), 1).is_ok()).count();
    // Each name once: so many have a quota of their own, the others share that of the address.
    assert_eq!(flood(0), NAMES_PER_ADDRESS as usize + 5);
    assert_eq!(limiter.limiter.len(), NAMES_PER_ADDRESS as usize + 1);
    assert!(limiter.charge(nameless("10.0.0.1"), 1).is_err());
    // Names that came before, names of other machines and keys of the cluster are served on.
    assert!(limiter.charge(invented(0), 1).is_ok());
    assert!(limiter.charge(names.named("press", "10.0.0.2"), 1).is_ok());
    assert!(limiter.charge(ClientKey::Key([1; 8]), 1).is_ok());

    // In the long run it has that many rates, however often it changes its names.
    let mut served = 0;
    for minute in 1..=10 {
        clock.advance(FORGET_EVERY);
        limiter.forget_idle();
        served += flood(minute * 10_000);
    }
    let rates = 10 * FORGET_EVERY.as_secs() as usize * (NAMES_PER_ADDRESS as usize + 1);
    assert!(served <= rates, "{served} were served, but {rates} is the most");
    clock.advance(FORGET_EVERY);
    limiter.forget_idle();
    assert_eq!(limiter.limiter.len(), 0);
}

#[test]
fn a_known_name_keeps_its_quota_wherever_it_comes_from() {
    let ((limiter, _), names) = (limiter(1, 2, 100), Names::new());
    assert!(limiter.charge(names.named("press", "10.0.0.1"), 1).is_ok());
    assert!(limiter.charge(names.named("press", "10.0.0.2"), 1).is_ok());
    assert!(limiter.charge(names.named("press", "10.0.0.3"), 1).is_err());
}

#[test]
fn an_ipv6_machine_cannot_multiply_itself_within_its_network() {
    let first = nameless("fd00:1:2:3::1");
    assert_eq!(first, nameless("fd00:1:2:3:ffff::9"));
    assert_ne!(first, nameless("fd00:1:2:4::1"));
    assert_eq!(nameless("::ffff:10.0.0.1"), nameless("10.0.0.1"));
}

#[test]
fn a_flood_of_new_clients_shares_one_bucket_and_old_ones_keep_theirs() {
    let (limiter, clock) = limiter(1, 5, clients::PARTS);
    let old = ClientKey::Key([1; 8]);
    assert!(limiter.charge(old, 1).is_ok());
    let taken = (0..2_000_u128).filter(|i| limiter.charge(ClientKey::Address(i << 8), 1).is_ok()).count();
    assert!(taken <= clients::PARTS + 5, "{taken} of the flood came through");
    assert!(limiter.limiter.len() <= clients::PARTS);
    assert!(limiter.charge(old, 1).is_ok(), "an old client paid for the flood");

    clock.advance(Duration::from_secs(60));
    limiter.forget_idle();
    assert_eq!(limiter.limiter.len(), 0);
}

/// Limits of `client`, `client-bytes` and `model`, each with a rate and a burst.
fn limits(client: u32, bytes: u32, model: u32) -> Limits<FakeRelativeClock> {
    let of = |limit, burst| Some(Arc::new(limiter_of(limit, 1, burst, 100).0));
    Limits {
        client: of(Limit::Client, client),
        bytes: of(Limit::ClientBytes, bytes),
        model: of(Limit::Model, model),
    }
}

#[test]
fn each_limit_is_asked_in_its_turn_and_says_who_it_is() {
    let limits = limits(4, 100, 2);
    let (press, weld) = (ClientKey::Key([1; 8]), ClientKey::Key([2; 8]));
    let charge = |client, bytes, model: Option<&str>| {
        let key = |name: &str, _: &dyn Fn(ClientKey) -> bool| ClientKey::Model(name.len() as u64);
        let (cost, mut left) = (Cost { calls: 1, bytes, model }, Allowances::default());
        let charged = limits.charge(client, None, cost, key, &mut left);
        (charged.map_err(|too_soon| too_soon.limit), left)
    };
    assert_eq!(charge(press, 60, Some("weld")).0, Ok(()));
    assert_eq!(charge(press, 60, Some("weld")).0, Err(Limit::ClientBytes));
    // Of the model's two one is left, because the second request did not get so far.
    let (charged, left) = charge(weld, 0, Some("weld"));
    let mut headers = HeaderMap::new();
    left.write(&mut headers, true);
    assert_eq!(charged, Ok(()));
    assert_eq!(headers["ratelimit-policy"], "\"client\";q=4;w=4, \"model\";q=2;w=2");
    assert_eq!(headers["ratelimit"], "\"client\";r=3;t=1, \"model\";r=0;t=1");
    let x = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"].map(|name| &headers[name]);
    assert_eq!(x, ["2", "0", "1"]);
    assert_eq!(charge(weld, 0, Some("weld")).0, Err(Limit::Model));
    assert_eq!(charge(weld, 0, Some("echo!")).0, Ok(()), "another model");
    assert_eq!(charge(weld, 0, None).0, Ok(()));
    let (charged, left) = charge(weld, 0, None);
    let mut headers = HeaderMap::new();
    left.write(&mut headers, false);
    assert_eq!((charged, headers.len()), (Err(Limit::Client), 2));
    assert_eq!(headers["ratelimit"], "\"client\";r=0;t=1");
}

#[test]
fn bytes_are_told_as_the_draft_names_them() {
    let (limits, mut left, mut headers) = (limits(4, 100, 2), Allowances::default(), HeaderMap::new());
    let cost = Cost { calls: 0, bytes: 30, model: None };
    limits.charge(ClientKey::Key([1; 8]), None, cost, |_, _| ClientKey::OtherModels, &mut left).unwrap();
    left.write(&mut headers, false);
    assert_eq!(headers["ratelimit-policy"], "\"client-bytes\";q=100;w=100;qu=\"content-bytes\"");
}

#[test]
fn a_limit_of_its_own_takes_the_place_of_everybodys() {
    let (limits, (own, _)) = (limits(1, 100, 100), limiter(1, 3, 100));
    let charge = |own| {
        let key = |_: &str, _: &dyn Fn(ClientKey) -> bool| ClientKey::OtherModels;
        limits.charge(ClientKey::Key([1; 8]), own, Cost::ONE, key, &mut Allowances::default()).is_ok()
    };
    assert_eq!((0..5).filter(|_| charge(Some(&own))).count(), 3);
    assert_eq!((0..5).filter(|_| charge(None)).count(), 1);
}

#[test]
fn limits_that_stay_the_same_keep_their_counts() {
    let rates = Rates { rate: Some(number(1)), burst: Some(number(2)), ..Rates::default() };
    let used = |limits: &Limits| {
        let key = |_: &str, _: &dyn Fn(ClientKey) -> bool| ClientKey::OtherModels;
        let charge =
            || limits.charge(ClientKey::Key([1; 8]), None, Cost::ONE, key, &mut Allowances::default());
        (0..2).filter(|_| charge().is_err()).count()
    };
    let first = Limits::new(rates, None);
    assert_eq!(used(&first), 0);
    let same = Limits::new(Rates { model_rate: Some(number(9)), ..rates }, Some(&first));
    assert_eq!(used(&same), 2, "what was used up stays used up");
    let other = Limits::new(Rates { burst: Some(number(3)), ..rates }, Some(&same));
    assert_eq!(used(&other), 0);
    assert_eq!(used(&Limits::new(Rates::default(), Some(&other))), 0, "no limit");
}

#[test]
fn whoever_comes_too_soon_is_told_which_limit_and_when_to_come_and_not_all_the_same_time() {
    let quota = quota(number(10), Some(number(25)));
    let too_soon = TooSoon::new(Limit::Client, quota, Duration::from_micros(1_199_001));
    let fault = Fault::from(too_soon.spread(0.0));
    assert_eq!((fault.code, fault.retry_after_ms), (FaultCode::RateLimited, Some(1_200)));
    assert!(fault.message.contains("\"client\" allows 10 a second and 25 at once"), "{}", fault.message);
    assert_eq!(Fault::from(too_soon.spread(1.0)).retry_after_ms, Some(1_439));
    let refusal = Refusal::from(TooSoon::new(Limit::Model, quota, Duration::from_secs(1)).spread(0.5));
    assert_eq!((refusal.retry_after_seconds(), refusal.limit), (Some(2), Some("model")));
    for limit in [Limit::Client, Limit::ClientBytes, Limit::Model, Limit::FailedKeys] {
        let fault = Fault::from(TooSoon::new(limit, quota, Duration::ZERO));
        assert!(fault.message.contains(&format!("\"{}\"", limit.name())), "{}", fault.message);
    }
}
