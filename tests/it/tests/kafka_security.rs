//! Kafka by TLS and SASL, against a real broker with a listener for each and with rights that are just enough; and what is said
//! when something about it is wrong.

use crate::disaster::{CONFIG, Roles};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tidemark_tests::certificates::{certificates, openssl};
use tidemark_tests::cluster::{Cluster, Extra};
use tidemark_tests::data;
use tidemark_tests::role::{Role, Way};
use tidemark_tests::server::{binary, free_port};
use tidemark_tests::wait;

const DEADLINE: Duration = Duration::from_secs(60);

/// TLS, TLS with a certificate of the client's, TLS with a user, TLS by a certificate that has expired, and TLS with a token.
struct Ports {
    tls: u16,
    mutual: u16,
    login: u16,
    expired: u16,
    token: u16,
    /// Of the provider that gives the tokens.
    provider: u16,
}

/// A real OpenID provider (`tests/oidc`), until dropped.
struct Provider(Child);

impl Provider {
    fn start(port: u16) -> Self {
        let work = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/node-for-tests.sh"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../oidc"))
            .output()
            .expect("the script runs");
        assert!(work.status.success(), "{}", String::from_utf8_lossy(&work.stderr));
        let work = String::from_utf8(work.stdout).expect("a path");
        let mut node = Command::new("node");
        node.arg("provider.js").arg(port.to_string()).current_dir(work.trim()).stdin(Stdio::null());
        let mut child = node.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("Node.js starts");
        let said = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        assert!(said.into_iter().any(|line| line == "listening"), "the provider has ended");
        Self(child)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A broker that trusts its plain listener, and checks rights on the others.
fn cluster(ports: &Ports) -> Cluster {
    Cluster::with(1, |dir| {
        certificates(dir);
        openssl(dir, "x509 -req -in own.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out expired.crt -days 0 -copy_extensions copy");
        openssl(dir, "req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.crt -days 2 -subj /CN=another-authority");
        let read = |name: &str| fs::read_to_string(dir.join(name)).expect("it has been made");
        fs::write(dir.join("own.pem"), read("own.key") + &read("own.crt") + &read("ca.crt")).expect("written");
        fs::write(dir.join("expired.pem"), read("own.key") + &read("expired.crt") + &read("ca.crt")).expect("written");
        let at = dir.display();
        let login = "listener.name.login";
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let (token, bearer) = ("listener.name.token.oauthbearer", "org.apache.kafka.common.security.oauthbearer");
        let provider = format!("http://127.0.0.1:{}", ports.provider);
        let settings = format!(
            "ssl.keystore.type=PEM\nssl.keystore.location={at}/own.pem\nssl.truststore.type=PEM\nssl.truststore.location={at}/ca.crt\n\
             listener.name.mutual.ssl.client.auth=required\nlistener.name.expired.ssl.keystore.type=PEM\n\
             listener.name.expired.ssl.keystore.location={at}/expired.pem\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             {login}.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_tidemark=\"right\";\n\
             {login}.scram-sha-256.sasl.jaas.config={scram}\n{login}.scram-sha-512.sasl.jaas.config={scram}\n\
             listener.name.token.sasl.enabled.mechanisms=OAUTHBEARER\n\
             {token}.sasl.jaas.config={bearer}.OAuthBearerLoginModule required;\n\
             {token}.sasl.server.callback.handler.class={bearer}.OAuthBearerValidatorCallbackHandler\n\
             {token}.sasl.oauthbearer.jwks.endpoint.url={provider}/jwks\n{token}.sasl.oauthbearer.expected.issuer={provider}\n\
             {token}.sasl.oauthbearer.expected.audience=kafka\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nsuper.users=User:ANONYMOUS\n"
        );
        let users = ["SCRAM-SHA-256", "SCRAM-SHA-512"]
            .into_iter()
            .flat_map(|mechanism| ["--add-scram".to_owned(), format!("{mechanism}=[name=tidemark,password=right]")]);
        let listeners = vec![
            ("TLS", "SSL", ports.tls),
            ("MUTUAL", "SSL", ports.mutual),
            ("LOGIN", "SASL_SSL", ports.login),
            ("EXPIRED", "SSL", ports.expired),
            ("TOKEN", "SASL_SSL", ports.token),
        ];
        let java = vec![format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={provider}/jwks")];
        Extra { listeners, settings, format: users.collect(), java, ..Extra::default() }
    })
}

/// What docs/operations.md says that a principal needs.
fn allow(cluster: &Cluster, principal: &str) {
    let acls = "org.apache.kafka.tools.AclCommand";
    let allow = |arguments: &str| {
        let arguments: Vec<&str> = ["--add", "--allow-principal", principal].into_iter().chain(arguments.split(' ')).collect();
        cluster.kafka_tool(acls, &arguments);
    };
    allow("--topic events --operation Create --operation Read --operation Write --operation Describe --operation DescribeConfigs");
    allow("--group tidemark- --resource-pattern-type prefixed --operation Read --operation Describe");
}

/// Of `[kafka.client]`.
type Settings<'s> = &'s [(&'s str, &'s str)];

fn client(settings: Settings<'_>) -> String {
    let lines = settings.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"\n"));
    format!("{CONFIG}[kafka.client]\n{}", lines.collect::<String>())
}

