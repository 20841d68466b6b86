//! Lines to commands, in two steps, so that the session can judge between them whether the command
//! is allowed at all: [`parse_line`] finds tag, command word and dialect; [`parse_arguments`] makes
//! the typed [`Command`].
//!
//! Owns the grammar of what clients say. Never decides whether a command may be carried out.
//! Everything borrows from the line; only a text with escapes is copied.

use std::{borrow::Cow, fmt};

use super::{
    arguments::{Arguments, BLANKS},
    error_code::ErrorCode,
    escape::{is_plain, unescape},
    request::BadRequest,
    rules::{self, Numbered, positive},
};
use crate::base::{
    id::{GroupId, MessageId, UserId},
    secret::Secret,
};

pub use super::{
    tag::Tag,
    verb::{Dialect, Verb},
};

/// How many messages `pull` hands out where the client names no number.
pub(super) const PULL_LIMIT_DEFAULT: u32 = 100;
/// How many messages one `pull` can ask for.
pub const PULL_LIMIT_MAX: u32 = 1000;
/// How many members of a group one `group_members` can ask for, and shows where the client names no
/// number.
pub(super) const MEMBERS_LIMIT_MAX: u32 = 1000;

/// A line taken apart as far as its command word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The client's mark, to be repeated before the reply.
    pub tag: Option<Tag>,
    /// The command.
    pub verb: Verb,
    /// The dialect the line shows by its first separator; `None`: a bare word, which shows none.
    pub dialect: Option<Dialect>,
    /// What follows that separator.
    pub arguments: &'a str,
    /// The word was one that only MPIM has, or one that only the gateway has; `None`: both have it.
    word_of: Option<Dialect>,
}

impl Line<'_> {
    /// The dialect to answer the line in, on a connection that `speaks` one: the line's own, or
    /// else that of a word that only one of them has, or else what the connection speaks.
    pub(super) fn answer_dialect(&self, speaks: Dialect) -> Dialect {
        self.dialect.or(self.word_of).unwrap_or(speaks)
    }

    /// The dialect the connection speaks from this line on. Commands that MPIM does not have tell
    /// nothing of it: a space comes easily to whoever types `ping hello`.
    pub fn spoken_dialect(&self, speaks: Dialect) -> Dialect {
        self.dialect
            .filter(|_| self.verb.is_of_mpim())
            .unwrap_or(speaks)
    }
}

impl fmt::Debug for Line<'_> {
    /// Without the arguments, which may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("tag", &self.tag)
            .field("verb", &self.verb)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

/// Arguments that do not fit their command: the human-readable words of a
/// [`ErrorCode::BadArgument`] reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadArgument(pub Cow<'static, str>);

impl BadArgument {
    pub(super) const fn new(words: &'static str) -> Self {
        Self(Cow::Borrowed(words))
    }
}

/// Who confirms deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    /// The gateway, once the line was handed to the kernel.
    #[default]
    Auto,
    /// The client, by `ack`.
    Manual,
}

impl AckMode {
    /// The mode of a word, in any case.
    pub(super) fn of(word: &str) -> Result<Self, BadArgument> {
        [Self::Auto, Self::Manual]
            .into_iter()
            .find(|mode| mode.word().eq_ignore_ascii_case(word))
            .ok_or(BadArgument::new("ack is auto or manual"))
    }

    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
        }
    }
}

/// The message ids of an `ack`, at least one; all were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageIdList<'a>(Ids<'a>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ids<'a> {
    /// As they stand in a line.
    Words {
        text: &'a str,
        dialect: Dialect,
    },
    Numbers(&'a [MessageId]),
}

impl<'a> MessageIdList<'a> {
    /// Ids that were read already.
    pub(super) fn of_numbers(ids: &'a [MessageId]) -> Self {
        debug_assert!(!ids.is_empty() && ids.iter().all(|id| *id > 0));
        Self(Ids::Numbers(ids))
    }

    /// The ids in the order given; their number is bounded by the length of a request.
    pub fn iter(&self) -> impl Iterator<Item = MessageId> + use<'a> {
        let (words, numbers) = match self.0 {
            Ids::Words { text, dialect } => (Some(words(text, dialect)), &[][..]),
            Ids::Numbers(numbers) => (None, numbers),
        };
        let words = words.into_iter().flatten().filter_map(positive);
        words.chain(numbers.iter().copied())
    }
}

