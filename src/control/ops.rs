//! The ops listener: health and metrics over HTTP.
//!
//! Owns four read-only routes. Knows no secret and takes no input but the path: there is nothing to
//! authorise, and the address it listens on, loopback by default, decides who may look, or, where
//! it wants certificates by TLS, who signs those; on
//! loopback, pages in a browser may not (`host`). Whatever a peer does costs at most one of
//! [`Limits::connections`] places for [`Limits::connection_time`], and never a core. Who comes is
//! always served: where all places are taken, the oldest connection makes room, since one that is
//! neither slow nor idle is done within milliseconds.

use std::{collections::VecDeque, error::Error, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use log::{debug, error, warn};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, yield_now},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    host,
    readiness::{Readiness, stall_reason},
};
use crate::{
    base::accept_pause::AcceptPause,
    metrics::{
        Registry,
        exposition::{self, Format},
    },
    tls::{Acceptor, stream::Stream},
};

/// How much of the control thread the ops listener may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections served at once.
    pub connections: usize,
    /// How long a connection lives, from its accept to the last byte of its one response. A slow
    /// header, a slow body and a slow reader all end here.
    pub(super) connection_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            connection_time: Duration::from_secs(10),
        }
    }
}

/// A request's line and headers together; hyper accepts no less.
const HEAD_BYTES: usize = 8 * 1024;

/// What the routes look at.
#[derive(Clone)]
pub(super) struct Sources {
    pub registry: Arc<Registry>,
    pub readiness: Arc<Readiness>,
}

/// Serves for as long as the runtime lives.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Acceptor>>,
    sources: Sources,
    limits: Limits,
) {
    assert!(limits.connections > 0, "nobody would be answered");
    let mut router = router(sources);
    if listener
        .local_addr()
        .is_ok_and(|address| address.ip().is_loopback())
    {
        router = router.layer(middleware::from_fn(host::only_loopback));
    }
    let mut served: VecDeque<JoinHandle<()>> = VecDeque::new();
    let mut accept_pause = AcceptPause::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(pause) = accept_pause.failed(&error) {
                    if pause.is_first {
                        warn!("ops listener: cannot accept: {error}; trying again with pauses");
                    }
                    sleep(Duration::from_millis(pause.ms)).await;
                }
                continue;
            }
        };
        accept_pause.accepted();
        served.retain(|connection| !connection.is_finished());
        if served.len() >= limits.connections
            && let Some(oldest) = served.pop_front()
        {
            debug!("ops listener: a connection makes room for another");
            oldest.abort();
        }
        assert!(served.len() < limits.connections, "there is a place for it");
        let answered = answer(stream, tls.clone(), router.clone());
        served.push_back(tokio::spawn(async move {
            match timeout(limits.connection_time, answered).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("ops listener: {error}"),
                Err(_) => debug!("ops listener: a connection took too long"),
            }
        }));
        // Its turn comes before the next one is accepted: a crowd that comes at once drives out
        // nobody whose request is there already.
        yield_now().await;
    }
}

/// One request, one response, and the end. Scrapes and probes come seconds apart, so keeping
/// connections would only give idle ones a place.
async fn answer(
    stream: TcpStream,
    tls: Option<Arc<Acceptor>>,
    router: Router,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => {
            let secured = TlsAcceptor::from(tls.config()).accept(stream).await?;
            Stream::Tls(Box::new(secured.into()))
        }
    };
    http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await?;
    Ok(())
}

fn router(sources: Sources) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .with_state(sources)
}

/// Alive: no core is stalled. A gateway that is not alive is to be restarted.
async fn livez(State(sources): State<Sources>) -> Response {
    let stalls = sources.registry.stalls();
    let stalled_cores: Vec<usize> = stalls.iter().map(|stall| stall.core).collect();
    let reasons: Vec<String> = stalls.iter().map(stall_reason).collect();
    json_response(
        stalls.is_empty(),
        &json!({"live": stalls.is_empty(), "stalled_cores": stalled_cores, "reasons": reasons}),
    )
}

/// Ready: clients may be sent here.
async fn readyz(State(sources): State<Sources>) -> Response {
    let reasons = sources.readiness.reasons(&sources.registry);
    json_response(
        reasons.is_empty(),
        &json!({"ready": reasons.is_empty(), "reasons": reasons}),
    )
}

/// What `/readyz` says, with some figures for people.
async fn health(State(sources): State<Sources>) -> Response {
    let registry = &sources.registry;
    let reasons = sources.readiness.reasons(registry);
    let status = if reasons.is_empty() {
        "ok"
    } else {
        "unavailable"
    };
    json_response(
        reasons.is_empty(),
        &json!({
            "status": status,
            "reasons": reasons,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": registry.now_ms() / 1000,
            "connections": registry.connections(),
            "sessions": registry.sessions(),
            "cores": registry.cores.len(),
        }),
    )
}

async fn metrics(State(sources): State<Sources>, headers: HeaderMap) -> Response {
    let ready = sources.readiness.reasons(&sources.registry).is_empty();
    let accept = headers.get(header::ACCEPT);
    let format = Format::accepted_by(accept.and_then(|value| value.to_str().ok()).unwrap_or(""));
    match exposition::text(&sources.registry, ready, format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            error!("metrics cannot be written: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn not_found() -> Response {
    let routes = "not found; there are /livez /readyz /health /metrics\n";
    (StatusCode::NOT_FOUND, routes).into_response()
}

fn json_response(good: bool, body: &Value) -> Response {
    let status = if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, format!("{body}\n")).into_response()
}
