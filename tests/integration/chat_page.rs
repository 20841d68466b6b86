//! The chat page at `/` of the web listener.

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
