//! What can be asked of the catalog, and what it says to that.
//!
//! Commands are compare-and-set: they carry what they expect, and change nothing when it is not so. They travel between
//! peers and stand in the log in the same form, behind a byte for the version:
//!
//! ```text
//! | version u8 = 1 | Request, in postcard's encoding |
//! ```

use super::state::Founding;
use serde::{Deserialize, Serialize};
use skein_model::limits::{ATLAS_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, SCHEMA_BYTES_MAX};
use skein_model::{Cohort, GroupId, HostId, StoreId, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The layout of entries that this build writes, and the newest that it reads.
pub const REQUEST_VERSION: u8 = 1;
/// The longest key of the users' store, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 512;
/// The longest value of the users' store, in bytes.
pub const VALUE_BYTES_MAX: usize = 64 << 10;
/// All keys, values and media types of the users' store together, in bytes.
pub const KEYS_BYTES_MAX: usize = 16 << 20;
/// How many keys the users' store holds at most.
pub const KEYS_MAX: usize = 1 << 16;
/// The longest encoded request. An atlas of the largest allowed text is shorter in binary.
pub const REQUEST_BYTES_MAX: usize = ATLAS_BYTES_MAX + SCHEMA_BYTES_MAX;

/// One command, by an ID under which it takes effect once however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Drawn at random by who wants the change.
    pub id: u128,
    /// A place of the catalog's log that the sender knew to be decided before it sent this for the first time. It tells
    /// how far back the catalog's memory of requests has to reach to know whether this one was carried out before.
    pub after: u64,
    /// Whether it may have been sent before. If it is refused now, it stays refused, so that an earlier copy that is still on its
    /// way changes nothing either.
    pub again: bool,
    /// What to do.
    pub command: Command,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Begins the catalog. The first command of every cell; refused afterwards.
    Found(Genesis),
    /// Asks for cohorts, by the rules of [`skein_model::Atlas::next`]. With `if_version`, only while the atlas has that version.
    PutAtlas {
        /// The cohorts, of which the targets count.
        targets: Vec<Cohort>,
        /// The atlas version it is meant for.
        if_version: Option<u64>,
    },
    /// Replaces the schema. With `if_version`, only while the schema has that version.
    PutSchema {
        /// The whole text.
        text: String,
        /// The schema version it is meant for.
        if_version: Option<u64>,
    },
    /// A host says which directory it has. Changes nothing when that is known.
    Join {
        /// The host.
        host: HostId,
        /// Its directory.
        store: StoreId,
    },
    /// An operator says that the host's directory is gone for good. Changes nothing when the host is not known.
    Forget {
        /// The host.
        host: HostId,
    },
    /// The supervisor says what has been reached. Steps for another state than the one they were taken in are left out.
    Advance {
        /// Groups that have begun.
        opened: Vec<GroupId>,
        /// Cohorts that can go on.
        steps: Vec<Step>,
    },
    /// Writes one of the users' keys.
    PutKey {
        /// The key.
        key: String,
        /// Its new value.
        value: Value,
        /// What has to be true of the key.
        expect: KeyExpect,
    },
    /// Removes one of the users' keys. Changes nothing when it is not there and that meets `expect`.
    DeleteKey {
        /// The key.
        key: String,
        /// What has to be true of the key.
        expect: KeyExpect,
    },
}

/// With what a cell begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// Names the founding.
    pub founding: Founding,
    /// The first cohorts; taken as they are.
    pub cohorts: Vec<Cohort>,
    /// Version of the first atlas: 1, or that of the catalog of a cell of one that goes on here.
    pub atlas_version: u64,
    /// How often the schema was changed before.
    pub schema_version: u64,
    /// The schema's text; may be empty.
    pub schema: String,
    /// The hosts that are known, and their directories.
    pub members: BTreeMap<HostId, StoreId>,
    /// Whether the cohorts' groups have begun already, as in a cell of one that goes on here.
    pub opened: bool,
}

/// One cohort reaching its next state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The cohort's group.
    pub group: GroupId,
    /// Since when the cohort is in the state that the step leaves: [`super::CohortFacts::since`].
    pub since: u64,
    /// The state that it leaves.
    pub from: StepFrom,
}

/// The states that a cohort leaves by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepFrom {
    /// Everybody knows of the move, so it may begin.
    Issuing,
    /// The replicas are where they shall be.
    Moving,
}

/// What has to be true of a key for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyExpect {
    /// Nothing.
    Anything,
    /// It has no value.
    Absent,
    /// It has a value.
    Present,
    /// It has a value of this version.
    Version(u64),
}

/// What a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The version of what the command is about, after it: the atlas's, the schema's, the key's (0: absent); for the other
    /// commands the catalog's.
    pub version: u64,
    /// Whether anything is different now.
    pub changed: bool,
    /// The entry of the catalog's log that decided it.
    pub index: u64,
}

