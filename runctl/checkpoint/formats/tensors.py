"""Formats of weights and arrays: safetensors, HDF5, .npy, pickle."""

import json
import math
import re
import struct

from runctl.checkpoint.formats.source import MAX_READ_BYTES, Source, Verdict

MAX_HEADER_BYTES = 100_000_000
OFFSETS = re.compile(rb'"data_offsets"\s*:\s*\[\s*(\d{1,19})\s*,\s*(\d{1,19})\s*\]')
NPY_TYPE = re.compile(r"'descr':\s*'[<>|=]?([a-zA-Z])(\d{1,9})(?:\[\w*\])?'")
NPY_SHAPE = re.compile(r"'shape':\s*\(([\d,\s]{0,400})\)")
BYTES_OF_A_CHARACTER = 4
UNDEFINED = (1 << 64) - 1
# torch.save before version 1.6: several pickles, then raw tensors.
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
FRAME, STOP = 0x95, b"."


def safetensors(source: Source) -> Verdict | None:
    """Compare the size with the tensors' ends in the header; the last one ends the file."""
    length = int.from_bytes(source.head[:8], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        return None
    begin = source.read(8, min(length, MAX_READ_BYTES // 2))
    if not source.name.endswith(".safetensors") and b'"data_offsets"' not in begin:
        return None
    if 8 + length > source.size:
        return Verdict("safetensors", "its header is cut off")
    if len(begin) == length:
        return _tensors_end(source, 8 + length, json.loads(begin))
    # Tensors are listed in the order in which they are stored: the last one ends the file.
    rest = min(length - len(begin), source.left - 64)
    found = OFFSETS.findall(begin + source.read(8 + length - rest, rest))
    end = max((int(end) for _, end in found), default=0)
    if 8 + length + end > source.size:
        return Verdict("safetensors", f"a tensor ends beyond its {source.size} bytes")
    return Verdict("safetensors", is_proven=8 + length + end == source.size)


def _tensors_end(source: Source, data: int, header: object) -> Verdict | None:
    if not isinstance(header, dict):
        return None
    tensors = [value for name, value in header.items() if name != "__metadata__"]
    ends = [tensor["data_offsets"][1] for tensor in tensors if isinstance(tensor, dict)]
    if not all(isinstance(end, int) for end in ends):
        return None
    if data + max(ends, default=0) != source.size:
        needed = data + max(ends, default=0)
        return Verdict("safetensors", f"its tensors need {needed} bytes, but it has {source.size}")
    return Verdict("safetensors", is_proven=True)


def hdf5(source: Source) -> Verdict | None:
    """Compare the size with the end that the superblock gives, and check that it was closed."""
    version = source.head[8]
    if version > 3:
        return None
    width = source.head[13 if version < 2 else 9]
    if width not in {2, 4, 8}:
        return None
    start = {0: 24, 1: 28, 2: 12, 3: 12}[version]
    base = int.from_bytes(source.head[start : start + width], "little")
    at = start + 2 * width
    end = int.from_bytes(source.head[at : at + width], "little")
    if len(source.head) < at + width:
        return Verdict("HDF5", "its superblock is cut off")
    if base or end == UNDEFINED >> (64 - 8 * width):
        return None
    if version == 3 and source.head[11] & 0b101:
        return Verdict("HDF5", "it was not closed by its writer", is_certain=False)
    if end > source.size:
        return Verdict("HDF5", f"its superblock gives {end} bytes, but it has {source.size}")
    return Verdict("HDF5", is_proven=end == source.size)


def npy(source: Source) -> Verdict | None:
    """Compare the size with type and shape in the header; more arrays may follow."""
    wide = source.head[6] > 1
    start = 12 if wide else 10
    if len(source.head) < start:
        return Verdict(".npy", "its header is cut off")
    length = struct.unpack_from("<I" if wide else "<H", source.head, 8)[0]
    if start + length > source.size:
        return Verdict(".npy", "its header is cut off")
    header = source.read(start, length).decode("latin-1")
    kind, shape = NPY_TYPE.search(header), NPY_SHAPE.search(header)
    if kind is None or shape is None or kind[1] == "O":
        return None
    width = int(kind[2]) * (BYTES_OF_A_CHARACTER if kind[1] == "U" else 1)
    needed = start + length + width * math.prod(map(int, re.findall(r"\d+", shape[1])))
    if needed > source.size:
        return Verdict(".npy", f"its array needs {needed} bytes, but it has {source.size}")
    return Verdict(".npy", is_proven=needed == source.size)


def pickle(source: Source) -> Verdict | None:
    """Check that a pickle ends with STOP; appended data, such as old torch's, is ignored."""
    if source.head.startswith(LEGACY_TORCH):
        return None
    frame, is_proven = source.head[2:11], False
    if len(frame) == 9 and frame[0] == FRAME:
        end = 11 + int.from_bytes(frame[1:], "little")
        if end > source.size:
            return Verdict("pickle", "it ends in its first frame")
        is_proven = end == source.size
    if source.tail(1) != STOP:
        return Verdict("pickle", "it does not end with a pickle's STOP", is_certain=False)
    return Verdict("pickle", is_proven=is_proven)
