//! What can be seen from here: the configuration, who is let in, which ports answer, and the clocks.

use super::finding::{Finding, span};
use crate::config::Config;
use crate::http;
use anyhow::Result;
use std::net::SocketAddr;
use std::time::Duration;
use tidemark_access::Access;
use tidemark_core::skew::Skew;
use tokio::net::{TcpStream, lookup_host};

/// How long a connection on a network may take.
const CONNECT: Duration = Duration::from_secs(2);
/// Repairs are announced with a deadline, and clocks must agree on when it is over.
const CLOCKS_DIFFER_MS: i64 = 2_000;
const CLOCKS_ARE_WRONG_MS: i64 = 30_000;

/// Whether every setting can be used.
pub fn configuration(config: &Config) -> Finding {
    let sound = || -> Result<String> {
        let rules = config.rules()?;
        config.block_limits()?;
        config.keys()?;
        config.tls.server()?;
        if !config.redis.urls.is_empty() {
            config.redis.server()?;
        }
        let views: Vec<&str> = rules.views.iter().map(tidemark_core::view::View::name).collect();
        Ok(format!("it is sound: views {}, epochs of 2^{} offsets", views.join(", "), rules.epoch_bits.get()))
    };
    match sound() {
        Ok(found) => Finding::ok("configuration", found),
        Err(error) => {
            Finding::failure("configuration", crate::exit::sentence(&error), "mend that setting: tidemark.default.toml explains each")
        }
    }
}

/// Who is let in at the addresses that are listened at.
pub async fn access(config: &Config) -> Finding {
    let keys = config.keys().unwrap_or_default();
    let (many, access) = (keys.len(), Access::new(keys, config.open));
    let mut said = Vec::new();
    for at in [&config.listen, &config.admin_listen].into_iter().filter(|at| !at.is_empty()) {
        let Ok(Ok(addresses)) = tokio::time::timeout(CONNECT, lookup_host(at.as_str())).await else {
            return Finding::failure(
                "access",
                format!("`{at}` is no address to listen at"),
                "write ADDRESS:PORT in listen and admin_listen, such as 127.0.0.1:8080",
            );
        };
        let addresses: Vec<SocketAddr> = addresses.collect();
        let outside = addresses.iter().find(|address| !address.ip().is_loopback());
        let Some(outside) = outside else {
            said.push(format!("{at} is for this machine alone"));
            continue;
        };
        if http::refuse_strangers(at, *outside, config, &access).is_err() {
            return Finding::failure(
                "access",
                format!("{at} can be reached from other machines, and there are no keys"),
                "no process starts so: `tidemark key NAME` makes a [[key]]; or say open = true if something in front of it keeps strangers out",
            );
        }
        if access.is_open() {
            return Finding::warning(
                "access",
                format!("everybody who reaches {at} may send, read and pause layers (open = true)"),
                "be sure that something in front of it keeps strangers out, or add a [[key]]",
            );
        }
        if config.tls.is_off() {
            return Finding::warning(
                "access",
                format!("keys and counts pass in the clear to {at}"),
                "set tls.certificate_file and tls.key_file, unless something in front of it speaks TLS",
            );
        }
        said.push(format!("{at} is for {many} key{} over TLS", if many == 1 { "" } else { "s" }));
    }
    Finding::ok("access", said.join(", "))
}

/// A server that should take connections.
pub struct Port {
    pub what: &'static str,
    /// `host:port`
    pub at: String,
}

/// The places of servers: of Kafka, `host:port` and commas; of the others, URLs.
pub fn ports(kafka: &str, clickhouse: &str, redis: &[String]) -> Vec<Port> {
    let kafka = kafka.split(',').map(|at| ("kafka", at.trim().rsplit("://").next().unwrap_or(at).to_owned()));
    let clickhouse = clickhouse.split(',').filter_map(|url| Some(("clickhouse", host_of(url, 8123)?)));
    let redis = redis.iter().filter_map(|url| Some(("redis", host_of(url, 6379)?)));
    let all = kafka.chain(clickhouse).chain(redis).filter(|(_, at)| !at.is_empty());
    all.map(|(what, at)| Port { what, at }).collect()
}

/// `host:port` of an address with or without scheme, user and path.
fn host_of(url: &str, port: u16) -> Option<String> {
    let (scheme, rest) = url.trim().split_once("://")?;
    let rest = rest.split(['/', '?']).next()?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let port = match scheme {
        "https" => 443,
        "http" if port == 8123 => 80,
        _ => port,
    };
    // A name, or an IPv6 address in brackets, with or without a port.
    let has_port = host.rsplit(']').next().is_some_and(|behind| behind.contains(':'));
    Some(if has_port { host.to_owned() } else { format!("{host}:{port}") })
}

/// Why a port takes no connection; `None` if it does.
async fn refusal(port: &Port) -> Option<String> {
    match tokio::time::timeout(CONNECT, TcpStream::connect(&port.at)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(format!("{} at {} takes no connection ({error})", port.what, port.at)),
        Err(_) => Some(format!("{} at {} takes no connection within {} s", port.what, port.at, CONNECT.as_secs())),
    }
}

/// Whether the servers take connections at all; `None` if there are none.
pub async fn open_ports(ports: &[Port]) -> Option<Finding> {
    if ports.is_empty() {
        return None;
    }
    let refusals = futures_util::future::join_all(ports.iter().map(refusal)).await;
    Some(judge_ports(ports, refusals))
}