/// What a refusal is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// The atlas.
    Atlas,
    /// The schema.
    Schema,
    /// One of the users' keys.
    Key(String),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Atlas => f.write_str("the atlas"),
            Subject::Schema => f.write_str("the schema"),
            Subject::Key(key) => write!(f, "key {key:?}"),
        }
    }
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// It was meant for another version.
    #[error("{subject} is at version {current}, not {expected}; look at it again, then repeat the change")]
    Stale {
        /// Of what.
        subject: Subject,
        /// The version there is; 0 for a key that is absent.
        current: u64,
        /// The version that was expected.
        expected: u64,
    },
    /// The key has a value, and should not.
    #[error("key {key:?} exists already, at version {version}")]
    Exists {
        /// The key.
        key: String,
        /// The version of its value.
        version: u64,
    },
    /// The key has no value, and should.
    #[error("key {key:?} does not exist")]
    Missing {
        /// The key.
        key: String,
    },
    /// There is no cell yet that could be changed.
    #[error("this cell has no atlas yet: PUT /atlas, or start one peer with --solo")]
    NotFounded,
    /// The cell was founded before.
    #[error("the cell has been founded already, as {founding}")]
    AlreadyFounded {
        /// Its founding.
        founding: Founding,
    },
    /// The cohorts break a rule of the atlas.
    #[error("{detail}")]
    BadAtlas {
        /// Which.
        detail: String,
    },
    /// The atlas names hosts that never joined the cell.
    #[error(
        "the cell does not know {}; start each with --hail and the address of a peer of this cell, then repeat the change",
        list(hosts)
    )]
    UnknownHosts {
        /// Which.
        hosts: BTreeSet<HostId>,
    },
    /// The number of cohorts would change.
    #[error(
        "the atlas has {current} cohorts and {submitted} were submitted; this release keeps the number that the first atlas had: submit {current}"
    )]
    CohortCount {
        /// How many there are.
        current: usize,
        /// How many were submitted.
        submitted: usize,
    },
    /// The schema's text has errors.
    #[error("{detail}")]
    BadSchema {
        /// Which.
        detail: String,
    },
    /// The host comes with another directory than the one that is known.
    #[error(
        "host {host} is known with store {known} and comes with store {joining}: if its old directory is lost, run `skein forget {host}` against any peer, and start it again; if not, start it in the directory that has the old one"
    )]
    OtherStore {
        /// The host.
        host: HostId,
        /// The directory that it is known by.
        known: StoreId,
        /// The directory that it has now.
        joining: StoreId,
    },
    /// Another host has the same directory.
    #[error(
        "store {store} belongs to host {host} already: a directory cannot be copied to make another peer; run `skein init` in a fresh one"
    )]
    StoreTaken {
        /// The directory.
        store: StoreId,
        /// Whose it is.
        host: HostId,
    },
    /// Forgetting the host would leave a cohort without a majority, and its rows unreachable for good.
    #[error(
        "cohort {cohort} would have no majority without the directory of host {host}: bring that host back, or move the cohort elsewhere first with PUT /atlas"
    )]
    LastCopies {
        /// The host.
        host: HostId,
        /// A cohort that needs it.
        cohort: usize,
    },
    /// None of the steps is for the state that the cohorts have.
    #[error("the cohorts have gone on meanwhile")]
    NothingToAdvance,
    /// The key is empty or too long.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes of UTF-8; this one has {bytes}")]
    KeyLength {
        /// Its length.
        bytes: usize,
    },
    /// The value is too long.
    #[error(
        "a value of the catalog has at most {VALUE_BYTES_MAX} bytes; this one has {bytes}; larger ones belong in a table"
    )]
    ValueTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The media type is too long.
    #[error("a media type has at most {CONTENT_TYPE_BYTES_MAX} bytes; this one has {bytes}")]
    ContentTypeTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The users' store is full.
    #[error(
        "the catalog's keys and values would take {bytes} bytes, and at most {KEYS_BYTES_MAX} are allowed; delete some, or use a table"
    )]
    Full {
        /// What they would take together.
        bytes: usize,
    },
    /// The users' store has too many keys.
    #[error("the catalog has {KEYS_MAX} keys, and that is the most it holds; delete some, or use a table")]
    TooManyKeys,
    /// The request is too old for the catalog to remember whether it was carried out. Nothing was done *now*.
    #[error(
        "the request was first sent when entry {after} was the last known, and requests are remembered since entry {since}"
    )]
    TooOld {
        /// What the request said.
        after: u64,
        /// How far back the memory goes.
        since: u64,
    },
    /// The request was refused before, and is not carried out any more.
    #[error("this request was refused before")]
    Withdrawn,
    /// The request is too long.
    #[error("the change takes {bytes} bytes, and at most {REQUEST_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
}

fn list(hosts: &BTreeSet<HostId>) -> String {
    let words: Vec<String> = hosts.iter().map(|host| format!("host {host}")).collect();
    words.join(", ")
}

/// Bytes are not a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestFault {
    /// They were written by a newer release.
    #[error(
        "the catalog's log holds an entry of version {found}, and this release reads up to {REQUEST_VERSION}; start the newer release"
    )]
    Newer {
        /// The version they name.
        found: u8,
    },
    /// They are no request at all.
    #[error("an entry of the catalog's log is malformed: {0}")]
    Malformed(String),
}

impl Request {
    /// The bytes for the log and for peers. Errors: [`Refusal::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        // Writing to memory does not fail, and none of our types has a length that postcard cannot know beforehand.
        let bytes = postcard::to_extend(self, vec![REQUEST_VERSION]).unwrap_or_default();
        match bytes.len() {
            1..=REQUEST_BYTES_MAX => Ok(bytes),
            bytes => Err(Refusal::TooLarge { bytes }),
        }
    }

    /// Reads what [`Request::encode`] wrote. Total: any bytes give a request or an error.
    pub fn decode(bytes: &[u8]) -> Result<Request, RequestFault> {
        match bytes.split_first() {
            None => Err(RequestFault::Malformed("it is empty".into())),
            Some((&REQUEST_VERSION, body)) => match postcard::take_from_bytes(body) {
                Ok((request, [])) => Ok(request),
                Ok((_, rest)) => Err(RequestFault::Malformed(format!("{} bytes follow it", rest.len()))),
                Err(error) => Err(RequestFault::Malformed(error.to_string())),
            },
            Some((&found, _)) if REQUEST_VERSION < found => Err(RequestFault::Newer { found }),
            Some(_) => Err(RequestFault::Malformed("its version is 0".into())),
        }
    }
}
