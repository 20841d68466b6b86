//! Tokens: what `login` answers, what `auth` accepts, and what it must not accept.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::common::{Gateway, assert_error, field, number};

fn unix_seconds() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}

/// The key the gateway signs with, found by reproducing the signature of a token it gave.
fn signing_key(gateway: &Gateway, token: &str) -> Vec<u8> {
    let file = std::fs::read_to_string(gateway.data_file("token.secret")).expect("the secret");
    let text = file.trim();
    let decoded: Vec<u8> = (0..text.len() / 2)
        .filter_map(|index| u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok())
        .collect();
    let (content, signature) = token.rsplit_once('.').expect("three parts");
    [text.as_bytes().to_vec(), decoded, file.as_bytes().to_vec()]
        .into_iter()
        .find(|key| {
            jsonwebtoken::crypto::sign(
                content.as_bytes(),
                &EncodingKey::from_secret(key),
                Algorithm::HS256,
            )
            .is_ok_and(|own| own == signature)
        })
        .expect("the secret file holds the signing key")
}

fn good_claims(uid: u64) -> Value {
    let now = unix_seconds();
    json!({"iss": "im-gateway", "sub": uid.to_string(), "iat": now, "exp": now + 600,
           "jti": "0123456789abcdef", "typ": "access"})
}

/// What a token says, its signature aside.
fn claims_of(token: &str) -> Value {
    let claims = token.split('.').nth(1).expect("claims");
    let text = base64url_decoded(claims);
    serde_json::from_slice(&text).expect("JSON")
}

fn forge(key: &[u8], algorithm: Algorithm, claims: &Value) -> String {
    encode(
        &Header::new(algorithm),
        claims,
        &EncodingKey::from_secret(key),
    )
    .expect("encode")
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64url without padding.
fn base64url(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (index, byte)| {
            word | u32::from(*byte) << (16 - 8 * index)
        });
        for index in 0..=chunk.len() {
            text.push(char::from(
                ALPHABET[(word >> (18 - 6 * index) & 63) as usize],
            ));
        }
    }
    text
}

fn base64url_decoded(text: &str) -> Vec<u8> {
    let mut bits = 0u32;
    let mut bytes = Vec::new();
    for (index, character) in text.bytes().enumerate() {
        let value = ALPHABET.iter().position(|known| *known == character);
        bits = bits << 6 | value.expect("base64url") as u32;
        if index % 4 > 0 {
            bytes.push((bits >> (6 - 2 * (index % 4))) as u8);
        }
    }
    bytes
}

#[test]
fn a_token_logs_in_without_the_password() {
    let gateway = Gateway::start(|_| {});
    let alice = gateway.register("alice");
    let mut client = gateway.client();
    client.ask("set:device:phone");
    let reply = client.ask(&format!("auth:{}", alice.token));
    assert_eq!(
        reply,
        format!("+OK uid={} session={}", alice.uid, field(&reply, "session"))
    );
    assert_eq!(field(&client.ask("whoami"), "name"), "alice");
}

#[test]
fn a_refreshed_token_works_and_so_does_the_one_before() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let reply = alice.ask("refresh");
    assert!(reply.starts_with("+OK token="), "{reply}");
    let fresh = field(&reply, "token").to_string();
    for token in [fresh, alice.token.clone()] {
        let reply = gateway.client().ask(&format!("auth:{token}"));
        assert_eq!(number(&reply, "uid"), alice.uid);
    }
}

#[test]
fn a_forged_token_with_the_right_key_is_accepted_so_the_refusals_below_mean_something() {
    let gateway = Gateway::start(|_| {});
    let alice = gateway.register("alice");
    let key = signing_key(&gateway, &alice.token);
    let token = forge(&key, Algorithm::HS256, &good_claims(alice.uid));
    let reply = gateway.client().ask(&format!("auth:{token}"));
    assert_eq!(number(&reply, "uid"), alice.uid);
}

