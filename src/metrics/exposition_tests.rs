//! The exposition, read back by a reader of the format that knows nothing of the writer.

use super::*;
use crate::{
    base::close::CloseReason,
    contract::{backend::CallError, methods::Service},
    limits::Refusal,
    metrics::{Carrier, PushDrop, server::ServerRefusal},
    protocol::{command::Verb, error_code::ErrorCode, http::response::Status},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Instant,
};

/// A sample as a reader of the format sees it.
type Labels = BTreeMap<String, String>;

#[derive(Debug, Default)]
struct ParsedFamily {
    kind: String,
    help: String,
    unit: Option<String>,
    samples: Vec<(String, Labels, f64)>,
}

/// A reader of OpenMetrics text that knows nothing of the writer and accepts nothing but the
/// format.
fn parse(text: &str) -> HashMap<String, ParsedFamily> {
    let body = text.strip_suffix("# EOF\n").expect("ends in # EOF");
    let mut families: HashMap<String, ParsedFamily> = HashMap::new();
    let mut current = String::new();
    let mut series = HashSet::new();
    for line in body.lines() {
        assert_eq!(line, line.trim(), "no stray space");
        if let Some(rest) = line.strip_prefix("# ") {
            let (keyword, rest) = rest.split_once(' ').expect("keyword");
            let (name, value) = rest.split_once(' ').expect("name and value");
            match keyword {
                "HELP" => {
                    let family = ParsedFamily {
                        help: value.to_owned(),
                        ..Default::default()
                    };
                    assert!(
                        families.insert(name.to_owned(), family).is_none(),
                        "{name} twice"
                    );
                    current = name.to_owned();
                }
                "TYPE" => families.get_mut(name).expect("after HELP").kind = value.to_owned(),
                "UNIT" => {
                    assert!(
                        name.ends_with(&format!("_{value}")),
                        "unit is the suffix: {line}"
                    );
                    families.get_mut(name).expect("after HELP").unit = Some(value.to_owned());
                }
                other => panic!("unknown keyword {other}"),
            }
            assert_eq!(name, current, "heads of families do not mix");
            continue;
        }
        let (left, value) = line.rsplit_once(' ').expect("value");
        assert!(series.insert(left.to_owned()), "series twice: {left}");
        let (name, labels) = match left.split_once('{') {
            Some((_, "}")) => panic!("empty braces: {line}"),
            Some((name, labels)) => (
                name,
                parse_labels(labels.strip_suffix('}').expect("closed")),
            ),
            None => (left, Labels::new()),
        };
        let family = families.get_mut(&current).expect("a sample after its head");
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("unknown type {other}"),
        };
        let suffix = name.strip_prefix(&current).expect("sample of its family");
        assert!(suffixes.contains(&suffix), "{line}");
        let value: f64 = value.parse().expect("a number");
        assert!(value >= 0.0, "{line}");
        family.samples.push((name.to_owned(), labels, value));
    }
    families
}

fn parse_labels(text: &str) -> Labels {
    let mut labels = Labels::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').expect("name=value");
        let value = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'));
        let value = value.expect("quoted");
        assert!(!value.contains(['"', '\\']), "no escape needed: {pair}");
        assert!(labels.insert(name.to_owned(), value.to_owned()).is_none());
    }
    labels
}

fn value(families: &HashMap<String, ParsedFamily>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: Labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let mut samples = families.values().flat_map(|family| &family.samples);
    samples
        .find(|(sample, labels, _)| sample == name && *labels == wanted)
        .unwrap_or_else(|| panic!("no {name} {labels:?}"))
        .2
}

fn registry(cores: usize) -> Arc<Registry> {
    Arc::new(Registry::new(cores, Instant::now(), 1_760_000_000_500))
}

