"""Instances have networks of their own, which can be cut, and of which nothing remains."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runctl.local import daemon
from runctl.local.client import LocalCloudClient, LocalCloudError
from runctl.local.guest import permitted
from tests.local.clouds import Cloud, eventually

pytestmark = pytest.mark.slow
needs_networks = pytest.mark.skipif(
    bool(permitted.why_shared_paths(Path("/var/tmp")) or permitted.why_shared_network("")),
    reason="this machine permits no network namespaces",
)

# Each instance answers on a port with its name, and asks whichever address stands in a file; both
# do so until the instance ends, and write what happens below their root.
TALK = """#!/bin/sh
cat > "$RUNCTL_ROOT/talk.py" <<'END'
import json, os, pathlib, socket, socketserver, threading, time, urllib.request
root = pathlib.Path(os.environ["RUNCTL_ROOT"])
base = os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"]
endpoint = os.environ["AWS_ENDPOINT_URL"]

def fetch(url, **options):
    request = urllib.request.Request(url, **options)
    with urllib.request.urlopen(request, timeout=2) as answer:
        return answer.read().decode()

def metadata(path):
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = fetch(f"{base}/latest/api/token", method="PUT", headers=headers)
    return fetch(f"{base}/latest/meta-data/{path}", headers={"X-aws-ec2-metadata-token": token})

def attempt(act):
    try:
        return act()
    except urllib.error.HTTPError as exc:
        return f"HTTP {exc.code}"
    except OSError as exc:
        return f"no answer ({exc})"

address = metadata("local-ipv4")

class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(address.encode())

