//! The check that stands before the routes.

use crate::key::{Digest, Key, Scope};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use std::sync::Arc;
use tidemark_ingest::Problem;

/// What a browser says of a request that a page makes: <https://www.w3.org/TR/fetch-metadata/>
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/>, version 10
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// The keys that there are.
#[derive(Debug)]
pub struct Access {
    keys: Vec<(Key, Option<Limiter>)>,
    /// Something in front keeps strangers out, and may call this server by any name.
    is_behind: bool,
}

impl Access {
    /// Without keys everything is open to this machine; with `--open`, to all clients that a proxy in front lets through.
    pub fn new(keys: Vec<Key>, is_behind: bool) -> Arc<Self> {
        let limited = |key: Key| {
            let limit = key.requests_per_second.map(|n| RateLimiter::direct(Quota::per_second(n)).with_middleware());
            (key, limit)
        };
        Arc::new(Self { keys: keys.into_iter().map(limited).collect(), is_behind })
    }

    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Lets only keys of a scope through to a router's routes.
    pub fn guard(self: &Arc<Self>, scope: Scope, routes: Router) -> Router {
        // A process may have none that need this scope.
        if !routes.has_routes() {
            return routes;
        }
        if self.is_open() {
            let is_behind = self.is_behind;
            return routes.route_layer(from_fn(move |request: Request, next: Next| async move {
                if let Some(refused) = foreign(&request, is_behind) { refused.into_response() } else { next.run(request).await }
            }));
        }
        routes.route_layer(from_fn_with_state((Arc::clone(self), scope), check))
    }

    /// The key that a request carries. All keys are looked at, so that the time tells nothing of which one it is.
    fn key_of(&self, headers: &HeaderMap) -> Option<&(Key, Option<Limiter>)> {
        let plain = |value: &HeaderValue| Some(value.to_str().ok()?.trim().to_owned());
        let sent = headers.get(AUTHORIZATION).and_then(authorization).or_else(|| headers.get(API_KEY).and_then(plain))?;
        let sent = Digest::of(&sent);
        self.keys.iter().fold(None, |found, candidate| if candidate.0.digest.is(&sent) { Some(candidate) } else { found })
    }
}

/// The key of `Bearer KEY`, or the user's name of `Basic`: so do Segment's libraries send their write key, and whoever knows
/// nothing but a name and a password.
fn authorization(value: &HeaderValue) -> Option<String> {
    match value.to_str().ok()?.split_once(' ')? {
        ("Bearer", key) => Some(key.trim().to_owned()),
        ("Basic", packed) => {
            let pair = String::from_utf8(BASE64.decode(packed.trim()).ok()?).ok()?;
            Some(pair.split_once(':')?.0.to_owned())
        }
        _ => None,
    }
}

/// Why a request may come from a page of another site, if it may: a browser on this machine reaches what is open to this machine,
/// whichever page it shows. It says where a request comes from; and a page that has its own name lead here (DNS rebinding) has that
/// name in `Host`, for an address cannot be made to lead elsewhere.
fn foreign(request: &Request, is_behind: bool) -> Option<Problem> {
    let header = |name: HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let refused = |detail: String| Some(Problem::new(StatusCode::FORBIDDEN, "foreign-page", "Not for pages of others", detail));
    let is_link = request.method() == Method::GET && header(FETCH_MODE) == Some("navigate");
    if matches!(header(FETCH_SITE), Some("cross-site" | "same-site")) && !is_link {
        return refused("a browser says that a page of another site asks this; without keys only this server's own page may".into());
    }
    if is_behind {
        return None;
    }
    // Over HTTP/2 it stands in the address.
    let host = header(HOST).or_else(|| request.uri().authority().map(Authority::as_str));
    let authority: Option<Authority> = host.and_then(|host| host.parse().ok());
    let name = authority.as_ref().map(|authority| authority.host().trim_matches(['[', ']']));
    let is_ours = name.is_some_and(|name| name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok());
    if host.is_some() && !is_ours {
        let host = host.unwrap_or_default().escape_default();
        return refused(format!(
            "without keys this server answers to `localhost` and to its addresses, not to `{host}`: make keys (`tidemark key`), or say --open if something in front of it keeps strangers out"
        ));
    }
    match header(ORIGIN) {
        Some(origin) if origin.split_once("://").map(|(_, authority)| authority) != host => {
            refused(format!("a page of `{}` asks this; without keys only this server's own page may", origin.escape_default()))
        }
        _ => None,
    }
}

async fn check(State((access, scope)): State<(Arc<Access>, Scope)>, request: Request, next: Next) -> Response {
    let Some((key, limiter)) = access.key_of(request.headers()) else { return unknown().into_response() };
    if !key.scopes.contains(&scope) {
        return lacking(key, scope).into_response();
    }
    let (Some(limiter), Some(per_second)) = (limiter, key.requests_per_second) else { return next.run(request).await };
    let (mut response, remaining) = match limiter.check() {
        Ok(state) => (next.run(request).await, state.remaining_burst_capacity()),
        Err(until) => {
            let secs = until.wait_time_from(DefaultClock::default().now()).as_secs_f64().ceil().max(1.0);
            let detail =
                format!("key `{}` may ask {per_second} times a second; ask more seldom, or have requests_per_second raised", key.name);
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "Too many requests", detail);
            (problem.header(RETRY_AFTER, number(secs)).into_response(), 0)
        }
    };
    let headers = response.headers_mut();
    for (name, text) in [(POLICY, format!("\"key\";q={per_second};w=1")), (LIMIT, format!("\"key\";r={remaining};t=1"))] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
    response
}

fn number(secs: f64) -> HeaderValue {
    HeaderValue::from_str(&format!("{secs:.0}")).unwrap_or(HeaderValue::from_static("1"))
}

