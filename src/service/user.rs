//! Users: accounts, names, contacts. Passwords are checked by the pool in `password`; here are only
//! their rows.
//!
//! Invariants: a name belongs to one user for ever; a friend list is directed and bounded; a wrong
//! password and an unknown user look the same; what is remembered of a user's networks is bounded.

use super::{
    engine::{Engine, Outcome, ok, result},
    password::{Account, Change, Origin, Task, Verdict},
    sessions::{Credential, SESSION_OVER},
    store::{Failure, Storage},
};
use crate::{
    base::{id::UserId, names},
    contract::methods::Response,
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

/// Names that look alike and are looked through for the one that is meant. There is one, but for
/// accounts older than the rule.
const ALIKE_LIMIT: u32 = 64;
/// Networks that are known for one user; another one takes the place of that seen longest ago.
const NETWORKS_LIMIT: u32 = 16;
/// Longest key of a network; a longer one is nobody's.
const NETWORK_BYTES: usize = 64;
/// A login from a known network is written down again no more often, so that most logins write
/// nothing.
const SEEN_AGAIN_MS: i64 = 24 * 3_600_000;

const BAD_PASSWORD: Failure = Failure::Refused(Code::Invalid, "a password is 6 to 128 bytes");
const NAME_TAKEN: Failure = Failure::Refused(
    Code::AlreadyExists,
    "the name is taken, or looks like one that is",
);

/// The answer to a wrong password, to an unknown user, and to a network that is not the user's
/// where it has to be.
fn wrong(origin: &Origin) -> Response {
    Response::Login(proto::LoginResponse {
        result: Some(result(Code::Unauthenticated, "wrong user name or password")),
        network: memory_of(origin).into(),
        ..Default::default()
    })
}

fn memory_of(origin: &Origin) -> proto::NetworkMemory {
    if origin.is_known {
        proto::NetworkMemory::NetworkKnown
    } else {
        proto::NetworkMemory::NetworkNew
    }
}

/// The key of a network as it is kept.
fn network_key(network: &[u8]) -> &[u8] {
    if network.len() <= NETWORK_BYTES {
        network
    } else {
        &[]
    }
}

/// The name, if any account can have it: accounts may be older than the rules for new names.
fn valid_name(bytes: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(bytes).ok()?;
    names::is_user_name(name).then_some(name)
}

impl<S: Storage> Engine<S> {
    pub(super) fn login(&mut self, request: &proto::LoginRequest) -> Result<Outcome, Failure> {
        let account = match valid_name(&request.username) {
            Some(name) => self.account_of(name)?,
            None => None,
        };
        // An unknown user's networks are looked up as well, and are none.
        let user = account.as_ref().map_or(0, |account| account.user);
        let origin = self.origin(user, &request.network)?;
        // Read again, after the epoch: a password that another process changes in between is then
        // no older than the hash.
        let hash = self.store.read().password_hash(user)?;
        let account = account.and_then(|account| {
            Some(Account {
                hash: hash?,
                ..account
            })
        });
        if request.only_from_known_network && !origin.is_known {
            return Ok(Outcome::Reply(wrong(&origin)));
        }
        // An absurdly long password is as wrong as any, and costs no more.
        let password_bytes = request.password.len().min(PASSWORD_BYTES.end() + 1);
        Ok(Outcome::Password(Task::Verify {
            account,
            password: request.password[..password_bytes].to_vec(),
            origin,
        }))
    }

    /// The account of this name, or else the one account whose name differs from it in nothing that
    /// one types, such as case. All of it is looked up in either case, so that both take the same
    /// time.
    fn account_of(&self, name: &str) -> Result<Option<Account>, Failure> {
        let store = self.store.read();
        let exact = store.account(name)?;
        let folded = names::fold(name);
        let mut alike = store.names_alike(&names::skeleton(name), ALIKE_LIMIT)?;
        alike.retain(|other| names::fold(other) == folded);
        let registered = match (&exact, &alike[..]) {
            (Some(_), _) => name,
            (None, [only]) => only,
            // Accounts that are older than the rule: nobody can say who is meant.
            (None, _) => return Ok(None),
        };
        let found = if exact.is_some() {
            exact
        } else {
            store.account(registered)?
        };
        Ok(found.map(|(user, hash)| Account {
            user,
            hash,
            registered: registered.to_owned(),
        }))
    }

    fn origin(&self, user: UserId, network: &[u8]) -> Result<Origin, Failure> {
        let network = network_key(network);
        let seen_ms = self.store.read().network_seen_ms(user, network)?;
        Ok(Origin {
            network: network.to_vec(),
            is_known: seen_ms.is_some(),
            is_news: !network.is_empty()
                && seen_ms.is_none_or(|seen_ms| self.now_ms - seen_ms >= SEEN_AGAIN_MS),
            epoch: self.session_epoch(user)?.number,
        })
    }

    /// The password was right. A storage that takes no writes now does not keep anybody out.
    fn logged_in(
        &mut self,
        user: UserId,
        name: &str,
        origin: &Origin,
    ) -> Result<Response, Failure> {
        if origin.is_news && !self.store.is_reads_only() {
            self.remember_network(user, &origin.network)?;
        }
        Ok(Response::Login(proto::LoginResponse {
            result: ok(),
            user_id: user,
            network: memory_of(origin).into(),
            name: name.to_owned(),
            session_epoch: Some(origin.epoch),
            ..Default::default()
        }))
    }

    fn remember_network(&mut self, user: UserId, network: &[u8]) -> Result<(), Failure> {
        let now_ms = self.now_ms;
        let store = self.store.write()?;
        store.remember_network(user, network, now_ms, NETWORKS_LIMIT)
    }

    pub(super) fn register(&mut self, request: &proto::RegisterRequest) -> Result<Task, Failure> {
        let name = std::str::from_utf8(&request.username)
            .map_err(|_| Failure::Refused(Code::Invalid, "a user name is UTF-8"))?;
        names::check_new_user_name(name, self.names)
            .map_err(|words| Failure::Refused(Code::Invalid, words))?;
        if !PASSWORD_BYTES.contains(&request.password.len()) {
            return Err(BAD_PASSWORD);
        }
        if self.store.read().looks_taken(&names::skeleton(name))? {
            return Err(NAME_TAKEN);
        }
        Ok(Task::Hash {
            name: name.to_owned(),
            password: request.password.clone(),
            network: network_key(&request.network).to_vec(),
        })
    }

    pub(super) fn change_password(
        &mut self,
        request: &proto::ChangePasswordRequest,
    ) -> Result<Task, Failure> {
        let change = Change {
            user: request.user_id,
            session: Credential {
                login_session: request.login_session_id,
                epoch: request.session_epoch,
                issued_ms: request.token_issued_ms,
            },
            network: network_key(&request.network).to_vec(),
        };
        if change.session.login_session == 0 {
            return Err(Failure::Refused(Code::Invalid, "not a session"));
        }
        if !PASSWORD_BYTES.contains(&request.new_password.len()) {
            return Err(BAD_PASSWORD);
        }
        self.check_session(&change)?;
        Ok(Task::Rehash {
            change,
            password: request.new_password.clone(),
        })
    }

    fn check_session(&self, change: &Change) -> Result<(), Failure> {
        let present = self.session_epoch(change.user)?;
        if self.is_session_over(change.user, &present, &change.session)? {
            return Err(SESSION_OVER);
        }
        Ok(())
    }

    /// The new password is hashed. The session may have been ended meanwhile.
    fn rehashed(&mut self, change: &Change, hash: &str) -> Result<Response, Failure> {
        self.check_session(change)?;
        if !self.store.write()?.set_password_hash(change.user, hash)? {
            return Err(Failure::Refused(Code::NotFound, "no such user"));
        }
        let epoch = self.end_other_sessions(change.user, change.session.login_session)?;
        Ok(Response::ChangePassword(proto::ChangePasswordResponse {
            result: ok(),
            session_epoch: Some(epoch.number),
        }))
    }

    /// Answers what the password pool has decided.
    pub(super) fn judged(&mut self, verdict: &Verdict) -> Result<Response, Failure> {
        match verdict {
            Verdict::Login {
                user: Some((user, name)),
                origin,
            } => self.logged_in(*user, name, origin),
            Verdict::Login { user: None, origin } => Ok(wrong(origin)),
            Verdict::Hashed {
                name,
                hash,
                network,
            } => {
                let now_ms = self.unix_ms;
                let skeleton = names::skeleton(name);
                let store = self.store.write()?;
                let inserted = store.insert_user((name, &skeleton), hash, now_ms)?;
                let user_id = inserted.ok_or(NAME_TAKEN)?;
                if !network.is_empty() {
                    self.remember_network(user_id, network)?;
                }
                Ok(Response::Register(proto::RegisterResponse {
                    result: ok(),
                    user_id,
                }))
            }
            Verdict::Rehashed { change, hash } => self.rehashed(change, hash),
            Verdict::TooLate(_) => Err(Failure::Refused(
                Code::Unavailable,
                "too many passwords were waiting, try again",
            )),
            Verdict::Failed(_) => Err(Failure::Refused(
                Code::Internal,
                "the password could not be checked",
            )),
        }
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
        let is_listed = self
            .store
            .write()?
            .insert_friend(user, friend, FRIENDS_LIMIT)?;
        if !is_listed {
            return Err(Failure::Refused(Code::Invalid, "the friend list is full"));
        }
        Ok(proto::AddFriendResponse { result: ok() })
    }

    pub(super) fn remove_friend(
        &mut self,
        request: &proto::RemoveFriendRequest,
    ) -> Result<proto::RemoveFriendResponse, Failure> {
        self.store
            .write()?
            .delete_friend(request.user_id, request.friend_id)?;
        Ok(proto::RemoveFriendResponse { result: ok() })
    }

    pub(super) fn get_friends(
        &mut self,
        request: &proto::GetFriendsRequest,
    ) -> Result<proto::GetFriendsResponse, Failure> {
        let (user, only) = (request.user_id, request.only_friend_id);
        let friend_ids = match only {
            0 => self.store.read().friends(user)?,
            only if self.store.read().is_friend(user, only)? => vec![only],
            _ => Vec::new(),
        };
        Ok(proto::GetFriendsResponse {
            result: ok(),
            friend_ids,
        })
    }

    pub(super) fn get_profile(
        &mut self,
        request: &proto::GetProfileRequest,
    ) -> Result<proto::GetProfileResponse, Failure> {
        let name = self
            .store
            .read()
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
        let users = self.store.read().users_by_prefix(prefix, limit)?;
        Ok(proto::SearchResponse {
            result: ok(),
            users: users
                .into_iter()
                .map(|(user_id, name)| proto::UserSummary { user_id, name })
                .collect(),
        })
    }
}
