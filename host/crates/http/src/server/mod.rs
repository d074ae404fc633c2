//! Connections: how the host accepts, bounds, watches and closes them.
//!
//! A connection costs its socket and at most [`BUFFER_BYTES_MAX`] each way. At most
//! [`HttpConfig::connections_max`](super::HttpConfig) connections are open; a
//! WebSocket counts for as long as it lives, and a TLS handshake from its first
//! byte. Hyper itself answers bytes that are not HTTP, with a status and no body.
//!
//! Limits on a socket are set through socket2, because rustix has no
//! `TCP_NOTSENT_LOWAT`.

pub(super) mod connection;
pub(super) mod tls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use courtside_types::failure::ErrorCode;
use futures_util::future::BoxFuture;
use hyper::{Request, body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use self::connection::{Connection, HalfClosed};
pub use self::tls::{Tls, TlsConfig, TlsError};
use super::{app::App, routes::router};

const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The most unsent bytes that the kernel takes of a connection. The bound keeps a slow
/// reader of a stream from getting updates that are old by the time it can take them.
const UNSENT_BYTES_MAX: u32 = 64 * 1024;
const BIND_WAIT: Duration = Duration::from_secs(2);
const BIND_RETRY: Duration = Duration::from_millis(20);
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Why the host cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("another process listens on {address}")]
    InUse { address: SocketAddr },
    #[error("cannot listen on {address}: {source}")]
    Failed {
        address: SocketAddr,
        source: io::Error,
    },
}

impl ErrorCode for BindError {
    fn code(&self) -> &str {
        match self {
            Self::InUse { .. } => "listen-address-in-use",
            Self::Failed { .. } => "listen-failed",
        }
    }
}

/// Listens. A host that was killed while it started its compiler has left its
/// socket to that process for some milliseconds, so this function tries an address
/// in use again until [`BIND_WAIT`] is over.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let deadline = Instant::now() + BIND_WAIT;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(source) if source.kind() != io::ErrorKind::AddrInUse => {
                return Err(BindError::Failed { address, source });
            }
            Err(_) if Instant::now() < deadline => sleep(BIND_RETRY).await,
            Err(_) => return Err(BindError::InUse { address }),
        }
    }
}

/// Serves until `shutdown`, then lets requests end (streams end at once), and
/// returns when all connections are closed or the drain timeout is over.
pub async fn serve(listener: TcpListener, app: App, shutdown: CancellationToken) {
    let config = app.config.clone();
    let metrics = app.metrics.clone();
    let connections = Arc::new(Semaphore::new(config.connections_max));
    // The guard ends the connections that the drain timeout leaves, even if this
    // future is dropped.
    let kill = CancellationToken::new();
    let _kill = kill.clone().drop_guard();
    let server = Server::new(app, shutdown.clone(), kill);
    let mut upkeep = interval(UPKEEP_INTERVAL);
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            // Histograms grow until they are read, and nobody may ever read them.
            _ = upkeep.tick() => {
                metrics.run_upkeep();
                continue;
            }
            accepted = accept(&listener, &connections) => accepted,
        };
        match accepted {
            Ok((stream, peer, permit)) => server.spawn(stream, peer, permit),
            // The client is gone again, or the host is out of file descriptors;
            // the error says which.
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_RETRY_AFTER).await;
            }
        }
    }
    drop(listener);
    let tracker = server.tracker;
    tracker.close();
    if timeout(config.drain_timeout, tracker.wait()).await.is_err() {
        warn!(
            open = tracker.len(),
            "connections did not end within http.drain_timeout"
        );
    }
}

/// The parts of the server that connections need.
struct Server {
    http: Arc<http1::Builder>,
    router: Router,
    tls: Option<Tls>,
    write_timeout: Duration,
    tracker: TaskTracker,
    shutdown: CancellationToken,
    kill: CancellationToken,
}

impl Server {
    /// Makes the server, and begins to follow the files of tokens and certificates.
    fn new(app: App, shutdown: CancellationToken, kill: CancellationToken) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(app.config.idle_timeout)
            // A client that has sent its request may close its side, and wants the answer.
            .half_close(true)
            .max_buf_size(BUFFER_BYTES_MAX);
        let tracker = TaskTracker::new();
        let access = app.access.clone();
        tracker.spawn(access.follow(shutdown.clone(), app.reload.clone()));
        if let Some(tls) = app.tls.clone() {
            tracker.spawn(tls.follow(shutdown.clone(), app.reload.clone()));
        }
        Self {
            http: Arc::new(http),
            tls: app.tls.clone(),
            write_timeout: app.config.write_timeout,
            tracker,
            router: router(app, shutdown.clone()),
            shutdown,
            kill,
        }
    }

    fn spawn(&self, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        if let Err(error) = set_up(&stream, self.write_timeout) {
            debug!(%error, "connection cannot be set up");
            return;
        }
        let io = Connection::new(stream, self.write_timeout, permit, self.tracker.token());
        let service = OfPeer {
            service: TowerToHyperService::new(self.router.clone()),
            peer,
            half_closed: io.half_closed(),
        };
        let http = Arc::clone(&self.http);
        let (shutdown, kill) = (self.shutdown.clone(), self.kill.clone());
        match self.tls.clone() {
            None => {
                self.tracker
                    .spawn(connection(http, io, service, shutdown, kill));
            }
            Some(tls) => {
                self.tracker.spawn(async move {
                    let shaken = tokio::select! {
                        shaken = tls.accept(io) => shaken,
                        () = shutdown.cancelled() => return,
                    };
                    match shaken {
                        // The future is boxed, because this one would otherwise hold it twice.
                        Ok(io) => Box::pin(connection(http, io, service, shutdown, kill)).await,
                        Err(error) => debug!(%peer, %error, "TLS handshake failed"),
                    }
                });
            }
        }
    }
}

/// Accepts a connection once there is a permit for it, so a connection over the bound
/// waits in the kernel's queue and costs nothing here.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await;
    // Nobody closes the semaphore.
    let permit = permit.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, permit))
}

fn set_up(stream: &TcpStream, write_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    // `Connection` sees no stalled write once the kernel has taken all bytes. The
    // kernel itself must cut a client that then vanishes or takes none of them.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(write_timeout))?;
    Ok(())
}

/// All routes, for the requests of one connection, whose peer is known.
struct OfPeer {
    service: TowerToHyperService<Router>,
    peer: SocketAddr,
    half_closed: HalfClosed,
}

impl Service<Request<Incoming>> for OfPeer {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    /// The future is boxed, because each connection would otherwise keep room for a
    /// request for as long as it lives.
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.peer));
        extensions.insert(self.half_closed.clone());
        Box::pin(self.service.call(request))
    }
}

/// Serves one connection. The host spawns this future with nothing around it: a future
/// that takes another as an argument holds it twice, and there are many connections.
async fn connection(
    http: Arc<http1::Builder>,
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: OfPeer,
    shutdown: CancellationToken,
    kill: CancellationToken,
) {
    let serve = http
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    tokio::pin!(serve);
    let mut told = false;
    let served = loop {
        tokio::select! {
            served = serve.as_mut() => break served,
            () = shutdown.cancelled(), if !told => {
                told = true;
                serve.as_mut().graceful_shutdown();
            }
            () = kill.cancelled() => return,
        }
    };
    if let Err(error) = served {
        debug!(%error, "a connection was cut");
    }
}
