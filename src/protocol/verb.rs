//! The commands by name: one table of every command's names and form, and the two dialects they are
//! spoken in.

/// How a line separates its arguments, and with it the form some replies have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `chat:42:hello`.
    #[default]
    Colon,
    /// `SEND 42 hello`, as MPIM's client speaks; replies to its commands have MPIM's form.
    Space,
}

impl Dialect {
    /// What stands between two arguments.
    pub fn separator(self) -> char {
        match self {
            Self::Colon => ':',
            Self::Space => ' ',
        }
    }
}

macro_rules! verbs {
    ($($(#[$attribute:meta])* $verb:ident = $name:literal $(| $alias:literal)?,
        $form:literal, $example:literal, $sense:literal;)*) => {
        /// A command, by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Verb {
            $($(#[$attribute])* #[doc = concat!("`", $form, "`")] $verb,)*
        }

        impl Verb {
            /// All commands, in the order of their discriminants.
            pub const ALL: [Self; Self::COUNT] = [$($(#[$attribute])* Self::$verb,)*];
            /// How many commands there are.
            pub const COUNT: usize = {
                let names: &[&str] = &[$($(#[$attribute])* $name,)*];
                names.len()
            };

            /// The name, as written in the contract and in metrics.
            pub fn name(self) -> &'static str {
                match self { $($(#[$attribute])* Self::$verb => $name,)* }
            }

            /// How the command is written, for `help`. Holds no space.
            pub fn form(self) -> &'static str {
                match self { $($(#[$attribute])* Self::$verb => $form,)* }
            }

            /// A line that a person can try, for `help`. Holds no space.
            pub fn example(self) -> &'static str {
                match self { $($(#[$attribute])* Self::$verb => $example,)* }
            }

            /// What the command does, for `help`.
            pub(super) fn sense(self) -> &'static str {
                match self { $($(#[$attribute])* Self::$verb => $sense,)* }
            }

            /// The words of the error about a wrong number of arguments.
            pub(super) fn usage(self) -> &'static str {
                match self { $($(#[$attribute])* Self::$verb => concat!("usage: ", $form),)* }
            }

            /// The name in MPIM's dialect, where that is another one.
            fn alias(self) -> Option<&'static str> {
                match self { $($(#[$attribute])* Self::$verb => verbs!(@alias $($alias)?),)* }
            }
        }
    };
    (@alias) => { None };
    (@alias $alias:literal) => { Some($alias) };
}

// The commands of a busy connection stand first: `lookup` tries them in this order.
verbs! {
    Chat = "chat" | "send",
        "chat:uid:text", "chat:42:hello",
        "sends a message to a user; search:name finds the number";
    Ping = "ping",
        "ping[:text]", "ping:hello",
        "answers pong and the text; shows that both sides are alive";
    Ack = "ack",
        "ack:id[:id…]", "ack:7310000000000000001",
        "confirms messages, which then leave the inbox";
    GroupChat = "group_chat" | "sendgroup",
        "group_chat:gid:text", "group_chat:7:hello",
        "sends a message to a group you are in";
    Pull = "pull",
        "pull[:limit]", "pull:20",
        "brings what is unconfirmed in your inbox and groups, oldest first";
    Register = "register",
        "register:user:password", "register:alice:wonderland",
        "makes an account and logs in";
    Login = "login",
        "login:user:password", "login:alice:wonderland",
        "logs in; replaces your session on a device of the same name";
    Auth = "auth",
        "auth:token", "auth:eyJ0eXAi…",
        "logs in with a token from register, login or refresh";
    Refresh = "refresh",
        "refresh", "refresh",
        "gives a fresh token";
    Logout = "logout",
        "logout[:all]", "logout",
        "ends your session, or all of them, and their tokens; the connection stays";
    Password = "password",
        "password:new", "password:through-the-glass",
        "changes your password, soon after a login by password, and ends your other sessions";
    Set = "set",
        "set:(ack:manual|ack:auto|device:name)", "set:device:phone",
        "says who confirms messages, or, before login, names the device";
    AddFriend = "add_friend" | "addfriend",
        "add_friend:uid", "add_friend:42",
        "puts a user on your friend list";
    RemoveFriend = "remove_friend",
        "remove_friend:uid", "remove_friend:42",
        "takes a user off your friend list";
    Friends = "friends" | "getfriends",
        "friends", "friends",
        "lists the users on your friend list";
    CreateGroup = "create_group" | "creategroup",
        "create_group:name", "create_group:teatime",
        "makes a group with you as its first member";
    JoinGroup = "join_group" | "joingroup",
        "join_group:gid", "join_group:7",
        "makes you a member of a group";
    LeaveGroup = "leave_group",
        "leave_group:gid", "leave_group:7",
        "ends your membership in a group";
    Groups = "groups",
        "groups", "groups",
        "lists the groups you are in";
    GroupMembers = "group_members",
        "group_members:gid[:after_uid[:limit]]", "group_members:7",
        "lists the members of a group you are in, a thousand at a time";
    Who = "who",
        "who:uid", "who:42",
        "says whether a user is online";
    Profile = "profile",
        "profile:uid", "profile:42",
        "says the name of a user";
    Search = "search",
        "search:prefix", "search:ali",
        "finds users, with their numbers, by the beginning of their names";
    WhoAmI = "whoami",
        "whoami", "whoami",
        "says who you are on this connection";
    Help = "help",
        "help[:command]", "help:chat",
        "lists the commands, or says how one is used";
    Quit = "quit",
        "quit", "quit",
        "ends the connection";
    #[cfg(feature = "test-hooks")]
    Panic = "panic",
        "panic", "panic",
        "fails, for tests";
}

/// What a command is about: `help` lists the commands in these groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Accounts and logging in.
    Account,
    /// Messages and their confirmation.
    Messages,
    /// Other users.
    Users,
    /// Groups.
    Groups,
    /// The connection itself.
    Connection,
}

impl Family {
    /// All families, in the order of `help`.
    pub const ALL: [Self; 5] = [
        Self::Account,
        Self::Messages,
        Self::Users,
        Self::Groups,
        Self::Connection,
    ];
}

/// Most letters that may differ between a word and the command it is taken to mean.
const TYPING_ERRORS: usize = 2;

impl Verb {
    /// The command of this name, in any case; MPIM's names are aliases.
    pub(super) fn lookup(name: &str) -> Option<Self> {
        let named = |candidate: &str| candidate.eq_ignore_ascii_case(name);
        Self::ALL
            .into_iter()
            .find(|verb| named(verb.name()) || verb.alias().is_some_and(named))
    }

    /// The command whose name is nearest to `word`, which names none; `None`: no name is near.
    pub(super) fn nearest(word: &str) -> Option<&'static str> {
        // Longer words are no typing errors, and comparing them would cost.
        let longest = Self::ALL.iter().map(|verb| verb.name().len()).max();
        if word.len() > longest.unwrap_or(0) + TYPING_ERRORS {
            return None;
        }
        let word = word.to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .filter(|verb| verb.name() != "panic")
            .flat_map(|verb| std::iter::once(verb.name()).chain(verb.alias()))
            .map(|name| (strsim::osa_distance(&word, name), name))
            // Half of a short word must be right: `xx` is not nearly `set`.
            .filter(|(distance, name)| *distance <= TYPING_ERRORS && distance * 2 <= name.len())
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, name)| name)
    }

    /// What the command is about.
    pub fn family(self) -> Family {
        match self {
            Self::Register
            | Self::Login
            | Self::Auth
            | Self::Refresh
            | Self::Logout
            | Self::Password
            | Self::WhoAmI => Family::Account,
            Self::Chat | Self::GroupChat | Self::Pull | Self::Ack => Family::Messages,
            Self::AddFriend
            | Self::RemoveFriend
            | Self::Friends
            | Self::Who
            | Self::Profile
            | Self::Search => Family::Users,
            Self::CreateGroup
            | Self::JoinGroup
            | Self::LeaveGroup
            | Self::Groups
            | Self::GroupMembers => Family::Groups,
            Self::Set | Self::Ping | Self::Help | Self::Quit => Family::Connection,
            #[cfg(feature = "test-hooks")]
            Self::Panic => Family::Connection,
        }
    }

    /// Whether `word`, which names this command, is one that only MPIM has, or one that only the
    /// gateway has.
    pub(super) fn word_of(self, word: &str) -> Option<Dialect> {
        let alias = self.alias()?;
        Some(if alias.eq_ignore_ascii_case(word) {
            Dialect::Space
        } else {
            Dialect::Colon
        })
    }

    /// Whether MPIM has the command too, whatever it calls it.
    pub(super) fn is_of_mpim(self) -> bool {
        self.alias().is_some()
            || matches!(
                self,
                Self::Register | Self::Login | Self::Pull | Self::Logout
            )
    }

    /// Whether the command is answered on a connection that has not logged in.
    pub fn allowed_before_login(self) -> bool {
        match self {
            Self::Register
            | Self::Login
            | Self::Auth
            | Self::Set
            | Self::Ping
            | Self::Help
            | Self::Quit => true,
            #[cfg(feature = "test-hooks")]
            Self::Panic => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_command_in_any_case() {
        for (index, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!(verb as usize, index);
            assert_eq!(Verb::lookup(verb.name()), Some(verb));
            assert_eq!(Verb::lookup(&verb.name().to_uppercase()), Some(verb));
            assert!(verb.form().starts_with(verb.name()));
            assert!(!verb.form().contains(' '));
            assert!(!verb.sense().is_empty());
        }
        assert_eq!(Verb::lookup("nope"), None);
        assert_eq!(Verb::lookup(""), None);
    }

    #[test]
    fn mpims_names_are_aliases() {
        for (alias, verb) in [
            ("SEND", Verb::Chat),
            ("SENDGROUP", Verb::GroupChat),
            ("ADDFRIEND", Verb::AddFriend),
            ("GETFRIENDS", Verb::Friends),
            ("CREATEGROUP", Verb::CreateGroup),
            ("JOINGROUP", Verb::JoinGroup),
        ] {
            assert_eq!(Verb::lookup(alias), Some(verb));
        }
    }

    #[test]
    fn a_word_mistyped_finds_the_command_that_was_meant() {
        for (word, name) in [
            ("caht", Some("chat")),
            ("CHATT", Some("chat")),
            ("logn", Some("login")),
            ("registr", Some("register")),
            ("groupchat", Some("group_chat")),
            ("whoiam", Some("whoami")),
            ("pul", Some("pull")),
            ("exit", Some("quit")),
            ("SENDGRUP", Some("sendgroup")),
            ("xx", None),
            ("dance", None),
            ("", None),
            ("GET", Some("set")),
            ("group_members_of_all_groups", None),
        ] {
            assert_eq!(Verb::nearest(word), name, "{word}");
        }
    }

    #[test]
    fn every_example_is_a_line_of_its_command() {
        for verb in Verb::ALL {
            let word = verb.example().split(':').next();
            assert_eq!(word, Some(verb.name()));
        }
    }

    #[test]
    fn the_fault_hook_exists_only_in_test_builds() {
        assert_eq!(
            Verb::lookup("panic").is_some(),
            cfg!(feature = "test-hooks")
        );
    }

    #[test]
    fn before_login_only_what_leads_to_a_login_is_answered() {
        let allowed: Vec<_> = Verb::ALL
            .into_iter()
            .filter(|verb| verb.allowed_before_login() && verb.name() != "panic")
            .map(Verb::name)
            .collect();
        assert_eq!(
            allowed,
            ["ping", "register", "login", "auth", "set", "help", "quit"]
        );
    }
}
