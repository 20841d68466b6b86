//! The gateway's node, `/im-gateway/instances/ID`: whoever has it is the gateway of that id.
//!
//! Owns the record and the judgement of a node that another session has. A predecessor that died
//! leaves its node for as long as its session lasts: where it can be seen to be dead its node is
//! replaced at once, else it is waited for. A holder that is seen alive, or outlasts any session,
//! keeps the id.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use log::info;
use serde::{Deserialize, Serialize};

use super::{
    WatchOptions,
    process::{Life, Process},
    registry::{Owner, RegistryError, Session},
};
use crate::base::repeat::Repeat;

/// Where gateways register.
pub(super) const GATEWAYS: &str = "/im-gateway/instances";

/// What a session may last beyond its time-out: servers look for those that are over once in a
/// tick, two seconds as a rule.
const MARGIN: Duration = Duration::from_secs(4);

/// The longest session of somebody else that is waited for, whatever the record says: twice what
/// can be configured.
const FOREIGN_SESSION_MAX: Duration = Duration::from_secs(600);

/// The longest record that is quoted to an operator.
const QUOTED_CHARS: usize = 300;

/// What a gateway says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Where its line protocol listens.
    addr: SocketAddr,
    /// Where its operations listen.
    ops: Option<SocketAddr>,
    cores: usize,
    version: String,
    /// How long its node stays after it has fallen silent; 0: unknown.
    #[serde(default)]
    session_timeout_ms: u64,
    #[serde(flatten)]
    process: Process,
}

/// The node that is wanted.
#[derive(Debug)]
pub(super) struct Claim {
    path: String,
    /// What it is to say, but for the session's time-out.
    record: Record,
}

/// Gateways that are looked at: more worker numbers than that there are not.
const GATEWAYS_MAX: usize = 1024;

/// The addresses of all registered gateways, as they name them; `None`: one of them listens on all
/// of its addresses, and does not say from which it calls.
pub(super) async fn addresses(
    session: &impl Session,
) -> Result<Option<HashSet<IpAddr>>, RegistryError> {
    let names = session.list(GATEWAYS).await?;
    let mut found = HashSet::new();
    for name in names.iter().take(GATEWAYS_MAX) {
        let entry = session.read(&format!("{GATEWAYS}/{name}")).await?;
        let record = entry.and_then(|entry| serde_json::from_slice::<Record>(&entry.data).ok());
        let Some(record) = record else { continue };
        if record.addr.ip().is_unspecified() {
            return Ok(None);
        }
        found.insert(record.addr.ip().to_canonical());
    }
    assert!(found.len() <= GATEWAYS_MAX, "no more are read");
    Ok(Some(found))
}

/// Why there is no claim.
#[derive(Debug)]
pub(super) enum ClaimError {
    /// Somebody else has the id; what he says about himself.
    Taken(String),
    /// The registry does not do it.
    Registry(RegistryError),
}

impl From<RegistryError> for ClaimError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

/// What to do about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is ours.
    Ours,
    /// Nobody lives who has it: put ours in its place.
    Replace,
    /// It may vanish by itself.
    Wait,
    /// Its holder lives.
    Taken,
}

impl Claim {
    /// The claim of the gateway that `options` describe.
    pub(super) fn new(options: &WatchOptions) -> Self {
        let record = Record {
            addr: options.line_address,
            ops: options.ops_address,
            cores: options.cores,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            session_timeout_ms: 0,
            process: Process::this(),
        };
        Self {
            path: format!("{GATEWAYS}/{}", options.gateway_id),
            record,
        }
    }

    /// What the node says while a session of this time-out has it.
    fn data(&self, session_timeout: Duration) -> Vec<u8> {
        let record = Record {
            session_timeout_ms: u64::try_from(session_timeout.as_millis()).unwrap_or(u64::MAX),
            ..self.record.clone()
        };
        // Nothing in it can fail to be written.
        serde_json::to_vec(&record).unwrap_or_default()
    }

    /// Makes the node ours, or finds that it is.
    ///
    /// # Errors
    /// [`ClaimError::Taken`] when somebody else has it for good.
    pub(super) async fn hold(&self, session: &impl Session) -> Result<(), ClaimError> {
        session.ensure(GATEWAYS).await?;
        let session_timeout = session.timeout();
        let own = self.data(session_timeout);
        let start = Instant::now();
        let mut is_waiting = false;
        loop {
            let Some(entry) = session.read(&self.path).await? else {
                if session.claim(&self.path, None, &own).await? {
                    return Ok(());
                }
                continue;
            };
            let verdict = verdict(entry.owner, &entry.data, &self.record.process);
            let patience = patience(session_timeout, &entry.data);
            let overdue = start.elapsed() >= patience;
            match verdict {
                Verdict::Ours => return Ok(()),
                Verdict::Replace => {
                    assert_ne!(entry.owner, Owner::Us, "what is ours is kept");
                    info!("replacing the node of a gateway with this id that has ended");
                    if session.claim(&self.path, Some(entry.version), &own).await? {
                        return Ok(());
                    }
                }
                Verdict::Wait if !overdue => {
                    if !is_waiting {
                        info!(
                            "a gateway with this id is registered; waiting up to {} s for it to vanish: {}",
                            patience.as_secs(),
                            quoted(&entry.data)
                        );
                    }
                    is_waiting = true;
                    tokio::time::sleep(Repeat::CLAIM.first()).await;
                }
                Verdict::Wait | Verdict::Taken => {
                    return Err(ClaimError::Taken(quoted(&entry.data)));
                }
            }
        }
    }
}

