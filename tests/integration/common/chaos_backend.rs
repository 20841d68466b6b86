//! A backend that misbehaves by a seeded plan, on both wires, and whose right answers can be told
//! from anybody else's.

mod misdeed;
pub mod truth;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use im_gateway::{
    contract::methods::{Request, Service},
    proto::{PingRequest, PingResponse, RpcHeader},
};
use prost::Message;

use super::{
    config::Config,
    random::Random,
    tcp_server::{TcpServer, read_call},
};
use misdeed::{Call, Deed};

pub use misdeed::Misdeed;

/// How often it goes wrong, and how.
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// One call in so many goes wrong; 0: none does.
    pub one_in: u64,
    /// In one of these ways.
    pub misdeeds: Vec<Misdeed>,
    /// How long callers wait for an answer.
    pub patience: Duration,
}

impl Plan {
    /// Nothing goes wrong.
    pub fn honest() -> Self {
        Self {
            seed: 0,
            one_in: 0,
            misdeeds: Vec::new(),
            patience: Duration::from_secs(3),
        }
    }
}

/// A running backend of all four services.
pub struct ChaosBackend {
    shared: Arc<Shared>,
    server: TcpServer,
}

struct Shared {
    plan: Plan,
    one_in: AtomicU64,
    random: Mutex<Random>,
    done: Mutex<BTreeMap<Misdeed, usize>>,
}

impl ChaosBackend {
    /// Starts it.
    pub fn start(plan: Plan) -> Self {
        let shared = Arc::new(Shared {
            random: Mutex::new(Random::new(plan.seed)),
            one_in: AtomicU64::new(plan.one_in),
            plan,
            done: Mutex::new(BTreeMap::new()),
        });
        let server = {
            let shared = Arc::clone(&shared);
            TcpServer::start(move |stream| shared.serve(stream))
        };
        Self { shared, server }
    }

    /// Where it listens, for both wires.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Has a gateway use it for all services, spoken to by `rpc`: `mprpc` or `mprpc-id`.
    pub fn configure(&self, config: &mut Config, rpc: &str) {
        let instances: Vec<toml::Value> = Service::ALL
            .iter()
            .map(|service| format!("{} {rpc} {}", service.word(), self.address()).into())
            .collect();
        config.set("service_discovery", "static_instances", instances);
        config.set("gateway_service", "first_worker", 0);
    }

    /// From now on one call in so many goes wrong; 0: none does.
    pub fn set_one_in(&self, one_in: u64) {
        self.shared.one_in.store(one_in, Ordering::Release);
    }

    /// How often each misdeed was done.
    pub fn done(&self) -> BTreeMap<Misdeed, usize> {
        self.shared.done.lock().expect("the list").clone()
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let Ok(writer) = stream.try_clone() else {
            return;
        };
        let writer = Arc::new(Mutex::new(writer));
        let mut answered = 0;
        while let Some((header, args)) = read_call(&mut stream) {
            let id = header.call_id;
            let deed = self.deed(header, &args, answered);
            if deed.is_honest {
                answered = id;
            }
            if deed.pause.is_zero() {
                perform(&writer, &deed);
            } else {
                let writer = Arc::clone(&writer);
                std::thread::spawn(move || {
                    std::thread::sleep(deed.pause);
                    perform(&writer, &deed);
                });
            }
        }
    }

    fn deed(&self, header: RpcHeader, args: &[u8], answered: u64) -> Deed {
        let service = String::from_utf8_lossy(&header.service_name).into_owned();
        let method = String::from_utf8_lossy(&header.method_name).into_owned();
        if service == "HealthService" {
            return pong(header.call_id, args);
        }
        let service = Service::ALL
            .into_iter()
            .find(|known| known.name() == service)
            .unwrap_or_else(|| panic!("the gateway called {service}"));
        let request = match Request::decode(service, &method, args) {
            Ok(request) => request,
            Err(bad) => panic!("the gateway called {service:?} {method} wrongly: {bad:?}"),
        };
        let call = Call {
            id: header.call_id,
            answered,
            answer: truth::answer(&request),
            patience: self.plan.patience,
        };
        let mut random = self.random.lock().expect("the random numbers");
        match self.choose(&call, &mut random) {
            Some(misdeed) => {
                *self
                    .done
                    .lock()
                    .expect("the list")
                    .entry(misdeed)
                    .or_default() += 1;
                call.misdeed(misdeed, &mut random)
            }
            None => call.honest(),
        }
    }

    fn choose(&self, call: &Call, random: &mut Random) -> Option<Misdeed> {
        let one_in = self.one_in.load(Ordering::Acquire);
        if one_in == 0 || !random.once_in(one_in) {
            return None;
        }
        let misdeeds = &self.plan.misdeeds;
        let misdeed = misdeeds[random.below(misdeeds.len() as u64) as usize];
        (call.id != 0 || !misdeed.needs_ids()).then_some(misdeed)
    }
}

/// Its health is always well.
fn pong(call_id: u64, args: &[u8]) -> Deed {
    let request = PingRequest::decode(args).unwrap_or_default();
    let body = PingResponse {
        echo: request.payload,
        ts_server_ms: 1,
    };
    Call::health(call_id, &body)
}

fn perform(writer: &Mutex<TcpStream>, deed: &Deed) {
    let mut stream = writer.lock().expect("the writer");
    // The gateway may have closed the connection.
    let _ = stream.write_all(&deed.bytes);
    if deed.then_close {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use im_gateway::proto::{GetProfileRequest, GetProfileResponse};
    use im_gateway::rpc::wire::mprpc::{CallHead, read_reply, write_call};

    use super::*;

    #[test]
    fn it_answers_both_wires_and_misbehaves_as_planned() {
        let backend = ChaosBackend::start(Plan::honest());
        let mut stream = TcpStream::connect(backend.address()).expect("connect");
        let mut call = |call_id: u64| {
            let head = CallHead {
                service: "UserService",
                method: "GetProfile",
                call_id,
                timeout_ms: 0,
            };
            let mut bytes = Vec::new();
            write_call(head, &GetProfileRequest { user_id: 8 }, &mut bytes);
            stream.write_all(&bytes).expect("write");
            let mut answer = vec![0; 1024];
            let length = stream.read(&mut answer).expect("read");
            answer.truncate(length);
            answer
        };
        let classic = call(0);
        let profile = GetProfileResponse::decode(&classic[4..]).expect("an answer");
        assert_eq!(profile.name, "name-of-8");
        let with_id = call(9);
        let (reply, taken) = read_reply(&with_id, 1024).expect("framed").expect("whole");
        assert_eq!((reply.header.call_id, taken), (9, with_id.len()));

        let backend = ChaosBackend::start(Plan {
            one_in: 1,
            misdeeds: vec![Misdeed::Closed],
            ..Plan::honest()
        });
        let mut stream = TcpStream::connect(backend.address()).expect("connect");
        let head = CallHead {
            service: "UserService",
            method: "GetProfile",
            call_id: 1,
            timeout_ms: 0,
        };
        let mut bytes = Vec::new();
        write_call(head, &GetProfileRequest { user_id: 8 }, &mut bytes);
        stream.write_all(&bytes).expect("write");
        assert_eq!(stream.read(&mut [0; 16]).expect("the end"), 0);
        assert_eq!(backend.done()[&Misdeed::Closed], 1);
    }
}
