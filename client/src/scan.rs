//! Reading a range, page by page.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{Stream, StreamExt};
use quorate_protocol::limits;
use quorate_protocol::request::{Operation, Range, RangeEnd};

use crate::call::Call;
use crate::client::Client;
use crate::reply::Reply;
use crate::retry::Repeat;
use crate::{Consistency, Error, KeyValue, Page};

/// Items of a page, unless set.
const ITEMS_PER_PAGE: usize = 1000;

/// The keys of a range, in order: a [`Stream`] of keys with their values.
///
/// It reads a page at a time, when its items are wanted. Each page is as fresh as its own read: together they are no
/// snapshot. After an error the same page can be asked for again.
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// let mut scan = client.scan(quorate_client::prefix(b"user/"));
/// while let Some(item) = scan.next().await {
///     println!("{}", String::from_utf8_lossy(&item?.key));
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a scan reads when its items are asked for"]
pub struct Scan<'a> {
    parameters: Parameters<'a>,
    /// Where the next page begins; none after the last.
    next: Option<Vec<u8>>,
    items: VecDeque<KeyValue>,
    running: Option<RunningPage<'a>>,
}

type RunningPage<'a> = Pin<Box<dyn Future<Output = Result<Page, Error>> + Send + 'a>>;

#[derive(Clone, Copy)]
struct Parameters<'a> {
    client: &'a Client,
    end: RangeEnd<'a>,
    items_per_page: usize,
    consistency: Consistency,
    deadline: Duration,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(client: &'a Client, range: Range<'a>) -> Self {
        let (consistency, deadline) = (client.consistency, client.deadline);
        let parameters =
            Parameters { client, end: range.end, items_per_page: ITEMS_PER_PAGE, consistency, deadline };
        Self { parameters, next: Some(range.start.to_vec()), items: VecDeque::new(), running: None }
    }

    /// Items of a page, at most; 1000 unless set, and never more than [`limits::SCAN_ITEMS_MAX`]. A page ends, too,
    /// when its keys and values reach [`limits::SCAN_PAGE_BYTES_MAX`].
    pub fn items_per_page(mut self, items: usize) -> Self {
        self.parameters.items_per_page = items;
        self
    }

    /// How fresh each page is; as the client's reads are, unless set.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.parameters.consistency = consistency;
        self
    }

    /// How long a page may take, retries included; the client's deadline unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.parameters.deadline = deadline;
        self
    }

    /// The next page; none after the last. What [`next`](Self::next) has not handed out of the page before is lost.
    pub async fn next_page(&mut self) -> Option<Result<Page, Error>> {
        self.items.clear();
        std::future::poll_fn(|cx| self.poll_page(cx)).await
    }

    /// The next key with its value; none after the last.
    pub async fn next(&mut self) -> Option<Result<KeyValue, Error>> {
        StreamExt::next(self).await
    }

    fn poll_page(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Page, Error>>> {
        if self.running.is_none() {
            let Some(start) = self.next.clone() else { return Poll::Ready(None) };
            self.running = Some(Box::pin(self.parameters.page(start)));
        }
        let running = self.running.as_mut().expect("just set");
        let page = std::task::ready!(running.as_mut().poll(cx));
        self.running = None;
        if let Ok(page) = &page {
            self.next = match page.items.last() {
                Some(last) if page.more => Some([last.key.as_slice(), &[0]].concat()),
                _ => None,
            };
        }
        Poll::Ready(Some(page))
    }
}

impl Stream for Scan<'_> {
    type Item = Result<KeyValue, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Poll::Ready(Some(Ok(item)));
            }
            match std::task::ready!(self.poll_page(cx)) {
                Some(Ok(page)) => self.items = page.items.into(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Parameters<'_> {
    async fn page(self, start: Vec<u8>) -> Result<Page, Error> {
        let shared = &self.client.handle.shared;
        let entered = shared.enter(self.deadline)?;
        let (consistency, to) = self.consistency.of(self.client);
        let range = Range { start: &start, end: self.end };
        let items_max = self.items_per_page.clamp(1, limits::SCAN_ITEMS_MAX) as u32;
        let call = Call::new(shared, entered.deadline, to, Repeat::Harmless);
        match call.run(Operation::Scan { consistency, range, items_max }).await? {
            Reply::Page(page) => {
                shared.saw(page.token.0);
                Ok(page)
            }
            _ => Err(Error::BadAnswer),
        }
    }
}

/// The range of all keys that begin with `prefix`; of all keys, if it is empty.
pub fn prefix(prefix: &[u8]) -> Range<'_> {
    Range { start: prefix, end: RangeEnd::Prefix(prefix) }
}
