//! What is measured, by name.

use serde::{Deserialize, Serialize};

macro_rules! measures {
    ($($(#[doc = $doc:literal])+ $variant:ident, $name:literal, $text:literal, $unit:literal;)+) => {
        /// Something that a scenario measures. The names are those of scenario files.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Measure {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)+
        }

        impl Measure {
            /// Its name in scenario files.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it says, for a person.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Its unit; empty for a plain number.
            pub fn unit(self) -> &'static str {
                match self { $(Self::$variant => $unit,)+ }
            }
        }
    };
}

measures! {
    /// Relative message redundancy: payloads sent per delivery, less one.
    /// Source: "Epidemic Broadcast Trees", section 4.1.
    Rmr, "rmr", "relative message redundancy", "";
    /// Mean over the broadcasts of time to last delivery, divided by that of a flood over the same links.
    LdtOverBound, "ldt_over_bound", "last delivery ÷ bound", "×";
    /// The same of the worst broadcast.
    LdtOverBoundMax, "ldt_over_bound_max", "last delivery ÷ bound, worst broadcast", "×";
    /// Most links a payload passed, mean over the broadcasts.
    Hops, "hops", "last delivery hops", "";
    /// Deliveries of those there should have been.
    Delivered, "delivered", "delivered, of all there should be", "";
    /// Deliveries to those who had it already.
    Again, "again", "delivered twice", "";
    /// Bytes sent per delivery beyond the payload itself.
    ControlBytes, "control_bytes", "bytes per peer and broadcast beyond the payload", "B";
    /// Seconds from the last join until all are in one component.
    LastIn, "last_in", "last one in after the last join", "s";
    /// Mean path length, divided by that of a random graph with the same degrees.
    MeanPathOverRandom, "mean_path_over_random", "mean path ÷ random graph's", "×";
    /// Fewest links a peer has.
    DegreeMin, "degree_min", "fewest links", "";
    /// Most links a peer has.
    DegreeMax, "degree_max", "most links", "";
    /// Links that only one end knows.
    OneSided, "one_sided", "links known at one end only", "";
    /// Components of the overlay.
    Components, "components", "components", "";
    /// Overlay and tree state per peer.
    StateBytes, "state_bytes", "overlay and tree state per peer", "B";
    /// Growth of that state while nothing happened.
    StateGrowth, "state_growth", "growth of that state while idle", "B";
    /// Bytes per peer and second while nothing happens, signs of life left out.
    IdleBytes, "idle_bytes", "idle traffic per peer without heartbeats", "B/s";
    /// Bytes per peer and second while nothing happens.
    IdleBytesWithHeartbeats, "idle_bytes_with_heartbeats", "idle traffic per peer with heartbeats", "B/s";
    /// Seconds from a kill until the survivors are one component.
    OneComponent, "one_component", "survivors in one component", "s";
    /// Survivors in the largest component when the time is up.
    Connected, "connected", "survivors in the largest component", "";
    /// Survivors in the largest part of which those remembered each other, at one end at least, as the others died: no
    /// protocol can connect more.
    Acquainted, "acquainted", "survivors whom remembered contacts could connect", "";
    /// Seconds until half of the neighbours of the silently dead had noticed.
    NoticedP50, "noticed_p50", "silent death noticed, median", "s";
    /// Seconds until 99 of 100 had.
    NoticedP99, "noticed_p99", "silent death noticed, 99th percentile", "s";
    /// Links to the living dropped meanwhile.
    FalseAlarms, "false_alarms", "links to the living dropped meanwhile", "";
    /// Broadcasts until all but the slow were reached about as fast as links allow.
    RoutedAround, "routed_around", "slow peers routed around after messages", "";
    /// Broadcasts that reached every stable peer.
    StableReached, "stable_reached", "broadcasts that reach every stable peer", "";
    /// Deliveries to stable peers, of all there should be.
    StableDelivered, "stable_delivered", "deliveries to stable peers", "";
    /// Messages that one join costs, over all peers.
    JoinMessages, "join_messages", "messages per join", "";
    /// Bytes that one join costs, over all peers.
    JoinBytes, "join_bytes", "bytes per join", "B";
    /// Seconds from the end of a partition until one component.
    Healed, "healed", "one component after a partition", "s";
    /// Bytes of one comparison of facts between two that know the same.
    ExchangeBytes, "exchange_bytes", "anti-entropy exchange when nothing changed", "B";
    /// Bytes of facts to and from one that was away, per byte that it missed.
    CatchUpRatio, "catch_up_ratio", "bytes of catching up ÷ bytes missed", "×";
    /// Seconds until it knew what the others knew.
    CatchUp, "catch_up", "caught up after", "s";
    /// Answers that were exactly right, of all.
    QueryExact, "query_exact", "answers exactly right", "";
    /// Time from question to answer, divided by the bound; the worst.
    QueryOverBound, "query_over_bound", "answer ÷ bound", "×";
    /// Messages per peer and question, the worst.
    QueryMessages, "query_messages", "messages per peer and question", "";
    /// Survivors counted, of all, when some die meanwhile.
    QueryCounted, "query_counted", "survivors counted", "";
    /// Answers that say more peers were counted than there are, or the wrong sum of those counted.
    QueryFalse, "query_false", "answers that say what is not so", "";
    /// Events brought to peers per second of one core.
    EventsPerSecond, "events_per_second", "simulated events per second", "";
    /// Most memory the whole process held.
    ProcessMegabytes, "process_megabytes", "memory of the simulation at its most", "MB";
}
