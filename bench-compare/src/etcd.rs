//! etcd as a target, over its gRPC interface with the client its Rust users use.

use etcd_client::{Client as EtcdConnection, Compare, CompareOp, Error, KvClient, Txn, TxnOp};
use skein_bench::tally::Done;
use skein_bench::{BenchError, Client, Failure, Op, Outcome, Target, Values};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::ThreadId;
use tokio::sync::Mutex;

/// Most puts of one transaction: etcd refuses more than 128 unless told otherwise.
const TXN_PUTS_MAX: u64 = 100;
/// Most bytes of values in one transaction: etcd refuses requests above 1.5 MiB.
const TXN_BYTES_MAX: u64 = 1 << 20;

/// The nodes of one etcd, and the connections to them that its clients share. Clients are dealt out to the nodes in turn.
#[derive(Clone)]
pub struct EtcdTarget {
    urls: Arc<[String]>,
    connections: u64,
    /// By thread, because a connection lives on the runtime of the thread that opened it; then by node, then by number.
    open: Arc<Mutex<HashMap<(ThreadId, u64, u64), KvClient>>>,
}

impl EtcdTarget {
    /// The etcd whose nodes are at `urls`, each asked over at most `connections` connections per thread.
    pub fn new(urls: &[String], connections: u64) -> Self {
        EtcdTarget { urls: urls.into(), connections: connections.max(1), open: Arc::default() }
    }
}

impl Target for EtcdTarget {
    type Client = EtcdClient;

    async fn connect(&self, number: u64) -> Result<EtcdClient, BenchError> {
        let nodes = self.urls.len().max(1) as u64;
        let node = number % nodes;
        let url = self.urls.get(node as usize).map_or("", String::as_str);
        let slot = (std::thread::current().id(), node, number / nodes % self.connections);
        let mut open = self.open.lock().await;
        let kv = match open.get(&slot) {
            Some(kv) => kv.clone(),
            None => {
                let connection = EtcdConnection::connect([url], None).await.map_err(|error| {
                    BenchError::Connect { address: url.to_owned(), source: io::Error::other(error) }
                })?;
                let kv = connection.kv_client();
                open.insert(slot, kv.clone());
                kv
            }
        };
        Ok(EtcdClient { kv, own_key: key(b'c', number), own_revision: None })
    }

    fn fill_rows_max(&self, value_bytes: usize) -> u64 {
        (TXN_BYTES_MAX / (value_bytes as u64).max(1)).clamp(1, TXN_PUTS_MAX)
    }
}

/// One client; its requests share a connection with those of others.
pub struct EtcdClient {
    kv: KvClient,
    own_key: Vec<u8>,
    /// Revision of the last update of this client's own key, if that is known.
    own_revision: Option<i64>,
}

/// The key that Skein's requests spell the same.
fn key(letter: u8, number: u64) -> Vec<u8> {
    format!("{}{number:011}", letter as char).into_bytes()
}

fn failure(error: Error) -> Failure {
    match error {
        Error::GRpcStatus(status) => Failure::Named(status.code().description()),
        _ => Failure::Named("connection lost"),
    }
}

impl EtcdClient {
    async fn put_all(&mut self, puts: Vec<TxnOp>) -> Outcome {
        self.kv.txn(Txn::new().and_then(puts)).await.map_err(failure)?;
        Ok(Done::default())
    }
}

impl Client for EtcdClient {
    async fn perform(&mut self, op: Op, values: &mut Values) -> Outcome {
        match op {
            Op::Put { key: row } => {
                self.kv.put(key(b'k', row), values.next_value(), None).await.map_err(failure)?;
                Ok(Done::default())
            }
            // Linearizable unless asked otherwise, as Skein's.
            Op::Get { key: row } => {
                let answer = self.kv.get(key(b'k', row), None).await.map_err(failure)?;
                let Some(found) = answer.kvs().first() else { return Err(Failure::Named("no such key")) };
                let bytes = found.value().len();
                if bytes != values.bytes() {
                    return Err(Failure::Named("value of another length"));
                }
                Ok(Done { rows: 0, bytes: bytes as u64 })
            }
            Op::Pair { keys } => {
                let puts = keys.map(|row| TxnOp::put(key(b'k', row), values.next_value(), None));
                self.put_all(puts.into()).await
            }
            Op::Fill { first, count } => {
                let puts = (first..first + count)
                    .map(|row| TxnOp::put(key(b'k', row), values.next_value(), None))
                    .collect();
                self.put_all(puts).await
            }
            Op::Conditional => {
                let mut txn = Txn::new();
                // Taken: should the outcome stay unknown, the next update has to do without a condition.
                if let Some(revision) = self.own_revision.take() {
                    let unchanged = Compare::mod_revision(self.own_key.clone(), CompareOp::Equal, revision);
                    txn = txn.when([unchanged]);
                }
                let put = TxnOp::put(self.own_key.clone(), values.next_value(), None);
                let answer = self.kv.txn(txn.and_then([put])).await.map_err(failure)?;
                if !answer.succeeded() {
                    return Err(Failure::Named("condition failed"));
                }
                self.own_revision = answer.header().map(|header| header.revision());
                Ok(Done::default())
            }
            Op::Scan => Err(Failure::Named("not asked of etcd")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_stay_within_what_etcd_accepts_by_default() {
        let target = EtcdTarget::new(&["http://127.0.0.1:1".to_owned()], 4);
        assert_eq!(target.fill_rows_max(100), TXN_PUTS_MAX);
        assert_eq!(target.fill_rows_max(1 << 19), 2);
        assert_eq!(target.fill_rows_max(1 << 24), 1);
    }

    #[test]
    fn keys_are_spelled_as_in_requests_to_skein() {
        assert_eq!(key(b'k', 42), b"k00000000042");
    }
}
