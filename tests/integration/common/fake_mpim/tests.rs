//! The fake itself: it answers as MPIM was seen to answer.

use im_gateway::proto::{
    self, BindRouteRequest, C2cMsg, Code, LoginRequest, LoginResponse, PullOfflineRequest,
    PullOfflineResponse, RegisterRequest, SendRequest, SendResponse,
};

use super::*;
use crate::zookeeper_server::Zookeeper;

struct Caller(TcpStream);

impl Caller {
    fn new(fake: &FakeMpim, service: &str) -> Self {
        let stream = TcpStream::connect(fake.address(service)).expect("connect");
        stream
            .set_read_timeout(Some(crate::common::DEADLINE))
            .expect("time-out");
        Self(stream)
    }

    fn write(&mut self, service: &str, method: &str, args: &[u8]) {
        let header = RpcHeader {
            service_name: service.into(),
            method_name: method.into(),
            args_size: args.len() as u32,
            ..Default::default()
        }
        .encode_to_vec();
        let mut frame = (header.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(&header);
        frame.extend_from_slice(args);
        self.0.write_all(&frame).expect("write");
    }

    fn read<M: Message + Default>(&mut self) -> M {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).expect("a reply");
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut body).expect("a reply");
        M::decode(body.as_slice()).expect("a reply parses")
    }

    fn call<M: Message + Default>(
        &mut self,
        service: &str,
        method: &str,
        args: &impl Message,
    ) -> M {
        self.write(service, method, &args.encode_to_vec());
        self.read()
    }
}

fn code(response: &LoginResponse) -> Code {
    response.result.as_ref().expect("a result").code()
}

#[test]
fn it_is_found_at_mpims_nodes_and_logs_in_with_the_bytes_observed() {
    let world = fake();
    let nodes = Znodes::connect(&world.zookeeper.hosts(""));
    let address = world.fake.address("UserService").to_string();
    assert_eq!(
        nodes.get("/UserService/Login"),
        Some(address.clone().into_bytes())
    );
    assert_eq!(nodes.get("/UserService"), Some(Vec::new()));
    assert_eq!(nodes.get("/PresenceService/UnbindRoute"), None);

    let mut user = Caller::new(&world.fake, "UserService");
    register(&mut user, "sunyusen1");
    let mut frame = vec![0x16, 0, 0, 0, 0x0a, 0x0b];
    frame.extend_from_slice(b"UserService\x12\x05Login\x18\x13\x0a\x09sunyusen1\x12\x06123456");
    user.0.write_all(&frame).expect("write");
    let mut reply = [0; 19];
    user.0.read_exact(&mut reply).expect("a reply");
    assert_eq!(reply, *b"\x0f\0\0\0\x0a\x04\x12\x02ok\x10\x01\x1a\x05tok_1");
}

#[test]
fn what_it_does_not_understand_it_never_answers_and_what_follows_it_answers() {
    let world = fake();
    let mut user = Caller::new(&world.fake, "UserService");
    register(&mut user, "alice");
    let login = login("alice");
    user.write("UserService", "GetProfile", &[]);
    user.write("UserService", "Login", b"\x0a\xff");
    let response: LoginResponse = user.call("UserService", "Login", &login);
    assert_eq!((code(&response), response.user_id), (Code::Ok, 1));
    assert_eq!(
        world.fake.unanswered(),
        ["UserService.GetProfile", "UserService.Login"]
    );
    let mut message = Caller::new(&world.fake, "MessageService");
    message.write(
        "MessageService",
        "Send",
        b"\x0a\x06\x18\x01\x2a\x02\xff\xff",
    );
    let pulled: PullOfflineResponse = message.call("MessageService", "PullOffline", &pull());
    assert!(pulled.msg_list.is_empty());
}

