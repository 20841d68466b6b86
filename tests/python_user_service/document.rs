//! The bytes printed in `docs/backends.md`.

use std::{fmt::Write as _, fs, io::Read, net::Shutdown, path::Path};

use im_gateway::{
    proto,
    rpc::wire::mprpc::{self, CallHead},
};
use prost::Message;

use crate::service::{Form, Service};

fn backends_document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backends.md");
    fs::read_to_string(path).expect("the document")
}

/// The bytes of the block that follows the line `title` in the document: the hexadecimal numbers
/// before each `|`.
fn dumped(document: &str, title: &str) -> Vec<u8> {
    let (_, rest) = document
        .split_once(&format!("\n{title}\n"))
        .unwrap_or_else(|| panic!("docs/backends.md has no line {title:?}"));
    rest.trim_start_matches('\n')
        .lines()
        .take_while(|line| line.starts_with("    "))
        .filter_map(|line| line.split_once('|'))
        .flat_map(|(bytes, _)| bytes.split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).expect("a hexadecimal number"))
        .collect()
}

#[test]
fn the_bytes_in_the_document_are_those_that_travel() {
    let document = backends_document();
    let request = proto::LoginRequest {
        username: b"alice".to_vec(),
        password: b"wonderland".to_vec(),
        ..Default::default()
    };
    let service = Service::start();
    service
        .connect(Form::Classic)
        .register("alice", "wonderland");
    for (call_id, timeout_ms, call_title, reply_title) in [
        (0, 0, "The call, for a classic reply:", "The classic reply:"),
        (
            7,
            3000,
            "The call, for a reply with an id:",
            "The reply with an id:",
        ),
    ] {
        let head = CallHead {
            service: "UserService",
            method: "Login",
            call_id,
            timeout_ms,
        };
        let mut call = Vec::new();
        mprpc::write_call(head, &request, &mut call);
        assert_same(&dumped(&document, call_title), &call, call_title);

        let mut connection = service.connect(Form::Classic);
        connection.send(&call);
        connection.stream.shutdown(Shutdown::Write).expect("open");
        let mut reply = Vec::new();
        connection.stream.read_to_end(&mut reply).expect("a reply");
        assert_same(&dumped(&document, reply_title), &reply, reply_title);
    }
}

#[test]
fn the_pushes_in_the_document_are_pushes() {
    let document = backends_document();
    let push = proto::PushMessage {
        msg_id: 1001,
        from: 1,
        to: 2,
        ts_ms: 1_795_249_088_327,
        text: "hello".into(),
        seq: 5,
        ..Default::default()
    };
    let title = "One push:";
    assert_same(&dumped(&document, title), &push.encode_to_vec(), title);
    let as_mpim = proto::C2cMsg::decode(&*dumped(&document, title)).expect("a C2CMsg as well");
    assert_eq!((as_mpim.seq, as_mpim.text.as_str()), (5, "hello"));
    let next = proto::PushMessage {
        msg_id: 1002,
        text: "again".into(),
        seq: 6,
        ..push.clone()
    };
    let batch = proto::PushBatch {
        messages: vec![push, next],
    };
    let title = "A batch of it and another one:";
    assert_same(&dumped(&document, title), &batch.encode_to_vec(), title);
}

fn assert_same(shown: &[u8], real: &[u8], title: &str) {
    let hexadecimal = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x} ");
            text
        })
    };
    assert_eq!(hexadecimal(shown), hexadecimal(real), "{title}");
}
