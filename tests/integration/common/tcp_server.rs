//! A listener with a thread for each connection, and what a gateway writes to it, for the servers
//! that tests play themselves.

use std::io::Read;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use im_gateway::proto::RpcHeader;
use prost::Message;

/// Dropping it closes the listener and all connections.
pub struct TcpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

/// What becomes of a server after a connection of it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It lives on.
    Lives,
    /// It crashes: nothing listens any more, and all connections end.
    Crashes,
}

impl Shared {
    fn crash(&self, address: SocketAddr) {
        self.stopping.store(true, Ordering::Release);
        // The listener's thread takes this connection and sees that it is to end.
        let _ = TcpStream::connect(address);
        for stream in self.streams.lock().expect("the streams").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl TcpServer {
    /// Listens on a free loopback port and has `serve` serve each connection.
    pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_mortal(any, move |stream| {
            serve(stream);
            Fate::Lives
        })
    }

    /// The same at `address`, where serving a connection may crash the server.
    pub fn start_mortal(
        address: SocketAddr,
        serve: impl Fn(TcpStream) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let accepting = {
            let (shared, serve) = (Arc::clone(&shared), Arc::new(serve));
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if shared.stopping.load(Ordering::Acquire) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    let Ok(handle) = stream.try_clone() else {
                        continue;
                    };
                    shared.streams.lock().expect("the streams").push(handle);
                    let (shared, serve) = (Arc::clone(&shared), Arc::clone(&serve));
                    std::thread::spawn(move || {
                        if serve(stream) == Fate::Crashes {
                            shared.crash(address);
                        }
                    });
                }
            })
        };
        Self {
            address,
            shared,
            accepting: Some(accepting),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.shared.crash(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        // Of one that was accepted meanwhile, too.
        self.shared.crash(self.address);
    }
}

/// The next call of a gateway; `None` at the end.
pub fn read_call(stream: &mut TcpStream) -> Option<(RpcHeader, Vec<u8>)> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut header = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut header).ok()?;
    let header = RpcHeader::decode(header.as_slice()).expect("the gateway's header parses");
    let mut args = vec![0; header.args_size as usize];
    stream.read_exact(&mut args).ok()?;
    Some((header, args))
}
