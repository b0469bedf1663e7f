//! An administrator's commands against a cell of three, and the catalog as every peer offers it.

use crate::peers::{FIRST, Ground, Peer, SECOND, THIRD, settled, wait_for_atlas};
use crate::support::start::try_start;
use crate::support::wire::ask;
use crate::support::{run, said, within};

/// Three peers that hold one cohort together, made with `skein atlas apply`.
fn three(ground: &Ground) -> [Peer; 3] {
    let first = ground.start(FIRST, None);
    let [second, third] = [SECOND, THIRD].map(|host| ground.start(host, Some(&first)));
    within(|| (first.status()["peers"].as_array().unwrap().len() == 3).then_some(()));
    let hosts = [FIRST, SECOND, THIRD].join(",");
    let planned = first.command(&["atlas", "plan", "--hosts", &hosts]);
    assert!(planned.contains("the first atlas"), "{planned}");
    let applied = first.command(&["atlas", "apply", "--hosts", &hosts, "--yes"]);
    assert!(applied.contains("settled: 1 cohort"), "{applied}");
    let all = [first, second, third];
    wait_for_atlas(&[&all[0], &all[1], &all[2]], &settled(&[&[FIRST, SECOND, THIRD]]));
    all
}

/// The position of the peer that leads cohort 0.
fn leader(peers: &[Peer]) -> usize {
    within(|| {
        let status = peers[0].status();
        let leader = status["cohorts"][0]["leader"].as_str()?;
        peers.iter().position(|peer| peer.host == leader)
    })
}

#[test]
fn a_drained_peer_leads_nothing_until_it_rejoins() {
    let ground = Ground::new();
    let peers = three(&ground);
    peers[0].put("/table/0x1?key=a", "1");
    let before = leader(&peers);
    let said = peers[before].command(&["drain", "--wait"]);
    assert!(said.contains("drained"), "{said}");
    let after = leader(&peers);
    assert_ne!(after, before);
    // It still serves, by asking who leads.
    assert_eq!(peers[before].get("/table/0x1?key=a").text(), "1");
    peers[before].put("/table/0x1?key=b", "2");
    within(|| {
        let text = peers[after].command(&["status"]);
        text.lines().any(|line| line.contains(peers[before].host) && line.contains("draining")).then_some(())
    });
    peers[before].command(&["rejoin"]);
    within(|| {
        let draining = |peer: &serde_json::Value| peer["draining"] == true;
        (!peers[after].status()["peers"].as_array().unwrap().iter().any(draining)).then_some(())
    });
    // SIGTERM drains by itself: the others go on at once, and nothing is lost.
    let [first, second, third] = peers;
    first.server.stop();
    second.put("/table/0x1?key=c", "3");
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        assert_eq!(third.get(&format!("/table/0x1?key={key}")).text(), value);
    }
}

