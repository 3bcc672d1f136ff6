//! A connection that asks the kernel for as little as it can.
//!
//! A receive follows only a readiness, as in Quorate's own client: the usual order, which tries first, ends
//! in a receive that fails for every answer that has to be waited for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use smol::Async;

/// A TCP connection. A clone may receive while another one sends.
#[derive(Clone, Debug)]
pub(super) struct Stream(Arc<Async<TcpStream>>);

impl Stream {
    /// Connects, and sends small messages at once.
    pub(super) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = Async::<TcpStream>::connect(address).await?;
        stream.get_ref().set_nodelay(true)?;
        Ok(Self(Arc::new(stream)))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_readable(cx))?;
            match self.0.get_ref().read(buffer) {
                Err(error) if is_temporary(&error) => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.0.get_ref().write(bytes) {
                Err(error) if is_temporary(&error) => ready!(self.0.poll_writable(cx))?,
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.get_ref().shutdown(Shutdown::Write))
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use futures_lite::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn what_is_more_than_sockets_hold_comes_back_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut output = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut output).unwrap();
        });
        let sent: Vec<u8> = (0..8 << 20_u32).map(|number| number as u8).collect();
        let received = smol::block_on(async {
            let stream = Stream::connect(address).await.unwrap();
            let (mut input, mut output) = (stream.clone(), stream);
            let send = async {
                output.write_all(&sent).await.unwrap();
                output.close().await.unwrap();
            };
            let mut received = Vec::new();
            let receive = async { input.read_to_end(&mut received).await.unwrap() };
            futures_lite::future::zip(send, receive).await;
            received
        });
        assert!(received == sent);
        echo.join().unwrap();
    }
}
