//! Fields as the values they should be.

use std::{collections::BTreeMap, time::Duration};

use super::super::{Field, Mistake, Value};
use crate::settings::Span;

/// What a field can be asked for; each says what was expected where it is not that.
pub(super) trait Fields {
    fn wrong(&self, reason: impl Into<String>) -> Mistake;
    fn text(&self) -> Result<&str, Mistake>;
    fn word(&self) -> Result<&str, Mistake>;
    fn flag(&self) -> Result<bool, Mistake>;
    fn whole(&self, min: i64, max: i64) -> Result<i64, Mistake>;
    fn number(&self, min: u32, max: u32) -> Result<u32, Mistake>;
    fn small(&self) -> Result<u8, Mistake>;
    fn micros(&self) -> Result<Span, Mistake>;
    fn message(&self) -> Result<&[Field], Mistake>;
}

impl Fields for Field {
    fn wrong(&self, reason: impl Into<String>) -> Mistake {
        Mistake::new(self.line, super::super::short(&self.name), reason)
    }

    fn text(&self) -> Result<&str, Mistake> {
        match &self.value {
            Value::Text(text) => Ok(text),
            other => Err(self.expected("a text in quotes", other)),
        }
    }

    fn word(&self) -> Result<&str, Mistake> {
        match &self.value {
            Value::Word(word) => Ok(word),
            other => Err(self.expected("a word without quotes", other)),
        }
    }

    fn flag(&self) -> Result<bool, Mistake> {
        match &self.value {
            Value::Word(word) if matches!(word.as_str(), "true" | "True" | "t") => Ok(true),
            Value::Word(word) if matches!(word.as_str(), "false" | "False" | "f") => Ok(false),
            Value::Integer(1) => Ok(true),
            Value::Integer(0) => Ok(false),
            other => Err(self.expected("true or false", other)),
        }
    }

    fn whole(&self, min: i64, max: i64) -> Result<i64, Mistake> {
        match &self.value {
            Value::Integer(number) if (min..=max).contains(number) => Ok(*number),
            Value::Integer(number) if max == i64::MAX => {
                Err(self.wrong(format!("{number} is less than {min}")))
            }
            Value::Integer(number) => Err(self.wrong(format!("{number} is not within {min} to {max}"))),
            other => Err(self.expected("a whole number", other)),
        }
    }

    fn number(&self, min: u32, max: u32) -> Result<u32, Mistake> {
        let number = self.whole(min.into(), max.into())?;
        Ok(u32::try_from(number).unwrap_or(max))
    }

    fn small(&self) -> Result<u8, Mistake> {
        let number = self.whole(0, u8::MAX.into())?;
        Ok(u8::try_from(number).unwrap_or(u8::MAX))
    }

    fn micros(&self) -> Result<Span, Mistake> {
        let micros = self.whole(0, i64::MAX)?;
        Ok(Span(Duration::from_micros(micros.unsigned_abs())))
    }

    fn message(&self) -> Result<&[Field], Mistake> {
        match &self.value {
            Value::Message(fields) => Ok(fields),
            other => Err(self.expected("a part in braces", other)),
        }
    }
}

impl Field {
    fn expected(&self, wanted: &str, found: &Value) -> Mistake {
        let found = found.to_string();
        self.wrong(format!("{wanted} was expected, not {}", super::super::short(&found)))
    }
}

/// Refuses fields that stand there twice, but for those that may.
pub(super) fn once(fields: &[Field], within: &str, repeated: &[&str]) -> Result<(), Mistake> {
    let mut seen = BTreeMap::new();
    for field in fields.iter().filter(|field| !repeated.contains(&field.name.as_str())) {
        if let Some(line) = seen.insert(field.name.as_str(), field.line) {
            let place = if within.is_empty() { String::new() } else { format!(" in {within}") };
            return Err(field.wrong(format!("it is set in line {line} already{place}")));
        }
    }
    Ok(())
}

/// An entry of a map: its key, and the field that is its value.
pub(super) fn entry(field: &Field) -> Result<(&str, Option<&Field>), Mistake> {
    let parts = field.message()?;
    once(parts, &field.name, &[])?;
    let of = |name| parts.iter().find(|part| part.name == name);
    let key = of("key").ok_or_else(|| field.wrong("it lacks its key"))?.text()?;
    Ok((key, of("value")))
}
