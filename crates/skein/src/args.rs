//! The command line. Every setting is an `Option`, so that "not given" stays visible to [`crate::config`].

use crate::trouble::EXIT_CODES;
use crate::units::{Bytes, CopyRate, Memory, Span};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use skein_model::{CellId, HostId, TableId, TxClock};
use std::ffi::OsString;
use std::path::PathBuf;

/// A distributed, transactional key-value database over HTTP.
#[derive(Debug, Parser)]
#[command(name = "skein", version, propagate_version = true, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a directory a server's own.
    #[command(
        after_help = "Example:\n  skein init --host 0xF47F4AA7602F3857 --cell 0x3B69376FF6CE2141 ./data"
    )]
    Init(InitArgs),
    /// Serve a directory over HTTP until SIGTERM or SIGINT.
    #[command(after_help = SERVE_HELP)]
    Serve(Box<ServeArgs>),
    /// Load JSON Lines or CSV into a table of a running server.
    #[command(after_help = IMPORT_HELP)]
    Import(ImportArgs),
    /// Write a table of a running server as JSON Lines, as it is now or as it was.
    #[command(after_help = EXPORT_HELP)]
    Export(ExportArgs),
    /// Tell how a cell is doing: its peers, cohorts, moves and catalog.
    #[command(after_help = "Example:\n  skein status --admin-url http://127.0.0.1:9990")]
    Status(StatusArgs),
    /// Show and change which peers hold which share of the rows.
    #[command(after_help = ATLAS_HELP)]
    Atlas(AtlasArgs),
    /// Make a peer hand over what it leads, for example before its machine is restarted.
    #[command(after_help = DRAIN_HELP)]
    Drain(DrainArgs),
    /// Let a drained peer lead again.
    #[command(after_help = "Example:\n  skein rejoin --admin-url http://db2:9990")]
    Rejoin(RejoinArgs),
    /// Give up the lost directory of a host, so that the host may come back with an empty one.
    #[command(after_help = FORGET_HELP)]
    Forget(ForgetArgs),
    /// Make a CA, and certificates that peers show each other.
    #[command(after_help = CERT_HELP)]
    Cert(CertArgs),
    /// Check a stopped server's directory and say what is wrong with it.
    #[command(
        after_help = "Example:\n  skein doctor ./data\n\nExits with 0 if all is well and 5 if something is damaged."
    )]
    Doctor(DoctorArgs),
    /// Measure a running server, and the limits of this machine beside it.
    #[command(after_help = "Example:\n  skein bench --workload put --clients 1,64 --duration 10s")]
    Bench(skein_bench::BenchArgs),
    /// Watch peers gossip, and step them, on a page that this machine's browser shows.
    #[command(after_help = FLOCK_LAB_HELP)]
    FlockLab(FlockLabArgs),
}

const SERVE_HELP: &str = "\
Examples:
  skein serve --solo --init ./data          a database from nothing
  skein serve --solo --http-addr 127.0.0.1:7070 --admin-addr 127.0.0.1:9990 ./data
                                            reachable from this machine only

There is no authentication yet: by default everybody who can reach the ports can read and write.
Settings come from flags, then SKEIN_* variables, then DIR/skein.toml, then defaults.
Without --solo a new server belongs to no cohort and rows time out until PUT /atlas names its host.

Three peers of one cell, on one machine (docs/OPERATIONS.md tells more):
  skein serve --init --cell 0xC --host 0xA db1
  skein serve --init --cell 0xC --host 0xB --hail 0xA=localhost:6278 --peer-addr :6279 --http-addr :7071 --admin-addr :9991 db2
  skein serve --init --cell 0xC --host 0xD --hail 0xA=localhost:6278 --peer-addr :6280 --http-addr :7072 --admin-addr :9992 db3
  skein atlas apply --hosts 0xA,0xB,0xD";

const IMPORT_HELP: &str = "\
Examples:
  skein import --table fruit --key name fruit.jsonl
  skein import --table 0x1 --key id --format csv --numbers people.csv
  skein export --table fruit | skein import --table copy --format rows -

