//! Keys and values of any serde type.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::Stream;
use quorate_protocol::Index;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::operations::{GetCall, WriteCall};
use crate::{Change, Client, Consistency, Error, Expected, Scan, SessionToken, Watch, prefix};

/// A part of the store whose keys are all of one type, and whose values are all of another, encoded with postcard.
///
/// Its keys begin with a prefix of its own, so that several parts do not meet. The order of a scan is that of the
/// encoded keys: text in the order of its length first, and numbers in no order that says anything.
///
/// Several writes, of other parts, too, are done together by [`Client::batch_of`].
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

impl<'a, K: Serialize, V: DeserializeOwned> Typed<'a, K, V> {
    /// The value of a key; none if it is absent. [`Error::Typed`] if the key cannot be encoded, or what is there is no such
    /// value.
    pub fn get(&self, key: &K) -> TypedGet<'a, V> {
        TypedGet { get: self.key(key).map(|key| self.client.get(key)), types: PhantomData }
    }

    /// The changes of one key, as they are committed. [`Error::Typed`] if it cannot be encoded.
    pub fn watch_key(&self, key: &K) -> Result<TypedWatch<K, V>, Error> {
        Ok(self.changes(self.client.watch_key(&self.key(key)?)))
    }
}

impl<K: DeserializeOwned, V: DeserializeOwned> Typed<'_, K, V> {
    /// All keys with their values: a stream in the order of the encoded keys.
    pub fn scan(&self) -> TypedScan<'_, K, V> {
        let scan = self.client.scan(prefix(&self.prefix));
        TypedScan { scan, prefix_bytes: self.prefix.len(), types: PhantomData }
    }

    /// The changes of all keys, as they are committed.
    pub fn watch(&self) -> TypedWatch<K, V> {
        self.changes(self.client.watch(prefix(&self.prefix)))
    }
}

impl<K, V> Typed<'_, K, V> {
    fn changes(&self, watch: Watch) -> TypedWatch<K, V> {
        TypedWatch { watch, prefix_bytes: self.prefix.len(), types: PhantomData }
    }
}

/// A read of one key of a [`Typed`] part that happens when it is awaited.
#[must_use = "a read happens when it is awaited"]
pub struct TypedGet<'a, V> {
    /// An error if the key could not be encoded.
    get: Result<GetCall<'a>, Error>,
    types: PhantomData<fn() -> V>,
}

impl<V> TypedGet<'_, V> {
    /// How fresh it is; as the client's reads are, unless set.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.get = self.get.map(|get| get.consistency(consistency));
        self
    }

    /// How long it may take, retries included; the client's deadline unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.get = self.get.map(|get| get.deadline(deadline));
        self
    }
}

impl<V: DeserializeOwned> Future for TypedGet<'_, V> {
    type Output = Result<Option<TypedValue<V>>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let found = match &mut self.get {
            Ok(get) => ready!(Pin::new(get).poll(cx))?.value,
            Err(error) => return Poll::Ready(Err(error.clone())),
        };
        let typed =
            |found: crate::Value| Ok(TypedValue { revision: found.revision, value: decode(&found.value)? });
        Poll::Ready(found.map(typed).transpose())
    }
}

/// The keys of a [`Typed`] part with their values: a [`Stream`].
#[must_use = "a scan reads when its items are asked for"]
pub struct TypedScan<'a, K, V> {
    scan: Scan<'a>,
    prefix_bytes: usize,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> TypedScan<'_, K, V> {
    /// Items of a page, at most, as in [`Scan::items_per_page`].
    pub fn items_per_page(mut self, items: usize) -> Self {
        self.scan = self.scan.items_per_page(items);
        self
    }

    /// How fresh each page is; as the client's reads are, unless set.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.scan = self.scan.consistency(consistency);
        self
    }

    /// How long a page may take, retries included; the client's deadline unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.scan = self.scan.deadline(deadline);
        self
    }
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
        let item = ready!(Pin::new(&mut self.scan).poll_next(cx));
        Poll::Ready(item.map(|item| {
            let item = item?;
            let value = TypedValue { revision: item.revision, value: decode(&item.value)? };
            Ok((decode(&item.key[self.prefix_bytes..])?, value))
        }))
    }
}

/// What happened to a key of a [`Typed`] part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TypedChange<K, V> {
    /// Index of the entry that did it: the key's revision, if it has a value now. The changes of one batch share it.
    pub index: Index,
    /// The key.
    pub key: K,
    /// Its new value; none if it was removed.
    pub value: Option<V>,
}

/// The changes of a [`Typed`] part, or of one of its keys: a [`Stream`], which keeps what a [`Watch`] promises.
///
/// A change that is not of its types is an [`Error::Typed`]; the next one is had all the same.
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// let mut watch = client.typed::<u64, String>("job/").watch();
/// while let Some(change) = watch.next().await {
///     let change = change?;
///     println!("job {}: {:?}", change.key, change.value);
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a watch begins when a change is asked for"]
pub struct TypedWatch<K, V> {
    watch: Watch,
    prefix_bytes: usize,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> TypedWatch<K, V> {
    /// Begins behind what a token has seen, as [`Watch::after`].
    pub fn after(mut self, token: SessionToken) -> Self {
        self.watch = self.watch.after(token);
        self
    }

    /// Behind what another watch goes on, as [`Watch::token`].
    pub fn token(&self) -> Option<SessionToken> {
        self.watch.token()
    }
}

impl<K: DeserializeOwned, V: DeserializeOwned> TypedWatch<K, V> {
    /// The next change.
    pub async fn next(&mut self) -> Option<Result<TypedChange<K, V>, Error>> {
        futures_lite::StreamExt::next(self).await
    }

    fn typed(&self, change: Change) -> Result<TypedChange<K, V>, Error> {
        let value = change.value.map(|value| decode(&value)).transpose()?;
        Ok(TypedChange { index: change.index, key: decode(&change.key[self.prefix_bytes..])?, value })
    }
}

impl<K: DeserializeOwned, V: DeserializeOwned> Stream for TypedWatch<K, V> {
    type Item = Result<TypedChange<K, V>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let change = ready!(Pin::new(&mut self.watch).poll_next(cx));
        Poll::Ready(change.map(|change| self.typed(change?)))
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
