//! What is read, from where, and what is told of what cannot be.

use proptest::prelude::*;

use super::*;
use crate::config::value::{Seconds, Size};

fn parse_text(text: &str) -> Result<File, String> {
    parse("im.toml", text, &mut Origins::default()).map_err(lines)
}

fn with_variables(variables: &[(&str, &str)]) -> Result<File, String> {
    let environment = Environment {
        variables: variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect(),
        host_name: String::new(),
    };
    read(None, &environment)
        .map(|(values, _)| values)
        .map_err(lines)
}

fn lines(mistakes: Vec<Mistake>) -> String {
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.lines().count() == 1));
    lines.join("\n")
}

#[test]
fn all_mistakes_of_a_file_are_told_in_its_order() {
    let error =
        parse_text("[ops]\nlisten = 5\n[network]\nbacklg = 3\nbacklog = 'x'\n[colour]\nred = 1\n")
            .expect_err("four mistakes");
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 4, "{error}");
    for (line, words) in lines.iter().zip([
        "line 2: [ops] listen: 5 is not a text in quotes",
        "line 4: unknown key backlg",
        "line 5: [network] backlog: \"x\" is not a whole number",
        "line 6: unknown section [colour]",
    ]) {
        assert!(line.contains(words), "{line}");
    }
    let error = with_variables(&[
        ("IM_GATEWAY__GATEWAY_SERVICE__PORT", "many"),
        ("IM_GATEWAY__OPS__LISTN", "x"),
    ])
    .expect_err("two mistakes");
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn a_wrong_type_is_told_in_words_and_not_in_those_of_the_program() {
    for (text, words) in [
        ("[gateway_service]\nport = '6000'", "without quotes"),
        ("[gateway_service]\nport = 70000", "not between 0 and 65535"),
        ("[gateway_service]\nport = -1", "-1 is not a whole number"),
        ("[gateway_service]\nbanner = 'yes'", "true or false"),
        ("[gateway_service]\nhost = ['a']", "a list is not a text"),
        ("[limits]\nlimit_exempt = '::1'", "a list of texts such as"),
        ("[network]\ntcp_keepalive = true", "a time such as"),
        ("[network]\ntcp_keepalive = 1.5", "a time such as"),
        ("[network]\nsend_buffer_size = '1 MB'", "a size such as"),
    ] {
        let error = parse_text(text).expect_err(text);
        assert!(error.contains(words), "{error}");
        for type_name in ["u16", "u32", "invalid type", "expected"] {
            assert!(!error.contains(type_name), "{error}");
        }
    }
}

#[test]
fn a_variable_that_is_nearly_one_of_ours_is_found() {
    let environment = Environment {
        variables: [
            "IM_GATEWAY_GATEWAY_SERVICE_PORT",
            "im_gateway__gateway_service__port",
            "IMGATEWAY__OPS__LISTN",
            "IM_GATEWAY__OPS__LISTEN",
            "IM_GATEWAY_BIN",
            "PORT",
        ]
        .map(|name| (OsString::from(name), OsString::from("1")))
        .to_vec(),
        host_name: String::new(),
    };
    let found = misspelt_variables(&environment);
    let meant: Vec<(&str, &str)> = found
        .iter()
        .map(|(name, meant)| (name.as_str(), meant.as_str()))
        .collect();
    assert_eq!(
        meant,
        [
            ("IMGATEWAY__OPS__LISTN", "IM_GATEWAY__OPS__LISTEN"),
            (
                "IM_GATEWAY_GATEWAY_SERVICE_PORT",
                "IM_GATEWAY__GATEWAY_SERVICE__PORT"
            ),
            (
                "im_gateway__gateway_service__port",
                "IM_GATEWAY__GATEWAY_SERVICE__PORT"
            ),
        ]
    );
}

#[test]
fn keys_that_are_not_written_keep_their_defaults() {
    let values = parse_text("[gateway_service]\nport = 7000\n").expect("valid");
    let mut expected = File::default();
    expected.gateway_service.port = 7000;
    assert_eq!(values, expected);
}

#[test]
fn times_and_sizes_may_be_integers_in_their_units_or_texts_with_a_unit() {
    let values = parse_text(
        "[network]\ntcp_keepalive = 90\nsend_buffer_size = 32768\nreceive_buffer_size = '16KiB'\n\
         [load_balancer]\nretry_interval = 250\n[rpc]\nrpc_timeout = '500ms'\n",
    )
    .expect("valid");
    assert_eq!(values.network.tcp_keepalive, Seconds::from_ms(90_000));
    assert_eq!(values.network.send_buffer_size, Size::from_bytes(32_768));
    assert_eq!(values.network.receive_buffer_size, Size::from_kib(16));
    assert_eq!(values.load_balancer.retry_interval.as_ms(), 250);
    assert_eq!(values.rpc.rpc_timeout.as_ms(), 500);
}

#[test]
fn an_unknown_key_is_named_with_its_line_its_section_and_the_nearest_key() {
    assert_eq!(
        parse_text("# one\n[gateway_service]\nmax_conections = 5\n"),
        Err(
            "im.toml line 3: unknown key max_conections in [gateway_service], the nearest is max_connections"
                .to_owned()
        )
    );
}

#[test]
fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
    let error = parse_text("[network]\nport = 5\n").expect_err("wrong section");
    assert_eq!(
        error,
        "im.toml line 2: unknown key port in [network]; it belongs to [gateway_service]"
    );
    let error = parse_text("port = 5\n").expect_err("no section");
    assert!(
        error.contains("belongs to the section [gateway_service]"),
        "{error}"
    );
}

