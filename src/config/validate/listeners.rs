//! The rules of listeners for clients: `[gateway_service]`, `[web]` and `[listener.<name>]`.
//!
//! Owns what a listener may be and that no two want the same port. Reads nothing but its arguments.

use std::net::{IpAddr, SocketAddr};

use super::{Broken, Check, overlap, tls};
use crate::config::{
    file::File,
    listener::{ANY_NAME, ListenerTable, SECTION},
    settings::{Carrier, Listener, TlsSettings},
    tls::TlsTable,
};

/// Where WebSocket and HTTP are served if nothing is said and the gateway serves alone.
const WEB_DEFAULT: &str = "127.0.0.1:8000";
/// How many there may be in all: each core watches each.
const LISTENERS_MAX: usize = 64;
/// A name stands in logs.
const NAME_MAX_BYTES: usize = 32;

const ADDRESS: &str = "an address with a port such as \"0.0.0.0:6000\" or \"[::]:6000\"";

/// All listeners; the first is the one named `line`.
pub(super) fn listeners(
    values: &File,
    check: &Check,
    is_cluster: bool,
) -> Result<Vec<Listener>, Broken> {
    let mut listeners = vec![line(values, check)?];
    listeners.extend(web(values, check, is_cluster)?);
    for (name, table) in &values.listener.0 {
        let listener = further(name, table, values, check)
            .map_err(|problem| check.broken(SECTION, ANY_NAME, format!("{name:?}: {problem}")))?;
        listeners.push(listener);
    }
    if listeners.len() > LISTENERS_MAX {
        let problem = format!("there are more than {LISTENERS_MAX} listeners");
        return Err(check.broken(SECTION, ANY_NAME, problem));
    }
    let has_proxies = !values.limits.trusted_proxies.is_empty();
    if let Some(proxied) = listeners.iter().find(|listener| listener.is_proxied)
        && !has_proxies
    {
        let problem = format!(
            "of {:?}: \"required\" needs the proxies' addresses in limits.trusted_proxies",
            proxied.name
        );
        let (section, key) = match proxied.name.as_str() {
            "line" => ("gateway_service", "proxy_protocol"),
            "web" => ("web", "proxy_protocol"),
            _ => (SECTION, ANY_NAME),
        };
        return Err(check.broken(section, key, problem));
    }
    apart(&listeners, check)?;
    Ok(listeners)
}

/// No two want the same port.
fn apart(listeners: &[Listener], check: &Check) -> Result<(), Broken> {
    for (index, one) in listeners.iter().enumerate() {
        let mut before = listeners[..index].iter();
        if let Some(other) = before.find(|other| overlap(one.address, other.address)) {
            let problem = format!("{} is taken by the listener {:?}", one.address, other.name);
            return Err(match one.name.as_str() {
                "web" => check.broken("web", "listen", problem),
                name => check.broken(SECTION, ANY_NAME, format!("{name:?}: {problem}")),
            });
        }
    }
    Ok(())
}

fn line(values: &File, check: &Check) -> Result<Listener, Broken> {
    const SECTION: &str = "gateway_service";
    let section = &values.gateway_service;
    let wanted = "an IP address such as \"127.0.0.1\", \"0.0.0.0\" or \"::\"";
    let host: IpAddr = check.parse(SECTION, "host", &section.host, wanted)?;
    Ok(Listener {
        name: "line".to_owned(),
        address: SocketAddr::new(host, section.port),
        carriers: vec![Carrier::Line],
        is_proxied: is_proxied(&section.proxy_protocol)
            .map_err(|problem| check.broken(SECTION, "proxy_protocol", problem))?,
        tls: has_tls(&section.tls)
            .and_then(|has_tls| tls_if(has_tls, values, &TlsTable::default()))
            .map_err(|problem| check.broken(SECTION, "tls", problem))?,
        is_tls_optional: section.tls == "optional",
        is_default: false,
    })
}

