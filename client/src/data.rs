//! Keys and values, as callers have them.

use std::borrow::Cow;

/// A key or a value: bytes, borrowed or owned. Anything that is bytes or text becomes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Data<'a>(Cow<'a, [u8]>);

impl Data<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<'a, T: AsRef<[u8]> + ?Sized> From<&'a T> for Data<'a> {
    fn from(bytes: &'a T) -> Self {
        Self(Cow::Borrowed(bytes.as_ref()))
    }
}

impl From<Vec<u8>> for Data<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Cow::Owned(bytes))
    }
}

impl From<Box<[u8]>> for Data<'_> {
    fn from(bytes: Box<[u8]>) -> Self {
        Self(Cow::Owned(bytes.into()))
    }
}

impl From<String> for Data<'_> {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text.into_bytes()))
    }
}

impl<const N: usize> From<[u8; N]> for Data<'_> {
    fn from(bytes: [u8; N]) -> Self {
        Self(Cow::Owned(bytes.into()))
    }
}
