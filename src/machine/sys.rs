//! The only unsafe module: what the system offers and no safe interface covers.
//!
//! Each function here is safe to call with any argument and says at its `unsafe` block why.
#![allow(unsafe_code, reason = "the one place for it")]

use std::{io, os::fd::AsFd};

use rustix::{
    io::Errno,
    io_uring::{io_uring_params, io_uring_setup},
    ioctl::{Getter, Opcode, ioctl},
};

/// `SIOCOUTQ`, which has the number of the terminals' `TIOCOUTQ`.
const SIOCOUTQ: Opcode = libc::TIOCOUTQ as Opcode;

/// Whether this process may set up an io_uring: makes the smallest one and closes it again.
///
/// The executors panic where the system refuses; this asks first and brings back the reason.
///
/// # Errors
/// What the system says.
pub(super) fn io_uring_available() -> Result<(), Errno> {
    let mut parameters = io_uring_params::default();
    // SAFETY: `parameters` is a valid, zeroed structure of exactly the type the kernel reads and
    // writes, borrowed for the length of the call; no flag in it names other memory or descriptors.
    // The result is owned and closed on drop.
    let ring = unsafe { io_uring_setup(1, &mut parameters) }?;
    drop(ring);
    Ok(())
}

/// How many bytes written to a TCP socket its peer has not acknowledged, those not sent yet
/// included; the end of our side, once it is said, counts as one.
///
/// # Errors
/// What the system says: the descriptor is no connected socket.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    // SAFETY: the request takes no argument but a pointer to a C int, which the kernel writes;
    // `Getter` passes one to an integer of its own. On other descriptors than sockets it reads a
    // queue's length too, or fails.
    let length = unsafe { ioctl(socket, Getter::<SIOCOUTQ, i32>::new()) }?;
    Ok(u64::try_from(length).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Two ends of one connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
        (near, listener.accept().expect("accept").0)
    }

    fn settle(socket: &TcpStream) -> u64 {
        let mut before = u64::MAX;
        loop {
            let now = unacknowledged(socket).expect("an answer");
            if now == before || now == 0 {
                return now;
            }
            before = now;
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
    }

    #[test]
    fn what_a_peer_has_is_acknowledged_whether_it_is_read_or_not() {
        let (mut near, mut far) = pair();
        assert_eq!(unacknowledged(&near).expect("an answer"), 0);
        near.write_all(b"hello").expect("write");
        assert_eq!(settle(&near), 0);
        far.read_exact(&mut [0; 5]).expect("read");
        drop(far);
        assert_eq!(settle(&near), 0);
    }

    #[test]
    fn what_a_peer_has_no_room_for_is_not_acknowledged_not_even_once_it_has_gone() {
        let (near, far) = pair();
        near.set_nonblocking(true).expect("nonblocking");
        let mut written = 0;
        while let Ok(count) = (&near).write(&[0; 4096]) {
            written += count as u64;
        }
        let outstanding = settle(&near);
        assert!(0 < outstanding && outstanding < written);
        // With something unread, this is a reset.
        drop(far);
        assert_eq!(settle(&near), outstanding);
    }
}
