//! How one value is read from a file, the environment or a flag, and written back.

use std::{
    net::{IpAddr, SocketAddr},
    num::{NonZeroU8, NonZeroU32},
    path::PathBuf,
    time::Duration,
};

use lineside_client::Policy;
use lineside_gateway::{KeysMode, ModelControl};

use super::{
    Control, DEFAULT_PORT, LogFormat, MaybeAddress, MaybeFile, Preset, Tls,
    units::{Size, read_size, read_time, write_size, write_time},
};

/// What stands for "let Lineside choose".
pub(crate) const AUTO: &str = "auto";

/// What stands for "there is none".
const NONE: &str = "none";

/// A value as it was found. The environment and flags know text only, so every type can be read from text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Raw {
    /// `"…"` in a file; everything in the environment and in flags.
    Text(String),
    /// `123` in a file.
    Integer(i64),
    /// `true` in a file.
    Bool(bool),
    /// `["…", "…"]` in a file.
    List(Vec<String>),
    /// Something that no setting is made of, described.
    Other(&'static str),
}

impl Raw {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.trim()),
            Self::Integer(_) | Self::Bool(_) | Self::List(_) | Self::Other(_) => None,
        }
    }

    /// The value for a person.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Bool(flag) => flag.to_string(),
            Self::List(entries) => format!("{entries:?}"),
            Self::Other(kind) => (*kind).to_owned(),
        }
    }
}

/// A type that a setting can have.
pub(crate) trait Setting: Sized {
    /// `None` when the value is not of this type; the key says what is allowed.
    fn read(raw: &Raw) -> Option<Self>;
    /// As TOML.
    fn write(&self) -> toml::Value;
}

impl Setting for bool {
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Bool(flag) => Some(*flag),
            Raw::Text(text) => text.trim().parse().ok(),
            Raw::Integer(_) | Raw::List(_) | Raw::Other(_) => None,
        }
    }

    fn write(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }
}

impl Setting for u32 {
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Integer(number) => Self::try_from(*number).ok(),
            Raw::Text(text) => text.trim().parse().ok(),
            Raw::Bool(_) | Raw::List(_) | Raw::Other(_) => None,
        }
    }

    fn write(&self) -> toml::Value {
        toml::Value::Integer(i64::from(*self))
    }
}

impl Setting for NonZeroU32 {
    fn read(raw: &Raw) -> Option<Self> {
        u32::read(raw).and_then(Self::new)
    }

    fn write(&self) -> toml::Value {
        self.get().write()
    }
}

impl Setting for NonZeroU8 {
    fn read(raw: &Raw) -> Option<Self> {
        u32::read(raw).and_then(|number| u8::try_from(number).ok()).and_then(Self::new)
    }

    fn write(&self) -> toml::Value {
        u32::from(self.get()).write()
    }
}

impl Setting for Duration {
    fn read(raw: &Raw) -> Option<Self> {
        raw.text().and_then(read_time)
    }

    fn write(&self) -> toml::Value {
        toml::Value::String(write_time(*self))
    }
}

impl Setting for Size {
    fn read(raw: &Raw) -> Option<Self> {
        raw.text().and_then(read_size)
    }

    fn write(&self) -> toml::Value {
        toml::Value::String(write_size(*self))
    }
}

impl Setting for String {
    fn read(raw: &Raw) -> Option<Self> {
        raw.text().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn write(&self) -> toml::Value {
        toml::Value::String(self.clone())
    }
}

impl Setting for PathBuf {
    fn read(raw: &Raw) -> Option<Self> {
        String::read(raw).map(Self::from)
    }

    fn write(&self) -> toml::Value {
        toml::Value::String(self.display().to_string())
    }
}

/// No file is written `"none"`.
impl Setting for MaybeFile {
    fn read(raw: &Raw) -> Option<Self> {
        match raw.text() {
            Some(NONE) => Some(Self(None)),
            Some(_) | None => PathBuf::read(raw).map(|path| Self(Some(path))),
        }
    }

    fn write(&self) -> toml::Value {
        self.0.as_ref().map_or_else(|| toml::Value::String(NONE.to_owned()), PathBuf::write)
    }
}

impl Setting for SocketAddr {
    fn read(raw: &Raw) -> Option<Self> {
        raw.text()?.parse().ok()
    }

    fn write(&self) -> toml::Value {
        toml::Value::String(self.to_string())
    }
}

/// Reads the address of a member: without a port, the default one is meant.
pub(super) fn read_member_address(raw: &Raw) -> Option<SocketAddr> {
    let without_port = || raw.text()?.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DEFAULT_PORT));
    SocketAddr::read(raw).or_else(without_port)
}

impl<T: Setting> Setting for Vec<T> {
    fn read(raw: &Raw) -> Option<Self> {
        read_list(raw, T::read)
    }

    fn write(&self) -> toml::Value {
        toml::Value::Array(self.iter().map(T::write).collect())
    }
}

/// Reads a list: an array of texts, or one text with commas.
pub(super) fn read_list<T>(raw: &Raw, read: impl Fn(&Raw) -> Option<T>) -> Option<Vec<T>> {
    let entries = match raw {
        Raw::List(entries) => entries.clone(),
        Raw::Text(text) => {
            text.split(',').filter(|part| !part.trim().is_empty()).map(str::to_owned).collect()
        }
        Raw::Integer(_) | Raw::Bool(_) | Raw::Other(_) => return None,
    };
    entries.into_iter().map(|entry| read(&Raw::Text(entry))).collect()
}

/// `None` is written `"auto"`.
impl<T: Setting> Setting for Option<T> {
    fn read(raw: &Raw) -> Option<Self> {
        read_or_auto(raw, T::read)
    }

