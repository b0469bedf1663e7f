//! What the store remembers of a transaction, and how a repeated one is recognised.

use crate::entry::Outcome;
use crate::error::CohortError;
use skein_model::{ContentType, Expect, Refusal, Transaction, TxId, WriteOp};
use skein_storage::rows::{TxOutcome, TxRecord};

/// The outcome that a stored record tells, unless it belongs to a transaction with other operations.
pub(crate) fn recorded(
    id: &TxId,
    record: TxRecord,
    fingerprint: Option<u64>,
) -> Result<Outcome, CohortError> {
    let outcome = match record.outcome {
        TxOutcome::Committed(time) => Outcome::Committed(time),
        TxOutcome::Collision { op } => Outcome::Refused(Refusal::Collision { op }),
        TxOutcome::Stale { op, latest } => Outcome::Refused(Refusal::Stale { op, latest }),
        TxOutcome::Aborted => Outcome::Aborted,
    };
    let reused = outcome != Outcome::Aborted && fingerprint.is_some_and(|f| f != record.fingerprint);
    if reused { Err(CohortError::IdReused { id: id.clone() }) } else { Ok(outcome) }
}

/// Identifies what a transaction does, so that an ID used again for something else is noticed.
/// Never zero, which stands for "not compared".
pub(crate) fn fingerprint(tx: &Transaction) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    let mut field = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    // No condition is another demand than one at time zero.
    field(tx.condition.map(|c| c.0.to_le_bytes()).as_ref().map_or(&[], |c| c));
    for op in &tx.ops {
        field(&op.table.0.to_le_bytes());
        field(&op.key);
        let (kind, value) = match &op.op {
            WriteOp::Create(value) => (0u8, Some(value)),
            WriteOp::Hold => (1, None),
            WriteOp::Update(value) => (2, Some(value)),
            WriteOp::Delete => (3, None),
        };
        field(&[kind]);
        if let Some(value) = value {
            field(if let ContentType::Other(name) = &value.content_type { name.as_bytes() } else { &[] });
            field(&value.bytes);
        }
        for expect in &op.expect {
            let (kind, times) = match expect {
                Expect::Live => (0u8, &[][..]),
                Expect::Absent => (1, &[][..]),
                Expect::VersionIn(times) => (2, &times[..]),
                Expect::VersionNotIn(times) => (3, &times[..]),
                Expect::NotAfter(time) => (4, std::slice::from_ref(time)),
            };
            field(&[kind]);
            times.iter().for_each(|time| field(&time.0.to_le_bytes()));
        }
    }
    hash.digest().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use skein_model::{RowOp, TableId, TxClock, Value};

    /// It is stored with each outcome and compared with what a later release computes: see `docs/FORMAT.md`.
    #[test]
    fn the_fingerprint_of_a_transaction_is_the_same_in_every_release() {
        let row = |key: &'static str, op, expect| RowOp {
            table: TableId(7),
            key: Bytes::from_static(key.as_bytes()),
            op,
            expect,
        };
        let value = |content_type| Value { content_type, bytes: Bytes::from_static(b"{}") };
        let tx = Transaction {
            id: TxId::from_be_bytes(&[1]),
            id_from_client: true,
            condition: Some(TxClock(5)),
            ops: vec![
                row("a", WriteOp::Create(value(ContentType::Json)), vec![Expect::Absent]),
                row("b", WriteOp::Hold, vec![Expect::Live, Expect::NotAfter(TxClock(4))]),
                row("c", WriteOp::Update(value(ContentType::Other("text/plain".into()))), vec![]),
                row("d", WriteOp::Delete, vec![Expect::VersionIn(vec![TxClock(1), TxClock(2)])]),
                row("e", WriteOp::Delete, vec![Expect::VersionNotIn(vec![TxClock(3)])]),
            ],
        };
        assert_eq!(fingerprint(&tx), 4_532_674_313_963_696_655);
        assert_eq!(fingerprint(&Transaction { condition: None, ..tx }), 545_679_847_029_299_581);
    }
}