#[test]
fn a_peer_that_lost_its_directory_is_refused_until_it_is_forgotten_and_then_filled_again() {
    let ground = Ground::new();
    let [first, second, third] = three(&ground);
    first.put("/table/0x1?key=a", "1");
    let lost = within(|| {
        let status = first.status();
        let peer = status["peers"].as_array()?.iter().find(|peer| peer["host"] == THIRD)?.clone();
        peer["store"].is_string().then(|| peer["store"].clone())
    });
    third.server.stop();
    std::fs::remove_dir_all(ground.dir(THIRD)).unwrap();

    let hail = format!("{FIRST}={}", first.server.peer);
    let flags = ["--init", "--host", THIRD, "--cell", crate::peers::CELL, "--hail", &hail];
    // It may start, but the others do not talk to it, and it learns nothing.
    let stranger = try_start(&flags, &ground.dir(THIRD));
    if let Ok(stranger) = stranger {
        within(|| stranger.complaints().contains("skein forget").then_some(()));
        assert_eq!(ask(&stranger.http, "GET", "/atlas", &[], b"").text(), r#"[{"state":"empty"}]"#);
        stranger.kill();
    }

    // Who is up has not lost its directory.
    let url = second.server.admin_url();
    let refused = run(&["forget", FIRST, "--yes", "--admin-url", &url]);
    assert!(!refused.status.success() && said(&refused).contains("up and connected"), "{}", said(&refused));
    let said = second.command(&["forget", THIRD, "--yes"]);
    assert!(said.contains("forgotten"), "{said}");
    let again = second.command(&["forget", THIRD, "--yes"]);
    assert!(again.contains("nothing changed"), "{again}");
    let third = ground.start(THIRD, Some(&first));
    within(|| {
        let status = first.status();
        let replicas = status["cohorts"][0]["replicas"].as_array()?.clone();
        // Its old directory is a member, without lag, until the new one is.
        let caught_up = replicas.iter().any(|replica| {
            replica["host"] == THIRD
                && replica["store"] != lost
                && replica["votes"] == true
                && replica["lag"].as_u64() == Some(0)
        });
        (replicas.len() == 3 && caught_up).then_some(())
    });
    // With one of the others gone, what it was filled with is needed, and is there.
    first.server.kill();
    let read = within(|| Some(third.get("/table/0x1?key=a")).filter(|reply| reply.status == 200));
    assert_eq!(read.text(), "1");
}

#[test]
fn the_catalog_is_one_store_whichever_peer_is_asked() {
    let ground = Ground::new();
    let [first, second, third] = three(&ground);
    let put = |peer: &Peer, headers: &[(&str, &str)], body: &str| {
        peer.ask("PUT", "/catalog/app%2Fcolour", headers, body)
    };
    let created = put(&second, &[("If-None-Match", "*")], r#""red""#);
    assert_eq!(created.status, 200, "{created:?}");
    let version = created.said("etag").to_owned();
    let refused = put(&third, &[("If-None-Match", "*")], r#""blue""#);
    assert_eq!((refused.status, refused.said("etag")), (412, version.as_str()));

    for peer in [&first, &second, &third] {
        let read = peer.get("/catalog/app%2Fcolour");
        assert_eq!((read.text(), read.said("etag")), (r#""red""#, version.as_str()));
        assert_eq!(read.said("catalog-read"), "linearizable");
    }
    let number = version.trim_matches('"').to_owned();
    let watch = format!("/catalog/app%2Fcolour?watch={number}&timeout=60s");
    let changed = std::thread::scope(|scope| {
        let watching = scope.spawn(|| third.get(&watch));
        let changed = put(&first, &[("If-Match", &version)], r#""green""#);
        assert_eq!(changed.status, 200, "{changed:?}");
        let seen = watching.join().unwrap();
        assert_eq!((seen.text(), seen.said("etag")), (r#""green""#, changed.said("etag")));
        assert_eq!(seen.said("catalog-read"), "local");
        changed.said("etag").to_owned()
    });
    let number = changed.trim_matches('"');
    let quiet = second.get(&format!("/catalog/app%2Fcolour?watch={number}&timeout=100ms"));
    assert_eq!((quiet.status, quiet.said("etag")), (304, changed.as_str()));
    let listed = second.get("/catalog?prefix=app%2F").json();
    assert_eq!((listed[0]["key"].as_str(), listed[0]["value"].as_str()), (Some("app/colour"), Some("green")));

    let flock = within(|| {
        let flock = second.get("/flock");
        let body = flock.json();
        let members = body["catalog"]["members"].as_array()?.clone();
        (members.iter().all(|member| member["votes"] == true)
            && body["catalog"]["leader"].is_string()
            && body["cohorts"][0]["leader"].is_string()
            && body["peers"].as_array().unwrap().len() == 3)
            .then_some(flock)
    });
    assert_eq!(flock.json()["catalog"]["members"].as_array().unwrap().len(), 3, "{flock:?}");
    within(|| {
        let tag = second.get("/flock").said("etag").to_owned();
        (second.ask("GET", "/flock", &[("If-None-Match", &tag)], "").status == 304).then_some(())
    });

    // Without a majority nothing is changed, and what a member has at hand can still be read.
    first.server.kill();
    third.server.kill();
    let lonely = put(&second, &[], "1");
    assert!(matches!(lonely.status, 503 | 504), "{lonely:?}");
    let fresh = second.get("/catalog/app%2Fcolour");
    assert_eq!(fresh.status, 503, "{fresh:?}");
    assert_eq!(fresh.json()["type"], "urn:skein:problem:no-leader");
    let local = second.get("/catalog/app%2Fcolour?local=true");
    assert_eq!((local.text(), local.said("catalog-read")), (r#""green""#, "local"));
}
