//! The one table of metrics: every name, kind, unit, help text and label.
//!
//! Owns the names; `exposition` writes exactly these and `docs/metrics.md` lists exactly these
//! (tests hold both to it). Names follow the rules of Prometheus: one prefix, base units, the unit
//! as suffix, `_total` for what is counted, and no label with an open set of values.

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Spread over buckets; on the wire `_bucket`, `_sum` and `_count` follow the name.
    Histogram,
    /// Always 1; what it says is in its labels. Its name ends in `_info`.
    Info,
}

impl Kind {
    /// The word of the `# TYPE` line, which the encoder writes by itself.
    #[cfg(test)]
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    /// What the name of a sample carries beyond the name of its family.
    fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram => "",
        }
    }
}

/// What one of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    Count,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    fn suffix(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Seconds => "_seconds",
            Self::Bytes => "_bytes",
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metric {
    /// The full name, as one types it into a query.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// What one of it is.
    pub unit: Unit,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

impl Metric {
    /// The name of the family: without `_total` and `_info`, which the text format adds to each
    /// sample.
    pub fn family(&self) -> &'static str {
        let name = self.name;
        name.strip_suffix(self.kind.suffix()).unwrap_or(name)
    }

    /// The family without its unit, which the text format adds as well.
    pub fn base(&self) -> &'static str {
        let family = self.family();
        family.strip_suffix(self.unit.suffix()).unwrap_or(family)
    }
}

macro_rules! table {
    ($(
        $constant:ident = $name:literal, $kind:ident of $unit:ident, $labels:expr, $help:literal;
    )*) => {
        $(
            #[doc = concat!("`", $name, "`: ", $help)]
            pub(super) const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: Unit::$unit,
                labels: &$labels,
                help: $help,
            };
        )*

        /// All metrics, in the order of the table.
        #[cfg(test)]
        pub(super) const ALL: &[Metric] = &[$($constant),*];
    };
}

