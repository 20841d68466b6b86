//! A document at a URL, fetched once: HTTP as a client.
//!
//! Owns the limits of time and size. Follows nothing that the answer says.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use hyper::{Request, StatusCode, Uri, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    config::settings::ServerTls,
    tls::{client::Connector, stream::Stream},
};

/// How long it may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// The text at `url`, of at most `max_bytes`.
pub(super) async fn fetch(url: &str, tls: &ServerTls, max_bytes: usize) -> Result<String, String> {
    match timeout(PATIENCE, fetch_slowly(url, tls, max_bytes)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}

async fn fetch_slowly(url: &str, tls: &ServerTls, max_bytes: usize) -> Result<String, String> {
    let url: Uri = url.parse().map_err(in_words)?;
    let host = url.host().ok_or("it names no host")?;
    let stream = connect(&url, host, tls).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(in_words)?;
    let connection = tokio::spawn(connection);
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let authority = url.authority().map_or(host, |authority| authority.as_str());
    let request = Request::get(target)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Body::empty())
        .map_err(in_words)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(in_words)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answers {}", answer.status()));
        }
        let body = to_bytes(Body::new(answer.into_body()), max_bytes).await;
        let body = body.map_err(in_words)?;
        String::from_utf8(body.into()).map_err(in_words)
    };
    let answer = answer.await;
    connection.abort();
    answer
}

async fn connect(url: &Uri, host: &str, tls: &ServerTls) -> Result<Stream, String> {
    let is_secured = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if is_secured { 443 } else { 80 });
    let name = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let stream = TcpStream::connect((name.as_str(), port))
        .await
        .map_err(in_words)?;
    if !is_secured {
        return Ok(Stream::Plain(stream));
    }
    // The files of authorities may be where reading takes long.
    let tls = tls.clone();
    let connector = tokio::task::spawn_blocking(move || Connector::load(&name, &tls));
    let connector = connector.await.map_err(in_words)??;
    let secured = TlsConnector::from(connector.config()).connect(connector.name(), stream);
    let secured = secured.await.map_err(in_words)?;
    Ok(Stream::Tls(Box::new(secured.into())))
}

fn in_words(error: impl std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
