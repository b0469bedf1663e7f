//! What a database offers to be tested.

use super::machine::Machine;
use super::net::SimNetwork;
use crate::check::{Answer, Row};
use bytes::Bytes;
use skein_model::{Atlas, GroupId, HostId, Slice, StoreId, TableId, Transaction, TxClock, TxId};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// Where a peer finds itself when its process starts.
#[derive(Clone)]
pub struct Place {
    /// Its server.
    pub machine: Machine,
    /// Where it takes connections of peers.
    pub addr: SocketAddr,
    /// Where everybody, itself included, takes them.
    pub peers: Vec<(HostId, SocketAddr)>,
    /// How it reaches them.
    pub network: SimNetwork,
    /// Randomness of this life of the process.
    pub seed: u64,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing was done, for certain, and trying again may help.
    Nothing(String),
    /// It may have been done, or may be done yet.
    Unknown(String),
    /// Something that may not happen whatever the faults: the run has failed.
    Broken(String),
}

/// A row of a scan: key, time, and its value.
pub type Found = (Bytes, TxClock, Option<Bytes>);

/// What one replica of a group holds, to be compared with the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// The group.
    pub group: GroupId,
    /// Which replica.
    pub store: StoreId,
    /// The last entry applied.
    pub applied: u64,
    /// Of all that it holds.
    pub digest: u64,
}

/// A database under test. All of its peers run on one thread, each in a runtime of its own.
pub trait System: 'static {
    /// One running peer.
    type Peer: Peer;

    /// Starts a peer on what its machine holds. The text says why it does not start.
    fn open(&self, place: Place) -> impl Future<Output = Result<Rc<Self::Peer>, String>>;

    /// A machine has lost power, its process, or its disk.
    fn crashed(&self, machine: &Machine);
}

/// A running peer.
pub trait Peer: 'static {
    /// Reads a row, at a time or at present.
    fn read(
        &self,
        row: &Row,
        at: Option<TxClock>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Answer, Trouble>>;

    /// Runs a transaction: committed, collision, stale or aborted.
    fn write(&self, tx: Transaction, deadline: Instant) -> impl Future<Output = Result<Answer, Trouble>>;

    /// What became of a transaction: committed or aborted.
    fn status(&self, id: TxId, deadline: Instant) -> impl Future<Output = Result<Answer, Trouble>>;

    /// Begins a scan at a time or at present, of the newest values or, with `history`, of all versions.
    fn scan(
        &self,
        table: TableId,
        slice: Slice,
        at: Option<TxClock>,
        history: bool,
        deadline: Instant,
    ) -> impl Future<Output = Result<Box<dyn ScanRows>, Trouble>>;

    /// The atlas as this peer knows it.
    fn atlas(&self) -> Arc<Atlas>;

    /// Asks for these hosts, a set for each cohort.
    fn put_atlas(&self, cohorts: &[BTreeSet<HostId>]) -> impl Future<Output = Result<(), Trouble>>;

    /// Asks the peer to lead nothing, or to lead again.
    fn drain(&self, on: bool) -> impl Future<Output = Result<(), Trouble>>;

    /// Lets another directory take the place of that of a host.
    fn forget(&self, host: HostId) -> impl Future<Output = Result<(), Trouble>>;

    /// Who leads each cohort, as far as this peer knows.
    fn leaders(&self) -> impl Future<Output = Vec<Option<HostId>>>;

    /// Writes a key of the catalog if it has this version (0: is not there); the new version.
    fn put_key(
        &self,
        key: &str,
        expected: u64,
        value: Bytes,
        deadline: Instant,
    ) -> impl Future<Output = Result<KeyAnswer, Trouble>>;

    /// Reads a key of the catalog: its version (0: is not there) and value.
    fn get_key(&self, key: &str, deadline: Instant) -> impl Future<Output = Result<(u64, Bytes), Trouble>>;

    /// What the replicas on this peer hold.
    fn digests(&self) -> impl Future<Output = Result<Vec<Digest>, Trouble>>;

    /// Why the peer no longer serves, if it does not by itself: its process would end now.
    fn failure(&self) -> Option<String>;
}

/// What came of a conditional write of a catalog key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAnswer {
    /// Written, as this version.
    Written(u64),
    /// Not written: it has this version.
    Is(u64),
}

/// A scan under way.
pub trait ScanRows {
    /// The time that all of it shows.
    fn until(&self) -> TxClock;

    /// The next rows; none at the end and only there.
    fn next(&mut self) -> futures_util::future::LocalBoxFuture<'_, Result<Vec<Found>, Trouble>>;
}
