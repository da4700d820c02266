//! JSON whose lists and objects take memory only up to their limit.
//!
//! Each entry of a list costs its sender two bytes, and takes up to a hundred here: without this, a body within its
//! limit would become gigabytes before anybody had counted its entries. One entry more than the limit is kept, so that
//! whoever wanted fewer sees it and says so in words; the rest is read over.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

/// The first `MAX` entries of a list, and one more where there are more.
#[derive(Debug)]
pub(crate) struct List<T, const MAX: usize>(pub(crate) Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Entries::<T, MAX>(PhantomData))
    }
}

struct Entries<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Entries<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while list.len() <= MAX
            && let Some(entry) = entries.next_element()?
        {
            list.push(entry);
        }
        while entries.next_element::<IgnoredAny>()?.is_some() {}
        Ok(List(list))
    }
}

/// The first `MAX` members of an object, and one more where there are more. A name that is there twice is an error.
#[derive(Debug, Default)]
pub(crate) struct Object<'a, const MAX: usize>(pub(crate) BTreeMap<String, &'a RawValue>);

impl<'de: 'a, 'a, const MAX: usize> Deserialize<'de> for Object<'a, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members::<MAX>).map(Object)
    }
}

struct Members<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for Members<MAX> {
    type Value = BTreeMap<String, &'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut object = BTreeMap::new();
        while object.len() <= MAX
            && let Some((name, value)) = members.next_entry::<String, &RawValue>()?
        {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is there twice in one object"));
            }
        }
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(object)
    }
}

/// What is written as an object and as nothing else: `serde_json` would also take an array with the fields' values.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Named<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields::<T>(PhantomData)).map(Named)
    }
}

/// A text, which is a slice of the JSON where nothing in it is escaped.
#[derive(Debug, Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_limit_and_one_more_and_is_read_to_its_end() {
        let lengths = [0, 1, 2, 3, 4, 1_000].map(|length| {
            let json = format!("[{}]", vec!["7"; length].join(","));
            serde_json::from_str::<List<u8, 2>>(&json).expect("a list").0.len()
        });
        assert_eq!(lengths, [0, 1, 2, 3, 3, 3]);
        for wrong in ["[1,2,3,4", "[1,2,3,4,]", "[1,2,\"x\"]", "{}", "[1,2,3,4]]"] {
            assert!(serde_json::from_str::<List<u8, 2>>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_object_keeps_its_limit_and_one_more_and_each_name_once() {
        let json: Vec<_> = (0..1_000).map(|i| format!("\"{i}\":[{i}]")).collect();
        let json = format!("{{{}}}", json.join(","));
        let object: Object<'_, 5> = serde_json::from_str(&json).expect("an object");
        assert_eq!(object.0.len(), 6);
        assert!(serde_json::from_str::<Object<'_, 5>>(r#"{"a":1,"b":2,"a":3}"#).is_err());
        assert!(serde_json::from_str::<Object<'_, 5>>("[]").is_err());
    }

    #[test]
    fn what_has_names_is_no_list_of_values() {
        #[derive(Debug, Deserialize)]
        struct Part {
            number: u8,
        }
        let part = |json| serde_json::from_str::<Named<Part>>(json).map(|part| part.0.number);
        assert_eq!(part(r#"{"number":7}"#).ok(), Some(7));
        assert!(part("[7]").is_err() && part(r#"{"number":7,"number":7}"#).is_err());
    }
}
