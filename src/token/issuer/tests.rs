//! Tokens of issuers: which are taken, and that nothing that is wrong in anything is.

use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, RsaPublicKeyComponents},
};

use super::*;
use crate::token::{Tokens, key_set::KeySet};

const NOW: u64 = 1_760_000_000;
const LEEWAY_S: u64 = 300;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &[u8] = b"fedcba9876543210fedcba9876543210";

/// Made for these tests, and good for nothing else.
const RSA_PKCS8: &str = "\
    MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQDdnlrVozyMqQw4FGQn7yHhErcMVCym4nnJNaJGIKUJ/sU/\
    oZTG6tcVTdijE7iE0ybFo38UlybKHrDFfh6WhTUNeRrwXcFM8QuDYy/IjJGEitZWuYXR603Jw4ZVpsor4x1IM6m/nijEJ03u\
    iREf72mrfjfos0zjFSy5nPbhEjbYrnfGJUqOFkWvr+LXwRk59leT8AkG71MSsqvsWy46OzjVC5RXMJhVFEz8JNrx+8ntscAX\
    Iq2KT1RTZtNc2E+9hPCJnUUsbLExAADYzj9+Y9vGLOcK1yGsQe1Bq/8A7CVlMoBDsfb83lRXrSlSf6MyQjhM/imNlbjte9BV\
    Ttclv5dLAgMBAAECggEAKgXb/YSdd6KacYvUTgo3J2GQGiNf8CkjpLap1ZhdEx8fMeimuG1RaXXAbXPQ2kbbpEBTWYkrzsmx\
    BVHb5PjPTYW4SPnOLJPMdhZ5uhKFiVd2Oy2kpWBz+J09vMIKtfWz2LwLJQ2Nd1xol6GgAKk6JU2itlpBaxHZ0DxmR9lXUxCv\
    yReBck2fNf8j5B5qjkUvN6knekPDHcxq5y6l3UsPCPMc6K8+adqPlk8z4xbaRWi1aAM/12DUlksjDZVyEW+JX/U2vYj2jq35\
    AedbuhHU1S8f79hdHfPj58OzmfcaNraRjUtuk3ie77V2HW4tjg8Ar5owVRCNXOl4fGpWsofxUQKBgQDw8qlh1sr9jj0WUFFo\
    FV8xzpIGFQLDQMCkg9wOIjv0WdXSndXMxQ4vMZaz02ZVm+JhQKueMUP/cc9oMBOteA3DLScvdUsuVHpIJCXvVbfePByzgB4X\
    grCg3f6gPD/+TLDWqRk69DN6DrUt0Ag4UoNwdjy4v3P5xXsrmHPsIxo6eQKBgQDrdpIVoOu002L676riIwz96Z25s8niNbOj\
    ArL5sivhibBfZygDbbmTwFI+Ohx2Gz2A5VMypNGmw88ipZ6st9i5OiEISgRmqr24Nr2po0X6zJUh8ykAzaYbjZtg6uRjSyrJ\
    GsWlVZW6nZYnvZ/gdKdCpTwtubLd9voqtC+fx9wu4wKBgQDklmLpplxYJvx/Ud2ZcEUqvH4+dOp1ENZyfYJkikf07tFzijgO\
    l5h4X4RIwDMi3svrVe47GyQWkQOjJZFVjkMIOqslVBLqNkz4agrvP5Q7qy3TgaWKynsFcvahT+eqO1m9nRmJm6nGj3OFrgpO\
    XMHEDPhYkZHWkWrkFjNMAJVeiQKBgHfYkQBbOL1//lg01qhlKL6wQqx7ex0dMkKdJBV9f2I7X78fVTlxhsxSTkoH7+aZdNN/\
    ZbpYM7GK5on+/GVy6edVU+zRJ65N52S00BJg3USLDrkJ9+vFwG8zw0swI3D6mFtlugWuKxiiDwRJOu/W0C9WxOuNIiJiC/Di\
    Z38PDd37AoGBAJvaqU9UuUsuzr8eMcR1JuAxomEIzoyP6OwuuLYg7uttP/RgP8YZ1JulThzSnGU3kjxd+L2gammts9DEnRMG\
    SKYitGNqiXSPwns5MuprE39eUOFQZB+n3XLLfHaNxf757ACA0NGiAUq+VmCnQwkYEVKTACcE+LIRaSMG2GvBgnDC\
    ";

