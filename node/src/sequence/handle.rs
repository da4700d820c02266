//! A state as its caller keeps it: a text that names what it belongs to, and shows that it is whole.
//!
//! ```text
//!   base64( "LSS" version(1) model(32) | per state: rank(1) dims(8 each) length(8) bytes | check(8) )
//! ```
//!
//! All numbers are little-endian. `model` is a hash of the model's files and of what its settings say of the states, in
//! their order, so that names and datatypes need not be there. `check` begins the SHA-256 of all before it: it finds
//! damage, and is no signature. A caller who makes a state up gets what the model makes of it, as with any input.

use aws_lc_rs::digest::{Context, SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use lineside_wire::{RANK_MAX, Tensor, TensorSpec};

const MAGIC: [u8; 3] = *b"LSS";
const VERSION: u8 = 1;
const CHECK_BYTES: usize = 8;

/// Seals and opens the states of one version.
#[derive(Debug)]
pub(super) struct Handles {
    model: [u8; 32],
}

/// Why a text is no state of this model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotOpened {
    #[error("is damaged, or no state: send the text as it came")]
    Damaged,
    #[error("was made by another release of Lineside: begin again with sequence_start")]
    OtherRelease,
    #[error("is of another model or version: begin again with sequence_start")]
    OtherModel,
}

impl Handles {
    /// For the model with this hash, and these inputs and outputs for its states.
    pub(super) fn new<'a>(sha256: &str, states: impl Iterator<Item = (&'a TensorSpec, usize)>) -> Self {
        let mut hash = Context::new(&SHA256);
        let mut add = |part: &[u8]| {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        add(sha256.as_bytes());
        for (input, output) in states {
            add(input.name.as_bytes());
            add(input.datatype.as_str().as_bytes());
            add(&(output as u64).to_le_bytes());
        }
        let mut model = [0; 32];
        model.copy_from_slice(hash.finish().as_ref());
        Self { model }
    }

    pub(super) fn seal(&self, states: &[Tensor]) -> String {
        let length: usize = states.iter().map(|state| state.bytes.len()).sum();
        let mut bytes = Vec::with_capacity(length + 128);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.model);
        for state in states {
            let dims = state.shape.dims();
            bytes.push(u8::try_from(dims.len()).unwrap_or(u8::MAX));
            dims.iter().for_each(|dim| bytes.extend_from_slice(&dim.to_le_bytes()));
            bytes.extend_from_slice(&(state.bytes.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&state.bytes);
        }
        let check = check(&bytes);
        bytes.extend_from_slice(&check);
        STANDARD.encode(bytes)
    }

    /// The states in a text, named for these inputs.
    pub(super) fn open<'a>(
        &self,
        text: &[u8],
        inputs: impl Iterator<Item = &'a TensorSpec>,
    ) -> Result<Vec<Tensor>, NotOpened> {
        let bytes = STANDARD.decode(text).map_err(|_| NotOpened::Damaged)?;
        let (body, told) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(NotOpened::Damaged)?;
        let mut rest = body.strip_prefix(&MAGIC).ok_or(NotOpened::Damaged)?;
        if check(body) != *told {
            return Err(NotOpened::Damaged);
        }
        if take::<1>(&mut rest)? != [VERSION] {
            return Err(NotOpened::OtherRelease);
        }
        if take::<32>(&mut rest)? != self.model {
            return Err(NotOpened::OtherModel);
        }
        let states = inputs.map(|input| state(&mut rest, input)).collect::<Result<_, _>>()?;
        if rest.is_empty() { Ok(states) } else { Err(NotOpened::Damaged) }
    }
}

