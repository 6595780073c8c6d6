"""Files that a trainer saved, whatever their names and claims."""

from __future__ import annotations

import ast
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from runctl.checkpoint.folder_state import FileState
from runctl.checkpoint.formats import MAX_READ_BYTES, Source, Verdict, judge
from runctl.checkpoint.layouts import flaws_of, names_save, tracked_number
from runctl.checkpoint.stated_steps import StepJudge, stated_step
from runctl.checkpoint.step_names import is_state, number_in, step_of
from runctl.checkpoint.torch_records import named_records
from runctl.checkpoint.wholeness import Wholeness
from tests.fuzz.budget import TARGETS, fuzz, fuzzed
from tests.fuzz.hostile import NAMES, NUMBERS, VALUES


def samples() -> list[bytes]:
    """Return small complete files of the known formats."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", b"content")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return [
        packed.getvalue(),
        struct.pack("<Q", len(header)) + header + bytes(8),
        b"\x89HDF\r\n\x1a\n\x00\x00\x00\x00\x00\x08\x08" + bytes(200),
        b"\x89HDF\r\n\x1a\n\x03\x08\x08\x01" + bytes(100),
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }     "
        b"\n" + bytes(96),
        b"SQLite format 3\0\x10\x00" + bytes(200),
        b"PAR1" + bytes(8) + struct.pack("<I", 8) + b"PAR1",
        b"ARROW1\0\0" + bytes(20) + b"ARROW1",
        b"\x1f\x8b\x08\0\0\0\0\0\0\0"
        + zlib.compress(b"a" * 100)[2:-4]
        + struct.pack("<II", 0, 100),
        b"\xfd7zXZ\0" + bytes(40) + b"YZ",
        b"\x80\x04\x95\x05\0\0\0\0\0\0\0]\x94.",
        bytes(257) + b"ustar" + bytes(2000),
        b'{"global_step": 10, "log": [1, 2, 3]}',
    ]


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes, int]:
    """Return a name, the content that can be read, and the size that is claimed."""
    content = bytearray(draw(st.sampled_from(samples()) | st.binary(max_size=60)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        content[at : at + 1] = draw(st.sampled_from([b"\0", b"\xff", b"9" * 20, b"{", b'"', b""])
                                    | st.binary(max_size=3))  # fmt: skip
    end = draw(st.sampled_from([None, None, 4, 20, 100]))
    content = content[:end]
    size = draw(st.sampled_from([len(content), len(content), 10**6, 10**13]))
    name = draw(
        st.sampled_from(["a.json", "model.safetensors", "a.pt", "trainer_state.json", "x", "a.npy"])
    )
    return name, bytes(content), size


def tensors(document: object) -> tuple[str, bytes, int]:
    header = json.dumps(document).encode()
    content = struct.pack("<Q", len(header)) + header
    return "a.safetensors", content, len(content)


@fuzzed
@example(tensors({"a": {"data_offsets": 5}}))
@example(tensors({"a": {"data_offsets": [0, True]}}))
@example(tensors({"a": {"data_offsets": {"1": 2}}}))
@example(("a.json", b"[" * 60_000, 60_000))
@example(("x", b"PK\x06\x07PK\x05\x06" + bytes(6) + b"\xff" * 12, 24))
@given(file=files())
def check_format(file: tuple[str, bytes, int]) -> None:
    name, content, size = file
    read = 0

    def read_at(offset: int, length: int) -> bytes:
        nonlocal read
        read += length
        return content[offset : offset + length]

    found = judge(Source(name, size, read_at))
    assert found is None or isinstance(found, Verdict)
    assert read <= MAX_READ_BYTES
    step = stated_step(name, size, lambda _, offset, length: read_at(offset, length))
    assert step is None or 0 <= step < 10**12


STEPS = NUMBERS.map(lambda number: str(number)[:40]) | st.sampled_from(
    ["²", "३", "00", "1e5", "9" * 100]
)
PATHS = st.lists(
    st.one_of(
        NAMES.filter(lambda name: "/" not in name),
        st.tuples(
            st.sampled_from(
                ["step-", "epoch", "checkpoint-", "global_step", "model_", "ckpt", "", "__"]
            ),
            STEPS,
            st.sampled_from(
                [
                    "",
                    ".pt",
                    ".distcp",
                    "-of-3.bin",
                    ".index.json",
                    ".data-0-of-2",
                    ".orbax-checkpoint-tmp",
                ]
            ),
        ).map("".join),
        st.sampled_from(
            ["latest", "checkpoint", "trainer_state.json", "training_args.bin", ".metadata"]
        ),
    ),
    min_size=1,
    max_size=3,
).map("/".join)
TEXTS = st.one_of(
    STEPS,
    st.text(max_size=20),
    VALUES.map(json.dumps),
    st.dictionaries(st.sampled_from(["step", "global_step", "epoch"]), NUMBERS | VALUES).map(
        json.dumps
    ),
)
FOLDERS = st.dictionaries(
    PATHS,
    st.tuples(TEXTS, st.integers(0, 3), st.sampled_from(["file", "file", "dir", "link"])),
    max_size=6,
)


@fuzzed
@example({"latest": ("²", 1, "file"), "global_step3": ("", 1, "file")})
@example({"latest": ("३", 1, "file"), "global_step3": ("", 1, "file")})
@given(folder=FOLDERS)
def check_folder(folder: dict[str, tuple[str, int, str]]) -> None:
    contents = {path: text.encode(errors="surrogatepass") for path, (text, _, _) in folder.items()}

    def read(path: str, offset: int, size: int) -> bytes:
        return contents.get(path, b"")[offset : offset + size]

    view = {
        path: FileState(
            kind,
            0o644,
            at * 10**9,
            len(contents[path]),
            (1, number),
            text if kind == "link" else "",
        )
        for number, (path, (text, at, kind)) in enumerate(folder.items())
    }
    judged = StepJudge().judge(view, view, held={}, current=3, read=read)
    assert judged.step is None or 0 <= judged.step < 10**13
    step_of(dict.fromkeys(view, 1), held={})
    wholeness = Wholeness()
    for now in (0.0, 100.0):
        left_out = wholeness.incomplete(view, {}, list(view), now)
        wholeness.with_replaced(view, {}, left_out)
    wholeness.remember(view, tuple(view))
    for path, (text, _, _) in folder.items():
        is_state(path)
        number_in(path)
        names_save(text, path)
        tracked_number(text)
    for parent in {path.rpartition("/")[0] for path in view}:
        inside = {
            path.rpartition("/")[2]: seen
            for path, seen in view.items()
            if path.rpartition("/")[0] == parent
        }
        list(
            flaws_of(
                parent,
                inside,
                lambda path: contents.get(path, b"").decode(errors="replace"),
                lambda path: named_records([contents.get(path, b"")]),
            )
        )


def test_files_of_any_content_can_be_judged() -> None:
    fuzz(check_format)


def test_folders_with_any_names_can_be_judged() -> None:
    fuzz(check_folder)


def test_each_target_has_its_share_of_the_time() -> None:
    calls = [
        node
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "fuzz"
    ]
    assert len(calls) == TARGETS
