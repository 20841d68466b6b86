//! Listening sockets: one per core on the same address, so that the kernel spreads connections over the cores.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::error::{ExitCode, StartupError};

/// Socket options of a listener and of the connections it accepts.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// Connections the kernel holds until they are accepted.
    pub backlog: i32,
    /// Send small lines at once.
    pub nodelay: bool,
    /// Idle time before the kernel probes the peer; `None`: never.
    pub keepalive: Option<Duration>,
    /// How long sent data may stay unacknowledged before the kernel gives the peer up; `None`: the system's default.
    pub user_timeout: Option<Duration>,
    /// Kernel send buffer in bytes.
    pub send_buffer_bytes: usize,
    /// Kernel receive buffer in bytes.
    pub receive_buffer_bytes: usize,
}

/// Binds `count` listeners to `address`. With port 0 the first one takes any free port and the others share it.
///
/// # Errors
/// Where the address cannot be had; the message says why and what to do.
pub fn bind_all(
    address: SocketAddr,
    count: usize,
    options: &SocketOptions,
) -> Result<(Vec<Socket>, SocketAddr), StartupError> {
    let explain = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there: stop it, or set gateway_service.port to another port (0: any free one)"
            }
            io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address: set gateway_service.host to one it has"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher port or grant it"
            }
            _ => "",
        };
        StartupError::new(
            ExitCode::Preflight,
            format!("cannot listen on {address}"),
            error,
            remedy,
        )
    };
    // SO_REUSEPORT would let a second gateway of the same user share the port unnoticed: find out first without it.
    if address.port() != 0 {
        probe(address).map_err(explain)?;
    }
    let first = bind(address, options).map_err(explain)?;
    let bound = first
        .local_addr()
        .map_err(explain)?
        .as_socket()
        .unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind(bound, options).map_err(explain)?);
    }
    Ok((sockets, bound))
}

fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of an earlier run that linger in TIME_WAIT are no reason to refuse.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // Two sockets with SO_REUSEADDR can both be bound; only one of them can listen.
    socket.listen(1)
}

fn bind(address: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // All of these are inherited by accepted connections, which saves the calls there. Buffer sizes must be set
    // before the handshake to shape the advertised window.
    socket.set_tcp_nodelay(options.nodelay)?;
    socket.set_send_buffer_size(options.send_buffer_bytes)?;
    socket.set_recv_buffer_size(options.receive_buffer_bytes)?;
    let socket_ref = SockRef::from(&socket);
    if let Some(idle) = options.keepalive {
        socket_ref.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))?;
    }
    socket_ref.set_tcp_user_timeout(options.user_timeout)?;
    socket.bind(&address.into())?;
    socket.listen(options.backlog)?;
    Ok(socket)
}
