//! Sessions that claim the same node: what one of them judged may be gone when it acts.

use std::pin::pin;

use futures_lite::future::poll_once;

use super::*;
use crate::discovery::{
    registry::{Owner, Registry, RegistryError, Session, Version},
    zookeeper::{self, ZookeeperSession},
};

const NODE: &str = "/im-gateway/workers/7";

/// Runs `test` with two sessions below a root of their own and a stranger who sees what they do.
fn with_sessions(root: &str, test: impl AsyncFnOnce(ZookeeperSession, ZookeeperSession, Stranger)) {
    let server = shared();
    let hosts = server.hosts(root);
    run(async {
        let status = Discovery::default();
        let mut connections =
            [(); 2].map(|()| zookeeper::Zookeeper::new(&hosts, SESSION_TIMEOUT, &status));
        let [first, second] = &mut connections;
        let sessions = (first.begin().await, second.begin().await);
        let stranger = Stranger::connect(&hosts).await;
        test(sessions.0, sessions.1, stranger).await;
        for connection in connections {
            connection.close().await;
        }
    });
}

/// Lets the stranger have the node, as somebody who has died.
async fn leave(stranger: &Stranger, session: &impl Session) -> Version {
    stranger.put(NODE, b"dead").await;
    let found = session.read(NODE).await.expect("an answer");
    found.expect("the node").version
}

async fn is_of(session: &impl Session) -> bool {
    let found = session.read(NODE).await.expect("an answer");
    found.is_some_and(|entry| entry.owner == Owner::Us)
}

#[test]
fn of_two_that_replace_a_node_at_once_one_succeeds() {
    with_sessions("/both-replace", async |first, second, stranger| {
        for round in 0..20 {
            let seen = leave(&stranger, &first).await;
            let (of_first, of_second) = tokio::join!(
                first.claim(NODE, Some(seen), b"1"),
                second.claim(NODE, Some(seen), b"2")
            );
            let outcomes = (of_first.expect("an answer"), of_second.expect("an answer"));
            assert!(outcomes.0 != outcomes.1, "round {round}: {outcomes:?}");
            assert_eq!(is_of(&first).await, outcomes.0);
            assert_eq!(is_of(&second).await, outcomes.1);
            stranger.delete(NODE).await;
        }
    });
}

#[test]
fn a_node_that_was_created_after_the_judgement_is_left_alone() {
    with_sessions("/late-replace", async |first, second, stranger| {
        // How far the first one has come when the node vanishes and the second one takes it.
        for steps in 0..3 {
            let seen = leave(&stranger, &first).await;
            let mut late = pin!(first.claim(NODE, Some(seen), b"1"));
            for _ in 0..steps {
                assert!(poll_once(&mut late).await.is_none());
                // The answer to this step comes meanwhile.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            stranger.delete(NODE).await;
            assert!(second.claim(NODE, None, b"2").await.expect("an answer"));
            assert!(!late.await.expect("an answer"), "after {steps} steps");
            assert!(is_of(&second).await, "after {steps} steps");
            stranger.delete(NODE).await;
        }
    });
}

#[test]
fn of_two_that_create_a_node_at_once_one_succeeds() {
    with_sessions("/both-create", async |first, second, stranger| {
        first.ensure("/im-gateway/workers").await.expect("made");
        for round in 0..20 {
            let (of_first, of_second) = tokio::join!(
                first.claim(NODE, None, b"1"),
                second.claim(NODE, None, b"2")
            );
            let outcomes = (of_first.expect("an answer"), of_second.expect("an answer"));
            assert!(outcomes.0 != outcomes.1, "round {round}: {outcomes:?}");
            stranger.delete(NODE).await;
        }
    });
}

#[test]
fn without_the_parent_a_claim_is_an_error_and_not_a_race() {
    with_sessions("/no-parent", async |first, _, _| {
        let claimed = first.claim("/nowhere/7", None, b"1").await;
        assert_eq!(claimed, Err(RegistryError::NoFolder));
    });
}