fn web(values: &File, check: &Check, is_cluster: bool) -> Result<Option<Listener>, Broken> {
    let section = &values.web;
    let (address, is_default) = match section.listen.as_str() {
        "off" => return Ok(None),
        "" if is_cluster => return Ok(None),
        "" => (WEB_DEFAULT, true),
        written => (written, false),
    };
    Ok(Some(Listener {
        name: "web".to_owned(),
        address: check.parse("web", "listen", address, ADDRESS)?,
        carriers: vec![Carrier::WebSocket, Carrier::Http],
        is_proxied: is_proxied(&section.proxy_protocol)
            .map_err(|problem| check.broken("web", "proxy_protocol", problem))?,
        tls: has_tls(&section.tls)
            .and_then(|has_tls| tls_if(has_tls, values, &TlsTable::default()))
            .map_err(|problem| check.broken("web", "tls", problem))?,
        is_tls_optional: section.tls == "optional",
        is_default,
    }))
}

fn further(
    name: &str,
    table: &ListenerTable,
    values: &File,
    check: &Check,
) -> Result<Listener, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.chars().all(allowed) {
        return Err(format!(
            "a name has 1 to {NAME_MAX_BYTES} of the characters A-Z a-z 0-9 _ -"
        ));
    }
    if matches!(name, "line" | "web") {
        return Err("that is the name of another one: choose a different one".to_owned());
    }
    let address = check
        .parse(SECTION, ANY_NAME, &table.address, ADDRESS)
        .map_err(|broken| format!("address: {}", broken.problem))?;
    let carriers = table.carriers.iter().map(|word| carrier(word));
    let carriers: Vec<Carrier> = carriers.collect::<Result<_, _>>()?;
    if carriers.is_empty() {
        return Err("carriers = [\"line\"], or more of line, websocket and http".to_owned());
    }
    Ok(Listener {
        name: name.to_owned(),
        address,
        carriers,
        is_proxied: is_proxied(&table.proxy_protocol)?,
        tls: tls_if(has_tls(&table.tls)?, values, &table.own_tls)?,
        is_tls_optional: table.tls == "optional",
        is_default: false,
    })
}

fn carrier(word: &str) -> Result<Carrier, String> {
    match word {
        "line" => Ok(Carrier::Line),
        "websocket" => Ok(Carrier::WebSocket),
        "http" => Ok(Carrier::Http),
        _ => Err(format!(
            "carriers: {word:?} is none of line, websocket and http"
        )),
    }
}

fn is_proxied(word: &str) -> Result<bool, String> {
    match word {
        "" | "off" => Ok(false),
        "required" => Ok(true),
        _ => Err(format!("{word:?} is neither \"off\" nor \"required\"")),
    }
}

fn has_tls(word: &str) -> Result<bool, String> {
    match word {
        "" | "off" => Ok(false),
        "optional" | "required" => Ok(true),
        _ => Err(format!("{word:?} is none of off, optional and required")),
    }
}

