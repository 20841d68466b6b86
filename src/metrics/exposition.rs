//! Writes all numbers out for Prometheus, in the OpenMetrics text format or the older one that
//! every reader knows.
//!
//! Owns the way from a cell to a line of text; OpenMetrics itself is the `prometheus-client`
//! crate's. Runs on the control thread at scrape time: reads every cell once, stops no core.

#[cfg(test)]
#[path = "exposition_tests.rs"]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::MetricType,
    registry,
};

use crate::{contract::methods::Service, logging};

use super::{
    Core, Counter, Histogram, Label, PerLabel, Registry, Server,
    family::Family,
    names::{self, Kind, Metric, Unit},
    process::ProcessUsage,
};

/// How the numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's text format 0.0.4.
    Text,
}

impl Format {
    /// The format for whoever sends this `Accept` header: OpenMetrics only where it is asked for by
    /// name.
    pub fn accepted_by(accept: &str) -> Self {
        let asked = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_named = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
            is_named && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        });
        if asked { Self::OpenMetrics } else { Self::Text }
    }

    /// Its content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All numbers in a format. `ready` is what `/readyz` would say now.
pub fn text(registry: &Arc<Registry>, ready: bool, format: Format) -> Result<String, fmt::Error> {
    let text = open_metrics(registry, ready)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Text => to_text_format(&text),
    })
}

/// The same numbers in the older format: it has no units and no end, and a family is called what
/// its samples are.
fn to_text_format(open_metrics: &str) -> String {
    let kinds: HashMap<&str, &str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let head = line
            .strip_prefix("# ")
            .and_then(|head| head.split_once(' '));
        match head {
            Some((keyword @ ("HELP" | "TYPE"), rest)) => {
                let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
                let (suffix, kind) = match kinds.get(name) {
                    Some(&"counter") => ("_total", "counter"),
                    Some(&"info") => ("_info", "gauge"),
                    Some(kind) => ("", *kind),
                    None => ("", "untyped"),
                };
                let value = if keyword == "TYPE" { kind } else { value };
                text.extend(["# ", keyword, " ", name, suffix, " ", value, "\n"]);
            }
            // A unit, which the name ends in anyway.
            Some(_) => {}
            None if line == "# EOF" => {}
            None => text.extend([line, "\n"]),
        }
    }
    text
}

fn open_metrics(registry: &Arc<Registry>, ready: bool) -> Result<String, fmt::Error> {
    let mut exposition = registry::Registry::default();
    exposition.register_collector(Box::new(Scrape {
        registry: Arc::clone(registry),
        ready,
    }));
    let mut text = String::new();
    text::encode(&mut text, &exposition)?;
    if registry.old_names {
        let end = text.rfind("# EOF").ok_or(fmt::Error)?;
        text.insert_str(end, &under_old_names(&text));
    }
    Ok(text)
}

/// The lines of metrics that had another name, under that name.
fn under_old_names(text: &str) -> String {
    let mut lines = String::new();
    for (metric, old_name) in names::RENAMED {
        let family = metric.family();
        let suffix = &metric.name[family.len()..];
        assert!(
            old_name.ends_with(suffix),
            "{old_name} is another kind of metric"
        );
        let old_family = old_name.strip_suffix(suffix).unwrap_or(old_name);
        let of_family = text.lines().filter(|line| {
            let name = line.strip_prefix("# ").map_or(Some(*line), |comment| {
                comment.split_once(' ').map(|(_, rest)| rest)
            });
            let name = name.and_then(|name| name.split([' ', '{']).next());
            name.is_some_and(|name| name == family || name == metric.name)
        });
        for line in of_family {
            lines.push_str(&line.replacen(family, old_family, 1));
            lines.push('\n');
        }
    }
    lines
}

