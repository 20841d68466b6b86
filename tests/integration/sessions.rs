//! Sessions that are ended: what `logout` and `logout:all` end, on every gateway, and what nothing
//! else does.

use crate::common::cluster::Cluster;
use crate::common::{Client, Gateway, assert_error, field, number};

/// The gateway with another connection of the session that made `token`, under a device name of its
/// own.
fn auth_on(gateway: &Gateway, token: &str, device: &str) -> Client {
    let mut client = gateway.client();
    client.ask(&format!("set:device:{device}"));
    let reply = client.ask(&format!("auth:{token}"));
    assert!(reply.starts_with("+OK uid="), "{reply}");
    client.uid = number(&reply, "uid");
    client
}

/// Asserts that the gateway takes the token, and leaves no trace of it.
fn assert_good(gateway: &Gateway, token: &str) {
    auth_on(gateway, token, "probe").ask("quit");
}

fn assert_void(gateway: &Gateway, token: &str) {
    let reply = gateway.client().ask(&format!("auth:{token}"));
    assert_error(&reply, "AUTH_FAILED");
}

#[test]
fn logout_ends_its_session_and_no_other_and_the_connection_can_log_in_again() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut tablet = gateway.login_on("alice", "tablet");
    let mut phone = auth_on(&gateway, &alice.token, "phone");
    let fresh = field(&phone.ask("refresh"), "token").to_string();
    assert_eq!(alice.ask("logout"), "+OK logout");
    phone.assert_kicked("revoked");
    for token in [&alice.token, &fresh] {
        assert_void(&gateway, token);
    }
    tablet.assert_no_push();
    assert_good(&gateway, &tablet.token);
    alice.login("alice");
    assert_good(&gateway, &alice.token);
    assert!(gateway.metric("connections_closed_total", &[("reason", "revoked")]) >= 1.0);
}

#[test]
fn logout_all_ends_every_session_and_token_of_the_user_and_of_nobody_else() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let mut phone = gateway.login_on("alice", "phone");
    let mut laptop = auth_on(&gateway, &alice.token, "laptop");
    let tokens = [alice.token.clone(), phone.token.clone()];
    assert_eq!(alice.ask("LOGOUT:ALL"), "+OK logout");
    phone.assert_kicked("revoked");
    laptop.assert_kicked("revoked");
    assert_error(&alice.ask("whoami"), "NOT_LOGGED_IN");
    for token in &tokens {
        assert_void(&gateway, token);
    }
    bob.assert_no_push();
    assert_good(&gateway, &bob.token);
    // What begins in the same second is not ended by it.
    alice.login("alice");
    assert_good(&gateway, &alice.token);
    assert_error(&alice.ask("logout:some"), "BAD_ARGUMENT");
}

#[test]
fn a_new_password_ends_all_other_sessions_and_only_a_login_by_password_may_set_it() {
    let gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let mut phone = gateway.login_on("alice", "phone");
    let mut tablet = auth_on(&gateway, &alice.token, "tablet");
    assert_error(&tablet.ask("password:another-one"), "FORBIDDEN");
    assert_error(&alice.ask("password:short"), "BAD_ARGUMENT");
    assert_eq!(alice.ask("password:another: one"), "+OK password changed");
    phone.assert_kicked("revoked");
    assert_void(&gateway, &phone.token);
    // Its own session goes on, with its tokens and its other connections.
    assert_eq!(field(&alice.ask("whoami"), "name"), "alice");
    tablet.assert_no_push();
    assert_good(&gateway, &alice.token);
    let fresh = field(&alice.ask("refresh"), "token").to_string();
    assert_good(&gateway, &fresh);
    let mut client = gateway.client();
    assert_error(&client.ask("login:alice:password-of-alice"), "AUTH_FAILED");
    client.ask("set:device:laptop");
    let reply = client.ask("login:alice:another: one");
    assert!(reply.starts_with("+OK uid="), "{reply}");
    // And it ends as any other.
    assert_eq!(client.ask("logout:all"), "+OK logout");
    for token in [&alice.token, &fresh] {
        assert_void(&gateway, token);
    }
}

#[test]
fn a_session_lives_on_when_its_connections_are_lost_displaced_or_restarted() {
    let mut gateway = Gateway::start_on_two_cores();
    let mut alice = gateway.register("alice");
    let token = alice.token.clone();
    let mut again = gateway.client();
    again.ask(&format!("auth:{token}"));
    alice.assert_kicked("replaced");
    assert_good(&gateway, &token);
    drop(again);
    assert_good(&gateway, &token);
    gateway.kill_9();
    gateway.restart();
    assert_good(&gateway, &token);
    // And what was ended stays ended.
    let mut again = auth_on(&gateway, &token, "cli");
    assert_eq!(again.ask("logout"), "+OK logout");
    gateway.kill_9();
    gateway.restart();
    assert_void(&gateway, &token);
}

#[test]
fn what_one_gateway_ends_is_ended_on_all_at_once() {
    let mut cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut phone = auth_on(&cluster.gateways[1], &alice.token, "phone");
    let mut tablet = cluster.gateways[1].login_on("alice", "tablet");
    assert_eq!(alice.ask("logout"), "+OK logout");
    phone.assert_kicked("revoked");
    tablet.assert_no_push();
    for gateway in &cluster.gateways {
        assert_void(gateway, &alice.token);
    }
    alice.login("alice");
    assert_eq!(alice.ask("logout:all"), "+OK logout");
    tablet.assert_kicked("revoked");
    for gateway in &cluster.gateways {
        assert_void(gateway, &alice.token);
        assert_void(gateway, &tablet.token);
    }
    alice.login("alice");
    assert_good(&cluster.gateways[1], &alice.token);
    cluster.assert_sound();
}
