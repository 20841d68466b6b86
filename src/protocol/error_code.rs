//! The codes of `-ERR` replies: one closed set, the same word on the wire and as metric label.

macro_rules! error_codes {
    ($($(#[$documentation:meta])* $name:ident = $word:literal;)*) => {
        /// Why a command was not carried out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$documentation])* $name,)* }

        impl ErrorCode {
            /// All codes, in the order of their discriminants.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$name,)*];
            /// How many codes there are.
            pub const COUNT: usize = [$($word,)*].len();

            /// The word on the wire.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

error_codes! {
    /// The line is no command at all: bad bytes, a bad tag, no command word.
    BadRequest = "BAD_REQUEST";
    /// No command has this name.
    UnknownCommand = "UNKNOWN_COMMAND";
    /// Too few or too many arguments, or one that cannot be what it stands for.
    BadArgument = "BAD_ARGUMENT";
    /// The line is longer than allowed; the connection is closed.
    LineTooLong = "LINE_TOO_LONG";
    /// The command needs a login.
    NotLoggedIn = "NOT_LOGGED_IN";
    /// A login on a connection that has one.
    AlreadyLoggedIn = "ALREADY_LOGGED_IN";
    /// Wrong password, unknown user or bad token: which, is not told.
    AuthFailed = "AUTH_FAILED";
    /// The token was good once.
    TokenExpired = "TOKEN_EXPIRED";
    /// The name is taken.
    UserExists = "USER_EXISTS";
    /// No such user or group.
    NotFound = "NOT_FOUND";
    /// Only for others, such as the members of a group.
    Forbidden = "FORBIDDEN";
    /// Too many attempts; the reply says when to come back.
    RateLimited = "RATE_LIMITED";
    /// The gateway, or the client's address, has as many connections as it may.
    TooManyConnections = "TOO_MANY_CONNECTIONS";
    /// No instance of the service can be reached.
    BackendUnavailable = "BACKEND_UNAVAILABLE";
    /// The service did not answer in time; whether it acted is unknown.
    Timeout = "TIMEOUT";
    /// The service, or the receiver's inbox, is full.
    Overloaded = "OVERLOADED";
    /// No service offers this.
    Unsupported = "UNSUPPORTED";
    /// The gateway is going down; another one, or a later one, will serve.
    ShuttingDown = "SHUTTING_DOWN";
    /// A fault on our side.
    Internal = "INTERNAL";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_index_the_list_of_all() {
        for (index, code) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index);
        }
    }

    #[test]
    fn words_are_those_of_the_contract() {
        let words: Vec<_> = ErrorCode::ALL.iter().map(|code| code.word()).collect();
        assert_eq!(
            words.join(" "),
            "BAD_REQUEST UNKNOWN_COMMAND BAD_ARGUMENT LINE_TOO_LONG NOT_LOGGED_IN ALREADY_LOGGED_IN AUTH_FAILED \
             TOKEN_EXPIRED USER_EXISTS NOT_FOUND FORBIDDEN RATE_LIMITED TOO_MANY_CONNECTIONS BACKEND_UNAVAILABLE TIMEOUT \
             OVERLOADED UNSUPPORTED SHUTTING_DOWN INTERNAL"
        );
    }
}
