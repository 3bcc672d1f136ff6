//! Keys and values of any serde type.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_lite::Stream;
use quorate_protocol::Index;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::operations::WriteCall;
use crate::{Client, Error, Expected, Scan, prefix};

/// A part of the store whose keys are all of one type, and whose values are all of another, encoded with postcard.
///
/// Its keys begin with a prefix of its own, so that several parts do not meet. The order of a scan is that of the
/// encoded keys: text in the order of its length first, and numbers in no order that says anything.
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// let names = client.typed::<i32, String>("name/");
/// names.set(&7, &"seven".to_owned())?.await?;
/// assert_eq!(names.get(&7).await?.map(|found| found.value).as_deref(), Some("seven"));
/// # Ok(())
/// # }
/// ```
pub struct Typed<'a, K, V> {
    client: &'a Client,
    prefix: Vec<u8>,
    types: PhantomData<fn(K) -> V>,
}

/// A value of its type, and when it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TypedValue<V> {
    /// Index of the entry that last wrote the key; what a compare-and-set expects.
    pub revision: Index,
    /// The value.
    pub value: V,
}

impl Client {
    /// The part of the store whose keys begin with `prefix`, with keys and values of these types.
    pub fn typed<K, V>(&self, prefix: impl Into<Vec<u8>>) -> Typed<'_, K, V> {
        Typed { client: self, prefix: prefix.into(), types: PhantomData }
    }
}

impl<'a, K: Serialize, V: Serialize> Typed<'a, K, V> {
    /// Gives a key a value. [`Error::Typed`] if one of them cannot be encoded; other errors when it is awaited.
    pub fn set(&self, key: &K, value: &V) -> Result<WriteCall<'a>, Error> {
        Ok(self.client.set(self.key(key)?, encode(value, Vec::new())?))
    }

    /// Gives a key a value if it is as expected. [`Error::Typed`] if one of them cannot be encoded.
    pub fn compare_and_set(&self, key: &K, expected: Expected, value: &V) -> Result<WriteCall<'a>, Error> {
        Ok(self.client.compare_and_set(self.key(key)?, expected, encode(value, Vec::new())?))
    }
}

impl<'a, K: Serialize, V> Typed<'a, K, V> {
    /// Removes a key; no error if it is absent. [`Error::Typed`] if the key cannot be encoded.
    pub fn delete(&self, key: &K) -> Result<WriteCall<'a>, Error> {
        Ok(self.client.delete(self.key(key)?))
    }

    fn key(&self, key: &K) -> Result<Vec<u8>, Error> {
        encode(key, self.prefix.clone())
    }
}

impl<K: Serialize, V: DeserializeOwned> Typed<'_, K, V> {
    /// The value of a key; none if it is absent. [`Error::Typed`] if what is there is no such value.
    pub async fn get(&self, key: &K) -> Result<Option<TypedValue<V>>, Error> {
        let found = self.client.get(self.key(key)?).await?.value;
        found
            .map(|found| Ok(TypedValue { revision: found.revision, value: decode(&found.value)? }))
            .transpose()
    }
}

impl<K: DeserializeOwned, V: DeserializeOwned> Typed<'_, K, V> {
    /// All keys with their values: a stream in the order of the encoded keys.
    pub fn scan(&self) -> TypedScan<'_, K, V> {
        let scan = self.client.scan(prefix(&self.prefix));
        TypedScan { scan, prefix_bytes: self.prefix.len(), types: PhantomData }
    }
}

/// The keys of a [`Typed`] part with their values: a [`Stream`].
#[must_use = "a scan reads when its items are asked for"]
pub struct TypedScan<'a, K, V> {
    scan: Scan<'a>,
    prefix_bytes: usize,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: DeserializeOwned, V: DeserializeOwned> TypedScan<'_, K, V> {
    /// The next key with its value; none after the last.
    pub async fn next(&mut self) -> Option<Result<(K, TypedValue<V>), Error>> {
        futures_lite::StreamExt::next(self).await
    }
}

impl<K: DeserializeOwned, V: DeserializeOwned> Stream for TypedScan<'_, K, V> {
    type Item = Result<(K, TypedValue<V>), Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = std::task::ready!(Pin::new(&mut self.scan).poll_next(cx));
        Poll::Ready(item.map(|item| {
            let item = item?;
            let value = TypedValue { revision: item.revision, value: decode(&item.value)? };
            Ok((decode(&item.key[self.prefix_bytes..])?, value))
        }))
    }
}

fn encode(value: &impl Serialize, into: Vec<u8>) -> Result<Vec<u8>, Error> {
    postcard::to_extend(value, into).map_err(|error| Error::Typed(Arc::from(error.to_string())))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let typed = |error: &dyn std::fmt::Display| Error::Typed(Arc::from(error.to_string()));
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(typed(&format!("{} bytes are left over", rest.len()))),
        Err(error) => Err(typed(&error)),
    }
}
