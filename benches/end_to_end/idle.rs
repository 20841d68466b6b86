//! Very many logged-in connections that do nothing: what each costs in memory, and all together in
//! CPU.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{
    account::{self, Account},
    process,
    report::{Report, Row, Sample, Target},
    server::{GatewayOptions, Server},
    setup::Setup,
};

/// The promise, in KiB of resident memory for each connection.
const MEMORY_LIMIT_KIB: f64 = 1.5;
/// The promise, in percent of one core for all connections.
const CPU_LIMIT_PERCENT: f64 = 1.0;
/// After the last login: what was put off (confirmations, timers of the login) happens now.
const SETTLE: Duration = Duration::from_secs(2);
/// Descriptors this process and the gateway need beside the connections.
const SPARE_FILES: u64 = 500;

/// Measures a gateway of its own, so that nothing earlier has grown its heap.
pub fn measure(setup: &Setup, registered: &[Account], report: &mut Report) -> Result<()> {
    let possible = process::raise_file_limit()?.saturating_sub(SPARE_FILES) as usize;
    let count = setup.idle_connections.min(possible);
    let accounts = account::written_to_store(&setup.directory.join("data"), count)?;
    let gateway = Server::gateway(&GatewayOptions {
        cores: &[setup.server_core],
        thread_count: 1,
        password_threads: 1,
        data_directory: &setup.directory,
    })?;

    // One connection first: whatever is set up once must not be counted for each.
    let mut first = account::log_in(gateway.address, &registered[..1])?;
    first.idle(SETTLE)?;
    let empty_bytes = process::resident_bytes(gateway.process_id())?;
    let start = Instant::now();
    let mut swarm = account::log_in(gateway.address, &accounts)?;
    let log_in_time = start.elapsed();
    swarm.idle(SETTLE)?;
    let full_bytes = process::resident_bytes(gateway.process_id())?;

    let before = gateway.cpu()?;
    let start = Instant::now();
    swarm.idle(setup.idle_duration)?;
    let used = gateway.cpu()?.since(&before);
    let percent = used.total_ns() as f64 / start.elapsed().as_nanos() as f64 * 100.0;

    let kib = |bytes: u64| bytes as f64 / 1024.0;
    report.add(Row {
        name: format!("memory per idle logged-in connection, {count} connections"),
        unit: "KiB",
        digits: 2,
        sample: Sample::new(vec![kib(full_bytes.saturating_sub(empty_bytes)) / count as f64]),
        target: Target::AtMost(MEMORY_LIMIT_KIB),
        note: format!(
            "resident {:.1} MiB with one connection, {:.1} MiB with all; everything divided by connections: {:.2} KiB; \
             {:.0} logins/s by token",
            kib(empty_bytes) / 1024.0,
            kib(full_bytes) / 1024.0,
            kib(full_bytes) / count as f64,
            count as f64 / log_in_time.as_secs_f64()
        ),
    });
    report.add(Row {
        name: format!("idle CPU, {count} connections"),
        unit: "% of a core",
        digits: 2,
        sample: Sample::new(vec![percent]),
        target: Target::AtMost(CPU_LIMIT_PERCENT),
        note: format!("over {:?}; threads: {}", setup.idle_duration, used.shares()),
    });
    // Not drained: the connections would only be told so one by one.
    drop(gateway);
    Ok(())
}
