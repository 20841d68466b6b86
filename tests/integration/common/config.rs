//! A configuration file in the making, for a gateway or a backend process.

use std::path::{Path, PathBuf};

/// Starts with free ports and a directory of its own.
pub struct Config {
    table: toml::Table,
}

impl Config {
    /// One core, free ports, everything kept in `data_directory`.
    pub fn new(data_directory: &Path) -> Self {
        let mut config = Self {
            table: toml::Table::new(),
        };
        config
            .set("gateway_service", "port", 0)
            .set("gateway_service", "thread_count", 1)
            .set("gateway_service", "gateway_id", "test-gateway")
            .set(
                "gateway_service",
                "data_dir",
                data_directory.display().to_string(),
            )
            .set("gateway_service", "drain_timeout", "10s")
            .set("ops", "listen", "127.0.0.1:0")
            .set("web", "listen", "off");
        config
    }

    /// Takes over the keys of a file that are not set here already.
    pub fn fill_from(&mut self, path: &Path) -> &mut Self {
        let text = std::fs::read_to_string(path).expect("read a configuration");
        let table: toml::Table = text.parse().expect("a configuration parses");
        for (section, keys) in table {
            for (key, value) in keys.as_table().expect("only sections").clone() {
                let present = self.table.get(&section).and_then(|keys| keys.get(&key));
                if present.is_none() {
                    self.set(&section, &key, value);
                }
            }
        }
        self
    }

    /// Sets one key.
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<toml::Value>) -> &mut Self {
        let section = self
            .table
            .entry(section)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let toml::Value::Table(keys) = section {
            keys.insert(key.to_string(), value.into());
        }
        self
    }

    /// Adds a listener on a free port.
    pub fn listener(&mut self, name: &str, carriers: &[&str]) -> &mut Self {
        let mut table = toml::Table::new();
        table.insert("address".to_owned(), "127.0.0.1:0".into());
        table.insert("carriers".to_owned(), carriers.to_vec().into());
        self.set("listener", name, table)
    }

    /// Adds one that takes proxies on this machine alone.
    pub fn proxied_listener(&mut self, name: &str, carriers: &[&str]) -> &mut Self {
        self.listener(name, carriers);
        let table = self.table["listener"][name].as_table_mut();
        let proxied = toml::Value::from("required");
        table
            .expect("a table")
            .insert("proxy_protocol".to_owned(), proxied);
        self.limit("trusted_proxies", vec!["127.0.0.1"])
    }

    /// Where everything is kept.
    pub fn data_directory(&self) -> PathBuf {
        let data_dir = &self.table["gateway_service"]["data_dir"];
        PathBuf::from(data_dir.as_str().expect("a text"))
    }

    /// One key of `[limits]`.
    pub fn limit(&mut self, key: &str, value: impl Into<toml::Value>) -> &mut Self {
        self.set("limits", key, value)
    }

    /// The number of cores.
    pub fn cores(&mut self, count: i64) -> &mut Self {
        self.set("gateway_service", "thread_count", count)
    }

    /// No address is exempt from the limits that count by address or rate.
    pub fn nobody_exempt(&mut self) -> &mut Self {
        self.limit("limit_exempt", toml::Value::Array(Vec::new()))
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.table.to_string()).expect("write the configuration");
    }
}
