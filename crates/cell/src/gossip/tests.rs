use super::*;
use skein_storage::disk::MemDisk;

/// Carries messages between the flocks of one process, at once; to nobody while a host is cut off.
#[derive(Clone, Default)]
struct Wires(Arc<Mutex<BTreeMap<SocketAddr, Gossip>>>);

struct Wire {
    wires: Wires,
    me: Peer,
    learnt: Mutex<BTreeMap<HostId, SocketAddr>>,
}

impl Carrier for Wire {
    fn post(&self, to: SocketAddr, bytes: Bytes) {
        let wires = self.wires.0.lock().unwrap();
        match wires.get(&to) {
            Some(gossip) => gossip.posted(self.me, bytes),
            None => wires[&self.me.addr.into()].unreachable(to, skein_transport::Unreachable::Refused),
        }
    }

    fn hang_up(&self, _: SocketAddr) {}

    fn learn(&self, host: HostId, addr: SocketAddr) {
        self.learnt.lock().unwrap().insert(host, addr);
    }
}

struct Node {
    gossip: Gossip,
    wire: Arc<Wire>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    was_draining: bool,
}

fn addr(host: u64, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8], port))
}

async fn start(wires: &Wires, disk: &MemDisk, host: u64, port: u16, hail: &[(u64, u16)]) -> Node {
    let me = Peer { id: HostId(host), addr: addr(host, port).into() };
    let (gossip, inbox) = Gossip::new();
    wires.0.lock().unwrap().insert(me.addr.into(), gossip.clone());
    let wire = Arc::new(Wire { wires: wires.clone(), me, learnt: Mutex::default() });
    let (stop, stopping) = watch::channel(false);
    let hail = hail.iter().map(|(host, port)| (HostId(*host), addr(*host, *port).to_string())).collect();
    let setup = Setup {
        me,
        carrier: wire.clone(),
        disk: Arc::new(disk.clone()),
        hail,
        seed: host,
        wall: 1_000_000,
        stopping,
    };
    let (task, was_draining) = gossip.start(inbox, setup).await.unwrap();
    Node { gossip, wire, stop, task, was_draining }
}

impl Node {
    async fn sees(&self, what: impl Fn(&View) -> bool) {
        let mut view = self.gossip.view();
        let seen = tokio::time::timeout(Duration::from_secs(120), view.wait_for(|view| what(view))).await;
        seen.expect("within two minutes of the flock's time").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn three_peers_that_hail_one_hear_of_each_other_and_of_what_each_says() {
    let wires = Wires::default();
    let first = start(&wires, &MemDisk::new(), 1, 6278, &[]).await;
    let second = start(&wires, &MemDisk::new(), 2, 6278, &[(1, 6278)]).await;
    let third = start(&wires, &MemDisk::new(), 3, 6278, &[(1, 6278)]).await;
    second.gossip.publish(fact::HTTP, Some("two:7070".into()));
    second.gossip.publish(fact::SEEN, Some("17".into()));
    first.gossip.tell_catalog(5, Bytes::from_static(b"summary"));
    for node in [&first, &third] {
        node.sees(|view| {
            view.peers
                .get(&HostId(2))
                .is_some_and(|it| it.http.as_deref() == Some("two:7070") && it.seen == Some(17))
        })
        .await;
    }
    for node in [&first, &second, &third] {
        node.sees(|view| view.catalog == Some((5, Bytes::from_static(b"summary")))).await;
    }
    assert_eq!(third.wire.learnt.lock().unwrap().get(&HostId(2)), Some(&addr(2, 6278)));
    // An older catalog does not take the place of a newer one.
    third.gossip.tell_catalog(4, Bytes::from_static(b"old"));
    third.gossip.publish(fact::BUILD, Some("b".into()));
    first.sees(|view| view.peers[&HostId(3)].build.is_some()).await;
    assert_eq!(first.gossip.look().catalog, Some((5, Bytes::from_static(b"summary"))));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_starts_again_needs_no_hail_and_is_found_at_its_new_address() {
    let wires = Wires::default();
    let (one, two) = (MemDisk::new(), MemDisk::new());
    let first = start(&wires, &one, 1, 6278, &[]).await;
    let second = start(&wires, &two, 2, 6278, &[(1, 6278)]).await;
    second.gossip.publish(fact::HTTP, Some("two:7070".into()));
    first.sees(|view| view.peers.get(&HostId(2)).is_some_and(|it| it.http.is_some())).await;
    second.stop.send_replace(true);
    second.task.await.unwrap();
    wires.0.lock().unwrap().remove(&addr(2, 6278));
    let again = start(&wires, &two, 2, 6300, &[]).await;
    again.gossip.publish(fact::HTTP, Some("two:7071".into()));
    let at_new = |it: &PeerFacts| it.addr == addr(2, 6300) && it.http.as_deref() == Some("two:7071");
    first.sees(|view| view.peers.get(&HostId(2)).is_some_and(at_new)).await;
    assert_eq!(first.wire.learnt.lock().unwrap().get(&HostId(2)), Some(&addr(2, 6300)));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_drains_drains_after_a_restart_too() {
    let wires = Wires::default();
    let disk = MemDisk::new();
    let node = start(&wires, &disk, 1, 6278, &[]).await;
    assert!(!node.was_draining);
    node.gossip.drain(true);
    node.stop.send_replace(true);
    node.task.await.unwrap();
    // The wish may have come together with the order to stop: what was asked for before is remembered all the same.
    let node = start(&wires, &disk, 1, 6278, &[]).await;
    assert!(node.was_draining && node.gossip.is_draining());
    node.gossip.drain(false);
    assert!(!node.gossip.is_draining());
}

#[tokio::test(start_paused = true)]
async fn every_run_has_a_later_incarnation_also_when_the_clock_went_back() {
    let disk = MemDisk::new();
    let wires = Wires::default();
    let mut last = 0;
    for _ in 0..3 {
        let node = start(&wires, &disk, 1, 6278, &[]).await;
        let incarnation = Memory::load(&disk.crash_losing_all()).unwrap().incarnation;
        assert!(last < incarnation);
        last = incarnation;
        node.task.abort();
    }
}
