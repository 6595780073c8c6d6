"""Archives from anybody: unpacked below the folder, or refused with one of our errors."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import assume, example, given
from hypothesis import strategies as st

from runctl.agent.instance.archive import CODE, read_header, unpack
from runctl.model.errors import RequestError
from runctl.model.left_out import PAX_KEY, explain_failure, read_note
from tests.fuzz.budget import fuzz, fuzzed, nothing_changes
from tests.fuzz.hostile import paths

PLACE = Path(tempfile.mkdtemp(prefix="runctl-fuzz-"))
OUTSIDE = PLACE / "outside"
LIMITS = replace(CODE, members=20, unpacked_bytes=1_000_000)
TYPES = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE,
         tarfile.CHRTYPE, tarfile.CONTTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME,
         tarfile.GNUTYPE_SPARSE, b"?"]  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(
        ["path", "linkpath", "size", "mtime", "uid", "uname", "hdrcharset", "GNU.sparse.major",
         "GNU.sparse.minor", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.realsize",
         "GNU.sparse.name", "GNU.sparse.numblocks"]
    ),
    st.sampled_from(["1", "0", "-1", "1e400", "nan", "9" * 30, "9" * 5000, "0,1", "1,", "a",
                     "BINARY", "../outside/victim", "link/a", "a"]),
    max_size=3,
)  # fmt: skip
PATHS = paths(str(OUTSIDE))
FORMATS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])


@st.composite
def members(draw: st.DrawFn) -> bytes:
    """Return a member's header and its content."""
    info = tarfile.TarInfo(draw(PATHS))
    info.type = draw(st.sampled_from(TYPES))
    info.linkname = draw(PATHS)
    info.mode = draw(st.integers(0, 0o7777))
    body = draw(st.binary(max_size=40))
    info.size = draw(st.sampled_from([len(body), len(body), 0, 2**33, 2**62]))
    info.pax_headers = draw(HEADERS)
    try:
        header = info.tobuf(draw(FORMATS), errors="surrogateescape")
    except (ValueError, UnicodeError):
        assume(False)
        raise
    return header + body.ljust(-(-len(body) // 512) * 512, b"\0")


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Return a .tar.gz."""
    content = bytearray(b"".join(draw(st.lists(members(), max_size=6))) + bytes(1024))
    for _ in range(draw(st.sampled_from([0, 0, 1, 4]))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    packed = bytearray(gzip.compress(bytes(content), 1, mtime=0))
    if draw(st.integers(0, 9)) == 0:
        packed[draw(st.integers(0, len(packed) - 1))] = draw(st.integers(0, 255))
        packed = packed[: draw(st.integers(0, len(packed)))]
    return bytes(packed)


def packed(*infos: tuple[str, bytes, str], **headers: str) -> bytes:
    """Return an archive of members without content."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, link in infos:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.pax_headers = kind, link, headers
            archive.addfile(info)
    return content.getvalue()


@fuzzed
@example(packed(("link", tarfile.SYMTYPE, "a"), ("link", tarfile.REGTYPE, "")))
@example(packed(("a/" * 1500 + "a", tarfile.DIRTYPE, "")))
@example(packed(("a", tarfile.REGTYPE, ""), mtime="1e400"))
@example(packed(("a", tarfile.REGTYPE, ""), mtime="nan"))
@example(packed(("a", tarfile.REGTYPE, ""), size="9" * 5000))
@given(content=archives())
def check_unpacking(content: bytes) -> None:
    archive, target = PLACE / "a.tar.gz", PLACE / "target"
    archive.write_bytes(content)
    with nothing_changes(OUTSIDE):
        try:
            unpack(archive, target, LIMITS)
        except RequestError as exc:
            assert len(str(exc)) < 1000  # noqa: PT017
        note = read_note(read_header(archive, PAX_KEY))
        explain_failure("FileNotFoundError: 'data/a'", note, project="/project")
    for path in target.rglob("*"):
        path.lstat()
    shutil.rmtree(target)
    assert {path.name for path in PLACE.iterdir()} == {"a.tar.gz", "outside"}


@fuzzed
@example("[" * 100_000)
@example('[["a","b",3]]')
@given(text=st.text() | st.sampled_from(["[[1,2,[3]]]", '[["a*/","b",["c"]]]', "[[]]", '{"a":1}']))
def check_note(text: str) -> None:
    explain_failure("No such file or directory: 'a/b'", read_note(text), project="/project")


def test_hostile_archives_write_nothing_outside_and_raise_no_other_error() -> None:
    OUTSIDE.mkdir(exist_ok=True)
    (OUTSIDE / "victim").write_bytes(b"of the victim")
    fuzz(check_unpacking)


def test_hostile_notes_in_packages_only_prevent_an_explanation() -> None:
    fuzz(check_note)