#[test]
fn a_message_to_nobody_online_is_handed_out_once_and_else_published_as_it_came_to_its_nul() {
    let world = fake();
    let mut message = Caller::new(&world.fake, "MessageService");
    let send = |text: &str| SendRequest {
        msg: Some(C2cMsg {
            msg_id: 77,
            from: 2,
            to: 1,
            ts_ms: 5,
            text: text.into(),
            seq: 9,
            ..Default::default()
        }),
        ..Default::default()
    };
    let sent: SendResponse = message.call("MessageService", "Send", &send("offline"));
    let pulled: PullOfflineResponse = message.call("MessageService", "PullOffline", &pull());
    assert_eq!(pulled.msg_list[0].msg_id, sent.msg_id);
    let pulled: PullOfflineResponse = message.call("MessageService", "PullOffline", &pull());
    assert!(pulled.msg_list.is_empty());
    assert_eq!(bind(&world.fake, "gw-1#0"), Code::Ok);
    let _: SendResponse = message.call("MessageService", "Send", &send("online"));
    let (channel, payload) = world.fake.published()[0].clone();
    assert_eq!(channel, "31329");
    assert_eq!(
        C2cMsg::decode(payload.as_slice()).ok(),
        send("online").msg,
        "as it came"
    );
    let _: SendResponse = message.call("MessageService", "Send", &send("a\0b"));
    assert!(world.fake.published()[1].1.ends_with(b"a"));
}

struct Fake {
    fake: FakeMpim,
    redis: RedisServer,
    zookeeper: Zookeeper,
}

fn fake() -> Fake {
    let redis = RedisServer::start();
    let zookeeper = Zookeeper::start();
    let fake = FakeMpim::start(&zookeeper.hosts(""), &redis, Options::default());
    Fake {
        fake,
        redis,
        zookeeper,
    }
}

fn register(user: &mut Caller, name: &str) -> proto::RegisterResponse {
    let request = RegisterRequest {
        username: name.into(),
        password: "123456".into(),
        ..Default::default()
    };
    user.call("UserService", "Register", &request)
}

fn login(name: &str) -> LoginRequest {
    LoginRequest {
        username: name.into(),
        password: "123456".into(),
        ..Default::default()
    }
}

fn pull() -> PullOfflineRequest {
    PullOfflineRequest {
        user_id: 1,
        ..Default::default()
    }
}

#[test]
fn a_refusal_says_byte_for_byte_what_was_observed() {
    let mut world = fake();
    let mut user = Caller::new(&world.fake, "UserService");
    register(&mut user, "alice");
    let login = login("alice");
    let response: LoginResponse = user.call("UserService", "Login", &login);
    assert_eq!(code(&response), Code::Ok);
    user.write("UserService", "Login", &login.encode_to_vec());
    let mut reply = [0; 29];
    user.0.read_exact(&mut reply).expect("a reply");
    assert_eq!(
        reply,
        *b"\x19\0\0\0\x0a\x17\x08\x01\x12\x13user already online"
    );
    assert!(world.fake.is_online(1));
    // Everybody is offline when it has started again.
    world.fake.restart("UserService");
    assert!(!world.fake.is_online(1));
    let mut user = Caller::new(&world.fake, "UserService");
    let response: LoginResponse = user.call("UserService", "Login", &login);
    assert_eq!(code(&response), Code::Ok);
}

