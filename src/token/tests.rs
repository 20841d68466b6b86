//! That only a token right in everything is accepted, and that none and no key is ever printed.

use super::*;
use proptest::prelude::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const OTHER_SECRET: &[u8] = b"fedcba9876543210fedcba9876543210";
const NOW: u64 = 1_760_000_000;
const LIFETIME_S: u64 = 86_400;
const CLOCK_LEEWAY_S: u64 = 300;

fn tokens() -> Tokens {
    Tokens::new(
        SECRET,
        Duration::from_secs(LIFETIME_S),
        Duration::from_secs(CLOCK_LEEWAY_S),
    )
    .unwrap()
}

impl Tokens {
    /// What a token says that is no issuer's.
    fn own(&self, token: &str, now_unix_s: u64) -> Result<Grant, TokenError> {
        match self.verify(token, now_unix_s)? {
            Verified::Own(grant) => Ok(grant),
            Verified::Issued(grant) => panic!("there is no issuer, but {grant:?}"),
        }
    }
}

/// Of the user 42, by the login 9, now.
fn grant() -> Grant {
    Grant {
        user: 42,
        session: Some(9),
        epoch: Some(3),
        issued_s: NOW,
    }
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for position in 0..=chunk.len() {
            text.push(char::from(
                ALPHABET[(bits >> (18 - 6 * position)) as usize & 63],
            ));
        }
    }
    text
}

/// Signs the very bytes of `header` and `claims`, whatever they are, with HMAC and `algorithm`'s
/// hash.
fn forged(header: &str, claims: &str, secret: &[u8], algorithm: Algorithm) -> String {
    let message = format!(
        "{}.{}",
        base64url(header.as_bytes()),
        base64url(claims.as_bytes())
    );
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    format!("{message}.{signature}")
}

const HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

fn signed(header: &str, claims: &str) -> String {
    forged(header, claims, SECRET, Algorithm::HS256)
}

/// The claims of a good token with `name` set to the JSON `value`, or left out.
fn claims_with(name: &str, value: Option<&str>) -> String {
    let mut claims = vec![
        ("iss", "\"im-gateway\"".to_owned()),
        ("sub", "\"42\"".to_owned()),
        ("sid", "\"9\"".to_owned()),
        ("epoch", "3".to_owned()),
        ("iat", NOW.to_string()),
        ("exp", (NOW + LIFETIME_S).to_string()),
        ("jti", "\"00000000000000000000000000000007\"".to_owned()),
        ("typ", "\"access\"".to_owned()),
    ];
    claims.retain(|(other, _)| *other != name);
    if let Some(value) = value {
        claims.push((name, value.to_owned()));
    }
    let members: Vec<String> = claims.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
    format!("{{{}}}", members.join(","))
}

fn good_claims() -> String {
    claims_with("jti", Some("\"7\""))
}

#[test]
fn a_token_names_its_user_and_session_until_it_expires() {
    let tokens = tokens();
    let token = tokens.issue(&grant(), 7);
    assert_eq!(tokens.own(&token, NOW), Ok(grant()));
    let end = NOW + LIFETIME_S + EXPIRY_LEEWAY_S;
    assert_eq!(tokens.own(&token, end - 1), Ok(grant()));
    assert_eq!(tokens.own(&token, end), Err(TokenError::Expired));
    assert_eq!(tokens.own(&token, u64::MAX), Err(TokenError::Expired));
}

#[test]
fn a_token_from_a_clock_ahead_is_good_within_the_leeway_and_past_it_says_by_how_much() {
    let tokens = tokens();
    let token = tokens.issue(&grant(), 7);
    assert_eq!(tokens.own(&token, NOW - CLOCK_LEEWAY_S), Ok(grant()));
    for ahead_s in [CLOCK_LEEWAY_S + 1, 3600] {
        assert_eq!(
            tokens.own(&token, NOW - ahead_s),
            Err(TokenError::FromTheFuture { ahead_s })
        );
    }
}