table! {
    CONNECTIONS = "im_gateway_connections", Gauge of Count, ["core", "carrier"],
        "Open client connections, by what carries them.";
    SESSIONS_AUTHENTICATED = "im_gateway_sessions_authenticated", Gauge of Count, ["core"],
        "Connections that are logged in.";
    CONNECTIONS_ACCEPTED = "im_gateway_connections_accepted_total", Counter of Count, ["core"],
        "Connections taken from the listener.";
    HTTP_RESPONSES = "im_gateway_http_responses_total", Counter of Count, ["core", "status"],
        "HTTP requests of clients answered, WebSocket handshakes (101) among them.";
    CONNECTIONS_REFUSED = "im_gateway_connections_refused_total", Counter of Count, ["core", "reason"],
        "Connections turned away before they were served.";
    PREFACES = "im_gateway_prefaces", Gauge of Count, ["core"],
        "Connections taken from the listener of which it is not known yet what carries them.";
    PREFACES_FAILED = "im_gateway_prefaces_failed_total", Counter of Count, ["core", "reason"],
        "Connections that ended before their first request, by why.";
    TLS_HANDSHAKES = "im_gateway_tls_handshakes_total", Counter of Count, ["core"],
        "TLS handshakes of clients that were finished.";
    ACCEPT_ERRORS = "im_gateway_accept_errors_total", Counter of Count, ["core"],
        "Failures to take a connection from the listener, as when file descriptors run out.";
    CONNECTIONS_CLOSED = "im_gateway_connections_closed_total", Counter of Count, ["core", "reason"],
        "Connections that ended, by the one reason each ended for.";
    COMMANDS = "im_gateway_commands_total", Counter of Count, ["core", "command", "result"],
        "Commands answered with +OK (ok) or -ERR (error).";
    COMMAND_DURATION = "im_gateway_command_duration_seconds", Histogram of Seconds, ["core", "command"],
        "Time from a command to its reply, for commands that call a backend; a command appears with its first call.";
    ERRORS = "im_gateway_errors_total", Counter of Count, ["core", "code"],
        "Replies of -ERR, by code.";
    MESSAGES_RECEIVED = "im_gateway_messages_received_total", Counter of Count, ["core"],
        "Messages from clients that were stored.";
    MESSAGE_ID_CONFLICTS = "im_gateway_message_id_conflicts_total", Counter of Count, ["core"],
        "Ids this gateway made for messages that the store had for others; each message was sent again under another id.";
    MESSAGES_SENT = "im_gateway_messages_sent_total", Counter of Count, ["core"],
        "MSG and GMSG lines written to clients.";
    TRANSPORT_RECEIVED = "im_gateway_transport_received_bytes_total", Counter of Bytes, ["core"],
        "Bytes read from client sockets.";
    TRANSPORT_SENT = "im_gateway_transport_sent_bytes_total", Counter of Bytes, ["core"],
        "Bytes written to client sockets.";
    OUTBOX = "im_gateway_outbox_bytes", Gauge of Bytes, ["core"],
        "Bytes queued for clients and not yet taken by their sockets.";
    SLOW_CONSUMERS = "im_gateway_slow_consumers_total", Counter of Count, ["core"],
        "Connections closed because they did not read what was queued for them.";
    RATE_LIMITED = "im_gateway_rate_limited_total", Counter of Count, ["core", "scope"],
        "Times a client was slowed down or refused by a rate limit.";
    PROTOCOL_ERRORS = "im_gateway_protocol_errors_total", Counter of Count, ["core"],
        "Lines that break the protocol: malformed, unknown or too long.";
    PUSH_DROPPED = "im_gateway_push_dropped_total", Counter of Count, ["core", "reason"],
        "Pushes that arrived and were written to nobody, and messages handed out to somebody they are not for; the store still has them.";
    PUSH_GAPS = "im_gateway_push_gaps_total", Counter of Count, ["core"],
        "Holes in the numbering of pushes, each filled from the store.";
    PUSH_STEP_BACKS = "im_gateway_push_step_backs_total", Counter of Count, ["core"],
        "Times a stream was found to end before the last number pushed, or to have another message under it, and was gone through again: a push was forged, or an older database put back.";
    FANOUT_RECIPIENTS = "im_gateway_fanout_recipients", Histogram of Count, ["core"],
        "Connections of this core that one push went to.";
    BACKEND_RPC_ERRORS = "im_gateway_backend_rpc_errors_total", Counter of Count, ["core", "service", "code"],
        "Backend calls that brought no answer.";
    BACKEND_INFLIGHT = "im_gateway_backend_inflight", Gauge of Count, ["core"],
        "Backend calls waiting for their answer.";
    BACKEND_INSTANCES_UP = "im_gateway_backend_instances_up", Gauge of Count, ["core", "service"],
        "Instances of the service that this core can call: connected, and not left alone for their failures.";
    BACKEND_CONNECTIONS = "im_gateway_backend_connections", Gauge of Count, ["core"],
        "Open connections to backends in other processes.";
    BACKEND_RETRIES = "im_gateway_backend_retries_total", Counter of Count, ["core"],
        "Further attempts at backend calls that failed in passing.";
    BACKEND_STRAY_REPLIES = "im_gateway_backend_stray_replies_total", Counter of Count, ["core"],
        "Replies of backends that nobody waited for: late, repeated or wrongly numbered.";
    BACKEND_EJECTIONS = "im_gateway_backend_ejections_total", Counter of Count, ["core"],
        "Times a backend that failed again and again, or gave no sign of life, was left alone for a while.";
    BACKEND_HANDSHAKES_FAILED = "im_gateway_backend_handshakes_failed_total", Counter of Count, ["core"],
        "TLS handshakes with backends that failed.";
    BACKEND_BAD_NUMBERS = "im_gateway_backend_bad_numbers_total", Counter of Count, ["core"],
        "Numbers of groups in answers of services that are none, such as 0, and were left out.";
    USERS_WITHOUT_ROUTE = "im_gateway_users_without_route", Gauge of Count, ["core"],
        "Users who are logged in although Presence could not be told where; they get no pushes until it can.";
    BUS_CONNECTED = "im_gateway_bus_connected", Gauge of Count, ["core"],
        "1 while the core is subscribed to the push bus, else 0.";
    BUS_CONNECTIONS = "im_gateway_bus_connections_total", Counter of Count, ["core"],
        "Connections opened to Redis; once one is subscribed, what may have been missed is fetched.";
    CORE_QUEUE_DEPTH = "im_gateway_core_queue_depth", Gauge of Count, ["core"],
        "Replies and pushes from other threads that the core has not yet taken.";
    CORE_LOOP_STALL = "im_gateway_core_loop_stall_seconds", Gauge of Seconds, ["core"],
        "Longest turn of the core's loop in the last 15 to 30 seconds, with the flows that ran in it.";
    PANICS = "im_gateway_panics_total", Counter of Count, ["core"],
        "Panics caught while one connection, command or push was served.";
    STORE_COMMITS = "im_gateway_store_commits_total", Counter of Count, [],
        "Transactions committed to disk.";
    STORE_BATCH_MESSAGES = "im_gateway_store_batch_messages", Histogram of Count, [],
        "Messages stored by one transaction, of those that stored any.";
    STORE_COMMIT_DURATION = "im_gateway_store_commit_duration_seconds", Histogram of Seconds, [],
        "Time one commit took, its wait for the disk included.";
    STORE_ERRORS = "im_gateway_store_errors_total", Counter of Count, [],
        "Transactions that failed, as when the disk is full, and calls that failed alone.";
    STORE_PANICS = "im_gateway_store_panics_total", Counter of Count, [],
        "Calls to the store that panicked and were refused.";
    STORE_MESSAGES = "im_gateway_store_messages_total", Counter of Count, [],
        "Messages stored, direct and of groups, each once.";
    STORE_SWEPT_MESSAGES = "im_gateway_store_swept_messages_total", Counter of Count, [],
        "Messages deleted because all their readers had confirmed them long enough ago.";
    STORE_LOG = "im_gateway_store_log_bytes", Gauge of Bytes, [],
        "Length of the write-ahead log beside the database; it grows while a backup or another reader holds it.";
    CLOCK_STEPS = "im_gateway_clock_steps_total", Counter of Count, [],
        "Times the wall clock of this machine was set; only time stamps follow it.";
    STORE_QUEUE_DEPTH = "im_gateway_store_queue_depth", Gauge of Count, [],
        "Calls left waiting for the store when it last took a batch.";
    STORE_LOCK_WAIT = "im_gateway_store_lock_wait_seconds", Gauge of Seconds, [],
        "For how long another process has kept this one from writing to the database they share; 0: it does not.";
    PASSWORD_QUEUE_DEPTH = "im_gateway_password_queue_depth", Gauge of Count, [],
        "Logins and registrations waiting for a password to be hashed.";
    PASSWORDS_UNHASHED = "im_gateway_passwords_unhashed_total", Counter of Count, ["reason"],
        "Logins and registrations refused because there was no room to wait, or because their time was up before their turn.";
    RPC_CONNECTIONS = "im_gateway_rpc_connections", Gauge of Count, [],
        "Of a backend process: open connections of gateways.";
    RPC_CONNECTIONS_CLOSED = "im_gateway_rpc_connections_closed_total", Counter of Count, ["reason"],
        "Of a backend process: connections turned away or given up.";
    RPC_CALLS = "im_gateway_rpc_calls_total", Counter of Count, ["service", "outcome"],
        "Of a backend process: calls dealt with.";
    PUBLISHES = "im_gateway_publishes_total", Counter of Count, [],
        "Of a backend process: publishes that Redis took, each with one push or several.";
    PUBLISH_FAILURES = "im_gateway_publish_failures_total", Counter of Count, [],
        "Of a backend process: publishes that Redis refused or never answered.";
    PUSHES_UNPUBLISHED = "im_gateway_pushes_unpublished_total", Counter of Count, ["reason"],
        "Of a backend process: pushes not handed to Redis; gateways fetch the messages from the store.";
    PUBLISHER_CONNECTED = "im_gateway_publisher_connected", Gauge of Count, [],
        "Of a backend process: 1 while Redis takes publishes, else 0.";
    ZOOKEEPER_CONNECTED = "im_gateway_zookeeper_connected", Gauge of Count, [],
        "1 while there is a connection to ZooKeeper, else 0.";
    ZOOKEEPER_REGISTERED = "im_gateway_zookeeper_registered", Gauge of Count, [],
        "1 while this process is registered in ZooKeeper, as far as is known, else 0.";
    ZOOKEEPER_SESSIONS = "im_gateway_zookeeper_sessions_total", Counter of Count, [],
        "Sessions begun with ZooKeeper; each after the first follows one that was lost.";
    DISCOVERY_INSTANCES = "im_gateway_discovery_instances", Gauge of Count, ["service"],
        "Backend instances known.";
    DISCOVERY_BAD_RECORDS = "im_gateway_discovery_bad_records", Gauge of Count, [],
        "Nodes under the services in ZooKeeper that cannot be read as an instance and are left out.";
    LOG_LINES_DROPPED = "im_gateway_log_lines_dropped_total", Counter of Count, [],
        "Lines of the log lost because standard error was not read, or could not be written to.";
    READY = "im_gateway_ready", Gauge of Count, [],
        "1 while /readyz answers 200, else 0.";
    BUILD_INFO = "im_gateway_build_info", Info of Count, ["version"],
        "The version that runs.";
    PROCESS_CPU = "process_cpu_seconds_total", Counter of Seconds, [],
        "CPU time used, user and system.";
    PROCESS_RESIDENT_MEMORY = "process_resident_memory_bytes", Gauge of Bytes, [],
        "Resident memory.";
    PROCESS_OPEN_FDS = "process_open_fds", Gauge of Count, [],
        "Open file descriptors.";
    PROCESS_MAX_FDS = "process_max_fds", Gauge of Count, [],
        "File descriptors the process may open.";
    CERTIFICATE_EXPIRY = "im_gateway_certificate_expiry_timestamp_seconds", Gauge of Seconds, ["file"],
        "Until when the first certificate in a file in use is good, in seconds since the Unix epoch.";
    PROCESS_START_TIME = "process_start_time_seconds", Gauge of Seconds, [],
        "When the process started, in seconds since the Unix epoch.";
}