/// Somebody who signs.
enum Signer {
    Hmac(&'static [u8]),
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl Signer {
    fn rsa() -> Self {
        let pkcs8 = STANDARD.decode(RSA_PKCS8).expect("base64");
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(&pkcs8).expect("a key")))
    }

    fn p256() -> Self {
        let (kind, random) = (
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            SystemRandom::new(),
        );
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).expect("a key");
        Self::P256(Box::new(pair))
    }

    fn ed25519() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self::Ed25519(Box::new(
            Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key"),
        ))
    }

    fn all() -> [Self; 4] {
        [
            Self::Hmac(SECRET),
            Self::rsa(),
            Self::p256(),
            Self::ed25519(),
        ]
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Hmac(_) => "HS256",
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Hmac(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, message).as_ref().to_vec()
            }
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let random = SystemRandom::new();
                pair.sign(
                    &signature::RSA_PKCS1_SHA256,
                    &random,
                    message,
                    &mut signature,
                )
                .expect("a signature");
                signature
            }
            Self::P256(pair) => {
                let signature = pair
                    .sign(&SystemRandom::new(), message)
                    .expect("a signature");
                signature.as_ref().to_vec()
            }
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The public half as a set with one key, named `k1`.
    fn set(&self) -> String {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = match self {
            Self::Hmac(secret) => format!(r#""kty":"oct","k":"{}""#, encode(secret)),
            Self::Rsa(pair) => {
                let (n, e) = rsa_numbers(pair);
                format!(r#""kty":"RSA","n":"{}","e":"{}""#, encode(&n), encode(&e))
            }
            Self::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                format!(
                    r#""kty":"EC","crv":"P-256","x":"{}","y":"{}""#,
                    encode(x),
                    encode(y)
                )
            }
            Self::Ed25519(pair) => {
                let x = encode(pair.public_key().as_ref());
                format!(r#""kty":"OKP","crv":"Ed25519","x":"{x}""#)
            }
        };
        format!(r#"{{"keys":[{{"kid":"k1","use":"sig",{key}}}]}}"#)
    }

    fn keys(&self) -> KeySet {
        match self {
            Self::Hmac(secret) => KeySet::of_secret(secret).expect("a secret"),
            _ => KeySet::of_json(&self.set()).expect("a set"),
        }
    }

    fn token(&self, header: &str, claims: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn header(&self) -> String {
        format!(r#"{{"alg":"{}","typ":"JWT","kid":"k1"}}"#, self.algorithm())
    }

    fn good(&self) -> String {
        self.token(&self.header(), &claims(&[]))
    }
}

fn rsa_numbers(pair: &RsaKeyPair) -> (Vec<u8>, Vec<u8>) {
    let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
    (parts.n, parts.e)
}

/// The claims of a good token, with some of them others or, where empty, left out.
fn claims(changed: &[(&str, &str)]) -> String {
    let (iat, exp) = (NOW.to_string(), (NOW + 600).to_string());
    let mut claims = vec![
        ("iss", r#""https://id.example""#),
        ("aud", r#"["chat","other"]"#),
        ("sub", r#""42""#),
        ("iat", &iat),
        ("exp", &exp),
        ("jti", r#""a-token""#),
    ];
    for (name, value) in changed {
        claims.retain(|(other, _)| other != name);
        if !value.is_empty() {
            claims.push((name, value));
        }
    }
    let members: Vec<String> = claims.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
    format!("{{{}}}", members.join(","))
}

fn issuer(keys: KeySet) -> Issuer {
    Issuer {
        name: "https://id.example".into(),
        audience: "chat".into(),
        claim: "sub".into(),
        subject: SubjectKind::Uid,
        keys: keys.into(),
    }
}

#[test]
fn a_key_that_nobody_knows_is_wanted_and_takes_the_place_of_others() {
    let (signer, other) = (Signer::ed25519(), Signer::ed25519());
    let tokens = Tokens::new(&[7; 32], Duration::from_secs(60), Duration::ZERO).expect("a secret");
    let tokens = tokens.with_issuers(vec![issuer(signer.keys())]);
    let token = signer.token(&signer.header(), &claims(&[]));
    assert!(tokens.verify(&token, NOW).is_ok());
    assert!(!tokens.wanted_other_keys(0), "it is known");
    let unknown = r#"{"alg":"EdDSA","kid":"another"}"#;
    let stranger = other.token(unknown, &claims(&[]));
    assert_eq!(tokens.verify(&stranger, NOW), Err(TokenError::Invalid));
    assert!(tokens.wanted_other_keys(0) && !tokens.wanted_other_keys(0));
    // What an old key has signed is forgotten with it.
    tokens.set_keys(0, other.keys());
    assert_eq!(tokens.verify(&token, NOW), Err(TokenError::Invalid));
    let token = other.token(&other.header(), &claims(&[]));
    assert!(tokens.verify(&token, NOW).is_ok());
}

fn checked(issuer: Issuer, token: &str) -> Option<Result<IssuedGrant, TokenError>> {
    verify(&[issuer], token, (NOW, LEEWAY_S))
}

#[test]
fn a_token_of_each_kind_of_key_logs_its_user_in() {
    for signer in Signer::all() {
        let grant = checked(issuer(signer.keys()), &signer.good());
        let grant = grant.expect("the issuer's").expect("a good token");
        assert_eq!(grant.subject, Subject::User(42));
        assert_eq!((grant.issued_s, grant.good_until_s), (NOW, NOW + 660));
        assert!(grant.session > 0 && grant.session <= i64::MAX.cast_unsigned());
    }
}

#[test]
fn a_public_key_in_pem_is_as_good_as_one_of_a_set() {
    for signer in [Signer::rsa(), Signer::p256(), Signer::ed25519()] {
        let pem = pem_of(&signer);
        let keys = KeySet::of_pem(&pem).expect("a key");
        assert!(checked(issuer(keys), &signer.good()).expect("ours").is_ok());
    }
}

/// Subject public key info by hand: it is short, and its bytes are fixed but for the key.
fn pem_of(signer: &Signer) -> String {
    let sequence = |parts: &[&[u8]]| {
        let body = parts.concat();
        let mut bytes = vec![0x30, 0x82, (body.len() >> 8) as u8, body.len() as u8];
        bytes.extend(body);
        bytes
    };
    let bits = |body: &[u8]| {
        let length = body.len() + 1;
        let mut bytes = vec![0x03, 0x82, (length >> 8) as u8, length as u8, 0];
        bytes.extend(body);
        bytes
    };
    let (oids, key): (&[u8], Vec<u8>) = match signer {
        Signer::Rsa(pair) => (
            b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00",
            pair.public().as_ref().to_vec(),
        ),
        Signer::P256(pair) => (
            b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
            pair.public_key().as_ref().to_vec(),
        ),
        Signer::Ed25519(pair) => (
            b"\x30\x05\x06\x03\x2b\x65\x70",
            pair.public_key().as_ref().to_vec(),
        ),
        Signer::Hmac(_) => unreachable!("it has no public key"),
    };
    let mut info = sequence(&[oids, &bits(&key)]);
    if info.len() < 4 + 256 {
        // DER: lengths below 256 take one or two bytes, not three.
        info = short_form(oids, &key);
    }
    let text = STANDARD.encode(info);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("ASCII"))
        .collect();
    format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        lines.join("\n")
    )
}

fn short_form(oids: &[u8], key: &[u8]) -> Vec<u8> {
    let mut body = oids.to_vec();
    body.extend([0x03, key.len() as u8 + 1, 0]);
    body.extend(key);
    let mut info = vec![0x30, body.len() as u8];
    info.extend(body);
    info
}

#[test]
fn what_is_wrong_in_anything_logs_nobody_in() {
    let mut bad: Vec<(String, String)> = Vec::new();
    for signer in Signer::all() {
        let (header, algorithm) = (signer.header(), signer.algorithm());
        let mut note = |what: &str, token: String| bad.push((format!("{algorithm} {what}"), token));
        for (name, value) in [
            ("aud", r#""other""#),
            ("aud", "[]"),
            ("aud", r#"{"chat":1}"#),
            ("aud", ""),
            ("exp", ""),
            ("exp", r#""soon""#),
            ("exp", "-1"),
            ("exp", "null"),
            ("nbf", r#""now""#),
            ("iat", "[]"),
            ("sub", ""),
            ("sub", r#""""#),
            ("sub", "0"),
            ("sub", "-42"),
            ("sub", "42.5"),
            ("sub", r#""042""#),
            ("sub", r#""alice""#),
            ("sub", r#""9223372036854775808""#),
            ("sub", "[42]"),
        ] {
            note(
                &format!("{name}={value}"),
                signer.token(&header, &claims(&[(name, value)])),
            );
        }
        for changed in [
            r#"{"alg":"none"}"#.to_owned(),
            r#"{"alg":"None","typ":"JWT"}"#.to_owned(),
            r#"{"alg":"HS512"}"#.to_owned(),
            r#"{"alg":"PS256"}"#.to_owned(),
            r#"{"typ":"JWT"}"#.to_owned(),
            "[]".to_owned(),
            format!(r#"{{"alg":"{algorithm}","crit":["exp"]}}"#),
            format!(r#"{{"alg":"{algorithm}","zip":"DEF"}}"#),
            format!(r#"{{"alg":"{algorithm}","enc":"A128GCM"}}"#),
        ] {
            note(&changed, signer.token(&changed, &claims(&[])));
        }
        let good = signer.good();
        let (message, signature) = good.rsplit_once('.').expect("a signature");
        note("no signature", format!("{message}."));
        note("no last dot", message.to_owned());
        note(
            "half a signature",
            format!("{message}.{}", &signature[..20]),
        );
        note("padding", format!("{good}="));
        note("a fourth part", format!("{good}.x"));
        note("another message", format!("x{good}"));
        let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
        note(
            "another signature",
            format!("{message}.{flipped}{}", &signature[1..]),
        );
    }
    assert!(bad.len() >= 60, "{} hostile tokens", bad.len());
    for (what, token) in &bad {
        for signer in Signer::all() {
            let verdict = checked(issuer(signer.keys()), token);
            let is_refused = matches!(verdict, None | Some(Err(TokenError::Invalid)));
            assert!(is_refused, "{what}: {verdict:?}");
        }
    }
}

#[test]
fn the_key_and_not_the_token_says_the_algorithm() {
    let rsa = Signer::rsa();
    // The classic confusion: HMAC under the bytes of a public key that everybody knows.
    let Signer::Rsa(pair) = &rsa else {
        unreachable!("it is RSA")
    };
    let public: &'static [u8] = pair.public().as_ref().to_vec().leak();
    let pem: &'static [u8] = pem_of(&rsa).into_bytes().leak();
    for secret in [public, pem] {
        let forged = Signer::Hmac(secret).good();
        let verdict = checked(issuer(rsa.keys()), &forged);
        assert_eq!(verdict, Some(Err(TokenError::Invalid)));
    }
    for signer in Signer::all() {
        for other in Signer::all() {
            // Another key, whatever its kind, and the header of the right one.
            let token = other.token(&signer.header(), &claims(&[]));
            let is_same_key = matches!(
                (&signer, &other),
                (Signer::Hmac(_), Signer::Hmac(_)) | (Signer::Rsa(_), Signer::Rsa(_))
            );
            if !is_same_key {
                let verdict = checked(issuer(signer.keys()), &token);
                assert_eq!(verdict, Some(Err(TokenError::Invalid)));
            }
        }
    }
}

#[test]
fn an_issuer_is_believed_in_its_own_name_alone() {
    let (one, other) = (Signer::p256(), Signer::p256());
    let mut elsewhere = issuer(other.keys());
    elsewhere.name = "https://other.example".into();
    let issuers = [issuer(one.keys()), elsewhere];
    let verdict = |token: &str| verify(&issuers, token, (NOW, LEEWAY_S));
    assert!(verdict(&one.good()).expect("the first's").is_ok());
    assert_eq!(verdict(&other.good()), Some(Err(TokenError::Invalid)));
    let stranger = claims(&[("iss", r#""https://nobody.example""#)]);
    assert_eq!(verdict(&one.token(&one.header(), &stranger)), None);
}

#[test]
fn times_have_their_leeway_and_a_token_is_expired_only_if_all_else_is_right() {
    let signer = Signer::ed25519();
    let verdict = |changed: &[(&str, &str)]| {
        let token = signer.token(&signer.header(), &claims(changed));
        checked(issuer(signer.keys()), &token).expect("the issuer's")
    };
    let at = |seconds: u64| seconds.to_string();
    assert!(verdict(&[("exp", &at(NOW - 59))]).is_ok());
    assert_eq!(verdict(&[("exp", &at(NOW - 60))]), Err(TokenError::Expired));
    assert!(verdict(&[("exp", &format!("{}.5", NOW + 1))]).is_ok());
    let other = r#""other""#;
    assert_eq!(
        verdict(&[("exp", &at(NOW - 60)), ("aud", other)]),
        Err(TokenError::Invalid)
    );
    for claim in ["nbf", "iat"] {
        assert!(verdict(&[(claim, &at(NOW + LEEWAY_S))]).is_ok());
        let late = verdict(&[(claim, &at(NOW + LEEWAY_S + 1))]);
        assert_eq!(
            late,
            Err(TokenError::FromTheFuture {
                ahead_s: LEEWAY_S + 1
            })
        );
    }
    assert!(verdict(&[("iat", "")]).is_ok());
}

#[test]
fn the_key_before_is_good_until_its_day() {
    let (new, old) = (Signer::p256(), Signer::p256());
    let keys = || new.keys().with_previous(old.keys(), NOW + 100);
    assert!(checked(issuer(keys()), &new.good()).expect("ours").is_ok());
    let grant = checked(issuer(keys()), &old.good())
        .expect("ours")
        .expect("good");
    assert_eq!(grant.good_until_s, NOW + 100, "not longer than its key");
    let late = verify(&[issuer(keys())], &old.good(), (NOW + 100, LEEWAY_S));
    assert_eq!(late, Some(Err(TokenError::Invalid)));
}

#[test]
fn a_key_that_a_token_names_is_the_only_one_it_is_checked_against() {
    let signer = Signer::rsa();
    let named = |kid: &str| format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#);
    let verdict = |header: &str| {
        let token = signer.token(header, &claims(&[]));
        checked(issuer(signer.keys()), &token).expect("ours")
    };
    assert!(verdict(&named("k1")).is_ok());
    assert!(verdict(r#"{"alg":"RS256"}"#).is_ok());
    assert_eq!(verdict(&named("k2")), Err(TokenError::Invalid));
}

#[test]
fn names_are_names_and_the_session_is_that_of_the_token() {
    let signer = Signer::ed25519();
    let by_name = || Issuer {
        subject: SubjectKind::Name { create_users: true },
        claim: "preferred_username".into(),
        ..issuer(signer.keys())
    };
    let verdict = |changed: &[(&str, &str)]| {
        let token = signer.token(&signer.header(), &claims(changed));
        checked(by_name(), &token).expect("ours")
    };
    let alice = ("preferred_username", r#""alice""#);
    let first = verdict(&[alice]).expect("good");
    let subject = Subject::Name {
        name: "alice".into(),
        create_users: true,
    };
    assert_eq!(first.subject, subject);
    let later = verdict(&[alice, ("iat", "1")]).expect("good");
    assert_eq!(first.session, later.session, "its `jti` is the same");
    let other = verdict(&[alice, ("jti", r#""another""#)]).expect("good");
    assert_ne!(first.session, other.session);
    let unnamed = verdict(&[alice, ("jti", "")]).expect("good");
    assert_ne!(unnamed.session, first.session);
    for name in [r#""""#, r#""a b""#, r#""a:b""#, "7", r#""a\u0000""#] {
        assert_eq!(
            verdict(&[("preferred_username", name)]),
            Err(TokenError::Invalid),
            "{name}"
        );
    }
}

#[test]
fn weak_and_strange_keys_are_refused_when_they_are_read() {
    assert!(KeySet::of_secret(&[7; 31]).is_err());
    assert!(KeySet::of_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----").is_err());
    assert!(KeySet::of_pem("ssh-ed25519 AAAA").is_err());
    let weak = format!(
        r#"{{"keys":[{{"kty":"RSA","n":"{}","e":"AQAB"}}]}}"#,
        URL_SAFE_NO_PAD.encode([0xff; 128])
    );
    let secret = Signer::Hmac(SECRET).set();
    let encryption = Signer::rsa().set().replace("sig", "enc");
    let other_algorithm = Signer::rsa()
        .set()
        .replace(r#""use""#, r#""alg":"PS256","use""#);
    for set in [
        weak,
        secret,
        encryption,
        other_algorithm,
        "{}".into(),
        "[]".into(),
    ] {
        assert!(KeySet::of_json(&set).is_err(), "{set}");
    }
    let beside = Signer::p256().set().replace(
        r#"{"keys":["#,
        r#"{"keys":[{"kty":"EC","crv":"P-521","x":"","y":""},{"kty":"quantum"},"#,
    );
    assert!(KeySet::of_json(&beside).is_ok(), "others are left out");
}

#[test]
fn a_token_that_was_good_is_remembered_until_it_expires_and_no_longer() {
    let signer = Signer::p256();
    let tokens = Tokens::new(
        OTHER_SECRET,
        std::time::Duration::from_secs(60),
        std::time::Duration::from_secs(LEEWAY_S),
    );
    let tokens = tokens
        .expect("a secret")
        .with_issuers(vec![issuer(signer.keys())]);
    let good = signer.good();
    for _ in 0..2 {
        assert!(tokens.verify(&good, NOW).is_ok());
    }
    assert_eq!(tokens.verify(&good, NOW + 660), Err(TokenError::Expired));
    assert_eq!(
        tokens.verify(&format!("{good}A"), NOW),
        Err(TokenError::Invalid)
    );
    assert_eq!(
        tokens.longest_life(),
        None,
        "issuers say for how long theirs are"
    );
}

proptest! {
    #[test]
    fn whatever_is_shown_is_refused_and_nothing_panics(
        token in "[A-Za-z0-9_.=-]{0,200}",
        cut in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let signer = Signer::ed25519();
        prop_assert!(!matches!(checked(issuer(signer.keys()), &token), Some(Ok(_))));
        let mut good = signer.good().into_bytes();
        let place = cut.index(good.len());
        let before = std::mem::replace(&mut good[place], byte);
        if before != byte && let Ok(changed) = String::from_utf8(good) {
            prop_assert!(!matches!(checked(issuer(signer.keys()), &changed), Some(Ok(_))));
        }
    }
}
