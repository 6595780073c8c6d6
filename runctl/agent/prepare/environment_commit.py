"""The commit of a new environment to the store, by a process of its own beside the trainer.

It may be killed at any moment: parts are stored first, the manifest after them, and the marker that
new runs follow last. The next commit sends only the parts that are missing.
"""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from runctl.agent.prepare.built_files import READY, BuiltFiles, group_of
from runctl.agent.prepare.installed import installed_versions
from runctl.agent.runtime.trainer_user import COMPILER
from runctl.aws.clients import Clients
from runctl.aws.environments import EnvironmentStore, RunGeneration
from runctl.aws.instance_access import open_access
from runctl.beneath.changes import rewrite
from runctl.beneath.folder import Folder
from runctl.beneath.paths import open_folder
from runctl.checkpoint.settling import ChangedError, Snapshot
from runctl.checkpoint.upload import Uploaded, Uploader
from runctl.model.checkpoint import Manifest
from runctl.model.errors import RunctlError
from runctl.model.stored_environment import StoredEnvironment

# Enough for the bandwidth of one machine, and so few that the trainer's own requests go on.
THREADS = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CommitJob:
    """What is to be stored, for which run, and where.

    `built_ns` is the time of the last change by the build. If it `is_guarded`, programs run as a
    user that cannot change it, and neither can they change how it is compiled. Without an `area`
    it is stored for all runs.
    """

    run_id: str
    generation: int
    fingerprint: str
    source: str
    target: str
    scratch: str
    python: str
    built_ns: int
    bucket: str
    region: str
    is_guarded: bool = False
    area: str = ""

    @property
    def run(self) -> RunGeneration:
        """The run, as the store knows it."""
        return RunGeneration(run_id=self.run_id, generation=self.generation)


def commit(store: EnvironmentStore, job: CommitJob) -> str:
    """Store an environment; return what was done, in words.

    Raises CheckpointError if it was changed since it was built, and whatever the store raises.
    """
    if store.current(job.fingerprint) is not None:
        return "another machine has stored the same environment"
    began = time.monotonic()
    scratch = Path(job.scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    folder = Folder(open_folder(Path(job.target)), job.target)
    try:
        files = BuiltFiles(folder, scratch, built_ns=job.built_ns)
        uploader = Uploader(store, threads=THREADS, group_of=group_of)

        def upload() -> Uploaded:
            snapshot = Snapshot(dict(files.view), tuple(files.view))
            return uploader.upload_from(files.open, snapshot, superseded=threading.Event())

        # What takes the longest to send comes first; compiling takes long beside a busy trainer.
        files.scan()
        installed = upload()
        files.compile(Path(job.python), COMPILER if job.is_guarded else None)
        uploaded = upload()
    except (ChangedError, FileNotFoundError) as exc:
        return f"it is not stored: {exc}"
    finally:
        folder.close()
        shutil.rmtree(scratch, ignore_errors=True)
    # Without a time or a name of the run: the same files have the same manifest.
    manifest = Manifest(run_id="", step=None, attempt=0, taken_at="", entries=uploaded.entries)
    digest = _name(store, job, manifest)
    rewrite(Path(job.target) / READY, digest.encode())
    new_bytes = installed.new_bytes + uploaded.new_bytes
    return (
        f"stored {manifest.size_bytes:,} bytes in {len(manifest.entries):,} files, "
        f"{new_bytes:,} of them new, in {time.monotonic() - began:.1f} s"
    )


def _name(store: EnvironmentStore, job: CommitJob, manifest: Manifest) -> str:
    """Store the manifest and what refers to it; return its digest."""
    digest = store.put_manifest(job.fingerprint, manifest)
    versions = installed_versions(Path(job.target), attempt=0)
    now = datetime.now(timezone.utc)
    stored = StoredEnvironment(
        manifest=digest,
        source=job.source,
        size_bytes=manifest.size_bytes,
        python=versions.python,
        platform=versions.platform,
        packages=tuple((package.name, package.version) for package in versions.packages),
        stored_at=now.isoformat(timespec="seconds"),
    )
    store.make_current(job.fingerprint, stored)
    store.record_use_by(job.run, job.fingerprint, digest)
    store.note_use(job.fingerprint, now.date())
    return digest


def main(
    document: Mapping[str, Any], *, clients: Callable[[], Clients] = lambda: open_access().clients()
) -> int:
    """Commit what the agent has written to this process; the last line says what was done."""
    _step_back(document["niceness"])
    _end_with_the_agent()
    job = CommitJob(**document["job"])
    try:
        store = EnvironmentStore(clients().get("s3"), bucket=job.bucket, area=job.area)
        print(json.dumps(commit(store, job)), flush=True)
    except (RunctlError, OSError) as exc:
        print(json.dumps(f"it could not be stored: {exc}"), flush=True)
        return 1
    return 0


def _step_back(niceness: int) -> None:
    """Let the trainer go first also where the kernel schedules sessions and not processes."""
    try:
        Path("/proc/self/autogroup").write_text(str(niceness))
    except OSError:
        return  # a kernel without it


def _end_with_the_agent() -> None:
    agent = os.getppid()

    def watch() -> None:
        while os.getppid() == agent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
