//! The connection to Redis: one server, a cluster, or whichever server the sentinels name.

use crate::Error;
use futures_util::future::BoxFuture;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline, RedisError, RedisFuture,
    RedisResult, TlsCertificates, TlsMode, Value,
};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long connecting, and one answer, may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// Where Redis is, and how to speak to it.
#[derive(Clone, Default)]
pub struct Server {
    /// `redis://host:port` or `rediss://host:port`: the server; some of the cluster's nodes; the sentinels.
    pub urls: Vec<String>,
    pub kind: Kind,
    pub user: Option<String>,
    pub password: Option<String>,
    pub tls: Tls,
}

/// What listens at the URLs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Kind {
    #[default]
    Single,
    Cluster,
    /// Sentinels, which know the server of this name.
    Sentinel {
        service: String,
    },
}

/// Files in PEM; the system's own authorities where none are named.
#[derive(Clone, Default, Debug)]
pub struct Tls {
    pub authorities: Option<PathBuf>,
    /// This client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Server {
    /// Where it is, for people: without the passwords that URLs may hold.
    fn place(&self) -> String {
        let without = |url: &String| match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            _ => url.clone(),
        };
        self.urls.iter().map(without).collect::<Vec<_>>().join(", ")
    }
}

/// Without passwords.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("urls", &self.place()).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Connects when it is needed, and again after a connection has broken.
pub(crate) struct Link {
    at: String,
    client: Connects,
    /// The connection that all share, and how many there have been before it.
    shared: Mutex<(u64, Option<Connection>)>,
}

enum Connects {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
    Sentinel(Box<Mutex<SentinelClient>>),
}

#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn new(server: &Server) -> Result<Self, Error> {
        let at = server.place();
        let refused = |reason: String| Error::Refused { at: at.clone(), reason };
        if server.urls.is_empty() || (server.kind == Kind::Single && server.urls.len() > 1) {
            return Err(refused("one URL is needed, or for a cluster or sentinels some".into()));
        }
        let client = connects(server).map_err(refused)?;
        Ok(Self { at, client, shared: Mutex::default() })
    }

    /// Asks on the shared connection.
    pub(crate) async fn ask<T>(&self, ask: impl AsyncFnOnce(&mut Shared) -> RedisResult<T>) -> Result<T, Error> {
        let (number, connection) = self.connection().await?;
        match ask(&mut Shared(connection)).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                // What comes next shall not wait behind what did not come, or ask a server that has become a replica.
                let mut shared = self.shared.lock().await;
                if shared.0 == number {
                    shared.1 = None;
                }
                Err(self.error(&error))
            }
        }
    }

    async fn connection(&self) -> Result<(u64, Connection), Error> {
        let mut shared = self.shared.lock().await;
        if let (number, Some(connection)) = &*shared {
            return Ok((*number, connection.clone()));
        }
        let connected = tokio::time::timeout(DEADLINE, self.connect()).await;
        let late = || Error::Unavailable { at: self.at.clone(), reason: format!("no connection within {} s", DEADLINE.as_secs()) };
        let connection = connected.map_err(|_| late())?.map_err(|error| self.error(&error))?;
        self.check_policy(connection.clone()).await?;
        shared.0 += 1;
        shared.1 = Some(connection.clone());
        Ok((shared.0, connection))
    }

    /// Boxed, so that this crate alone compiles how Redis clusters and sentinels are found.
    fn connect(&self) -> BoxFuture<'_, RedisResult<Connection>> {
        let config = || AsyncConnectionConfig::new().set_connection_timeout(Some(DEADLINE)).set_response_timeout(Some(DEADLINE));
        Box::pin(async move {
            Ok(match &self.client {
                Connects::Single(client) => Connection::Single(client.get_multiplexed_async_connection_with_config(&config()).await?),
                Connects::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
                Connects::Sentinel(client) => Connection::Single(client.lock().await.get_async_connection_with_config(&config()).await?),
            })
        })
    }

    /// A Redis that may remove keys to make room would make answers wrong, so it is refused.
    async fn check_policy(&self, connection: Connection) -> Result<(), Error> {
        let info = redis::cmd("INFO").arg("memory").query_async(&mut Shared(connection)).await;
        let mut text = String::new();
        gather(&info.map_err(|error| self.error(&error))?, &mut text);
        let policies = text.lines().filter_map(|line| line.trim().strip_prefix("maxmemory_policy:"));
        match policies.into_iter().find(|policy| *policy != "noeviction") {
            None => Ok(()),
            Some(policy) => Err(Error::Refused {
                at: self.at.clone(),
                reason: format!(
                    "its maxmemory-policy is {policy}, under which it may drop counts without a word; \
                     set maxmemory-policy noeviction (then a full Redis refuses writes, which is seen and made good)"
                ),
            }),
        }
    }

    fn error(&self, error: &RedisError) -> Error {
        let (at, reason) = (self.at.clone(), error.to_string());
        match error.kind() {
            ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => Error::Refused { at, reason },
            _ => Error::Unavailable { at, reason },
        }
    }
}

