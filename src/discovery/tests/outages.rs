//! ZooKeeper goes away and comes back. Each test has a server of its own.

use super::*;

const NODE: &str = "/im-gateway/instances/gw";

#[test]
fn gateway_and_backend_wait_for_a_zookeeper_that_is_not_there_yet() {
    let mut server = Zookeeper::start();
    let hosts = server.hosts("/im");
    server.kill_9();
    run(async {
        let gateway = Gateway::start(watch_options(&hosts, "gw"));
        let backend = Backend::start(&hosts, 5001);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(gateway.status.sessions() == 0 && gateway.events.borrow().is_empty());
        assert!(!backend.status.is_registered());
        server.restart();
        eventually("they find each other", || {
            gateway.ports(Service::User) == [5001]
        })
        .await;
        assert!(gateway.status.is_registered());
        eventually("every node is there", || backend.status.is_registered()).await;
        backend.stop().await;
        gateway.stop().await;
    });
}

#[test]
fn a_short_outage_takes_nothing_away() {
    let mut server = Zookeeper::start();
    let hosts = server.hosts("");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        let backend = Backend::registered(&hosts, 5001).await;
        eventually("found", || gateway.ports(Service::User) == [5001]).await;
        let numbers = gateway.worker_numbers();
        server.kill_9();
        eventually("the loss is seen", || !gateway.status.is_connected()).await;
        assert_eq!(gateway.ports(Service::User), [5001]);
        server.restart();
        eventually("connected again", || {
            gateway.status.is_connected() && backend.status.is_connected()
        })
        .await;
        eventually("registered again", || {
            gateway.status.is_registered() && backend.status.is_registered()
        })
        .await;
        let stranger = Stranger::connect(&hosts).await;
        assert!(stranger.owner(NODE).await.is_some());
        // Event still comes.
        stranger
            .put("/UserService/instances/b", &record(5002))
            .await;
        eventually("a new one is found", || {
            gateway.ports(Service::User) == [5001, 5002]
        })
        .await;
        assert!(!gateway.ever_lost(Service::User) && !gateway.ever_lost(Service::Message));
        assert_eq!(gateway.worker_numbers(), numbers);
        backend.stop().await;
        gateway.stop().await;
    });
}

#[test]
fn when_all_sessions_end_together_everybody_comes_back_and_no_instance_is_lost_meanwhile() {
    let server = Zookeeper::start();
    let hosts = server.hosts("/im");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        let backend = Backend::registered(&hosts, 5001).await;
        eventually("found", || gateway.ports(Service::User) == [5001]).await;
        let numbers = gateway.worker_numbers();
        server.pause();
        eventually("the sessions are given up", || {
            gateway.status.expirations() > 0 && backend.status.expirations() > 0
        })
        .await;
        assert_eq!(gateway.ports(Service::User), [5001]);
        server.resume();
        eventually("registered again", || {
            gateway.status.is_registered() && backend.status.is_registered()
        })
        .await;
        let stranger = Stranger::connect(&hosts).await;
        let start = Instant::now();
        // Long enough for the server to drop whatever was left of the old sessions.
        while start.elapsed() < SESSION_TIMEOUT * 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(gateway.ports(Service::User), [5001]);
        }
        assert!(stranger.owner(NODE).await.is_some());
        assert_eq!(stranger.children("/UserService/instances").await.len(), 1);
        assert_eq!(
            stranger.children("/im-gateway/workers").await.len(),
            numbers.len()
        );
        assert_eq!(gateway.worker_numbers(), numbers);
        assert!(!gateway.ever_lost(Service::User));
        assert!(gateway.status.sessions() >= 2);
        backend.stop().await;
        gateway.stop().await;
    });
}

#[test]
fn instances_that_answer_outlive_an_outage_that_ends_their_sessions() {
    let mut server = Zookeeper::start();
    let hosts = server.hosts("");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        // A backend that is slow to register again, as MPIM's are.
        let slow = Stranger::with_session_timeout(&hosts, Duration::from_secs(1)).await;
        slow.put("/UserService/Login", b"127.0.0.1:8010").await;
        eventually("found", || gateway.ports(Service::User) == [8010]).await;
        server.kill_9();
        drop(slow);
        eventually("the session is given up", || {
            gateway.status.expirations() > 0
        })
        .await;
        server.restart();
        eventually("registered again", || gateway.status.is_registered()).await;
        let stranger = Stranger::connect(&hosts).await;
        let start = Instant::now();
        while stranger.owner("/UserService/Login").await.is_some() {
            assert!(start.elapsed() < DEADLINE, "the old node stays");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(gateway.ports(Service::User), [8010]);
        stranger.put("/UserService/Login", b"127.0.0.1:8011").await;
        eventually("the one that is back", || {
            gateway.ports(Service::User) == [8011]
        })
        .await;
        gateway.stop().await;
    });
}

/// Everything below `path`, and itself.
async fn delete_all(client: &zk::Client, path: &str) {
    // What comes back meanwhile is left.
    for child in client.list_children(path).await.unwrap_or_default() {
        Box::pin(delete_all(client, &format!("{path}/{child}"))).await;
    }
    let _ = client.delete(path, None).await;
}

#[test]
fn a_root_that_is_deleted_is_made_again_with_everything_below_it() {
    let server = Zookeeper::start();
    let hosts = server.hosts("/deep/root");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        let backend = Backend::registered(&hosts, 5001).await;
        eventually("found", || gateway.ports(Service::User) == [5001]).await;
        let top = Stranger::connect(&server.hosts("")).await;
        delete_all(&top.0, "/deep").await;
        let nodes = [
            "/deep/root/im-gateway/instances/gw",
            "/deep/root/UserService/Login",
        ];
        let start = Instant::now();
        for node in nodes {
            while top.owner(node).await.is_none() {
                assert!(start.elapsed() < DEADLINE, "{node} does not come back");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        eventually("registered again", || {
            gateway.status.is_registered() && backend.status.is_registered()
        })
        .await;
        assert_eq!(gateway.status.trouble(), None);
        assert_eq!(gateway.status.sessions(), 1, "all within one session");
        // The gateway still hears of what is new.
        let stranger = Stranger::connect(&hosts).await;
        stranger
            .put("/UserService/instances/b", &record(5002))
            .await;
        eventually("a new one is found", || {
            gateway.ports(Service::User) == [5001, 5002]
        })
        .await;
        assert!(!gateway.ever_lost(Service::User));
        backend.stop().await;
        gateway.stop().await;
    });
}

#[test]
fn a_stop_while_zookeeper_is_away_does_not_hang() {
    let mut server = Zookeeper::start();
    let hosts = server.hosts("");
    run(async {
        let gateway = Gateway::ready(&hosts, "gw").await;
        let backend = Backend::registered(&hosts, 5001).await;
        server.kill_9();
        let start = Instant::now();
        gateway.stop().await;
        backend.stop().await;
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    });
}