    fn write(&self) -> toml::Value {
        self.as_ref().map_or_else(|| toml::Value::String(AUTO.to_owned()), T::write)
    }
}

/// Reads `"auto"` or a value.
pub(super) fn read_or_auto<T>(raw: &Raw, read: impl Fn(&Raw) -> Option<T>) -> Option<Option<T>> {
    match raw.text() {
        Some(AUTO) => Some(None),
        Some(_) | None => read(raw).map(Some),
    }
}

/// No address is written `"none"`.
impl Setting for MaybeAddress {
    fn read(raw: &Raw) -> Option<Self> {
        match raw.text() {
            Some(NONE) => Some(Self(None)),
            Some(_) | None => SocketAddr::read(raw).map(|address| Self(Some(address))),
        }
    }

    fn write(&self) -> toml::Value {
        self.0.as_ref().map_or_else(|| toml::Value::String(NONE.to_owned()), SocketAddr::write)
    }
}

/// A setting that is one of a few words, each written in one way.
macro_rules! words {
    ($($type:ty { $($word:literal = $variant:ident),+ $(,)? })*) => {$(
        impl Setting for $type {
            fn read(raw: &Raw) -> Option<Self> {
                match raw.text()? {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn write(&self) -> toml::Value {
                let word = match self {
                    $(Self::$variant => $word,)+
                };
                toml::Value::String(word.to_owned())
            }
        }
    )*};
}

words! {
    Preset { "lan" = Lan, "fast" = Fast }
    Policy {
        "least_load" = LeastLoad,
        "round_robin" = RoundRobin,
        "weighted_round_robin" = WeightedRoundRobin,
        "power_of_two" = PowerOfTwo,
        "rendezvous" = Rendezvous,
    }
    LogFormat { "auto" = Auto, "human" = Human, "json" = Json }
    Control { "watch" = Watch, "poll" = Poll, "explicit" = Explicit }
    Tls { "off" = Off, "cluster" = Cluster, "files" = Files }
    KeysMode { "optional" = Optional, "required" = Required }
    ModelControl { "keys" = Keys, "open" = Open, "off" = Off }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    #[test]
    fn a_members_address_without_a_port_gets_the_default_one() {
        let read = |address| read_member_address(&text(address)).map(|address| address.to_string());
        assert_eq!(read("10.0.0.5").as_deref(), Some("10.0.0.5:7443"));
        assert_eq!(read("[fe80::1]:9").as_deref(), Some("[fe80::1]:9"));
        assert_eq!(read("fe80::1").as_deref(), Some("[fe80::1]:7443"));
        assert_eq!(read("10.0.0.5:70000"), None);
        assert_eq!(read("press-1"), None);
        assert_eq!(SocketAddr::read(&text("10.0.0.5")), None);
    }

    #[test]
    fn lists_come_from_arrays_and_from_text_with_commas() {
        let both: Vec<SocketAddr> = vec!["10.0.0.1:7443".parse().unwrap(), "10.0.0.2:9".parse().unwrap()];
        let read = |raw: &Raw| read_list(raw, read_member_address);
        assert_eq!(read(&text("10.0.0.1, 10.0.0.2:9")), Some(both.clone()));
        assert_eq!(read(&Raw::List(vec!["10.0.0.1".into(), "10.0.0.2:9".into()])), Some(both));
        assert_eq!(read(&text("")), Some(vec![]));
        assert_eq!(read(&text("10.0.0.1,press")), None);
    }

    #[test]
    fn auto_is_no_value_and_everything_else_is_one() {
        assert_eq!(Option::<NonZeroU32>::read(&text("auto")), Some(None));
        assert_eq!(Option::<NonZeroU32>::read(&Raw::Integer(4)), Some(NonZeroU32::new(4)));
        assert_eq!(Option::<NonZeroU32>::read(&Raw::Integer(0)), None);
        assert_eq!(Option::<NonZeroU32>::read(&Raw::Integer(-1)), None);
    }

    #[test]
    fn a_file_can_be_none() {
        assert_eq!(MaybeFile::read(&text("none")), Some(MaybeFile(None)));
        assert_eq!(MaybeFile::read(&text("/etc/secret")), Some(MaybeFile(Some("/etc/secret".into()))));
        assert_eq!(MaybeFile::read(&Raw::Bool(false)), None);
    }

    #[test]
    fn an_address_can_be_none_and_has_a_port() {
        assert_eq!(MaybeAddress::read(&text("none")), Some(MaybeAddress(None)));
        let address = "0.0.0.0:8001".parse().unwrap();
        assert_eq!(MaybeAddress::read(&text("0.0.0.0:8001")), Some(MaybeAddress(Some(address))));
        assert_eq!(MaybeAddress::read(&text("0.0.0.0")), None);
    }

    #[test]
    fn a_word_is_one_of_those_that_there_are() {
        assert_eq!(Tls::read(&text("cluster")), Some(Tls::Cluster));
        assert_eq!(Tls::read(&text("on")), None);
        assert_eq!(KeysMode::read(&text("required")), Some(KeysMode::Required));
        assert_eq!(ModelControl::read(&text("Open")), None);
        assert_eq!(LogFormat::read(&text("auto")), Some(LogFormat::Auto));
    }

    #[test]
    fn numbers_and_flags_of_the_environment_are_text() {
        assert_eq!(u32::read(&text(" 12 ")), Some(12));
        assert_eq!(bool::read(&text("true")), Some(true));
        assert_eq!(bool::read(&text("yes")), None);
        assert_eq!(u32::read(&Raw::Bool(true)), None);
    }
}
