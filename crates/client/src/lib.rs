//! The Rust client of Skein, over the public HTTP interface (`docs/HTTP.md`).
//!
//! A [`Client`] is given one or more addresses of a cell and learns the rest: who is there, and who leads which cohort. It sends a
//! request straight to the leader of the row's cohort when it knows it, and to anybody else when that fails, because every peer
//! serves every row. What it knows of the cell is only a hint; a peer that tells lies about the topology costs time, never correctness.
//! Addresses are kept in a file, if one is named, so that a restart finds the cell though the first contact is gone.
//!
//! **Repeats are safe.** Reads are repeated freely. Every write carries a transaction ID, so a write whose answer was lost is sent again
//! under the same ID and happens once; when the deadline comes first, the error is [`Error::Unknown`] and names the ID. Every other
//! error of a write says that it did not happen: [`Error::fate`] tells them apart.
//!
//! **Transactions** ([`Client::transaction`]) read one snapshot and are written only if nothing that they read has changed; otherwise
//! they run again. **Scans** ([`Client::scan`]) stream one snapshot in parallel slices, and go on after a broken connection
//! where they were. **The cache** holds rows with the span of time over which they are known, so that a transaction may take from it
//! only what was all true at one moment.
//!
//! ```no_run
//! use skein_client::{Client, Config, Table, json};
//!
//! # async fn example() -> Result<(), skein_client::Error> {
//! let client = Client::connect(Config::new(["localhost:7070"])).await?;
//! let accounts = Table::id(0x10);
//! client.put(&accounts, "alice", json(&100)?).await?;
//! client.put(&accounts, "bob", json(&0)?).await?;
//! let (from, to) = ("alice", "bob");
//! client
//!     .transaction(|tx| {
//!         let accounts = accounts.clone();
//!         async move {
//!             let a: i64 = tx.get(&accounts, from).await?.json()?.unwrap_or(0);
//!             let b: i64 = tx.get(&accounts, to).await?.json()?.unwrap_or(0);
//!             tx.put(&accounts, from, json(&(a - 10))?);
//!             tx.put(&accounts, to, json(&(b + 10))?);
//!             Ok::<_, skein_client::Error>(())
//!         }
//!     })
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! Read in this order: `client`, `errand` (what is asked whom, and again), `pool` (connections), `topology`, `rows`, `batch`,
//! `transaction`, `cache`, `scan`.
#![forbid(unsafe_code)]

mod answer;
mod batch;
mod cache;
mod client;
mod config;
mod errand;
mod error;
mod memo;
mod pool;
mod rows;
mod scan;
mod topology;
mod transaction;

pub use batch::Batch;
pub use client::Client;
pub use config::Config;
pub use error::{Error, Fate, Refused};
pub use rows::{Row, Table, Written, json, typed};
pub use scan::{Scan, ScanOptions, ScannedRow};
pub use skein_model::{CellId, ContentType, HostId, Pick, TableId, TxClock, TxId, Value};
pub use topology::{Cohort, Topology};
pub use transaction::{Transaction, TransactionOptions};
