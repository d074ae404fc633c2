"""What `manifests` checks beyond Compose's own schema.

Core kinds of Kubernetes are validated strictly, against the oldest and the
newest version that is meant. Of Strimzi's and KEDA's kinds no package has the
schemas: they are compared with what else says the same, and with the resource
definitions themselves where COURTSIDE_TEST_CRDS names a folder of them.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import jsonschema
import kubernetes_validate
import yaml

HOST = pathlib.Path(sys.argv[1]).resolve()
FOLDER = pathlib.Path("deploy/kubernetes")
VERSIONS = ["1.34", "1.37"]
CUSTOM = {"Kafka", "KafkaNodePool", "KafkaTopic", "KafkaUser", "ScaledObject", "TriggerAuthentication", "PodMonitor"}
# Made by Strimzi's operators, and by whoever rolls out a plugin.
FROM_ELSEWHERE = {"courtside", "courtside-keda", "kafka-cluster-ca-cert", "courtside-plugins-scores"}
# ACLs by their names in Strimzi and in Kafka's tool.
PATTERNS = {"literal": "literal", "prefix": "prefixed"}
RESOURCES = {"topic": "--topic", "group": "--group", "transactionalId": "--transactional-id"}

problems = []


def check(is_so, problem):
    if not is_so:
        problems.append(problem)


def tell():
    for problem in problems:
        print(f"deploy: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)


def documents():
    for path in sorted(FOLDER.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] not in ("Kustomization", "Component"):
                yield path, document


def definitions():
    """The schemas of custom kinds, by group, version and kind."""
    found = {}
    folder = os.environ.get("COURTSIDE_TEST_CRDS")
    for path in pathlib.Path(folder).glob("*.yaml") if folder else []:
        for crd in yaml.safe_load_all(path.read_text()):
            spec = crd["spec"]
            for version in spec["versions"]:
                name = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                found[name] = closed(version["schema"]["openAPIV3Schema"])
    return found


def closed(schema):
    """As the API server has it with strict field validation: unknown fields are errors."""
    if isinstance(schema, dict):
        schema = {name: closed(part) for name, part in schema.items()}
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        if schema.pop("x-kubernetes-int-or-string", False):
            schema.pop("type", None)
    elif isinstance(schema, list):
        schema = [closed(part) for part in schema]
    return schema


def validate(path, document, crds):
    kind, name = document["kind"], document["metadata"]["name"]
    check(re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name), f"{path}: {name} is no name")
    if kind not in CUSTOM:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                problems.append(f"{path}: {kind} {name}, Kubernetes {version}: {error.message}")
        return
    if not crds:
        return
    schema = crds.get((document["apiVersion"], kind))
    check(schema, f"{path}: no definition of {document['apiVersion']} {kind}")
    if not schema:
        return
    # Of metadata a definition only says that it is an object.
    body = {name: part for name, part in document.items() if name != "metadata"}
    for error in jsonschema.Draft7Validator(schema).iter_errors(body):
        problems.append(f"{path}: {kind} {name}: {'.'.join(map(str, error.path))}: {error.message}")


def references(value):
    """The names of config maps and secrets that something takes."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "secretName":
                yield part
            elif name in ("configMap", "configMapKeyRef", "secretKeyRef"):
                yield part["name"]
            elif name in ("configMapTargetRef", "secretTargetRef"):
                yield from (one["name"] for one in part)
            else:
                yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def granted(user):
    """The ACLs of a KafkaUser."""
    for acl in user["spec"]["authorization"]["acls"]:
        resource = acl["resource"]
        pattern = PATTERNS[resource.get("patternType", "literal")]
        for operation in acl["operations"]:
            yield pattern, RESOURCES[resource["type"]], resource["name"], operation


