//! The rules, each by a value that breaks it.

use std::time::Duration;

use super::{cluster::zookeeper_hosts, *};
use crate::config::settings::Algorithm;
use crate::config::source;

fn settings_of(text: &str) -> Result<Settings, String> {
    let mut origins = Origins::default();
    let values = source::parse("im.toml", text, &mut origins).expect("the types are right");
    validate(&values, &origins, &Environment::default()).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
        assert!(!lines.is_empty() && lines.iter().all(|line| line.lines().count() == 1));
        lines.join("\n")
    })
}

#[test]
fn one_mistake_hides_no_other() {
    let error = settings_of(
        "[gateway_service]\nhost = 'localhost'\nthread_count = 65\n\
         [network]\nbacklog = 0\n[limits]\nmax_line_bytes = 70\nlogin_line_bytes = 80\n\
         [redis]\naddress = 'redis://10.0.0.3:6379'\n",
    )
    .expect_err("five mistakes");
    let lines: Vec<&str> = error.lines().collect();
    for (line, words) in lines.iter().zip([
        "line 2: [gateway_service] host",
        "line 3: [gateway_service] thread_count",
        "line 5: [network] backlog",
        "line 8: [limits] login_line_bytes",
        "line 10: [redis] address",
    ]) {
        assert!(line.contains(words), "{line}\n{error}");
    }
    assert_eq!(lines.len(), 5, "{error}");
    // The default of a key that nobody wrote is no second mistake.
    let error =
        settings_of("[limits]\nmax_line_bytes = 100\n").expect_err("less than before login");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn an_address_with_a_scheme_is_told_the_form_that_is_wanted() {
    let error = settings_of("[redis]\naddress = 'redis://10.0.0.3:6379'\n").expect_err("a URL");
    assert!(
        error.contains("such as \"127.0.0.1:6379\": leave out redis://"),
        "{error}"
    );
    for address in ["10.0.0.3/6379", "user@10.0.0.3:6379", "a b:6379"] {
        settings_of(&format!("[redis]\naddress = '{address}'\n")).expect_err(address);
    }
    for address in [
        "redis:6379",
        "redis-1.example.org:6379",
        "[::1]:6379",
        "10.0.0.3:6379",
    ] {
        settings_of(&format!("[redis]\naddress = '{address}'\n")).expect(address);
    }
}

#[test]
fn the_defaults_come_out_in_runtime_types() {
    let settings = settings_of("").expect("valid");
    assert_eq!(
        settings.listeners[0].address,
        "127.0.0.1:6000".parse().unwrap()
    );
    assert_eq!(settings.gateway_service.connection_timeout_ms, 300_000);
    assert_eq!(settings.gateway_service.data_dir, PathBuf::from("./data"));
    assert_eq!(
        settings.gateway_service.drain_timeout,
        Duration::from_secs(30)
    );
    assert_eq!(
        settings.network.tcp_keepalive,
        Some(Duration::from_secs(60))
    );
    assert_eq!(settings.network.send_buffer_bytes, 65_536);
    assert_eq!(settings.network.backlog, 4096);
    assert_eq!(settings.load_balancer.algorithm, Algorithm::RoundRobin);
    assert_eq!(settings.load_balancer.retry_interval_ms, 1000);
    assert_eq!(settings.ops.listen, Some("127.0.0.1:8100".parse().unwrap()));
    assert_eq!(settings.limits.outbound_queue_bytes, 1_048_576);
    assert_eq!(settings.limits.limit_exempt.len(), 2);
    assert_eq!(settings.auth.token_lifetime_seconds, 86_400);
    assert_eq!(
        settings.auth.token_secret_file,
        PathBuf::from("./data/token.secret")
    );
    assert_eq!(settings.rpc.rpc_timeout_ms, 3000);
    assert_eq!(settings.log.level, LevelFilter::Info);
}

#[test]
fn a_value_out_of_its_range_is_named_with_its_line_and_its_range() {
    assert_eq!(
        settings_of("[network]\nbacklog = 0\n"),
        Err("im.toml line 2: [network] backlog: 0 is not between 1 and 65535".to_owned())
    );
    assert_eq!(
        settings_of("[auth]\ntoken_lifetime = '10ms'\n"),
        Err("im.toml line 2: [auth] token_lifetime: 10ms is not between 1s and 87840h".to_owned())
    );
}

/// Settings that break a rule, and the key that is to be named.
const BROKEN: &[(&str, &str)] = &[
    ("[gateway_service]\nhost = 'localhost'", "host"),
    ("[gateway_service]\nthread_count = 65", "thread_count"),
    ("[gateway_service]\nmax_connections = 0", "max_connections"),
    (
        "[gateway_service]\nconnection_timeout = 0",
        "connection_timeout",
    ),
    ("[gateway_service]\ngateway_id = 'a#b'", "gateway_id"),
    ("[gateway_service]\ngateway_id = 'a b'", "gateway_id"),
    ("[gateway_service]\ndrain_timeout = '2h'", "drain_timeout"),
    ("[network]\ntcp_keepalive = '1500ms'", "tcp_keepalive"),
    ("[network]\ntcp_keepalive = '10h'", "tcp_keepalive"),
    ("[network]\nsend_buffer_size = 10", "send_buffer_size"),
    (
        "[network]\nreceive_buffer_size = '1GiB'",
        "receive_buffer_size",
    ),
    (
        "[service_discovery]\nzookeeper_hosts = 'zk1'",
        "zookeeper_hosts",
    ),
    (
        "[service_discovery]\nzookeeper_hosts = 'zk1:2181/'",
        "zookeeper_hosts",
    ),
    (
        "[service_discovery]\nzookeeper_hosts = ':2181'",
        "zookeeper_hosts",
    ),
    (
        "[service_discovery]\nhealth_check_interval = 0",
        "health_check_interval",
    ),
    ("[load_balancer]\nalgorithm = 'random'", "algorithm"),
    ("[load_balancer]\nmax_retries = 101", "max_retries"),
    ("[load_balancer]\nretry_interval = 0", "retry_interval"),
    (
        "[service_discovery]\nstatic_instances = ['user grpc 10.0.0.5:5001']",
        "static_instances",
    ),
    (
        "[service_discovery]\nstatic_instances = ['user mprpc backend:5001']",
        "static_instances",
    ),
    ("[gateway_service]\ngateway_id = '..'", "gateway_id"),
    ("[gateway_service]\nfirst_worker = 960", "first_worker"),
    ("[gateway_service]\nfirst_worker = -2", "first_worker"),
    ("[rpc]\npool_size = 0", "pool_size"),
    ("[rpc]\nrpc_max_reply = '10B'", "rpc_max_reply"),
    ("[redis]\naddress = 'localhost'", "address"),
    ("[presence]\nroute_lifetime = '10ms'", "route_lifetime"),
    ("[backend]\nadvertise = '0.0.0.0:5001'", "advertise"),
    ("[backend]\nadvertise = '10.0.0.5:0'", "advertise"),
    ("[backend]\nforeign_users = true", "foreign_users"),
    ("[backend]\nservices = []", "services"),
    ("[backend]\nservices = ['mail']", "services"),
    ("[backend]\nlayouts = ['etcd']", "layouts"),
    ("[backend]\nlayouts = []", "layouts"),
    ("[backend]\nweight = 1000001", "weight"),
    (
        "[load_balancer]\ncircuit_breaker_threshold = 0",
        "circuit_breaker_threshold",
    ),
    ("[ops]\nlisten = '8100'", "listen"),
    ("[ops]\nlisten = '127.0.0.1:6000'", "listen"),
    ("[ops]\nlisten = '0.0.0.0:6000'", "listen"),
    ("[limits]\nlogin_line_bytes = 9000", "login_line_bytes"),
    ("[limits]\nmax_line_bytes = 9", "max_line_bytes"),
    (
        "[limits]\noutbound_queue_bytes = '16KiB'",
        "outbound_queue_bytes",
    ),
    ("[limits]\nlogin_delay_max = '500ms'", "login_delay_max"),
    ("[limits]\nmax_devices = 0", "max_devices"),
    ("[limits]\ninbox_limit = 0", "inbox_limit"),
    ("[limits]\nlimit_exempt = ['10.0.0.0/33']", "limit_exempt"),
    (
        "[limits]\nregistrations_per_hour = 0",
        "registrations_per_hour",
    ),
    ("[auth]\npassword_threads = 0", "password_threads"),
    ("[auth]\nregistration = 'shut'", "registration"),
    ("[accounts]\nnames = 'latin'", "names"),
    ("[rpc]\nrpc_timeout = 0", "rpc_timeout"),
    ("[log]\nlevel = 'loud'", "level"),
];

#[test]
fn every_rule_names_the_key_it_is_about() {
    for (text, key) in BROKEN {
        let error = settings_of(text).expect_err(text);
        let start = format!("im.toml line 2: {} {key}: ", text.lines().next().unwrap());
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn where_nobody_hands_out_worker_numbers_they_have_to_be_set() {
    let alone = "[service_discovery]\nstatic_instances = ['user mprpc-id 10.0.0.5:5001']\n";
    let error = settings_of(alone).expect_err("no worker number");
    assert!(
        error.contains("[gateway_service] first_worker: "),
        "{error}"
    );
    assert!(error.contains("64 for the second"), "{error}");
    for (text, number) in [
        (
            format!("{alone}[gateway_service]\nfirst_worker = 0"),
            Some(0),
        ),
        (format!("{alone}zookeeper_hosts = 'zk1:2181'"), None),
        (String::new(), None),
    ] {
        let settings = settings_of(&text).expect(&text);
        assert_eq!(settings.gateway_service.first_worker, number);
    }
}

#[test]
fn port_zero_never_collides() {
    let settings = settings_of("[gateway_service]\nport = 0\n[ops]\nlisten = '127.0.0.1:0'\n");
    assert_eq!(settings.expect("valid").listeners[0].address.port(), 0);
}

#[test]
fn empty_or_zero_turns_off_what_can_be_turned_off() {
    let settings = settings_of(
        "[network]\ntcp_keepalive = 0\ntcp_user_timeout = 0\n[ops]\nlisten = ''\n\
         [limits]\nlimit_exempt = []\n",
    )
    .expect("valid");
    assert_eq!(settings.network.tcp_keepalive, None);
    assert_eq!(settings.network.tcp_user_timeout, None);
    assert_eq!(settings.ops.listen, None);
    assert!(settings.limits.limit_exempt.is_empty());
}

#[test]
fn a_single_address_is_a_network_of_one() {
    let settings = settings_of("[limits]\nlimit_exempt = ['10.0.0.1', '10.1.2.3/8']\n");
    let networks = settings.expect("valid").limits.limit_exempt;
    assert_eq!(
        networks,
        [
            "10.0.0.1/32".parse().unwrap(),
            "10.0.0.0/8".parse().unwrap()
        ]
    );
}

#[test]
fn zookeeper_addresses_may_have_a_root() {
    for hosts in ["", "zk1:2181", "zk1:2181,zk2:2181/im", "[::1]:2181/im/prod"] {
        assert_eq!(zookeeper_hosts(hosts), Ok(()), "{hosts}");
    }
}

#[test]
fn an_empty_gateway_id_is_the_host_name_made_fit() {
    let long = "x".repeat(100);
    for (host_name, id) in [
        ("gw-1.example.org", "gw-1.example.org"),
        ("b\u{fc}ro #1", "b-ro--1"),
        ("", "im-gateway"),
        (long.as_str(), &long[..64]),
    ] {
        let environment = Environment {
            host_name: host_name.to_owned(),
            ..Environment::default()
        };
        let settings = validate(&File::default(), &Origins::default(), &environment);
        assert_eq!(settings.expect("valid").gateway_service.gateway_id, id);
    }
}

#[test]
fn the_data_directory_is_the_written_one_then_the_state_directory_then_the_default() {
    let environment = Environment {
        variables: vec![("STATE_DIRECTORY".into(), "/var/lib/a:/var/lib/b".into())],
        ..Environment::default()
    };
    let mut values = File::default();
    assert_eq!(data_dir(&values, &environment), PathBuf::from("/var/lib/a"));
    values.gateway_service.data_dir = "/srv/im".to_owned();
    assert_eq!(data_dir(&values, &environment), PathBuf::from("/srv/im"));
}
