//! API keys whose time is nearly over: whoever has one stands before a closed door soon.

use lineside_certs::ApiKeyId;
use lineside_wire::ApiKey;

use crate::output::until;

/// How long before its end a key is told of: time enough to bring another one to the machine that has it.
const SOON: u64 = 7 * 24 * 3600;

/// One line for each key that ends within a week, the next first. No fault of the cluster, so it stays well. `now` is in
/// seconds since 1970.
pub(super) fn ending(keys: &[ApiKey], now: u64) -> Vec<String> {
    let mut ending: Vec<_> = keys
        .iter()
        .filter_map(|key| Some((key.expires.filter(|end| now < *end && *end <= now + SOON)?, key)))
        .collect();
    ending.sort_by_key(|(end, key)| (*end, key.id));
    let told = ending.into_iter().map(|(end, key)| {
        format!(
            "the API key {:?} ({}) ends in {}: `lineside keys create` where the authority's key is, for whoever has it",
            key.name,
            ApiKeyId(*key.id),
            until(end, now),
        )
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u8, expires: Option<u64>) -> ApiKey {
        ApiKey {
            id: [id; 8].into(),
            hash: [0; 32].into(),
            name: format!("press-{id}"),
            models: Vec::new(),
            methods: Vec::new(),
            expires,
            rate: None,
            burst: None,
        }
    }

    #[test]
    fn a_key_is_told_of_in_its_last_week() {
        let now = 1_000_000;
        let told = ending(
            &[key(1, Some(now + SOON)), key(2, None), key(3, Some(now + 3600)), key(4, Some(now))],
            now,
        );
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("\"press-3\" (0303030303030303) ends in 60m"), "{told:?}");
        assert!(told[1].contains("press-1") && ending(&[key(1, Some(now + SOON + 1))], now).is_empty());
    }
}