#[test]
fn two_calls_at_once_spoil_what_is_not_locked() {
    let mut world = fake();
    let mut callers = [0; 2].map(|_| Caller::new(&world.fake, "UserService"));
    let friends = proto::GetFriendsRequest {
        user_id: 1,
        only_friend_id: 0,
    }
    .encode_to_vec();
    while !world.fake.database_is_broken() {
        for caller in &mut callers {
            caller.write("UserService", "GetFriends", &friends);
        }
        for caller in &mut callers {
            let _: proto::GetFriendsResponse = caller.read();
        }
    }
    let failed = register(&mut callers[0], "alice").result;
    assert_eq!(failed.expect("a result").code(), Code::Internal);
    world.fake.restart("UserService");
    let mut user = Caller::new(&world.fake, "UserService");
    let registered = register(&mut user, "alice").result;
    assert_eq!(registered.expect("a result").code(), Code::Ok);

    bind(&world.fake, "gw-1#0");
    let send = SendRequest {
        msg: Some(C2cMsg {
            to: 1,
            text: "hi".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
    .encode_to_vec();
    let mut callers = [0; 2].map(|_| Caller::new(&world.fake, "MessageService"));
    for _ in 0..1000 {
        if world.fake.presence_is_wedged() {
            break;
        }
        for caller in &mut callers {
            caller.write("MessageService", "Send", &send);
        }
        let is_answered = |caller: &mut Caller| caller.0.read_exact(&mut [0; 10]).is_ok();
        for caller in &mut callers {
            let patience = Some(Duration::from_millis(200));
            caller.0.set_read_timeout(patience).expect("time-out");
            if !is_answered(caller) {
                break;
            }
        }
    }
    assert!(world.fake.presence_is_wedged());
    let unanswered = world.fake.unanswered();
    assert!(unanswered.contains(&"MessageService.Send".to_owned()));
}

fn bind(fake: &FakeMpim, gateway_id: &str) -> Code {
    let request = BindRouteRequest {
        user_id: 1,
        gateway_id: gateway_id.into(),
        ..Default::default()
    };
    let mut presence = Caller::new(fake, "PresenceService");
    let bound: proto::BindRouteResponse = presence.call("PresenceService", "BindRoute", &request);
    bound.result.expect("a result").code()
}

fn query(fake: &FakeMpim) -> (Code, String) {
    let request = proto::QueryRouteRequest { user_id: 1 };
    let mut presence = Caller::new(fake, "PresenceService");
    let known: proto::QueryRouteResponse = presence.call("PresenceService", "QueryRoute", &request);
    (known.result.expect("a result").code(), known.gateway_id)
}

#[test]
fn an_empty_route_is_none_and_presence_does_not_find_redis_again() {
    let mut world = fake();
    assert_eq!(bind(&world.fake, "gw-1#0"), Code::Ok);
    assert_eq!(query(&world.fake), (Code::Ok, "gw-1#0".into()));
    assert_eq!(bind(&world.fake, ""), Code::Ok);
    assert_eq!(query(&world.fake), (Code::NotFound, String::new()));

    world.redis.restart();
    assert_eq!(bind(&world.fake, "gw-1#0"), Code::Internal);
    assert_eq!(bind(&world.fake, "gw-1#0"), Code::Internal);
    world.fake.restart("PresenceService");
    assert_eq!(bind(&world.fake, "gw-1#0"), Code::Ok);
}

#[test]
fn groups_have_wrong_numbers_and_joining_one_is_the_end() {
    let mut world = fake();
    let mut group = Caller::new(&world.fake, "GroupService");
    let create = proto::CreateGroupRequest {
        creator_id: 1,
        group_name: "team".into(),
        ..Default::default()
    };
    for expected in [Code::Ok, Code::Invalid] {
        let created: proto::CreateGroupResponse =
            group.call("GroupService", "CreateGroup", &create);
        assert_eq!(created.group_id, 0);
        assert_eq!(created.result.expect("a result").code(), expected);
    }
    for (user_id, groups) in [(1, vec![0]), (2, vec![])] {
        let request = proto::GetUserGroupsRequest { user_id };
        let answer: proto::GetUserGroupsResponse =
            group.call("GroupService", "GetUserGroups", &request);
        assert_eq!(answer.group_ids, groups);
    }
    group.write("GroupService", "JoinGroup", &[]);
    assert!(group.0.read_exact(&mut [0; 4]).is_err(), "it has ended");
    world.fake.restart("GroupService");
    let mut group = Caller::new(&world.fake, "GroupService");
    let request = proto::GetUserGroupsRequest { user_id: 2 };
    let _: proto::GetUserGroupsResponse = group.call("GroupService", "GetUserGroups", &request);
}
