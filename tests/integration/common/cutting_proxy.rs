//! A proxy that cuts every connection after some bytes, at whatever place that is; or that never
//! does, and stays where it is while the server behind it moves.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::random::Random;

/// Where it listens, and how often it has cut. Its threads end with the test's process.
pub struct CuttingProxy {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    cuts: Arc<AtomicU64>,
}

impl CuttingProxy {
    /// Starts one before `target`; a connection may move `fewest` to `most` bytes, in both
    /// directions together.
    pub fn start(target: SocketAddr, seed: u64, fewest: u64, most: u64) -> Self {
        println!("IM_GATEWAY_TEST_SEED={seed}");
        let mut random = Random::new(seed);
        Self::start_with(target, move || fewest + random.below(most - fewest))
    }

    /// Starts one that never cuts.
    pub fn start_uncut(target: SocketAddr) -> Self {
        Self::start_with(target, || i64::MAX as u64)
    }

    fn start_with(target: SocketAddr, mut budget: impl FnMut() -> u64 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let cuts = Arc::new(AtomicU64::new(0));
        let target = Arc::new(Mutex::new(target));
        let (counted, current) = (Arc::clone(&cuts), Arc::clone(&target));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let target = *current.lock().expect("a target");
                if let Ok(server) = TcpStream::connect(target) {
                    relay(client, server, budget(), &counted);
                }
            }
        });
        Self {
            address,
            target,
            cuts,
        }
    }

    /// From now on connections go to `target`.
    pub fn retarget(&self, target: SocketAddr) {
        *self.target.lock().expect("a target") = target;
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }
}

fn relay(client: TcpStream, server: TcpStream, budget: u64, cuts: &Arc<AtomicU64>) {
    let left = Arc::new(AtomicI64::new(budget as i64));
    let other = |stream: &TcpStream| stream.try_clone().expect("a socket");
    for (from, to) in [(other(&client), other(&server)), (server, client)] {
        let (left, cuts) = (Arc::clone(&left), Arc::clone(cuts));
        thread::spawn(move || {
            // An error is an end like any other.
            if copy(&from, &to, &left).unwrap_or(false) {
                cuts.fetch_add(1, Ordering::Relaxed);
            }
            for stream in [from, to] {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }
}

/// Copies until the end, or until nothing is left to be moved: then `true`.
fn copy(mut from: &TcpStream, mut to: &TcpStream, left: &AtomicI64) -> io::Result<bool> {
    let mut chunk = [0; 4096];
    loop {
        let length = from.read(&mut chunk)?;
        if length == 0 {
            return Ok(false);
        }
        let before = left.fetch_sub(length as i64, Ordering::Relaxed);
        let moved = length.min(before.max(0) as usize);
        to.write_all(&chunk[..moved])?;
        if moved < length {
            return Ok(true);
        }
    }
}
