//! A reader of push lines that is independent of the gateway's own code.

/// One `MSG`, `GMSG`, `NOTICE` or `KICK` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The first word.
    pub kind: String,
    /// The fields in their order, `text` included.
    pub fields: Vec<(String, String)>,
}

impl Push {
    /// Reads a line; `None` if it is not a push. Panics if it is one and breaks the grammar.
    pub fn parse(line: &str) -> Option<Self> {
        let (kind, mut rest) = line.split_once(' ')?;
        if !["MSG", "GMSG", "NOTICE", "KICK"].contains(&kind) {
            return None;
        }
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let (key, after) = rest
                .split_once('=')
                .unwrap_or_else(|| panic!("no key=value in {line:?}"));
            assert!(
                !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "key {key:?} in {line:?}"
            );
            let (value, next) = match key {
                "text" => (after, ""),
                _ => after.split_once(' ').unwrap_or((after, "")),
            };
            fields.push((key.to_string(), value.to_string()));
            rest = next;
        }
        Some(Self {
            kind: kind.to_string(),
            fields,
        })
    }

    /// The value of a field, if it is there.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a numeric field.
    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        match self.get(key).and_then(|value| value.parse().ok()) {
            Some(number) => number,
            None => panic!("no number {key}= in {self:?}"),
        }
    }

    /// The message id.
    #[track_caller]
    pub fn id(&self) -> u64 {
        self.number("id")
    }

    /// The text as it travelled.
    #[track_caller]
    pub fn text(&self) -> &str {
        match self.get("text") {
            Some(text) => text,
            None => panic!("no text= in {self:?}"),
        }
    }

    /// Whether it is marked as a repeat.
    pub fn is_dup(&self) -> bool {
        self.get("dup") == Some("1")
    }

    /// The names of the fields, in order.
    pub fn keys(&self) -> Vec<&str> {
        self.fields.iter().map(|(name, _)| name.as_str()).collect()
    }
}