#[test]
fn families_are_exactly_those_of_the_table() {
    let mut registry = Registry::new(2, Instant::now(), 0);
    registry.old_names = false;
    let families = parse(&text(&Arc::new(registry), true, Format::OpenMetrics).unwrap());
    assert_eq!(families.len(), names::ALL.len());
    for metric in names::ALL {
        let family = families.get(metric.family()).expect(metric.name);
        assert_eq!(family.kind, metric.kind.word());
        assert_eq!(family.help, metric.help);
        assert_eq!(
            family.unit.is_some(),
            metric.unit != Unit::Count,
            "{}",
            metric.name
        );
        for (sample, labels, _) in &family.samples {
            let mut expected: HashSet<&str> = metric.labels.iter().copied().collect();
            if sample.ends_with("_bucket") {
                expected.insert("le");
            }
            assert_eq!(
                labels.keys().map(String::as_str).collect::<HashSet<_>>(),
                expected
            );
        }
        if metric.kind == Kind::Counter {
            let total = |(sample, _, _): &(String, Labels, f64)| sample == metric.name;
            assert!(
                family.samples.iter().all(total),
                "{} ends in _total once",
                metric.name
            );
        }
    }
}

#[test]
fn what_a_core_counts_stands_under_its_number() {
    let registry = registry(2);
    let core = &registry.cores[1];
    core.connections(Carrier::Line).set(4);
    core.connections(Carrier::WebSocket).set(3);
    core.http_response(Status::SwitchingProtocols);
    for _ in 0..3 {
        core.connection_closed(CloseReason::Replaced);
    }
    core.command(Verb::ALL[0], false);
    core.error(ErrorCode::RateLimited);
    core.push_dropped(PushDrop::Duplicate);
    core.inbox_overflowed(4);
    core.connection_refused(Refusal::PerIp);
    core.rate_limited_login_total.inc();
    core.backend_failed(Service::Message, CallError::Timeout);
    core.core_loop_stall_us.observe(1, 2_500);
    registry.store.commits.add(9);

    let families = parse(&text(&registry, false, Format::OpenMetrics).unwrap());
    let of = |name: &str, labels: &[(&str, &str)]| value(&families, name, labels);
    for (core, carrier, count) in [
        ("1", "line", 4.0),
        ("1", "websocket", 3.0),
        ("0", "line", 0.0),
    ] {
        let labels = [("core", core), ("carrier", carrier)];
        assert_eq!(of("im_gateway_connections", &labels), count, "{labels:?}");
    }
    let upgraded = [("core", "1"), ("status", "101")];
    assert_eq!(of("im_gateway_http_responses_total", &upgraded), 1.0);
    let replaced = [("core", "1"), ("reason", "replaced")];
    assert_eq!(of("im_gateway_connections_closed_total", &replaced), 3.0);
    let command = [
        ("core", "1"),
        ("command", Verb::ALL[0].name()),
        ("result", "error"),
    ];
    assert_eq!(of("im_gateway_commands_total", &command), 1.0);
    for (name, label, word, count) in [
        ("im_gateway_errors_total", "code", "RATE_LIMITED", 1.0),
        ("im_gateway_push_dropped_total", "reason", "duplicate", 1.0),
        ("im_gateway_push_dropped_total", "reason", "inbox_full", 4.0),
        (
            "im_gateway_connections_refused_total",
            "reason",
            "per_ip",
            1.0,
        ),
    ] {
        assert_eq!(of(name, &[("core", "1"), (label, word)]), count, "{name}");
    }
    let login = [("core", "1"), ("scope", "login")];
    assert_eq!(of("im_gateway_rate_limited_total", &login), 1.0);
    let call = [
        ("core", "1"),
        ("service", "MessageService"),
        ("code", "timeout"),
    ];
    assert_eq!(of("im_gateway_backend_rpc_errors_total", &call), 1.0);
    assert_eq!(
        of("im_gateway_core_loop_stall_seconds", &[("core", "1")]),
        0.0025
    );
    assert_eq!(of("im_gateway_store_commits_total", &[]), 9.0);
    assert_eq!(of("im_gateway_ready", &[]), 0.0);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(of("im_gateway_build_info", &version), 1.0);
    assert_eq!(of("process_start_time_seconds", &[]), 1_760_000_000.5);
}