#[test]
fn kafka_is_reached_by_tls_and_by_users_and_what_is_wrong_is_said() {
    let ports = Ports {
        tls: free_port(),
        mutual: free_port(),
        login: free_port(),
        expired: free_port(),
        token: free_port(),
        provider: free_port(),
    };
    let _provider = Provider::start(ports.provider);
    let cluster = cluster(&ports);
    allow(&cluster, "User:tidemark");
    allow(&cluster, "User:CN=localhost");
    let file = |name: &str| cluster.dir().join(name).display().to_string();
    let (ca, other, own, key) = (file("ca.crt"), file("other.crt"), file("own.crt"), file("own.key"));
    let configure = |settings: Settings<'_>| fs::write(cluster.dir().join("config.toml"), client(settings)).expect("written");
    let at = |port: u16| {
        let servers = tidemark_tests::cluster::Endpoints { kafka: format!("localhost:{port}"), ..cluster.endpoints() };
        Way { servers: Some(servers), ..Way::default() }
    };
    // By the environment, so that several can be tried at the same time.
    let refused = |port: u16, settings: Settings<'_>, says: &str| {
        let name = |name: &str| format!("TIDEMARK__KAFKA__CLIENT__{}", name.replace('.', "_").to_uppercase());
        let environment = settings.iter().map(|(of, value)| (name(of), (*value).to_owned())).collect();
        let said = Role::refused_by(&cluster, "ingest", &Way { environment, ..at(port) });
        assert!(said.contains(says), "{settings:?}: {said}");
    };
    let tls = [("security.protocol", "ssl"), ("ssl.ca.location", ca.as_str())];
    let user = |mechanism: &'static str, password: &'static str| {
        [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", ca.as_str()),
            ("sasl.mechanisms", mechanism),
            ("sasl.username", "tidemark"),
            ("sasl.password", password),
        ]
    };
    let endpoint = format!("http://127.0.0.1:{}/token", ports.provider);
    let token = |secret: &'static str| {
        [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", ca.as_str()),
            ("sasl.mechanisms", "OAUTHBEARER"),
            ("sasl.oauthbearer.method", "oidc"),
            ("sasl.oauthbearer.client.id", "tidemark"),
            ("sasl.oauthbearer.client.secret", secret),
            ("sasl.oauthbearer.scope", "count"),
            ("sasl.oauthbearer.token.endpoint.url", endpoint.as_str()),
        ]
    };
    let mutual = [tls[0], tls[1], ("ssl.certificate.location", own.as_str()), ("ssl.key.location", key.as_str())];

    configure(&[]);
    let other = [tls[0], ("ssl.ca.location", other.as_str())];
    let (wrong_plain, wrong_scram) = (user("PLAIN", "wrong"), user("SCRAM-SHA-256", "wrong"));
    let (unable, unknown) = (user("GSSAPI", "right"), [("security.protocol", "nonsense")]);
    let wrong_token = token("wrong");
    let wrong: [(u16, Settings<'_>, &str); 8] = [
        (ports.tls, &other, "ssl.ca.location"),
        (ports.expired, &tls, "has expired (renew it on the broker)"),
        (ports.mutual, &tls, "ssl.certificate.location"),
        (ports.login, &wrong_plain, "sasl.password"),
        (ports.login, &wrong_scram, "sasl.password"),
        (ports.token, &wrong_token, "sasl.oauthbearer.client.secret"),
        // What this build cannot do is refused before anything is asked.
        (ports.login, &unable, "GSSAPI"),
        (ports.tls, &unknown, "security.protocol"),
    ];
    std::thread::scope(|scope| {
        for (port, settings, says) in wrong {
            let refused = &refused;
            scope.spawn(move || refused(port, settings, says));
        }
    });

    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..1_000];
    for (port, settings) in [
        (ports.tls, &tls[..]),
        (ports.mutual, &mutual),
        (ports.login, &user("PLAIN", "right")),
        (ports.login, &user("SCRAM-SHA-256", "right")),
        (ports.token, &token("right")),
    ] {
        configure(settings);
        let ingest = Role::by(&cluster, "ingest", "ingest", &at(port));
        let reply = ingest.client.post("/v1/events", &[("content-type", "application/x-ndjson")], lines[0]);
        assert_eq!(reply.status, 200, "{settings:?}: {}", reply.text());
        ingest.stop();
    }
    // Every role, as a user who may do no more than it must.
    configure(&user("SCRAM-SHA-512", "right"));
    let roles = Roles::by(&cluster, &at(ports.login));
    let position = roles.send(lines);
    roles.settle(&cluster, &position);
    let (kafka, clickhouse) = (format!("localhost:{}", ports.login), cluster.clickhouse());
    let mut doctor = Command::new(binary());
    doctor.arg("doctor").arg("--config").arg(cluster.dir().join("config.toml")).args(["--kafka", &kafka, "--clickhouse", &clickhouse]);
    let doctor = doctor.args(["--url", &roles.serve.client.url]).stdin(Stdio::null()).output().expect("started");
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(said.contains("is the topic that history was counted from"), "{said}");
    rights_are_withdrawn_and_given_back(&cluster, &roles, &data::lines(&january)[1_000..2_000]);
    a_quota_makes_clients_wait(&cluster, &roles, &data::lines(&january)[2_000..6_000]);
    roles.stop();
}