server = socketserver.ThreadingTCPServer((address, 7000), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()

def ask_peer():
    with socket.create_connection(((root / "peer").read_text(), 7000), timeout=0.5) as connection:
        return connection.recv(100).decode()

while True:
    found = {
        "address": attempt(lambda: metadata("local-ipv4")),
        "name": socket.gethostbyname(socket.gethostname()),
        "endpoint": attempt(lambda: fetch(endpoint)),
        "peer": attempt(ask_peer) if (root / "peer").exists() else "",
        "outside": attempt(lambda: fetch("http://192.0.2.1/")),
    }
    (root / "found.new").write_text(json.dumps(found))
    (root / "found.new").rename(root / "found.json")
    time.sleep(0.05)
END
exec python3 "$RUNCTL_ROOT/talk.py"
"""


@pytest.fixture(scope="module")
def networked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    home = tmp_path_factory.mktemp("networked")
    endpoint = daemon.start(home, die_with_parent=True, own_networks=True)
    try:
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
        cloud.admin.set_knobs(boot_delay=0.05, agent_delay=0.05, shutdown_grace=0)
        yield cloud
    finally:
        daemon.stop(home)


def start_two(cloud: Cloud) -> tuple[str, str]:
    """Launch two instances that ask each other."""
    one, other = cloud.launch(TALK), cloud.launch(TALK)
    for asking, asked in ((one, other), (other, one)):
        heard(cloud, asking, lambda found: bool(found["name"]))
        peer = cloud.root(asking) / "peer"
        peer.write_text(cloud.admin.instance(asked)["reachable_ip"])
    return one, other


def heard(
    cloud: Cloud, instance_id: str, is_so: Callable[[dict[str, str]], bool]
) -> dict[str, str]:
    """Wait until an instance has found that something is so."""

    def check() -> dict[str, str] | None:
        path = cloud.root(instance_id) / "found.json"
        if not path.exists():
            return None
        found: dict[str, str] = json.loads(path.read_text())
        return found if is_so(found) else None

    found: dict[str, str] = eventually(check)
    return found


def namespace_of(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def namespace_of_instance(cloud: Cloud, instance_id: str) -> str:
    """Return the network namespace of an instance, which its first process enters at once."""
    cloud.admin.wait_for_state(instance_id, "running")
    pid = cloud.admin.instance(instance_id)["supervisor_pid"]
    eventually(lambda: namespace_of(pid) != namespace_of(os.getpid()))
    return namespace_of(pid)


def users_of(namespace: str) -> list[str]:
    """List the processes that are in a network namespace, and the descriptors of it."""
    found = []
    for link in [*Path("/proc").glob("[0-9]*/ns/net"), *Path("/proc").glob("[0-9]*/fd/*")]:
        try:
            if str(link.readlink()) == namespace:
                found.append(str(link))
        except OSError:
            continue  # it has ended
    return found


@needs_networks
def test_instances_have_their_own_addresses_and_reach_aws_and_each_other(networked: Cloud) -> None:
    one, other = start_two(networked)
    addresses = {}
    for instance_id in (one, other):
        found = heard(networked, instance_id, lambda found: bool(found["peer"]))
        described = networked.describe(instance_id)
        assert found["address"] == found["name"] == described["PrivateIpAddress"]
        assert found["endpoint"] == "HTTP 403"  # the guard answers: nothing is signed
        assert "no answer" in found["outside"]
        addresses[instance_id] = (found["address"], found["peer"])
    assert addresses[one] == addresses[other][::-1]
    assert addresses[one][0] != addresses[other][0]


@needs_networks
def test_a_network_that_is_cut_reaches_nobody_until_it_is_restored(networked: Cloud) -> None:
    one, other = start_two(networked)
    heard(networked, other, lambda found: found["peer"].startswith("1"))
    networked.admin.cut_network(one)
    for instance_id in (one, other):
        heard(networked, instance_id, lambda found: "no answer" in found["peer"])
    alone = heard(networked, one, lambda found: "no answer" in found["endpoint"])
    assert alone["address"] == networked.admin.instance(one)["reachable_ip"]  # as on EC2
    networked.admin.restore_network(one)
    for instance_id in (one, other):
        heard(networked, instance_id, lambda found: found["peer"].startswith("1"))
    heard(networked, one, lambda found: found["endpoint"] == "HTTP 403")


@needs_networks
def test_a_network_ends_with_its_instance(networked: Cloud) -> None:
    instance_id = networked.launch("#!/bin/sh\nsetsid sleep 1000 &\nsleep 1000\n")
    namespace = namespace_of_instance(networked, instance_id)
    assert users_of(namespace)
    networked.admin.interrupt(instance_id, notice=False)
    networked.admin.wait_for_state(instance_id, "terminated")
    assert users_of(namespace) == []
    with pytest.raises(LocalCloudError, match="no network of its own"):
        networked.admin.cut_network(instance_id)


@needs_networks
def test_nothing_is_left_of_a_local_cloud_that_was_killed(tmp_path: Path) -> None:
    machine = (namespace_of(os.getpid()), sorted(Path("/sys/class/net").iterdir()))
    endpoint = daemon.start(tmp_path, die_with_parent=True, own_networks=True)
    try:
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
        instance_id = cloud.launch("#!/bin/sh\nsetsid sleep 1000 &\nsleep 1000\n")
        namespace = namespace_of_instance(cloud, instance_id)
        held = [str(link) for link in Path(f"/proc/{endpoint.pid}/fd").iterdir()]
        of_cloud = {str(Path(link).readlink()) for link in held if os.path.lexists(link)}
        namespaces = {name for name in of_cloud if name.startswith("net:")}
        assert namespace in namespaces
        assert len(namespaces) == 2  # the bridge's, too
        os.kill(endpoint.pid, signal.SIGKILL)
        eventually(lambda: not any(map(users_of, namespaces)))
    finally:
        daemon.stop(tmp_path)
    assert (namespace_of(os.getpid()), sorted(Path("/sys/class/net").iterdir())) == machine
    assert not any(name in Path("/proc/self/mountinfo").read_text() for name in namespaces)


def test_instances_share_the_loopback_unless_they_have_networks(cloud: Cloud) -> None:
    one, other = start_two(cloud)
    for instance_id in (one, other):
        found = heard(cloud, instance_id, lambda found: found["peer"].startswith("127."))
        assert found["address"] == cloud.admin.instance(instance_id)["reachable_ip"]
        assert found["address"] != found["peer"]
        with pytest.raises(LocalCloudError, match="set the knob own_networks"):
            cloud.admin.cut_network(instance_id)


def test_the_reason_for_a_shared_network_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        assert "denied" in permitted.why_shared_network("denied")
        monkeypatch.setattr(permitted.network_namespaces, "find_tool", lambda: None)
        assert "apt-get install iproute2" in permitted.why_shared_network("")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert permitted.why_shared_network("") == "only root can create them"
