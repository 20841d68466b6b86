//! Tokens of issuers: whom they log in, which accounts they make, and how they end.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use rustix::process::Signal;
use rustls::{ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::common::certificates::Authority;
use crate::common::{Gateway, assert_error, eventually, field, number};

const SECRET: &[u8] = b"a secret of the issuer's, of 32 bytes or more";

/// An identity service with a key of its own, which it also publishes.
struct Issuer {
    key: Ed25519KeyPair,
    key_id: &'static str,
}

impl Issuer {
    fn new() -> Self {
        Self::with_key("1")
    }

    /// One that calls its key so.
    fn with_key(key_id: &'static str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key");
        Self { key, key_id }
    }

    fn key_set(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": self.key_id, "x": x}]}).to_string()
    }

    fn token(&self, claims: &Value) -> String {
        signed(("EdDSA", self.key_id), claims, |message| {
            self.key.sign(message).as_ref().to_vec()
        })
    }
}

fn signed(
    (algorithm, key_id): (&str, &str),
    claims: &Value,
    sign: impl Fn(&[u8]) -> Vec<u8>,
) -> String {
    let header = json!({"alg": algorithm, "kid": key_id}).to_string();
    let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", encode(header), encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("a clock after 1970").as_secs()
}

/// A token for the user of this name, whose own name is `jti`.
fn claims(name: &str, jti: &str) -> Value {
    json!({"iss": "https://id.example", "aud": "chat", "login": name, "jti": jti,
           "iat": now(), "exp": now() + 600})
}

/// A gateway that believes `issuer` by its key set, of names of accounts.
fn gateway_believing(issuer: &Issuer, create_users: bool) -> Gateway {
    Gateway::start(|config| {
        let file = config.data_directory().join("keys.json");
        fs::create_dir_all(config.data_directory()).expect("a directory");
        fs::write(&file, issuer.key_set()).expect("a file");
        let mut table = believed();
        table.insert("jwks_file".into(), file.display().to_string().into());
        table.insert("create_users".into(), create_users.into());
        config.set("auth", "issuer", vec![toml::Value::Table(table)]);
    })
}

/// What a configuration says of the identity service, but for its keys.
fn believed() -> toml::Table {
    toml::toml! {
        issuer = "https://id.example"
        audience = "chat"
        subject = "name"
        claim = "login"
    }
}

#[test]
fn an_account_is_made_at_first_sight_and_is_the_same_the_next_time() {
    let issuer = Issuer::new();
    let gateway = gateway_believing(&issuer, true);
    let mut carol = gateway.client();
    let reply = carol.ask(&format!("auth:{}", issuer.token(&claims("carol", "1"))));
    let (uid, session) = (number(&reply, "uid"), field(&reply, "session").to_owned());
    assert_eq!(field(&carol.ask("whoami"), "name"), "carol");
    let mut again = gateway.client();
    again.ask("set:device:phone");
    let reply = again.ask(&format!("auth:{}", issuer.token(&claims("carol", "2"))));
    assert_eq!(number(&reply, "uid"), uid);
    assert_ne!(field(&reply, "session"), session, "each token is a session");
    // Others can write to the account, and nobody can log in to it by guessing.
    let mut bob = gateway.register("bob");
    bob.chat(uid, "hello");
    assert_eq!(carol.push().text(), "hello");
    assert_error(
        &gateway.client().ask("login:carol:password-of-carol"),
        "AUTH_FAILED",
    );
}

#[test]
fn an_account_that_is_there_is_found_by_its_exact_name_alone() {
    let issuer = Issuer::new();
    let gateway = gateway_believing(&issuer, false);
    let alice = gateway.register("alice");
    let auth = |name: &str| {
        let token = issuer.token(&claims(name, "1"));
        gateway.client().ask(&format!("auth:{token}"))
    };
    assert_eq!(number(&auth("alice"), "uid"), alice.uid);
    for name in ["ali", "alice2", "Alice", "nobody"] {
        assert_error(&auth(name), "AUTH_FAILED");
    }
}

#[test]
fn a_logout_ends_the_token_for_good_and_no_other_one() {
    let issuer = Issuer::new();
    let gateway = gateway_believing(&issuer, true);
    let (first, second) = ["1", "2"]
        .map(|jti| issuer.token(&claims("dora", jti)))
        .into();
    let mut client = gateway.client();
    let reply = client.ask(&format!("auth:{first}"));
    assert!(reply.starts_with("+OK uid="), "{reply}");
    assert_eq!(client.ask("logout"), "+OK logout");
    assert_error(
        &gateway.client().ask(&format!("auth:{first}")),
        "AUTH_FAILED",
    );
    let reply = gateway.client().ask(&format!("auth:{second}"));
    assert!(reply.starts_with("+OK uid="), "{reply}");
}

#[test]
fn all_sessions_end_with_logout_all() {
    let issuer = Issuer::new();
    let gateway = gateway_believing(&issuer, true);
    let mut old = claims("emil", "1");
    old["iat"] = json!(now() - 5);
    let token = issuer.token(&old);
    let mut client = gateway.client();
    assert!(client.ask(&format!("auth:{token}")).starts_with("+OK uid="));
    assert_eq!(client.ask("logout:all"), "+OK logout");
    assert_error(
        &gateway.client().ask(&format!("auth:{token}")),
        "AUTH_FAILED",
    );
}

#[test]
fn what_the_issuer_has_not_signed_for_this_gateway_is_refused() {
    let issuer = Issuer::new();
    let gateway = gateway_believing(&issuer, true);
    let changed = |name: &str, value: Value| {
        let mut claims = claims("mallory", "1");
        claims[name] = value;
        claims
    };
    let stranger = Issuer::new().token(&claims("mallory", "1"));
    let confused = signed(("HS256", "1"), &claims("mallory", "1"), |message| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, issuer.key.public_key().as_ref());
        hmac::sign(&key, message).as_ref().to_vec()
    });
    for token in [
        stranger,
        confused,
        issuer.token(&changed("aud", json!("another"))),
        issuer.token(&changed("iss", json!("https://other.example"))),
        issuer.token(&changed("nbf", json!(now() + 3600))),
        issuer.token(&changed("login", json!("a:b"))),
    ] {
        assert_error(
            &gateway.client().ask(&format!("auth:{token}")),
            "AUTH_FAILED",
        );
    }
    let late = issuer.token(&changed("exp", json!(now() - 90)));
    assert_error(
        &gateway.client().ask(&format!("auth:{late}")),
        "TOKEN_EXPIRED",
    );
}

