//! Users: accounts, names, contacts. Passwords are checked by the pool in `password`; here are only their rows.
//!
//! Invariants: a name belongs to one user for ever; a friend list is directed and bounded; a wrong password and an unknown user
//! look the same.

use rusqlite::{ErrorCode, OptionalExtension, params};

use super::{
    engine::{Engine, ok},
    password::{Task, Verdict},
    store::Failure,
};
use crate::{
    backend::Response,
    id::UserId,
    proto::{self, Code},
};

/// Longest name of a user, in bytes.
const NAME_BYTES: usize = 64;
/// Shortest and longest password, in bytes.
const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 6..=128;
/// Longest friend list: its reply must stay one line.
const FRIENDS_LIMIT: u32 = 1000;
/// Most users a search answers.
const SEARCH_LIMIT: u32 = 20;

const WRONG: Failure = Failure::Refused(Code::Unauthenticated, "wrong user name or password");

fn valid_name(bytes: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(bytes).ok()?;
    let fits = (1..=NAME_BYTES).contains(&name.len());
    let is_plain = !name
        .chars()
        .any(|c| c.is_whitespace() || c.is_control() || c == ':' || c == ',');
    (fits && is_plain).then_some(name)
}

impl Engine {
    pub(super) fn login(&mut self, request: &proto::LoginRequest) -> Result<Task, Failure> {
        let account = match valid_name(&request.username) {
            Some(name) => self
                .store
                .read()
                .prepare_cached("SELECT user_id, password_hash FROM users WHERE name = ?1")?
                .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?,
            None => None,
        };
        // An absurdly long password is as wrong as any, and costs no more.
        let password_bytes = request.password.len().min(PASSWORD_BYTES.end() + 1);
        Ok(Task::Verify {
            account,
            password: request.password[..password_bytes].to_vec(),
        })
    }

    pub(super) fn register(&mut self, request: &proto::RegisterRequest) -> Result<Task, Failure> {
        let name = valid_name(&request.username).ok_or(Failure::Refused(
            Code::Invalid,
            "a user name is 1 to 64 bytes without spaces, control characters, ':' or ','",
        ))?;
        if !PASSWORD_BYTES.contains(&request.password.len()) {
            return Err(Failure::Refused(
                Code::Invalid,
                "a password is 6 to 128 bytes",
            ));
        }
        let taken = self
            .store
            .read()
            .prepare_cached("SELECT 1 FROM users WHERE name = ?1")?
            .exists([name])?;
        if taken {
            return Err(Failure::Refused(Code::AlreadyExists, "the name is taken"));
        }
        Ok(Task::Hash {
            name: name.to_owned(),
            password: request.password.clone(),
        })
    }

    /// Answers what the password pool has decided.
    pub(super) fn judged(&mut self, verdict: &Verdict) -> Result<Response, Failure> {
        match verdict {
            Verdict::Login(Some(user_id)) => Ok(Response::Login(proto::LoginResponse {
                result: ok(),
                user_id: *user_id,
                token: String::new(),
            })),
            Verdict::Login(None) => Err(WRONG),
            Verdict::Hashed { name, hash } => {
                let user_id = self.insert_user(name, hash)?;
                Ok(Response::Register(proto::RegisterResponse {
                    result: ok(),
                    user_id,
                }))
            }
            Verdict::LoginFailed | Verdict::HashFailed => Err(Failure::Refused(
                Code::Internal,
                "the password could not be checked",
            )),
        }
    }

