//! Users to log in with: real accounts, and tokens for users nobody has registered.
//!
//! An Argon2id hash costs some 15 ms by design, so real accounts are made once a run, only as many
//! as must be found in the store. Tokens are signed here with the gateway's own secret, as any
//! other holder of it could.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::swarm::{Progress, Swarm, count_lines};

/// A user and what logs it in.
pub struct Account {
    /// The user's number.
    pub user_id: u64,
    /// What `auth` takes.
    pub token: String,
}

impl Account {
    /// The line that logs this account in.
    pub fn auth_line(&self) -> Vec<u8> {
        format!("auth:{}\n", self.token).into_bytes()
    }
}

/// Connections that register at a time: more than password threads, far less than the password
/// queue holds.
const REGISTERING_AT_ONCE: usize = 32;

/// Registers `count` users, each on a connection it shares with a few others, one after another.
pub fn register(address: SocketAddr, count: usize) -> Result<Vec<Account>> {
    let mut swarm = Swarm::connect(
        address,
        REGISTERING_AT_ONCE.min(count),
        1,
        |_| Vec::new(),
        |_, _| Ok(()),
    )?;
    let mut accounts: Vec<Account> = Vec::with_capacity(count);
    let mut registered: Vec<Option<u64>> = vec![None; swarm.len()];
    let mut next = 0;
    // Each connection has one line in flight: a registration, then a refresh, then the next
    // registration, which moves it on to that account. A logout would end the session, and its
    // token with it.
    let mut begin = || {
        let number = next;
        next += 1;
        (number < count).then(|| format!("REGISTER bench-{number} bench-password\n").into_bytes())
    };
    for index in 0..swarm.len() {
        if let Some(line) = begin() {
            swarm.send(index, &line)?;
        }
    }
    // `run_until` gives up after a minute; hashing may take longer than that on one slow core,
    // while anything comes it goes on.
    while accounts.len() < count {
        let before = accounts.len();
        let mut answers: Vec<(usize, Vec<u8>)> = Vec::new();
        swarm.run_until("a registration is answered", |progress| {
            if let Progress::Lines(index, lines) = progress {
                let text = std::str::from_utf8(lines)?.trim_end();
                if let Some(user_id) = registered[index].take() {
                    let token = field(text, "token=")?.to_owned();
                    accounts.push(Account { user_id, token });
                    answers.extend(begin().map(|line| (index, line)));
                } else {
                    registered[index] = Some(field(text, "uid=")?.parse()?);
                    answers.push((index, b"refresh\n".to_vec()));
                }
            }
            Ok(!answers.is_empty() || accounts.len() > before)
        })?;
        for (index, line) in answers {
            swarm.send(index, &line)?;
        }
    }
    Ok(accounts)
}

/// The value behind `name` in a reply.
fn field<'a>(reply: &'a str, name: &str) -> Result<&'a str> {
    let value = reply.split(' ').find_map(|word| word.strip_prefix(name));
    value.with_context(|| format!("a registration was answered: {reply}"))
}

#[derive(Serialize)]
struct Claims {
    iss: &'static str,
    sub: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    typ: &'static str,
}

/// The first number of the users written to the store: far from any the store has given out.
const FIRST_WRITTEN: u64 = 1_000_000_000;

/// Puts `count` users into the store under `data_directory`, which no process may have open, and
/// makes their tokens.
///
/// Registering them would hash as many passwords; these users have none that could ever match.
pub fn written_to_store(data_directory: &Path, count: usize) -> Result<Vec<Account>> {
    let mut store = rusqlite::Connection::open(data_directory.join("im-gateway.db"))?;
    let transaction = store.transaction()?;
    {
        let mut insert = transaction.prepare(
            "INSERT OR IGNORE INTO users (user_id, name, password_hash, created_ms) VALUES (?1, ?2, '', 0)",
        )?;
        for number in 0..count as u64 {
            let user_id = i64::try_from(FIRST_WRITTEN + number)?;
            insert.execute((user_id, format!("written-{number}")))?;
        }
    }
    transaction.commit()?;
    drop(store);
    tokens(data_directory, count)
}

/// Tokens for the users of [`written_to_store`], signed with the gateway's own secret.
fn tokens(data_directory: &Path, count: usize) -> Result<Vec<Account>> {
    let path = data_directory.join("token.secret");
    let secret =
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let key = EncodingKey::from_secret(&decode_hex(secret.trim())?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    (0..count as u64)
        .map(|number| {
            let user_id = FIRST_WRITTEN + number;
            let claims = Claims {
                iss: "im-gateway",
                sub: user_id.to_string(),
                iat: now,
                nbf: now,
                exp: now + 24 * 3600,
                jti: format!("bench-{number}"),
                typ: "access",
            };
            let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?;
            Ok(Account { user_id, token })
        })
        .collect()
}

fn decode_hex(text: &str) -> Result<Vec<u8>> {
    ensure!(
        text.len().is_multiple_of(2) && text.is_ascii(),
        "a secret in hex has an even number of digits"
    );
    (0..text.len())
        .step_by(2)
        .map(|start| {
            u8::from_str_radix(&text[start..start + 2], 16).context("the secret is not hex")
        })
        .collect()
}

/// Opens one connection for each account and logs it in.
pub fn log_in(address: SocketAddr, accounts: &[Account]) -> Result<Swarm> {
    log_in_each(|_| address, accounts)
}

/// The same, each account at the address of its own.
pub fn log_in_each(address: impl Fn(usize) -> SocketAddr, accounts: &[Account]) -> Result<Swarm> {
    // The welcome, then the reply to `auth`.
    let mut seen = vec![0_usize; accounts.len()];
    Swarm::connect_each(
        address,
        accounts.len(),
        2,
        |index| accounts[index].auth_line(),
        |index, lines| {
            let refused = lines
                .split(|byte| *byte == b'\n')
                .find(|line| !line.is_empty() && !line.starts_with(b"+OK "));
            if let Some(line) = refused {
                anyhow::bail!(
                    "logging in user {}: {}",
                    accounts[index].user_id,
                    String::from_utf8_lossy(line)
                );
            }
            seen[index] += count_lines(lines);
            ensure!(
                seen[index] <= 2,
                "user {} got a line too many: {}",
                accounts[index].user_id,
                String::from_utf8_lossy(lines)
            );
            Ok(())
        },
    )
}
