//! Socket addresses on the wire: text, as people and every other language write them.
//!
//! Serde's own form in MessagePack is an enumeration of its own making.

use std::{borrow::Cow, net::SocketAddr};

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

pub(crate) fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// The same for an address that may be absent.
pub(crate) mod optional {
    use super::{Cow, Deserialize, Deserializer, Serializer, SocketAddr};
    use serde::de::Error as _;

    pub(crate) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => super::serialize(address, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = Option::<Cow<'de, str>>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::SocketAddr;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        #[serde(with = "super")]
        address: SocketAddr,
        #[serde(default, with = "super::optional", skip_serializing_if = "Option::is_none")]
        http: Option<SocketAddr>,
    }

    #[test]
    fn an_address_is_text_in_messagepack() {
        for (address, http) in [("10.0.0.1:7443", None), ("[fe80::1]:7443", Some("10.0.0.1:8080"))] {
            let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
            let row = Row { address: parse(address), http: http.map(parse) };
            let bytes = rmp_serde::to_vec_named(&row).unwrap();
            assert!(bytes.windows(address.len()).any(|window| window == address.as_bytes()));
            assert_eq!(rmp_serde::from_slice::<Row>(&bytes).unwrap(), row);
        }
        assert!(rmp_serde::from_slice::<Row>(b"\x81\xa7address\xa5press").is_err());
    }
}
