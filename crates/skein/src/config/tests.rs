use super::*;

const MACHINE: Available = Available { bytes: 8 << 30, by_cgroup: false };

fn file(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("skein.toml"), text).unwrap();
    Config::load(None, dir.path())
}

fn message(result: Result<impl Sized, ConfigError>) -> String {
    match result {
        Ok(_) => panic!("accepted"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn the_defaults_are_the_ports_everybody_knows() {
    let dir = tempfile::tempdir().unwrap();
    let checked = Config::load(None, dir.path()).unwrap().check(MACHINE).unwrap();
    assert_eq!((checked.http_addr.port(), checked.admin_addr.port()), (7070, 9990));
    assert!(checked.http_addr.ip().is_unspecified());
    assert_eq!(checked.memory.budget, 2 << 30);
    assert_eq!(checked.request_timeout, Duration::from_secs(5));
    assert!(!checked.solo);
}

#[test]
fn flags_lie_over_the_file_and_the_file_over_the_defaults() {
    let config =
        file("http_addr = '127.0.0.1:1'\nadmin_addr = '127.0.0.1:2'\nrequest_timeout = '7s'\n").unwrap();
    let settings = Settings { http_addr: Some("127.0.0.1:3".into()), solo: true, ..Settings::default() };
    let config = config.overlay(&settings);
    assert_eq!(config.http_addr, "127.0.0.1:3");
    assert_eq!(config.admin_addr, "127.0.0.1:2");
    assert_eq!(config.request_timeout, Span(Duration::from_secs(7)));
    assert_eq!(config.memory, Config::default().memory);
    assert!(config.solo);
}

#[test]
fn a_misspelt_setting_is_named_with_its_line() {
    let text = message(file("solo = true\nhtpp_addr = ':1'\n"));
    assert!(text.contains("line 2") && text.contains("htpp_addr") && text.contains("http_addr"), "{text}");
}

#[test]
fn a_value_of_the_wrong_kind_teaches_the_right_one() {
    let text = message(file("memory = 'lots'\n"));
    assert!(text.contains("25%") && text.contains("line 1"), "{text}");
    let text = message(file("request_timeout = '5'\n"));
    assert!(text.contains("5s"), "{text}");
}

#[test]
fn a_named_file_has_to_exist() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("other.toml");
    assert!(
        matches!(Config::load(Some(&missing), dir.path()), Err(ConfigError::Read { path, .. }) if path == missing)
    );
}

#[test]
fn settings_that_cannot_work_are_refused_with_advice() {
    let cases = [
        (Config { http_addr: ":9990".into(), ..Config::default() }, "different ports"),
        (Config { http_addr: ":70700".into(), ..Config::default() }, "65535"),
        (Config { admin_addr: "9990".into(), ..Config::default() }, ":7070"),
        (Config { request_timeout: Span(Duration::ZERO), ..Config::default() }, "try 5s"),
        (Config { memory: Memory::Bytes(Bytes(1 << 20)), ..Config::default() }, "128 MiB"),
        (Config { share_http_addr: Some("db1".into()), ..Config::default() }, "host:port"),
        (Config { share_peer_addr: Some("db1".into()), ..Config::default() }, "host:port"),
        (Config { peer_addr: Some(":7070".into()), ..Config::default() }, ":6278 for peers"),
        (Config { hail: vec!["db1:6278".into()], ..Config::default() }, "has no ="),
        (Config { hail: vec!["0xZ=db1:6278".into()], ..Config::default() }, "its ID"),
        (Config { hail: vec!["0x1=db1".into()], ..Config::default() }, "host:port"),
        (
            Config { solo: true, hail: vec!["0x1=db1:6278".into()], ..Config::default() },
            "leave one of them out",
        ),
        (Config { log_segment: Bytes(1 << 10), ..Config::default() }, "try 64MiB"),
        (Config { log_segment: Bytes((1 << 20) + 1), ..Config::default() }, "4KiB"),
    ];
    for (config, advice) in cases {
        let text = message(config.check(MACHINE));
        assert!(text.contains(advice), "{text}");
    }
}

#[test]
fn peers_are_taken_at_the_usual_port_unless_this_host_is_alone() {
    let peer_addr = |config: Config| config.check(MACHINE).unwrap().peer_addr;
    assert_eq!(peer_addr(Config::default()).map(|addr| addr.port()), Some(6278));
    assert_eq!(peer_addr(Config { solo: true, ..Config::default() }), None);
    let asked = Config { solo: true, peer_addr: Some("127.0.0.1:9".into()), ..Config::default() };
    assert_eq!(peer_addr(asked), "127.0.0.1:9".parse().ok());
    let hail = Config { hail: vec!["0xA=db1:6278".into(), "2=[::1]:9".into()], ..Config::default() };
    let expected = vec![(HostId(10), "db1:6278".to_owned()), (HostId(2), "[::1]:9".to_owned())];
    assert_eq!(hail.check(MACHINE).unwrap().hail, expected);
}

#[test]
fn two_free_ports_are_not_the_same_port() {
    let config =
        Config { http_addr: "127.0.0.1:0".into(), admin_addr: "127.0.0.1:0".into(), ..Config::default() };
    let checked = config.check(MACHINE).unwrap();
    assert_eq!(checked.share_http_addr, None);
}

#[test]
fn what_others_are_told_is_what_was_said_or_an_address_they_can_use() {
    let shared = |config: Config| config.check(MACHINE).unwrap().share_http_addr.unwrap();
    assert_eq!(shared(Config { http_addr: "127.0.0.1:7070".into(), ..Config::default() }), "127.0.0.1:7070");
    let wildcard = shared(Config::default());
    assert!(wildcard.ends_with(":7070") && !wildcard.starts_with('[') && wildcard.len() > 5, "{wildcard}");
    let said = Config { share_http_addr: Some("db1.example.com:80".into()), ..Config::default() };
    assert_eq!(shared(said), "db1.example.com:80");
}

#[test]
fn the_documented_file_is_the_defaults_and_names_every_setting() {
    let text = include_str!("../../../../docs/skein.toml");
    assert_eq!(file(text).unwrap(), Config::default());
    // What serde lists when it meets a setting it does not know is all there are.
    let known = message(file("no_such_setting = 1\n"));
    let (_, known) = known.split_once("expected one of").unwrap();
    let names: Vec<&str> =
        known.split('`').filter(|word| word.contains(|c: char| c.is_ascii_lowercase())).collect();
    assert!(9 < names.len(), "{names:?}");
    for name in names {
        assert!(text.contains(&format!("{name} = ")), "{name} is not in docs/skein.toml");
    }
}

#[test]
fn certificates_for_peers_come_whole_or_not_at_all() {
    let three = "peer_tls_ca = 'a'\npeer_tls_cert = 'b'\npeer_tls_key = 'c'\n";
    let checked = file(three).unwrap().check(MACHINE).unwrap();
    let files = TlsFiles { ca: "a".into(), cert: "b".into(), key: "c".into() };
    assert_eq!(checked.peer_tls, Some(files));
    let text = message(file("peer_tls_cert = 'b'\n").unwrap().check(MACHINE));
    assert!(text.contains("peer_tls_ca") && text.contains("skein cert"), "{text}");
    let settings = Settings { peer_tls_key: Some("d".into()), ..Settings::default() };
    let overlaid = file(three).unwrap().overlay(&settings).check(MACHINE).unwrap();
    assert_eq!(overlaid.peer_tls.unwrap().key, PathBuf::from("d"));
}