#[test]
fn an_expired_token_says_so_and_sixty_seconds_are_forgiven() {
    let gateway = Gateway::start(|_| {});
    let alice = gateway.register("alice");
    let key = signing_key(&gateway, &alice.token);
    let with_end = |seconds: i64| {
        let mut claims = good_claims(alice.uid);
        claims["iat"] = json!(unix_seconds() - 1000);
        claims["exp"] = json!(unix_seconds() + seconds);
        forge(&key, Algorithm::HS256, &claims)
    };
    let mut client = gateway.client();
    assert_error(
        &client.ask(&format!("auth:{}", with_end(-90))),
        "TOKEN_EXPIRED",
    );
    let reply = client.ask(&format!("auth:{}", with_end(-20)));
    assert_eq!(number(&reply, "uid"), alice.uid);
}

#[test]
fn a_token_with_another_signature_or_none_is_refused() {
    let gateway = Gateway::start(|_| {});
    let alice = gateway.register("alice");
    let key = signing_key(&gateway, &alice.token);
    let good = good_claims(alice.uid);
    let unsigned = |header: &str| {
        format!(
            "{}.{}.",
            base64url(header.as_bytes()),
            base64url(good.to_string().as_bytes())
        )
    };
    let (header_and_claims, signature) = alice.token.rsplit_once('.').expect("three parts");
    let mut other_signature = signature.to_string();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    other_signature.replace_range(0..1, first);
    let other_claims = forge(&key, Algorithm::HS256, &good_claims(alice.uid + 1));
    let claims_of_another = other_claims.split('.').nth(1).expect("claims");
    let own_header = header_and_claims.split('.').next().expect("a header");
    let another_key = b"another-key-of-32-bytes-in-length";

    for (what, token) in [
        ("another key", forge(another_key, Algorithm::HS256, &good)),
        ("an empty key", forge(b"", Algorithm::HS256, &good)),
        ("HS384", forge(&key, Algorithm::HS384, &good)),
        ("HS512", forge(&key, Algorithm::HS512, &good)),
        ("alg none", unsigned(r#"{"alg":"none","typ":"JWT"}"#)),
        ("alg None", unsigned(r#"{"alg":"None","typ":"JWT"}"#)),
        ("alg NONE", unsigned(r#"{"alg":"NONE"}"#)),
        ("no alg", unsigned(r#"{"typ":"JWT"}"#)),
        (
            "alg none, real signature",
            format!("{}{signature}", unsigned(r#"{"alg":"none"}"#)),
        ),
        ("HS256, no signature", format!("{header_and_claims}.")),
        ("two parts", header_and_claims.to_string()),
        (
            "changed signature",
            format!("{header_and_claims}.{other_signature}"),
        ),
        (
            "claims of another user",
            format!("{own_header}.{claims_of_another}.{signature}"),
        ),
    ] {
        assert_refused(&gateway, what, &token);
    }
}

#[test]
fn a_signed_token_with_a_claim_missing_or_wrong_is_refused() {
    let gateway = Gateway::start(|_| {});
    let alice = gateway.register("alice");
    let key = signing_key(&gateway, &alice.token);
    let good = good_claims(alice.uid);
    let with = |member: &str, value: Value| {
        let mut claims = good.clone();
        claims[member] = value;
        forge(&key, Algorithm::HS256, &claims)
    };
    let without = |member: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("an object").remove(member);
        forge(&key, Algorithm::HS256, &claims)
    };
    for (what, token) in [
        ("another issuer", with("iss", json!("somebody"))),
        ("no issuer", without("iss")),
        ("another type", with("typ", json!("refresh"))),
        ("no type", without("typ")),
        ("dated far ahead", with("iat", json!(unix_seconds() + 600))),
        ("no date", without("iat")),
        ("a session that is no number", with("sid", json!("mine"))),
        ("no end", without("exp")),
        ("no subject", without("sub")),
        ("a subject that is no number", with("sub", json!("alice"))),
        ("a negative subject", with("sub", json!("-1"))),
        ("subject zero", with("sub", json!("0"))),
    ] {
        assert_refused(&gateway, what, &token);
    }
}

#[test]
fn what_is_no_token_at_all_is_refused() {
    let gateway = Gateway::start(|_| {});
    for (what, token) in [
        ("garbage", "garbage"),
        ("dots", ".."),
        ("not base64", "a.b.c"),
        ("emoji", "😀.😀.😀"),
        ("a SQL quote", "'; DROP TABLE users; --"),
    ] {
        assert_refused(&gateway, what, token);
    }
}

/// Panics where `token`, which is `what`, logs in.
fn assert_refused(gateway: &Gateway, what: &str, token: &str) {
    let mut client = gateway.client();
    let reply = client.ask(&format!("auth:{token}"));
    assert!(
        reply.starts_with("-ERR AUTH_FAILED ") || reply.starts_with("-ERR LINE_TOO_LONG "),
        "{what}: {reply}"
    );
    if reply.starts_with("-ERR AUTH_FAILED ") {
        assert_error(&client.ask("whoami"), "NOT_LOGGED_IN");
    }
}

#[test]
fn a_token_belongs_to_its_login_and_auth_and_refresh_continue_that_session() {
    let gateway = Gateway::start(|_| {});
    let reply = gateway.client().ask("register:alice:password1");
    let (session, token) = (field(&reply, "session"), field(&reply, "token"));
    let claims = claims_of(token);
    assert_eq!(claims["iss"], "im-gateway");
    assert_eq!(claims["sub"], field(&reply, "uid"));
    assert_eq!(claims["sid"], session);
    assert_eq!(claims["typ"], "access");
    assert!(claims["jti"].is_string() && claims.get("nbf").is_none());
    let lifetime = claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat");
    assert_eq!(lifetime, 24 * 3600);
    let mut client = gateway.client();
    let continued = client.ask(&format!("auth:{token}"));
    assert_eq!(field(&continued, "session"), session);
    let fresh = client.ask("refresh");
    assert_eq!(claims_of(field(&fresh, "token"))["sid"], session);
}

#[test]
fn a_token_of_a_clock_ahead_is_taken_within_the_leeway_and_past_it_the_log_says_why() {
    let gateway = Gateway::start(|config| {
        config.set("auth", "clock_leeway", "10m");
    });
    let alice = gateway.register("alice");
    let key = signing_key(&gateway, &alice.token);
    let dated = |seconds: i64| {
        let mut claims = good_claims(alice.uid);
        claims["iat"] = json!(unix_seconds() + seconds);
        claims["exp"] = json!(unix_seconds() + seconds + 600);
        forge(&key, Algorithm::HS256, &claims)
    };
    let reply = gateway.client().ask(&format!("auth:{}", dated(590)));
    assert_eq!(number(&reply, "uid"), alice.uid);
    // What a gateway an hour behind sees of a fresh token. One line is enough for many clients.
    for _ in 0..3 {
        let reply = gateway.client().ask(&format!("auth:{}", dated(3600)));
        assert_error(&reply, "AUTH_FAILED");
    }
    let (_, log) = gateway.output();
    let told = log.matches("the clocks of the gateways differ").count();
    assert_eq!(told, 1, "{log}");
}

#[test]
fn a_token_of_the_release_before_is_still_good() {
    let gateway = Gateway::start(|_| {});
    let alice = gateway.register("alice");
    let key = signing_key(&gateway, &alice.token);
    let mut claims = good_claims(alice.uid);
    // Its maker's clock was a little ahead, which that release held against it.
    claims["iat"] = json!(unix_seconds() + 200);
    claims["nbf"] = claims["iat"].clone();
    let token = forge(&key, Algorithm::HS256, &claims);
    let mut client = gateway.client();
    let reply = client.ask(&format!("auth:{token}"));
    assert_eq!(number(&reply, "uid"), alice.uid);
    let fresh = client.ask("refresh");
    let session = claims_of(field(&fresh, "token"))["sid"].clone();
    assert_eq!(session, field(&reply, "session"));
}

#[test]
fn the_gateways_own_token_fits_a_line_before_log_in() {
    let gateway = Gateway::start(|_| {});
    let name = "n".repeat(64);
    let mut client = gateway.client();
    client.register(&name);
    assert!("auth:".len() + client.token.len() < 512);
}

#[test]
fn the_token_secret_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let gateway = Gateway::start(|_| {});
    let mode = std::fs::metadata(gateway.data_file("token.secret"))
        .expect("the secret")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_token_outlives_the_process_that_gave_it() {
    let mut gateway = Gateway::start(|_| {});
    let alice = gateway.register("alice");
    gateway.kill_9();
    gateway.restart();
    let reply = gateway.client().ask(&format!("auth:{}", alice.token));
    assert_eq!(number(&reply, "uid"), alice.uid);
}
