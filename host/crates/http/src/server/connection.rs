//! A connection's socket, with the guards that count it and a limit on how long its
//! client may accept no bytes.
//!
//! [`Connection`] owns the socket, in a WebSocket too, so the host counts every
//! connection until its socket is closed.
//!
//! A client may close its side once it has sent a request, and still gets its answer.
//! The host therefore reads nothing while a request is under way, and a client that is
//! gone shows only when something is sent to it. [`HalfClosed`] tells a stream when to
//! try.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::tls::Peek;

/// Whether a request's client has closed its side, and may be gone. Over TLS this
/// stays unknown, because the client's goodbye comes before the end of the socket.
#[derive(Clone, Debug, Default)]
pub struct HalfClosed(CancellationToken);

impl HalfClosed {
    pub fn is_so(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the client has closed its side.
    pub async fn becomes_so(&self) {
        self.0.cancelled().await;
    }
}

pub struct Connection<S> {
    stream: S,
    half_closed: HalfClosed,
    write_timeout: Duration,
    /// Timer of a write that waits for the client.
    stalled: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
    _token: TaskTrackerToken,
}

impl<S> Connection<S> {
    pub fn new(
        stream: S,
        write_timeout: Duration,
        permit: OwnedSemaphorePermit,
        token: TaskTrackerToken,
    ) -> Self {
        metrics::gauge!("courtside_http_connections").increment(1.0);
        Self {
            stream,
            half_closed: HalfClosed::default(),
            write_timeout,
            stalled: None,
            _permit: permit,
            _token: token,
        }
    }

    pub fn half_closed(&self) -> HalfClosed {
        self.half_closed.clone()
    }

    /// Returns the result of a write, or an error once the write has waited for too long.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let deadline = Instant::now() + self.write_timeout;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: Peek + Sync> Peek for Connection<S> {
    async fn first_byte(&self) -> io::Result<Option<u8>> {
        self.stream.first_byte().await
    }

    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.stream.poll_end(cx)
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        metrics::gauge!("courtside_http_connections").decrement(1.0);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Peek + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes each time that a connection wakes up, whether it reads or not.
        if !self.half_closed.is_so() {
            match self.stream.poll_end(cx) {
                Poll::Ready(Ok(true)) => self.half_closed.0.cancel(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(false)) | Poll::Pending => {}
            }
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
