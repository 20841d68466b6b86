//! Listening sockets: one per core on the same address, so that the kernel spreads connections over
//! the cores.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::preface::Expected;
use crate::{
    base::error::{ExitCode, StartupError},
    tls::Acceptor,
};

/// Socket options of a listener and of the connections it accepts.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// Connections the kernel holds until they are accepted.
    pub backlog: i32,
    /// Send small lines at once.
    pub nodelay: bool,
    /// Idle time before the kernel probes the peer; `None`: never.
    pub keepalive: Option<Duration>,
    /// How long sent data may stay unacknowledged before the peer is given up; `None`: the system's
    /// default. The kernel's own limit is longer where it probes: see `kernel_user_timeout`.
    pub user_timeout: Option<Duration>,
    /// Kernel send buffer in bytes, of a connection on which nobody has logged in yet.
    pub send_buffer_bytes: usize,
    /// Kernel receive buffer in bytes.
    pub receive_buffer_bytes: usize,
}

/// A core's share of a listener.
pub struct Listener {
    /// Its listening socket.
    pub socket: Socket,
    /// What is expected of connections to it.
    pub expected: Expected,
    /// What TLS connections to it begin with, where there are some.
    pub acceptor: Option<Arc<Acceptor>>,
}

/// A peer that is silent gets so many probes, one each interval. The last one has had its interval
/// within 30 s of the first.
const PROBES: u32 = 3;
const PROBE_INTERVAL: Duration = Duration::from_secs(9);
/// Between the last probe but one and the last.
const BEFORE_LAST_PROBE: Duration = Duration::from_secs(22);
/// When a silent peer is to be given up at the latest, counted from the first probe.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// What is set as TCP_USER_TIMEOUT.
///
/// With that option Linux does not count probes: it gives an idle peer up at the first probe that
/// finds the time over since the peer was last heard of, which includes the silence before the
/// first probe. A time shorter than that silence would end a connection for one lost packet, one
/// much longer would keep dead ones. So the time is set to pass between the last two probes, unless
/// more is wanted. That sent data is acknowledged in a shorter time, the core sees to.
fn kernel_user_timeout(options: &SocketOptions) -> Option<Duration> {
    match (options.keepalive, options.user_timeout) {
        (Some(idle), Some(wanted)) if wanted <= idle + GIVEN_UP => Some(idle + BEFORE_LAST_PROBE),
        (_, wanted) => wanted,
    }
}

/// Binds `count` listeners to `address`, which `key` of the configuration sets. With port 0 the
/// first one takes any free port and the others share it.
///
/// # Errors
/// Where the address cannot be had; the message says why and what to do.
pub fn bind_all(
    address: SocketAddr,
    key: &str,
    count: usize,
    options: &SocketOptions,
) -> Result<(Vec<Socket>, SocketAddr), StartupError> {
    let explain = |error: io::Error| {
        let remedy = remedy(&error, key);
        let what = format!("cannot listen on {address}");
        StartupError::new(ExitCode::Preflight, what, error, remedy)
    };
    // SO_REUSEPORT would let a second gateway of the same user share the port unnoticed: find out
    // first without it.
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

fn remedy(error: &io::Error, key: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another program listens there: stop it, or set {key} to another port (0: any free one)"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address: set {key} to one it has")
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher port or grant it"
                .to_owned()
        }
        _ => String::new(),
    }
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
    // All of these are inherited by accepted connections, which saves the calls there. Buffer sizes
    // must be set before the handshake to shape the advertised window.
    socket.set_tcp_nodelay(options.nodelay)?;
    socket.set_send_buffer_size(options.send_buffer_bytes)?;
    socket.set_recv_buffer_size(options.receive_buffer_bytes)?;
    let socket_ref = SockRef::from(&socket);
    if let Some(idle) = options.keepalive {
        socket_ref.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(idle)
                .with_interval(PROBE_INTERVAL)
                .with_retries(PROBES),
        )?;
    }
    socket_ref.set_tcp_user_timeout(kernel_user_timeout(options))?;
    socket.bind(&address.into())?;
    socket.listen(options.backlog)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(keepalive: u64, user_timeout: u64) -> SocketOptions {
        let seconds = |count| (count > 0).then(|| Duration::from_secs(count));
        SocketOptions {
            backlog: 1,
            nodelay: true,
            keepalive: seconds(keepalive),
            user_timeout: seconds(user_timeout),
            send_buffer_bytes: 64 * 1024,
            receive_buffer_bytes: 64 * 1024,
        }
    }

    /// When Linux gives up a peer that has fallen silent, in seconds.
    fn given_up_after(keepalive: u64, user_timeout: u64) -> u64 {
        let options = options(keepalive, user_timeout);
        let limit = kernel_user_timeout(&options).map_or(0, |limit| limit.as_secs());
        let mut elapsed = keepalive;
        for probes in 0.. {
            let is_over = match limit {
                0 => probes >= PROBES,
                limit => elapsed >= limit && probes > 0,
            };
            if is_over {
                return elapsed;
            }
            elapsed += PROBE_INTERVAL.as_secs();
        }
        0
    }

    #[test]
    fn a_silent_peer_gets_three_probes_and_is_given_up_within_half_a_minute_of_the_first() {
        for keepalive in [1, 2, 7, 8, 25, 60, 300] {
            for user_timeout in [0, 1, 10, 30] {
                let after = given_up_after(keepalive, user_timeout);
                assert_eq!(after, keepalive + 27, "{keepalive} s, {user_timeout} s");
            }
        }
        assert!(given_up_after(60, 600) >= 600, "where more is wanted");
        let without_probes = options(0, 30);
        assert_eq!(
            kernel_user_timeout(&without_probes),
            Some(Duration::from_secs(30))
        );
    }

    #[test]
    fn accepted_connections_have_what_is_set_on_the_listener() {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listeners, address) =
            bind_all(local, "a key", 1, &options(60, 30)).expect("a listener");
        let _client = std::net::TcpStream::connect(address).expect("connect");
        listeners[0].set_nonblocking(false).expect("blocking");
        let (socket, _) = listeners[0].accept().expect("accept");
        assert!(socket.keepalive().expect("an option"));
        let keepalive = (
            socket.tcp_keepalive_time().expect("an option"),
            socket.tcp_keepalive_interval().expect("an option"),
            socket.tcp_keepalive_retries().expect("an option"),
        );
        let seconds = Duration::from_secs;
        assert_eq!(keepalive, (seconds(60), seconds(9), 3));
        let user_timeout = socket.tcp_user_timeout().expect("an option");
        assert_eq!(user_timeout, Some(seconds(82)));
    }
}
