//! Asking the cores how they are, on SIGUSR1.
//!
//! Owns the question and how long an answer may take. A core answers between two turns of its loop,
//! so one that does not answer is as telling as one that does.

use std::{sync::Arc, time::Duration};

use log::{info, warn};
use tokio::{signal::unix::Signal, sync::oneshot, time::timeout};

use crate::handoff::{event::CoreEvent, inbox::Inbox};

/// A core that works comes round within milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// The inboxes of all cores, in their order; none in a backend process.
pub type Cores = Vec<Arc<Inbox<CoreEvent>>>;

/// Logs what the cores say each time that `signal` comes.
pub(super) async fn report_on(mut signal: Signal, cores: Cores) {
    while signal.recv().await.is_some() {
        if cores.is_empty() {
            warn!("SIGUSR1: this process has no cores to ask");
        }
        for line in ask(&cores, PATIENCE).await {
            info!("SIGUSR1: {line}");
        }
    }
}

/// What each core says of itself. All are asked at once, and have `patience` together.
pub(super) async fn ask(cores: &Cores, patience: Duration) -> Vec<String> {
    let answers = cores.iter().map(|inbox| {
        let (sender, answer) = oneshot::channel();
        inbox.push_all([CoreEvent::Ask(sender)]);
        answer
    });
    let mut answers: Vec<_> = answers.collect();
    assert_eq!(answers.len(), cores.len(), "each core is asked once");
    let mut lines = vec![None; answers.len()];
    let all = async {
        for (line, answer) in lines.iter_mut().zip(&mut answers) {
            *line = Some(match answer.await {
                Ok(summary) => summary.to_string(),
                Err(_) => "it has ended".to_owned(),
            });
        }
    };
    // Whoever has not answered by then has no line.
    let _ = timeout(patience, all).await;
    let silent = || format!("no answer within {} ms", patience.as_millis());
    let lines = lines.into_iter().enumerate();
    lines
        .map(|(core, line)| format!("core {core}: {}", line.unwrap_or_else(silent)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::event::CoreSummary;

    fn inbox() -> Arc<Inbox<CoreEvent>> {
        Arc::new(Inbox::new(16).expect("a descriptor"))
    }

    /// The question in the inbox.
    fn question(inbox: &Inbox<CoreEvent>) -> oneshot::Sender<CoreSummary> {
        let mut events = Vec::new();
        inbox.take_all(&mut events);
        match events.pop() {
            Some(CoreEvent::Ask(answer)) if events.is_empty() => answer,
            other => panic!("one question, and not {other:?}"),
        }
    }

    #[test]
    fn each_core_is_asked_and_one_that_is_silent_or_gone_is_named() {
        let runtime = super::super::runtime().expect("a runtime");
        let cores = vec![inbox(), inbox(), inbox()];
        let asking = cores.clone();
        let lines = runtime.block_on(async {
            let asked = tokio::spawn(async move { ask(&asking, Duration::from_millis(50)).await });
            tokio::task::yield_now().await;
            let summary = CoreSummary {
                connections: 3,
                users: 2,
                groups: 1,
                flows: 0,
            };
            question(&cores[0]).send(summary).expect("somebody waits");
            drop(question(&cores[1]));
            asked.await.expect("no panic")
        });
        assert_eq!(
            lines,
            [
                "core 0: 3 connections, 2 users, 1 groups, 0 flows under way",
                "core 1: it has ended",
                "core 2: no answer within 50 ms",
            ]
        );
    }
}