/// The same for no key and for a wrong one.
fn unknown() -> Problem {
    let detail = "this needs a key: send `Authorization: Bearer KEY`. Whoever keeps the configuration makes one with `tidemark key`";
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "key-needed", "A key is needed", detail);
    problem.header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidemark\""))
}

fn lacking(key: &Key, scope: Scope) -> Problem {
    let scope = scope.name();
    let detail =
        format!("key `{}` does not have the scope `{scope}`; whoever keeps the configuration can add it, or make another key", key.name);
    Problem::new(StatusCode::FORBIDDEN, "scope-needed", "The key may not do this", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::routing::get;
    use std::num::NonZeroU32;
    use tower::ServiceExt as _;

    fn key(secret: &str, scopes: &[Scope], per_second: u32) -> Key {
        let scopes = scopes.iter().copied().collect();
        Key { name: format!("of {secret}"), digest: Digest::of(secret), scopes, requests_per_second: NonZeroU32::new(per_second) }
    }

    fn router(keys: Vec<Key>) -> Router {
        let access = Access::new(keys, false);
        let read = access.guard(Scope::Read, Router::new().route("/read", get(async || "read")));
        let admin = access.guard(Scope::Admin, Router::new().route("/admin", get(async || "done")));
        let none = access.guard(Scope::Ingest, Router::new());
        read.merge(admin).merge(none).route("/open", get(async || "open"))
    }

    async fn asked(router: &Router, path: &str, header: Option<(&str, &str)>) -> Response {
        let request = header.into_iter().fold(Request::get(path), |request, (name, value)| request.header(name, value));
        router.clone().oneshot(request.body(Body::empty()).expect("a request")).await.expect("an answer")
    }

    async fn status(router: &Router, path: &str, header: Option<(&str, &str)>) -> u16 {
        asked(router, path, header).await.status().as_u16()
    }

    #[tokio::test]
    async fn a_key_opens_what_its_scopes_name() {
        let router = router(vec![key("one", &[Scope::Read], 0), key("two", &[Scope::Read, Scope::Admin], 0)]);
        assert_eq!(status(&router, "/open", None).await, 200);
        for header in [
            None,
            Some(("authorization", "Bearer three")),
            Some(("authorization", "one")),
            Some(("authorization", "Basic one")),
            Some(("x-api-key", "")),
        ] {
            let response = asked(&router, "/read", header).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{header:?}");
            assert!(response.headers().contains_key(WWW_AUTHENTICATE));
        }
        // `one:` in base64, and `one:whatever`.
        let names = [("authorization", "Basic b25lOg=="), ("authorization", "Basic b25lOndoYXRldmVy")];
        for header in [("authorization", "Bearer one"), ("x-api-key", "one"), ("authorization", "Bearer two"), names[0], names[1]] {
            assert_eq!(status(&router, "/read", Some(header)).await, 200, "{header:?}");
        }
        assert_eq!(status(&router, "/admin", Some(("authorization", "Bearer one"))).await, 403);
        assert_eq!(status(&router, "/admin", Some(("authorization", "Bearer two"))).await, 200);
        assert_eq!(status(&router, "/not/there", None).await, 404, "what is not there is no secret");
    }

    #[tokio::test]
    async fn without_keys_everything_is_open_but_not_to_the_pages_of_others() {
        let behind = Access::new(vec![], true).guard(Scope::Admin, Router::new().route("/admin", get(async || "done")));
        let ours = router(vec![]);
        let ask = async |router: &Router, headers: &[(&str, &str)]| {
            let request = headers.iter().fold(Request::get("/admin"), |request, (name, value)| request.header(*name, *value));
            router.clone().oneshot(request.body(Body::empty()).expect("a request")).await.expect("an answer").status().as_u16()
        };
        let here = ("host", "127.0.0.1:8080");
        for (wanted, wanted_behind, headers) in [
            (200, 200, &[][..]),
            (200, 200, &[here]),
            (200, 200, &[("host", "localhost:8080"), ("origin", "http://localhost:8080")]),
            (200, 200, &[("host", "[::1]:8080"), ("sec-fetch-site", "same-origin")]),
            (200, 200, &[here, ("sec-fetch-site", "none")]),
            // A link on a page of another site shows an answer, and does not tell it to that page.
            (200, 200, &[here, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]),
            (403, 403, &[here, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")]),
            (403, 403, &[here, ("sec-fetch-site", "same-site")]),
            (403, 200, &[("host", "rebound.example:8080")]),
            (403, 200, &[here, ("origin", "https://evil.example")]),
            (403, 200, &[here, ("origin", "null")]),
            (403, 200, &[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8081")]),
        ] {
            assert_eq!((ask(&ours, headers).await, ask(&behind, headers).await), (wanted, wanted_behind), "{headers:?}");
        }
    }

    #[tokio::test]
    async fn a_key_that_asks_too_often_is_told_when_to_come_again() {
        let router = router(vec![key("one", &[Scope::Read], 3), key("two", &[Scope::Read], 0)]);
        let one = Some(("authorization", "Bearer one"));
        let mut last = asked(&router, "/read", one).await;
        assert_eq!((last.status(), &last.headers()["ratelimit-policy"]), (StatusCode::OK, &HeaderValue::from_static("\"key\";q=3;w=1")));
        // A place comes free in a third of a second; a loop is faster.
        for _ in 0..1000 {
            last = asked(&router, "/read", one).await;
            if last.status() != StatusCode::OK {
                break;
            }
        }
        assert_eq!(last.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(last.headers()[RETRY_AFTER], "1");
        assert_eq!(last.headers()["ratelimit"], "\"key\";r=0;t=1");
        assert_eq!(status(&router, "/read", Some(("x-api-key", "two"))).await, 200, "another key has its own");
    }
}
