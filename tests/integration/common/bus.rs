//! A test's own hand on Redis: publishes what publishers publish and what they should not.

use im_gateway::proto::PushMessage;
use prost::Message;

use crate::redis_server::RedisServer;

/// One connection.
pub struct Bus {
    connection: redis::Connection,
}

impl Bus {
    /// Connects.
    pub fn connect(server: &RedisServer) -> Self {
        let client = redis::Client::open(server.url()).expect("an address");
        Self {
            connection: client.get_connection().expect("Redis answers"),
        }
    }

    /// Publishes bytes as they are; how many connections got them.
    pub fn publish(&mut self, channel: &str, payload: &[u8]) -> u64 {
        redis::cmd("PUBLISH")
            .arg(channel)
            .arg(payload)
            .query(&mut self.connection)
            .expect("PUBLISH")
    }

    /// Publishes a push; how many connections got it.
    pub fn push(&mut self, channel: &str, push: &PushMessage) -> u64 {
        self.publish(channel, &push.encode_to_vec())
    }

    /// The value of a key, if it is there.
    pub fn get(&mut self, key: &str) -> Option<String> {
        redis::cmd("GET")
            .arg(key)
            .query(&mut self.connection)
            .expect("GET")
    }
}