def documented():
    """The ACLs of the commands in docs/deploy.md."""
    block = pathlib.Path("docs/deploy.md").read_text().split("<!-- acls: least -->\n")[1]
    block = re.match(r"\n*((?:    .*\n|\n)+)", block)[1].replace("\\\n", " ")
    for command in filter(None, map(str.strip, block.splitlines())):
        words = shlex.split(command)
        pairs = [(word, words[at + 1]) for at, word in enumerate(words[:-1])]
        values = lambda option: [value for name, value in pairs if name == option]
        pattern = (values("--resource-pattern-type") or ["literal"])[0]
        for option in RESOURCES.values():
            for name in values(option):
                for operation in values("--operation"):
                    yield pattern, option, name, operation


def dump(what, arguments, environment):
    """Whether the host takes a configuration."""
    command = [HOST, "serve", "--dump-config", *arguments]
    output = subprocess.run(command, env=environment, capture_output=True, text=True)
    check(output.returncode == 0, f"{what}: {output.stderr.strip()}")


found = list(documents())
crds = definitions()
for path, document in found:
    validate(path, document, crds)
tell()
of_kind = lambda kind: [document for _, document in found if document["kind"] == kind]
named = lambda kind, name: next(one for one in of_kind(kind) if one["metadata"]["name"] == name)

# Each file is of a folder's kustomization, and what that names is there.
used = {FOLDER / "namespace.yaml"}
for path in FOLDER.glob("*/kustomization.yaml"):
    kustomization = yaml.safe_load(path.read_text())
    for resource in kustomization.get("resources", []) + kustomization.get("components", []):
        there = path.parent / resource
        check(there.exists(), f"{path}: {resource} is not there")
        used.add(there)
    for generator in kustomization.get("configMapGenerator", []):
        FROM_ELSEWHERE.add(generator["name"])
        for file in generator["files"]:
            check((path.parent / file).exists(), f"{path}: {file} is not there")
    if kustomization["kind"] == "Kustomization" and shutil.which("kubectl"):
        # It only renders; no cluster is asked.
        render = ["kubectl", "kustomize", path.parent]
        output = subprocess.run(render, env={**os.environ, "KUBECONFIG": os.devnull}, capture_output=True, text=True)
        check(output.returncode == 0, f"{path}: {output.stderr.strip()}")
for path in {path for path, _ in found} - used:
    problems.append(f"{path}: no kustomization has it")
made = FROM_ELSEWHERE | {one["metadata"]["name"] for one in of_kind("ConfigMap")}
for path, document in found:
    for name in references(document):
        check(name in made, f"{path}: nobody makes {name}")

