//! The only unsafe module: what the system offers and no safe interface covers.
//!
//! Each function here is safe to call with any argument and says at its `unsafe` block why.
#![allow(unsafe_code, reason = "the one place for it")]

use std::{
    io,
    os::fd::{AsFd, FromRawFd, IntoRawFd},
};

use glommio::net::TcpStream;
use rustix::io::Errno;
use rustix::io_uring::{io_uring_params, io_uring_setup};

/// Whether this process may set up an io_uring: makes the smallest one and closes it again.
///
/// The executors panic where the system refuses; this asks first and brings back the reason.
///
/// # Errors
/// What the system says.
pub fn io_uring_available() -> Result<(), Errno> {
    let mut parameters = io_uring_params::default();
    // SAFETY: `parameters` is a valid, zeroed structure of exactly the type the kernel reads and writes, borrowed for the
    // length of the call; no flag in it names other memory or descriptors. The result is owned and closed on drop.
    let ring = unsafe { io_uring_setup(1, &mut parameters) }?;
    drop(ring);
    Ok(())
}

/// Lets glommio watch any pollable descriptor by the readiness poll a new [`TcpStream`] starts with.
///
/// The stream owns a duplicate of `fd`, so dropping it closes nothing else. It must only be polled for reading.
///
/// # Errors
/// Where no descriptor is free for the duplicate.
pub fn watch(fd: impl AsFd) -> io::Result<TcpStream> {
    let duplicate = fd.as_fd().try_clone_to_owned()?;
    // SAFETY: the descriptor is open and owned by nobody else: it was duplicated on the line above and is given away here.
    Ok(unsafe { TcpStream::from_raw_fd(duplicate.into_raw_fd()) })
}
