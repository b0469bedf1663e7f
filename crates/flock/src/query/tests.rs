use super::*;
use crate::addr::Addr;
use std::net::{Ipv4Addr, SocketAddr};

pub(crate) fn peer(id: u64) -> Peer {
    let ip = Ipv4Addr::from(0x0A00_0000 + id as u32);
    Peer { id: HostId(id), addr: Addr::from(SocketAddr::from((ip, 7000))) }
}