#[test]
fn buckets_are_cumulative_and_end_at_the_count() {
    let registry = registry(1);
    let core = &registry.cores[0];
    for duration_us in [10, 70, 70, 400_000, 60_000_000] {
        core.command_took(Verb::ALL[1], duration_us);
    }
    let families = parse(&text(&registry, true, Format::OpenMetrics).unwrap());
    let family = &families["im_gateway_command_duration_seconds"];
    let buckets: Vec<(f64, f64)> = family
        .samples
        .iter()
        .filter(|(sample, _, _)| sample.ends_with("_bucket"))
        .map(|(_, labels, value)| (labels["le"].parse().unwrap(), *value))
        .collect();
    assert!(buckets.is_sorted(), "{buckets:?}");
    assert_eq!(buckets.first(), Some(&(0.00005, 1.0)));
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, 5.0)));
    let labels = [("core", "0"), ("command", Verb::ALL[1].name())];
    let of = |suffix: &str| {
        value(
            &families,
            &format!("im_gateway_command_duration_seconds{suffix}"),
            &labels,
        )
    };
    assert_eq!(of("_count"), 5.0);
    assert!((of("_sum") - 60.40015).abs() < 1e-9);
}

#[test]
fn open_metrics_is_written_only_to_who_asks_for_it() {
    for (accept, format) in [
        ("", Format::Text),
        ("*/*", Format::Text),
        ("text/plain;version=0.0.4", Format::Text),
        ("application/openmetrics-text", Format::OpenMetrics),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Format::OpenMetrics,
        ),
        ("application/openmetrics-text;q=0, text/plain", Format::Text),
    ] {
        assert_eq!(Format::accepted_by(accept), format, "{accept}");
    }
}

#[test]
fn the_older_format_names_each_family_as_its_samples_and_has_the_same_samples() {
    let registry = Arc::new(Registry::new(2, Instant::now(), 0));
    let new = text(&registry, true, Format::OpenMetrics).expect("written");
    let old = text(&registry, true, Format::Text).expect("written");
    let samples = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    // What is asked of the system changes from one moment to the next.
    let is_steady = |line: &&String| !line.contains("process_") && !line.contains("uptime");
    assert!(
        samples(&new)
            .iter()
            .filter(is_steady)
            .eq(samples(&old).iter().filter(is_steady))
    );
    let mut family = String::new();
    for line in old.lines() {
        match line
            .strip_prefix("# ")
            .map(|head| head.split(' ').collect::<Vec<_>>())
        {
            Some(head) => {
                assert!(matches!(head[0], "HELP" | "TYPE"), "{line}");
                head[1].clone_into(&mut family);
                if head[0] == "TYPE" {
                    assert!(
                        matches!(head[2], "counter" | "gauge" | "histogram"),
                        "{line}"
                    );
                    assert_eq!(head[2] == "counter", family.ends_with("_total"), "{line}");
                }
            }
            None => assert!(line.starts_with(&family), "{line} in {family}"),
        }
    }
}

#[test]
fn a_renamed_metric_has_its_old_name_too_unless_that_is_turned_off() {
    let server = Arc::new(Server::default());
    server.closed(ServerRefusal::Idle);
    for format in [Format::OpenMetrics, Format::Text] {
        for old_names in [true, false] {
            let mut registry = Registry::of_backend(Arc::clone(&server), Instant::now(), 0);
            registry.old_names = old_names;
            let text = text(&Arc::new(registry), true, format).expect("written");
            let count = |line: &str| text.lines().filter(|found| *found == line).count();
            let sample = "_total{reason=\"idle\"} 1";
            assert_eq!(
                count(&format!("im_gateway_rpc_connections_closed{sample}")),
                1
            );
            let old = count(&format!("im_gateway_rpc_connections_parted{sample}"));
            assert_eq!(old, usize::from(old_names), "{format:?}");
            assert_eq!(text.contains("parted"), old_names, "{format:?}");
            assert_eq!(text.ends_with("# EOF\n"), format == Format::OpenMetrics);
        }
    }
}
