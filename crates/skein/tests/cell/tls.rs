//! Mutual TLS between real processes, with the certificates that `skein cert` makes.

use crate::peers::{FIRST, Ground, SECOND, settled, wait_for_atlas};
use crate::support::{run, said, within};

fn words(flags: &[String; 6]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

#[test]
fn peers_with_certificates_talk_and_one_without_is_not_let_in() {
    let ground = Ground::new();
    let tls = ground.path("tls");
    let tls = tls.to_str().unwrap();
    let make = |words: &[&str]| {
        let output = run(words);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    };
    make(&["cert", "ca", tls]);
    for host in [FIRST, SECOND] {
        make(&["cert", "peer", host, "--ca", tls]);
    }
    let file = |host: &str, ending: &str| format!("{tls}/peer-{}.{ending}", host[2..].to_lowercase());
    let ca = format!("{tls}/ca.pem");
    let flags = |host: &str| {
        let (cert, key) = (file(host, "pem"), file(host, "key"));
        [
            "--peer-tls-ca".to_owned(),
            ca.clone(),
            "--peer-tls-cert".to_owned(),
            cert,
            "--peer-tls-key".to_owned(),
            key,
        ]
    };
    let own = flags(FIRST);
    let first = ground.start_with(FIRST, None, &words(&own));
    first.put_atlas(&[&[FIRST]]);
    let own = flags(SECOND);
    let second = ground.start_with(SECOND, Some(&first), &words(&own));
    wait_for_atlas(&[&second], &settled(&[&[FIRST]]));
    second.put("/table/0x1?key=a", "1");
    assert_eq!(first.get("/table/0x1?key=a").text(), "1");
    second.server.stop();

    // The same host without TLS, and a third that shows another's certificate.
    let plain = ground.start(SECOND, Some(&first));
    within(|| {
        let status = first.status();
        let connected = |peer: &serde_json::Value| peer["host"] == SECOND && peer["connected"] == true;
        (!status["peers"].as_array().unwrap().iter().any(connected)).then_some(())
    });
    plain.server.stop();
    let wrong = flags(FIRST);
    let refused =
        crate::support::start::try_start(&[&["--init"][..], &words(&wrong)].concat(), &ground.dir(SECOND));
    let refused = refused.err().expect("a host started with another's certificate");
    assert!(refused.said.contains("does not name this host"), "{}", refused.said);
}