fn state(rest: &mut &[u8], input: &TensorSpec) -> Result<Tensor, NotOpened> {
    let rank = usize::from(u8::from_le_bytes(take(rest)?));
    if RANK_MAX < rank {
        return Err(NotOpened::Damaged);
    }
    let dims = (0..rank).map(|_| take(rest).map(u64::from_le_bytes)).collect::<Result<_, _>>()?;
    let length = usize::try_from(u64::from_le_bytes(take(rest)?)).map_err(|_| NotOpened::Damaged)?;
    let (bytes, behind) = rest.split_at_checked(length).ok_or(NotOpened::Damaged)?;
    *rest = behind;
    let bytes = Bytes::copy_from_slice(bytes);
    Tensor::new(input.name.clone(), input.datatype, dims, bytes).map_err(|_| NotOpened::Damaged)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], NotOpened> {
    let (taken, behind) = rest.split_first_chunk::<N>().ok_or(NotOpened::Damaged)?;
    *rest = behind;
    Ok(*taken)
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    let hash = digest(&SHA256, bytes);
    check.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    check
}

#[cfg(test)]
mod tests {
    use lineside_wire::Datatype;
    use proptest::prelude::*;

    use super::*;

    fn inputs() -> [TensorSpec; 2] {
        let spec = |name: &str, datatype| TensorSpec { name: name.to_owned(), datatype, shape: vec![-1] };
        [spec("h", Datatype::Fp32), spec("n", Datatype::Uint8)]
    }

    fn handles(sha256: &str) -> Handles {
        Handles::new(sha256, inputs().iter().zip(1..))
    }

    fn states(h: &[u8], n: &[u8]) -> Vec<Tensor> {
        let tensor = |input: &TensorSpec, bytes: &[u8]| {
            let elements = bytes.len() / input.datatype.width().unwrap();
            let bytes = Bytes::copy_from_slice(bytes);
            Tensor::new(input.name.clone(), input.datatype, vec![elements as u64], bytes).unwrap()
        };
        inputs().iter().zip([h, n]).map(|(input, bytes)| tensor(input, bytes)).collect()
    }

    #[test]
    fn a_state_comes_back_as_it_went_and_only_to_its_model() {
        let (ours, theirs) = (handles("ab12"), handles("cd34"));
        let sent = states(&[1, 2, 3, 4, 5, 6, 7, 8], &[9]);
        let text = ours.seal(&sent);
        assert!(text.is_ascii(), "JSON carries it as it is");
        assert_eq!(ours.open(text.as_bytes(), inputs().iter()), Ok(sent));
        assert_eq!(theirs.open(text.as_bytes(), inputs().iter()), Err(NotOpened::OtherModel));
        // Other settings of the same file are another model, too.
        let other = Handles::new("ab12", inputs().iter().rev().zip(1..));
        assert_eq!(other.open(text.as_bytes(), inputs().iter()), Err(NotOpened::OtherModel));
    }

    #[test]
    fn a_state_of_another_release_is_told_from_a_damaged_one() {
        let text = handles("ab12").seal(&states(&[0; 4], &[]));
        let mut bytes = STANDARD.decode(text).unwrap();
        bytes.truncate(bytes.len() - CHECK_BYTES);
        bytes[3] = VERSION + 1;
        let check = check(&bytes);
        bytes.extend_from_slice(&check);
        let text = STANDARD.encode(&bytes);
        assert_eq!(handles("ab12").open(text.as_bytes(), inputs().iter()), Err(NotOpened::OtherRelease));
    }

    proptest! {
        #[test]
        fn every_changed_byte_is_found(h in prop::collection::vec(any::<[u8; 4]>(), 0..9), at: prop::sample::Index, to: u8) {
            let ours = handles("ab12");
            let mut bytes = STANDARD.decode(ours.seal(&states(h.as_flattened(), &[7]))).unwrap();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            let text = STANDARD.encode(&bytes);
            prop_assert_eq!(ours.open(text.as_bytes(), inputs().iter()), Err(NotOpened::Damaged));
        }

        #[test]
        fn nothing_that_is_sent_makes_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), is_sealed: bool) {
            let ours = handles("ab12");
            if is_sealed {
                // A sender can make the check right.
                bytes.splice(..0, [&MAGIC[..], &[VERSION], &ours.model].concat());
                let check = check(&bytes);
                bytes.extend_from_slice(&check);
            }
            let _opened = ours.open(STANDARD.encode(&bytes).as_bytes(), inputs().iter());
            let _opened = ours.open(&bytes, inputs().iter());
        }
    }
}