#[test]
fn a_token_carries_the_claims_of_the_contract_and_no_others() {
    let token = tokens().issue(&grant(), 7);
    let claims = token.split('.').nth(1).unwrap();
    let expected = claims_with("", None);
    assert_eq!(claims, base64url(expected.as_bytes()));
}

#[test]
fn a_token_of_the_release_before_is_good_and_names_no_session() {
    let claims = claims_with("sid", None)
        .replace("\"epoch\":3,", "")
        .replace("\"exp\"", &format!("\"nbf\":{NOW},\"exp\""));
    let expected = Grant {
        session: None,
        epoch: None,
        ..grant()
    };
    for now in [NOW, NOW - CLOCK_LEEWAY_S] {
        assert_eq!(tokens().own(&signed(HEADER, &claims), now), Ok(expected));
    }
}

#[test]
fn a_token_fits_into_a_line_before_login() {
    let grant = Grant {
        user: i64::MAX,
        session: Some(u64::MAX),
        epoch: Some(u64::MAX),
        issued_s: u64::MAX,
    };
    let token = tokens().issue(&grant, u128::MAX);
    assert!(
        token.len() + "@".len() + 32 + " auth:\r\n".len() <= 512,
        "{}",
        token.len()
    );
    assert!(
        token
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    );
}

#[test]
fn two_tokens_differ_by_their_own_number() {
    let tokens = tokens();
    assert_ne!(tokens.issue(&grant(), 7), tokens.issue(&grant(), 8));
}

#[test]
fn the_forger_of_these_tests_makes_good_tokens_from_good_parts() {
    assert_eq!(
        tokens().own(&signed(HEADER, &good_claims()), NOW),
        Ok(grant())
    );
}

#[test]
fn claims_that_mean_nothing_here_change_nothing() {
    let nested = "[".repeat(1000) + &"]".repeat(1000);
    for (name, value) in [
        ("role", "\"admin\""),
        ("x", nested.as_str()),
        ("aud", "null"),
    ] {
        let token = signed(HEADER, &claims_with(name, Some(value)));
        assert_eq!(tokens().own(&token, NOW), Ok(grant()), "{name}");
    }
}

