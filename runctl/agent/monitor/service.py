"""The commands `runctl-agent find-trainer` and `monitor`."""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runctl.agent.instance.imds import Metadata
from runctl.agent.instance.paths import Paths
from runctl.agent.instance.reader import Reader, become, prepare_place, reader_of
from runctl.agent.monitor.find_trainer import (
    Process,
    as_settings,
    find_folder,
    find_trainer,
    is_alive,
)
from runctl.agent.monitor.monitor import Monitor, Watched
from runctl.agent.monitor.plain_store import PlainStore
from runctl.aws.blobs import Blobs
from runctl.aws.clients import Clients, Connection
from runctl.aws.instance_identity import InstanceRole
from runctl.model.errors import NotFoundError, RequestError, RunctlError, TransientError


def run(command: str, paths: Paths, environ: Mapping[str, str] = os.environ) -> int:
    """Run a command; return the exit status."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        return _find(environ) if command == "find-trainer" else _monitor(paths, environ)
    except RunctlError as exc:
        print(exc, file=sys.stderr)
        return 1


def _find(environ: Mapping[str, str]) -> int:
    """Print the settings of the monitor, after checking that it will be able to work."""
    process = find_trainer(
        pid=int(environ.get("MONITOR_PID") or 0), root=environ.get("RUNCTL_ROOT", "")
    )
    folder = find_folder(process, given=environ.get("MONITOR_DIR", ""))
    reader = reader_of(process.pid, folder)
    if not is_alive(process):  # its pid may belong to another process by now
        raise NotFoundError(f"the process {process.pid} has ended")
    settings = as_settings(process, folder, environ, reader=reader)
    store = _store(environ)
    become(reader)
    _check_readable(folder, reader)
    try:
        store.probe()
    except TransientError as exc:
        print(f"S3 cannot be reached: {exc}", file=sys.stderr)
        return 1
    except RunctlError as exc:
        print(
            f"the role of this instance lacks s3:PutObject on {environ['MONITOR_URI']}, or the "
            f"bucket does not exist: {exc}; grant it s3:PutObject, s3:GetObject and "
            "s3:DeleteObject there, and s3:ListBucket on the bucket",
            file=sys.stderr,
        )
        return 1
    sys.stdout.write(settings)
    return 0


def _check_readable(folder: Path, reader: Reader) -> None:
    try:
        with os.scandir(folder):
            return
    except OSError as exc:
        raise RequestError(
            f"--checkpoint-dir: user {reader.uid} cannot read {folder}: {exc.strerror}; grant that "
            "user access"
        ) from exc


def _monitor(paths: Paths, environ: Mapping[str, str]) -> int:
    process = Process(
        pid=int(environ["MONITOR_PID"]), born=int(environ["MONITOR_BORN"]), parent=0, command=""
    )
    folder = Path(environ["MONITOR_DIR"])
    stored = environ.get("MONITOR_READER", "")  # an older version does not write it
    reader = Reader.parse(stored) if stored else reader_of(process.pid, folder)
    pins = prepare_place(paths.root / "var/lib/runctl-monitor", reader)
    store = _store(environ)
    signal.signal(signal.SIGTERM, _exit)
    become(reader)
    watched = Watched(
        process=process,
        folder=folder,
        ends_it=environ["MONITOR_SIGTERM"] == "yes",
    )
    Monitor(watched, store, Metadata(), pins=pins).watch()
    return 0


def _exit(_number: int, _frame: Any) -> None:
    raise SystemExit(0)


def _store(environ: Mapping[str, str]) -> PlainStore:
    bucket, _, prefix = environ["MONITOR_URI"].removeprefix("s3://").partition("/")
    # The prefix is the user's own, and so is the role that may write there.
    clients = Clients(
        Connection(region=environ["RUNCTL_REGION"], credentials=InstanceRole()), attempts=4
    )
    return PlainStore(Blobs(clients.get("s3"), bucket=bucket), bucket=bucket, prefix=prefix)
