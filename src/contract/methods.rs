//! Every method of every service, once: its messages, its wire names, and whether repeating it is
//! harmless.

use crate::proto::{self, Code};

/// A service of the backend contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Accounts, passwords, contacts.
    User,
    /// Which core each device is connected to.
    Presence,
    /// The message store.
    Message,
    /// Groups and their members.
    Group,
}

impl Service {
    /// All services.
    pub const ALL: [Self; 4] = [Self::User, Self::Presence, Self::Message, Self::Group];

    /// The word for it in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Presence => "presence",
            Self::Message => "message",
            Self::Group => "group",
        }
    }

    /// The name on the wire and in service discovery.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "UserService",
            Self::Presence => "PresenceService",
            Self::Message => "MessageService",
            Self::Group => "GroupService",
        }
    }
}

/// Why arguments could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadCall {
    /// There is no such method.
    UnknownMethod,
    /// The arguments do not parse.
    Malformed,
}

/// What every response has.
pub trait Answer {
    /// How the call ended, as the service sees it.
    fn result(&self) -> Option<&proto::Result>;

    /// Its code. An answer without a result, or with a code that does not exist, is a broken one.
    fn code(&self) -> Code {
        let code = self.result().map(|result| Code::try_from(result.code));
        code.and_then(std::result::Result::ok)
            .unwrap_or(Code::Internal)
    }
}

impl Answer for proto::SendBatchResult {
    fn result(&self) -> Option<&proto::Result> {
        self.result.as_ref()
    }
}

/// A method of a service, as a type: ties its request to its response.
pub trait Method: 'static {
    /// What is asked.
    type Request: prost::Message + Into<Request>;
    /// What is answered.
    type Response: prost::Message + Default + Answer + TryFrom<Response, Error = ()>;
    /// The service it belongs to.
    const SERVICE: Service;
    /// Its name on the wire.
    const NAME: &'static str;
    /// Its number among the methods of all services.
    const INDEX: usize;
    /// Calling it twice does no more than calling it once, so a call whose fate is unknown may be
    /// repeated.
    const IDEMPOTENT: bool;
}

macro_rules! methods {
    ($($service:ident {
        $($name:ident($request:ident) -> $response:ident, idempotent: $idempotent:literal;)*
    })*) => {
        /// The methods as types, for [`Backend::call`](crate::contract::backend::Backend::call).
        pub mod method {
            use super::{Method, Service, proto};
            $($(
                #[doc = concat!("`", stringify!($service), "Service.", stringify!($name), "`.")]
                pub enum $name {}
                impl Method for $name {
                    type Request = proto::$request;
                    type Response = proto::$response;
                    const SERVICE: Service = Service::$service;
                    const NAME: &'static str = stringify!($name);
                    const IDEMPOTENT: bool = $idempotent;
                    const INDEX: usize = super::Number::$name as usize;
                }
            )*)*
        }

        #[allow(non_camel_case_types, reason = "named after the methods, to number them")]
        enum Number { $($($name,)*)* }

        /// The names of all methods, by their numbers, each with its service.
        pub const METHODS: &[(Service, &str)] = &[
            $($((Service::$service, stringify!($name)),)*)*
        ];

        /// Any request, for services that take them all in one queue.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "a variant for each method, by its name")]
        pub enum Request { $($($name(proto::$request),)*)* }

        /// Any response: the same variant as its request.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "a variant for each method, by its name")]
        pub enum Response { $($($name(proto::$response),)*)* }

        $($(
            impl From<proto::$request> for Request {
                fn from(request: proto::$request) -> Self { Self::$name(request) }
            }
            impl From<proto::$response> for Response {
                fn from(response: proto::$response) -> Self { Self::$name(response) }
            }
            impl Answer for proto::$response {
                fn result(&self) -> Option<&proto::Result> {
                    self.result.as_ref()
                }
            }
            impl TryFrom<Response> for proto::$response {
                type Error = ();
                fn try_from(response: Response) -> Result<Self, ()> {
                    match response {
                        Response::$name(response) => Ok(response),
                        _ => Err(()),
                    }
                }
            }
        )*)*

        impl Request {
            /// The request to `method` with the arguments `args`, as they came over the wire.
            ///
            /// # Errors
            /// A method that does not exist, arguments that do not parse.
            pub fn decode(service: Service, method: &str, args: &[u8]) -> Result<Self, BadCall> {
                match (service, method) {
                    $($((Service::$service, stringify!($name)) => {
                        <proto::$request as prost::Message>::decode(args)
                            .map(Self::$name)
                            .map_err(|_| BadCall::Malformed)
                    })*)*
                    _ => Err(BadCall::UnknownMethod),
                }
            }

            /// The response to this request that carries nothing but `result`.
            #[allow(clippy::needless_update, reason = "some responses are nothing but a result")]
            pub fn failed(&self, result: proto::Result) -> Response {
                match self {
                    $($(Self::$name(_) => Response::$name(proto::$response {
                        result: Some(result),
                        ..Default::default()
                    }),)*)*
                }
            }
        }

        impl Response {
            /// How long it is on the wire, in bytes.
            pub fn encoded_len(&self) -> usize {
                match self {
                    $($(Self::$name(response) => prost::Message::encoded_len(response),)*)*
                }
            }

            /// Appends it as it travels.
            pub fn encode(&self, into: &mut Vec<u8>) {
                match self {
                    $($(Self::$name(response) => prost::Message::encode_raw(response, into),)*)*
                }
            }
        }
    };
}

