//! The fake itself: it answers as MPIM was seen to answer.

use im_gateway::proto::{
    BindRouteRequest, C2cMsg, Code, LoginRequest, LoginResponse, PullOfflineRequest,
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
fn it_answers_as_mpim_does() {
    let redis = RedisServer::start();
    let zookeeper = Zookeeper::start();
    let fake = FakeMpim::start(&zookeeper.hosts(""), &redis, Options::default());

    let nodes = Znodes::connect(&zookeeper.hosts(""));
    let address = fake.address("UserService").to_string();
    assert_eq!(
        nodes.get("/UserService/Login"),
        Some(address.clone().into_bytes())
    );
    assert_eq!(nodes.get("/UserService"), Some(Vec::new()));
    assert_eq!(nodes.get("/PresenceService/UnbindRoute"), None);

    // The observed exchange, byte for byte.
    let mut user = Caller::new(&fake, "UserService");
    let credentials = RegisterRequest {
        username: "sunyusen1".into(),
        password: "123456".into(),
        ..Default::default()
    };
    user.write("UserService", "Register", &credentials.encode_to_vec());
    let _: LoginResponse = user.read();
    let mut frame = vec![0x16, 0, 0, 0, 0x0a, 0x0b];
    frame.extend_from_slice(b"UserService\x12\x05Login\x18\x13\x0a\x09sunyusen1\x12\x06123456");
    user.0.write_all(&frame).expect("write");
    let mut reply = [0; 19];
    user.0.read_exact(&mut reply).expect("a reply");
    assert_eq!(reply, *b"\x0f\0\0\0\x0a\x04\x12\x02ok\x10\x01\x1a\x05tok_1");

    // What it does not understand it never answers; what follows on the connection is answered.
    let login = LoginRequest {
        username: "sunyusen1".into(),
        password: "123456".into(),
        ..Default::default()
    };
    user.write("UserService", "GetProfile", &[]);
    user.write("UserService", "Login", b"\x0a\xff");
    let response: LoginResponse = user.call("UserService", "Login", &login);
    assert_eq!((code(&response), response.user_id), (Code::Invalid, 1));
    assert_eq!(
        fake.unanswered(),
        ["UserService.GetProfile", "UserService.Login"]
    );
    let mut message = Caller::new(&fake, "MessageService");
    message.write(
        "MessageService",
        "Send",
        b"\x0a\x06\x18\x01\x2a\x02\xff\xff",
    );
    let pull = PullOfflineRequest {
        user_id: 1,
        ..Default::default()
    };
    let pulled: PullOfflineResponse = message.call("MessageService", "PullOffline", &pull);
    assert!(pulled.msg_list.is_empty());

    // Offline: a row, handed out once. Online: published as it came, cut at a NUL, unknown fields and all.
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
    let pulled: PullOfflineResponse = message.call("MessageService", "PullOffline", &pull);
    assert_eq!(pulled.msg_list[0].msg_id, sent.msg_id);
    let pulled: PullOfflineResponse = message.call("MessageService", "PullOffline", &pull);
    assert!(pulled.msg_list.is_empty());
    let mut presence = Caller::new(&fake, "PresenceService");
    let bind = BindRouteRequest {
        user_id: 1,
        gateway_id: "gw-1#0".into(),
        ..Default::default()
    };
    let _: LoginResponse = presence.call("PresenceService", "BindRoute", &bind);
    let _: SendResponse = message.call("MessageService", "Send", &send("online"));
    let (channel, payload) = fake.published()[0].clone();
    assert_eq!(channel, "31329");
    assert_eq!(
        C2cMsg::decode(payload.as_slice()).ok(),
        send("online").msg,
        "as it came"
    );
    let _: SendResponse = message.call("MessageService", "Send", &send("a\0b"));
    assert!(fake.published()[1].1.ends_with(b"a"));
}