fn tls_if(has_tls: bool, values: &File, own: &TlsTable) -> Result<Option<TlsSettings>, String> {
    has_tls.then(|| tls::of_listener(values, own)).transpose()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{
        settings::{ClientCertificates, Settings},
        source::{Environment, Origins, parse},
        validate::validate,
    };

    fn settings(text: &str) -> Result<Settings, String> {
        let mut origins = Origins::default();
        let file = parse("im.toml", text, &mut origins).map_err(|found| found[0].to_string())?;
        validate(&file, &origins, &Environment::default()).map_err(|found| found[0].to_string())
    }

    #[test]
    fn a_gateway_that_serves_alone_has_a_web_listener_unless_it_is_turned_off() {
        let names = |text: &str| {
            let settings = settings(text).expect("valid");
            let names = settings.listeners.into_iter().map(|one| one.name);
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(""), ["line", "web"]);
        assert_eq!(names("[web]\nlisten = 'off'"), ["line"]);
        let cluster = "[service_discovery]\nzookeeper_hosts = 'zk:2181'";
        assert_eq!(names(cluster), ["line"]);
        let both = format!("{cluster}\n[web]\nlisten = '127.0.0.1:8000'");
        assert_eq!(names(&both), ["line", "web"]);
    }

    #[test]
    fn a_gateway_that_serves_alone_has_a_chat_page_unless_it_is_said_otherwise() {
        let has_page = |text: &str| settings(text).map(|settings| settings.web.has_page);
        let cluster = "[service_discovery]\nzookeeper_hosts = 'zk:2181'\n";
        for (text, wanted) in [
            ("", true),
            ("[web]\npage = ''", true),
            ("[web]\npage = false", false),
            (cluster, false),
            (&format!("{cluster}[web]\npage = true"), true),
        ] {
            assert_eq!(has_page(text).expect("valid"), wanted, "{text}");
        }
        has_page("[web]\npage = 'yes'").expect_err("neither true nor false");
    }

    #[test]
    fn a_further_listener_says_where_it_is_and_what_it_carries() {
        let settings = settings(
            "[limits]\ntrusted_proxies = ['10.0.0.0/8']\n[listener.public]\n\
             address = '0.0.0.0:7000'\ncarriers = ['line', 'http']\nproxy_protocol = 'required'",
        );
        let listener = settings.expect("valid").listeners.pop().expect("one");
        assert_eq!(listener.name, "public");
        assert_eq!(listener.carriers, [Carrier::Line, Carrier::Http]);
        assert!(listener.is_proxied && !listener.is_default);
    }

    #[test]
    fn a_listener_says_of_tls_what_is_different_there() {
        let settings = settings(
            "[tls]\nmin_version = '1.3'\n[[tls.certificates]]\n\
             certificate_file = '/a'\nkey_file = '/b'\n[gateway_service]\ntls = 'required'\n[listener.own]\n\
             address = '0.0.0.0:1'\ncarriers = ['line']\ntls = 'optional'\nmin_version = '1.2'\n\
             client_ca_file = '/ca'\nclient_certificates = 'required'\n\
             certificates = [{ certificate_file = '/c', key_file = '/d', names = ['A.example'] }]",
        )
        .expect("valid");
        let [line, web, own] = &settings.listeners[..] else {
            panic!("three listeners");
        };
        let common = line.tls.as_ref().expect("TLS");
        assert!(common.is_1_3_alone && !line.is_tls_optional && web.tls.is_none());
        assert_eq!(common.certificates[0].key, PathBuf::from("/b"));
        assert_eq!(common.client_certificates, ClientCertificates::Off);
        let other = own.tls.as_ref().expect("TLS");
        assert!(!other.is_1_3_alone && own.is_tls_optional);
        assert_eq!(other.certificates[0].names, ["a.example"]);
        let required = ClientCertificates::Required("/ca".into());
        assert_eq!(other.client_certificates, required);
    }

    #[test]
    fn what_is_wrong_with_a_listener_is_said_with_its_name_and_line() {
        for (text, said) in [
            ("[listener.a]\ncarriers = ['line']", "address"),
            ("[listener.a]\naddress = '0.0.0.0:1'", "carriers"),
            (
                "[listener.a]\naddress = '0.0.0.0:1'\ncarriers = ['fax']",
                "fax",
            ),
            ("[listener.web]\naddress = '0.0.0.0:1'", "name"),
            ("[listener.a]\nadress = '0.0.0.0:1'", "adress"),
            ("[listener]\na = 7", "[listener.NAME]"),
            (
                "[listener.a]\naddress = '0.0.0.0:6000'\ncarriers = ['line']",
                "taken by the listener \"line\"",
            ),
            (
                "[web]\nproxy_protocol = 'required'",
                "limits.trusted_proxies",
            ),
            ("[web]\nproxy_protocol = 'maybe'", "maybe"),
            ("[gateway_service]\ntls = 'required'", "needs certificates"),
            (
                "[listener.a]\naddress = '0.0.0.0:1'\ncarriers = ['line']\ntls = 'required'\n\
                 certificates = [{ certificate_file = '/a' }]",
                "key_file",
            ),
            (
                "[tls]\ncertificates = [{ file = '/a' }]",
                "certificate_file",
            ),
            ("[tls]\nhandshakes = 0", "handshakes"),
            ("[limits]\ntrusted_proxies = ['x']", "trusted_proxies"),
        ] {
            let error = settings(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
            assert!(error.contains("im.toml line"), "{text}: {error}");
        }
    }
}
