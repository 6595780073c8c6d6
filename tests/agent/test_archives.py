"""Archives from other sources: nothing leaves the folder, and everything has a limit."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from runctl.agent.instance.archive import CODE, MAX_HEADER_BYTES, read_header, unpack
from runctl.agent.prepare.code import fetch_code
from runctl.aws.blobs import Blobs
from runctl.model.errors import RequestError
from runctl.model.request_parsing import parse_request
from tests.agent.machine import Cloud


class Packed:
    """An archive in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content = tarfile.open(path, "w:gz")  # noqa: SIM115 - see close

    def add(
        self, name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", body: bytes = b""
    ) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(body)
        self._content.addfile(info, io.BytesIO(body))

    def close(self) -> Path:
        self._content.close()
        return self.path


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    return Packed(tmp_path / "a.tar.gz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep/folder"


def test_more_files_than_allowed_are_not_unpacked(packed: Packed, folder: Path) -> None:
    for number in range(6):
        packed.add(str(number))
    limits = replace(CODE, members=5)
    with pytest.raises(
        RequestError, match=r"code: .* more than 5 members, .*; keep data in a bucket"
    ):
        unpack(packed.close(), folder, limits)
    assert len(list(folder.iterdir())) == 5


def test_more_bytes_than_allowed_are_not_unpacked(packed: Packed, folder: Path) -> None:
    packed.add("a", body=bytes(600))
    packed.add("b", body=bytes(600))
    with pytest.raises(RequestError, match=r"code: .* 1,200 bytes .*the limit of 1,000"):
        unpack(packed.close(), folder, replace(CODE, unpacked_bytes=1000))
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_archive_that_is_too_large_is_not_fetched(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.clients["s3"].put_object(Bucket=cloud.name, Key="code/a.tar.gz", Body=bytes(2000))
    monkeypatch.setattr("runctl.agent.prepare.code.CODE", replace(CODE, packed_bytes=1000))
    request = parse_request({"script": "a.py", "code": f"s3://{cloud.name}/code/a.tar.gz"})
    with pytest.raises(RequestError, match="2,000 bytes, more than the limit of 1,000"):
        fetch_code(Blobs(cloud.clients["s3"], bucket=cloud.name), request, tmp_path / "project")
    assert not (tmp_path / "code.tar.gz").exists()


def sparse(path: Path) -> Path:
    """Return an archive with a file of 8 TiB that says it consists of holes."""
    info = tarfile.TarInfo("huge")
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "huge",
        "GNU.sparse.realsize": str(8 * 2**40),
    }  # fmt: skip
    body = b"1\n0\n1\n".ljust(512, b"\0") + bytes(512)
    info.size = len(body)
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as content:
        content.addfile(info, io.BytesIO(body))
    return path


def test_file_that_is_mostly_holes_counts_with_all_its_bytes(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(RequestError, match="8,796,093,022,208 bytes of files or more"):
        unpack(sparse(tmp_path / "a.tar.gz"), folder)
    assert not (folder / "huge").exists()


# Three gigabytes of address space are not enough for the contents that these claim to have.
UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from runctl.agent.instance.archive import read_header, unpack
from runctl.model.errors import RequestError
before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (before + 200_000_000,) * 2)
try:
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
except RequestError as exc:
    print(exc)
assert read_header(Path(sys.argv[1]), "RUNCTL.left_out") == ""
"""


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_header_that_would_fill_the_memory_is_not_read(
    tmp_path: Path, folder: Path, kind: bytes
) -> None:
    """A gigabyte of zeros, which takes a megabyte when packed."""
    path = tmp_path / "bomb.tar.gz"
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 2**30
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(2**30 // 2**24):
            stream.write(bytes(2**24))
    result = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT, str(path), str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (
        f"a header of 1,073,741,824 bytes, more than the limit of {MAX_HEADER_BYTES:,}"
        in result.stdout
    )


@pytest.mark.parametrize("name", ["link/a", "link/deeper/a", "x/../link/a"])
def test_nothing_is_unpacked_below_a_link(packed: Packed, folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    packed.add("inside", tarfile.DIRTYPE)
    packed.add("link", tarfile.SYMTYPE, link="inside")
    packed.add(name, body=b"evil")
    with pytest.raises(RequestError, match=r"not a folder|outside"):
        unpack(packed.close(), folder)
    assert not list((folder / "inside").iterdir())


def test_link_is_not_replaced_through_itself(packed: Packed, folder: Path) -> None:
    packed.add("target", body=b"before")
    packed.add("link", tarfile.SYMTYPE, link="target")
    packed.add("link", body=b"evil")
    with pytest.raises(RequestError, match="twice"):
        unpack(packed.close(), folder)
    assert (folder / "target").read_bytes() == b"before"


@pytest.mark.parametrize("link", ["nothing", "link", "../outside", "/etc/passwd"])
def test_hard_link_is_to_a_file_of_the_archive_or_refused(
    packed: Packed, folder: Path, link: str
) -> None:
    packed.add("target", body=b"1")
    packed.add("link", tarfile.SYMTYPE, link="target")
    packed.add("hard", tarfile.LNKTYPE, link=link)
    with pytest.raises(RequestError, match=r"hard link|outside"):
        unpack(packed.close(), folder)
    assert not (folder / "hard").exists()


def test_links_within_the_archive_come_back(packed: Packed, folder: Path) -> None:
    packed.add("lib", tarfile.DIRTYPE)
    packed.add("lib", tarfile.DIRTYPE)
    packed.add("./lib/a", body=b"1")
    packed.add("lib64", tarfile.SYMTYPE, link="lib")
    packed.add("b", tarfile.LNKTYPE, link="lib/a")
    unpack(packed.close(), folder)
    assert (folder / "lib64/a").read_bytes() == b"1"
    assert (folder / "b").samefile(folder / "lib/a")


def test_path_that_is_too_deep_is_refused(packed: Packed, folder: Path) -> None:
    packed.add("a/" * 1500 + "a", body=b"1")
    with pytest.raises(RequestError, match="longer or deeper"):
        unpack(packed.close(), folder)


def test_modes_that_give_more_rights_are_not_unpacked(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "a.tar.gz"
    info = tarfile.TarInfo("a")
    info.mode = 0o6777
    with tarfile.open(path, "w:gz") as content:
        content.addfile(info, io.BytesIO())
    unpack(path, folder)
    assert (folder / "a").stat().st_mode & 0o7022 == 0


@pytest.mark.parametrize("value", ["1e400", "-1e400", "nan", "9" * 5000])
def test_impossible_time_is_refused_or_ignored(tmp_path: Path, folder: Path, value: str) -> None:
    path = tmp_path / "a.tar.gz"
    info = tarfile.TarInfo("a")
    info.pax_headers = {"mtime": value}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as content:
        content.addfile(info, io.BytesIO())
    try:
        unpack(path, folder)
    except RequestError:
        return
    assert (folder / "a").is_file()


def test_note_of_a_package_is_read_whatever_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    note = "[" * 100_000
    with tarfile.open(
        path, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"RUNCTL.left_out": note}
    ) as content:
        content.addfile(tarfile.TarInfo("a"))
    assert read_header(path, "RUNCTL.left_out") == note