/// Metrics that had another name in the last release, with that name. They are written under both
/// until the next one, unless `metrics.old_names` is false. No histogram is among them.
pub(super) const RENAMED: &[(Metric, &str)] = &[(
    RPC_CONNECTIONS_CLOSED,
    "im_gateway_rpc_connections_parted_total",
)];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const DOCUMENT: &str = include_str!("../../docs/metrics.md");

    #[test]
    fn names_follow_the_naming_rules() {
        let mut seen = HashSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(seen.insert(name), "{name} twice");
            assert!(
                name.starts_with("im_gateway_") || name.starts_with("process_"),
                "{name}"
            );
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{name}"
            );
            assert_eq!(
                name.matches("_total").count(),
                usize::from(metric.kind == Kind::Counter),
                "{name}"
            );
            assert_eq!(
                format!(
                    "{}{}{}",
                    metric.base(),
                    metric.unit.suffix(),
                    metric.kind.suffix()
                ),
                name
            );
            assert_eq!(
                metric.unit == Unit::Seconds,
                name.contains("_seconds"),
                "{name}"
            );
            assert_eq!(
                metric.unit == Unit::Bytes,
                name.contains("_bytes"),
                "{name}"
            );
            assert!(
                metric.help.ends_with('.') && !metric.help.contains(['\n', '\\', '"']),
                "{name}"
            );
        }
    }

    #[test]
    fn old_names_are_nobodys_now_and_are_documented() {
        for (metric, old_name) in RENAMED {
            assert!(ALL.iter().all(|other| other.name != *old_name));
            assert!(old_name.ends_with(metric.kind.suffix()) && metric.kind != Kind::Histogram);
            let sentence = format!("`{old_name}`: now `{}`", metric.name);
            assert!(DOCUMENT.contains(&sentence), "docs/metrics.md: {sentence}");
        }
    }

    #[test]
    fn the_document_lists_exactly_these_metrics() {
        let documented: Vec<Vec<String>> = DOCUMENT
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| {
                line.trim_matches('|')
                    .split('|')
                    .map(|cell| cell.trim().replace('`', ""))
                    .collect()
            })
            .collect();
        let expected: Vec<Vec<String>> = ALL
            .iter()
            .map(|metric| {
                vec![
                    metric.name.to_owned(),
                    metric.kind.word().to_owned(),
                    metric.labels.join(", "),
                    metric.help.to_owned(),
                ]
            })
            .collect();
        assert_eq!(documented, expected);
    }
}
