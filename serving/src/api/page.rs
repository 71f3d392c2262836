//! `GET /`: the dashboard, and the three files that it consists of beside the page. Built from `web/`, embedded, packed when
//! it was built; nothing else is loaded, from here or elsewhere.

use super::wanted::takes;
use crate::packed::Coding;
use crate::written::known_tags;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::LazyLock;
use xxhash_rust::xxh3::xxh3_128;

/// Nothing but what this server sends runs, and it talks to nobody else. Nothing is ever made of text but text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// A file, plain and packed.
struct File {
    path: &'static str,
    media_type: &'static str,
    plain: &'static [u8],
    packed: &'static [u8],
}

macro_rules! file {
    ($path:literal, $name:literal, $media_type:literal) => {
        File {
            path: $path,
            media_type: $media_type,
            plain: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../web/dist/", $name)),
            packed: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../web/dist/", $name, ".gz")),
        }
    };
}

const FILES: [File; 4] = [
    file!("/", "index.html", "text/html; charset=utf-8"),
    file!("/dashboard.js", "dashboard.js", "text/javascript; charset=utf-8"),
    file!("/dashboard.css", "dashboard.css", "text/css; charset=utf-8"),
    file!("/icon.svg", "icon.svg", "image/svg+xml"),
];

/// Tags of [`FILES`], plain and packed: two forms of a file are two representations.
static TAGS: LazyLock<[[String; 2]; 4]> =
    LazyLock::new(|| FILES.map(|file| [file.plain, file.packed].map(|bytes| format!("\"{:032x}\"", xxh3_128(bytes)))));

/// The routes, for anybody: nothing here says what is counted.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().zip(TAGS.iter()).fold(Router::new(), |routes, (file, tags)| {
        routes.route(file.path, get(async move |headers: HeaderMap| answer(file, tags, &headers)))
    })
}

fn answer(file: &'static File, tags: &'static [String; 2], headers: &HeaderMap) -> Response {
    let is_packed = takes(headers, Coding::Gzip);
    let (tag, bytes) = if is_packed { (&tags[1], file.packed) } else { (&tags[0], file.plain) };
    // Names stay when contents change, so each use is asked for; mostly nothing has changed.
    let always = [(header::ETAG, tag.as_str()), (header::CACHE_CONTROL, "no-cache"), (header::VARY, "accept-encoding")];
    if known_tags(headers).any(|known| known == tag) {
        return (StatusCode::NOT_MODIFIED, always).into_response();
    }
    let secure = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_TYPE, file.media_type),
    ];
    let mut response = (always, secure, Bytes::from_static(bytes)).into_response();
    if is_packed {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    async fn fetch(path: &str, headers: &[(header::HeaderName, &str)]) -> Response {
        let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(name, *value));
        routes::<()>().oneshot(request.body(Body::empty()).expect("a request")).await.expect("routes do not fail")
    }

    async fn body(response: Response) -> Vec<u8> {
        axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a whole body").to_vec()
    }

    #[tokio::test]
    async fn files_are_sent_packed_to_whom_that_suits_and_once() {
        for (file, plain_tag) in FILES.iter().zip(TAGS.iter()) {
            let plain = fetch(file.path, &[(header::ACCEPT_ENCODING, "br, gzip;q=0")]).await;
            assert_eq!((plain.status(), plain.headers().get(header::CONTENT_ENCODING)), (StatusCode::OK, None), "{}", file.path);
            assert_eq!(plain.headers()[header::ETAG], plain_tag[0]);
            let packed = fetch(file.path, &[(header::ACCEPT_ENCODING, "br, GZIP;q=0.5")]).await;
            assert_eq!(packed.headers()[header::CONTENT_ENCODING], "gzip");
            assert_ne!(packed.headers()[header::ETAG], plain_tag[0], "two forms are two");
            let tag = packed.headers()[header::ETAG].to_str().expect("text").to_owned();
            let mut unpacked = Vec::new();
            let packed = body(packed).await;
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*packed), &mut unpacked).expect("gzip");
            assert_eq!(unpacked, body(plain).await, "{}", file.path);
            let known = format!("\"other\", {tag}");
            let again = fetch(file.path, &[(header::ACCEPT_ENCODING, "gzip"), (header::IF_NONE_MATCH, &known)]).await;
            assert_eq!((again.status(), body(again).await.len()), (StatusCode::NOT_MODIFIED, 0), "{}", file.path);
            // The plain form is not the one that is known.
            assert_eq!(fetch(file.path, &[(header::IF_NONE_MATCH, &known)]).await.status(), StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn the_page_may_run_and_load_nothing_but_its_own_files() {
        let page = fetch("/", &[]).await;
        let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("text").to_owned();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        let text = String::from_utf8(body(page).await).expect("text");
        let values = |name: &'static str| text.split(name).skip(1).filter_map(|rest| rest.split('"').next());
        assert!(values("href=\"").all(|address| address.starts_with('#') || (address.starts_with('/') && !address.starts_with("//"))));
        let loaded = values("src=\"").chain(values("<link rel=\"stylesheet\" href=\"")).chain(values("<link rel=\"icon\" href=\""));
        let loaded: Vec<&str> = loaded.collect();
        assert!(loaded.len() >= 4 && loaded.iter().all(|path| FILES.iter().any(|file| file.path == *path)), "{loaded:?}");
        assert!(!text.contains("<style") && !text.contains(" style="), "styles stand in the style sheet");
    }
}
