//! Which versions of a row a scan selects.

use crate::TxClock;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// How a scan picks among the versions of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Pick {
    /// The newest version at or before `until`, if it is after `since` and not a tombstone.
    #[default]
    Latest,
    /// Every version in (`since`, `until`], tombstones too.
    Between,
    /// As [`Pick::Between`], and the newest version at or before `since`.
    Through,
}

impl Pick {
    /// The name used in the `pick` parameter.
    pub fn name(self) -> &'static str {
        match self {
            Pick::Latest => "latest",
            Pick::Between => "between",
            Pick::Through => "through",
        }
    }
}

/// The text names no [`Pick`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Pick must be latest, between or through.")]
pub struct PickError;

impl FromStr for Pick {
    type Err = PickError;
    fn from_str(text: &str) -> Result<Self, PickError> {
        [Pick::Latest, Pick::Between, Pick::Through]
            .into_iter()
            .find(|pick| pick.name().eq_ignore_ascii_case(text))
            .ok_or(PickError)
    }
}

/// A span of time and how to pick in it: `since` is exclusive, `until` inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// How to pick.
    pub pick: Pick,
    /// Exclusive lower bound.
    pub since: TxClock,
    /// Inclusive upper bound.
    pub until: TxClock,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pick_is_known_by_its_name_in_any_letter_case() {
        for pick in [Pick::Latest, Pick::Between, Pick::Through] {
            assert_eq!(pick.name().parse(), Ok(pick));
            assert_eq!(pick.name().to_uppercase().parse(), Ok(pick));
        }
        for text in ["", "newest", "latest ", "late"] {
            assert_eq!(text.parse::<Pick>(), Err(PickError), "{text}");
        }
        assert_eq!(Pick::default(), Pick::Latest);
    }
}
