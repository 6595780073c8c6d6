"""Facts about an image that only a container of it shows: its user's numbers, its Python."""

import io
import logging
import tarfile
from collections.abc import Iterable

from runctl.agent.prepare.image import ReadyImage
from runctl.agent.runtime.engine import Engine, EngineError
from runctl.model.errors import RequestError

PYTHONS = ("python", "python3")
ROOT = frozenset({"", "0", "root", "0:0", "root:root"})
MAX_FILE_BYTES = 4 << 20

Entry = tuple[str, ...]

logger = logging.getLogger(__name__)


def find_python(engine: Engine, image: ReadyImage) -> str:
    """Return the name by which an image has Python. Raises RequestError if it has none."""
    problem = ""
    for name in PYTHONS:
        words = ["run", "--rm", "--pull", "never", "--network", "none", "--log-driver", "none"]
        words += ["--cap-drop", "ALL", "--no-healthcheck", "--entrypoint", name]
        try:
            engine.call(*words, image.image_id, "-c", "")
        except EngineError as exc:
            problem = str(exc)
            logger.info("the image's %s does not run: %s", name, exc)
        else:
            return name
    raise RequestError(
        "the image has neither python nor python3 on its PATH, which the script needs; install "
        f"Python in the Dockerfile, or name another program with --command: {problem}"
    )


def find_user(engine: Engine, image: ReadyImage) -> tuple[int, int] | None:
    """Return the numbers of the user and the group of an image's programs, None for root.

    Raises RequestError if the image does not know its own user.
    """
    if image.user in ROOT:
        return None
    name, _, group = image.user.partition(":")
    entry = _entry(engine, image, "/etc/passwd", name)
    user = int(name) if name.isdigit() else _number(entry, 2)
    if group:
        number = _number(_entry(engine, image, "/etc/group", group), 2)
        number = int(group) if group.isdigit() else number
    else:
        number = _number(entry, 3) if entry else 0
    if user is None or number is None:
        raise RequestError(
            f"the image's USER {image.user} is not in its /etc/passwd or /etc/group; add it in the "
            "Dockerfile, or name it by its numbers"
        )
    return None if user == 0 else (user, number)


def _number(entry: Entry, place: int) -> int | None:
    return int(entry[place]) if entry and entry[place].isdigit() else None


def _entry(engine: Engine, image: ReadyImage, path: str, name: str) -> Entry:
    """Return the entry of a user or a group, by its name or number; empty if there is none."""
    found = (each for each in _read_table(engine, image, path) if name in (each[0], each[2]))
    return next(found, ())


def _read_table(engine: Engine, image: ReadyImage, path: str) -> tuple[Entry, ...]:
    """Return the entries of a file such as /etc/passwd, empty where the image has none."""
    container = engine.call("create", "--pull", "never", image.image_id, "none").strip()
    try:
        packed = engine.read_bytes("cp", "--follow-link", f"{container}:{path}", "-")
    except EngineError:
        return ()
    finally:
        engine.remove([container])
    return tuple(_entries(packed))


def _entries(packed: bytes) -> Iterable[Entry]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            text = b"" if stream is None else stream.read(MAX_FILE_BYTES)
            for line in text.decode(errors="replace").splitlines():
                fields = tuple(line.split(":"))
                if len(fields) >= 4:
                    yield fields
