//! Limits: time to log in, idleness, rates, connections, devices' inboxes, login attempts, file
//! descriptors.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::common::{
    Client, Gateway, Received, assert_error, eventually, field, number, without_tag,
};

#[test]
fn log_in_must_come_in_time() {
    let gateway = Gateway::start(|config| {
        config.limit("login_timeout", "1s");
    });
    let start = Instant::now();
    let mut silent = gateway.client();
    let mut busy = gateway.client();
    let mut alice = gateway.register("alice");
    // Talking without logging in does not help.
    let mut lines = Vec::new();
    while busy.try_send("ping") {
        match busy.receive_within(Duration::from_millis(50)) {
            Received::Line(line) if line != "+OK pong" => lines.push(line),
            Received::Closed => break,
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    assert_eq!(lines, ["KICK reason=auth_timeout"]);
    assert!(start.elapsed() >= Duration::from_millis(900));
    silent.assert_kicked("auth_timeout");
    assert_eq!(alice.ask("ping"), "+OK pong");
}

#[test]
fn the_time_to_log_in_starts_again_with_logout_or_does_not_apply() {
    let gateway = Gateway::start(|config| {
        config.limit("login_timeout", "1s");
    });
    let mut alice = gateway.register("alice");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(alice.ask("logout"), "+OK logout");
    alice.login("alice");
    assert_eq!(alice.ask("ping"), "+OK pong");
}

#[test]
fn an_idle_connection_is_closed() {
    let gateway = Gateway::start(|config| {
        config.set("gateway_service", "connection_timeout", 1);
    });
    let mut alice = gateway.register("alice");
    let start = Instant::now();
    alice.assert_kicked("idle");
    assert!(start.elapsed() >= Duration::from_millis(800));
}

#[test]
fn an_empty_line_is_a_heartbeat() {
    let gateway = Gateway::start(|config| {
        config.set("gateway_service", "connection_timeout", "2s");
    });
    let mut alice = gateway.register("alice");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        alice.send("");
        let received = alice.receive_within(Duration::from_millis(300));
        assert_eq!(received, Received::Nothing, "after {:?}", start.elapsed());
    }
    assert_eq!(alice.ask("ping"), "+OK pong");
    alice.assert_kicked("idle");
}

#[test]
fn who_only_reads_is_not_idle() {
    let gateway = Gateway::start(|config| {
        config.set("gateway_service", "connection_timeout", "2s");
    });
    let mut alice = gateway.register("alice");
    let mut bob = gateway.register("bob");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        let id = alice.chat(bob.uid, "are you there");
        assert_eq!(bob.push().id(), id);
        std::thread::sleep(Duration::from_millis(300));
    }
    let lines = bob.lines_until_closed();
    assert_eq!(
        lines,
        [
            "NOTICE kind=idle text=say something within 1 s, an empty line will do",
            "KICK reason=idle"
        ]
    );
}

#[test]
fn a_silent_client_is_told_before_it_is_closed_and_may_stay() {
    let gateway = Gateway::start(|config| {
        config.set("gateway_service", "connection_timeout", "2s");
    });
    let mut bob = gateway.register("bob");
    for _ in 0..3 {
        assert!(bob.line().starts_with("NOTICE kind=idle text="));
        assert_eq!(bob.ask("ping"), "+OK pong");
    }
    bob.assert_kicked("idle");
}

