//! The operations listener by TLS, and until when certificates are good.

use rustix::process::Signal;

use crate::common::certificates::Authority;
use crate::common::config::Config;
use crate::common::{Gateway, eventually, http};

const HOST: &str = "ops.example";

/// A gateway whose operators come by TLS.
fn start(authority: &Authority, configure: impl FnOnce(&mut Config)) -> Gateway {
    authority.sign("ops", HOST);
    Gateway::launch(|config| {
        config
            .set("tls", "certificates", vec![authority.entry("ops")])
            .set("ops", "tls", "required");
        configure(config);
    })
}

/// All lines of the answer to `path`, asked for by a TLS client that is not ours.
fn ask(gateway: &Gateway, authority: &Authority, path: &str, options: &[&str]) -> Vec<String> {
    let mut client = authority.client(gateway.http_address(), HOST, options);
    // Who is not let in may be told while it writes.
    let _ = client.try_send(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r"));
    std::iter::from_fn(|| client.line()).collect()
}

#[test]
fn operators_come_by_tls_alone_where_that_is_required() {
    let authority = Authority::new();
    let gateway = start(&authority, |_| {});
    let answer = ask(&gateway, &authority, "/readyz", &[]);
    assert!(answer[0].starts_with("HTTP/1.1 200 "), "{answer:?}");
    assert!(http::get(gateway.http_address(), "/readyz").is_err());
}

#[test]
fn who_shows_no_certificate_sees_nothing_where_one_is_required() {
    let (authority, others) = (Authority::new(), Authority::new());
    authority.sign("anna", "anna");
    others.sign("mallory", "mallory");
    let ca = authority.path("ca.pem").display().to_string();
    let gateway = start(&authority, |config| {
        config
            .set("ops", "client_ca_file", ca)
            .set("ops", "client_certificates", "required");
    });
    let with = |of: &Authority, name: &str| {
        let path = |end: &str| of.path(&format!("{name}.{end}")).display().to_string();
        let options = ["-cert", &path("pem"), "-key", &path("key")];
        ask(&gateway, &authority, "/livez", &options)
    };
    assert!(with(&authority, "anna")[0].starts_with("HTTP/1.1 200 "));
    assert_eq!(with(&others, "mallory"), Vec::<String>::new());
    assert_eq!(
        ask(&gateway, &authority, "/livez", &[]),
        Vec::<String>::new()
    );
    // It is the operators' listener alone that wants them.
    assert!(gateway.client().ask("ping").starts_with("+OK"));
}

#[test]
fn the_end_of_each_certificate_is_a_number_and_is_warned_of() {
    let authority = Authority::new();
    let gateway = start(&authority, |_| {});
    let file = authority.path("ops.pem").display().to_string();
    let end = || {
        let answer = ask(&gateway, &authority, "/metrics", &[]);
        let name = format!("im_gateway_certificate_expiry_timestamp_seconds{{file=\"{file}\"}} ");
        let line = answer.iter().find_map(|line| line.strip_prefix(&name));
        line.map(|number| number.parse::<f64>().expect("a number"))
    };
    // What this authority signs is good for two thousand years, and nobody warns of that.
    eventually("it is told", || end().is_some_and(|until| until > 4e10));
    assert!(!gateway.output().1.contains("expires in"));
    authority.sign_for_days("ops", HOST, 3);
    gateway.signal(Signal::HUP);
    eventually("a new end is told", || {
        end().is_some_and(|until| until < 4e10)
    });
    eventually("the log warns", || {
        gateway
            .output()
            .1
            .contains(&format!("the certificate in {file} expires in "))
    });
}
