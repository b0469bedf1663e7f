//! A directory of services: who offers what, where, and in what health. A service is a fact like any other.

use super::Facts;
use crate::addr::Addr;
use crate::io::{Cx, Refused};
use crate::wire::{Reader, Writer};
use bytes::Bytes;
use skein_model::HostId;

/// What the key of a fact that offers a service begins with; the service's name follows.
pub const SERVICE_PREFIX: &str = "service/";

/// In what health a peer is, as the health part judges it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Nothing is known against it.
    Healthy,
    /// Some cannot reach it.
    Suspected,
    /// So many could not reach it that it is left alone for a while.
    Avoided,
}

/// A peer that offers a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offer {
    /// In what health the peer is; the healthy come first.
    pub standing: Standing,
    /// Who.
    pub host: HostId,
    /// Where the service is.
    pub addr: Addr,
}

impl Facts {
    /// Says that this peer offers a service at an address.
    /// * Errors: those of [`Facts::publish`].
    pub fn offer(&mut self, name: &str, addr: Addr, cx: &mut Cx<'_>) -> Result<(), Refused> {
        let mut value = Writer::bare(19);
        value.addr(addr);
        self.publish(&[SERVICE_PREFIX, name].concat(), &value.finish(), cx)
    }

    /// Says that this peer no longer offers a service.
    /// * Errors: those of [`Facts::retract`].
    pub fn withdraw(&mut self, name: &str, cx: &mut Cx<'_>) -> Result<(), Refused> {
        self.retract(&[SERVICE_PREFIX, name].concat(), cx)
    }

    /// Who offers a service: the healthy first, then by rising ID. `standing` tells the health of a peer; for
    /// those that are healthy only, take while they are. Looks at every peer's facts.
    pub fn offers(&self, name: &str, standing: impl Fn(HostId) -> Standing) -> Vec<Offer> {
        let key = [SERVICE_PREFIX, name].concat();
        let mut offers: Vec<Offer> = self
            .records
            .iter()
            .filter_map(|(_, record)| {
                let addr = read_addr(record.get(&key)?)?;
                Some(Offer { standing: standing(record.host), host: record.host, addr })
            })
            .collect();
        offers.sort_unstable();
        offers
    }

    /// The names of all services that anybody offers, rising.
    pub fn services(&self) -> Vec<&str> {
        let facts = self.records.iter().flat_map(|(_, record)| record.facts());
        let mut names: Vec<&str> = facts.filter_map(|(key, _)| key.strip_prefix(SERVICE_PREFIX)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// What is no address is no offer: a peer of another mind cannot spoil the directory for others.
fn read_addr(value: &[u8]) -> Option<Addr> {
    let mut reader = Reader::over(Bytes::copy_from_slice(value));
    let addr = reader.addr("a service's address").ok()?;
    reader.end().ok().map(|()| addr)
}
