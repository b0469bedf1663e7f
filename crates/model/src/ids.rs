//! The 64-bit names of cells, peers and tables. All print as `0x` and sixteen upper-case hexadecimal
//! digits, and parse in the grammar of [`crate::number`].

use crate::number::{NumberError, parse_u64};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x{:016X}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = NumberError;
            fn from_str(text: &str) -> Result<Self, NumberError> {
                parse_u64(text).map($name)
            }
        }
    };
}

id!(
    /// One strongly consistent database; the same on all of its peers.
    CellId
);
id!(
    /// One server process; unique in its cell.
    HostId
);
id!(
    /// One initialised directory. A host whose disk was lost comes back under the same [`HostId`] with another of these, and
    /// is then known not to hold what it once acknowledged.
    StoreId
);
id!(
    /// One life of a replica of a Raft group: from when its store is made to when it is deleted. Raft's own name for the replica, so
    /// that one that was deleted and made again in the same directory is not taken for what it forgot it was.
    LifeId
);
id!(
    /// One Raft group: the catalog ([`GroupId::CATALOG`]) or a cohort. Never used twice in the life of a cell.
    GroupId
);
id!(
    /// One table. Rows live under the ID; a name is only the schema's word for it.
    TableId
);

impl LifeId {
    /// The life of a replica whose group begins with it. The founders of a group agree on its first members without asking each
    /// other, so this one is not drawn at random; it is lived once at most, as are all.
    pub fn founding(store: StoreId) -> LifeId {
        LifeId(store.0)
    }
}

impl GroupId {
    /// The group that keeps the cell's own facts.
    pub const CATALOG: GroupId = GroupId(0);
    /// The group of the first cohort of a cell.
    pub const FIRST: GroupId = GroupId(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_prints_all_its_sixteen_digits() {
        assert_eq!(TableId(0xBE).to_string(), "0x00000000000000BE");
        assert_eq!(format!("{:?}", HostId(1)), "HostId(0x0000000000000001)");
    }

    proptest! {
        #[test]
        fn an_id_reads_back_as_printed(id: u64) {
            prop_assert_eq!(CellId(id).to_string().parse(), Ok(CellId(id)));
        }
    }
}
