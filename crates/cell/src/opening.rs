//! How a peer starts: drives, log, catalog, replicas; then the way to the others.

use crate::catalog::{Catalog, CatalogOptions, Summary, file};
use crate::cell::{Cell, Inner};
use crate::gossip::{Gossip, Setup, fact};
use crate::groups::Groups;
use crate::link::{Door, Link};
use crate::luck::Luck;
use crate::options::{CellOptions, OpenError};
use crate::router::{Router, Routes};
use crate::services::CellServices;
use crate::space::Space;
use crate::{duties, groups, horizons, relief, share};
use skein_cohort::group::{GroupOptions, Pace};
use skein_cohort::peers::Replica;
use skein_flock::Peer;
use skein_model::{Cohort, GroupId, LifeId};
use skein_storage::blocking;
use skein_storage::drives::{Drives, RealDrives};
use skein_storage::engine::EngineOptions;
use skein_storage::log::{Log, LogOptions};
use skein_transport::{Identity, Transport};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a peer that is to run alone may take to put itself in charge.
const FOUND_WITHIN: Duration = Duration::from_secs(20);

impl Cell {
    /// Opens the store, repairs what a crash may have left, and, if the atlas names this host alone, serves rows when
    /// this returns. With a peer address it looks for others meanwhile.
    ///
    /// What the store's directory holds: see `docs/FORMAT.md`.
    pub async fn open(options: CellOptions) -> Result<Cell, OpenError> {
        let me = Replica { store: options.store, host: options.host };
        let (drives, log) = open_drives(&options).await?;
        let space = Space::new(drives.log_disk(), options.disk_reserve_bytes);
        let luck = Arc::new(Luck::new(options.seed));
        let (gossip, inbox) = Gossip::new();
        let link = Link::new(me, gossip.clone());
        let beats_from = Instant::now();
        let catalog = open_catalog(&options, &drives, &log, &link, &luck, beats_from).await?;
        let (routes, routed) = watch::channel(Arc::new(Routes::default()));
        let router = Router::new(me.host, link.clone(), luck.roll(), routed);
        let inner = Arc::new(Inner {
            catalog,
            drives,
            log,
            space: space.clone(),
            luck,
            beats_from,
            pace: Arc::new(Pace::new(options.copy_rate)),
            link,
            gossip,
            groups: Groups::default(),
            router,
            routes,
            waits: Mutex::default(),
            told: tokio::sync::Mutex::default(),
            stopping: watch::channel(false).0,
            tasks: Mutex::default(),
            options,
        });
        let cell = Cell { inner };
        cell.start(inbox).await?;
        tokio::spawn(space.watch());
        Ok(cell)
    }

    async fn start(&self, inbox: crate::gossip::Inbox) -> Result<(), OpenError> {
        let inner = &self.inner;
        let door = Door::new(inner.me().store, inner.gossip.clone());
        // The catalog and the replicas that are there answer from the first connection on.
        door.open(Arc::new(CellServices(Arc::downgrade(inner))));
        let mut gossip = None;
        if let Some(listen) = inner.options.peer_addr {
            let transport = self.start_transport(listen, door).await?;
            inner.link.connect(transport.clone());
            let setup = Setup {
                me: Peer { id: inner.me().host, addr: transport.share_addr().into() },
                carrier: Arc::new(transport),
                disk: inner.drives.small_files(),
                hail: inner.options.hail.clone(),
                seed: inner.roll(),
                wall: inner.wall(),
                stopping: inner.stopping.subscribe(),
            };
            inner.gossip.publish(fact::HTTP, Some(inner.options.share_http_addr.clone()));
            inner.gossip.publish(fact::BUILD, Some(inner.options.build.clone()));
            gossip = Some(inner.gossip.start(inbox, setup).await?.0);
        }
        if inner.options.solo {
            self.found_alone().await?;
        }
        inner.open_first().await.map_err(|error| OpenError::Cohort(error.into()))?;
        let weak = || Arc::downgrade(inner);
        let stopping = || inner.stopping.subscribe();
        let interval = inner.options.horizon_interval;
        let mut tasks = vec![
            tokio::spawn(groups::look_after(weak(), stopping())),
            tokio::spawn(duties::lead(weak(), stopping())),
            tokio::spawn(relief::look_after(weak(), stopping())),
            tokio::spawn(horizons::look_after(weak(), interval, stopping())),
        ];
        if let Some(gossip) = gossip {
            tasks.push(gossip);
            tasks.push(tokio::spawn(duties::spread(weak(), stopping())));
            tasks.push(tokio::spawn(tell_space(weak(), stopping())));
        }
        *inner.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        Ok(())
    }

    async fn start_transport(&self, listen: SocketAddr, door: Arc<Door>) -> Result<Transport, OpenError> {
        let options = &self.inner.options;
        let identity = Identity { cell: options.cell, host: options.host, store: options.store };
        let mut wanted = skein_transport::Options::new(identity, listen, self.inner.roll());
        let guess = match &options.share_peer_addr {
            None if listen.ip().is_unspecified() => Some(share::choose(listen.ip(), &options.hail).await),
            _ => None,
        };
        wanted.share = match (&options.share_peer_addr, &guess) {
            (Some(addr), _) => {
                let found = look_up(addr).await?;
                if found.ip().is_loopback() && !listen.ip().is_loopback() {
                    tracing::warn!(
                        "--share-peer-addr {addr} stands for {found}: only peers on this machine can connect there; for \
                         others name an address of this machine's network"
                    );
                }
                Some(found)
            }
            // Port 0 stands for the one that is listened on.
            (None, Some(guess)) => Some(SocketAddr::new(guess.ip, 0)),
            (None, None) => None,
        };
        wanted.network = options.network.clone();
        wanted.tls.clone_from(&options.tls);
        wanted.build = options.build.as_str().into();
        let transport = Transport::start(wanted, door).await?;
        if let Some(guess) = guess {
            guess.tell(transport.local_addr().port());
        }
        Ok(transport)
    }