/// Whose right is missing stands still and says so, and goes on by itself when it has it again.
fn rights_are_withdrawn_and_given_back(cluster: &Cluster, roles: &Roles, lines: &[&[u8]]) {
    let acl = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split(' ').chain(["--topic", "events", "--operation", "Read"]).collect();
        cluster.kafka_tool("org.apache.kafka.tools.AclCommand", &arguments);
    };
    acl("--remove --force --allow-principal User:tidemark");
    let position = roles.send(lines);
    for layer in [&roles.speed, &roles.batch] {
        let said = wait::until("the layer says which right it lacks", DEADLINE, || {
            let reply = layer.client.get("/readyz");
            reply.text().contains("DescribeConfigs on the topic").then(|| reply.text())
        });
        assert!(said.contains("does not let this user do that") && said.contains("stands still"), "{said}");
    }
    // What has been counted is answered all the while.
    assert_eq!(roles.serve.client.got("/v1/query?step=total&measures=count")["exact"], true);
    acl("--add --allow-principal User:tidemark");
    roles.settle(cluster, &position);
}

/// They are slower, say why, and lose nothing.
fn a_quota_makes_clients_wait(cluster: &Cluster, roles: &Roles, lines: &[&[u8]]) {
    let quota = |change: &str| {
        let arguments: Vec<&str> = "--alter --entity-type users --entity-name tidemark".split(' ').chain(change.split(' ')).collect();
        cluster.kafka_tool("kafka.admin.ConfigCommand", &arguments);
    };
    quota("--add-config producer_byte_rate=5000,consumer_byte_rate=5000");
    let position = std::thread::scope(|scope| {
        let sent = scope.spawn(|| roles.send(lines));
        for (role, metric) in [
            (&roles.ingest, "tidemark_ingest_throttled_seconds"),
            (&roles.speed, "tidemark_speed_throttled_seconds"),
            (&roles.batch, "tidemark_batch_throttled_seconds"),
        ] {
            wait::until("it says that Kafka makes it wait", DEADLINE, || {
                let wait = role.client.metrics().get(metric).copied().unwrap_or_else(|| panic!("no {metric}"));
                (wait > 0.0).then_some(())
            });
        }
        quota("--delete-config producer_byte_rate,consumer_byte_rate");
        sent.join().expect("everything is taken")
    });
    roles.settle(cluster, &position);
}

#[test]
fn the_version_tells_what_the_kafka_client_can_do() {
    let said = Command::new(binary()).arg("--version").output().expect("started");
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("librdkafka 2.") && said.contains("ssl") && said.contains("sasl_scram") && said.contains("oidc"), "{said}");
}