#[derive(Debug)]
struct Scrape {
    registry: Arc<Registry>,
    ready: bool,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut writer = Writer { encoder };
        let cores = NumberedCores::of(&self.registry);
        write_connections(&mut writer, &cores)?;
        write_commands(&mut writer, &cores)?;
        write_messages(&mut writer, &cores)?;
        write_backends(&mut writer, &cores)?;
        write_store(&mut writer, &self.registry)?;
        write_server(&mut writer, self.registry.server.as_deref())?;
        write_discovery(&mut writer, &self.registry)?;
        write_process(&mut writer, &self.registry, self.ready)
    }
}

fn write_connections(writer: &mut Writer, cores: &NumberedCores) -> fmt::Result {
    writer.family(&names::CONNECTIONS, |family| {
        cores.each(|number, core| {
            let mut open = core.connections.iter();
            open.try_for_each(|(carrier, count)| family.gauge(&[number, carrier], count.get()))
        })
    })?;
    writer.gauges(&names::SESSIONS_AUTHENTICATED, cores, |core| {
        core.sessions_authenticated.get()
    })?;
    writer.counters(&names::CONNECTIONS_ACCEPTED, cores, |core| {
        core.connections_accepted_total.get()
    })?;
    writer.counters_by(&names::HTTP_RESPONSES, cores, |core| &core.http_responses)?;
    writer.counters_by(&names::CONNECTIONS_REFUSED, cores, |core| {
        &core.connections_refused
    })?;
    writer.gauges(&names::PREFACES, cores, |core| core.prefaces.get())?;
    writer.counters_by(&names::PREFACES_FAILED, cores, |core| &core.misfits)?;
    writer.counters(&names::TLS_HANDSHAKES, cores, |core| {
        core.tls_handshakes_total.get()
    })?;
    writer.counters(&names::ACCEPT_ERRORS, cores, |core| {
        core.accept_errors_total.get()
    })?;
    writer.counters_by(&names::CONNECTIONS_CLOSED, cores, |core| {
        &core.connections_closed
    })
}

fn write_commands(writer: &mut Writer, cores: &NumberedCores) -> fmt::Result {
    writer.family(&names::COMMANDS, |family| {
        cores.each(|number, core| {
            core.commands.iter().try_for_each(|(command, results)| {
                family.counter(&[number, command, "ok"], results.ok.get())?;
                family.counter(&[number, command, "error"], results.error.get())
            })
        })
    })?;
    writer.family(&names::COMMAND_DURATION, |family| {
        cores.each(|number, core| {
            core.command_duration
                .iter()
                .try_for_each(|(command, durations)| {
                    // Most commands never call a backend, and eighteen lines of zeros for each
                    // would bury the rest.
                    if durations.is_empty() {
                        return Ok(());
                    }
                    family.histogram(&[number, command], durations)
                })
        })
    })?;
    writer.counters_by(&names::ERRORS, cores, |core| &core.errors)
}

fn write_messages(writer: &mut Writer, cores: &NumberedCores) -> fmt::Result {
    writer.counters(&names::MESSAGES_RECEIVED, cores, |core| {
        core.messages_received_total.get()
    })?;
    writer.counters(&names::MESSAGE_ID_CONFLICTS, cores, |core| {
        core.message_id_conflicts_total.get()
    })?;
    writer.counters(&names::MESSAGES_SENT, cores, |core| {
        core.messages_sent_total.get()
    })?;
    writer.counters(&names::TRANSPORT_RECEIVED, cores, |core| {
        core.transport_received_bytes_total.get()
    })?;
    writer.counters(&names::TRANSPORT_SENT, cores, |core| {
        core.transport_sent_bytes_total.get()
    })?;
    writer.gauges(&names::OUTBOX, cores, |core| core.outbox_bytes.get())?;
    writer.counters(&names::SLOW_CONSUMERS, cores, |core| {
        core.slow_consumers_total.get()
    })?;
    writer.family(&names::RATE_LIMITED, |family| {
        cores.each(|number, core| {
            family.counter(
                &[number, "commands"],
                core.rate_limited_commands_total.get(),
            )?;
            family.counter(&[number, "login"], core.rate_limited_login_total.get())?;
            family.counter(
                &[number, "registration"],
                core.rate_limited_registration_total.get(),
            )
        })
    })?;
    writer.counters(&names::PROTOCOL_ERRORS, cores, |core| {
        core.protocol_errors_total.get()
    })?;
    writer.family(&names::PUSH_DROPPED, |family| {
        cores.each(|number, core| {
            let mut dropped = core.push_dropped.iter();
            dropped
                .try_for_each(|(reason, count)| family.counter(&[number, reason], count.get()))?;
            family.counter(&[number, "inbox_full"], core.inbox_full.get())
        })
    })?;
    writer.counters(&names::PUSH_GAPS, cores, |core| core.push_gaps_total.get())?;
    writer.counters(&names::PUSH_STEP_BACKS, cores, |core| {
        core.push_step_backs_total.get()
    })?;
    writer.family(&names::FANOUT_RECIPIENTS, |family| {
        cores.each(|number, core| family.histogram(&[number], &core.fanout_recipients))
    })
}