#[test]
fn numbers_by_a_shared_secret_and_long_tokens_before_login() {
    let gateway = Gateway::start(|config| {
        fs::create_dir_all(config.data_directory()).expect("a directory");
        let file = config.data_directory().join("issuer.secret");
        fs::write(&file, [SECRET, b"\n"].concat()).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        let mut table = toml::Table::new();
        table.insert("issuer".into(), "backend".into());
        table.insert("secret_file".into(), file.display().to_string().into());
        config.set("auth", "issuer", vec![toml::Value::Table(table)]);
    });
    let alice = gateway.register("alice");
    let token = |sub: Value| {
        let claims = json!({"iss": "backend", "sub": sub, "exp": now() + 600,
                            "roles": "x".repeat(1500)});
        signed(("HS256", "1"), &claims, |message| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
            hmac::sign(&key, message).as_ref().to_vec()
        })
    };
    for sub in [json!(alice.uid), json!(alice.uid.to_string())] {
        let reply = gateway.client().ask(&format!("auth:{}", token(sub)));
        assert_eq!(number(&reply, "uid"), alice.uid);
    }
    let nobody = gateway
        .client()
        .ask(&format!("auth:{}", token(json!(987_654_321))));
    assert_error(&nobody, "AUTH_FAILED");
}

#[test]
fn key_files_that_change_are_read_again_and_bad_ones_change_nothing() {
    let (old, new) = (Issuer::with_key("1"), Issuer::with_key("2"));
    let gateway = gateway_believing(&old, true);
    let auth = |issuer: &Issuer, jti: &str| {
        let token = issuer.token(&claims("carol", jti));
        gateway.client().ask(&format!("auth:{token}"))
    };
    assert!(auth(&old, "1").starts_with("+OK "));
    assert_error(&auth(&new, "2"), "AUTH_FAILED");
    let file = gateway.data_file("keys.json");
    fs::write(&file, "{").expect("a file");
    gateway.signal(Signal::HUP);
    eventually("the log says so", || {
        gateway.output().1.contains("keeps what it had")
    });
    assert!(auth(&old, "3").starts_with("+OK "));
    fs::write(&file, new.key_set()).expect("a file");
    gateway.signal(Signal::HUP);
    eventually("the new key is used", || {
        auth(&new, "4").starts_with("+OK ")
    });
    // One that was found good before is not, either.
    assert_error(&auth(&old, "1"), "AUTH_FAILED");
}

