//! HTTP and HTTPS as all clients and servers here speak it: whom a client trusts and how long it waits for a connection, how
//! [`serve`] keeps one connection from holding up others, and by what [`admission`] bounds what a server takes on.

pub mod admission;
mod serve;

pub use serve::serve;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpStream;
use tower::util::MapResponse;

/// How long a connection may take to come about.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// What has not arrived within it is not sent again, and the connection is over.
pub const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// Makes connections, plain or by TLS as the address says. A request that is given up does not arrive later: its connection is
/// reset, and what of it waits, here or there, is forgotten.
pub type Connector = HttpsConnector<Tcp>;

/// A connection before TLS.
pub type Stream = TokioIo<TcpStream>;
/// Makes them.
pub type Tcp = MapResponse<HttpConnector, fn(Stream) -> Stream>;

/// Trusts the system's authorities. Where there are none, plain HTTP is still spoken and no certificate is trusted.
pub fn connector() -> Connector {
    let tls = HttpsConnectorBuilder::new().with_native_roots().unwrap_or_else(|error| {
        tracing::debug!("no certificate authorities: {error}");
        HttpsConnectorBuilder::new().with_tls_config(trusting(RootCertStore::empty()))
    });
    tls.https_or_http().enable_http1().wrap_connector(tcp())
}

/// Trusts the authorities of this file (PEM) alone, or the system's. The error is a sentence.
pub fn connector_trusting(authorities: Option<&Path>) -> Result<Connector, String> {
    let Some(authorities) = authorities else { return Ok(connector()) };
    let broken = |error: &dyn std::fmt::Display| format!("{}: {error}", authorities.display());
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(authorities).map_err(|error| broken(&error))? {
        roots.add(authority.map_err(|error| broken(&error))?).map_err(|error| broken(&error))?;
    }
    let tls = HttpsConnectorBuilder::new().with_tls_config(trusting(roots));
    Ok(tls.https_or_http().enable_http1().wrap_connector(tcp()))
}

/// An error with its sources: hyper's own text does not say why it could not connect. A text that names its source already is
/// not said twice.
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source()).map(ToString::to_string);
    sources.fold(error.to_string(), |text, source| if text.ends_with(&source) { text } else { format!("{text}: {source}") })
}

fn trusting(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}

fn tcp() -> Tcp {
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(CONNECT_DEADLINE));
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    tcp.set_tcp_user_timeout(Some(ARRIVES_WITHIN));
    MapResponse::new(tcp, |stream: Stream| {
        if let Err(error) = stream.inner().set_zero_linger() {
            tracing::debug!("a connection will be closed slowly: {error}");
        }
        stream
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    #[derive(Debug)]
    struct Said(&'static str, Option<Box<Said>>);

    impl std::fmt::Display for Said {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Said {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|source| source as &dyn Error)
        }
    }

    #[test]
    fn an_error_says_each_of_its_sources_once() {
        let refused = Said("connection refused", None);
        let connect = Said("client error (Connect)", Some(Box::new(refused)));
        let network = Said("network error: client error (Connect)", Some(Box::new(connect)));
        assert_eq!(with_sources(&network), "network error: client error (Connect): connection refused");
    }
}