fn write_backends(writer: &mut Writer, cores: &NumberedCores) -> fmt::Result {
    writer.family(&names::BACKEND_RPC_ERRORS, |family| {
        cores.each(|number, core| {
            core.backend_rpc_errors
                .iter()
                .try_for_each(|(service, errors)| {
                    let mut errors = errors.iter();
                    errors.try_for_each(|(code, count)| {
                        family.counter(&[number, service, code], count.get())
                    })
                })
        })
    })?;
    writer.gauges(&names::BACKEND_INFLIGHT, cores, |core| {
        core.backend_inflight.get()
    })?;
    writer.family(&names::BACKEND_INSTANCES_UP, |family| {
        cores.each(|number, core| {
            let mut services = core.backend_instances_up.iter();
            services.try_for_each(|(service, up)| family.gauge(&[number, service], up.get()))
        })
    })?;
    writer.gauges(&names::BACKEND_CONNECTIONS, cores, |core| {
        core.backend_connections.get()
    })?;
    writer.counters(&names::BACKEND_RETRIES, cores, |core| {
        core.backend_retries_total.get()
    })?;
    writer.counters(&names::BACKEND_STRAY_REPLIES, cores, |core| {
        core.backend_stray_replies_total.get()
    })?;
    writer.counters(&names::BACKEND_EJECTIONS, cores, |core| {
        core.backend_ejections_total.get()
    })?;
    writer.counters(&names::BACKEND_HANDSHAKES_FAILED, cores, |core| {
        core.backend_handshakes_failed_total.get()
    })?;
    writer.counters(&names::BACKEND_BAD_NUMBERS, cores, |core| {
        core.backend_bad_numbers_total.get()
    })?;
    writer.gauges(&names::USERS_WITHOUT_ROUTE, cores, |core| {
        core.users_without_route.get()
    })?;
    writer.gauges(&names::BUS_CONNECTED, cores, |core| {
        core.bus_connected.get()
    })?;
    writer.counters(&names::BUS_CONNECTIONS, cores, |core| {
        core.bus_connections_total.get()
    })?;
    writer.gauges(&names::CORE_QUEUE_DEPTH, cores, |core| {
        core.core_queue_depth.get()
    })?;
    writer.family(&names::CORE_LOOP_STALL, |family| {
        cores.each(|number, core| {
            family.gauge_seconds(&[number], core.core_loop_stall_us.get() as f64 / 1e6)
        })
    })?;
    writer.counters(&names::PANICS, cores, |core| core.panics_total.get())
}

