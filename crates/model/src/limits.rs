//! The limits that every layer agrees on. Past one of them a request is refused whole.

/// Longest row key in bytes.
pub const KEY_BYTES_MAX: usize = 16 << 10;
/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// Most operations in one batch.
pub const BATCH_OPS_MAX: usize = 10_000;
/// Longest body of a batch in bytes.
pub const BATCH_BYTES_MAX: usize = 32 << 20;
/// Longest `Content-Type` stored with a value, in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;
/// Longest transaction ID in hexadecimal digits, leading zeros not counted.
pub const TX_ID_DIGITS_MAX: usize = 512;
/// How far ahead of the wall clock a client may read, condition or scan: five minutes.
pub const SKEW_MAX_MICROS: u64 = 300_000_000;
/// Longest schema text in bytes.
pub const SCHEMA_BYTES_MAX: usize = 1 << 20;
/// Longest atlas in JSON, in bytes: some thirty thousand cohorts of three peers.
pub const ATLAS_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(VALUE_BYTES_MAX < BATCH_BYTES_MAX, "a full value has to fit in one batch");