#[test]
fn published_keys_are_fetched_again_for_one_that_is_not_known_and_not_for_each() {
    let authority = Authority::new();
    authority.sign("id", "localhost");
    let (old, new) = (Issuer::with_key("1"), Issuer::with_key("2"));
    let publisher = Publisher::start(&authority, old.key_set());
    let gateway = Gateway::start(|config| {
        let mut table = believed();
        table.insert("jwks_url".into(), publisher.url.clone().into());
        let ca = authority.path("ca.pem").display().to_string();
        table.insert("ca_file".into(), ca.into());
        table.insert("create_users".into(), true.into());
        config.set("auth", "issuer", vec![toml::Value::Table(table)]);
    });
    let auth = |issuer: &Issuer, jti: &str| {
        let token = issuer.token(&claims("carol", jti));
        gateway.client().ask(&format!("auth:{token}"))
    };
    eventually("the keys are there", || auth(&old, "1").starts_with("+OK "));
    assert_eq!(publisher.fetched(), 1);
    // What is of no use leaves those that were good.
    publisher.publish("{}".to_owned());
    assert_error(&auth(&new, "2"), "AUTH_FAILED");
    eventually("they were fetched", || publisher.fetched() >= 2);
    assert!(auth(&old, "3").starts_with("+OK "));
    // It is tried again until there is something of use.
    publisher.publish(new.key_set());
    eventually("the new key is used", || {
        auth(&new, "4").starts_with("+OK ")
    });
    assert_error(&auth(&old, "1"), "AUTH_FAILED");
    let fetched = publisher.fetched();
    let unknown = Issuer::with_key("3");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert_error(&auth(&unknown, "5"), "AUTH_FAILED");
    }
    assert_eq!(publisher.fetched(), fetched, "not before a minute is over");
}

#[test]
fn keys_are_taken_from_nobody_but_who_is_meant() {
    let (authority, others) = (Authority::new(), Authority::new());
    authority.sign("id", "localhost");
    let issuer = Issuer::new();
    let publisher = Publisher::start(&authority, issuer.key_set());
    let gateway = Gateway::start(|config| {
        let mut table = believed();
        table.insert("jwks_url".into(), publisher.url.clone().into());
        let ca = others.path("ca.pem").display().to_string();
        table.insert("ca_file".into(), ca.into());
        config.set("auth", "issuer", vec![toml::Value::Table(table)]);
    });
    eventually("the log says so", || {
        gateway
            .output()
            .1
            .contains("cannot fetch the keys at https://localhost")
    });
    let token = issuer.token(&claims("carol", "1"));
    assert_error(
        &gateway.client().ask(&format!("auth:{token}")),
        "AUTH_FAILED",
    );
    assert_eq!(publisher.fetched(), 0);
}

/// Who publishes a key set over HTTPS. Its thread ends with it.
struct Publisher {
    url: String,
    state: Arc<Mutex<(String, usize)>>,
    stop: Arc<AtomicBool>,
    address: SocketAddr,
    thread: Option<thread::JoinHandle<()>>,
}

impl Publisher {
    fn start(authority: &Authority, set: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let config = authority.server_config("id");
        let state = Arc::new(Mutex::new((set, 0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopping) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                let connection = ServerConnection::new(Arc::clone(&config)).expect("a server");
                let stream = StreamOwned::new(connection, stream.expect("a connection"));
                // Who does not trust it goes again.
                let _ = answer(stream, &shared);
            }
        });
        Self {
            url: format!("https://localhost:{}/keys", address.port()),
            state,
            stop,
            address,
            thread: Some(thread),
        }
    }

    fn publish(&self, set: String) {
        self.state.lock().expect("no panic").0 = set;
    }

    fn fetched(&self) -> usize {
        self.state.lock().expect("no panic").1
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Its listener hears of it by a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(
    mut stream: StreamOwned<ServerConnection, TcpStream>,
    state: &Mutex<(String, usize)>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        head.extend_from_slice(&piece[..count]);
    }
    assert!(head.starts_with(b"GET /keys HTTP/1.1\r\n"));
    let set = {
        let mut state = state.lock().expect("no panic");
        state.1 += 1;
        state.0.clone()
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{set}",
        set.len()
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}
