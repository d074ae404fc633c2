//! Brokers with TLS, SCRAM and ACLs: who is let in, with which permissions, and
//! what a host says that is not let in. The permissions are those of
//! `docs/deploy.md`, given with the commands that stand there.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
};

use courtside_tests::{Host, Place, built, place::output, until};
use reqwest::StatusCode;
use serde_json::{Value, json};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kafka/cluster");
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/deploy.md");

/// A broker of this process.
struct Cluster {
    brokers: String,
    /// The directory of the files with which a client gets in.
    dir: PathBuf,
}

impl Cluster {
    /// Returns `None` where there is no Kafka, and says so; where Kafka is
    /// required, that is an error.
    fn get() -> Option<&'static Self> {
        static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
        CLUSTER.get_or_init(Self::up).as_ref()
    }

    fn up() -> Option<Self> {
        let name = format!("courtside-kafka-{}", std::process::id());
        let dir = built::scratch_dir().join(name);
        let why_not = run(Command::new(SCRIPT).args(["why-not", "--tls-sasl"]));
        if !why_not.is_empty() {
            let required = std::env::var("COURTSIDE_TEST_REQUIRE").unwrap_or_default();
            assert!(
                !required.split_whitespace().any(|suite| suite == "kafka"),
                "kafka is required, and skipped: {why_not}"
            );
            println!("kafka: skipped: {why_not}");
            return None;
        }
        // The test runner does not tell anybody when it ends, so a process waits
        // for its end.
        let watch = format!(
            "while kill -0 {} 2>/dev/null; do sleep 1; done; exec '{SCRIPT}' down",
            std::process::id()
        );
        Command::new("setsid")
            .args(["--fork", "sh", "-c", &watch])
            .env("COURTSIDE_KAFKA_DIR", &dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("somebody who stops the brokers");
        let brokers = run(Command::new(SCRIPT)
            .args(["up", "--tls-sasl"])
            .env("COURTSIDE_KAFKA_DIR", &dir));
        Some(Self { brokers, dir })
    }

    /// A place whose hosts come as the user `courtside`, with the right
    /// password.
    fn place(&self) -> Place {
        let properties = self.dir.join("client.properties");
        Place::with_plugin(&built::plugin("nba-scoring"))
            .set("kafka.brokers", &format!("{:?}", self.brokers))
            .set("kafka.properties_file", &properties.to_string_lossy())
            .set("worker.workers", "1")
    }

    /// Runs commands of an administrator, as the documentation has them.
    fn administer(&self, commands: &str) {
        let script = format!(
            "set -eu\nkafka-acls() {{ '{SCRIPT}' tool org.apache.kafka.tools.AclCommand \"$@\"; }}\n{commands}"
        );
        run(Command::new("bash")
            .args(["-c", &script])
            .env("BROKERS", &self.brokers)
            .current_dir(&self.dir));
    }

    /// A property of the user's own file.
    fn property(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.join("client.properties")).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.expect("a property").to_owned()
    }
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The commands in the documentation under a mark: indented lines.
fn documented(mark: &str) -> String {
    let text = fs::read_to_string(DOCS).unwrap();
    let (_, after) = text
        .split_once(&format!("<!-- acls: {mark} -->\n"))
        .unwrap_or_else(|| panic!("docs/deploy.md has no block {mark:?}"));
    let block: String = after
        .lines()
        .skip_while(|line| line.is_empty())
        .take_while(|line| line.is_empty() || line.starts_with("    "))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert!(block.contains("kafka-acls"), "{block}");
    block
}

fn event(seq: u64) -> Value {
    json!({
        "game_id": "LAL-BOS", "seq": seq, "type": "free_throw", "team": "BOS",
        "player": "Ada Park", "points": 1, "period": 1, "clock": "9:42",
    })
}

async fn points(host: &Host, place: &str) -> Value {
    let game = host.game_after("LAL-BOS", "scores", place).await;
    game.expect("an output")["points"]["BOS"].clone()
}

/// Waits until the host says that it is denied something.
async fn is_denied(host: &Host, what: &str) {
    until(&format!("/readyz to name {what}"), || async {
        let answer = host.get("/readyz").await;
        let names = answer.status == StatusCode::SERVICE_UNAVAILABLE
            && answer.body.contains("log-access-denied")
            && answer.body.contains(what);
        names.then_some(()).ok_or(answer.body)
    })
    .await;
}