#[test]
fn a_burst_is_slowed_down_but_answered_in_full() {
    let gateway = Gateway::start(|config| {
        config
            .nobody_exempt()
            .limit("commands_per_second", 20)
            .limit("commands_burst", 10);
    });
    let mut client = gateway.client();
    let start = Instant::now();
    let lines: String = (0..30).map(|n| format!("ping:{n}\n")).collect();
    client.send_bytes(lines.as_bytes());
    for n in 0..30 {
        assert_eq!(client.reply(), format!("+OK pong {n}"));
    }
    // Ten at once, then twenty at twenty a second.
    assert!(
        start.elapsed() > Duration::from_millis(700),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_flood_is_cut_off_and_others_do_not_notice() {
    let gateway = Gateway::start(|config| {
        config
            .nobody_exempt()
            .limit("commands_per_second", 10)
            .limit("commands_burst", 10)
            .limit("throttle_timeout", "1s");
    });
    let mut witness = gateway.client();
    let mut flooder = gateway.client();
    let mut writer = flooder.writer();
    let sender = std::thread::spawn(move || {
        let lines = b"ping\n".repeat(1000);
        while writer.write_all(&lines).is_ok() {}
    });
    let start = Instant::now();
    assert_eq!(witness.ask("ping"), "+OK pong");
    assert!(start.elapsed() < Duration::from_secs(2));
    let lines = flooder.lines_until_closed();
    sender.join().expect("the sender");
    let answered = lines.iter().filter(|line| *line == "+OK pong").count();
    assert!((5..200).contains(&answered), "{answered} answered");
    assert!(
        lines.iter().all(|line| line == "+OK pong"
            || line.starts_with("-ERR RATE_LIMITED retry_ms=")
            || line == "KICK reason=rate_limited"),
        "{lines:?}"
    );
    assert_eq!(witness.ask("ping"), "+OK pong");
    assert!(gateway.metric("rate_limited_total", &[("scope", "commands")]) >= 1.0);
}

#[test]
fn exempt_addresses_are_not_slowed_down() {
    let gateway = Gateway::start(|config| {
        config
            .limit("commands_per_second", 1)
            .limit("commands_burst", 1);
    });
    let mut client = gateway.client();
    let start = Instant::now();
    for n in 0..50 {
        assert_eq!(client.ask(&format!("ping:{n}")), format!("+OK pong {n}"));
    }
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// Opens connections until `count` have been tried; the welcomed ones, and how many were refused.
fn open(gateway: &Gateway, count: usize) -> (Vec<Client>, usize) {
    let mut welcomed = Vec::new();
    let mut refused = 0;
    for _ in 0..count {
        let mut client = gateway.connect();
        let line = client.line();
        if line.starts_with("+OK welcome") {
            welcomed.push(client);
        } else {
            assert_error(&line, "TOO_MANY_CONNECTIONS");
            assert_eq!(client.lines_until_closed(), Vec::<String>::new());
            refused += 1;
        }
    }
    (welcomed, refused)
}

#[test]
fn one_address_may_hold_only_so_many_connections() {
    let gateway = Gateway::start(|config| {
        config
            .cores(2)
            .nobody_exempt()
            .limit("connections_per_ip", 3);
    });
    let (mut welcomed, refused) = open(&gateway, 12);
    assert_eq!((welcomed.len(), refused), (3, 9));
    for client in &mut welcomed {
        assert_eq!(client.ask("ping"), "+OK pong");
    }
    let mut elsewhere = Client::connect_from(gateway.address(), [127, 0, 0, 2]);
    assert!(elsewhere.line().starts_with("+OK welcome"));
    welcomed.pop();
    eventually("a place becomes free", || {
        gateway.connect().line().starts_with("+OK welcome")
    });
    assert!(gateway.metric("connections_refused_total", &[("reason", "per_ip")]) >= 9.0);
}

#[test]
fn who_is_refused_can_read_why_although_it_goes_on_sending() {
    let gateway = Gateway::start(|config| {
        config.set("gateway_service", "max_connections", 1);
    });
    let _first = gateway.client();
    let mut refused = gateway.connect();
    for n in 0..4 {
        assert!(refused.try_send("login:alice:secret1"), "line {n}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_error(&refused.line(), "TOO_MANY_CONNECTIONS");
    assert_eq!(refused.lines_until_closed(), Vec::<String>::new());
}

#[test]
fn the_gateway_may_hold_only_so_many_connections() {
    let gateway = Gateway::start(|config| {
        config.cores(2).set("gateway_service", "max_connections", 4);
    });
    let (mut welcomed, refused) = open(&gateway, 12);
    assert_eq!((welcomed.len(), refused), (4, 8));
    for client in &mut welcomed {
        assert_eq!(client.ask("ping"), "+OK pong");
    }
    welcomed.pop();
    eventually("a place becomes free", || {
        gateway.connect().line().starts_with("+OK welcome")
    });
    assert!(
        gateway.metric(
            "connections_refused_total",
            &[("reason", "max_connections")]
        ) >= 8.0
    );
}

#[test]
fn as_many_log_ins_as_configured_may_fail_and_then_even_the_right_password_waits() {
    let gateway = Gateway::start(|config| {
        config
            .nobody_exempt()
            .limit("login_attempts", 3)
            .limit("login_delay", "1s");
    });
    gateway.register("alice");
    let mut failed = 0;
    let retry_ms = loop {
        let reply = gateway.client().ask("login:alice:wrong-password");
        if reply.starts_with("-ERR RATE_LIMITED ") {
            let first_word = without_tag(&reply).split(' ').nth(2).unwrap_or("");
            assert!(first_word.starts_with("retry_ms="), "{reply}");
            break number(&reply, "retry_ms");
        }
        assert_error(&reply, "AUTH_FAILED");
        failed += 1;
        assert!(failed <= 3, "never limited");
    };
    assert_eq!(
        failed, 3,
        "login_attempts may fail before the next has to wait"
    );
    assert!((1..=1000).contains(&retry_ms), "{retry_ms}");
    // Not even the right password is looked at before the time.
    let reply = gateway.client().ask("login:alice:password-of-alice");
    assert!(reply.starts_with("-ERR RATE_LIMITED retry_ms="), "{reply}");
    std::thread::sleep(Duration::from_millis(retry_ms + 100));
    gateway.login("alice");
    assert!(gateway.metric("rate_limited_total", &[("scope", "login")]) >= 1.0);
}

#[test]
fn attempts_made_at_once_are_no_more_than_attempts_made_in_turn() {
    let gateway = Gateway::start(|config| {
        config
            .nobody_exempt()
            .limit("login_attempts", 2)
            .limit("login_delay", "60s");
    });
    gateway.register("alice");
    let mut guessers: Vec<Client> = (0..20).map(|_| gateway.client()).collect();
    for (n, guesser) in guessers.iter_mut().enumerate() {
        guesser.send(&format!("login:alice:guess-{n}"));
    }
    let replies: Vec<String> = guessers.iter_mut().map(Client::reply).collect();
    let tried = replies
        .iter()
        .filter(|reply| reply.starts_with("-ERR AUTH_FAILED"))
        .count();
    assert_eq!(tried, 2, "{replies:?}");
    let held = replies
        .iter()
        .filter(|reply| reply.starts_with("-ERR RATE_LIMITED retry_ms="))
        .count();
    assert_eq!(held, 18, "{replies:?}");
}

#[test]
fn the_delay_of_failed_log_ins_grows() {
    let gateway = Gateway::start(|config| {
        config
            .nobody_exempt()
            .limit("login_attempts", 1)
            .limit("login_delay", "1s");
    });
    gateway.register("alice");
    let mut longest = 0;
    for _ in 0..2 {
        let retry_ms = loop {
            let reply = gateway.client().ask("login:alice:wrong-password");
            if reply.starts_with("-ERR RATE_LIMITED ") {
                break number(&reply, "retry_ms");
            }
            assert_error(&reply, "AUTH_FAILED");
        };
        assert!(retry_ms > longest, "{retry_ms} after {longest}");
        longest = retry_ms.max(1000);
        std::thread::sleep(Duration::from_millis(retry_ms + 50));
    }
}

#[test]
fn a_full_inbox_turns_the_next_message_away_and_takes_more_once_confirmed() {
    let gateway = Gateway::start(|config| {
        config.limit("inbox_limit", 5);
    });
    let mut alice = gateway.register("alice");
    let mut carol = gateway.register("carol");
    let bob = gateway.register("bob").uid;
    eventually("bob is gone", || {
        field(&alice.ask(&format!("who:{bob}")), "online") == "0"
    });
    for n in 0..5 {
        alice.chat(bob, &format!("n{n}"));
    }
    assert_error(&alice.ask(&format!("chat:{bob}:too much")), "OVERLOADED");
    assert_error(&carol.ask(&format!("chat:{bob}:too much")), "OVERLOADED");
    alice.chat(carol.uid, "others are not affected");
    let mut client = gateway.login_manual("bob");
    assert_eq!(client.drain_inbox().len(), 5);
    let id = alice.chat(bob, "room again");
    let push = client.push();
    assert_eq!(
        (push.id(), push.number("seq")),
        (id, 6),
        "a refused message takes no number"
    );
}

#[test]
fn out_of_file_descriptors_live_connections_go_on_and_it_recovers() {
    let gateway = Gateway::start_under(&["prlimit", "--nofile=64:64"], |_| {});
    let mut live = gateway.register("alice");
    let flood: Vec<Client> = (0..120).map(|_| gateway.connect()).collect();
    let cpu_before = cpu_ticks(gateway.pid());
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < Duration::from_secs(1) {
        let asked = Instant::now();
        assert_eq!(live.ask("ping"), "+OK pong");
        assert!(asked.elapsed() < Duration::from_secs(1));
        live.chat(live.uid, "still stored");
        rounds += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(rounds > 3);
    let ticks = cpu_ticks(gateway.pid()) - cpu_before;
    assert!(
        ticks < 50,
        "{ticks} hundredths of a second of CPU in one second"
    );
    drop(flood);
    eventually("a new connection is served", || {
        let mut client = gateway.connect();
        let received = client.receive_within(Duration::from_secs(2));
        matches!(received, Received::Line(line) if line.starts_with("+OK welcome"))
            && client.try_ask("ping").as_deref() == Some("+OK pong")
    });
    assert!(gateway.metric("accept_errors_total", &[]) >= 1.0);
}

/// User and system time of a process, in clock ticks of a hundredth of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process");
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum()
}

#[test]
fn logins_get_in_while_more_registrations_wait_than_there_is_room_for() {
    let gateway = Gateway::start(|config| {
        config.set("auth", "password_queue", 6);
    });
    gateway.register("alice");
    let mut newcomers: Vec<Client> = (0..40).map(|_| gateway.client()).collect();
    let mut known: Vec<Client> = (0..4).map(|_| gateway.client()).collect();
    for (n, newcomer) in newcomers.iter_mut().enumerate() {
        newcomer.send(&format!("register:newcomer-{n}:password"));
    }
    for client in &mut known {
        client.send("login:alice:password-of-alice");
    }
    for client in &mut known {
        let reply = client.reply();
        assert!(reply.starts_with("+OK uid="), "{reply}");
    }
    // Who was told of failure has no account, and who was told of success has one.
    for (n, newcomer) in newcomers.iter_mut().enumerate() {
        let reply = newcomer.reply();
        let again = gateway
            .client()
            .ask(&format!("register:newcomer-{n}:password"));
        if reply.starts_with("+OK uid=") {
            assert_error(&again, "USER_EXISTS");
        } else {
            assert_error(&reply, "OVERLOADED");
            assert!(again.starts_with("+OK uid="), "{again}");
        }
    }
    let refused = gateway.metric("passwords_unhashed_total", &[("reason", "no_room")]);
    assert!(refused >= 1.0, "{refused}");
}

#[test]
fn many_right_passwords_at_once_from_one_address_all_get_in() {
    const COLLEAGUES: usize = 60;
    let gateway = Gateway::start(|config| {
        config
            .nobody_exempt()
            .limit("registrations_per_hour", 1000)
            .set("auth", "password_threads", 2)
            .set("rpc", "rpc_timeout", "30s");
    });
    let mut clients: Vec<Client> = (0..COLLEAGUES)
        .map(|n| gateway.register(&format!("colleague-{n}")))
        .collect();
    for client in &mut clients {
        assert_eq!(client.ask("logout"), "+OK logout");
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&format!("login:colleague-{n}:password-of-colleague-{n}"));
    }
    for client in &mut clients {
        let reply = client.reply();
        assert!(reply.starts_with("+OK uid="), "{reply}");
    }
}

#[test]
fn behind_an_exempt_address_guessing_one_name_is_slowed_down_and_other_names_are_not() {
    let gateway = Gateway::start(|config| {
        config.limit("login_attempts", 3).limit("login_delay", "5m");
    });
    gateway.register("alice");
    gateway.register("bob");
    for _ in 0..3 {
        let reply = gateway.client().ask("login:alice:wrong-password");
        assert_error(&reply, "AUTH_FAILED");
    }
    let reply = gateway.client().ask("login:alice:password-of-alice");
    assert_error(&reply, "RATE_LIMITED");
    assert!(
        (1..=30_000).contains(&number(&reply, "retry_ms")),
        "{reply}"
    );
    gateway.login("bob");
}

#[test]
fn the_networks_of_a_user_are_known_after_a_restart() {
    let mut gateway = Gateway::start(|config| {
        config
            .nobody_exempt()
            .limit("login_attempts", 3)
            .limit("login_delay", "5m");
    });
    let client_at = |gateway: &Gateway, last: u8| {
        let mut client = Client::connect_from(gateway.address(), [127, 0, 0, last]);
        assert!(client.line().starts_with("+OK welcome"));
        client
    };
    client_at(&gateway, 2).register("alice");
    gateway.kill_9();
    gateway.restart();
    for last in 10..13 {
        let reply = client_at(&gateway, last).ask("login:alice:wrong-password");
        assert_error(&reply, "AUTH_FAILED");
    }
    let reply = client_at(&gateway, 13).ask("login:alice:password-of-alice");
    assert_error(&reply, "RATE_LIMITED");
    client_at(&gateway, 2).login("alice");
}

#[test]
fn one_network_registers_only_so_many_accounts_an_hour() {
    let gateway = Gateway::start(|config| {
        config.nobody_exempt().limit("registrations_per_hour", 3);
    });
    for name in ["one", "two"] {
        gateway.register(name);
    }
    // What cannot be done costs nothing; what tells that a name is taken does.
    let reply = gateway.client().ask("register:a\u{200b}b:password");
    assert_error(&reply, "BAD_ARGUMENT");
    let reply = gateway.client().ask("register:two:password");
    assert_error(&reply, "USER_EXISTS");
    let reply = gateway.client().ask("register:three:password");
    assert_error(&reply, "RATE_LIMITED");
    let retry_ms = number(&reply, "retry_ms");
    assert!((1..=1_200_000).contains(&retry_ms), "{reply}");
    let mut elsewhere = Client::connect_from(gateway.address(), [127, 0, 0, 2]);
    assert!(elsewhere.line().starts_with("+OK welcome"));
    elsewhere.register("three");
    let limited = gateway.metric("rate_limited_total", &[("scope", "registration")]);
    assert!(limited >= 1.0, "{limited}");
}

#[test]
fn where_registration_is_closed_nobody_registers_and_logins_go_on() {
    let gateway = Gateway::start(|config| {
        config.set("auth", "registration", "closed");
    });
    let mut client = gateway.client();
    assert_error(&client.ask("register:bob:password"), "FORBIDDEN");
    assert_error(&client.ask("REGISTER bob password"), "FORBIDDEN");
    assert_error(&client.ask("login:bob:password"), "AUTH_FAILED");
}