A bad line is reported and left out; all others go in. An import that was interrupted continues where it
stopped when the same command is run again. Rows with the same key go in in the order of the file.";

const EXPORT_HELP: &str = "\
Examples:
  skein export --table fruit > fruit.jsonl
  skein export --table fruit --until 2026-01-31T12:00:00Z --out then.jsonl

Each line is {\"key\":…,\"time\":…,\"value\":…}; `skein import --format rows` reads it back.";

const ATLAS_HELP: &str = "\
Examples:
  skein atlas show
  skein atlas plan --hosts 0xA,0xB,0xC      what growing a cell of one cohort would move
  skein atlas apply wanted.json             move, and watch it
  skein atlas cancel                        take back what is under way

An atlas is a list of cohorts, a power of two of them, each an odd number of hosts: [{\"hosts\":[\"0xA\"]}].
Rows are served during a move, and the old copies are deleted only when it is settled.";

const DRAIN_HELP: &str = "\
Example:
  skein drain --wait --admin-url http://db2:9990 && ssh db2 systemctl restart skein

The peer keeps its rows and goes on serving clients; only others decide what is written. It leads
again after skein rejoin, and not before: a restart changes nothing about that.";

const FORGET_HELP: &str = "\
Example:
  skein forget 0xF47F4AA7602F3857

A host that comes back with another directory is refused, because it has lost what it promised. When its
directory is gone for good, this lets it come back with an empty one, which is then filled from the others. The cell
refuses when a cohort would have no majority without the lost directory.";

const CERT_HELP: &str = "\
Examples:
  skein cert ca ./tls                       ca.pem for every peer, ca.key for this command only
  skein cert peer 0xF47F4AA7602F3857 --ca ./tls
  skein serve --peer-tls-ca ca.pem --peer-tls-cert peer-….pem --peer-tls-key peer-….key ./data

With them, peers talk mutual TLS: all of a cell have to have them, or none. HTTP is not encrypted by this.";

const FLOCK_LAB_HELP: &str = "\
Examples:
  skein flock-lab                           then open http://127.0.0.1:7080/
  skein flock-lab --addr 127.0.0.1:0        on any free port

The page simulates a flock of up to 1000 peers that run the same gossip as a server's: add, kill, restart and slow
them down, broadcast, step by message, heartbeat or second, rewind. Its address holds the seed and everything
that was done, so that others see the same. Nothing is stored, and nothing is loaded from elsewhere.";

/// `skein init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// IDs for the directory.
    #[command(flatten)]
    pub ids: IdArgs,
    /// The directory; created if missing, else it has to be empty.
    pub dir: PathBuf,
}

/// The IDs that a directory gets once.
#[derive(Debug, Args)]
pub struct IdArgs {
    /// The server's own 64-bit ID [default: drawn at random]
    #[arg(long, value_name = "ID", env = "SKEIN_HOST")]
    pub host: Option<HostId>,
    /// The 64-bit ID of the database that the server is part of [default: drawn at random]
    #[arg(long, value_name = "ID", env = "SKEIN_CELL")]
    pub cell: Option<CellId>,
}

/// `skein serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Initialise the directory first, unless it is already
    #[arg(long)]
    pub init: bool,
    /// IDs for `--init`, and a check without it.
    #[command(flatten)]
    pub ids: IdArgs,
    /// Settings that may also stand in the file.
    #[command(flatten)]
    pub settings: Settings,
    /// Configuration file [default: DIR/skein.toml if it exists]
    #[arg(long, value_name = "FILE", env = "SKEIN_CONFIG")]
    pub config: Option<PathBuf>,
    /// After the start, load FILE into TABLE once, keyed by the member KEY; adds the table to the schema if missing
    #[arg(long, value_name = "TABLE:KEY=FILE", value_parser = parse_load)]
    pub import: Vec<Load>,
    /// Once ready, write process ID and addresses to FILE as JSON; removed at the end
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// The directory to serve.
    #[arg(env = "SKEIN_DIR")]
    pub dir: PathBuf,
}

/// Settings that flags, environment and file share.
#[derive(Debug, Clone, Default, Args)]
pub struct Settings {
    /// Be the whole cell: one cohort of this host alone
    #[arg(long, env = "SKEIN_SOLO", value_parser = clap::builder::FalseyValueParser::new(), action = clap::ArgAction::SetTrue)]
    pub solo: bool,
    /// Serve rows here; ":port" is every address of this machine [default: :7070]
    #[arg(long, value_name = "ADDR", env = "SKEIN_HTTP_ADDR")]
    pub http_addr: Option<String>,
    /// Serve administration here [default: :9990]
    #[arg(long, value_name = "ADDR", env = "SKEIN_ADMIN_ADDR")]
    pub admin_addr: Option<String>,
    /// Take connections of other peers here [default: :6278; with --solo, nowhere]
    #[arg(long, value_name = "ADDR", env = "SKEIN_PEER_ADDR")]
    pub peer_addr: Option<String>,
    /// Tell other peers to reach this one here [default: peer-addr; for ":port", the address from which the hailed peers are reached]
    #[arg(long, value_name = "ADDR", env = "SKEIN_SHARE_PEER_ADDR")]
    pub share_peer_addr: Option<String>,
    /// Peers to look for at first, as ID=HOST:PORT; one that is up is enough, the others come by gossip
    #[arg(long, value_name = "ID=ADDR", env = "SKEIN_HAIL", value_delimiter = ',')]
    pub hail: Vec<String>,
    /// Peers talk mutual TLS: the certificate of the CA that signed all of theirs
    #[arg(long, value_name = "FILE", env = "SKEIN_PEER_TLS_CA")]
    pub peer_tls_ca: Option<PathBuf>,
    /// This host's certificate; skein cert peer makes one
    #[arg(long, value_name = "FILE", env = "SKEIN_PEER_TLS_CERT")]
    pub peer_tls_cert: Option<PathBuf>,
    /// The private key of this host's certificate
    #[arg(long, value_name = "FILE", env = "SKEIN_PEER_TLS_KEY")]
    pub peer_tls_key: Option<PathBuf>,
    /// Tell others to reach the rows here [default: http-addr, with this machine's name for ":port"]
    #[arg(long, value_name = "ADDR", env = "SKEIN_SHARE_HTTP_ADDR")]
    pub share_http_addr: Option<String>,
    /// Tell others to reach administration here; checked and kept, but nobody is told yet [default: as for rows]
    #[arg(long, value_name = "ADDR", env = "SKEIN_SHARE_ADMIN_ADDR")]
    pub share_admin_addr: Option<String>,
    /// How long a request waits for a quorum [default: 5s]
    #[arg(long, value_name = "TIME", env = "SKEIN_REQUEST_TIMEOUT")]
    pub request_timeout: Option<Span>,
    /// Memory for cache (half), write buffers and requests (a quarter each): share or bytes [default: 25%]
    #[arg(long, value_name = "SIZE", env = "SKEIN_MEMORY")]
    pub memory: Option<Memory>,
    /// Refuse writes (507) when the disk has less than this free [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "SKEIN_DISK_RESERVE")]
    pub disk_reserve: Option<Bytes>,
    /// Size of one file of the durable log; a transaction takes at most three quarters of it [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "SKEIN_LOG_SEGMENT")]
    pub log_segment: Option<Bytes>,
    /// Write the store out, and recycle the log behind it, when the log holds this much [default: 96MiB]
    #[arg(long, value_name = "SIZE", env = "SKEIN_CHECKPOINT_EVERY")]
    pub checkpoint_every: Option<Bytes>,
    /// How fast copies leave for new replicas: adaptive (what writers bear), unlimited, or bytes a second [default: adaptive]
    #[arg(long, value_name = "RATE", env = "SKEIN_COPY_RATE")]
    pub copy_rate: Option<CopyRate>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT", env = "SKEIN_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Which log lines to write: error, warn, info, debug, trace, or per part: info,skein_server=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "SKEIN_LOG_LEVEL")]
    pub log_level: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A file to load after the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Table name or ID.
    pub table: String,
    /// Member or column that is the key.
    pub key: String,
    /// The file.
    pub file: PathBuf,
}

