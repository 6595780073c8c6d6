"""What formats say about completeness: real files, files cut off anywhere, and false claims."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import sqlite3
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runctl.checkpoint.folder_state import scan_folder
from runctl.checkpoint.formats import MAX_READ_BYTES, Source, Verdict, judge
from runctl.checkpoint.inspector import Inspector

FRAMEWORKS = Path(__file__).parents[2] / "build/frameworks/bin/python"


def verdict_of(name: str, content: bytes) -> Verdict | None:
    """Judge a file, and check that no more is read than allowed."""
    read = 0

    def read_at(offset: int, length: int) -> bytes:
        nonlocal read
        read += length
        return content[offset : offset + length]

    verdict = judge(Source(name, len(content), read_at))
    assert read <= MAX_READ_BYTES
    return verdict


def a_zip(size: int = 3000, comment: bytes = b"") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("data.pkl", os.urandom(size))
        archive.writestr("version", "3\n")
        archive.comment = comment
    return content.getvalue()


def a_tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        info = tarfile.TarInfo("weights.bin")
        info.size = 20_000
        archive.addfile(info, io.BytesIO(os.urandom(info.size)))
    return content.getvalue()


def safetensors(tensors: int = 2, *, slack: int = 0) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for number in range(tensors):
        offsets = [16 * number, 16 * number + 16]
        header[f"layer.{number}.weight"] = {
            "dtype": "F32",
            "shape": [4],
            "data_offsets": offsets,
        }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + os.urandom(16 * tensors + slack)


def hdf5(version: int, *, end: int = 4096, size: int = 4096, flags: int = 0) -> bytes:
    """Construct a superblock according to the specification of the file format."""
    signature = b"\x89HDF\r\n\x1a\n"
    addresses = struct.pack("<QQQ", 0, (1 << 64) - 1, end)
    if version < 2:
        sizes = bytes([version, 0, 0, 0, 0, 8, 8, 0]) + struct.pack("<HHI", 4, 16, 0)
        block = signature + sizes + (b"\x20\0\0\0" if version else b"") + addresses
    else:
        block = signature + bytes([version, 8, 8, flags]) + addresses
    return block.ljust(size, b"\x01")[:size]


def npy(shape: str = "(100, 4)", descr: str = "<f4", data: int = 1600) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = header.ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + os.urandom(data)


def parquet(footer: int = 50) -> bytes:
    return b"PAR1" + bytes(500) + bytes(50) + struct.pack("<I", footer) + b"PAR1"


def database(tmp_path: Path) -> bytes:
    path = tmp_path / "rows.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table rows (value)")
        connection.executemany("insert into rows values (?)", [(n,) for n in range(5000)])
    connection.close()
    return path.read_bytes()


WHOLE = {
    "model.pt": a_zip(),
    "commented.npz": a_zip(comment=b"x" * 5000),
    "two.keras": a_zip() + a_zip(),
    "model.safetensors": safetensors(),
    "many.safetensors": safetensors(2000),
    "none.safetensors": safetensors(0),
    "v0.h5": hdf5(0),
    "v1.h5": hdf5(1),
    "v2.h5": hdf5(2),
    "v3.h5": hdf5(3),
    "x.npy": npy(),
    "text.npy": npy("(3,)", "<U10", 120),
    "scalar.npy": npy("()", "<f8", 8),
    "time.npy": npy("(3,)", "<M8[ns]", 24),
    "p2.pkl": pickle.dumps(list(range(5000)), protocol=2),
    "p5.pkl": pickle.dumps({"step": 5, "loss": [0.5] * 2000}, protocol=5),
    "data.parquet": parquet(),
    "table.arrow": b"ARROW1\0\0" + bytes(500) + b"ARROW1",
    "small.gz": gzip.compress(os.urandom(3000)),
    "two.gz": gzip.compress(b"a" * 3000) + gzip.compress(os.urandom(300)),
    "data.xz": lzma.compress(os.urandom(3000)),
    "config.json": json.dumps({"a": [1, {"b": "}"}], "c": "x" * 100}).encode(),
    "large.json": json.dumps([{"step": step} for step in range(20_000)]).encode(),
}
# Some cuts of these cannot be distinguished from a complete file.
UNSURE = {"large.json", "p2.pkl", "two.gz", "two.keras"}


@pytest.mark.parametrize("name", WHOLE)
def test_complete_file_has_no_problem(name: str) -> None:
    verdict = verdict_of(name, WHOLE[name])
    assert verdict is not None
    assert not verdict.problem
    assert verdict.is_proven == (name not in {"large.json", "p2.pkl"})


@pytest.mark.parametrize("name", sorted(WHOLE.keys() - UNSURE))
@given(data=st.data())
def test_file_that_is_cut_off_anywhere_is_detected(name: str, data: st.DataObject) -> None:
    content = WHOLE[name]
    cut = data.draw(st.integers(min_value=16, max_value=len(content) - 1))
    verdict = verdict_of(name, content[:cut])
    assert verdict is not None
    assert verdict.problem
    assert not verdict.is_proven


def test_database_is_judged_by_its_pages(tmp_path: Path) -> None:
    content = database(tmp_path)
    assert verdict_of("any.name", content) == Verdict("SQLite", is_proven=True)
    for cut in (50, 4096, len(content) - 1):
        verdict = verdict_of("study.db", content[:cut])
        assert verdict is not None
        assert verdict.problem


def test_tar_needs_its_empty_blocks() -> None:
    content = a_tar()
    assert verdict_of("a.tar", content) == Verdict("tar")
    verdict = verdict_of("a.tar", content[:15_000])
    assert verdict is not None
    assert verdict.problem
    assert not verdict.is_certain


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.pt", b"just some text\n" * 100),
        ("model.safetensors", os.urandom(5000)),
        ("model.h5", b"not HDF5"),
        ("data.json", b"// a comment first\n{}"),
        ("data.json", b'{"a": 1}\n{"a": 2}\n'),
        ("study.db", b""),
        ("x.npy", npy("(2,)", "|O", 50)),
        ("data.bz2", bz2.compress(b"hello")),
        ("__0_0.distcp", a_zip() + os.urandom(100)),
    ],
)
def test_file_of_an_unknown_format_or_a_false_name_has_no_verdict(
    name: str, content: bytes
) -> None:
    assert verdict_of(name, content) is None


def end_of_zip(*, size: int, offset: int, entries: int = 1, comment: int = 0) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, entries, entries, size, offset, comment)


LIARS = {
    "directory of terabytes.zip": b"PK\3\4"
    + bytes(200)
    + struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 1 << 42, 1 << 42)
    + struct.pack("<4sIQI", b"PK\6\7", 0, 204, 1)
    + end_of_zip(size=0xFFFFFFFF, offset=0xFFFFFFFF),
    "directory beyond the file.zip": b"PK\3\4" + bytes(200) + end_of_zip(size=4000, offset=70_000),
    "no directory.zip": b"PK\3\4" + bytes(200) + end_of_zip(size=10, offset=10),
    "comment beyond the end.zip": b"PK\3\4"
    + bytes(200)
    + end_of_zip(size=10, offset=10, comment=60_000),
    "gigabytes of header.safetensors": struct.pack("<Q", 90_000_000)
    + b'{"a":{"data_offsets":[0,4]}}',
    "offsets beyond.safetensors": struct.pack("<Q", 50)
    + b'{"a":{"data_offsets":[0,99999999999999]}}'.ljust(50)
    + bytes(9),
    "petabytes.h5": hdf5(0, end=1 << 50),
    "large shape.npy": npy("(1000000000000, 1000000000000)"),
    "footer of gigabytes.parquet": parquet(0xFFFFFFF0),
    "pages.db": b"SQLite format 3\0\x10\0\1\1\0\x40\x20\x20\0\0\0\1\xff\xff\xff\xff".ljust(
        92, b"\0"
    )
    + b"\0\0\0\1"
    + bytes(5000),
    "frame of exabytes.pkl": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"abc.",
}


@pytest.mark.parametrize("name", LIARS)
def test_what_a_file_claims_is_compared_with_its_size_and_never_believed(name: str) -> None:
    tracemalloc.start()
    try:
        verdict = verdict_of(name, LIARS[name])
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert verdict is not None
    assert verdict.problem
    assert verdict.is_certain


DEEP = b'{"a":' * 12_000
BOMB = gzip.compress(bytes(100_000_000))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("deep.json", DEEP + b"1" + b"}" * 12_000),
        ("deep.safetensors", struct.pack("<Q", 60_000) + DEEP),
        ("digits.npy", npy(f"({'9' * 5000},)")),
        ("digits.safetensors", struct.pack("<Q", 30_000) + b'{"x":' + b"9" * 29_990 + bytes(200)),
        ("bomb.gz", BOMB[: MAX_READ_BYTES - 2000]),
    ],
)
def test_content_made_to_exhaust_a_reader_has_bounded_cost(name: str, content: bytes) -> None:
    tracemalloc.start()
    try:
        verdict_of(name, content)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
    finally:
        tracemalloc.stop()


HEADS = st.sampled_from(
    [
        *(b"PK\3\4", b"PK\5\6", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY\1\0", b"SQLite format 3\0"),
        *(b"PAR1", b"ARROW1\0\0", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x80\4\x95", b"{", b""),
        b"\x40" + bytes(7) + b"{",
    ]
)


@example(b"PK\5\6", b"", "a.json")
@given(HEADS, st.binary(max_size=700), st.sampled_from(["a.json", "a.safetensors", "a.tar", "a"]))
def test_no_content_raises_an_exception(head: bytes, rest: bytes, name: str) -> None:
    verdict_of(name, head + rest)


def test_file_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.pt").write_bytes(a_zip()[:-1])
    opened = []
    open_file = os.open

    def note(path: str, *args: int, **options: int) -> int:
        opened.extend([path] if path == "model.pt" else [])
        return open_file(path, *args, **options)

    monkeypatch.setattr(os, "open", note)
    inspector = Inspector(tmp_path)
    for _ in range(3):
        view = scan_folder(tmp_path)
        verdict = inspector.verdict("model.pt", view["model.pt"])
        assert verdict is not None
        assert verdict.problem
    assert len(opened) == 1
    (tmp_path / "model.pt").write_bytes(a_zip())
    changed = inspector.verdict("model.pt", view["model.pt"])
    assert changed == verdict  # as it was scanned
    view = scan_folder(tmp_path)
    verdict = inspector.verdict("model.pt", view["model.pt"])
    assert verdict is not None
    assert not verdict.problem


def test_unreadable_file_has_no_verdict_and_a_pipe_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(a_zip())
    seen = scan_folder(tmp_path)["model.pt"]
    inspector = Inspector(tmp_path)
    (tmp_path / "model.pt").unlink()
    assert inspector.verdict("model.pt", seen) is None
    os.mkfifo(tmp_path / "model.pt")
    assert inspector.verdict("model.pt", seen) is None
    (tmp_path / "model.pt").unlink()
    (tmp_path / "model.pt").symlink_to("/etc/passwd")
    assert inspector.verdict("model.pt", seen) is None
    assert not inspector.is_database("model.pt")


REAL = """
import io, numpy, pathlib, pickle, safetensors.torch, sys, torch
folder = pathlib.Path(sys.argv[1])
state = {"model": torch.randn(300, 40), "step": 7}
torch.save(state, folder / "model.pt")
torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
two = {"a": torch.randn(30, 4), "b": torch.randn(7)}
safetensors.torch.save_file(two, folder / "m.safetensors")
safetensors.torch.save_file(
    {f"layer.{n}": torch.randn(n % 5 + 1, dtype=torch.float64 if n % 2 else torch.float32)
     for n in range(3000)}, folder / "many.safetensors")
numpy.save(folder / "x.npy", numpy.zeros((30, 4)))
numpy.savez_compressed(folder / "z.npz", a=numpy.arange(1000), b=numpy.random.rand(50))
with open(folder / "arrays.pkl", "wb") as stream:
    pickle.dump({"a": numpy.random.rand(1000), "b": list(range(1000))}, stream)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not FRAMEWORKS.exists(), reason="needs build/frameworks, which make test builds"
)
def test_files_written_by_torch_safetensors_and_numpy_are_judged_correctly(tmp_path: Path) -> None:
    subprocess.run([FRAMEWORKS, "-c", REAL, tmp_path], check=True, timeout=300)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        verdict = verdict_of(path.name, content)
        if path.name == "legacy.pt":
            assert verdict is None
            continue
        assert verdict is not None, path.name
        assert not verdict.problem, (path.name, verdict)
        for part in range(1, 50):
            cut = verdict_of(path.name, content[: len(content) * part // 50])
            assert cut is not None, (path.name, part)
            assert cut.problem, (path.name, part)
