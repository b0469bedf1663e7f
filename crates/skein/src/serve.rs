//! `skein serve`: a server's life, from the lock on its directory to the last request.
//!
//! In order: settings are checked, the directory is locked and its identity read, the cell opens (which repairs what
//! a crash left behind), the ports open, "ready" is said. SIGTERM or SIGINT stops taking requests, lets those
//! under way finish, closes the cell and exits with 0. A second signal exits at once.

use crate::args::{LogFormat, ServeArgs};
use crate::cert;
use crate::client::Target;
use crate::config::{CheckedConfig, Config, TlsFiles};
use crate::home::{self, HomeError, Identity, Initialised, Lock};
use crate::import;
use crate::init;
use crate::memory::Available;
use crate::say;
use crate::signals::Stops;
use crate::trouble::{Exit, Trouble};
use crate::units::{Bytes, CopyRate};
use skein_cell::catalog::OpenCatalogError;
use skein_cell::catalog::file::FileError;
use skein_cell::{Cell, CellOptions, OpenError};
use skein_server::{MemoryBudget, Server, ServerConfig, install_metrics};
use skein_storage::drives::DrivesError;
use skein_storage::engine::EngineError;
use skein_storage::log::LogError;
use skein_storage::rows::RowsError;
use skein_transport::{StartError, Tls};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

/// How long requests under way may take to finish after the first signal, and then the cell to close.
const GRACE: Duration = Duration::from_secs(10);
/// How long handing over what this peer leads may take before requests are turned away.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(3);

/// Log entries kept in memory until they are applied; taken from the share of the write buffers.
const LOG_CACHE_BYTES_MAX: u64 = 16 << 20;