#[test]
fn nothing_in_a_header_is_followed() {
    for extra in [
        r#""kid":"../../../../dev/null""#,
        r#""kid":"' OR 1=1 --""#,
        r#""jku":"http://127.0.0.1:1/keys""#,
        r#""x5u":"http://127.0.0.1:1/cert""#,
        r#""x5c":["AAAA"]"#,
        r#""jwk":{"kty":"oct","k":"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"}"#,
        r#""unheard_of":{"a":[1,2,3]}"#,
    ] {
        let header = format!(r#"{{"typ":"JWT","alg":"HS256",{extra}}}"#);
        assert_eq!(
            tokens().own(&signed(&header, &good_claims()), NOW),
            Ok(grant()),
            "{extra}"
        );
        let other = forged(&header, &good_claims(), OTHER_SECRET, Algorithm::HS256);
        assert_eq!(
            tokens().own(&other, NOW),
            Err(TokenError::Invalid),
            "{extra}"
        );
    }
}

/// That each of the `COUNT` tokens, which have one thing wrong, is refused. The caller names the
/// count, so that no case is lost unseen.
fn assert_refused<const COUNT: usize>(bad: &[(&str, String); COUNT]) {
    let tokens = tokens();
    for (what, token) in bad {
        assert_eq!(tokens.own(token, NOW), Err(TokenError::Invalid), "{what}");
    }
}

#[test]
fn a_token_of_another_shape_is_refused() {
    let good = signed(HEADER, &good_claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    assert_refused::<19>(&[
        ("empty", String::new()),
        ("a dot", ".".into()),
        ("two dots", "..".into()),
        ("one part", header.into()),
        ("two parts", message.into()),
        ("four parts", format!("{good}.{signature}")),
        ("no header", format!(".{claims}.{signature}")),
        ("no claims", format!("{header}..{signature}")),
        ("no signature", format!("{message}.")),
        ("space before", format!(" {good}")),
        ("space after", format!("{good} ")),
        ("line break", format!("{message}\n.{signature}")),
        ("padding", format!("{good}=")),
        (
            "standard base64",
            format!("{message}.+/{}", &signature[2..]),
        ),
        ("NUL", format!("{good}\0")),
        ("not ASCII", format!("{header}.{claims}é.{signature}")),
        ("64 KiB", format!("{message}.{}", "A".repeat(65_536))),
        (
            "64 KiB, signed",
            signed(
                HEADER,
                &claims_with("jti", Some(&format!("\"{}\"", "x".repeat(65_536)))),
            ),
        ),
        ("Bearer", format!("Bearer {good}")),
    ]);
}

#[test]
fn a_token_with_a_wrong_signature_is_refused() {
    let good = signed(HEADER, &good_claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    // 43 characters hold 258 bits. The last two do not count, are zero, and must be: the next
    // character in the alphabet sets one of them.
    let (all_but_last, last) = good.split_at(good.len() - 1);
    let last_bit = format!("{all_but_last}{}", char::from(last.as_bytes()[0] + 1));
    assert_refused::<8>(&[
        (
            "other signature",
            format!("{message}.{}", base64url(&[0; 32])),
        ),
        ("short signature", format!("{message}.{}", &signature[..20])),
        ("long signature", format!("{good}AAAA")),
        ("last bits", last_bit),
        (
            "claims exchanged",
            format!(
                "{header}.{}.{signature}",
                base64url(claims_with("sub", Some("\"1\"")).as_bytes())
            ),
        ),
        (
            "header exchanged",
            format!(
                "{}.{claims}.{signature}",
                base64url(br#"{"alg":"HS256","typ":"JWT"}"#)
            ),
        ),
        (
            "other secret",
            forged(HEADER, &good_claims(), OTHER_SECRET, Algorithm::HS256),
        ),
        (
            "empty secret",
            forged(HEADER, &good_claims(), b"", Algorithm::HS256),
        ),
    ]);
}

#[test]
fn a_token_by_another_algorithm_is_refused() {
    let good = signed(HEADER, &good_claims());
    let (message, _) = good.rsplit_once('.').unwrap();
    let (_, claims) = message.split_once('.').unwrap();
    let with_alg = |alg: &str| format!(r#"{{"typ":"JWT","alg":{alg}}}"#);
    let unsigned = |alg: &str| format!("{}.{claims}.", base64url(with_alg(alg).as_bytes()));
    let by = |alg: &str| signed(&with_alg(alg), &good_claims());
    let hashed = |alg: &str, algorithm| forged(&with_alg(alg), &good_claims(), SECRET, algorithm);
    assert_refused::<17>(&[
        ("none", unsigned("\"none\"")),
        ("None", unsigned("\"None\"")),
        ("NONE", unsigned("\"NONE\"")),
        ("nOnE", unsigned("\"nOnE\"")),
        ("none, signed", by("\"none\"")),
        ("no algorithm", signed(r#"{"typ":"JWT"}"#, &good_claims())),
        ("null algorithm", by("null")),
        ("list of algorithms", by("[\"HS256\"]")),
        ("lower case", by("\"hs256\"")),
        ("HS384", hashed("\"HS384\"", Algorithm::HS384)),
        ("HS512", hashed("\"HS512\"", Algorithm::HS512)),
        (
            "HS512 called HS256",
            forged(HEADER, &good_claims(), SECRET, Algorithm::HS512),
        ),
        ("RS256 with the secret", by("\"RS256\"")),
        ("PS256 with the secret", by("\"PS256\"")),
        ("ES256 with the secret", by("\"ES256\"")),
        ("EdDSA with the secret", by("\"EdDSA\"")),
        (
            "algorithm twice",
            signed(
                r#"{"alg":"none","typ":"JWT","alg":"HS256"}"#,
                &good_claims(),
            ),
        ),
    ]);
}

#[test]
fn a_token_with_a_wrong_header_is_refused() {
    let with_alg = |alg: &str| format!(r#"{{"typ":"JWT","alg":{alg}}}"#);
    assert_refused::<8>(&[
        ("header not JSON", signed("alg=HS256", &good_claims())),
        ("header a list", signed("[]", &good_claims())),
        ("header null", signed("null", &good_claims())),
        (
            "header deeply nested",
            signed(
                &with_alg(&format!(
                    "\"HS256\",\"x\":{}",
                    "[".repeat(1000) + &"]".repeat(1000)
                )),
                &good_claims(),
            ),
        ),
        (
            "crit",
            signed(r#"{"alg":"HS256","crit":["exp"]}"#, &good_claims()),
        ),
        (
            "empty crit",
            signed(r#"{"alg":"HS256","crit":[]}"#, &good_claims()),
        ),
        (
            "encrypted",
            signed(r#"{"alg":"HS256","enc":"A128GCM"}"#, &good_claims()),
        ),
        (
            "compressed",
            signed(r#"{"alg":"HS256","zip":"DEF"}"#, &good_claims()),
        ),
    ]);
}

#[test]
fn a_token_with_claims_of_another_form_is_refused() {
    let with_claim = |name, value| signed(HEADER, &claims_with(name, value));
    assert_refused::<12>(&[
        ("claims not JSON", signed(HEADER, "sub=42")),
        ("claims empty", signed(HEADER, "{}")),
        ("claims a list", signed(HEADER, "[]")),
        ("claims cut off", signed(HEADER, &good_claims()[..40])),
        (
            "claims with more behind",
            signed(HEADER, &(good_claims() + "{}")),
        ),
        ("no iss", with_claim("iss", None)),
        ("other iss", with_claim("iss", Some("\"im-gatewaY\""))),
        ("list of iss", with_claim("iss", Some("[\"im-gateway\"]"))),
        (
            "iss with more behind",
            with_claim("iss", Some("\"im-gateway\\u0000\"")),
        ),
        ("no typ", with_claim("typ", None)),
        ("other typ", with_claim("typ", Some("\"refresh\""))),
        (
            "an audience",
            with_claim("aud", Some("\"another-service\"")),
        ),
    ]);
}

#[test]
fn a_token_for_no_user_is_refused() {
    let with_claim = |name, value| signed(HEADER, &claims_with(name, value));
    assert_refused::<16>(&[
        ("no sub", with_claim("sub", None)),
        ("sub null", with_claim("sub", Some("null"))),
        ("sub empty", with_claim("sub", Some("\"\""))),
        ("sub 0", with_claim("sub", Some("\"0\""))),
        ("sub negative", with_claim("sub", Some("\"-42\""))),
        ("sub with sign", with_claim("sub", Some("\"+42\""))),
        ("sub with zeros", with_claim("sub", Some("\"042\""))),
        ("sub with space", with_claim("sub", Some("\" 42\""))),
        ("sub a fraction", with_claim("sub", Some("\"42.0\""))),
        ("sub a name", with_claim("sub", Some("\"alice\""))),
        ("sub other digits", with_claim("sub", Some("\"٤٢\""))),
        (
            "sub too great",
            with_claim("sub", Some("\"9223372036854775808\"")),
        ),
        ("sub a number", with_claim("sub", Some("42"))),
        ("sub a list", with_claim("sub", Some("[\"42\"]"))),
        (
            "sub twice",
            signed(HEADER, &good_claims().replace('}', ",\"sub\":\"1\"}")),
        ),
        (
            "exp twice",
            signed(HEADER, &good_claims().replace('}', ",\"exp\":9999999999}")),
        ),
    ]);
}

#[test]
fn a_token_with_wrong_times_or_sessions_is_refused() {
    let with_claim = |name, value| signed(HEADER, &claims_with(name, value));
    assert_refused::<13>(&[
        ("no exp", with_claim("exp", None)),
        ("exp text", with_claim("exp", Some("\"9999999999\""))),
        ("exp negative", with_claim("exp", Some("-1"))),
        ("exp infinite", with_claim("exp", Some("1e999"))),
        ("exp null", with_claim("exp", Some("null"))),
        ("no iat", with_claim("iat", None)),
        ("iat text", with_claim("iat", Some("\"1\""))),
        ("sid empty", with_claim("sid", Some("\"\""))),
        ("sid 0", with_claim("sid", Some("\"0\""))),
        ("sid a number", with_claim("sid", Some("9"))),
        ("epoch a word", with_claim("epoch", Some("\"new\""))),
        ("epoch negative", with_claim("epoch", Some("-1"))),
        ("sid a word", with_claim("sid", Some("\"mine\""))),
    ]);
}

#[test]
fn only_a_token_right_in_all_else_is_called_expired() {
    let expired = |claims: String| claims.replace(&(NOW + LIFETIME_S).to_string(), "1760000000");
    let later = NOW + EXPIRY_LEEWAY_S;
    let verify = |token: &str| tokens().own(token, later);
    assert_eq!(
        verify(&signed(HEADER, &expired(good_claims()))),
        Err(TokenError::Expired)
    );
    assert_eq!(
        verify(&signed(HEADER, &expired(claims_with("sub", Some("\"0\""))))),
        Err(TokenError::Invalid)
    );
    assert_eq!(
        verify(&forged(
            HEADER,
            &expired(good_claims()),
            OTHER_SECRET,
            Algorithm::HS256
        )),
        Err(TokenError::Invalid)
    );
}

#[test]
fn the_largest_times_do_not_overflow() {
    let tokens = Tokens::new(SECRET, Duration::MAX, Duration::MAX).unwrap();
    let grant = Grant {
        issued_s: u64::MAX,
        ..grant()
    };
    let token = tokens.issue(&grant, 0);
    assert_eq!(tokens.own(&token, u64::MAX), Err(TokenError::Expired));
    assert_eq!(tokens.own(&token, u64::MAX - 1), Ok(grant));
    assert_eq!(tokens.own(&token, 0), Ok(grant));
}

#[test]
fn a_short_secret_is_refused() {
    let error = Tokens::new(&SECRET[..31], Duration::MAX, Duration::MAX).unwrap_err();
    assert_eq!(error.length_bytes, 31);
}

#[test]
fn debug_prints_no_secret() {
    let printed = format!("{:?}", tokens());
    assert!(!printed.contains("0123456789"), "{printed}");
    assert!(!printed.contains("48, 49"), "{printed}");
}

proptest! {
    #[test]
    fn every_grant_comes_back_out(
        user in 1..=i64::MAX,
        session in prop::option::of(1..=u64::MAX >> 1),
        epoch in any::<Option<u64>>(),
        issued_s in 0..u64::MAX / 2,
        jti in any::<u128>(),
    ) {
        let (tokens, grant) = (tokens(), Grant { user, session, epoch, issued_s });
        prop_assert_eq!(tokens.own(&tokens.issue(&grant, jti), issued_s), Ok(grant));
    }

    #[test]
    fn garbage_is_refused_and_never_panics(garbage in any::<String>()) {
        prop_assert_eq!(tokens().own(&garbage, NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn garbage_that_is_signed_is_refused_and_never_panics(header in "[{}\"a-z0-9:,\\[\\]]{0,40}", claims in any::<String>()) {
        prop_assert_eq!(tokens().own(&signed(&header, &claims), NOW), Err(TokenError::Invalid));
        prop_assert_eq!(tokens().own(&signed(HEADER, &claims), NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn a_token_changed_anywhere_is_refused(
        index in any::<prop::sample::Index>(), replacement in "[A-Za-z0-9_.-]",
    ) {
        let tokens = tokens();
        let token = tokens.issue(&grant(), 7);
        let at = index.index(token.len());
        let mut changed = token.clone();
        changed.replace_range(at..=at, &replacement);
        prop_assume!(changed != token);
        prop_assert_eq!(tokens.own(&changed, NOW), Err(TokenError::Invalid));
    }
}
