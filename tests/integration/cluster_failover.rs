//! Parts of a cluster fail and come back: what keeps working, what is said meanwhile, and how soon
//! all is well again.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::backend_process::BackendProcess;
use crate::common::cluster::{Cluster, Ground, gateway_id};
use crate::common::config::Config;
use crate::common::nginx::Nginx;
use crate::common::{
    Client, DEADLINE, Gateway, POLL_INTERVAL, assert_error, eventually, field, number,
};
use crate::redis_server::RedisServer;

/// While a healthy backend is left, this long after another was killed nobody sees an error any
/// more.
const HEALED_AFTER: Duration = Duration::from_secs(1);

/// With no backend left, the answer that says so takes at most this long. A tenth of it on an idle
/// machine.
const REFUSED_WITHIN: Duration = Duration::from_millis(500);

/// Sends until an answer says OK; for what is told to work again, but not when.
fn chat_again(client: &mut Client, to: u64, text: &str) -> u64 {
    let start = Instant::now();
    loop {
        let reply = client.ask(&format!("chat:{to}:{text}"));
        if reply.starts_with("+OK ") {
            return number(&reply, "msg_id");
        }
        assert!(start.elapsed() < DEADLINE, "still {reply}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[test]
fn a_killed_backend_is_not_missed_while_another_is_healthy() {
    let mut cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(1, "bob");
    let to = alice.uid;
    for round in 0..4 {
        let victim = round % 2;
        cluster.backends[victim].kill_9();
        let killed = Instant::now();
        let mut number = 0;
        while killed.elapsed() < HEALED_AFTER * 2 {
            for client in [&mut alice, &mut bob] {
                let asked = Instant::now();
                let reply = client.ask(&format!("@r{round}n{number} chat:{to}:x"));
                let late = asked.duration_since(killed) > HEALED_AFTER;
                assert!(
                    !late || reply.contains("+OK "),
                    "{:?} after the kill: {reply}",
                    asked.duration_since(killed)
                );
                number += 1;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        cluster.backends[victim].restart();
    }
    alice.taken_pushes();
    // It is taken into use again.
    for backend in &cluster.backends {
        let before = backend.metric("store_commits_total");
        eventually("a backend that came back is used", || {
            alice.chat(bob.uid, "for one of the two");
            backend.metric("store_commits_total") > before
        });
    }
    cluster.assert_sound();
}

#[test]
fn without_any_backend_the_answer_is_quick_and_connections_stay() {
    let mut cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(1, "bob");
    for backend in &mut cluster.backends {
        backend.kill_9();
    }
    eventually("the gateways have noticed", || {
        [&mut alice, &mut bob].into_iter().all(|client| {
            let reply = client.ask("friends");
            assert!(reply.starts_with("-ERR "), "{reply}");
            reply.starts_with("-ERR BACKEND_UNAVAILABLE ")
        })
    });
    for _ in 0..20 {
        for client in [&mut alice, &mut bob] {
            let asked = Instant::now();
            assert_error(&client.ask("friends"), "BACKEND_UNAVAILABLE");
            let took = asked.elapsed();
            assert!(took < REFUSED_WITHIN, "the answer took {took:?}");
            assert_eq!(client.ask("ping"), "+OK pong");
        }
    }
    let mut newcomer = cluster.gateways[0].client();
    assert_error(
        &newcomer.ask("login:alice:password-of-alice"),
        "BACKEND_UNAVAILABLE",
    );

    for backend in &mut cluster.backends {
        backend.restart();
    }
    let id = chat_again(&mut alice, bob.uid, "back");
    assert_eq!(bob.push().id(), id);
    let id = chat_again(&mut bob, alice.uid, "welcome back");
    assert_eq!(alice.push().id(), id);
    newcomer.login("alice");
    cluster.wait_until_ready();
    cluster.assert_sound();
}

#[test]
fn pushes_missed_while_redis_was_away_are_caught_up() {
    let mut cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(1, "bob");
    let mut carol = cluster.register(1, "carol");
    let group = alice.create_group("team");
    bob.ask(&format!("join_group:{group}"));
    alice.chat(bob.uid, "before");
    assert_eq!(bob.push().text(), "before");

    cluster.ground.redis.kill_9();
    // Stored and acknowledged, pushed to nobody.
    let missed: Vec<u64> = (0..20)
        .map(|n| alice.chat(bob.uid, &format!("missed {n}")))
        .collect();
    let missed_in_group: Vec<u64> = (0..5)
        .map(|n| alice.group_chat(group, &format!("missed {n}")))
        .collect();
    alice.chat(carol.uid, "missed by carol");
    for gateway in &cluster.gateways {
        eventually("a gateway without Redis is not ready", || {
            !gateway.is_ready()
        });
    }
    let mut dave = cluster.gateways[0].register("dave");
    assert_eq!(dave.ask("pull"), "+OK pull_done count=0 more=0");

    cluster.ground.redis.restart();
    let (mut direct, mut in_group) = (Vec::new(), Vec::new());
    while direct.len() < missed.len() || in_group.len() < missed_in_group.len() {
        let push = bob.push();
        match push.kind.as_str() {
            "MSG" => direct.push(push.id()),
            _ => in_group.push(push.id()),
        }
    }
    assert_eq!(
        (direct, in_group),
        (missed, missed_in_group),
        "once each, in order"
    );
    assert_eq!(carol.push().text(), "missed by carol");
    cluster.wait_until_ready();
    let id = alice.chat(bob.uid, "after");
    assert_eq!(bob.push().id(), id);
    let id = alice.group_chat(group, "after");
    assert_eq!(bob.push().id(), id);
    bob.assert_no_push();
    carol.assert_no_push();
    cluster.assert_sound();
}

/// Reads as fast as it can until `count` messages have come, which it takes for all there are.
fn read_all(mut reader: Client, count: usize) -> (Client, Vec<u64>) {
    let mut ids = Vec::new();
    while ids.len() < count {
        let push = reader.push();
        assert_eq!(push.kind, "MSG", "after {} messages", ids.len());
        ids.push(push.id());
    }
    (reader, ids)
}

#[test]
fn who_reads_is_not_closed_for_all_that_was_missed_and_who_does_not_keeps_nobody_waiting() {
    const COUNT: usize = 1900;
    let mut cluster = Cluster::start(1, 1);
    let mut alice = cluster.register(0, "alice");
    let bob = cluster.register(0, "bob");
    let bob_uid = bob.uid;
    let gateway = &cluster.gateways[0];
    let mut idle = gateway.connect_with_little_room();
    assert!(idle.line().starts_with("+OK welcome"));
    assert_eq!(idle.ask("set:device:idle"), "+OK device=idle");
    idle.login("bob");
    cluster.ground.redis.kill_9();
    // Fifteen million bytes, fifteen times what may be queued for a connection.
    let line = format!("chat:{bob_uid}:{}\n", "z".repeat(8000));
    let mut missed = Vec::new();
    while missed.len() < COUNT {
        let some = 50.min(COUNT - missed.len());
        alice.send_bytes(line.repeat(some).as_bytes());
        missed.extend((0..some).map(|_| number(&alice.reply(), "msg_id")));
    }
    cluster.ground.redis.restart();
    let (mut bob, came) = read_all(bob, COUNT);
    assert!(came == missed, "once each, in order");
    assert_eq!(bob.ask("ping"), "+OK pong");
    assert_eq!(cluster.gateways[0].metric("slow_consumers_total", &[]), 0.0);
    // The other device begins to read only now.
    let (mut idle, came) = read_all(idle, COUNT);
    assert!(came == missed, "once each, in order");
    let id = chat_again(&mut alice, bob_uid, "after");
    assert_eq!((bob.push().id(), idle.push().id()), (id, id));
    cluster.assert_sound();
}

#[test]
fn a_redis_that_hangs_is_given_up_and_what_it_swallowed_is_caught_up() {
    let mut cluster = Cluster::start(1, 2);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(1, "bob");
    cluster.ground.redis.pause();
    let missed: Vec<u64> = (0..5)
        .map(|n| alice.chat(bob.uid, &format!("n{n}")))
        .collect();
    for gateway in &cluster.gateways {
        eventually("a gateway gives Redis up", || !gateway.is_ready());
    }
    bob.assert_no_push();
    cluster.ground.redis.resume();
    let came: Vec<u64> = bob.pushes(5).iter().map(|push| push.id()).collect();
    assert_eq!(came, missed);
    cluster.assert_sound();
}

#[test]
fn without_redis_from_the_start_users_log_in_and_pull() {
    let mut ground = Ground::start();
    ground.redis.kill_9();
    let mut backend = BackendProcess::launch(|config| ground.configure_backend(config));
    let mut gateways: Vec<Gateway> = (0..2)
        .map(|n| Gateway::launch(|config| ground.configure_gateway(n, config)))
        .collect();
    let mut alice = register_at_last(&gateways[0], "alice");
    let mut bob = register_at_last(&gateways[1], "bob");
    assert_eq!(gateways[0].get("/readyz").status, 503);
    assert_eq!(gateways[0].get("/livez").status, 200);
    let sent: Vec<u64> = (0..5)
        .map(|n| alice.chat(bob.uid, &format!("n{n}")))
        .collect();
    let (pulled, more) = bob.pull("pull");
    let pulled: Vec<u64> = pulled.iter().map(|push| push.id()).collect();
    assert_eq!((&pulled, more), (&sent, false));

    ground.redis.restart();
    for gateway in &mut gateways {
        gateway.wait_until_ready();
    }
    backend.wait_until_ready();
    let id = alice.chat(bob.uid, "with Redis");
    loop {
        let push = bob.push();
        if push.id() == id {
            break;
        }
        // What was pulled meanwhile may come once more, and says so.
        assert!(push.is_dup() && sent.contains(&push.id()), "{push:?}");
    }
    bob.assert_no_push();
}

#[test]
fn without_zookeeper_from_the_start_a_gateway_waits_for_it() {
    let mut ground = Ground::start();
    ground.zookeeper.kill_9();
    let mut gateway = Gateway::launch(|config| ground.configure_gateway(0, config));
    let mut backend = BackendProcess::launch(|config| ground.configure_backend(config));
    let mut client = gateway.client();
    assert_eq!(client.ask("ping"), "+OK pong");
    assert_error(
        &client.ask("register:alice:password-of-alice"),
        "BACKEND_UNAVAILABLE",
    );
    assert_eq!(gateway.get("/readyz").status, 503);
    assert_eq!(gateway.get("/livez").status, 200);

    ground.zookeeper.restart();
    gateway.wait_until_ready();
    backend.wait_until_ready();
    client.register("alice");
    let id = client.chat(client.uid, "a note");
    assert_eq!(client.push().id(), id);
}

#[test]
fn with_zookeeper_gone_chatting_goes_on() {
    let mut cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(1, "bob");
    cluster.ground.zookeeper.kill_9();
    // Longer than the sessions last.
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < Duration::from_secs(5) {
        count += 1;
        let id = alice.chat(bob.uid, &format!("n{count}"));
        let push = bob.push();
        assert_eq!((push.id(), push.number("seq")), (id, count));
        std::thread::sleep(POLL_INTERVAL);
    }
    let mut carol = cluster.register(0, "carol");
    carol.chat(bob.uid, "a newcomer, too");
    assert_eq!(bob.push().text(), "a newcomer, too");

    cluster.ground.zookeeper.restart();
    cluster.wait_until_ready();
    let nodes = cluster.ground.znodes();
    eventually("gateways and backends are registered again", || {
        let mut gateways = nodes.children("/im-gateway/instances");
        gateways.sort();
        gateways == [gateway_id(0), gateway_id(1)]
            && nodes.children("/UserService/instances").len() == 2
    });
    let id = alice.chat(bob.uid, "after");
    assert_eq!(bob.push().id(), id);
    // A backend that comes now is found.
    cluster.backends[0].kill_9();
    cluster.backends[1].kill_9();
    cluster.backends[0].restart();
    let id = chat_again(&mut alice, bob.uid, "by a new instance");
    assert_eq!(bob.push().id(), id);
}

#[test]
fn users_of_a_killed_gateway_go_on_at_another() {
    let mut cluster = Cluster::start(2, 2);
    let mut alice = cluster.register(0, "alice");
    let mut bob = cluster.register(1, "bob");
    let group = alice.create_group("team");
    bob.ask(&format!("join_group:{group}"));
    alice.chat(bob.uid, "before");
    bob.push();
    cluster.gateways[1].kill_9();
    assert!(bob.lines_until_closed().is_empty());
    let sent: Vec<u64> = (0..10)
        .map(|n| match n % 2 {
            0 => alice.chat(bob.uid, &format!("n{n}")),
            _ => alice.group_chat(group, &format!("n{n}")),
        })
        .collect();

    let mut again = cluster.gateways[0].client();
    assert_eq!(again.ask("set:ack:manual"), "+OK ack=manual");
    let reply = again.ask(&format!("auth:{}", bob.token));
    assert_eq!(number(&reply, "uid"), bob.uid, "{reply}");
    let mut came: Vec<u64> = again.taken_pushes().iter().map(|push| push.id()).collect();
    came.extend(again.drain_inbox().iter().map(|push| push.id()));
    came.extend(again.taken_pushes().iter().map(|push| push.id()));
    came.sort_unstable();
    came.dedup();
    let mut expected = sent.clone();
    expected.sort_unstable();
    // What was pushed just before the kill may come once more.
    came.retain(|id| *id >= expected[0]);
    assert_eq!(came, expected);
    let id = alice.chat(bob.uid, "live");
    assert_eq!(again.push().id(), id);
    assert_eq!(again.acknowledge(&[id]), 1);

    cluster.gateways[1].restart();
    let mut phone = cluster.gateways[1].login_on("bob", "phone");
    let id = alice.chat(bob.uid, "to both");
    assert_eq!(phone.push().id(), id);
    assert_eq!(again.push().id(), id);
    // The killed gateway's connection is not there for ever.
    eventually("only the two live devices are left", || {
        let devices = field(&phone.ask(&format!("who:{}", phone.uid)), "devices").to_string();
        ["cli,phone", "phone,cli"].contains(&devices.as_str())
    });
}

#[test]
fn behind_nginx_a_gateway_may_go_and_come_back() {
    let mut cluster = Cluster::start(1, 2);
    let nginx = Nginx::start(&cluster.addresses());
    let connect = || {
        let mut client = Client::connect(nginx.address());
        assert!(client.line().starts_with("+OK welcome"));
        client
    };
    let mut clients: Vec<Client> = (0..4).map(|_| connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.register(&format!("user{n}"));
    }
    cluster.gateways[0].kill_9();
    // Whoever was there connects again, and finds the other one.
    for (n, client) in clients.iter_mut().enumerate() {
        if client.try_ask("ping").is_none() {
            *client = connect();
            client.login(&format!("user{n}"));
        }
    }
    let to = clients[1].uid;
    let id = clients[0].chat(to, "by the other one");
    assert_eq!(clients[1].push().id(), id);
    cluster.gateways[0].restart();
    nginx.set_gateways(&cluster.addresses());
    eventually("the gateway that came back is used", || {
        let mut client = connect();
        client.ask("ping");
        cluster.gateways[0].metric("connections_accepted_total", &[]) > 0.0
    });
    cluster.assert_sound();
}

#[test]
fn a_backend_whose_nodes_were_deleted_registers_again() {
    let mut cluster = Cluster::start(1, 1);
    let mut alice = cluster.register(0, "alice");
    let nodes = cluster.ground.znodes();
    let instances = "/MessageService/instances";
    let before = nodes.children(instances);
    assert_eq!(before.len(), 1);
    nodes.delete(&format!("{instances}/{}", before[0]));
    let to = alice.uid;
    let id = chat_again(&mut alice, to, "still there");
    assert_eq!(alice.push().id(), id);
    eventually("it is registered again", || {
        nodes.children(instances).len() == 1
    });
    cluster.assert_sound();
}

#[test]
fn a_second_gateway_of_the_same_name_refuses_to_start() {
    let cluster = Cluster::start(1, 1);
    let finished = Gateway::start_and_fail(|config| cluster.ground.configure_gateway(0, config));
    assert_ne!(finished.code, Some(0));
    assert!(
        finished.stderr.contains(&gateway_id(0)),
        "it says which name: {}",
        finished.stderr
    );
    let mut alice = cluster.register(0, "alice");
    assert_eq!(alice.ask("ping"), "+OK pong");
}

/// A connection with a new account logged in on it, as soon as the backends have been found.
fn register_at_last(gateway: &Gateway, name: &str) -> Client {
    let mut client = gateway.client();
    let start = Instant::now();
    let mut command = "register";
    loop {
        let reply = client.ask(&format!("{command}:{name}:password-of-{name}"));
        if reply.starts_with("+OK uid=") {
            client.uid = number(&reply, "uid");
            client.token = field(&reply, "token").to_string();
            return client;
        }
        if reply.starts_with("-ERR USER_EXISTS ") {
            // The User service had been found before the others.
            command = "login";
        } else {
            assert_error(&reply, "BACKEND_UNAVAILABLE");
        }
        assert!(start.elapsed() < DEADLINE, "no backend was found");
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[test]
fn a_redis_with_users_and_passwords_is_used_with_them_and_tells_nobody() {
    let mut ground = Ground::start();
    ground.redis = RedisServer::start_with(
        &"--user gateway on >open-sesame allchannels +@all --user default off"
            .split(' ')
            .collect::<Vec<_>>(),
    );
    let secrets = TempDir::new().expect("a directory");
    let [right, wrong] =
        [("right", "open-sesame"), ("wrong", "closed-sesame")].map(|(name, password)| {
            let file = secrets.path().join(name);
            std::fs::write(&file, password).expect("a file");
            file.display().to_string()
        });
    let authenticate = |config: &mut Config, file: &str| {
        config
            .set("redis", "user", "gateway")
            .set("redis", "password_file", file);
    };
    let mut backend = BackendProcess::launch(|config| {
        ground.configure_backend(config);
        authenticate(config, &right);
    });
    let mut gateway = Gateway::launch(|config| {
        ground.configure_gateway(0, config);
        authenticate(config, &right);
    });
    backend.wait_until_ready();
    gateway.wait_until_ready();
    let (mut alice, mut bob) = (gateway.register("alice"), gateway.register("bob"));
    let id = alice.chat(bob.uid, "past the door");
    assert_eq!(bob.push().id(), id);

    let refused = Gateway::launch(|config| {
        ground.configure_gateway(1, config);
        authenticate(config, &wrong);
    });
    eventually("it says why pushes do not come", || {
        refused.output().1.contains("no pushes from Redis")
    });
    assert_eq!(refused.get("/readyz").status, 503);
    for (stdout, stderr) in [gateway.output(), refused.output()] {
        assert!(!stdout.contains("sesame") && !stderr.contains("sesame"));
    }
}