fn parse_load(text: &str) -> Result<Load, String> {
    let parts = text.split_once('=').and_then(|(to, file)| Some((to.split_once(':')?, file)));
    match parts {
        Some(((table, key), file)) if !table.is_empty() && !key.is_empty() && !file.is_empty() => {
            Ok(Load { table: table.into(), key: key.into(), file: file.into() })
        }
        _ => Err("expected TABLE:KEY=FILE, for example airports:iata=data/airports.jsonl".into()),
    }
}

/// `skein import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// Table to load into: a name of the schema, or an ID such as 0x1
    #[arg(long)]
    pub table: String,
    /// Member (JSON) or column (CSV) that is the row's key
    #[arg(long, value_name = "FIELD", required_unless_present = "format", required_if_eq_any([("format", "jsonl"), ("format", "csv")]))]
    pub key: Option<String>,
    /// What the file holds [default: by the file's ending, else jsonl]
    #[arg(long)]
    pub format: Option<Format>,
    /// CSV: cells that are JSON numbers become numbers, not strings
    #[arg(long)]
    pub numbers: bool,
    /// Add the table to the schema if it has none of this name, with this ID or the next free one
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true)]
    pub create_table: Option<Option<TableId>>,
    /// The server
    #[arg(long, env = "SKEIN_URL", default_value = "http://127.0.0.1:7070")]
    pub url: String,
    /// The server's admin port, for --create-table
    #[arg(long, env = "SKEIN_ADMIN_URL", default_value = "http://127.0.0.1:9990")]
    pub admin_url: String,
    /// Rows in one transaction
    #[arg(long, value_name = "ROWS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Connections, each with one batch under way
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: u16,
    /// How long to try one batch again while the server is away or overloaded
    #[arg(long, value_name = "TIME", default_value = "1m")]
    pub retry_for: Span,
    /// Where to note progress [default: FILE.skein-progress; standard input has none]
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// The file, or - for standard input
    pub file: PathBuf,
}

