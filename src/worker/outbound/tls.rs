//! TLS over an outbound socket, as a client.
//!
//! Owns the state of rustls and what it has encrypted. There are few such connections, so each
//! keeps the buffers of its own that rustls gives it. Invariant: nothing more is encrypted while
//! something encrypted has not left.

use std::{
    error::Error,
    io::{self, BufRead as _, Read as _, Write as _},
    sync::Arc,
};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

/// What is encrypted at a time: a record.
const PLAIN_MAX_BYTES: usize = 16 * 1024;

/// The client's side of one TLS connection.
pub(super) struct Tls(Box<ClientConnection>);

impl Tls {
    /// Of a connection to who is to be `name`.
    pub(super) fn new(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        ClientConnection::new(config, name).map(|connection| Self(Box::new(connection)))
    }

    /// Whether the handshake is still under way.
    pub(super) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Whether something is encrypted and has not left.
    pub(super) fn has_unsent(&self) -> bool {
        self.0.wants_write()
    }

    /// Has `send` send some of what is encrypted.
    ///
    /// # Errors
    /// Those of `send`.
    pub(super) fn send(
        &mut self,
        send: impl FnMut(&[u8]) -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        self.0.write_tls(&mut Sending(send))
    }

    /// Encrypts the first of `bytes`; says how many.
    pub(super) fn seal(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!self.has_unsent(), "what is encrypted leaves first");
        let first = &bytes[..bytes.len().min(PLAIN_MAX_BYTES)];
        self.0.writer().write(first)
    }

    /// Takes what has come, and hands what is decrypted to `take`.
    ///
    /// # Errors
    /// What is no TLS, or not by who it should be, or what `take` makes of it. What rustls has to
    /// say to that is to be sent yet.
    pub(super) fn receive(
        &mut self,
        mut come: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        while !come.is_empty() {
            let before = come.len();
            self.0.read_tls(&mut come.by_ref())?;
            assert!(come.len() < before, "what was decrypted before was taken");
            let state = self.0.process_new_packets()?;
            let mut waiting = state.plaintext_bytes_to_read();
            while waiting > 0 {
                let mut reader = self.0.reader();
                let plain = reader.fill_buf()?;
                let count = plain.len();
                take(plain)?;
                reader.consume(count);
                waiting -= count;
            }
            if state.peer_has_closed() {
                return Err("the other side closed".into());
            }
        }
        Ok(())
    }
}

/// A place to write to, as rustls wants it.
struct Sending<F>(F);

impl<F: FnMut(&[u8]) -> rustix::io::Result<usize>> io::Write for Sending<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok((self.0)(bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