#[test]
fn an_unknown_section_is_told_the_nearest_one() {
    let error = parse_text("\n[netwrok]\n").expect_err("unknown section");
    assert_eq!(
        error,
        "im.toml line 2: unknown section [netwrok], the nearest is [network]"
    );
}

#[test]
fn a_wrong_type_is_named_with_its_line_and_key() {
    for (text, start) in [
        (
            "[gateway_service]\n\nport = 'x'\n",
            "im.toml line 3: [gateway_service] port: ",
        ),
        (
            "[gateway_service]\nport = 70000\n",
            "im.toml line 2: [gateway_service] port: ",
        ),
        (
            "[network]\ntcp_keepalive = '5 days'\n",
            "im.toml line 2: [network] tcp_keepalive: ",
        ),
        (
            "[network]\ntcp_keepalive = -5\n",
            "im.toml line 2: [network] tcp_keepalive: ",
        ),
        (
            "[limits]\nlimit_exempt = [\n'::1',\n7]\n",
            "im.toml line 4: [limits] limit_exempt: ",
        ),
        ("network = 5\n", "im.toml line 1: network is a section"),
    ] {
        let error = parse_text(text).expect_err(text);
        assert!(error.starts_with(start), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn broken_toml_is_named_with_its_line() {
    for text in [
        "[network]\nbacklog = \n",
        "[network]\nbacklog = 1\nbacklog = 2\n",
        "[ops]\n[",
    ] {
        let error = parse_text(text).expect_err(text);
        assert!(error.starts_with("im.toml line "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn the_environment_overrides_by_the_type_of_the_key() {
    let values = with_variables(&[
        ("IM_GATEWAY__GATEWAY_SERVICE__PORT", "7000"),
        ("IM_GATEWAY__GATEWAY_SERVICE__BANNER", "false"),
        ("IM_GATEWAY__GATEWAY_SERVICE__CONNECTION_TIMEOUT", "60"),
        ("IM_GATEWAY__LIMITS__OUTBOUND_QUEUE_BYTES", "2MiB"),
        ("IM_GATEWAY__LIMITS__LIMIT_EXEMPT", "10.0.0.0/8, ::1/128"),
        ("UNRELATED", "x"),
    ])
    .expect("valid");
    assert_eq!(values.gateway_service.port, 7000);
    assert!(!values.gateway_service.banner);
    assert_eq!(values.gateway_service.connection_timeout.as_ms(), 60_000);
    assert_eq!(values.limits.outbound_queue_bytes, Size::from_mib(2));
    assert_eq!(values.limits.limit_exempt, ["10.0.0.0/8", "::1/128"]);
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let values = with_variables(&[("IM_GATEWAY__GATEWAY_SERVICE__PORT", "")]).expect("valid");
    assert_eq!(values, File::default());
}

#[test]
fn an_unknown_variable_is_told_the_nearest_one() {
    let error = with_variables(&[("IM_GATEWAY__GATEWAY_SERVICE__PROT", "1")])
        .expect_err("unknown variable");
    assert_eq!(
        error,
        "environment variable IM_GATEWAY__GATEWAY_SERVICE__PROT: it names no key, \
         the nearest is IM_GATEWAY__GATEWAY_SERVICE__PORT"
    );
}

#[test]
fn a_wrong_value_in_the_environment_names_the_variable() {
    let error =
        with_variables(&[("IM_GATEWAY__GATEWAY_SERVICE__PORT", "many")]).expect_err("wrong value");
    assert_eq!(
        error,
        "environment variable IM_GATEWAY__GATEWAY_SERVICE__PORT: \"many\" is not a whole number"
    );
}

#[test]
fn the_environment_wins_over_the_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("im.toml");
    std::fs::write(&path, "[gateway_service]\nport = 1\nhost = '::1'\n").expect("written");
    let environment = Environment {
        variables: vec![("IM_GATEWAY__GATEWAY_SERVICE__PORT".into(), "2".into())],
        host_name: String::new(),
    };
    let (values, origins) = read(Some(&path), &environment).expect("valid");
    assert_eq!(values.gateway_service.port, 2);
    assert_eq!(values.gateway_service.host, "::1");
    assert_eq!(
        origins.describe("gateway_service", "port"),
        "environment variable IM_GATEWAY__GATEWAY_SERVICE__PORT: [gateway_service] port"
    );
    assert!(
        origins
            .describe("gateway_service", "host")
            .contains("line 3")
    );
    assert_eq!(
        origins.describe("gateway_service", "banner"),
        "[gateway_service] banner"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_configuration_error() {
    let environment = Environment::default();
    for path in ["/nonexistent/im.toml", "/", "/dev/zero"] {
        let error = lines(read(Some(Path::new(path)), &environment).expect_err(path));
        assert!(error.contains(path), "{error}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text: String) {
        let _ = parse_text(&text);
    }

    #[test]
    fn no_variable_makes_the_reader_panic(name: String, value: String) {
        let _ = with_variables(&[(&format!("{PREFIX}{name}"), &value)]);
    }

    #[test]
    fn every_error_is_one_line(section in "[a-z_\\\\\"]{0,12}", key in "\\PC{0,12}", value in "\\PC{0,12}") {
        if let Err(error) = parse_text(&format!("[{section}]\n{key} = {value}\n")) {
            prop_assert_eq!(error.lines().count(), 1, "{}", error);
        }
    }
}
