//! The knobs of the facts, and what is counted.

use std::time::Duration;

/// The knobs of [`Facts`](super::Facts). The defaults are for cells of up to some ten thousand peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most bytes that the facts of one peer can have, keys and about five bytes for each fact included. Ours and
    /// everybody else's alike, so it has to be the same for all. Sane: 512 to 16 Ki, and less than `chunk_bytes` by
    /// 100.
    pub record_bytes_max: usize,
    /// Most keys that one peer can have facts under; the same for all. Sane: 16 to 256.
    pub keys_max: usize,
    /// Most owners remembered; more are refused. Sane: twice the peers there may ever be.
    pub hosts_max: usize,
    /// Most bytes of facts remembered, of all owners together. Sane: `hosts_max` times a typical record.
    pub total_bytes_max: usize,
    /// Most bytes of all settings together, names included; the same for all. Sane: up to 1 Mi.
    pub settings_bytes_max: usize,
    /// Most settings, deleted ones included; the same for all. Sane: up to 16 Ki.
    pub settings_max: usize,
    /// How long a change waits for others to travel with. Sane: 0 to 1 s.
    pub coalesce: Duration,
    /// Least time between two broadcasts of ours. Sane: 100 ms to 10 s; a thousand peers that change
    /// something all the time send a thousand broadcasts per this time.
    pub broadcast_interval: Duration,
    /// Most bytes of one broadcast of ours; what does not fit goes with the next. Sane: `record_bytes_max`
    /// and 100 more, up to what a broadcast may carry.
    pub broadcast_bytes_max: usize,
    /// How often a peer compares what it has with one of its neighbours, drawn at random, when all is quiet.
    /// Sane: 10 s to 5 min; 18 bytes each.
    pub exchange_every: Duration,
    /// How soon a comparison that found differences is repeated; doubles up to `exchange_every`. Sane: 1 to
    /// 10 s.
    pub retry: Duration,
    /// How soon the next chunk is fetched while there is more. Sane: 10 ms to 1 s; with
    /// `chunk_bytes` it bounds what a peer that catches up takes from the others.
    pub next_chunk: Duration,
    /// Most bytes of items in one answer. Sane: 8 Ki to 128 Ki.
    pub chunk_bytes: usize,
    /// Ranges with at most this many elements are listed, larger ones split. Sane: 2 to 16.
    pub list_max: usize,
    /// Bytes that one neighbour may cost us in a second, what it sends and what we answer; four times as much at
    /// once. Sane: 256 Ki to 16 Mi.
    pub link_bytes_per_second: u32,
    /// How often a peer asks one owner, the next in its round, whether it is still there. In a cell of any size each owner is
    /// asked by somebody once per this time on average. Sane: 1 to 30 min.
    pub probe_every: Duration,
    /// How long an answer to that may take. Sane: 1 to 30 s.
    pub probe_timeout: Duration,
    /// How long an owner of whom somebody said that it is gone has to say otherwise. Sane: 10 s to 10 min.
    pub grace: Duration,
    /// How long an owner that is gone is remembered as gone, and so for how long a peer may have heard nothing from
    /// any neighbour and still offer what it knew of others. Sane: an hour to a week.
    pub horizon: Duration,
    /// Most owners remembered as gone; the oldest are forgotten first. Sane: `hosts_max` / 8 and more.
    pub tombstones_max: usize,
    /// Most owners in doubt at once. Sane: what may fail together, unless the exchanges may take longer to spread it.
    pub doubts_max: usize,
    /// Most by which an owner's incarnation grows from one that we knew. Sane: 2^50, 35 years of
    /// microseconds, where incarnations are times; less where they count starts.
    pub incarnation_leap_max: u64,
    /// Most by which an owner's counter grows from one that we knew. Sane: 2^24 and more.
    pub counter_leap_max: u64,
    /// Whether every change of a fact or a setting is told to the owner of the flock.
    pub tell_changes: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            record_bytes_max: 4 << 10,
            keys_max: 64,
            hosts_max: 1 << 17,
            total_bytes_max: 64 << 20,
            settings_bytes_max: 256 << 10,
            settings_max: 4 << 10,
            coalesce: Duration::from_millis(50),
            broadcast_interval: Duration::from_secs(1),
            broadcast_bytes_max: 8 << 10,
            exchange_every: Duration::from_secs(30),
            retry: Duration::from_secs(2),
            next_chunk: Duration::from_millis(100),
            chunk_bytes: 32 << 10,
            list_max: 6,
            link_bytes_per_second: 1 << 20,
            probe_every: Duration::from_secs(300),
            probe_timeout: Duration::from_secs(5),
            grace: Duration::from_secs(60),
            horizon: Duration::from_secs(24 * 3600),
            tombstones_max: 1 << 14,
            doubts_max: 1 << 12,
            incarnation_leap_max: 1 << 50,
            counter_leap_max: 1 << 24,
            tell_changes: true,
        }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Exchanges we opened.
    pub opened: u64,
    /// Exchanges that found nothing different, whoever opened them.
    pub same: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// Bytes of those messages.
    pub bytes_out: u64,
    /// Messages taken.
    pub messages_in: u64,
    /// Bytes of items sent in exchanges.
    pub item_bytes_out: u64,
    /// Items that were news to us.
    pub applied: u64,
    /// Items that we knew already, or something newer.
    pub stale: u64,
    /// Changes that build on some that we lack; we asked for those.
    pub gaps: u64,
    /// Payloads given to the broadcast.
    pub broadcasts: u64,
    /// Owners dropped because they left or are gone.
    pub gone: u64,
    /// Times we had to say again what is ours, because somebody said otherwise.
    pub outbid: u64,
    /// Probes sent.
    pub probes: u64,
    /// Refused: not a message.
    pub malformed: u64,
    /// Refused: from a peer that is no neighbour.
    pub strangers: u64,
    /// Refused: what cannot be so, or is over its budget.
    pub implausible: u64,
    /// Refused: more than its share.
    pub floods: u64,
}
