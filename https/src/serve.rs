//! The way in: serves HTTP to many connections, none of which can keep the others from being served.
//!
//! A connection is closed if its head does not arrive in time, if it is idle for as long, or if it does not read what it is sent.
//! Beyond a number of connections, a new one gets a 503 and is closed. How long a body may take is the routes' own business.

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

/// How long a request's head may take to arrive, and how long a connection may be idle between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may leave an answer unread that waits to be sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long sending a 503 to a connection too many may take.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A request's head is no longer than this (431), and no more of a body is read ahead. Four times the longest request line (414).
const MAX_READ_AHEAD: usize = 256 * 1024;

const TOO_MANY: &str = "{\"type\":\"urn:tidemark:problem:too-many-connections\",\"title\":\"Too many connections\",\"status\":503,\
                        \"detail\":\"the server has as many connections as it takes (max_connections); try again, or keep connections open and use them again\"}";

/// Serves `routes` until `closing` is over, and then until the requests under way have been answered.
pub async fn serve<L: Listener>(
    mut listener: L,
    routes: Router,
    max_connections: usize,
    closing: impl Future<Output = ()> + Clone + Send + 'static,
) where
    L::Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (room, mut connections) = (Arc::new(Semaphore::new(max_connections)), JoinSet::new());
    let mut closed = pin!(closing.clone());
    loop {
        let (io, _) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut closed => break,
            Some(_) = connections.join_next() => continue,
        };
        match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => {
                let served = connection(io, routes.clone(), closing.clone());
                connections.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Err(_) => drop(connections.spawn(refuse(io))),
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: I, routes: Router, closing: impl Future<Output = ()>) {
    let mut io = TimeoutStream::new(io);
    io.set_write_timeout(Some(WRITE_TIMEOUT));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_READ_AHEAD);
    let connection = builder.serve_connection(TokioIo::new(Box::pin(io)), TowerToHyperService::new(routes));
    let (mut connection, closing) = (pin!(connection), pin!(closing));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {}", crate::with_sources(&error));
    }
}

async fn refuse(mut io: impl AsyncWrite + Unpin) {
    let length = TOO_MANY.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{TOO_MANY}"
    );
    let sent = async {
        io.write_all(answer.as_bytes()).await?;
        io.shutdown().await
    };
    let _ = tokio::time::timeout(REFUSE_TIMEOUT, sent).await;
}
