//! Just enough HTTP and Prometheus text to read the operations listener.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::DEADLINE;

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The body.
    pub body: String,
}

/// One GET on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Response> {
    request(address, "GET", path)
}

/// One request without a body.
pub fn request(address: SocketAddr, method: &str, path: &str) -> io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .as_bytes(),
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes)
}

/// An answer that has come in full.
pub fn parse(bytes: &[u8]) -> io::Result<Response> {
    let answer = String::from_utf8_lossy(bytes);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other("no end of headers"))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::other("no status"))?;
    Ok(Response {
        status,
        head: head.to_string(),
        body: body.to_string(),
    })
}

/// The sum of the samples `im_gateway_NAME` that carry all these labels. Label values are compared
/// without case.
pub fn sum_of(exposition: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let full_name = format!("im_gateway_{name}");
    exposition
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| {
            let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
            series_name == full_name
                && labels.iter().all(|(key, value)| {
                    series_labels
                        .to_lowercase()
                        .contains(&format!("{key}=\"{}\"", value.to_lowercase()))
                })
        })
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum()
}