/// The words of a list.
fn words(text: &str, dialect: Dialect) -> impl Iterator<Item = &str> {
    text.split(dialect.separator())
        .map(|word| word.trim_end_matches(BLANKS))
        .filter(move |word| dialect == Dialect::Colon || !word.is_empty())
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the variants and their fields are the commands of the contract, by the same names"
)]
pub enum Command<'a> {
    Register {
        user: &'a str,
        password: Secret<&'a str>,
    },
    Login {
        user: &'a str,
        password: Secret<&'a str>,
    },
    /// `user` is whose token it must be, where the client says it.
    Auth {
        token: Secret<&'a str>,
        user: Option<UserId>,
    },
    Refresh,
    Logout,
    /// `logout:all`.
    LogoutAll,
    Password {
        new: Secret<&'a str>,
    },
    /// `text` is decoded and holds more than white space.
    Chat {
        to: UserId,
        text: Cow<'a, str>,
    },
    /// `text` is decoded and holds more than white space.
    GroupChat {
        group: GroupId,
        text: Cow<'a, str>,
    },
    /// `limit` is within 1 and [`PULL_LIMIT_MAX`].
    Pull {
        limit: u32,
    },
    Ack {
        ids: MessageIdList<'a>,
    },
    /// `text` is to be sent back as it is.
    Ping {
        text: Option<&'a str>,
    },
    SetAck(AckMode),
    SetDevice(&'a str),
    AddFriend(UserId),
    RemoveFriend(UserId),
    Friends,
    /// `description` is empty but in the space dialect, where MPIM's clients may send one.
    CreateGroup {
        name: &'a str,
        description: &'a str,
    },
    JoinGroup(GroupId),
    LeaveGroup(GroupId),
    Groups,
    /// `after` is 0 where the client begins; `limit` is within 1 and `MEMBERS_LIMIT_MAX`.
    GroupMembers {
        group: GroupId,
        after: UserId,
        limit: u32,
    },
    Who(UserId),
    Profile(UserId),
    Search {
        prefix: &'a str,
    },
    WhoAmI,
    Help(Option<Verb>),
    Quit,
    #[cfg(feature = "test-hooks")]
    Panic,
}

/// Takes a line apart as far as its command word, and checks that all of it is text.
///
/// `line` comes without its terminator. Empty lines are to be skipped before: here they are
/// [`ErrorCode::BadRequest`]. Blanks before the tag and before the command word mean nothing.
pub fn parse_line(line: &[u8]) -> Result<Line<'_>, BadRequest> {
    let (tag, line) = split_tag(trim_blanks(line))?;
    let line = trim_blanks(line);
    let bad = |code, words| BadRequest {
        tag,
        to: None,
        code,
        words,
    };
    let Ok(line) = std::str::from_utf8(line) else {
        return Err(bad(ErrorCode::BadRequest, "the line is not UTF-8".into()));
    };
    if !is_plain(line) {
        return Err(bad(
            ErrorCode::BadRequest,
            "the line holds a control character".into(),
        ));
    }
    let (word, dialect, arguments) = match line.bytes().position(|byte| matches!(byte, b':' | b' '))
    {
        Some(end) if line.as_bytes()[end] == b':' => {
            (&line[..end], Some(Dialect::Colon), &line[end + 1..])
        }
        // Blanks at the end of a line separate nothing.
        Some(end) if line[end..].trim_end_matches(BLANKS).is_empty() => (&line[..end], None, ""),
        Some(end) => (&line[..end], Some(Dialect::Space), &line[end + 1..]),
        None => (line.trim_end_matches(BLANKS), None, ""),
    };
    if word.is_empty() {
        return Err(bad(
            ErrorCode::BadRequest,
            "the line begins with no command".into(),
        ));
    }
    match Verb::lookup(word) {
        Some(verb) => Ok(Line {
            tag,
            verb,
            dialect,
            arguments,
            word_of: verb.word_of(word),
        }),
        None => Err(bad(ErrorCode::UnknownCommand, unknown_command(word))),
    }
}

/// The line without the blanks it begins with.
pub(super) fn trim_blanks(line: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    &line[line.iter().take_while(|byte| is_blank(byte)).count()..]
}

/// The words for a command word that does not exist.
fn unknown_command(word: &str) -> Cow<'static, str> {
    match Verb::nearest(word) {
        Some(name) => format!("no such command, did you mean {name}? try help:{name}").into(),
        None => "no such command, try help".into(),
    }
}

