"""Attempts by another user of this machine, all of which fail."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.utils import InstanceMetadataFetcher

from runctl.agent.instance.imds import Metadata
from runctl.local import daemon
from runctl.local.client import LocalCloudClient, LocalCloudError
from runctl.local.core import keys, peers
from runctl.local.core.private import FolderNotPrivateError
from tests.local.clouds import Cloud, eventually, open_to_others, packed, unique
from tests.local.strangers import (
    NOBODY,
    needs_another_user,
    request,
    run_as_stranger,
    send_as_stranger,
)

pytestmark = pytest.mark.slow

CODE = "import os\ndef handler(event, context):\n    return os.getuid()\n"


def port_of(cloud: Cloud) -> int:
    port = urlsplit(cloud.endpoint.url).port
    assert port
    return port


def signed(
    cloud: Cloud, service: str, method: str, path: str, body: str, own: Credentials
) -> dict[str, str]:
    """Return the headers of a request that is signed with these credentials."""
    made = AWSRequest(method, f"{cloud.endpoint.url}{path}", {"Host": host_of(cloud)}, body)
    SigV4Auth(own, service, "us-east-1").add_auth(made)
    return dict(made.headers)


def host_of(cloud: Cloud) -> str:
    return f"127.0.0.1:{port_of(cloud)}"


def new_function() -> str:
    return json.dumps(
        {
            "FunctionName": "planted",
            "Runtime": "python3.12",
            "Handler": "main.handler",
            "Role": "arn:aws:iam::000000000000:role/any",
            "Code": {"ZipFile": base64.b64encode(packed(CODE)).decode()},
        }
    )


@needs_another_user
def test_another_user_cannot_create_or_invoke_a_function(cloud: Cloud) -> None:
    port, body = port_of(cloud), new_function()
    victim = cloud.function(CODE).rpartition(":")[2]
    create, invoke = "/2015-03-31/functions", f"/2015-03-31/functions/{victim}/invocations"
    scope = "20261129/us-east-1/lambda/aws4_request"
    unverified = (
        f"AWS4-HMAC-SHA256 Credential=test/{scope}, SignedHeaders=host, Signature={'0' * 64}"
    )
    attempts = []
    for path, data in ((create, body), (invoke, "{}")):
        attempts.append(request(port, "POST", path, body=data))
        attempts.append(
            request(port, "POST", path, body=data, headers={"Authorization": unverified})
        )
        for key in ("test", "000000000000", "AKIAIOSFODNN7EXAMPLE"):
            headers = signed(cloud, "lambda", "POST", path, data, Credentials(key, "test"))
            attempts.append(request(port, "POST", path, body=data, headers=headers))
    answers = send_as_stranger(*attempts)
    assert {status for status, _ in answers} <= {400, 403}, answers
    assert "MissingAuthenticationToken" in answers[0][1]
    assert all("UnrecognizedClientException" in body for _, body in answers[2:5]), answers
    functions = cloud.client("lambda").list_functions()["Functions"]
    assert "planted" not in [function["FunctionName"] for function in functions]


@needs_another_user
def test_another_user_cannot_set_a_knob(cloud: Cloud) -> None:
    before = cloud.admin.knobs()
    planted = json.dumps({"environment": {"BASH_ENV": "/tmp/planted"}})
    port = port_of(cloud)
    attempts = [
        request(port, "POST", f"/_runctl/{path}", body=planted, headers=headers)
        for path in ("knobs", "reset", "enforce", "event")
        for headers in (
            {},
            {"Content-Type": "text/plain"},
            {keys.HEADER: ""},
            {keys.HEADER: "guessed"},
            {keys.HEADER: cloud.endpoint.keys.admin[:-1]},
        )
    ]
    attempts += [request(port, "GET", f"/_runctl/{path}") for path in ("health", "instances")]
    answers = send_as_stranger(*attempts)
    assert {status for status, _ in answers} == {401}, answers
    assert cloud.admin.knobs() == before
    assert not cloud.admin.health()["enforced"]


@needs_another_user
def test_another_user_does_not_reach_the_pages_of_the_emulator(cloud: Cloud) -> None:
    bucket = unique("kept")
    cloud.client("s3").create_bucket(Bucket=bucket)
    port = port_of(cloud)
    attempts = [
        request(port, "POST", "/_ministack/reset", body="{}"),
        request(port, "GET", "/_ministack/config"),
        request(port, "GET", "/_localstack/health"),
        request(port, "GET", "/_ministack/lambda-code/planted"),
        request(port, "GET", "/"),
        request(port, "GET", f"/{bucket}"),
    ]
    answers = send_as_stranger(*attempts)
    assert {status for status, _ in answers} == {403}, answers
    assert cloud.client("s3").list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@needs_another_user
def test_another_user_cannot_read_the_files(cloud: Cloud) -> None:
    reader = """