fn verdict(owner: Owner, data: &[u8], this: &Process) -> Verdict {
    match owner {
        Owner::Us => Verdict::Ours,
        Owner::UsBefore => Verdict::Replace,
        Owner::Other => match serde_json::from_slice::<Record>(data) {
            Ok(record) => match this.life_of(&record.process) {
                Life::Alive => Verdict::Taken,
                Life::Dead => Verdict::Replace,
                Life::Unknown => Verdict::Wait,
            },
            Err(_) => Verdict::Wait,
        },
    }
}

/// How long the node that says `data` is waited for: its holder may have died just now.
fn patience(own_session: Duration, data: &[u8]) -> Duration {
    let theirs =
        serde_json::from_slice::<Record>(data).map_or(0, |record| record.session_timeout_ms);
    let theirs = Duration::from_millis(theirs).min(FOREIGN_SESSION_MAX);
    let patience = own_session.max(theirs) + MARGIN;
    assert!(patience <= own_session.max(FOREIGN_SESSION_MAX) + MARGIN);
    patience
}

/// The beginning of `data` for a person, without characters that do something.
fn quoted(data: &[u8]) -> String {
    String::from_utf8_lossy(data)
        .chars()
        .take(QUOTED_CHARS)
        .flat_map(char::escape_debug)
        .filter(|c| *c != '\\')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(process: Process) -> Vec<u8> {
        let record = Record {
            addr: ([10, 0, 0, 1], 6000).into(),
            ops: None,
            cores: 2,
            version: "1.2.3".to_owned(),
            session_timeout_ms: 10_000,
            process,
        };
        serde_json::to_vec(&record).expect("JSON")
    }

    #[test]
    fn a_record_says_where_and_who() {
        let this = Process::this();
        let json: serde_json::Value = serde_json::from_slice(&record(this.clone())).expect("JSON");
        assert_eq!(json["addr"], "10.0.0.1:6000");
        assert_eq!(json["cores"], 2);
        assert_eq!(json["version"], "1.2.3");
        assert_eq!(json["pid"], this.pid);
        assert_eq!(json["host"], this.host);
        assert_eq!(json["session_timeout_ms"], 10_000);
    }

    #[test]
    fn who_is_waited_for_may_have_a_longer_session() {
        let seconds = Duration::from_secs;
        let says_10_seconds = record(Process::this());
        for (own, data, expected) in [
            (seconds(3), says_10_seconds.as_slice(), seconds(10)),
            (seconds(60), &says_10_seconds, seconds(60)),
            (seconds(3), b"", seconds(3)),
            // Of a version that did not say.
            (
                seconds(3),
                br#"{"addr":"10.0.0.1:6000","cores":1,"version":"0"}"#,
                seconds(3),
            ),
            (
                seconds(3),
                br#"{"addr":"10.0.0.1:6000","cores":1,"version":"0","session_timeout_ms":18446744073709551615}"#,
                FOREIGN_SESSION_MAX,
            ),
        ] {
            assert_eq!(patience(own, data), expected + MARGIN, "{own:?} {data:?}");
        }
    }

    #[test]
    fn a_node_is_judged_by_its_session_and_then_by_its_process() {
        let this = Process::this();
        let stranger = Process {
            host: "elsewhere".to_owned(),
            ..this.clone()
        };
        for (owner, data, expected) in [
            (Owner::Us, record(this.clone()), Verdict::Ours),
            (Owner::Us, Vec::new(), Verdict::Ours),
            (Owner::UsBefore, record(this.clone()), Verdict::Replace),
            (Owner::Other, record(this.clone()), Verdict::Taken),
            (Owner::Other, record(stranger), Verdict::Wait),
            (Owner::Other, Vec::new(), Verdict::Wait),
            (Owner::Other, b"10.0.0.1:6000".to_vec(), Verdict::Wait),
            (
                Owner::Other,
                br#"{"addr":"10.0.0.1:6000","cores":1,"version":"0"}"#.to_vec(),
                Verdict::Wait,
            ),
        ] {
            assert_eq!(verdict(owner, &data, &this), expected, "{owner:?} {data:?}");
        }
    }

    #[test]
    fn the_node_of_a_dead_neighbour_is_replaced() {
        let mut child = std::process::Command::new("true").spawn().expect("true(1)");
        let this = Process::this();
        let dead = Process {
            pid: child.id(),
            ..this.clone()
        };
        child.wait().expect("it ends");
        assert_eq!(
            verdict(Owner::Other, &record(dead), &this),
            Verdict::Replace
        );
    }

    #[test]
    fn what_is_quoted_is_short_and_harmless() {
        let long = vec![b'x'; 70_000];
        assert_eq!(quoted(&long).len(), QUOTED_CHARS);
        assert!(!quoted(b"a\n\x1b[31m\xff").contains(['\n', '\x1b']));
    }
}