/// Runs `skein serve`.
pub fn run(args: ServeArgs) -> Result<Exit, Trouble> {
    let wrong = |e: &(dyn std::error::Error + 'static)| {
        Trouble::new(Exit::Config, format!("cannot serve {}", args.dir.display())).because_of(e)
    };
    let config = Config::load(args.config.as_deref(), &args.dir)
        .and_then(|config| config.overlay(&args.settings).check(Available::detect(Path::new("/"))))
        .map_err(|e| wrong(&e))?;
    start_log(&config)?;
    let (_lock, identity) = take_directory(&args)
        .map_err(|e| init::trouble(format!("cannot serve {}", args.dir.display()), &args.dir, &e))?;

    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("skein-worker")
        .enable_all()
        .build()
        .map_err(|e| wrong(&e))?;
    let outcome = runtime.block_on(serve(args, config, identity));
    // Whatever still runs has been told to stop, and had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Sends log lines to standard error.
fn start_log(config: &CheckedConfig) -> Result<(), Trouble> {
    let level = &config.log_level;
    // What the consensus library tells, only its authors can use; that a replica has stopped, and why, we say ourselves.
    let plain = level.bytes().all(|b| b.is_ascii_alphabetic());
    let directives = if plain { format!("{level},openraft=off") } else { level.clone() };
    let filter = tracing_subscriber::EnvFilter::try_new(directives).map_err(|e| {
        Trouble::new(Exit::Config, format!("cannot use the log level {level:?}"))
            .because(e)
            .next("use error, warn, info, debug or trace, or directives such as info,skein_server=debug")
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

fn take_directory(args: &ServeArgs) -> Result<(Lock, Identity), HomeError> {
    let dir = &args.dir;
    if args.init {
        home::create_directory(dir)?;
    }
    // Said before the lock is tried, because trying it leaves a file behind.
    if !args.init {
        home::read_identity(dir)?;
    }
    let lock = Lock::take(dir)?;
    let identity = if args.init {
        let initialised = home::initialise(dir, &lock, args.ids.host, args.ids.cell)?;
        if let Initialised::New(_) = initialised {
            say::out(init::tell(initialised, dir));
        }
        initialised.identity()
    } else {
        home::read_identity(dir)?
    };
    let wanted = |given: Option<u64>, found: u64| given.is_none_or(|id| id == found);
    if wanted(args.ids.host.map(|h| h.0), identity.host.0)
        && wanted(args.ids.cell.map(|c| c.0), identity.cell.0)
    {
        Ok((lock, identity))
    } else {
        Err(HomeError::OtherIds { dir: dir.clone(), found: identity })
    }
}

async fn serve(args: ServeArgs, mut config: CheckedConfig, identity: Identity) -> Result<Exit, Trouble> {
    let cannot = || Trouble::new(Exit::Failed, format!("cannot serve {}", args.dir.display()));
    let tls = config.peer_tls.as_ref().map(read_tls).transpose()?;
    let (stopper, stop) = watch::channel(false);
    tokio::spawn(watch_signals(Stops::listen(), stopper));

    let metrics = install_metrics();
    for addr in [&mut config.http_addr, &mut config.admin_addr] {
        settle_port(addr)
            .map_err(|e| cannot().because(format!("find a free port on {addr}")).because_of(&e))?;
    }
    let share_http_addr = config.share_http_addr.clone().unwrap_or_else(|| config.http_addr.to_string());
    let mut options = CellOptions::new(args.dir.clone(), identity.host, identity.cell);
    let log_cache = (config.memory.write_buffer / 4).min(LOG_CACHE_BYTES_MAX);
    options.store = identity.store;
    options.suspend_clock = Some(std::sync::Arc::new(suspended_for));
    options.solo = config.solo;
    options.peer_addr = config.peer_addr;
    options.share_peer_addr.clone_from(&config.share_peer_addr);
    options.hail.clone_from(&config.hail);
    options.tls = tls;
    options.share_http_addr.clone_from(&share_http_addr);
    options.cache_bytes = config.memory.cache;
    options.write_buffer_bytes = config.memory.write_buffer - log_cache;
    options.log_cache_bytes = log_cache as usize;
    options.disk_reserve_bytes = config.disk_reserve;
    options.log_segment_bytes = config.log_segment;
    options.checkpoint_log_bytes = config.checkpoint_every;
    options.copy_rate = match config.copy_rate {
        CopyRate::Adaptive => skein_cell::CopyRate::Adaptive,
        CopyRate::Unlimited => skein_cell::CopyRate::Unlimited,
        CopyRate::Bytes(bytes) => skein_cell::CopyRate::Bytes(bytes.0),
    };
    let cell = tokio::select! {
        opened = Cell::open(options) => opened.map_err(|e| cannot_open(&args.dir, &e))?,
        () = stopped(stop.clone()) => {
            // Recovery may be cut short anywhere, as a crash might, and begins anew at the next start.
            say::out("stopped before it was ready");
            return Ok(Exit::Done);
        }
    };
    let server_config = ServerConfig {
        http_addr: config.http_addr,
        admin_addr: config.admin_addr,
        share_http_addr,
        request_timeout: config.request_timeout,
        memory: MemoryBudget::new(usize::try_from(config.memory.requests).unwrap_or(usize::MAX)),
        shutdown_grace: GRACE,
        ..ServerConfig::default()
    };
    let server = match Server::bind(server_config, cell.clone(), metrics).await {
        Ok(server) => server,
        Err(e) => {
            cell.shutdown(GRACE).await;
            return Err(cannot().because_of(&e).next(
                "stop the process that has the address, or name others: --http-addr :7071 --admin-addr :9991",
            ));
        }
    };
    let peer = cell.peers().into_iter().find(|peer| peer.is_me).and_then(|peer| peer.peer_addr);
    let addrs = Addresses { http: server.http_addr(), admin: server.admin_addr() };
    say::out(welcome(&args.dir, identity, &config, &addrs, peer.as_deref()));
    let ready_file = match ReadyFile::write(args.ready_file.clone(), &addrs, peer.as_deref()) {
        Ok(file) => file,
        Err(trouble) => {
            cell.shutdown(GRACE).await;
            return Err(trouble);
        }
    };

    let loading = tokio::spawn(load(args.import.clone(), args.dir.join("imports"), addrs, stop.clone()));
    let leaving = async {
        stopped(stop).await;
        // While requests are still taken: each that comes meanwhile goes on to whoever leads.
        cell.step_down(HAND_OVER_WITHIN).await;
    };
    server.run(leaving).await;
    // The loader stops by itself at the same signal; its progress is noted.
    let _ = loading.await;
    cell.shutdown(GRACE).await;
    drop(ready_file);
    say::out("stopped");
    Ok(Exit::Done)
}

/// Reads the certificates that peers are shown.
fn read_tls(files: &TlsFiles) -> Result<Tls, Trouble> {
    let wrong = || Trouble::new(Exit::Config, "cannot use the certificates for peers");
    let read = |path: &Path| {
        cert::read_pem(path).map_err(|e| {
            let trouble = wrong().because(format!("read {}", path.display())).because_of(&e);
            trouble.next(
                "name the files that skein cert made, or none of the three for a network that you trust",
            )
        })
    };
    Tls::from_pem(&read(&files.ca)?, &read(&files.cert)?, &read(&files.key)?)
        .map_err(|e| wrong().because_of(&e).next("skein cert makes a CA and certificates that fit"))
}

/// The first signal asks for an orderly end, the second for none.
async fn watch_signals(mut stops: Stops, stopper: watch::Sender<bool>) {
    stops.next().await;
    say::out("stopping: finishing what is under way; a second signal stops at once");
    stopper.send_replace(true);
    let exit = stops.next().await;
    say::err("skein: stopped at once; the next start repairs what was under way");
    std::process::exit(exit.code().into());
}

/// Waits until the channel says stop, or its sender is gone.
async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// How long this machine has been asleep since it was booted, give or take microseconds: what the clock that counts
/// sleep is ahead of the one that does not.
fn suspended_for() -> Duration {
    use rustix::time::{ClockId, Timespec, clock_gettime};
    let since = |Timespec { tv_sec, tv_nsec }| {
        Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
    };
    // In this order, so that no time between the two readings is taken for sleep.
    let with_sleep = since(clock_gettime(ClockId::Boottime));
    with_sleep.saturating_sub(since(clock_gettime(ClockId::Monotonic)))
}

/// Gives port 0 a number now, because the cell tells it to others before the server binds it.
///
/// Another process may take the port in between; then binding fails and says so.
fn settle_port(addr: &mut SocketAddr) -> io::Result<()> {
    if addr.port() == 0 {
        *addr = TcpListener::bind(*addr)?.local_addr()?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Addresses {
    http: SocketAddr,
    admin: SocketAddr,
}

/// How a process on this machine reaches an address that we listen on.
fn local(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() { format!("localhost:{}", addr.port()) } else { addr.to_string() }
}

fn welcome(
    dir: &Path,
    identity: Identity,
    config: &CheckedConfig,
    addrs: &Addresses,
    peer: Option<&str>,
) -> String {
    let (http, admin) = (local(addrs.http), local(addrs.admin));
    let open = if addrs.http.ip().is_loopback() { "" } else { "   (no authentication: trust your network)" };
    let memory = config.memory;
    let of = if config.available.by_cgroup { "this control group's" } else { "this machine's" };
    format!(
        "skein {version}{solo}\n  host       {host}, cell {cell}\n  directory  {dir}\n  rows       http://{http}{open}\n  \
         peers      {peers}\n  admin      http://{admin}\n  memory     {budget} ({setting}; {of} {available})\nready; {hint}",
        version = env!("CARGO_PKG_VERSION"),
        peers = match (config.peer_addr, peer) {
            (None, _) => "none are taken: this host alone is the cell".to_owned(),
            (Some(addr), told) => format!(
                "at {addr}, told as {}{}",
                told.unwrap_or("the same"),
                if config.peer_tls.is_some() { ", with TLS" } else { "" }
            ),
        },
        solo = if config.solo { ", solo" } else { "" },
        host = identity.host,
        cell = identity.cell,
        dir = dir.display(),
        budget = Bytes(memory.budget),
        setting = config.memory_setting,
        available = Bytes(config.available.bytes),
        hint = if config.solo {
            format!("try: curl -i -XPUT -d '\"hello\"' 'http://{http}/table/0x1?key=a'")
        } else {
            format!("GET http://{http}/atlas shows the cohorts; without any, rows time out")
        },
    )
}

/// Tells supervisors that we are ready, for as long as we are.
struct ReadyFile(Option<PathBuf>);

impl ReadyFile {
    fn write(path: Option<PathBuf>, addrs: &Addresses, peer: Option<&str>) -> Result<ReadyFile, Trouble> {
        let Some(path) = path else { return Ok(ReadyFile(None)) };
        let text = serde_json::json!({
            "pid": std::process::id(),
            "http": addrs.http.to_string(),
            "admin": addrs.admin.to_string(),
            "peer": peer,
        });
        let mut draft = path.clone().into_os_string();
        draft.push(".new");
        std::fs::write(&draft, format!("{text}\n")).and_then(|()| std::fs::rename(&draft, &path)).map_err(
            |e| {
                Trouble::new(Exit::Failed, format!("cannot write the ready file {}", path.display()))
                    .because_of(&e)
            },
        )?;
        Ok(ReadyFile(Some(path)))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // It may have been taken away by whoever waited for it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Loads the files of `--import`, one after the other. What fails is told; the server serves on.
async fn load(loads: Vec<crate::args::Load>, state: PathBuf, addrs: Addresses, stop: watch::Receiver<bool>) {
    for load in loads {
        let targets = (target(addrs.http), target(addrs.admin));
        let outcome = match targets {
            (Ok(http), Ok(admin)) => import::load_once(&load, http, admin, &state, stop.clone()).await,
            (Err(e), _) | (_, Err(e)) => Err(Trouble::new(Exit::Failed, "cannot load a file").because(e)),
        };
        match outcome {
            Ok(Some(text)) => say::out(text),
            Ok(None) => say::out(format_args!(
                "{} was loaded into {} at an earlier start",
                load.file.display(),
                load.table
            )),
            Err(_) if *stop.borrow() => return,
            Err(trouble) => say::err(trouble.render().trim_end()),
        }
    }
}

fn target(addr: SocketAddr) -> Result<Target, crate::client::TargetError> {
    let ip = match addr.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    format!("http://{}", SocketAddr::new(ip, addr.port())).parse()
}

/// What a store that does not open means for its owner.
fn cannot_open(dir: &Path, error: &OpenError) -> Trouble {
    let exit = match error {
        OpenError::Log(e) => log_exit(e),
        OpenError::Drives(DrivesError::Engine(e)) | OpenError::Rows(RowsError::Engine(e)) => engine_exit(e),
        error if error.is_damage() => Exit::Damaged,
        OpenError::Catalog(OpenCatalogError::File(FileError::Newer { .. })) => Exit::WrongDirectory,
        OpenError::NotSolo { .. }
        | OpenError::ShareAddr { .. }
        | OpenError::Transport(StartError::Tls(_)) => Exit::Config,
        _ => Exit::Failed,
    };
    let trouble = Trouble::new(exit, format!("cannot open {}", dir.display())).because_of(error);
    let dir = dir.display();
    if let OpenError::Transport(error) = error {
        return trouble.next(match error {
            StartError::Tls(_) => "skein cert peer HOST makes a certificate that names its host",
            _ => "stop the process that has the address, or name another: --peer-addr :6279",
        });
    }
    match exit {
        Exit::Damaged => trouble.next(format!(
            "skein doctor {dir} lists all damage; nothing was served from it: restore a backup, or, where other \
             peers have the same rows, start with an empty directory after skein forget HOST"
        )),
        Exit::WrongDirectory => trouble.next("use the release that wrote it, or a later one"),
        Exit::Config => trouble,
        _ => trouble.next(format!("look at the rights and the free space of {dir}, then start again")),
    }
}

/// The exit code for trouble with the log.
pub fn log_exit(error: &LogError) -> Exit {
    match error {
        LogError::Corrupt { .. } | LogError::Missing { .. } => Exit::Damaged,
        LogError::NewerFormat { .. } => Exit::WrongDirectory,
        _ => Exit::Failed,
    }
}

/// The exit code for trouble with the store.
pub fn engine_exit(error: &EngineError) -> Exit {
    match error {
        EngineError::Damaged { .. } => Exit::Damaged,
        EngineError::NewerFormat { .. } => Exit::WrongDirectory,
        _ => Exit::Failed,
    }
}