fn connects(server: &Server) -> Result<Connects, String> {
    let text = |error: RedisError| error.to_string();
    let certificates = certificates(&server.tls)?;
    let infos = server.urls.iter().map(|url| info(url, server)).collect::<RedisResult<Vec<_>>>().map_err(text)?;
    match &server.kind {
        Kind::Single => {
            let info = infos.into_iter().next().ok_or("no URL")?;
            let encrypted = matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. });
            let client = if encrypted { Client::build_with_tls(info, certificates) } else { Client::open(info) };
            Ok(Connects::Single(Box::new(client.map_err(text)?)))
        }
        Kind::Cluster => {
            let mut builder = ClusterClient::builder(infos).connection_timeout(DEADLINE).response_timeout(DEADLINE).retries(2);
            if server.urls.iter().any(|url| url.starts_with("rediss:")) {
                builder = builder.tls(TlsMode::Secure).certs(certificates);
            }
            Ok(Connects::Cluster(Box::new(builder.build().map_err(text)?)))
        }
        Kind::Sentinel { service } => {
            let settings = infos.first().map(|info| info.redis_settings().clone()).unwrap_or_default();
            let mut node = SentinelNodeConnectionInfo::default().set_redis_connection_info(settings);
            if server.urls.iter().any(|url| url.starts_with("rediss:")) {
                node = node.set_tls_mode(TlsMode::Secure);
            }
            // The user and the password are the server's; the sentinels' own stand in their URLs.
            let sentinels: Vec<&str> = server.urls.iter().map(String::as_str).collect();
            let client = SentinelClient::build(sentinels, service, Some(node), SentinelServerType::Master);
            Ok(Connects::Sentinel(Box::new(Mutex::new(client.map_err(text)?))))
        }
    }
}

fn info(url: &str, server: &Server) -> RedisResult<ConnectionInfo> {
    let info = url.into_connection_info()?;
    let mut settings = info.redis_settings().clone();
    if let Some(user) = &server.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &server.password {
        settings = settings.set_password(password);
    }
    Ok(info.set_redis_settings(settings))
}

fn certificates(tls: &Tls) -> Result<TlsCertificates, String> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("reading {}: {error}", path.display()));
    let root_cert = tls.authorities.as_ref().map(read).transpose()?;
    let identity = |(certificate, key): &(PathBuf, PathBuf)| -> Result<ClientTlsConfig, String> {
        Ok(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
    };
    Ok(TlsCertificates { client_tls: tls.identity.as_ref().map(identity).transpose()?, root_cert })
}

/// The texts of an answer, from each node of a cluster.
pub(crate) fn gather(value: &Value, into: &mut String) {
    match value {
        Value::BulkString(bytes) => into.push_str(&String::from_utf8_lossy(bytes)),
        Value::VerbatimString { text, .. } => into.push_str(text),
        Value::SimpleString(text) => into.push_str(text),
        Value::Array(values) => values.iter().for_each(|value| gather(value, into)),
        Value::Map(pairs) => pairs.iter().for_each(|(_, value)| gather(value, into)),
        _ => {}
    }
    into.push('\n');
}

/// The connection, as commands want it.
pub(crate) struct Shared(Connection);

impl ConnectionLike for Shared {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Connection::Single(connection) => connection.req_packed_command(cmd),
            Connection::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(&'a mut self, pipeline: &'a Pipeline, offset: usize, count: usize) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.0 {
            Connection::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Connection::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Connection::Single(connection) => connection.get_db(),
            Connection::Cluster(connection) => connection.get_db(),
        }
    }
}
