"""The user's code: a packed project, or one script by its s3:// URI."""

import hashlib
import logging
import re
from pathlib import Path

from runctl.agent.instance.archive import CODE, read_header, unpack
from runctl.agent.ports import Blobs
from runctl.beneath.changes import clear
from runctl.model.errors import (
    NotFoundError,
    RefusedError,
    RequestError,
    TransientError,
    UnexpectedAwsError,
)
from runctl.model.left_out import PAX_KEY, explain_failure, read_note
from runctl.model.request import RunRequest
from runctl.model.s3_uri import split_s3_uri

PACKED = re.compile(r"code/([0-9a-f]{64})\.tar\.gz")

logger = logging.getLogger(__name__)


def fetch_code(blobs: Blobs, request: RunRequest, project: Path) -> str:
    """Put the code into an empty `project`; return the script's path in it, or an empty text.

    Raises RequestError if waiting cannot help.
    """
    clear(project)
    note_path(project).unlink(missing_ok=True)
    archive = project.with_name("code.tar.gz")
    fetched: list[Path] = []
    if request.program.code:
        if not _is_kept(archive, request.program.code):
            _download(blobs, request.program.code, archive)
        unpack(archive, project)
        note = read_header(archive, PAX_KEY)
        note_path(project).write_text(note, encoding="utf-8", errors="replace")
        fetched.append(archive)
    script = request.program.script
    if script.startswith("s3://"):
        script = script.rpartition("/")[2]
        _download(blobs, request.program.script, project / script)
        fetched.append(project / script)
    if request.gang.is_gang:
        digests = " ".join(map(_digest_of, fetched))
        _digest_path(project).write_text(hashlib.sha256(digests.encode()).hexdigest())
    # The next run of a group mostly has the same code, and the next attempt of a gang always.
    if request.program.code and not (request.group or request.gang.is_gang):
        archive.unlink()
    if script and not (project / script).is_file():
        raise RequestError(f"script: {script!r} is not in the code archive {request.program.code}")
    return script


def _is_kept(archive: Path, uri: str) -> bool:
    """Whether an earlier run on this instance has left the archive, whole and unchanged."""
    expected = PACKED.search(uri)
    if expected is None or archive.is_symlink() or not archive.is_file():
        return False
    return _digest_of(archive) == expected[1]


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _digest_path(project: Path) -> Path:
    return project.with_name("code.sha256")


def read_digest(project: Path) -> str:
    """Return the digest of the code as it was fetched last; empty if it is not known."""
    try:
        return _digest_path(project).read_text()
    except OSError:
        return ""


def note_path(project: Path) -> Path:
    """Return where the list of what the package left out is kept, outside of the project."""
    return project.with_name("left-out.json")


def explain_missing_file(words: str, project: Path) -> str:
    """Explain last words that complain about a file that the package left out, or return ''."""
    try:
        note = note_path(project).read_text(encoding="utf-8")
    except OSError:
        return ""
    return explain_failure(words, read_note(note), project=str(project))


def _download(blobs: Blobs, uri: str, path: Path) -> None:
    bucket, key = split_s3_uri(uri)
    digest = hashlib.sha256()
    try:
        with blobs.open(key, bucket=bucket) as blob:
            CODE.check_packed(blob.size_bytes)
            with path.open("wb") as stream:
                for chunk in blob.chunks:
                    digest.update(chunk)
                    stream.write(chunk)
    except (NotFoundError, RefusedError) as exc:
        raise RequestError(f"{uri} does not exist or may not be read by the instance") from exc
    except UnexpectedAwsError as exc:
        raise RequestError(f"{uri} cannot be read: {exc}") from exc
    expected = PACKED.search(key)
    if expected and digest.hexdigest() != expected[1]:
        raise TransientError(f"checksum mismatch for {uri}")
