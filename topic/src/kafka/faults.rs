//! Why brokers do not let a client in: what librdkafka says about security, with what to do about it.

use parking_lot::Mutex;
use std::sync::Arc;

/// The last such failure that a client of this Kafka has met, until a broker answers. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(Arc<Mutex<Option<String>>>);

impl Faults {
    /// Takes in what librdkafka says about a connection; what is not about security is left out.
    pub(super) fn note(&self, reason: &str) {
        if let Some(advice) = advice(reason) {
            *self.0.lock() = Some(format!("{advice} (librdkafka: {reason})"));
        }
    }

    pub(super) fn clear(&self) {
        self.0.lock().take();
    }

    pub(super) fn current(&self) -> Option<String> {
        self.0.lock().clone()
    }
}

fn advice(reason: &str) -> Option<&'static str> {
    let has = |text: &str| reason.contains(text);
    Some(if has("OAUTHBEARER token") {
        "the identity provider gives no token; check sasl.oauthbearer.client.id, sasl.oauthbearer.client.secret, sasl.oauthbearer.scope and \
         sasl.oauthbearer.token.endpoint.url in [kafka.client]"
    } else if has("SASL") && (has("uthentication") || has("Unsupported") || has("mechanism")) {
        "the broker does not accept this user; check sasl.username, sasl.password and sasl.mechanisms in [kafka.client]"
    } else if has("verify failed")
        || has("certificate has expired")
        || has("self-signed")
        || has("unable to get local issuer")
        || has("unknown ca")
    {
        // librdkafka does not say which of these it is.
        "the broker's certificate cannot be verified: its authority is not trusted here (name that authority's file in ssl.ca.location of \
         [kafka.client]), it has expired (renew it on the broker), or it is for another host name"
    } else if has("certificate required") || has("bad certificate") || has("handshake failure") {
        "the broker wants a certificate from this client; name it in ssl.certificate.location and ssl.key.location of [kafka.client]"
    } else if has("incorrect security.protocol")
        || has("connecting to a SSL listener")
        || has("connecting to a PLAINTEXT")
        || has("wrong version number")
    {
        "the broker's port speaks another protocol; check security.protocol in [kafka.client], and the port in kafka.bootstrap"
    } else if has("SSL") && has("failed") {
        "TLS with the broker fails; check the ssl.* settings in [kafka.client]"
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_librdkafka_says_comes_with_what_to_do() {
        for (reason, says) in [
            ("sasl_ssl://b:9092/1: SASL authentication error: Authentication failed: Invalid username or password", "sasl.password"),
            (
                "ssl://b:9092/1: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified",
                "ssl.ca.location",
            ),
            ("ssl://b:9092/1: Disconnected: tlsv13 alert certificate required", "ssl.certificate.location"),
            (
                "b:9092/1: Disconnected while requesting ApiVersion: might be caused by incorrect security.protocol configuration",
                "security.protocol",
            ),
        ] {
            let faults = Faults::default();
            faults.note(reason);
            let current = faults.current().unwrap_or_default();
            assert!(current.contains(says) && current.contains(reason), "{current}");
            faults.clear();
            assert_eq!(faults.current(), None);
        }
        let faults = Faults::default();
        faults.note("b:9092/1: Connect to ipv4#127.0.0.1:9092 failed: Connection refused");
        assert_eq!(faults.current(), None);
    }
}
