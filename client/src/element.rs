//! Rust's numbers as elements of tensors.

use half::{bf16, f16};
use lineside_wire::Datatype;

/// A type whose values can be a tensor's elements. Texts are not among them: see
/// [`input_strings`](crate::InferRequest::input_strings).
pub trait Element: Copy + sealed::Bytes {
    /// The datatype of a tensor of these.
    const DATATYPE: Datatype;
}

mod sealed {
    /// How elements lie in a tensor: little-endian, one behind the other. Sealed: the datatypes are the protocol's.
    pub trait Bytes: Sized {
        fn write(elements: &[Self]) -> Vec<u8>;
        /// Bytes beyond the last whole element are passed over; a tensor has none.
        fn read(bytes: &[u8]) -> Vec<Self>;
    }
}

macro_rules! elements {
    ($($element:ty = $datatype:ident;)*) => {$(
        impl Element for $element {
            const DATATYPE: Datatype = Datatype::$datatype;
        }

        impl sealed::Bytes for $element {
            fn write(elements: &[Self]) -> Vec<u8> {
                elements.iter().flat_map(|element| element.to_le_bytes()).collect()
            }

            fn read(bytes: &[u8]) -> Vec<Self> {
                let (elements, _) = bytes.as_chunks::<{ size_of::<Self>() }>();
                elements.iter().map(|bytes| Self::from_le_bytes(*bytes)).collect()
            }
        }
    )*};
}

elements! {
    u8 = Uint8;
    u16 = Uint16;
    u32 = Uint32;
    u64 = Uint64;
    i8 = Int8;
    i16 = Int16;
    i32 = Int32;
    i64 = Int64;
    f16 = Fp16;
    bf16 = Bf16;
    f32 = Fp32;
    f64 = Fp64;
}

impl Element for bool {
    const DATATYPE: Datatype = Datatype::Bool;
}

impl sealed::Bytes for bool {
    fn write(elements: &[Self]) -> Vec<u8> {
        elements.iter().map(|element| u8::from(*element)).collect()
    }

    fn read(bytes: &[u8]) -> Vec<Self> {
        bytes.iter().map(|byte| *byte != 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{sealed::Bytes, *};

    fn comes_back<T: Element + PartialEq + std::fmt::Debug>(elements: &[T]) {
        let bytes = T::write(elements);
        assert_eq!(Some(bytes.len()), T::DATATYPE.width().map(|width| width * elements.len()));
        assert_eq!(T::read(&bytes), elements);
    }

    proptest! {
        #[test]
        fn elements_come_back_as_they_went(numbers in prop::collection::vec(any::<u64>(), 0..20)) {
            macro_rules! each {
                ($($element:ty),*) => {$(
                    comes_back(&numbers.iter().map(|number| *number as $element).collect::<Vec<_>>());
                )*};
            }
            each!(u8, u16, u32, u64, i8, i16, i32, i64, f32, f64);
            comes_back(&numbers.iter().map(|number| number % 2 == 0).collect::<Vec<_>>());
            comes_back(&numbers.iter().map(|number| f16::from_f32((*number % 99) as f32)).collect::<Vec<_>>());
            comes_back(&numbers.iter().map(|number| bf16::from_f32((*number % 99) as f32)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn elements_lie_little_endian() {
        assert_eq!(u16::write(&[0x0102]), [2, 1]);
        assert_eq!(f32::write(&[1.0]), [0, 0, 0x80, 0x3f]);
        assert_eq!(f16::write(&[f16::ONE]), [0, 0x3c]);
    }
}
