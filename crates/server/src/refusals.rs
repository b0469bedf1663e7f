//! What the catalog says no to, as problems.

use crate::problem::{Kind, Problem};
use http::header::{ETAG, HeaderValue};
use skein_cell::catalog::command::{
    KEY_BYTES_MAX, KEYS_BYTES_MAX, KEYS_MAX, REQUEST_BYTES_MAX, VALUE_BYTES_MAX,
};
use skein_cell::catalog::{CatalogError, Refusal};
use skein_model::limits::CONTENT_TYPE_BYTES_MAX;
use std::time::Duration;

/// After how long to ask a catalog without leader again: about as long as an election takes.
const ELECTION: Duration = Duration::from_secs(1);

impl From<CatalogError> for Box<Problem> {
    fn from(error: CatalogError) -> Self {
        let said = error.to_string();
        match error {
            CatalogError::Refused(refusal) => refused(refusal, said),
            CatalogError::NotLed { .. } => Problem::new(
                Kind::NoLeader,
                format!("{said}. Nothing changed. Try again, or read with ?local=true where that is enough."),
            )
            .retry_after(ELECTION),
            // Its text names the host that is missing.
            CatalogError::NoFounder { .. } => {
                Problem::new(Kind::AtlasUnsupported, format!("{said}. Nothing changed."))
            }
            CatalogError::BeingFounded { .. } => {
                Problem::new(Kind::NoLeader, format!("{said}. Nothing changed.")).retry_after(ELECTION)
            }
            CatalogError::Unknown { .. } => Problem::new(
                Kind::OutcomeUnknown,
                format!("{said}. GET what was to be changed, and repeat the change if it is not there."),
            ),
            CatalogError::TwoFoundings(_) => {
                Problem::new(Kind::TwoCells, format!("{said}. Nothing changed."))
            }
            CatalogError::Disk { .. } => Problem::new(Kind::DiskFailed, said),
            // It may grow; until a new variant has a home here, it is at least not hidden.
            _ => Problem::new(Kind::Internal, said),
        }
    }
}

fn refused(refusal: Refusal, said: String) -> Box<Problem> {
    let nothing = |kind| Problem::new(kind, format!("{said}. Nothing changed."));
    match refusal {
        Refusal::Stale { current, .. } | Refusal::Exists { version: current, .. } => {
            let problem = nothing(Kind::Stale).member("version", current);
            match HeaderValue::try_from(format!("\"{current}\"")) {
                Ok(tag) if 0 < current => problem.header(ETAG, tag),
                _ => problem,
            }
        }
        Refusal::Missing { .. } => nothing(Kind::Stale).member("version", 0),
        Refusal::NotFounded => nothing(Kind::NoAtlas),
        Refusal::BadAtlas { .. } => nothing(Kind::InvalidAtlas),
        Refusal::UnknownHosts { .. } | Refusal::CohortCount { .. } => nothing(Kind::AtlasUnsupported),
        Refusal::BadSchema { .. } => Problem::new(Kind::InvalidSchema, said),
        Refusal::OtherStore { .. } | Refusal::StoreTaken { .. } => nothing(Kind::OtherStore),
        Refusal::LastCopies { .. } => nothing(Kind::LastCopies),
        Refusal::KeyLength { bytes: 0 } => nothing(Kind::BadRequest),
        Refusal::KeyLength { .. } => nothing(Kind::TooLarge).member("limit", KEY_BYTES_MAX as u64),
        Refusal::ValueTooLong { .. } => nothing(Kind::TooLarge).member("limit", VALUE_BYTES_MAX as u64),
        Refusal::ContentTypeTooLong { .. } => {
            nothing(Kind::TooLarge).member("limit", CONTENT_TYPE_BYTES_MAX as u64)
        }
        Refusal::TooLarge { .. } => nothing(Kind::TooLarge).member("limit", REQUEST_BYTES_MAX as u64),
        Refusal::Full { .. } => nothing(Kind::CatalogFull).member("limit", KEYS_BYTES_MAX as u64),
        Refusal::TooManyKeys => nothing(Kind::CatalogFull).member("limit", KEYS_MAX as u64),
        // The catalog went on while this request was on its way; sent anew it is judged anew.
        Refusal::AlreadyFounded { .. }
        | Refusal::NothingToAdvance
        | Refusal::TooOld { .. }
        | Refusal::Withdrawn => nothing(Kind::NoLeader).retry_after(ELECTION),
        _ => Problem::new(Kind::Internal, said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_cell::catalog::Subject;
    use skein_model::HostId;

    #[test]
    fn a_lost_race_says_which_version_won() {
        let subject = Subject::Key("colour".into());
        let refusal = Refusal::Stale { subject, current: 9, expected: 7 };
        let response = Box::<Problem>::from(CatalogError::Refused(refusal)).into_response("r");
        assert_eq!(
            (response.status(), &response.headers()["etag"]),
            (http::StatusCode::PRECONDITION_FAILED, &"\"9\"".parse().unwrap())
        );
        let gone = Box::<Problem>::from(CatalogError::Refused(Refusal::Missing { key: "colour".into() }));
        assert_eq!((gone.kind, gone.headers.len()), (Kind::Stale, 0));
    }

    #[test]
    fn without_a_leader_nothing_was_changed_and_the_client_is_asked_back() {
        let problem = Box::<Problem>::from(CatalogError::NotLed { why: "nobody answers".into() });
        assert!(problem.detail.contains("Nothing changed"), "{}", problem.detail);
        let response = problem.into_response("r");
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (503, &"1".parse().unwrap())
        );
    }

    #[test]
    fn an_unknown_outcome_does_not_say_that_nothing_changed() {
        let problem = Box::<Problem>::from(CatalogError::Unknown { why: "the time ran out".into() });
        assert_eq!(problem.kind, Kind::OutcomeUnknown);
        assert!(!problem.detail.contains("Nothing changed"), "{}", problem.detail);
    }

    #[test]
    fn forgetting_the_last_copies_is_a_conflict_that_names_them() {
        let refusal = Refusal::LastCopies { host: HostId(7), cohort: 3 };
        let problem = Box::<Problem>::from(CatalogError::Refused(refusal));
        assert_eq!(problem.kind.status(), 409);
        assert!(problem.detail.contains("cohort 3") && problem.detail.contains("0x0000000000000007"));
    }
}