fn judge_ports(ports: &[Port], refusals: Vec<Option<String>>) -> Finding {
    let check = "ports";
    let dead = ports.iter().zip(&refusals).filter(|(_, refusal)| refusal.is_some()).map(|(port, _)| port.what);
    let is_alive = |what: &str| ports.iter().zip(&refusals).any(|(port, refusal)| port.what == what && refusal.is_none());
    let all_dead = dead.clone().any(|what| !is_alive(what));
    let reasons: Vec<String> = refusals.iter().flatten().cloned().collect();
    let advice = "start what does not run; if it runs, look at the address, at firewalls, and at what it listens on";
    match (reasons.is_empty(), all_dead) {
        (true, _) => {
            let said: Vec<String> = ports.iter().map(|port| format!("{} at {}", port.what, port.at)).collect();
            Finding::ok(check, format!("{} take connections", said.join(", ")))
        }
        (false, true) => Finding::failure(check, reasons.join("; "), advice),
        (false, false) => Finding::warning(check, reasons.join("; "), advice),
    }
}

/// Whether this machine's clock agrees with those that tell the time; Kafka does not.
pub fn clocks(others: &[(String, Skew)]) -> Finding {
    let check = "clocks";
    let Some((name, skew)) = others.iter().max_by_key(|(_, skew)| skew.at_least_ms()) else {
        return Finding::ok(check, "nobody was there to compare this machine's clock with");
    };
    let off = skew.at_least_ms();
    let advice = "let all machines follow one time server (chrony, systemd-timesyncd): deadlines of repairs, and what is too far in the future, are judged by clocks";
    let said = format!("the clock of {name} is {} {} this machine's", span(off), if skew.ahead_ms < 0 { "behind" } else { "ahead of" });
    match off {
        CLOCKS_ARE_WRONG_MS.. => Finding::failure(check, said, advice),
        CLOCKS_DIFFER_MS.. => Finding::warning(check, said, advice),
        _ => {
            let names: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).collect();
            Finding::ok(check, format!("this machine and {} agree within {}", names.join(", "), span(off.max(1) + skew.unsure_ms)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn config(text: &str) -> Config {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, text).expect("written");
        Config::load(Some(file.path())).expect("valid")
    }

    const KEY: &str =
        "[[key]]\nname = \"k\"\nsha256 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"\nscopes = [\"read\"]\n";

    #[tokio::test]
    async fn strangers_are_not_let_in_without_being_told() {
        for (text, level, says) in [
            (String::new(), Level::Ok, "this machine alone"),
            ("listen = \"0.0.0.0:8080\"\n".to_owned(), Level::Failure, "no keys"),
            ("admin_listen = \"0.0.0.0:8081\"\n".to_owned(), Level::Failure, "0.0.0.0:8081"),
            ("listen = \"0.0.0.0:8080\"\nopen = true\n".to_owned(), Level::Warning, "everybody"),
            (format!("listen = \"0.0.0.0:8080\"\n{KEY}"), Level::Warning, "in the clear"),
            (format!("listen = \"0.0.0.0:8080\"\n{KEY}[tls]\ncertificate_file = \"c\"\nkey_file = \"k\"\n"), Level::Ok, "1 key over TLS"),
            ("listen = \"nowhere\"\n".to_owned(), Level::Failure, "no address"),
        ] {
            let said = access(&config(&text)).await;
            assert!(said.level == level && said.found.contains(says), "{text}: {said:?}");
        }
    }

    #[test]
    fn a_setting_that_cannot_be_used_is_named() {
        assert_eq!(configuration(&config("")).level, Level::Ok);
        for (text, says) in [
            ("[batch]\nin_flight = 0\n", "batch.in_flight"),
            ("[tls]\nkey_file = \"k\"\n", "tls.certificate_file"),
            ("[[key]]\nname = \"k\"\nsha256 = \"1\"\nscopes = []\n", "key `k`"),
        ] {
            let said = configuration(&config(text));
            assert!(said.level == Level::Failure && said.found.contains(says), "{said:?}");
        }
    }

    #[test]
    fn addresses_are_found_in_what_is_configured() {
        let redis = ["redis://:secret@r".to_owned(), "rediss://r2:7000/0".to_owned()];
        let at: Vec<String> =
            ports("k1:9092, PLAINTEXT://k2:9092", "http://u:p@c:8123,https://d", &redis).into_iter().map(|port| port.at).collect();
        assert_eq!(at, ["k1:9092", "k2:9092", "c:8123", "d:443", "r:6379", "r2:7000"]);
        assert_eq!(
            (host_of("http://[::1]:8123", 8123), host_of("http://[::1]", 8123)),
            (Some("[::1]:8123".into()), Some("[::1]:80".into()))
        );
        assert!(ports("", "", &[]).is_empty());
    }

    #[test]
    fn one_dead_server_of_several_is_a_warning_and_the_only_one_a_failure() {
        let all = || ports("k1:1,k2:2", "http://c:3", &[]);
        let judge = |dead: [bool; 3]| judge_ports(&all(), dead.iter().map(|dead| dead.then(|| "gone".to_owned())).collect()).level;
        assert_eq!(
            [judge([false; 3]), judge([true, false, false]), judge([true, true, false]), judge([false, false, true])],
            [Level::Ok, Level::Warning, Level::Failure, Level::Failure]
        );
    }

    #[test]
    fn clocks_that_differ_are_said_with_their_difference() {
        let clock =
            |ahead_ms| [("a".to_owned(), Skew { ahead_ms: 3, unsure_ms: 5 }), ("clickhouse".to_owned(), Skew { ahead_ms, unsure_ms: 10 })];
        for (ahead_ms, level, says) in
            [(7, Level::Ok, "agree"), (5_010, Level::Warning, "5 seconds ahead of"), (-90_010, Level::Failure, "90 seconds behind")]
        {
            let said = clocks(&clock(ahead_ms));
            assert!(said.level == level && said.found.contains(says), "{said:?}");
        }
        assert_eq!(clocks(&[]).level, Level::Ok);
    }
}