/// Takes the tag off the front, if there is one. Looks at bytes, so that even a line that is no
/// text gets its tag back.
fn split_tag(line: &[u8]) -> Result<(Option<Tag>, &[u8]), BadRequest> {
    let Some(marked) = line.strip_prefix(b"@") else {
        return Ok((None, line));
    };
    // A tag's end is looked for no further than a tag can reach.
    let window = &marked[..marked.len().min(Tag::MAX_BYTES + 1)];
    let tag = memchr::memchr(b' ', window)
        .and_then(|end| Some((Tag::new(&marked[..end])?, &marked[end + 1..])));
    match tag {
        Some((tag, rest)) => Ok((Some(tag), rest)),
        None => Err(BadRequest {
            tag: None,
            to: None,
            code: ErrorCode::BadRequest,
            words: "a tag is @, 1 to 32 letters, digits, _ or -, and a space".into(),
        }),
    }
}

/// Who says which names and passwords are good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Judge {
    /// The gateway, by the rules of the contract.
    #[default]
    Gateway,
    /// The User Service alone: passwords of any length and, in the space dialect, where they cut
    /// nothing apart, names with `:` and `,`.
    UserService,
}

/// Makes the typed command of `line`, by the rules of the contract. `dialect` is what it is
/// answered in.
pub fn parse_arguments<'a>(line: &Line<'a>, dialect: Dialect) -> Result<Command<'a>, BadArgument> {
    parse_arguments_for(line, dialect, Judge::Gateway)
}

/// The same, where `judge` says which names and passwords are good.
pub(super) fn parse_arguments_for<'a>(
    line: &Line<'a>,
    dialect: Dialect,
    judge: Judge,
) -> Result<Command<'a>, BadArgument> {
    let verb = line.verb;
    let arguments = Arguments::new(line.arguments, dialect);
    let bare = |command| match line.arguments.trim_matches(BLANKS) {
        "" => Ok(command),
        _ => Err(BadArgument::new(verb.usage())),
    };
    match verb {
        Verb::Chat => numbered_text(verb, arguments, Numbered::User)
            .map(|(to, text)| Command::Chat { to, text }),
        Verb::GroupChat => numbered_text(verb, arguments, Numbered::Group)
            .map(|(group, text)| Command::GroupChat { group, text }),
        Verb::Ping => Ok(Command::Ping {
            text: Some(arguments.text()).filter(|text| !text.is_empty()),
        }),
        Verb::Ack => message_ids(verb, arguments.last(), dialect).map(|ids| Command::Ack { ids }),
        Verb::Pull => pull_limit(arguments.last()).map(|limit| Command::Pull { limit }),
        Verb::Register => {
            let (user, password) = credentials(verb, (arguments, dialect), judge)?;
            let password = rules::new_password(password, judge)?;
            Ok(Command::Register { user, password })
        }
        Verb::Login => {
            let (user, password) = credentials(verb, (arguments, dialect), judge)?;
            let password = rules::password(password, judge)?;
            Ok(Command::Login { user, password })
        }
        Verb::Auth => token(verb, arguments),
        Verb::Password => match arguments.text() {
            "" => Err(BadArgument::new(verb.usage())),
            new => rules::new_password(new, Judge::Gateway).map(|new| Command::Password { new }),
        },
        Verb::Refresh => bare(Command::Refresh),
        Verb::Logout => match arguments.last() {
            word if word.eq_ignore_ascii_case("all") => Ok(Command::LogoutAll),
            _ => bare(Command::Logout),
        },
        Verb::Set => setting(verb, arguments),
        Verb::AddFriend => number(verb, arguments, Numbered::User).map(Command::AddFriend),
        Verb::RemoveFriend => number(verb, arguments, Numbered::User).map(Command::RemoveFriend),
        Verb::Friends => bare(Command::Friends),
        Verb::CreateGroup => new_group(verb, arguments.last(), dialect),
        Verb::JoinGroup => number(verb, arguments, Numbered::Group).map(Command::JoinGroup),
        Verb::LeaveGroup => number(verb, arguments, Numbered::Group).map(Command::LeaveGroup),
        Verb::Groups => bare(Command::Groups),
        Verb::GroupMembers => group_members(verb, arguments),
        Verb::Who => number(verb, arguments, Numbered::User).map(Command::Who),
        Verb::Profile => number(verb, arguments, Numbered::User).map(Command::Profile),
        Verb::Search => match arguments.last() {
            "" => Err(BadArgument::new(verb.usage())),
            prefix => rules::user_name(prefix).map(|prefix| Command::Search { prefix }),
        },
        Verb::WhoAmI => bare(Command::WhoAmI),
        Verb::Help => help(arguments),
        Verb::Quit => bare(Command::Quit),
        #[cfg(feature = "test-hooks")]
        Verb::Panic => bare(Command::Panic),
    }
}