methods! {
    User {
        Login(LoginRequest) -> LoginResponse, idempotent: true;
        Register(RegisterRequest) -> RegisterResponse, idempotent: false;
        Logout(LogoutRequest) -> LogoutResponse, idempotent: true;
        VerifyToken(VerifyTokenRequest) -> VerifyTokenResponse, idempotent: true;
        CheckSession(CheckSessionRequest) -> CheckSessionResponse, idempotent: true;
        EndSession(EndSessionRequest) -> EndSessionResponse, idempotent: true;
        EndAllSessions(EndAllSessionsRequest) -> EndAllSessionsResponse, idempotent: true;
        ChangePassword(ChangePasswordRequest) -> ChangePasswordResponse, idempotent: true;
        AddFriend(AddFriendRequest) -> AddFriendResponse, idempotent: true;
        RemoveFriend(RemoveFriendRequest) -> RemoveFriendResponse, idempotent: true;
        GetFriends(GetFriendsRequest) -> GetFriendsResponse, idempotent: true;
        GetProfile(GetProfileRequest) -> GetProfileResponse, idempotent: true;
        Search(SearchRequest) -> SearchResponse, idempotent: true;
    }
    Presence {
        BindRoute(BindRouteRequest) -> BindRouteResponse, idempotent: true;
        UnbindRoute(UnbindRouteRequest) -> UnbindRouteResponse, idempotent: true;
        RefreshRoutes(RefreshRoutesRequest) -> RefreshRoutesResponse, idempotent: true;
        QueryRoute(QueryRouteRequest) -> QueryRouteResponse, idempotent: true;
        Deliver(DeliverRequest) -> DeliverResponse, idempotent: true;
    }
    Message {
        Send(SendRequest) -> SendResponse, idempotent: true;
        SendGroup(SendGroupRequest) -> SendGroupResponse, idempotent: true;
        SendBatch(SendBatchRequest) -> SendBatchResponse, idempotent: true;
        PullOffline(PullOfflineRequest) -> PullOfflineResponse, idempotent: true;
        PullGroup(PullGroupRequest) -> PullGroupResponse, idempotent: true;
        Ack(AckRequest) -> AckResponse, idempotent: true;
        AckBatch(AckBatchRequest) -> AckBatchResponse, idempotent: true;
    }
    Group {
        CreateGroup(CreateGroupRequest) -> CreateGroupResponse, idempotent: false;
        JoinGroup(JoinGroupRequest) -> JoinGroupResponse, idempotent: true;
        LeaveGroup(LeaveGroupRequest) -> LeaveGroupResponse, idempotent: false;
        GetGroupMembers(GetGroupMembersRequest) -> GetGroupMembersResponse, idempotent: true;
        GetUserGroups(GetUserGroupsRequest) -> GetUserGroupsResponse, idempotent: true;
        GetGroupInfo(GetGroupInfoRequest) -> GetGroupInfoResponse, idempotent: true;
    }
}