/// What a file to import holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line; the line is the value, byte for byte.
    Jsonl,
    /// Comma-separated values with a header; a row becomes a JSON object of strings.
    Csv,
    /// Lines as `skein export` writes them: key and value.
    Rows,
}

/// `skein export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Table to write out: a name of the schema, or an ID such as 0x1
    #[arg(long)]
    pub table: String,
    /// The table as it was then: microseconds since 1970, or 2026-01-31T12:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub until: Option<TxClock>,
    /// Only the values, one a line
    #[arg(long)]
    pub values_only: bool,
    /// File to write, whole or not at all [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The server
    #[arg(long, env = "SKEIN_URL", default_value = "http://127.0.0.1:7070")]
    pub url: String,
}

fn parse_time(text: &str) -> Result<TxClock, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let wrong =
        || format!("{text:?} is neither microseconds since 1970 nor a time such as 2026-01-31T12:00:00Z");
    let time = humantime::parse_rfc3339_weak(text).map_err(|_| wrong())?;
    let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH).map_err(|_| wrong())?;
    u64::try_from(since.as_micros()).map(TxClock).map_err(|_| wrong())
}

/// Where a server's admin port is.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// A server's admin port; any peer of the cell will do
    #[arg(long, env = "SKEIN_ADMIN_URL", default_value = "http://127.0.0.1:9990", global = true)]
    pub admin_url: String,
}

/// `skein status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Which server to ask.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// `skein atlas`.
#[derive(Debug, Args)]
pub struct AtlasArgs {
    /// Which server to ask.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// What to do.
    #[command(subcommand)]
    pub verb: AtlasVerb,
}

