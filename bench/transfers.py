"""What each measured tool does: save a folder, save it again, restore it, in a child process.

`python -m bench.transfers TOOL OPERATION FOLDER ENDPOINT` reports that it is ready, waits for a
line, and prints the seconds that the operation took; imports and the client's set-up are not
counted, since a trainer's process pays for them only once.
"""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BUCKET = "bench"
PART = 8 * 1024 * 1024
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}

Job = Callable[[], None]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def runctl(operation: str, folder: Path, endpoint: str) -> Job:
    """Use the agent's own uploader and restorer, with the agent's client."""
    from runctl.aws.checkpoints import CheckpointStore
    from runctl.aws.clients import Clients, Connection
    from runctl.checkpoint.pinning import pin
    from runctl.checkpoint.restore import Restorer
    from runctl.checkpoint.settling import Snapshot, scan_folder
    from runctl.checkpoint.upload import Uploader
    from runctl.model.checkpoint import Manifest

    gc.freeze()  # like the agent
    gc.set_threshold(50_000, 20, 20)
    os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
    os.environ["AWS_RESPONSE_CHECKSUM_VALIDATION"] = "when_required"
    clients = Clients(
        Connection(region="us-east-1", endpoint_url=endpoint, access_key="b", secret_key="b")
    )
    store = CheckpointStore(clients.get("s3"), bucket=BUCKET, run_id="run")
    uploader = Uploader(store)
    # As an agent knows the steps: no save lists them.
    steps = itertools.count(len(store.manifest_keys()) + 1)

    def save() -> None:
        place = folder.parent / "pins"
        contents: dict[tuple[int, int], bytes] = {}
        view = pin(folder, scan_folder(folder), place, contents=contents)
        take = Snapshot(view, tuple(view), contents=contents)
        uploaded = uploader.upload(take, place, superseded=threading.Event())
        manifest = Manifest(
            run_id="run", step=next(steps), attempt=1, taken_at="now", entries=uploaded.entries
        )
        store.put_manifest(manifest)

    def restore() -> None:
        restorer = Restorer(store, folder.parent / "incoming")
        restorer.put_in_place(restorer.fetch(store.manifest_keys()[0]).manifest, folder)

    if operation == "second save":
        save()  # the agent has made the first one itself, and remembers
    return restore if operation == "restore" else save


def plain_puts(operation: str, folder: Path, endpoint: str) -> Job:
    """Use unsigned, unchecked PUTs and GETs of the same parts over plain sockets, as a bound."""
    host = urlsplit(endpoint).netloc
    local = threading.local()

    def connection() -> HTTPConnection:
        held: HTTPConnection | None = getattr(local, "connection", None)
        if held is None:
            held = local.connection = HTTPConnection(host)
        return held

    def put(path: Path, offset: int, size: int) -> None:
        with path.open("rb") as stream:
            stream.seek(offset)
            body = stream.read(size)
        held = connection()
        held.request("PUT", f"/{BUCKET}/plain/{path.relative_to(folder)}/{offset}", body=body)
        held.getresponse().read()

    def get(path: Path, offset: int) -> None:
        held = connection()
        held.request("GET", f"/{BUCKET}/plain/{path.relative_to(folder)}/{offset}")
        body = held.getresponse().read()
        with path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(body)

    names = (folder.parent / "names").read_text().splitlines() if operation == "restore" else []

    def save() -> None:
        jobs = [
            (path, offset, min(PART, path.stat().st_size - offset))
            for path in files_of(folder)
            for offset in range(0, path.stat().st_size, PART)
        ]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda job: put(*job), jobs))

    def restore() -> None:
        jobs = []
        for line in names:
            name, _, size = line.rpartition(" ")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                stream.truncate(int(size))
            jobs += [(path, offset) for offset in range(0, int(size), PART)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda job: get(*job), jobs))

    return restore if operation == "restore" else save


def boto3_managed(operation: str, folder: Path, endpoint: str) -> Job:
    """Use boto3's own transfer manager, file by file, as many at once as it has threads."""
    return _boto3(operation, folder, endpoint, kind="classic")


def boto3_crt(operation: str, folder: Path, endpoint: str) -> Job:
    """Use boto3's transfer manager on top of awscrt's client."""
    return _boto3(operation, folder, endpoint, kind="crt")