for name in ("", "endpoint.json", "keys.json", "cloud.log", "tmp", "instances"):
    path = os.path.join(sys.argv[1], name)
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).read()
    except OSError as exc:
        print(type(exc).__name__)
    else:
        print("read", path)
"""
    # The parent folder belongs to the test; the local cloud is protected by its own folder.
    for parent in cloud.endpoint.home.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    printed = run_as_stranger(reader, str(cloud.endpoint.home)).split()
    assert printed == ["PermissionError"] * 6


@needs_another_user
def test_another_user_gets_no_credentials_from_the_metadata_service(cloud: Cloud) -> None:
    role = cloud.role().rpartition("/")[2]
    instance_id = cloud.launch(
        "#!/bin/sh\nsleep 300\n", data={"IamInstanceProfile": {"Name": cloud.profile(role)}}
    )
    cloud.admin.wait_for_state(instance_id, "running")
    # Every user can see which ports are listened on.
    ports = [
        int(line.split()[1].rpartition(":")[2], 16)
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    metadata = urlsplit(cloud.admin.instance(instance_id)["metadata_url"])
    assert metadata.port in ports
    guessed = f"/{'A' * 43}"
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    path = f"/latest/meta-data/iam/security-credentials/{role}"
    answers = send_as_stranger(
        *(
            request(metadata.port, "PUT", f"{at}/latest/api/token", headers=ttl)
            for at in ("", guessed)
        ),
        *(request(metadata.port, "GET", f"{at}{path}") for at in ("", "/", guessed)),
        request(metadata.port, "GET", "/latest/user-data"),
    )
    assert answers == [(403, "")] * 6
    # Everybody sees the arguments of a process, such as curl's. A user who knows the path is
    # refused, too.
    known = [request(metadata.port, "PUT", f"{metadata.path}/latest/api/token", headers=ttl)]
    assert send_as_stranger(*known) == [(403, "")]


def test_owner_reads_the_metadata_with_botocore_and_the_agents_client(cloud: Cloud) -> None:
    role = cloud.role().rpartition("/")[2]
    instance_id = cloud.launch(data={"IamInstanceProfile": {"Name": cloud.profile(role)}})
    cloud.admin.wait_for_state(instance_id, "running")
    url = cloud.admin.instance(instance_id)["metadata_url"]
    assert Metadata(url).get("instance-id") == instance_id
    fetcher = InstanceMetadataFetcher(
        env={"AWS_EC2_METADATA_SERVICE_ENDPOINT": url},
        config={"ec2_metadata_service_endpoint": url},
    )
    got = fetcher.retrieve_iam_role_credentials()
    assert got["role_name"] == role
    keys = {
        "aws_access_key_id": got["access_key"],
        "aws_secret_access_key": got["secret_key"],
        "aws_session_token": got["token"],
    }
    assert cloud.client("sts", **keys).get_caller_identity()["Arn"].endswith(instance_id)


def test_connection_whose_other_end_is_closed_counts_as_foreign() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, peer = server.accept()
        with accepted:
            assert peers.is_own(peer, accepted.getsockname())
            assert not peers.is_own(peer, ("127.0.0.1", 1))
            client.close()
            assert not peers.is_own(peer, accepted.getsockname())


def test_every_listener_requires_a_key(cloud: Cloud) -> None:
    script = "systemctl daemon-reload && touch $RUNCTL_ROOT/told"
    instance_id = cloud.launch(f"#!/bin/sh\n{script}\nsleep 300\n")
    eventually((cloud.root(instance_id) / "told").exists)
    created = cloud.client("ecr").create_repository(repositoryName=unique("app"))
    repository = created["repository"]
    processes = psutil.Process(cloud.endpoint.pid)
    pids = {processes.pid, *(child.pid for child in processes.children(recursive=True))}
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:"):
                inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    metadata = {
        urlsplit(instance["metadata_url"]).port
        for instance in cloud.admin.instances()
        if instance["state"] == "running"
    }
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                address, _, port = words[1].partition(":")
                listening.add((address, int(port, 16)))
    loopback = f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}"
    # It asks for passwords: tests/local/test_ecr.py.
    registry = int(repository["repositoryUri"].partition("/")[0].rpartition(":")[2])
    expected = {port_of(cloud), registry, *metadata}
    assert listening == {(loopback, port) for port in expected}
    for table in ("udp", "udp6", "raw", "raw6", "packet"):
        lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        assert not [line for line in lines if inodes.intersection(line.split())]
    accepting = [
        words
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]
        if (words := line.split())[6] in inodes and int(words[3], 16) & 0x10000
    ]
    assert accepting
    for words in accepting:  # a file, in folders that only the owner can enter
        assert not words[7].startswith("@"), words


def test_everything_in_the_folder_is_private_whatever_the_umask(tmp_path: Path) -> None:
    home, before = tmp_path / "cloud", os.umask(0)
    try:
        endpoint = daemon.start(home, die_with_parent=True)
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
        script = "umask > $RUNCTL_ROOT/new; mv $RUNCTL_ROOT/new $RUNCTL_ROOT/umask"
        instance_id = cloud.launch(f"#!/bin/sh\n{script}\nsleep 300\n")
        cloud.client("lambda").invoke(FunctionName=cloud.function(CODE))
        eventually((cloud.root(instance_id) / "umask").exists)
        # On the instance, files have the modes that they have on EC2.
        assert (cloud.root(instance_id) / "umask").read_text().strip() == "0022"
        assert open_to_others(home) == []
    finally:
        os.umask(before)
        daemon.stop(home)
    assert not (home / "keys.json").exists()


def test_folder_of_an_earlier_version_is_made_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    endpoint = daemon.start(tmp_path, die_with_parent=True)
    daemon.stop(tmp_path)
    assert stat.S_IMODE(endpoint.home.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_folder_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(FolderNotPrivateError, match=f"run `chmod 700 {tmp_path}`"):
        daemon.start(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_others_can_replace_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "open" / "cloud"
    home.mkdir(parents=True, mode=0o700)
    home.parent.chmod(0o777)
    with pytest.raises(FolderNotPrivateError, match=f"run `chmod o-w {home.parent}`"):
        daemon.start(home)


@needs_another_user
def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    # It pretends that a local cloud runs there, which would get our keys and code.
    (tmp_path / "endpoint.json").write_text(
        json.dumps({"endpoint": "http://127.0.0.1:1", "pid": 1, "region": "x", "account": "y"})
    )
    for act in (daemon.start, daemon.find):
        with pytest.raises(FolderNotPrivateError, match=f"belongs to user {NOBODY}, not to you"):
            act(tmp_path)


def test_two_local_clouds_have_different_keys(shared_cloud: Cloud, tmp_path: Path) -> None:
    other = daemon.start(tmp_path / "other", die_with_parent=True)
    try:
        ours, theirs = shared_cloud.endpoint.keys, other.keys
        assert ours.admin != theirs.admin
        assert ours.access_key_id != theirs.access_key_id
        assert ours.secret_access_key != theirs.secret_access_key
        with pytest.raises(LocalCloudError, match="X-Runctl-Key: missing or wrong"):
            LocalCloudClient(other.url, key=ours.admin).health()
        # The owner gives only the URL: the key is found.
        assert LocalCloudClient(other.url).health()["ok"]
        assert LocalCloudClient(shared_cloud.endpoint.url).health()["ok"]
    finally:
        daemon.stop(other.home)
    with pytest.raises(LocalCloudError, match="no local cloud of this user serves"):
        LocalCloudClient(other.url)


def test_keys_of_a_function_cannot_be_computed(cloud: Cloud) -> None:
    role = cloud.role()
    function = cloud.function(CODE, role=role)
    cloud.client("lambda").invoke(FunctionName=function)
    # As the emulator would derive them from the names.
    digest = hashlib.sha256(f"{function}:{role}".encode()).hexdigest()
    guessed = cloud.client(
        "sts",
        aws_access_key_id=f"ASIA{digest[:16].upper()}",
        aws_secret_access_key=hashlib.sha256(f"secret:{digest}".encode()).hexdigest(),
        aws_session_token=hashlib.sha256(f"token:{digest}".encode()).hexdigest(),
    )
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        guessed.get_caller_identity()


def test_function_acts_as_its_role_and_does_not_see_the_administrators_keys(cloud: Cloud) -> None:
    role = cloud.role()
    code = """
import boto3, os
def handler(event, context):
    arn = boto3.client("sts").get_caller_identity()["Arn"]
    return [arn, sorted(os.environ.values())]
"""
    answer = cloud.client("lambda").invoke(FunctionName=cloud.function(code, role=role))
    arn, values = json.load(answer["Payload"])
    assert f":assumed-role/{role.rpartition('/')[2]}/" in arn
    own = cloud.endpoint.keys
    assert not {own.admin, own.access_key_id, own.secret_access_key}.intersection(values)
