//! Reading one postcard message, strictly.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use thiserror::Error;

/// A body that is not the message it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MessageError {
    /// The bytes are not a value of the type.
    #[error("the message cannot be decoded")]
    Malformed,
    /// The bytes are well formed, but hold a variant or a value that this version does not know.
    #[error("the message says something that this version does not know")]
    Unknown,
    /// The message is followed by bytes that do not belong to it.
    #[error("the message has {0} bytes too many")]
    TrailingBytes(usize),
}

/// Reads a message that must fill `body` exactly. What the message borrows are slices of `body`.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, MessageError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(MessageError::TrailingBytes(rest.len())),
        Err(postcard::Error::SerdeDeCustom) => Err(MessageError::Unknown),
        Err(_) => Err(MessageError::Malformed),
    }
}

/// Reads a message's first field, whatever follows it: so a request that cannot be understood can still be
/// answered under its id.
pub fn parse_prefix<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    postcard::take_from_bytes(body).ok().map(|(field, _)| field)
}

/// Reads a sequence of at most `MAX` elements: without the bound a few bytes an element on the wire become
/// many in memory.
pub(crate) fn bounded<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Bounded<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Bounded<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
            let claimed = sequence.size_hint().unwrap_or(0);
            if claimed > MAX {
                return Err(A::Error::invalid_length(claimed, &self));
            }
            let mut elements = Vec::new();
            while let Some(element) = sequence.next_element()? {
                if elements.len() == MAX {
                    return Err(A::Error::invalid_length(MAX + 1, &self));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }

    deserializer.deserialize_seq(Bounded::<T, MAX>(PhantomData))
}
