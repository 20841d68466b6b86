//! Whether a Redis is there and lets this process in, asked once by whoever may wait for it.

use std::{
    error::Error,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned};

use super::{
    connection::{Connection, Received, answer},
    credentials::Credentials,
};
use crate::tls::client::Connector;

/// What is read at once, and how long a value may be.
const READ_BYTES: usize = 4096;

/// Logs in at `address` as the bus would, and asks for an answer. Each step takes no longer than
/// `patience`.
///
/// # Errors
/// What went wrong, in words.
pub fn ping(
    address: SocketAddr,
    tls: Option<&Connector>,
    credentials: Option<&Credentials>,
    patience: Duration,
) -> Result<(), Box<dyn Error>> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let Some(tls) = tls else {
        return log_in(stream, credentials);
    };
    let client = ClientConnection::new(tls.config(), tls.name())?;
    log_in(StreamOwned::new(client, stream), credentials)
}

fn log_in(
    mut stream: impl Read + Write,
    credentials: Option<&Credentials>,
) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let mut connection = Connection::new(READ_BYTES);
    let mut commands = Vec::new();
    connection.open(credentials, 0, &mut commands);
    redis::cmd("PING").write_packed_command(&mut commands);
    stream.write_all(&commands)?;
    let mut buffer = [0; READ_BYTES];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err("it closed the connection".into());
        }
        let mut bytes = &buffer[..count];
        while let Some(received) = connection.next(&mut bytes)? {
            if let Received::Value(value) = received {
                return Ok(answer(value)??);
            }
        }
        // One byte now and then is no answer.
        connection.advance(begun.elapsed().as_millis() as u64)?;
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// What a ping comes to where `answers` is all that a server says before it closes.
    fn ping_of(answers: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut commands = [0; 256];
            let count = stream.read(&mut commands).expect("commands");
            stream.write_all(answers).expect("written");
            commands[..count].to_vec()
        });
        let outcome = ping(address, None, None, PATIENCE);
        let commands = server.join().expect("no panic");
        assert!(commands.starts_with(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"));
        outcome.map_err(|error| error.to_string())
    }

    #[test]
    fn whoever_is_let_in_and_answered_has_a_redis_and_nobody_else() {
        assert_eq!(ping_of(b"%1\r\n$5\r\nproto\r\n:3\r\n+PONG\r\n"), Ok(()));
        let refused = ping_of(b"-NOAUTH Authentication required.\r\n");
        assert_eq!(
            refused,
            Err("it refused: NOAUTH Authentication required.".to_owned())
        );
        let refused = ping_of(b"%0\r\n-NOPERM no ping\r\n");
        assert_eq!(refused, Err("NOPERM no ping".to_owned()));
        let gone = ping_of(b"%0\r\n");
        assert_eq!(gone, Err("it closed the connection".to_owned()));
    }
}
