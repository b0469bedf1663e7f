//! The cell's facts about itself, and a small store for its users: a Raft group of its own on the hosts of cohort 0.
//!
//! * [`state`]: what every peer knows: atlas, schema, members;
//! * [`command`]: what can be asked, and [`content`]: the rules by which it is done, pure;
//! * [`keys`]: the users' store, kept by the members of the group only;
//! * `recent`: how a request that is sent twice takes effect once.
//!
//! When a cohort that is moving goes on is decided in [`crate::supervisor`].

pub mod command;
pub mod content;
mod driver;
mod errors;
pub mod file;
mod founding;
mod handle;
pub mod keys;
mod known;
mod leader;
pub mod link;
pub mod machine;
mod recent;
pub mod state;
mod store;

pub use command::{
    Command, Genesis, KeyExpect, Outcome, Refusal, Request, RequestFault, Step, StepFrom, Subject,
};
pub use content::Content;
pub use errors::{CatalogError, OpenCatalogError};
pub use handle::{Catalog, CatalogInfo, CatalogOptions, Luck, Summary};
pub use keys::{KeyEntry, Keys};
pub use known::TwoFoundings;
pub(crate) use link::fuzz as fuzz_messages;
pub use link::{CatalogLink, LinkError};
pub use state::{CATALOG_HOSTS_MAX, CatalogState, CohortFacts, Founding, StateFault, catalog_hosts};
pub use store::Freshness;
