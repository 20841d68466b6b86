//! The chat page at `/` of the web listener.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::cutting_proxy::CuttingProxy;
use crate::common::{Gateway, http};

#[test]
fn the_page_is_part_of_the_program_and_loads_nothing_from_elsewhere() {
    let gateway = Gateway::start_with_web(|_| {});
    for (path, content_type, file) in [
        ("/", "text/html", "chat_page/index.html"),
        ("/page.css", "text/css", "chat_page/page.css"),
        ("/page.js", "text/javascript", "chat_page/page.js"),
        (
            "/im-gateway.js",
            "text/javascript",
            "javascript/im-gateway.js",
        ),
    ] {
        let answer = http::get(gateway.web_address(), path).expect("an answer");
        assert_eq!(answer.status, 200, "{path}");
        let text = std::fs::read_to_string(format!("clients/{file}")).expect("a file");
        assert_eq!(answer.body, text, "{path}");
        let content_type = format!("Content-Type: {content_type}; charset=utf-8\r\n");
        assert!(answer.head.contains(&content_type), "{}", answer.head);
        let policy = "Content-Security-Policy: default-src 'none'; script-src 'self';";
        assert!(answer.head.contains(policy), "{}", answer.head);
    }
    let posted = http::request(gateway.web_address(), "POST", "/").expect("an answer");
    assert_eq!(posted.status, 405);
}

#[test]
fn there_is_no_page_where_it_is_turned_off() {
    let gateway = Gateway::start_with_web(|config| {
        config.set("web", "page", false);
    });
    for path in ["/", "/page.js", "/im-gateway.js"] {
        let answer = http::get(gateway.web_address(), path).expect("an answer");
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[test]
fn the_page_keeps_each_message_once_and_what_is_still_to_be_sent() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/conversations.mjs");
    let output = Command::new("node").arg(script).output();
    let output = output.expect("node is needed; on Debian: apt-get install nodejs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.stdout, b"done\n", "{errors}");
}

/// The script is the people, in a headless browser and with a line client; the gateway is killed
/// and started where it says so. `SCREENSHOTS=folder` has it leave pictures there.
#[test]
fn people_chat_through_the_page_in_a_browser() {
    let mut gateway = Gateway::start_with_web(|config| {
        config.cores(2);
    });
    // The page stays where it is, the gateway does not.
    let proxy = CuttingProxy::start_uncut(gateway.web_address());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/page.mjs");
    let mut people = Command::new("node")
        .arg(script)
        .arg(format!("http://{}/", proxy.address()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node is needed; on Debian: apt-get install nodejs");
    let mut done = people.stdin.take().expect("its input");
    let output = BufReader::new(people.stdout.take().expect("its output"));
    let mut last = String::new();
    for line in output.lines().map_while(Result::ok) {
        match line.as_str() {
            "kill" => gateway.kill_9(),
            "start" => {
                gateway.restart();
                proxy.retarget(gateway.web_address());
            }
            _ => last = line,
        }
        if last.is_empty() {
            writeln!(done, "{}", gateway.address()).expect("it reads");
        }
    }
    assert!(people.wait().expect("its end").success());
    assert_eq!(last, "done");
}