/// What to do with the atlas.
#[derive(Debug, Subcommand)]
pub enum AtlasVerb {
    /// The cohorts, and where they are going
    Show,
    /// What a new atlas would move; changes nothing
    Plan {
        /// The new atlas.
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Ask for a new atlas, after showing what it moves, and watch until it is settled
    Apply {
        /// The new atlas.
        #[command(flatten)]
        wanted: Wanted,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Do not watch
        #[arg(long)]
        detach: bool,
    },
    /// Show the moves under way until everything is settled; ending this ends no move
    Watch,
    /// Leave every cohort where its rows are now
    Cancel,
}

/// An atlas that somebody wants.
#[derive(Debug, Clone, Args)]
pub struct Wanted {
    /// The atlas as JSON, or - for standard input
    #[arg(required_unless_present = "hosts", conflicts_with = "hosts")]
    pub file: Option<PathBuf>,
    /// One cohort of these hosts
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub hosts: Vec<HostId>,
}

/// `skein drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Which peer: its own admin port.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Wait until it leads nothing
    #[arg(long)]
    pub wait: bool,
    /// With --wait, for how long at most
    #[arg(long, value_name = "TIME", default_value = "1m")]
    pub within: Span,
}

/// `skein rejoin`.
#[derive(Debug, Args)]
pub struct RejoinArgs {
    /// Which peer: its own admin port.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `skein forget`.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// Which server to ask.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The host whose directory is lost
    pub host: HostId,
}

/// `skein cert`.
#[derive(Debug, Args)]
pub struct CertArgs {
    /// What to make.
    #[command(subcommand)]
    pub verb: CertVerb,
}

/// What certificate to make.
#[derive(Debug, Subcommand)]
pub enum CertVerb {
    /// A CA for one cell: ca.pem and ca.key
    Ca {
        /// Where to put them; created if missing
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// A certificate for one host: peer-ID.pem and peer-ID.key
    Peer {
        /// The host, as skein init told it
        host: HostId,
        /// Where ca.pem and ca.key are
        #[arg(long, value_name = "DIR", default_value = ".")]
        ca: PathBuf,
        /// Where to put the files [default: beside the CA]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// A DNS name or address to put in as well, for uses other than Skein's
        #[arg(long)]
        name: Vec<String>,
    },
}

/// `skein doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The directory to check.
    pub dir: PathBuf,
}

/// `skein flock-lab`.
#[derive(Debug, Args)]
pub struct FlockLabArgs {
    /// Serve the page here; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7080", env = "SKEIN_FLOCK_LAB_ADDR")]
    pub addr: std::net::SocketAddr,
}

