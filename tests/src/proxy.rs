//! A network that can be cut: TCP, passed on, held back, or torn.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// The state of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Open,
    /// Nothing passes, and neither side notices. Bytes on their way arrive once
    /// the line is open again, like packets that are sent anew.
    Silent,
    /// Open connections end, and new ones end at once.
    Torn,
}

const CHUNK_BYTES: usize = 16 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Passes connections from some addresses on to others, until the proxy is
/// dropped.
#[derive(Debug)]
pub struct Proxy {
    line: watch::Sender<Line>,
    listeners: Vec<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a listener for each route: the address where it listens, and the
    /// address for which it stands.
    pub async fn start(routes: &[(String, String)]) -> Self {
        let line = watch::Sender::new(Line::Open);
        let mut listeners = Vec::new();
        for (listen, target) in routes {
            let listener = TcpListener::bind(listen).await;
            let listener = listener.unwrap_or_else(|error| panic!("{listen}: {error}"));
            let (line, target) = (line.subscribe(), target.clone());
            listeners.push(tokio::spawn(accept(listener, target, line)));
        }
        Self { line, listeners }
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
        // Open connections end, too.
        self.set(Line::Torn);
    }
}

async fn accept(listener: TcpListener, target: String, line: watch::Receiver<Line>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(connection(client, target.clone(), line.clone()));
    }
}

async fn connection(client: TcpStream, target: String, mut line: watch::Receiver<Line>) {
    if !passes(&mut line).await {
        return;
    }
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target));
    let Ok(Ok(broker)) = connecting.await else {
        return;
    };
    for stream in [&client, &broker] {
        // The option makes small requests faster, and nothing depends on it.
        drop(stream.set_nodelay(true));
    }
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let mut torn = line.clone();
    tokio::select! {
        () = pass_on(from_client, to_broker, line.clone()) => {}
        () = pass_on(from_broker, to_client, line.clone()) => {}
        _ = torn.wait_for(|line| *line == Line::Torn) => {}
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        if !passes(&mut line).await || to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}

/// Waits while the line is silent; false says that it is torn.
async fn passes(line: &mut watch::Receiver<Line>) -> bool {
    let line = line.wait_for(|line| *line != Line::Silent).await;
    line.is_ok_and(|line| *line == Line::Open)
}
