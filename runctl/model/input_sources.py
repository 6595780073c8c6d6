"""Inputs: objects of S3 that a run reads, and the paths at which an instance has them.

An input is one object, or all objects below a prefix, which ends with `/`. Each is a folder of that
name, in which the objects have their keys after the prefix, and a single object the last part of
its key.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model.errors import RequestError

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_INPUTS = 100
# A list of more objects takes too much of the agent's memory, and each one at least a request.
MAX_OBJECTS = 50_000
# The longest name of a file in the file systems of Linux, in bytes.
MAX_NAME_BYTES = 255

_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.*)", re.DOTALL)


@dataclass(frozen=True)
class InputSource:
    """The objects of one input: all whose keys begin with `key`, or the object with this key."""

    bucket: str
    key: str

    @property
    def is_prefix(self) -> bool:
        """Whether it stands for all objects below a prefix; the empty key for a whole bucket."""
        return not self.key or self.key.endswith("/")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class StoredObject:
    """An object as S3 lists it; `etag` changes with its content."""

    __slots__ = ("etag", "key", "size_bytes")

    key: str
    size_bytes: int
    etag: str


def parse_input(uri: str) -> InputSource:
    """Return the source of an input; raises ValueError if the URI is not valid."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise ValueError(
            f"{uri!r} is not an S3 URI; write s3://bucket/key for an object, s3://bucket/prefix/ "
            "for all objects below a prefix"
        )
    return InputSource(found["bucket"], found["key"])


def check_inputs(value: Any) -> str | None:
    """Check the inputs of a request."""
    if not isinstance(value, Mapping):
        return "must be an object of names and S3 URIs; write {NAME: 's3://bucket/prefix/'}"
    if len(value) > MAX_INPUTS:
        return f"{len(value)} inputs exceed the limit of {MAX_INPUTS}; use a common prefix"
    for name, uri in value.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            return f"{name!r} is not a valid name; use 1 to 64 letters, digits, _ and -"
        if not isinstance(uri, str):
            return f"{name}: {uri!r} is not a string; quote it"
        try:
            parse_input(uri)
        except ValueError as exc:
            return f"{name}: {exc}"
    return None


def is_marker(found: StoredObject) -> bool:
    """Whether an object only marks a folder, as the S3 console and Hadoop create them."""
    return found.key.endswith(("/", "_$folder$")) and not found.size_bytes


def place_objects(
    source: InputSource, objects: Iterable[StoredObject]
) -> Iterator[tuple[str, StoredObject]]:
    """Yield each object with its path below the input's folder; markers of folders are left out.

    `objects` are in the order of their keys. Raises RequestError for a key that is not safe as a
    path, and for one that would have to be both a file and a folder.
    """
    before = len(source.key.rpartition("/")[0] + "/") if source.key.rpartition("/")[1] else 0
    files: set[str] = set()
    for found in objects:
        if is_marker(found):
            continue
        path = found.key[before:]
        if problem := _problem_with_path(path):
            raise RequestError(
                f"s3://{source.bucket}/{found.key!a} cannot be staged: {problem}; copy the objects "
                "to keys without it"
            )
        folder, slash, _ = path.rpartition("/")
        while slash:
            if folder in files:
                raise RequestError(
                    f"s3://{source.bucket}/{found.key!a} cannot be staged: {folder!a} is an object "
                    "and would have to be a folder, too; move one of them"
                )
            folder, slash, _ = folder.rpartition("/")
        files.add(path)
        yield path, found


def _problem_with_path(path: str) -> str:
    if "\0" in path:
        return "its key contains a NUL character"
    for part in path.split("/"):
        if part in {"", ".", ".."}:
            return f"its key has the part {part!r}, which is not the name of a file"
        if len(part.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
            return f"a part of its key has more than {MAX_NAME_BYTES} bytes"
    return ""


def empty(source: InputSource) -> str:
    """Return that there are no objects below a prefix, and the remedy."""
    return f"there are no objects below {source}; upload them first, or correct the URI"


def too_many() -> str:
    """Return that the inputs have too many objects, and the remedy."""
    return f"the inputs have more than {MAX_OBJECTS:,} objects; pack small files into archives"
