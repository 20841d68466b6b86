//! The commands by name: one table of every command's names and form, and the two dialects they are spoken in.

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
    ($($(#[$attribute:meta])* $verb:ident = $name:literal $(| $alias:literal)?, $form:literal;)*) => {
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
    Chat = "chat" | "send", "chat:uid:text";
    Ping = "ping", "ping[:text]";
    Ack = "ack", "ack:id[:id…]";
    GroupChat = "group_chat" | "sendgroup", "group_chat:gid:text";
    Pull = "pull", "pull[:limit]";
    Register = "register", "register:user:password";
    Login = "login", "login:user:password";
    Auth = "auth", "auth:token";
    Refresh = "refresh", "refresh";
    Logout = "logout", "logout";
    Set = "set", "set:(ack:manual|ack:auto|device:name)";
    AddFriend = "add_friend" | "addfriend", "add_friend:uid";
    RemoveFriend = "remove_friend", "remove_friend:uid";
    Friends = "friends" | "getfriends", "friends";
    CreateGroup = "create_group" | "creategroup", "create_group:name";
    JoinGroup = "join_group" | "joingroup", "join_group:gid";
    LeaveGroup = "leave_group", "leave_group:gid";
    Groups = "groups", "groups";
    GroupMembers = "group_members", "group_members:gid";
    Who = "who", "who:uid";
    Profile = "profile", "profile:uid";
    Search = "search", "search:prefix";
    WhoAmI = "whoami", "whoami";
    Help = "help", "help[:command]";
    Quit = "quit", "quit";
    #[cfg(feature = "test-hooks")]
    Panic = "panic", "panic";
}

impl Verb {
    /// The command of this name, in any case; MPIM's names are aliases.
    pub fn lookup(name: &str) -> Option<Self> {
        let named = |candidate: &str| candidate.eq_ignore_ascii_case(name);
        Self::ALL
            .into_iter()
            .find(|verb| named(verb.name()) || verb.alias().is_some_and(named))
    }

    /// Whether `word`, which names this command, is one that only MPIM has, or one that only the gateway has.
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