#[test]
fn secrets_come_from_a_file_or_the_environment_and_are_not_shown() {
    let place = Place::new();
    let file = place.path("secret.properties");
    fs::write(&file, "sasl.password=hush\nclient.rack=of-the-file\n").unwrap();
    let place = place.set("kafka.properties_file", &file.to_string_lossy());
    let dump = |name: &str, value: &str| {
        let mut command = place.command();
        let output = output(command.arg("--dump-config").env(name, value));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = dump(
        "COURTSIDE_KAFKA__PROPERTIES__CLIENT_RACK",
        "of-the-environment",
    );
    assert!(
        shown.contains("\"client.rack\" = \"of-the-environment\""),
        "{shown}"
    );
    assert!(
        !shown.contains("hush") && !shown.contains("sasl.password"),
        "{shown}"
    );
    let shown = dump("COURTSIDE_KAFKA__PROPERTIES__SASL_PASSWORD", "hush-hush");
    assert!(
        shown.contains("\"sasl.password\" = \"<redacted>\""),
        "{shown}"
    );
    assert!(
        !shown.contains("hush") && !shown.contains("of-the-file"),
        "{shown}"
    );
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let Some(cluster) = Cluster::get() else {
        return;
    };
    let with_password = |place: Place| {
        place
            .set("kafka.properties.security.protocol", "SASL_SSL")
            .set("kafka.properties.sasl.mechanism", "SCRAM-SHA-512")
            .set("kafka.properties.sasl.username", "courtside")
            .set(
                "kafka.properties.sasl.password",
                &cluster.property("sasl.password"),
            )
            .set("kafka.properties_file", "")
    };
    let wrong = cluster
        .place()
        .set("kafka.properties.sasl.password", "wrong");
    let stranger = cluster
        .place()
        .set("kafka.properties.sasl.username", "nobody");
    let cases = [
        (wrong, "log-access-denied", "authentication"),
        (stranger, "log-access-denied", "authentication"),
        (
            with_password(cluster.place()),
            "log-access-denied",
            "certificate verify failed",
        ),
        (
            cluster.place().set("kafka.properties_file", ""),
            "log-unavailable",
            "security.protocol may not be",
        ),
    ];
    for (place, code, cause) in cases {
        let said = place.spawn().refuses_to_start().await;
        assert!(said.contains(&format!("{code}: ")), "{code}: {said}");
        assert!(said.contains(cause), "{cause}: {said}");
        assert!(!said.contains(&cluster.property("sasl.password")), "{said}");
    }
}

#[tokio::test]
async fn the_documented_permissions_are_enough_and_a_missing_one_is_named() {
    let Some(cluster) = Cluster::get() else {
        return;
    };
    let place = cluster.place();
    let said = place.spawn().refuses_to_start().await;
    assert!(said.contains("log-access-denied: "), "{said}");
    assert!(said.contains("Describe on topic NBA-Games"), "{said}");

    // The host may use topics, and there are none yet.
    cluster.administer(&documented("least"));
    let said = place.spawn().refuses_to_start().await;
    assert!(said.contains("log-access-denied: "), "{said}");
    assert!(said.contains("Create on topic NBA-Games"), "{said}");

    let create = documented("create");
    cluster.administer(&create);
    place.start_ready().await.stop().await;

    // The least permissions alone suffice for all that a host does.
    cluster.administer(&create.replace("--add", "--remove --force"));
    let host = place.start_ready().await;
    let at = host.accepts("/score", &event(1)).await;
    assert_eq!(points(&host, &at).await, 1);
    let group = host.get("/group").await;
    assert_eq!(group.status, StatusCode::OK, "{group:?}");

    // A permission that is lost stops the work that needs it. The host says so
    // until it is back.
    let checkpoints = "kafka-acls --bootstrap-server \"$BROKERS\" --command-config admin.properties \
         --deny-principal User:courtside --operation Write --topic courtside-scores.checkpoints";
    cluster.administer(&format!("{checkpoints} --add"));
    let at = host.accepts("/score", &event(2)).await;
    is_denied(&host, "Write on the topics of").await;
    cluster.administer(&format!("{checkpoints} --remove --force"));
    assert_eq!(points(&host, &at).await, 2);
    host.is_ready().await;

    let input = checkpoints.replace("courtside-scores.checkpoints", "NBA-Games");
    cluster.administer(&format!("{input} --add"));
    let answer = host
        .post("/score", "application/json", event(3).to_string())
        .await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert_eq!(answer.code(), "log-access-denied");
    assert!(
        answer.body.contains("Write on topic NBA-Games"),
        "{answer:?}"
    );
    cluster.administer(&format!("{input} --remove --force"));
    host.stop().await;

    // A host that may not be in the group does not wait in silence.
    let group = "kafka-acls --bootstrap-server \"$BROKERS\" --command-config admin.properties \
         --deny-principal User:courtside --operation Read --group courtside-scores";
    cluster.administer(&format!("{group} --add"));
    let host = place.start().await;
    is_denied(&host, "Read on group courtside-scores").await;
    cluster.administer(&format!("{group} --remove --force"));
    host.is_ready().await;
    let at = host.accepts("/score", &event(3)).await;
    assert_eq!(points(&host, &at).await, 3);
    host.stop().await;
}