fn write_store(writer: &mut Writer, registry: &Registry) -> fmt::Result {
    let store = &registry.store;
    writer.counter(&names::STORE_COMMITS, store.commits.get())?;
    writer.histogram(&names::STORE_BATCH_MESSAGES, &store.batch_messages)?;
    writer.histogram(&names::STORE_COMMIT_DURATION, &store.commit_duration)?;
    writer.counter(&names::STORE_ERRORS, store.errors.get())?;
    writer.counter(&names::STORE_PANICS, store.panics.get())?;
    writer.counter(&names::STORE_MESSAGES, store.messages.get())?;
    writer.counter(&names::STORE_SWEPT_MESSAGES, store.swept_messages.get())?;
    writer.gauge(&names::STORE_LOG, store.log_bytes.get())?;
    writer.counter(&names::CLOCK_STEPS, store.clock_steps.get())?;
    writer.gauge(&names::STORE_QUEUE_DEPTH, store.queue_depth.get())?;
    writer.family(&names::STORE_LOCK_WAIT, |family| {
        family.gauge_seconds(&[], store.lock_wait_ms.get() as f64 / 1e3)
    })?;
    writer.gauge(
        &names::PASSWORD_QUEUE_DEPTH,
        store.password_queue_depth.get(),
    )?;
    writer.family(&names::PASSWORDS_UNHASHED, |family| {
        let mut losses = store.passwords_unhashed.iter();
        losses.try_for_each(|(reason, count)| family.counter(&[reason], count.get()))
    })
}

/// A gateway has none of these: it writes only their heads.
fn write_server(writer: &mut Writer, server: Option<&Server>) -> fmt::Result {
    writer.optional_gauge(
        &names::RPC_CONNECTIONS,
        server.map(|server| server.connections.get()),
    )?;
    writer.family(&names::RPC_CONNECTIONS_CLOSED, |family| {
        let mut closes = server.into_iter().flat_map(Server::closes);
        closes.try_for_each(|(reason, count)| family.counter(&[reason], count))
    })?;
    writer.family(&names::RPC_CALLS, |family| {
        let mut calls = server.into_iter().flat_map(Server::calls);
        calls.try_for_each(|(service, outcome, count)| family.counter(&[service, outcome], count))
    })?;
    writer.optional_counter(
        &names::PUBLISHES,
        server.map(|server| server.publishes.get()),
    )?;
    writer.optional_counter(
        &names::PUBLISH_FAILURES,
        server.map(|server| server.publish_failures.get()),
    )?;
    writer.family(&names::PUSHES_UNPUBLISHED, |family| {
        let mut drops = server.into_iter().flat_map(Server::drops);
        drops.try_for_each(|(reason, count)| family.counter(&[reason], count))
    })?;
    writer.optional_gauge(
        &names::PUBLISHER_CONNECTED,
        server.map(|server| server.publisher_connected.get()),
    )
}

fn write_discovery(writer: &mut Writer, registry: &Registry) -> fmt::Result {
    let status = &registry.discovery;
    writer.gauge(
        &names::ZOOKEEPER_CONNECTED,
        u64::from(status.is_connected()),
    )?;
    writer.gauge(
        &names::ZOOKEEPER_REGISTERED,
        u64::from(status.is_registered()),
    )?;
    writer.counter(&names::ZOOKEEPER_SESSIONS, status.sessions())?;
    writer.family(&names::DISCOVERY_INSTANCES, |family| {
        Service::ALL
            .into_iter()
            .try_for_each(|service| family.gauge(&[service.name()], status.instances(service)))
    })?;
    writer.gauge(&names::DISCOVERY_BAD_RECORDS, status.bad_records())
}

fn write_process(writer: &mut Writer, registry: &Registry, ready: bool) -> fmt::Result {
    let usage = ProcessUsage::read();
    writer.counter(&names::LOG_LINES_DROPPED, logging::lines_dropped())?;
    writer.gauge(&names::READY, u64::from(ready))?;
    writer.family(&names::BUILD_INFO, |family| {
        family.info(&[env!("CARGO_PKG_VERSION")])
    })?;
    writer.family(&names::PROCESS_CPU, |family| {
        family.counter_seconds(&[], usage.cpu_seconds)
    })?;
    writer.optional_gauge(&names::PROCESS_RESIDENT_MEMORY, usage.resident_bytes)?;
    writer.optional_gauge(&names::PROCESS_OPEN_FDS, usage.open_fds)?;
    writer.optional_gauge(&names::PROCESS_MAX_FDS, usage.max_fds)?;
    writer.family(&names::CERTIFICATE_EXPIRY, |family| {
        let certificates = registry.certificates.lock();
        let certificates = certificates.unwrap_or_else(PoisonError::into_inner);
        let mut each = certificates.iter();
        each.try_for_each(|(file, until_s)| family.gauge_seconds(&[file], *until_s as f64))
    })?;
    writer.family(&names::PROCESS_START_TIME, |family| {
        family.gauge_seconds(&[], registry.started_unix_ms as f64 / 1e3)
    })
}

