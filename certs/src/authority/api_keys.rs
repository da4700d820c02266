//! API keys: each change publishes a new trust list, by which every door knows it.

use std::time::{Duration, SystemTime};

use lineside_wire::{API_KEY_PATTERN_BYTES_MAX, API_KEY_PATTERNS_MAX, ApiKey, matches_pattern};
use rand::RngExt as _;
use serde_bytes::ByteArray;
use zeroize::Zeroizing;

use super::{
    API_KEY_LIFETIME_MAX, API_KEY_METHODS, ApiKeyOrder, ApiKeyRow, Authority, AuthorityError, check_name,
    registry::seconds, transaction::Draft,
};
use crate::{
    ApiKeyId, WholeApiKey,
    audit::{Event, Line},
};

/// What clients over HTTP may do.
impl Authority {
    /// Makes an API key, and publishes what doors have to know of it. The key itself is nowhere but in the answer.
    ///
    /// # Errors
    /// The name, a pattern, the time or a limit cannot be used, there are too many keys, or the disk fails.
    pub fn create_key(&self, order: &ApiKeyOrder, now: SystemTime) -> Result<WholeApiKey, AuthorityError> {
        self.transact(now, |draft| draft.create_key(order))
    }

    /// Takes an API key back, for good, or removes one whose time is over. `None` when there is none with this id.
    ///
    /// # Errors
    /// The disk fails.
    pub fn revoke_key(&self, id: ApiKeyId, now: SystemTime) -> Result<Option<ApiKeyRow>, AuthorityError> {
        self.transact(now, |draft| draft.revoke_key(id))
    }

    /// The API keys that are known, newest first; behind them those that were taken back within a day.
    ///
    /// # Errors
    /// The disk fails.
    pub fn keys(&self, now: SystemTime) -> Result<Vec<ApiKeyRow>, AuthorityError> {
        Ok(self.look()?.key_rows(now))
    }
}

impl Draft<'_> {
    fn create_key(&mut self, order: &ApiKeyOrder) -> Result<WholeApiKey, AuthorityError> {
        check(order)?;
        self.check_current()?;
        let key =
            WholeApiKey { id: ApiKeyId(rand::rng().random()), secret: Zeroizing::new(rand::rng().random()) };
        let expires = order.lifetime.map(|lifetime| seconds(self.now + lifetime));
        let known = ApiKey {
            id: ByteArray::new(key.id.0),
            hash: ByteArray::new(key.hash()),
            name: order.name.clone(),
            models: order.models.clone(),
            methods: order.methods.clone(),
            expires,
            rate: order.rate,
            burst: order.burst,
        };
        self.registry.add_key(&known, self.now).map_err(|_| AuthorityError::TooManyKeys)?;
        let trust = Some(self.publish()?);
        self.lines.push(Line {
            key: Some(key.id.to_string()),
            name: Some(order.name.clone()),
            ends: expires,
            trust,
            ..Line::new(Event::ApiKeyCreated)
        });
        Ok(key)
    }

    fn revoke_key(&mut self, id: ApiKeyId) -> Result<Option<ApiKeyRow>, AuthorityError> {
        self.check_current()?;
        let Some(row) = self.registry.revoke_key(id, self.now) else { return Ok(None) };
        let trust = Some(self.publish()?);
        self.lines.push(Line {
            key: Some(id.to_string()),
            name: Some(row.name.clone()),
            trust,
            ..Line::new(Event::ApiKeyRevoked)
        });
        Ok(Some(row))
    }
}

/// Checks what types cannot.
fn check(order: &ApiKeyOrder) -> Result<(), AuthorityError> {
    let refused = |text: String| Err(AuthorityError::ApiKey(text));
    check_name(&order.name)?;
    for (what, patterns) in [("models", &order.models), ("methods", &order.methods)] {
        if patterns.is_empty() || API_KEY_PATTERNS_MAX < patterns.len() {
            return refused(format!(
                "it names {} {what}, and can name 1 to {API_KEY_PATTERNS_MAX}",
                patterns.len()
            ));
        }
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'*');
    let usable = |pattern: &&String| {
        !pattern.is_empty() && pattern.len() <= API_KEY_PATTERN_BYTES_MAX && pattern.bytes().all(legal)
    };
    if let Some(wrong) = order.models.iter().find(|pattern| !usable(pattern)) {
        let wrong: String = wrong.chars().take(160).collect();
        return refused(format!(
            "{wrong:?} is neither a model's name nor a pattern of them, such as defect*"
        ));
    }
    let none = |pattern: &&String| {
        !usable(pattern) || !API_KEY_METHODS.iter().any(|method| matches_pattern(pattern, method))
    };
    if let Some(wrong) = order.methods.iter().find(none) {
        let wrong: String = wrong.chars().take(160).collect();
        return refused(format!(
            "there is no method {wrong:?}: use {}, or patterns with *",
            API_KEY_METHODS.join(", ")
        ));
    }
    if order.lifetime.is_some_and(|time| time < Duration::from_secs(1) || API_KEY_LIFETIME_MAX < time) {
        let days = API_KEY_LIFETIME_MAX.as_secs() / 86_400;
        return refused(format!("its time is 1 s to {days} days, or none at all"));
    }
    match (order.rate, order.burst) {
        (Some(0), _) | (_, Some(0)) => refused("a rate or burst of 0 would refuse everything".to_owned()),
        (None, Some(_)) => refused("a burst without a rate: name both, or the rate alone".to_owned()),
        _ => Ok(()),
    }
}
