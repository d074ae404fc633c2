//! The application: the parts of the host that handlers reach, and the state that they
//! share.

use std::{ops::Deref, sync::Arc};

use courtside_log::RecordLog;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{
    access::Access, config::HttpConfig, gzip::Constant, ingest::Ingest, operator::Operator,
    scoreboard::Scoreboard, server::tls::Tls,
};

/// The parts of the host that requests reach.
#[derive(Clone)]
pub struct App {
    pub log: Arc<dyn RecordLog>,
    pub ingest: Arc<Ingest>,
    pub scoreboard: Arc<Scoreboard>,
    pub operator: Arc<dyn Operator>,
    pub metrics: PrometheusHandle,
    pub config: HttpConfig,
    pub access: Access,
    /// The certificate in force; without one, the host speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Changes when the files of tokens and certificates are to be read again.
    pub reload: watch::Receiver<()>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// State that all handlers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub app: App,
    pub shutdown: CancellationToken,
    pub openapi: Constant,
    /// Places for streams.
    pub subscribers: Arc<Semaphore>,
    /// Places for answers that read the log from end to end.
    pub scans: Arc<Semaphore>,
}

pub(super) type SharedApp = Arc<Shared>;

impl Deref for Shared {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}
