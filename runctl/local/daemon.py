"""The processes of local clouds, each with a folder: started, found and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import runctl
from runctl.local.core import keys, private
from runctl.local.core.keys import Keys
from runctl.model.errors import RunctlError

_START_LIMIT = timedelta(seconds=60)
_STOP_TIMEOUT = timedelta(seconds=20)
_LOG_TAIL = 2000
_HOME_VARIABLE = "RUNCTL_LOCAL_HOME"


class LocalCloudStartError(RunctlError):
    """The local cloud did not start; the message ends with the tail of its log."""


@dataclass(frozen=True)
class Endpoint:
    """A running local cloud."""

    url: str
    pid: int
    region: str
    account: str
    home: Path
    keys: Keys

    def environment(self) -> dict[str, str]:
        """Return the variables with which any AWS tool uses this local cloud as administrator."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.keys.secret_access_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def default_home() -> Path:
    """Return the folder of the local cloud that the command line uses."""
    named = os.environ.get(_HOME_VARIABLE)
    return Path(named) if named else Path.home() / ".local/state/runctl/local"


def find(home: Path | None = None) -> Endpoint | None:
    """Return the local cloud that is running in a folder, or None."""
    home = (home or default_home()).absolute()
    try:
        found = json.loads((home / "endpoint.json").read_text())
        private.check(home)  # another user's folder would lead to another user's server
        own_keys = keys.load(home)
    except (FileNotFoundError, PermissionError, json.JSONDecodeError):
        return None
    if not _is_running(found["pid"], home):
        return None
    return Endpoint(
        url=found["endpoint"],
        pid=found["pid"],
        region=found["region"],
        account=found["account"],
        home=home,
        keys=own_keys,
    )


def find_by_url(url: str) -> Endpoint | None:
    """Return the local cloud of this user that serves a URL, in any folder, or None."""
    for home in (default_home(), *_homes_of_servers()):
        with contextlib.suppress(private.FolderNotPrivateError):
            endpoint = find(home)
            if endpoint is not None and endpoint.url == url.rstrip("/"):
                return endpoint
    return None


def _homes_of_servers() -> Iterator[Path]:
    """Yield the folders of the local clouds that this user runs."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if process.stat().st_uid != os.geteuid():
                continue
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if b"runctl.local.server" in words and b"--home" in words:
            yield Path(os.fsdecode(words[words.index(b"--home") + 1]))


def start(
    home: Path | None = None,
    *,
    port: int = 0,
    die_with_parent: bool = False,
    own_disks: bool = False,
    disk_bytes: int = 0,
    own_paths: bool = True,
    own_networks: bool = False,
    own_user: bool | None = None,
    shared_folders: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
) -> Endpoint:
    """Start a local cloud in a folder and wait until it serves; keep one that is running there.

    Raises LocalCloudStartError also if a running one cannot be given the settings, and
    FolderNotPrivateError if other users could read or change the folder.

    Port 0 takes a free one. With `die_with_parent` it ends with the thread that calls this, so
    that a killed test run leaves nothing. With `own_disks` it enters a mount namespace of its own,
    so that instances can have disks of a size: `disk_bytes`, or the knob of that name. Instances
    have their own state folder and /tmp where the machine permits it, unless `own_paths` is off;
    below /tmp they see only the `shared_folders`. With `own_networks`, each instance has a network
    namespace, which needs root and `ip`: otherwise they share the machine's loopback, and the log
    says so. Programs run as a user of their own where that is possible, which needs root: otherwise
    they run as this one, and health and log say why. `own_user` demands it (LocalCloudStartError
    where it is not possible) or turns it off. `environment` adds variables for ministack, such as
    SFN_WAIT_SCALE. Each parameter is a setting of its own.
    """
    home = (home or default_home()).absolute()
    if running := find(home):
        _check_no_settings(
            home,
            own_disks=own_disks,
            disk_bytes=disk_bytes,
            own_paths=not own_paths,
            own_networks=own_networks,
            own_user=own_user is not None,
            shared_folders=shared_folders,
            environment=environment,
        )
        return running
    private.make_folder(home)
    (home / "endpoint.json").unlink(missing_ok=True)
    private.make_folder(home / "tmp")
    arguments = ["--port", str(port)]
    if die_with_parent:
        arguments += ["--parent", str(os.getpid())]
    if own_disks or disk_bytes:
        arguments += ["--own-disks", "--disk-bytes", str(disk_bytes)]
    if not own_paths:
        arguments += ["--shared-paths"]
    if own_networks:
        arguments += ["--own-networks"]
    if own_user is not None:
        arguments += ["--own-user" if own_user else "--no-own-user"]
    for folder in shared_folders:
        arguments += ["--shared-folder", str(folder.absolute())]
    return _start_server(home, arguments, environment or {})


def _check_no_settings(home: Path, **settings: object) -> None:
    if given := [name for name, value in settings.items() if value]:
        raise LocalCloudStartError(
            f"a local cloud is already running in {home}, to which {', '.join(given)} cannot be "
            "applied; stop it first"
        )


def _start_server(home: Path, arguments: list[str], environment: Mapping[str, str]) -> Endpoint:
    log = home / "cloud.log"
    with private.append(log) as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "runctl.local.server", "--home", str(home), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=home,
            env=_clean_environment(home) | dict(environment),
        )
    deadline = time.monotonic() + _START_LIMIT.total_seconds()
    while time.monotonic() < deadline:
        if endpoint := find(home):
            process.returncode = process.poll() or 0  # it outlives this object on purpose
            return endpoint
        if process.poll():
            break
        time.sleep(0.03)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()
    tail = log.read_text(errors="replace")[-_LOG_TAIL:]
    raise LocalCloudStartError(f"the local cloud in {home} did not start:\n{tail}")


def stop(home: Path | None = None) -> bool:
    """End a local cloud and all its instances, and remove their files; return whether it ran."""
    home = (home or default_home()).absolute()
    endpoint = find(home)
    if endpoint:
        _end(endpoint.pid, home)
    (home / "endpoint.json").unlink(missing_ok=True)
    keys.remove(home)
    for leftover in ("instances", "builds", "s3", "tmp", "lambda-runtime"):
        shutil.rmtree(home / leftover, ignore_errors=True)
    return endpoint is not None


def _end(pid: int, home: Path) -> None:
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT.total_seconds()
    while _is_running(pid, home):
        if time.monotonic() > deadline:
            # Its instances notice that it has ended, and end as well.
            os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def _is_running(pid: int, home: Path) -> bool:
    """Whether the process is this local cloud; its id may belong to another by now."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and b"runctl.local.server" in words and str(home).encode() in words


def _clean_environment(home: Path) -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    package_root = str(Path(runctl.__file__).parents[1])
    return {
        **kept,
        "PYTHONPATH": package_root,
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(home / "tmp"),
    }