/// The cores with their numbers as label values.
struct NumberedCores<'a>(Vec<(String, &'a Core)>);

impl<'a> NumberedCores<'a> {
    fn of(registry: &'a Registry) -> Self {
        let cores = registry.cores.iter().map(Arc::as_ref);
        let numbered = cores
            .enumerate()
            .map(|(index, core)| (index.to_string(), core));
        Self(numbered.collect())
    }

    fn each(&self, mut write: impl FnMut(&str, &Core) -> fmt::Result) -> fmt::Result {
        let mut cores = self.0.iter();
        cores.try_for_each(|(number, core)| write(number, core))
    }
}

struct Writer<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Writer<'_> {
    /// Writes the head of a family, then lets `samples` write its samples.
    fn family(
        &mut self,
        metric: &Metric,
        samples: impl FnOnce(&mut Family) -> fmt::Result,
    ) -> fmt::Result {
        let unit = match metric.unit {
            Unit::Count => None,
            Unit::Seconds => Some(registry::Unit::Seconds),
            Unit::Bytes => Some(registry::Unit::Bytes),
        };
        let kind = match metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        let encoder =
            self.encoder
                .encode_descriptor(metric.base(), metric.help, unit.as_ref(), kind)?;
        samples(&mut Family::new(encoder, metric.labels))
    }

    /// A counter with no label but the core.
    fn counters(
        &mut self,
        metric: &Metric,
        cores: &NumberedCores,
        value: impl Fn(&Core) -> u64,
    ) -> fmt::Result {
        self.family(metric, |family| {
            cores.each(|number, core| family.counter(&[number], value(core)))
        })
    }

    /// A counter with the core and one other label.
    fn counters_by<L: Label, const N: usize>(
        &mut self,
        metric: &Metric,
        cores: &NumberedCores,
        counts: impl Fn(&Core) -> &PerLabel<L, Counter, N>,
    ) -> fmt::Result {
        self.family(metric, |family| {
            cores.each(|number, core| {
                let mut counts = counts(core).iter();
                counts.try_for_each(|(word, count)| family.counter(&[number, word], count.get()))
            })
        })
    }

    /// A gauge with no label but the core.
    fn gauges(
        &mut self,
        metric: &Metric,
        cores: &NumberedCores,
        value: impl Fn(&Core) -> u64,
    ) -> fmt::Result {
        self.family(metric, |family| {
            cores.each(|number, core| family.gauge(&[number], value(core)))
        })
    }

    /// A counter without labels.
    fn counter(&mut self, metric: &Metric, value: u64) -> fmt::Result {
        self.family(metric, |family| family.counter(&[], value))
    }

    /// A gauge without labels.
    fn gauge(&mut self, metric: &Metric, value: u64) -> fmt::Result {
        self.family(metric, |family| family.gauge(&[], value))
    }

    /// A histogram without labels.
    fn histogram(&mut self, metric: &Metric, histogram: &Histogram) -> fmt::Result {
        self.family(metric, |family| family.histogram(&[], histogram))
    }

    /// A counter without labels, or only its head where nothing is known.
    fn optional_counter(&mut self, metric: &Metric, value: Option<u64>) -> fmt::Result {
        self.family(metric, |family| {
            value.map_or(Ok(()), |value| family.counter(&[], value))
        })
    }

    /// A gauge without labels, or only its head where nothing is known.
    fn optional_gauge(&mut self, metric: &Metric, value: Option<u64>) -> fmt::Result {
        self.family(metric, |family| {
            value.map_or(Ok(()), |value| family.gauge(&[], value))
        })
    }
}
