//! A gateway's process: listeners and cores, whatever the cores ask and listen to.
//!
//! Order of start: what may fail for reasons of the machine first, the cores last.

use std::{net::SocketAddr, rc::Rc, sync::Arc, thread};

use tokio::sync::oneshot;

use super::{
    banner::Banner,
    bootstrap::{Bootstrap, Served},
    cores::{self, CoreParts},
    issuers,
    listeners::Listeners,
    options,
};
use crate::{
    base::error::{ExitCode, StartupError},
    bus::local::MAX_CORES,
    config::settings::Settings,
    contract::{backend::Backend, bus::PushSource},
    control,
    flow::core::Core,
    handoff::{event::CoreEvent, inbox::Inbox},
    machine::preflight,
    metrics,
    worker::Runtime,
};

/// Pushes that wait for a core at most; what does not fit is fetched from the store.
const INBOX_PUSHES: usize = 64 * 1024;

/// A gateway before it is known what its cores ask and listen to.
pub(super) struct GatewayBootstrap {
    pub(super) process: Bootstrap,
    pub(super) inboxes: Vec<Arc<Inbox<CoreEvent>>>,
    limits: preflight::Limits,
    listeners: Listeners,
}

impl GatewayBootstrap {
    /// `conditions` says what it takes, beside cores that are up, to be sent clients.
    pub(super) fn new(
        settings: Settings,
        conditions: impl FnOnce(&Arc<metrics::Registry>) -> Vec<control::Condition>,
    ) -> Result<Self, StartupError> {
        let mut limits = preflight::preflight(options::wanted(&settings))?;
        limits.workers = limits.workers.min(MAX_CORES);
        assert!(limits.workers > 0, "a gateway has cores");
        let socket_options = options::socket_options(&settings);
        let mut listeners = Listeners::bind(&settings, limits.workers, &socket_options)?;
        let registry = |clock: super::clock::Clock| {
            metrics::Registry::new(limits.workers, clock.started, clock.started_unix_ms)
        };
        let mut process = Bootstrap::new(settings, registry, conditions)?;
        process.watched.append(&mut listeners.acceptors);
        Ok(Self {
            process,
            inboxes: inboxes(limits.workers)?,
            limits,
            listeners,
        })
    }

    /// Where the listener named `line` is.
    pub(super) fn line_address(&self) -> SocketAddr {
        self.listeners.addresses[0].1
    }

    /// Starts the cores, each made on its thread by what `factory_of` gives for its number, and
    /// runs the control thread here until all is over, with `background_task` beside it. `on_drain`
    /// is called when the end begins.
    pub(super) fn serve<B, P, W>(
        self,
        data: String,
        background_task: impl Future<Output = StartupError>,
        on_drain: impl FnOnce() + Send + 'static,
        factory_of: impl Fn(usize) -> W,
    ) -> Result<(), StartupError>
    where
        B: Backend + 'static,
        P: PushSource + 'static,
        W: FnOnce(&CoreParts, &Rc<Runtime>) -> Rc<Core<B, P>> + Send + 'static,
    {
        let (mut process, workers) = (self.process, self.limits.workers);
        let listeners = self.listeners;
        assert_eq!(listeners.of_cores.len(), workers, "listeners for each core");
        assert_eq!(self.inboxes.len(), workers, "an inbox for each core");
        let gateway = Arc::new(options::gateway(
            &process.settings,
            self.limits.max_connections,
        )?);
        let issuers = process.settings.auth.issuers.clone();
        issuers::watch(&issuers, &gateway, &mut process.watched)?;
        let background_task = issuers::follow(issuers, Arc::clone(&gateway), background_task);
        let (sender, events) = crossbeam_channel::unbounded();
        for (number, of_core) in listeners.of_cores.into_iter().enumerate() {
            let has_own = self.limits.quota.is_none() && workers <= self.limits.cpus.len();
            let cpu = has_own.then(|| self.limits.cpus[number]);
            let parts = CoreParts {
                number,
                listeners: of_core,
                inbox: Arc::clone(&self.inboxes[number]),
                metrics: Arc::clone(&process.registry.cores[number]),
                gateway: Arc::clone(&gateway),
                settings: process.settings.clone(),
                clock: process.clock,
            };
            cores::start(parts, cpu, sender.clone(), factory_of(number))?;
        }
        drop(sender);

        let (ready_sender, ready) = oneshot::channel();
        let (drained_sender, drained) = oneshot::channel();
        let banner = Banner::of_gateway(&listeners.addresses, process.ops_address, data, workers);
        thread::spawn(move || {
            cores::watch(workers, &events, || {
                banner.print();
                // Nobody waits for it any more only where the control thread has ended.
                let _ = ready_sender.send(());
            })
            .then(|| drained_sender.send(()))
        });
        let served = Served {
            cores: self.inboxes.clone(),
            ready,
            drained,
            on_drain: Box::new(move || {
                on_drain();
                for inbox in &self.inboxes {
                    inbox.push_all([CoreEvent::Drain]);
                }
            }),
            name: "a core",
            leftover: "were still open",
        };
        process.run(served, background_task)
    }
}

fn inboxes(count: usize) -> Result<Vec<Arc<Inbox<CoreEvent>>>, StartupError> {
    (0..count)
        .map(|_| Inbox::new(INBOX_PUSHES).map(Arc::new))
        .collect::<Result<_, _>>()
        .map_err(|error| {
            let remedy = "raise the limit on open files (LimitNOFILE, ulimit -n)";
            StartupError::new(
                ExitCode::Preflight,
                "cannot set up the cores",
                error,
                remedy,
            )
        })
}
