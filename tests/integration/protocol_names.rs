//! Names: what users and groups may be called, which names count as one, and what is shown.

use crate::common::{Gateway, assert_error, field};

#[test]
fn nobody_registers_a_name_that_hides_something_or_looks_like_another() {
    let gateway = Gateway::start(|_| {});
    gateway.register("paypal");
    for name in [
        "pay\u{200b}pal",
        "\u{202e}lapyap",
        "paypal\u{3164}",
        "paypal\u{e0061}",
        "\u{200b}\u{2060}",
        "p\u{430}ypal",
        "\u{1d429}aypal",
    ] {
        for line in [
            format!("register:{name}:password"),
            format!("REGISTER {name} password"),
        ] {
            assert_error(&gateway.client().ask(&line), "BAD_ARGUMENT");
        }
    }
    for name in [
        "PayPal",
        "paypa1",
        "\u{440}\u{430}\u{443}\u{440}\u{430}\u{4cf}",
    ] {
        let reply = gateway.client().ask(&format!("register:{name}:password"));
        assert_error(&reply, "USER_EXISTS");
    }
}

#[test]
fn a_name_typed_in_another_case_logs_in_and_is_shown_as_registered() {
    let gateway = Gateway::start(|_| {});
    let uid = gateway.register("Jos\u{e9}").uid;
    let mut client = gateway.client();
    let reply = client.ask("login:JOSE\u{301}:password-of-Jos\u{e9}");
    assert_eq!(field(&reply, "uid"), uid.to_string(), "{reply}");
    let whoami = client.ask("whoami");
    assert_eq!(field(&whoami, "name"), "Jos\u{e9}", "{whoami}");
    let profile = client.ask(&format!("profile:{uid}"));
    assert!(profile.ends_with("name=Jos\u{e9}"), "{profile}");
    let found = client.ask("search:Jos");
    assert_eq!(found, format!("+OK users={uid}:Jos\u{e9}"));
}

#[test]
fn guessing_a_name_in_all_its_spellings_is_guessing_one_name() {
    let gateway = Gateway::start(|config| {
        config.limit("login_attempts", 3).limit("login_delay", "5m");
    });
    gateway.register("alice");
    for name in ["alice", "Alice", "ALICE"] {
        let reply = gateway
            .client()
            .ask(&format!("login:{name}:wrong-password"));
        assert_error(&reply, "AUTH_FAILED");
    }
    let reply = gateway.client().ask("login:aLiCe:wrong-password");
    assert_error(&reply, "RATE_LIMITED");
}

#[test]
fn where_names_are_ascii_no_other_is_registered() {
    let gateway = Gateway::start(|config| {
        config.set("accounts", "names", "ascii");
    });
    gateway.register("alice");
    for line in ["register:j\u{f6}rg:password", "REGISTER j\u{f6}rg password"] {
        assert_error(&gateway.client().ask(line), "BAD_ARGUMENT");
    }
}

#[test]
fn the_name_of_a_group_hides_nothing() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    for name in ["tea\u{200b}party", "\u{202e}party", "\u{3164}", "\u{2800}"] {
        for line in [
            format!("create_group:{name}"),
            format!("CREATEGROUP {name}"),
        ] {
            assert_error(&alice.ask(&line), "BAD_ARGUMENT");
        }
    }
    alice.create_group("I \u{2764}\u{fe0f} \u{8336}");
}
