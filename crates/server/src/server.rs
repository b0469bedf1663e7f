//! The server as a whole: both ports from the first bind to the last answer.

use crate::config::ServerConfig;
use crate::conn::{TICK, accept};
use crate::dispatch::State;
use crate::metrics::MetricsHandle;
use crate::route::Port;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use skein_cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// Sweeps between two tidyings of the metrics: one second.
const SWEEPS_PER_UPKEEP: u32 = 4;

/// A port could not be had. Nothing is being served.
#[derive(Debug, thiserror::Error)]
#[error("listen on {addr} for {what}; set another address with {flag}, or find out who listens there")]
pub struct BindError {
    /// The address asked for.
    pub addr: SocketAddr,
    /// What should have been served there.
    pub what: &'static str,
    /// The flag that sets the address.
    pub flag: &'static str,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Open files left to the store and everything else but connections.
const OPEN_FILES_FOR_OTHERS: usize = 512;
/// Connections taken even where open files are very few.
const CONNECTIONS_MIN: usize = 64;
/// How many connections may wait to be accepted. When a crowd arrives, each one past it is only tried again by its
/// client's system after a second.
const BACKLOG: u32 = 4096;

/// An HTTP server that has its ports but does not serve yet.
pub struct Server {
    state: Arc<State>,
    data: TcpListener,
    admin: TcpListener,
    http_addr: SocketAddr,
    admin_addr: SocketAddr,
}

impl Server {
    /// Binds both ports. Clients may connect from now on; they are answered once the server runs.
    ///
    /// Raises the process's limit of open files as far as it may, and takes fewer connections than configured if even
    /// then there would not be files left for the store.
    pub async fn bind(
        mut config: ServerConfig,
        cell: Cell,
        metrics: MetricsHandle,
    ) -> Result<Server, BindError> {
        fit_connections(&mut config, raise_open_files());
        let (data, http_addr) = listen(config.http_addr, "rows", "--http-addr")?;
        let (admin, admin_addr) = listen(config.admin_addr, "the administrator's pages", "--admin-addr")?;
        Ok(Server { state: Arc::new(State::new(config, cell, metrics)), data, admin, http_addr, admin_addr })
    }

    /// Where rows are served; with the port that the system chose, if 0 was asked for.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where the administrator's pages are served; with the port that the system chose, if 0 was asked for.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Serves until `shutdown` is done. Then `/health/ready` turns 503, no connection is accepted any more on the data
    /// port, requests under way finish within the grace period, and what is left is cut. The admin port answers until
    /// the data port is empty.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Server { state, data, admin, .. } = self;
        let (stop_data, data_stopped) = watch::channel(());
        let (stop_admin, admin_stopped) = watch::channel(());
        let data = tokio::spawn(accept(state.clone(), data, Port::Data, data_stopped));
        let admin = tokio::spawn(accept(state.clone(), admin, Port::Admin, admin_stopped));
        let sweeper = tokio::spawn(sweep(state.clone()));
        shutdown.await;
        state.stop();
        let _ = stop_data.send(());
        join(data).await;
        state.connections.drain(Port::Data, state.config.shutdown_grace).await;
        let _ = stop_admin.send(());
        join(admin).await;
        state.connections.drain(Port::Admin, TICK).await;
        sweeper.abort();
    }
}

/// Raises the limit of open files to the most that this process may set; answers the limit then in force.
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// Keeps the connections from using up the open files, of which `None` means any number.
fn fit_connections(config: &mut ServerConfig, open_files: Option<u64>) {
    let Some(files) = open_files.and_then(|n| usize::try_from(n).ok()) else { return };
    let room =
        files.saturating_sub(OPEN_FILES_FOR_OTHERS + config.admin_connections_max).max(CONNECTIONS_MIN);
    if room < config.connections_max {
        tracing::warn!(
            open_files = files,
            wanted = config.connections_max,
            taken = room,
            "the limit of open files leaves room for fewer connections; raise it with ulimit -n"
        );
        config.connections_max = room;
    }
}

/// Waits for a task. One that panicked has said so already.
async fn join(task: tokio::task::JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "an accepting task failed");
    }
}

fn listen(
    addr: SocketAddr,
    what: &'static str,
    flag: &'static str,
) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source| BindError { addr, what, flag, source };
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
    // As listeners have it everywhere: a port is free again as soon as its process has ended.
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(addr).map_err(failed)?;
    let listener = socket.listen(BACKLOG).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Keeps time for all connections, and the metrics tidy.
async fn sweep(state: Arc<State>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for count in 0u32.. {
        interval.tick().await;
        state.connections.sweep();
        if count % SWEEPS_PER_UPKEEP == 0 {
            state.metrics.upkeep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_open_files_to_the_store() {
        let fitted = |files| {
            let mut config =
                ServerConfig { connections_max: 4096, admin_connections_max: 256, ..Default::default() };
            fit_connections(&mut config, files);
            config.connections_max
        };
        assert_eq!(fitted(None), 4096);
        assert_eq!(fitted(Some(1 << 20)), 4096);
        assert_eq!(fitted(Some(1024)), 256);
        assert_eq!(fitted(Some(100)), 64);
    }
}