fn token<'a>(verb: Verb, arguments: Arguments<'a>) -> Result<Command<'a>, BadArgument> {
    match arguments.last() {
        "" => Err(BadArgument::new(verb.usage())),
        token => Ok(Command::Auth {
            token: Secret::new(token),
            user: None,
        }),
    }
}

fn help<'a>(arguments: Arguments<'a>) -> Result<Command<'a>, BadArgument> {
    match arguments.last() {
        "" => Ok(Command::Help(None)),
        name => match Verb::lookup(name) {
            Some(verb) => Ok(Command::Help(Some(verb))),
            None => Err(BadArgument(unknown_command(name))),
        },
    }
}

fn number(verb: Verb, arguments: Arguments<'_>, of: Numbered) -> Result<i64, BadArgument> {
    match arguments.last() {
        "" => Err(BadArgument::new(verb.usage())),
        text => of.parse(text),
    }
}

fn numbered_text<'a>(
    verb: Verb,
    mut arguments: Arguments<'a>,
    to: Numbered,
) -> Result<(i64, Cow<'a, str>), BadArgument> {
    let number = arguments.middle().ok_or(BadArgument::new(verb.usage()))?;
    let number = to.parse(number)?;
    let text = unescape(arguments.text());
    rules::says_something(&text)?;
    Ok((number, text))
}

fn message_ids(verb: Verb, text: &str, dialect: Dialect) -> Result<MessageIdList<'_>, BadArgument> {
    if text.is_empty() {
        return Err(BadArgument::new(verb.usage()));
    }
    for word in words(text, dialect) {
        Numbered::Message.parse(word)?;
    }
    Ok(MessageIdList(Ids::Words { text, dialect }))
}

fn pull_limit(text: &str) -> Result<u32, BadArgument> {
    page_limit(text, PULL_LIMIT_DEFAULT, PULL_LIMIT_MAX)
}

fn page_limit(text: &str, default: u32, most: u32) -> Result<u32, BadArgument> {
    match text {
        "" => Ok(default),
        text => rules::limit(positive(text), most),
    }
}

fn group_members<'a>(verb: Verb, mut arguments: Arguments<'a>) -> Result<Command<'a>, BadArgument> {
    let mut page = ["", ""];
    let group = match arguments.middle() {
        None => arguments.last(),
        Some(group) => {
            page = match arguments.middle() {
                None => [arguments.last(), ""],
                Some(after) => [after, arguments.last()],
            };
            group
        }
    };
    let group = match group {
        "" => return Err(BadArgument::new(verb.usage())),
        group => Numbered::Group.parse(group)?,
    };
    let after = match page[0] {
        "" | "0" => 0,
        after => Numbered::User.parse(after)?,
    };
    let limit = page_limit(page[1], MEMBERS_LIMIT_MAX, MEMBERS_LIMIT_MAX)?;
    Ok(Command::GroupMembers {
        group,
        after,
        limit,
    })
}

fn credentials<'a>(
    verb: Verb,
    (mut arguments, dialect): (Arguments<'a>, Dialect),
    judge: Judge,
) -> Result<(&'a str, &'a str), BadArgument> {
    let user = arguments.middle().ok_or(BadArgument::new(verb.usage()))?;
    let user = match (judge, dialect) {
        (Judge::UserService, Dialect::Space) if rules::is_foreign_name(user) => user,
        _ => rules::user_name(user)?,
    };
    match arguments.text() {
        "" => Err(BadArgument::new(verb.usage())),
        password => Ok((user, password)),
    }
}

fn setting<'a>(verb: Verb, mut arguments: Arguments<'a>) -> Result<Command<'a>, BadArgument> {
    let key = arguments.middle().ok_or(BadArgument::new(verb.usage()))?;
    let value = arguments.last();
    if key.eq_ignore_ascii_case("ack") {
        AckMode::of(value).map(Command::SetAck)
    } else if key.eq_ignore_ascii_case("device") {
        rules::device_name(value).map(Command::SetDevice)
    } else {
        Err(BadArgument::new(verb.usage()))
    }
}

fn new_group(verb: Verb, text: &str, dialect: Dialect) -> Result<Command<'_>, BadArgument> {
    let (name, description) = match dialect {
        Dialect::Colon => (text, ""),
        Dialect::Space => text.split_once(' ').unwrap_or((text, "")),
    };
    if name.is_empty() {
        return Err(BadArgument::new(verb.usage()));
    }
    Ok(Command::CreateGroup {
        name: rules::group_name(name)?,
        description: description.trim_matches(' '),
    })
}

#[cfg(test)]
mod tests;