/// The users' page writes `-init -serve -host 0x1 -httpAddr=:7070`; we also take that.
///
/// Only words with exactly one dash that the page knows are touched, so no flag of ours changes meaning.
pub fn modern_spelling(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const SPELLINGS: [(&str, &str); 10] = [
        ("-solo", "--solo"),
        ("-host", "--host"),
        ("-cell", "--cell"),
        ("-init", "--init"),
        ("-hail", "--hail"),
        ("-peerAddr", "--peer-addr"),
        ("-httpAddr", "--http-addr"),
        ("-shareHttpAddr", "--share-http-addr"),
        ("-admin.port", "--admin-addr"),
        ("-serve", "serve"),
    ];
    let mut words: Vec<OsString> = words
        .into_iter()
        .map(|word| {
            let Some(text) = word.to_str() else { return word };
            let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v)));
            match (SPELLINGS.iter().find(|(old, _)| *old == name), value) {
                (Some((_, new)), None) => (*new).into(),
                (Some((_, new)), Some(value)) => format!("{new}={value}").into(),
                (None, _) => word,
            }
        })
        .collect();
    // `-init -serve DIR` and `-init DIR` name the command anywhere among the flags; ours comes first.
    if words
        .get(1)
        .is_some_and(|first| first.to_str().is_some_and(|t| t.starts_with("--init") || t == "--solo"))
    {
        match words.iter().position(|word| word == "serve") {
            Some(at) => words[1..=at].rotate_right(1),
            None if words[1] == "--init" => words[1] = "init".into(),
            None => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(modern_spelling(line.split(' ').map(OsString::from)))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_users_page_spelling_is_understood() {
        let cli =
            parse("skein -init -serve -host 0xF47F4AA7602F3857 -cell 0x3B69376FF6CE2141 store.db").unwrap();
        let Command::Serve(serve) = cli.command else { panic!("not serve") };
        assert!(serve.init);
        assert_eq!(serve.ids.host, Some(HostId(0xF47F_4AA7_602F_3857)));
        assert_eq!(serve.dir, PathBuf::from("store.db"));

        let cli = parse("skein serve -solo -httpAddr=:7071 -admin.port :9991 store.db").unwrap();
        let Command::Serve(serve) = cli.command else { panic!("not serve") };
        assert!(serve.settings.solo);
        assert_eq!(serve.settings.http_addr.as_deref(), Some(":7071"));
        assert_eq!(serve.settings.admin_addr.as_deref(), Some(":9991"));

        let cli = parse("skein -init -serve -host 0x1 -cell 0x2 -hail 0xF=localhost:6278 store2.db").unwrap();
        let Command::Serve(serve) = cli.command else { panic!("not serve") };
        assert_eq!(serve.settings.hail, ["0xF=localhost:6278"]);

        let cli = parse("skein init -host=0x1 -cell=0x2 store.db").unwrap();
        assert!(matches!(
            cli.command,
            Command::Init(InitArgs { ids: IdArgs { host: Some(HostId(1)), .. }, .. })
        ));
    }

    #[test]
    fn a_file_to_load_names_table_key_and_file() {
        let load = Load { table: "airports".into(), key: "iata".into(), file: "a=b:c.jsonl".into() };
        assert_eq!(parse_load("airports:iata=a=b:c.jsonl"), Ok(load));
        for text in
            ["", "airports", "airports:iata", "airports=x", ":iata=x", "airports:=x", "airports:iata="]
        {
            assert!(parse_load(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_a_number_or_a_date() {
        assert_eq!(parse_time("1436030454000000"), Ok(TxClock(1_436_030_454_000_000)));
        assert_eq!(parse_time("2015-07-04T17:20:54Z"), Ok(TxClock(1_436_030_454_000_000)));
        assert!(parse_time("yesterday").is_err());
    }

    #[test]
    fn an_import_needs_a_key_unless_the_format_has_one() {
        assert!(parse("skein import --table t x.jsonl").is_err());
        assert!(parse("skein import --table t --format csv x.csv").is_err());
        assert!(parse("skein import --table t --key id x.jsonl").is_ok());
        assert!(parse("skein import --table t --format rows x.jsonl").is_ok());
    }

    #[test]
    fn help_tells_the_defaults_that_are_in_force() {
        let help = Cli::command().find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let config = crate::config::Config::default();
        for (flag, default) in [
            ("--http-addr", config.http_addr),
            ("--admin-addr", config.admin_addr),
            ("--request-timeout", config.request_timeout.to_string()),
            ("--memory", config.memory.to_string()),
            ("--disk-reserve", config.disk_reserve.to_string().replace(' ', "")),
            ("--log-segment", config.log_segment.to_string().replace(' ', "")),
            ("--checkpoint-every", config.checkpoint_every.to_string().replace(' ', "")),
            ("--copy-rate", config.copy_rate.to_string()),
            ("--log-format", format!("{:?}", config.log_format).to_lowercase()),
            ("--log-level", config.log_level),
        ] {
            let about = help.split(&format!("{flag} <")).nth(1).unwrap();
            let stated = about.split("[default: ").nth(1).unwrap().split(']').next().unwrap();
            assert_eq!(stated, default, "{flag}");
        }
    }

    #[test]
    fn a_table_can_be_created_with_or_without_an_id() {
        let create = |line: &str| match parse(line).unwrap().command {
            Command::Import(import) => import.create_table,
            _ => panic!("not import"),
        };
        assert_eq!(create("skein import --table t --key id x"), None);
        assert_eq!(create("skein import --create-table --table t --key id x"), Some(None));
        assert_eq!(create("skein import --create-table=0x10 --table t --key id x"), Some(Some(TableId(16))));
    }
}
