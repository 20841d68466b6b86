//! The sockets a core opens itself: to backends and to Redis. Connecting, and carrying bytes both ways until one side ends.
//!
//! Owns the sockets. Knows nothing of what is said: that is the [`Conversation`]'s. Everything that was said in a turn of the
//! loop leaves in one `send`, since this task runs after those that spoke.

use std::{
    cell::RefCell,
    error::Error,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use crate::upstream::Conversation;

/// How long connecting may take. Servers are near; one that is not there after this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// What one read takes at most; one buffer of this size serves all such sockets of the core.
const READ_BYTES: usize = 64 * 1024;
/// Reads at a time, so that one flood does not keep the others waiting.
const READS_PER_POLL: usize = 4;
/// A buffer that grew larger than this in a burst is given back.
const KEPT_BYTES: usize = 256 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Connects to `address`.
///
/// # Errors
/// Why that is not possible.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT).await?;
    // Where nobody listens, a socket may be given that very port for its own and end up connected to itself.
    if stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Carries bytes both ways until either side ends; says why, or `Ok` if our side closed.
///
/// # Errors
/// Why the connection is over.
pub async fn carry(
    stream: &mut TcpStream,
    conversation: &impl Conversation,
) -> Result<(), Box<dyn Error>> {
    let mut sending = Sending::default();
    poll_fn(|context| {
        match sending.poll(stream, conversation, context) {
            Poll::Ready(ended) => return Poll::Ready(ended),
            Poll::Pending => {}
        }
        for _ in 0..READS_PER_POLL {
            match poll_read(stream, conversation, context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

fn poll_read(
    stream: &mut TcpStream,
    conversation: &impl Conversation,
    context: &mut Context<'_>,
) -> Poll<Result<(), Box<dyn Error>>> {
    BUFFER.with_borrow_mut(|buffer| {
        Poll::Ready(
            match std::task::ready!(Pin::new(stream).poll_read(context, buffer)) {
                Ok(0) => Err("the other side closed".into()),
                Ok(count) => conversation.received(&buffer[..count]),
                Err(error) => Err(error.into()),
            },
        )
    })
}

/// What is on its way into the socket.
#[derive(Default)]
struct Sending {
    bytes: Vec<u8>,
    sent: usize,
}

impl Sending {
    /// Sends what there is; ready only when there is no going on.
    fn poll(
        &mut self,
        stream: &mut TcpStream,
        conversation: &impl Conversation,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Box<dyn Error>>> {
        loop {
            if self.sent == self.bytes.len() {
                self.bytes.clear();
                self.bytes.shrink_to(KEPT_BYTES);
                self.sent = 0;
                if !conversation.outgoing().take(context, &mut self.bytes) {
                    return Poll::Ready(Ok(()));
                }
                if self.bytes.is_empty() {
                    return Poll::Pending;
                }
            }
            let unsent = &self.bytes[self.sent..];
            match std::task::ready!(Pin::new(&mut *stream).poll_write(context, unsent)) {
                Ok(count) => self.sent += count,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}
