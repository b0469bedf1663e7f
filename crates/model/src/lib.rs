//! The rules of Skein that need no machine: what an ID is, how versions of a row are ordered, which row
//! belongs to which slice and cohort, what a transaction may say, and the two small languages
//! (schema and atlas) that administrators write.
//!
//! Nothing here opens a file, reads a clock or draws a random number; all of these arrive as arguments.
//! Read in this order: [`ids`], [`clock`], [`row`], [`tx`], [`window`], [`schema`], [`atlas`].
#![forbid(unsafe_code)]

pub mod atlas;
pub mod clock;
pub mod ids;
pub mod limits;
pub mod number;
pub mod row;
pub mod schema;
pub mod tx;
pub mod window;

pub use atlas::{Atlas, AtlasError, Cohort, CohortFault};
pub use clock::{FutureTime, HybridClock, TxClock};
pub use ids::{CellId, GroupId, HostId, LifeId, StoreId, TableId};
pub use number::NumberError;
pub use row::{Slice, SliceError, row_hash};
pub use schema::{RESERVED_NAMES, Retain, Schema, SchemaError, SchemaFault, SchemaProblem, TableSchema};
pub use tx::{ContentType, Expect, Refusal, RowOp, Transaction, TxId, TxIdError, Value, WriteOp};
pub use window::{Pick, Window};
