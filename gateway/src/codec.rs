//! Compressed bodies: requests are unpacked while they are read, answers packed while they are written.
//!
//! Neither takes the shard from its other connections for more than about a millisecond, and neither holds more than
//! has room: a few bytes that unpack to a gigabyte are refused when they pass the limit, not after.

mod pack;
mod unpack;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

pub(crate) use self::{pack::pack, unpack::collect};
use crate::errors::Refusal;

/// How bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// `gzip`, also written `x-gzip`.
    Gzip,
    /// `deflate`: zlib's form. Some clients leave zlib's head and tail away, and are understood too.
    Deflate,
}

impl Encoding {
    fn named(name: &str) -> Option<Self> {
        match name {
            _ if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => Some(Self::Gzip),
            _ if name.eq_ignore_ascii_case("deflate") => Some(Self::Deflate),
            _ => None,
        }
    }

    fn value(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        })
    }
}

/// How the body of a request is packed; `None` when it is not.
///
/// # Errors
/// 415: in a form that the door does not read, or several times over.
pub(crate) fn of_request(headers: &HeaderMap) -> Result<Option<Encoding>, Refusal> {
    let unknown =
        |text: String| Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", text);
    let mut packed = None;
    for line in headers.get_all(header::CONTENT_ENCODING) {
        let names = line.to_str().map_err(|_| unknown("Content-Encoding is no text".to_owned()))?;
        for name in names.split(',').map(str::trim) {
            if name.is_empty() || name.eq_ignore_ascii_case("identity") {
                continue;
            }
            let encoding = Encoding::named(name).ok_or_else(|| {
                let name: String = name.chars().take(32).collect();
                unknown(format!(
                    "the body is packed as {name:?}: send it as gzip or deflate, or without Content-Encoding"
                ))
            })?;
            if packed.replace(encoding).is_some() {
                return Err(unknown(
                    "the body is packed more than once: pack it once, or not at all".to_owned(),
                ));
            }
        }
    }
    Ok(packed)
}

/// What a client takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepts {
    /// What it likes best of what the door can do; `None` for a body as it is.
    best: Option<Encoding>,
    /// Whether it takes no body as it is.
    only_packed: bool,
}

/// What the client of a request takes, by its `Accept-Encoding`: a list of names, each with a weight `q`.
pub(crate) fn accepted(headers: &HeaderMap) -> Accepts {
    let (mut gzip, mut deflate, mut identity, mut others) = (None, None, None, None);
    for line in headers.get_all(header::ACCEPT_ENCODING) {
        for entry in line.to_str().unwrap_or_default().split(',') {
            let mut parts = entry.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            // A weight that is none takes its entry out.
            let weight = weight.map_or(1_000, |text| thousandths(text).unwrap_or(0));
            match Encoding::named(name) {
                Some(Encoding::Gzip) => gzip = Some(weight),
                Some(Encoding::Deflate) => deflate = Some(weight),
                None if name.eq_ignore_ascii_case("identity") => identity = Some(weight),
                None if name == "*" => others = Some(weight),
                None => {}
            }
        }
    }
    let weight = |own: Option<u16>| own.or(others).unwrap_or(0);
    let (gzip, deflate) = (weight(gzip), weight(deflate));
    let best = if gzip < deflate { Encoding::Deflate } else { Encoding::Gzip };
    let packed = gzip.max(deflate);
    // A client that does not name it takes a body as it is, and likes everything better that it does name.
    let only_packed = identity.or(others) == Some(0);
    let likes = 0 < packed && identity.unwrap_or(0) <= packed;
    Accepts { best: likes.then_some(best), only_packed }
}

/// A weight from `0` to `1` with up to three places.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, places) = text.split_once('.').unwrap_or((text, ""));
    let whole: u16 = match whole {
        "0" => 0,
        "1" => 1_000,
        _ => return None,
    };
    if 3 < places.len() || !places.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = places.bytes().chain(std::iter::repeat(b'0')).take(3);
    let places = digits.fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    Some(whole + places).filter(|sum| *sum <= 1_000)
}

const VARY: (HeaderName, HeaderValue) = (header::VARY, HeaderValue::from_static("accept-encoding"));

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn a_body_is_packed_once_or_not_at_all() {
        let of = |lines: &[&str]| {
            of_request(&headers(&header::CONTENT_ENCODING, lines)).map_err(|error| error.status)
        };
        for none in [&[][..], &[""], &["identity"], &["Identity, "]] {
            assert_eq!(of(none).ok(), Some(None), "{none:?}");
        }
        assert_eq!(of(&["GZIP"]).ok(), Some(Some(Encoding::Gzip)));
        assert_eq!(of(&["identity, x-gzip"]).ok(), Some(Some(Encoding::Gzip)));
        assert_eq!(of(&["deflate"]).ok(), Some(Some(Encoding::Deflate)));
        for wrong in [&["br"][..], &["gzip, gzip"], &["gzip", "deflate"], &["gzip;q=1"], &["zstd"]] {
            assert_eq!(of(wrong).err(), Some(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{wrong:?}");
        }
    }

    #[test]
    fn a_client_gets_what_it_likes_best() {
        use Encoding::{Deflate, Gzip};
        for (lines, best, only_packed) in [
            (&[][..], None, false),
            (&["gzip"][..], Some(Gzip), false),
            (&["gzip, deflate, br"], Some(Gzip), false),
            (&["gzip;q=0.5, deflate;q=0.8"], Some(Deflate), false),
            (&["gzip ; q=0.5", "deflate; Q=0.8"], Some(Deflate), false),
            (&["gzip;q=0, deflate"], Some(Deflate), false),
            (&["gzip;q=0"], None, false),
            (&["*"], Some(Gzip), false),
            (&["gzip;q=0, *"], Some(Deflate), false),
            (&["identity, gzip;q=0.5"], None, false),
            (&["identity;q=0.5, gzip;q=0.5"], Some(Gzip), false),
            (&["identity;q=0, gzip;q=0.001"], Some(Gzip), true),
            (&["identity;q=0"], None, true),
            (&["*;q=0"], None, true),
            (&["*;q=0, identity"], None, false),
            (&["br, zstd"], None, false),
            (&["gzip;q=2"], None, false),
            (&["gzip;q=1.001"], None, false),
            (&["gzip;q=0.0001"], None, false),
            (&["gzip;q="], None, false),
            (&["gzip;q=+1"], None, false),
            (&[",;,=,q=1"], None, false),
        ] {
            let accepts = accepted(&headers(&header::ACCEPT_ENCODING, lines));
            assert_eq!(accepts, Accepts { best, only_packed }, "{lines:?}");
        }
    }
}