    fn insert_user(&mut self, name: &str, hash: &str) -> Result<UserId, Failure> {
        let now_ms = self.now_ms;
        let connection = self.store.write()?;
        let inserted = connection
            .prepare_cached(
                "INSERT INTO users (name, password_hash, created_ms) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![name, hash, now_ms]);
        match inserted {
            Ok(_) => Ok(connection.last_insert_rowid()),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Err(Failure::Refused(Code::AlreadyExists, "the name is taken"))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn name_of(&self, user: UserId) -> Result<Option<String>, Failure> {
        Ok(self
            .store
            .read()
            .prepare_cached("SELECT name FROM users WHERE user_id = ?1")?
            .query_row([user], |row| row.get(0))
            .optional()?)
    }

    pub(super) fn add_friend(
        &mut self,
        request: &proto::AddFriendRequest,
    ) -> Result<proto::AddFriendResponse, Failure> {
        let (user, friend) = (request.user_id, request.friend_id);
        if user == friend {
            return Err(Failure::Refused(
                Code::Invalid,
                "you cannot be your own friend",
            ));
        }
        if !self.load_inbox(friend)? || !self.load_inbox(user)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        let added = self
            .store
            .write()?
            .prepare_cached(
                "INSERT OR IGNORE INTO friends (user_id, friend_id) SELECT ?1, ?2
                 WHERE (SELECT count(*) FROM friends WHERE user_id = ?1) < ?3",
            )?
            .execute(params![user, friend, FRIENDS_LIMIT])?;
        if added == 0 && !self.is_friend(user, friend)? {
            return Err(Failure::Refused(Code::Invalid, "the friend list is full"));
        }
        Ok(proto::AddFriendResponse { result: ok() })
    }

    fn is_friend(&self, user: UserId, friend: UserId) -> Result<bool, Failure> {
        Ok(self
            .store
            .read()
            .prepare_cached("SELECT 1 FROM friends WHERE user_id = ?1 AND friend_id = ?2")?
            .exists([user, friend])?)
    }

    pub(super) fn remove_friend(
        &mut self,
        request: &proto::RemoveFriendRequest,
    ) -> Result<proto::RemoveFriendResponse, Failure> {
        self.store
            .write()?
            .prepare_cached("DELETE FROM friends WHERE user_id = ?1 AND friend_id = ?2")?
            .execute([request.user_id, request.friend_id])?;
        Ok(proto::RemoveFriendResponse { result: ok() })
    }

    pub(super) fn get_friends(
        &mut self,
        request: &proto::GetFriendsRequest,
    ) -> Result<proto::GetFriendsResponse, Failure> {
        let friend_ids = self
            .store
            .read()
            .prepare_cached("SELECT friend_id FROM friends WHERE user_id = ?1 ORDER BY friend_id")?
            .query_map([request.user_id], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        Ok(proto::GetFriendsResponse {
            result: ok(),
            friend_ids,
        })
    }

    /// At most `limit` of those who have `user` in their friend list.
    pub(super) fn followers(&self, user: UserId, limit: u32) -> Result<Vec<UserId>, Failure> {
        let mut statement = self
            .store
            .read()
            .prepare_cached("SELECT user_id FROM friends WHERE friend_id = ?1 LIMIT ?2")?;
        let followers = statement.query_map(params![user, limit], |row| row.get(0))?;
        Ok(followers.collect::<Result<_, _>>()?)
    }

    pub(super) fn get_profile(
        &mut self,
        request: &proto::GetProfileRequest,
    ) -> Result<proto::GetProfileResponse, Failure> {
        let name = self
            .name_of(request.user_id)?
            .ok_or(Failure::Refused(Code::NotFound, "no such user"))?;
        Ok(proto::GetProfileResponse { result: ok(), name })
    }

    pub(super) fn search(
        &mut self,
        request: &proto::SearchRequest,
    ) -> Result<proto::SearchResponse, Failure> {
        let prefix = request.prefix.as_str();
        if prefix.is_empty() || prefix.len() > NAME_BYTES {
            return Err(Failure::Refused(
                Code::Invalid,
                "a search starts with 1 to 64 bytes of a name",
            ));
        }
        let limit = match request.limit {
            0 => SEARCH_LIMIT,
            limit => limit.min(SEARCH_LIMIT),
        };
        // Names compare byte by byte, and none sorts behind its prefix followed by the last character there is.
        let end = format!("{prefix}\u{10ffff}");
        let users = self
            .store
            .read()
            .prepare_cached(
                "SELECT user_id, name FROM users WHERE name >= ?1 AND name < ?2 ORDER BY name LIMIT ?3",
            )?
            .query_map(params![prefix, end, limit], |row| {
                Ok(proto::UserSummary {
                    user_id: row.get(0)?,
                    name: row.get(1)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        Ok(proto::SearchResponse {
            result: ok(),
            users,
        })
    }
}