# The hosts and the reset are what the image is, and may no more than they need.
hosts, reset = named("StatefulSet", "courtside")["spec"], named("Job", "courtside-reset")["spec"]
container = hosts["template"]["spec"]["containers"][0]
command = reset["template"]["spec"]["containers"][0]
user = re.search(r"^USER (\d+):\d+$", pathlib.Path("deploy/Dockerfile").read_text(), re.M)[1]
reached = named("NetworkPolicy", "courtside")["spec"]["podSelector"]["matchExpressions"][0]["values"]
for who, template in ("a host", hosts["template"]), ("the reset", reset["template"]):
    pod = template["spec"]
    security, inside = pod["securityContext"], pod["containers"][0]
    check(str(security["runAsUser"]) == user and security["runAsNonRoot"], f"{who} does not run as the user of the image")
    check(security["seccompProfile"]["type"] == "RuntimeDefault", f"{who}: no seccomp profile")
    check(pod["automountServiceAccountToken"] is False, f"{who}: there is a token of Kubernetes")
    check(
        inside["securityContext"]
        == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        f"{who} may do more than is needed",
    )
    mounts = {mount["mountPath"]: mount["name"] for mount in inside["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    check("sizeLimit" in volumes.get(mounts.get("/tmp"), {}).get("emptyDir", {}), f"{who}: there is no bounded /tmp")
    check(template["metadata"]["labels"]["app.kubernetes.io/name"] in reached, f"{who} is not in the network policy")

# The reset asks the brokers as the hosts do, and the command takes its words: it gets
# as far as to say that nobody answers.
for name in "config", "kafka-ca":
    of = lambda spec: [one for one in spec["template"]["spec"]["volumes"] if one["name"] == name]
    check(of(hosts) == of(reset), f"the reset has another {name} than the hosts")
check(all(one in container["env"] for one in command["env"]), "the reset is another user than the hosts")
nowhere = ["--kafka", "127.0.0.1:1", "--set", "kafka.request_timeout=500ms"]
output = subprocess.run([HOST, *command["args"], *nowhere], capture_output=True, text=True)
check("log-unavailable: " in output.stderr, f"the reset says: {output.stderr.strip()}")

# Partitions bound the workers, and are the same wherever an entity has a record
# (which it has not in the topics of the layout and of the plugins).
topics = of_kind("KafkaTopic")
OF_THE_GROUP = (".pipeline", ".plugins")
partitions = {topic["spec"]["partitions"] for topic in topics if not topic["metadata"]["name"].endswith(OF_THE_GROUP)}
check(len(partitions) == 1, f"the topics have different numbers of partitions: {partitions}")
config = FOLDER / "common/courtside.toml"
workers = tomllib.loads(config.read_text())["worker"]["workers"]
scaled = of_kind("ScaledObject")[0]["spec"]
check(scaled["maxReplicaCount"] * workers <= min(partitions), "at the most, there are workers without a partition")
check(scaled["minReplicaCount"] == hosts["replicas"], "with and without KEDA, there are other numbers of hosts")
trigger = scaled["triggers"][0]["metadata"]
names = {topic["spec"].get("topicName", topic["metadata"]["name"]) for topic in topics}
group = trigger["consumerGroup"]
expected = {"NBA-Games", "NBA-Scores", f"{group}.dead-letter", f"{group}.checkpoints", f"{group}.redrive", *(f"{group}{suffix}" for suffix in OF_THE_GROUP)}
check(names == expected, f"the topics are {names}, not {expected}")
check(trigger["topic"] in names, f"KEDA looks at {trigger['topic']}, which is no topic")
in_sync = of_kind("Kafka")[0]["spec"]["kafka"]["config"]["min.insync.replicas"]
check(all(topic["spec"]["replicas"] > in_sync for topic in topics), "no broker may be away")

# The permissions are those that the tests run with.
of_manifest, of_docs = set(granted(named("KafkaUser", "courtside"))), set(documented())
check(of_manifest == of_docs, f"permissions that only the manifest or the docs have: {of_manifest ^ of_docs}")

# The host takes the settings.
variables = {one["name"]: one.get("value", "x") for one in container["env"]}
dump(config, ["--config", config], variables)
services = yaml.safe_load(pathlib.Path("deploy/compose.yaml").read_text())["services"]
instances = []
for name, service in services.items():
    if service["image"] == "courtside":
        dump(f"deploy/compose.yaml: {name}", [], service["environment"])
        instances.append(service["environment"]["COURTSIDE_KAFKA__INSTANCE"])
check(len(set(instances)) == 3, f"three hosts have three names, not {instances}")

# One of them builds the image and copies from it; the others wait for that.
hosts_of_compose = {name: service for name, service in services.items() if service["image"] == "courtside"}
building = [name for name, service in hosts_of_compose.items() if "build" in service]
check(len(building) == 1, f"{building} build the same image at once")
for name, service in hosts_of_compose.items():
    if name in building:
        continue
    check(service["pull_policy"] == "never", f"{name} looks for the image elsewhere")
    check(set(building) < set(service["depends_on"]), f"{name} does not wait for {building} and the brokers")
    copies = [mount for mount in service["volumes"] if str(mount).startswith("plugins:")]
    check(not copies, f"{name} copies the plugins as well")

tell()
by = f"and the definitions in {os.environ['COURTSIDE_TEST_CRDS']}" if crds else "and by what else says the same"
print(f"deploy: compose.yaml and {len(found)} objects are valid, by the schemas of Kubernetes {' and '.join(VERSIONS)} {by}")
