//! The threads of the cores: starting each with its executor, and following them to their end.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use crossbeam_channel::{Receiver, Sender};
use glommio::{LocalExecutorBuilder, Placement};

use super::{clock::Clock, options};
use crate::{
    base::{
        error::{ExitCode, StartupError},
        id::{MessageIds, RouteId},
    },
    config::settings::Settings,
    contract::{backend::Backend, bus::PushSource},
    flow::core::{Core, Gateway},
    handoff::{event::CoreEvent, inbox::Inbox},
    limits::Exempt,
    metrics,
    shard::Shard,
    worker::{HandshakeLimits, Runtime, Worker, WorkerParts, listener::Listener, poller::Poller},
};

/// Locked memory glommio takes for file I/O, which the cores do none of.
const IO_MEMORY_BYTES: usize = 64 * 1024;
const RING_DEPTH: usize = 1024;
/// When the executor would take the core's loop off its thread to look at its ring.
///
/// It never should: nothing of a core is in the ring. And an executor that is held up for so long
/// just before it begins to run its tasks goes to sleep over them (glommio 0.9), with nothing to
/// wake it.
const PREEMPT_AFTER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long cores may take to start. One that does not is no better than one that ended.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What a core's thread is given to build its worker from, which cannot move between threads.
pub(super) struct CoreParts {
    pub(super) number: usize,
    pub(super) listeners: Vec<Listener>,
    pub(super) inbox: Arc<Inbox<CoreEvent>>,
    pub(super) metrics: Arc<metrics::Core>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
}

impl CoreParts {
    /// The name under which the core's users are bound.
    pub(super) fn route(&self) -> RouteId {
        RouteId::new(&self.settings.gateway_service.gateway_id, self.number)
    }

    /// The core that asks `backend` and listens to `bus`, and makes its ids with `ids`.
    pub(super) fn core<B, P>(
        &self,
        runtime: &Runtime,
        backend: B,
        bus: P,
        ids: MessageIds,
    ) -> Rc<Core<B, P>> {
        let shard = Shard::new(
            options::shard_options(&self.settings),
            ids,
            Arc::clone(&self.metrics),
        );
        let clock = self.clock;
        let timers = Rc::clone(&runtime.timers);
        Rc::new(Core::new(
            shard,
            backend,
            bus,
            Arc::clone(&self.gateway),
            self.route(),
            move || clock.now(),
            move |length| Box::pin(timers.sleep(length)),
        ))
    }
}

/// What a core's thread has to say about itself.
pub(super) enum LifeEvent {
    /// It accepts connections.
    Up,
    /// It has ended; `drained`: as it was told to.
    Ended { drained: bool },
}

/// Tells of a core's end, however it ends.
struct EndOfCore {
    events: Sender<LifeEvent>,
    drained: bool,
}

impl Drop for EndOfCore {
    fn drop(&mut self) {
        // Nobody listens any more only where the process is ending anyway.
        let _ = self.events.send(LifeEvent::Ended {
            drained: self.drained,
        });
    }
}

/// Starts a core's thread; `build` makes the core there, and starts what belongs to it.
pub(super) fn start<B, P>(
    parts: CoreParts,
    cpu: Option<usize>,
    events: Sender<LifeEvent>,
    build: impl FnOnce(&CoreParts, &Rc<Runtime>) -> Rc<Core<B, P>> + Send + 'static,
) -> Result<(), StartupError>
where
    B: Backend + 'static,
    P: PushSource + 'static,
{
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&format!("core-{}", parts.number))
        .ring_depth(RING_DEPTH)
        .io_memory(IO_MEMORY_BYTES)
        .preempt_timer(PREEMPT_AFTER)
        .spawn(move || async move {
            let mut end = EndOfCore {
                events: events.clone(),
                drained: false,
            };
            match worker(parts, build) {
                Ok(worker) => {
                    // As above.
                    let _ = events.send(LifeEvent::Up);
                    match worker.run().await {
                        Ok(()) => end.drained = true,
                        Err(error) => log::error!("a core cannot wait: {error}"),
                    }
                }
                Err(error) => log::error!("a core cannot start: {error}"),
            }
        })
        .map(drop)
        .map_err(|error| {
            let remedy = "run `im-gateway doctor` to see what is missing";
            StartupError::new(ExitCode::Preflight, "cannot start a core", error, remedy)
        })
}

fn worker<B: Backend + 'static, P: PushSource + 'static>(
    parts: CoreParts,
    build: impl FnOnce(&CoreParts, &Rc<Runtime>) -> Rc<Core<B, P>>,
) -> io::Result<Worker<B, P>> {
    let poller = Poller::new()?;
    let runtime = Runtime::new(&poller, Arc::clone(&parts.inbox));
    let core = build(&parts, &runtime);
    Worker::new(WorkerParts {
        core,
        inbox: parts.inbox,
        listeners: parts.listeners,
        trusted_proxies: Exempt::new(parts.settings.limits.trusted_proxies),
        handshakes: HandshakeLimits {
            at_once: parts.settings.tls.handshakes,
            per_second: parts.settings.tls.handshakes_per_second,
            timeout_ms: parts.settings.tls.handshake_timeout_ms,
        },
        send_buffer_bytes: parts.settings.network.send_buffer_bytes,
        poller,
        runtime,
        metrics: parts.metrics,
    })
}

/// Follows the cores: calls `all_up` once all are up, and says at the end whether all drained.
/// Returns at once when one ends otherwise: its listener would go on taking connections that nobody
/// serves.
pub(super) fn watch(cores: usize, events: &Receiver<LifeEvent>, all_up: impl FnOnce()) -> bool {
    let (mut up, mut drained) = (0, 0);
    let mut all_up = Some(all_up);
    while drained < cores {
        let next = if up < cores {
            events.recv_timeout(START_TIMEOUT).map_err(|_| ())
        } else {
            events.recv().map_err(|_| ())
        };
        match next {
            Ok(LifeEvent::Up) => {
                up += 1;
                assert!(up <= cores, "each core comes up once");
                if up == cores
                    && let Some(all_up) = all_up.take()
                {
                    all_up();
                }
            }
            Ok(LifeEvent::Ended { drained: true }) => {
                drained += 1;
                assert!(drained <= up, "who has drained was up");
            }
            Ok(LifeEvent::Ended { drained: false }) | Err(()) => return false,
        }
    }
    true
}