def _boto3(operation: str, folder: Path, endpoint: str, *, kind: str) -> Job:
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    names = (folder.parent / "names").read_text().splitlines() if operation == "restore" else []

    def make_manager() -> Any:
        if kind == "crt":
            return _crt_manager(endpoint)
        client = boto3_client(endpoint)
        config = TransferConfig(preferred_transfer_client="classic", max_concurrency=10)
        return create_transfer_manager(client, config)

    manager = make_manager()

    def run() -> None:
        with manager:
            futures = []
            if operation == "restore":
                for line in names:
                    name = line.rpartition(" ")[0]
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    futures.append(manager.download(BUCKET, f"{kind}/{name}", str(folder / name)))
            else:
                for path in files_of(folder):
                    key = f"{kind}/{path.relative_to(folder)}"
                    futures.append(manager.upload(str(path), BUCKET, key))
            for future in futures:
                future.result()

    return run


def boto3_client(endpoint: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        config=Config(
            max_pool_connections=32,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
        ),
    )


def _crt_manager(endpoint: str) -> Any:
    """Create what boto3 creates with awscrt, which cannot be given another endpoint."""
    import botocore.session
    from s3transfer.crt import (
        BotocoreCRTCredentialsWrapper,
        BotocoreCRTRequestSerializer,
        CRTTransferManager,
        create_s3_crt_client,
    )

    session = botocore.session.Session()
    serializer = BotocoreCRTRequestSerializer(
        session, {"region_name": "us-east-1", "endpoint_url": endpoint}
    )
    provider = BotocoreCRTCredentialsWrapper(
        session.get_credentials()
    ).to_crt_credentials_provider()
    client = create_s3_crt_client("us-east-1", provider, use_ssl=False)
    return CRTTransferManager(client, serializer)


def one_tar(operation: str, folder: Path, endpoint: str) -> Job:
    """Send all files in one tar, created anew for each save, with boto3."""
    client = boto3_client(endpoint)
    client.list_objects_v2(Bucket=BUCKET, Prefix="none")  # as the agent has a connection
    tar = folder.parent / "one.tar"

    def save() -> None:
        subprocess.run(["tar", "-cf", str(tar), "-C", str(folder), "."], check=True)
        client.upload_file(str(tar), BUCKET, "one.tar")

    def restore() -> None:
        client.download_file(BUCKET, "one.tar", str(tar))
        subprocess.run(["tar", "-xf", str(tar), "-C", str(folder)], check=True)

    return restore if operation == "restore" else save


def rclone(operation: str, folder: Path, endpoint: str) -> Job:
    """Use rclone sync, which skips files of the same size and time."""
    remote = f":s3,provider=Other,env_auth=true,region=us-east-1,endpoint='{endpoint}':{BUCKET}/rc"
    options = ["--transfers", "8", "--s3-upload-concurrency", "8", "--s3-chunk-size", "8M"]
    options += ["--s3-disable-checksum", "--s3-no-check-bucket", "--fast-list", "--config", ""]
    pair = [remote, str(folder)] if operation == "restore" else [str(folder), remote]

    def run() -> None:
        subprocess.run(
            ["rclone", "copy", *pair, *options],
            env={**os.environ, **CREDENTIALS},
            check=True,
            capture_output=True,
        )

    return run


def s3torchconnector(operation: str, folder: Path, endpoint: str) -> Job:
    """Use its checkpoint reader and writer, one stream per file, eight at once."""
    from s3torchconnector import S3Checkpoint
    from s3torchconnector._s3client import S3ClientConfig

    checkpoint = S3Checkpoint(
        region="us-east-1", endpoint=endpoint, s3client_config=S3ClientConfig(force_path_style=True)
    )
    names = (folder.parent / "names").read_text().splitlines() if operation == "restore" else []

    def put(path: Path) -> None:
        with (
            path.open("rb") as stream,
            checkpoint.writer(f"s3://{BUCKET}/torch/{path.relative_to(folder)}") as writer,
        ):
            while block := stream.read(PART):
                writer.write(block)

    def get(name: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            reader = checkpoint.reader(f"s3://{BUCKET}/torch/{name}")
            while block := reader.read(PART):
                stream.write(block)

    def run() -> None:
        with ThreadPoolExecutor(8) as pool:
            if operation == "restore":
                list(pool.map(get, [line.rpartition(" ")[0] for line in names]))
            else:
                list(pool.map(put, files_of(folder)))

    return run


TOOLS: dict[str, Callable[[str, Path, str], Job]] = {
    "runctl": runctl,
    "plain parallel PUTs": plain_puts,
    "boto3": boto3_managed,
    "boto3 + awscrt": boto3_crt,
    "one tar of them": one_tar,
    "rclone": rclone,
    "s3torchconnector": s3torchconnector,
}


def main() -> None:
    """Perform one operation with one tool and print its seconds."""
    tool, operation, folder, endpoint = sys.argv[1:]
    os.environ.update(CREDENTIALS)
    job = TOOLS[tool](operation, Path(folder), endpoint)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    job()
    print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