    /// Puts this host in charge of all rows, unless the cell has an atlas already.
    async fn found_alone(&self) -> Result<(), OpenError> {
        let inner = &self.inner;
        let host = inner.me().host;
        let only_this = BTreeSet::from([host]);
        if inner.state().atlas.is_empty() {
            let cohorts = vec![Cohort::Settled { hosts: only_this }];
            let deadline = Instant::now() + FOUND_WITHIN;
            let founded = inner.catalog.put_atlas(cohorts, None, deadline).await;
            founded.map_err(|error| OpenError::Cohort(error.into()))?;
            return Ok(());
        }
        if inner.state().atlas.cohorts.iter().any(|cohort| *cohort.target() != only_this) {
            return Err(OpenError::NotSolo { host });
        }
        Ok(())
    }
}

async fn open_drives(options: &CellOptions) -> Result<(Arc<dyn Drives>, Log), OpenError> {
    let log_options = LogOptions {
        segment_bytes: options.log_segment_bytes,
        cache_bytes: options.log_cache_bytes,
        ..LogOptions::default()
    };
    let engine_options = EngineOptions {
        cache_bytes: options.cache_bytes,
        write_buffer_bytes: options.write_buffer_bytes,
        ..EngineOptions::default()
    };
    let (dir, drives, log) = (options.dir.clone(), options.drives.clone(), options.log.clone());
    let open = move || -> Result<(Arc<dyn Drives>, Log), OpenError> {
        let drives = match drives {
            Some(drives) => drives,
            None => Arc::new(RealDrives::open(&dir, engine_options)?),
        };
        let log = match log {
            Some(log) => log,
            None => Log::open(drives.log_disk(), log_options)?,
        };
        Ok((drives, log))
    };
    blocking(open).await.map_err(|e| OpenError::Io {
        verb: "open",
        path: options.dir.clone(),
        source: e.into(),
    })?
}

async fn open_catalog(
    options: &CellOptions,
    drives: &Arc<dyn Drives>,
    log: &Log,
    link: &Link,
    luck: &Arc<Luck>,
    beats_from: Instant,
) -> Result<Catalog, OpenError> {
    let files = drives.small_files();
    let group = GroupOptions {
        me: Replica { store: options.store, host: options.host },
        // The replica of the catalog is never deleted, so it lives as long as its directory.
        life: LifeId::founding(options.store),
        group: GroupId::CATALOG,
        peers: Arc::new(link.clone()),
        timing: options.timing,
        seed: luck.roll(),
        checkpoint_log_bytes: options.checkpoint_log_bytes,
        throttle: None,
        beats_from,
        suspend_clock: options.suspend_clock.clone(),
        on_failure: Arc::new(|failure| tracing::debug!(%failure, "the catalog's replica stopped")),
    };
    // A cohort starts only after the catalog that names it is durable.
    let used = !log.groups().is_empty();
    let looked = files.clone();
    let names = blocking(move || looked.list()).await.map_err(std::io::Error::from).flatten();
    let names = names.map_err(|source| OpenError::Io { verb: "list", path: options.dir.clone(), source })?;
    // Entries that the log let go are in the file only.
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if log.group(GroupId::CATALOG.0).state().purged.is_some() && !has(file::REPLICA) {
        return Err(OpenError::CatalogGone { file: files.describe(file::REPLICA) });
    }
    let known = has(file::REPLICA) || has(file::LEARNED);
    if used && !known && !log.groups().contains(&GroupId::CATALOG.0) {
        return Err(OpenError::CatalogGone { file: files.describe(file::REPLICA) });
    }
    let drawn = luck.clone();
    let catalog = Catalog::open(CatalogOptions {
        files,
        log: log.group(GroupId::CATALOG.0),
        group,
        link: Arc::new(link.clone()),
        luck: Arc::new(move || drawn.roll()),
    })
    .await?;
    // What a cell of one had becomes a founded catalog; that is done when its only member leads.
    if known && Summary::of(&catalog.state().borrow()).version == 0 {
        let mut state = catalog.state();
        let settled = state.wait_for(|state| state.is_founded());
        if tokio::time::timeout(FOUND_WITHIN, settled).await.is_err() {
            tracing::debug!("the catalog found here has no founding");
        }
    }
    Ok(catalog)
}

/// The address that a name stands for now.
async fn look_up(addr: &str) -> Result<SocketAddr, OpenError> {
    if let Ok(addr) = addr.parse() {
        return Ok(addr);
    }
    let failed = |why: String| OpenError::ShareAddr { addr: addr.to_owned(), why };
    let mut found = tokio::net::lookup_host(addr).await.map_err(|error| failed(error.to_string()))?;
    found.next().ok_or_else(|| failed("it stands for no address".into()))
}

/// Tells the others now and then how much room there is.
async fn tell_space(cell: std::sync::Weak<Inner>, mut stopping: watch::Receiver<bool>) {
    loop {
        let Some(inner) = cell.upgrade() else { return };
        // In steps of 64 MiB: others need no news of every write.
        let free = inner.space.free_bytes().map(|free| (free >> 26 << 26).to_string());
        inner.gossip.publish(fact::DISK_FREE, free);
        drop(inner);
        tokio::select! {
            biased;
            _ = async { stopping.wait_for(|stopping| *stopping).await.map(drop) } => return,
            () = tokio::time::sleep(Duration::from_secs(10)) => {}
        }
    }
}
