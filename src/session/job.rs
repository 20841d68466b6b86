//! Commands that ask a service, detached from the bytes they came in.

use smallvec::SmallVec;

use crate::{
    base::{
        id::{ConnectionKey, GroupId, MessageId, SessionId, UserId},
        secret::Secret,
    },
    protocol::{
        command::{Command, Tag, Verb},
        http::events::LastEvent,
        reply::Reply,
        request::ReplyTo,
    },
    session::LoginSession,
};

/// Commands of one connection on their way together: one, or several sends that followed each
/// other.
#[derive(Debug)]
pub struct Job {
    /// Whose it is.
    pub key: ConnectionKey,
    /// Who asks; `None`: nobody has logged in.
    pub identity: Option<Identity>,
    /// By which token somebody asks who has no login here: it says who that is.
    pub token: Option<Secret<String>>,
    /// The commands, in their order: at least one, and several only if all are sends.
    pub commands: SmallVec<[Asked; 1]>,
}

/// Who asks, apart from what is pushed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// The session of the connection; 0: it has none, and asks by a token alone.
    pub session_id: SessionId,
    /// The session that it belongs to, as clients know it.
    pub login_session: LoginSession,
}

/// The replies to the commands of a job, in their order.
pub type Replies = SmallVec<[Reply; 1]>;

impl Job {
    /// The user who asks; 0: nobody has logged in.
    pub fn user(&self) -> UserId {
        self.identity.map_or(0, |identity| identity.user)
    }

    /// The session of the connection; 0: it has none.
    pub fn session_id(&self) -> SessionId {
        self.identity.map_or(0, |identity| identity.session_id)
    }

    /// Whether it is by itself: its client gets a reply and nothing else.
    pub fn is_without_connection(&self) -> bool {
        let [command] = self.commands.as_slice() else {
            return false;
        };
        matches!(command.to, ReplyTo::Http(_))
    }

    /// Panics where it is none: without commands, or with several that are not all sends.
    pub fn assert_whole(&self) {
        assert!(!self.commands.is_empty(), "a job has a command");
        assert!(
            self.commands.len() == 1 || self.is_of_sends(),
            "only sends travel together"
        );
    }

    /// Whether it is made of sends: replies to them tell what becomes of the sends behind them.
    pub fn is_of_sends(&self) -> bool {
        self.commands.iter().all(|command| command.call.is_send())
    }
}

/// One command of a job, with all that its reply will need.
#[derive(Debug)]
pub struct Asked {
    /// The client's mark, by which a repeat is known.
    pub tag: Option<Tag>,
    /// What its reply is written for.
    pub to: ReplyTo,
    /// Which command it is.
    pub verb: Verb,
    /// What it asks for.
    pub call: Call,
    /// When it was taken up.
    pub started_us: u64,
}

/// What a command asks of the backends.
#[derive(Debug)]
#[allow(
    missing_docs,
    reason = "the variants and their fields are those of `Command`, owned"
)]
pub enum Call {
    Register {
        user: String,
        password: Secret<String>,
    },
    Login {
        user: String,
        password: Secret<String>,
    },
    Auth {
        token: Secret<String>,
        user: Option<UserId>,
        last_event: Option<LastEvent>,
    },
    Refresh,
    Logout,
    LogoutAll,
    Password {
        new: Secret<String>,
    },
    Chat {
        to: UserId,
        text: String,
    },
    GroupChat {
        group: GroupId,
        text: String,
    },
    Pull {
        limit: u32,
    },
    Ack {
        ids: Vec<MessageId>,
    },
    AddFriend(UserId),
    RemoveFriend(UserId),
    Friends,
    CreateGroup {
        name: String,
        description: String,
    },
    JoinGroup(GroupId),
    LeaveGroup(GroupId),
    Groups,
    GroupMembers {
        group: GroupId,
        after: UserId,
        limit: u32,
    },
    Who(UserId),
    Profile(UserId),
    Search {
        prefix: String,
    },
    WhoAmI,
}

impl Call {
    /// Whether it stores a message.
    pub fn is_send(&self) -> bool {
        matches!(self, Self::Chat { .. } | Self::GroupChat { .. })
    }

    /// What `command` asks of the backends.
    ///
    /// # Errors
    /// The command itself, where the gateway answers it alone.
    pub fn of(command: Command<'_>) -> Result<Self, Command<'_>> {
        Ok(match command {
            Command::Register { user, password } => Self::Register {
                user: user.to_owned(),
                password: Secret::new((*password.expose()).to_owned()),
            },
            Command::Login { user, password } => Self::Login {
                user: user.to_owned(),
                password: Secret::new((*password.expose()).to_owned()),
            },
            Command::Auth { token, user } => Self::Auth {
                token: Secret::new((*token.expose()).to_owned()),
                user,
                last_event: None,
            },
            Command::Refresh => Self::Refresh,
            Command::Logout => Self::Logout,
            Command::LogoutAll => Self::LogoutAll,
            Command::Password { new } => Self::Password {
                new: Secret::new((*new.expose()).to_owned()),
            },
            Command::Chat { to, text } => Self::Chat {
                to,
                text: text.into_owned(),
            },
            Command::GroupChat { group, text } => Self::GroupChat {
                group,
                text: text.into_owned(),
            },
            Command::Pull { limit } => Self::Pull { limit },
            Command::Ack { ids } => Self::Ack {
                ids: ids.iter().collect(),
            },
            Command::AddFriend(user) => Self::AddFriend(user),
            Command::RemoveFriend(user) => Self::RemoveFriend(user),
            Command::Friends => Self::Friends,
            Command::CreateGroup { name, description } => Self::CreateGroup {
                name: name.to_owned(),
                description: description.to_owned(),
            },
            Command::JoinGroup(group) => Self::JoinGroup(group),
            Command::LeaveGroup(group) => Self::LeaveGroup(group),
            Command::Groups => Self::Groups,
            Command::GroupMembers {
                group,
                after,
                limit,
            } => Self::GroupMembers {
                group,
                after,
                limit,
            },
            Command::Who(user) => Self::Who(user),
            Command::Profile(user) => Self::Profile(user),
            Command::Search { prefix } => Self::Search {
                prefix: prefix.to_owned(),
            },
            Command::WhoAmI => Self::WhoAmI,
            alone => return Err(alone),
        })
    }
}
