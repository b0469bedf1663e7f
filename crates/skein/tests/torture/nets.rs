//! Peers in network namespaces of their own, joined by a bridge, so that links can be cut.

use std::process::Command;

/// One namespace for each peer, and the bridge; gone when dropped.
pub struct Nets {
    tag: u32,
    peers: usize,
}

fn ip(args: &str) -> Result<(), String> {
    let done = Command::new("ip").args(args.split(' ')).output().map_err(|e| format!("ip: {e}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("ip {args}: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

impl Nets {
    /// Makes the namespaces; the error says why that cannot be done here.
    pub fn new(peers: usize) -> Result<Nets, String> {
        let nets = Nets { tag: std::process::id(), peers };
        let bridge = nets.bridge();
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("link set {bridge} up"))?;
        ip(&format!("addr add {}/24 dev {bridge}", nets.address(usize::MAX)))?;
        for peer in 0..peers {
            let (name, link) = (nets.name(peer), nets.link(peer));
            ip(&format!("netns add {name}"))?;
            ip(&format!("link add {link} type veth peer name eth0 netns {name}"))?;
            ip(&format!("link set {link} master {bridge} up"))?;
            ip(&format!("-n {name} addr add {}/24 dev eth0", nets.address(peer)))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(nets)
    }

    fn bridge(&self) -> String {
        format!("skb{}", self.tag)
    }

    fn name(&self, peer: usize) -> String {
        format!("sk{}-{peer}", self.tag)
    }

    fn link(&self, peer: usize) -> String {
        format!("skv{}-{peer}", self.tag)
    }

    /// The peer's IP address; that of the bridge for a number that is no peer's.
    pub fn address(&self, peer: usize) -> String {
        let host = if peer < self.peers { peer + 2 } else { 1 };
        format!("10.213.{}.{host}", self.tag % 250)
    }

    /// A command that runs another one, given as its arguments, where the peer lives. The process it becomes is that one.
    pub fn within(&self, peer: usize) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(peer)]);
        command
    }

    /// Cuts the peer off from everybody, clients too, or joins it again.
    pub fn cut(&self, peer: usize, cut: bool) {
        ip(&format!("link set {} {}", self.link(peer), if cut { "down" } else { "up" })).unwrap();
    }

    /// Loses everything that `from` sends to `to`, and nothing else; or no longer does.
    pub fn lose(&self, from: usize, to: usize, lose: bool) {
        let verb = if lose { "add" } else { "del" };
        ip(&format!("-n {} route {verb} blackhole {}/32", self.name(from), self.address(to))).unwrap();
    }
}

impl Drop for Nets {
    fn drop(&mut self) {
        // What was never made cannot be removed; what was takes its end of each pair along.
        for peer in 0..self.peers {
            let _ = ip(&format!("netns del {}", self.name(peer)));
        }
        let _ = ip(&format!("link del {}", self.bridge()));
    }
}
