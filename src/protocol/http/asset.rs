//! The chat page: its files, which are part of the program, and how they are answered.
//!
//! Nothing in it comes from elsewhere, and browsers are told to load nothing from elsewhere.

use super::response::Status;

/// A file of the page.
#[derive(Debug)]
pub struct Asset {
    content_type: &'static str,
    /// Its text.
    pub body: &'static str,
}

const HTML: &str = "text/html";
const CSS: &str = "text/css";
const JAVASCRIPT: &str = "text/javascript";

/// The files by their paths.
const ASSETS: [(&str, Asset); 5] = [
    (
        "/",
        asset(HTML, include_str!("../../../clients/chat_page/index.html")),
    ),
    (
        "/page.css",
        asset(CSS, include_str!("../../../clients/chat_page/page.css")),
    ),
    (
        "/page.js",
        asset(
            JAVASCRIPT,
            include_str!("../../../clients/chat_page/page.js"),
        ),
    ),
    (
        "/conversations.js",
        asset(
            JAVASCRIPT,
            include_str!("../../../clients/chat_page/conversations.js"),
        ),
    ),
    (
        "/im-gateway.js",
        asset(
            JAVASCRIPT,
            include_str!("../../../clients/javascript/im-gateway.js"),
        ),
    ),
];

const fn asset(content_type: &'static str, body: &'static str) -> Asset {
    Asset { content_type, body }
}

impl Asset {
    /// The file at `path`.
    pub fn at(path: &str) -> Option<&'static Self> {
        let mut assets = ASSETS.iter();
        assets.find_map(|(own, asset)| (*own == path).then_some(asset))
    }

    /// The head of the answer that has this file for its body; then the connection is closed.
    pub fn head(&self) -> String {
        format!(
            "HTTP/1.1 {}\r\nContent-Type: {}; charset=utf-8\r\nContent-Length: {}\r\n\
             Cache-Control: no-cache\r\nContent-Security-Policy: default-src 'none'; \
             script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'\r\n\
             X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
             Cross-Origin-Opener-Policy: same-origin\r\nConnection: close\r\n\r\n",
            Status::Ok.line(),
            self.content_type,
            self.body.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a browser takes a text for markup or code.
    const INJECTIONS: [&str; 9] = [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "eval(",
        "Function(",
        "style=",
        "://",
    ];

    #[test]
    fn the_page_takes_no_text_for_markup_and_names_no_other_place() {
        for path in ["/", "/page.css", "/page.js", "/conversations.js"] {
            let body = Asset::at(path).expect("a file").body;
            for word in INJECTIONS {
                assert!(!body.contains(word), "{path}: {word}");
            }
        }
        assert!(Asset::at("/..").is_none());
        assert!(Asset::at("/index.html").is_none());
    }
}
