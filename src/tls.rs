//! TLS in front of the HTTP interface.

use anyhow::{Context as _, Result, bail};
use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take to agree on keys. Others do not wait for it.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections that have agreed on keys and wait to be served.
const WAITING: usize = 64;

/// What the server shows, and whom it lets in: files in PEM.
pub fn server(certificate: &Path, key: &Path, clients: Option<&Path>) -> Result<Arc<ServerConfig>> {
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        let read: Vec<_> = read.with_context(|| format!("reading certificates from {}", path.display()))?;
        if read.is_empty() {
            bail!("{} holds no certificate", path.display());
        }
        Ok(read)
    };
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("reading the key from {}", key.display()))?;
    let builder = ServerConfig::builder();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).with_context(|| format!("an authority in {}", path.display()))?;
            }
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().context("tls.client_ca_file")?)
        }
    };
    let mut config = builder.with_single_cert(certificates(certificate)?, key).context("tls.certificate_file and tls.key_file")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Listens, and hands out connections whose handshake is over.
#[derive(Debug)]
pub struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    pub fn new(listener: TcpListener, config: Arc<ServerConfig>) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (say, ready) = mpsc::channel(WAITING);
        tokio::spawn(accept(listener, TlsAcceptor::from(config), say));
        Ok(Self { address, ready })
    }
}

/// Until nobody listens any more. Each handshake is a task of its own.
async fn accept(mut listener: TcpListener, acceptor: TlsAcceptor, say: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>) {
    loop {
        let (connection, from) = tokio::select! {
            // Goes on after errors of single connections.
            accepted = Listener::accept(&mut listener) => accepted,
            () = say.closed() => return,
        };
        let _ = connection.set_nodelay(true);
        let (acceptor, say) = (acceptor.clone(), say.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(connection)).await {
                Ok(Ok(connection)) => drop(say.send((connection, from)).await),
                Ok(Err(error)) => tracing::debug!(%from, "no TLS: {error}"),
                Err(_) => tracing::debug!(%from, "no TLS within {} s", HANDSHAKE.as_secs()),
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The task that listens has panicked, which has been said.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
