"""The records (`__RANK_N.distcp`) that a `.metadata` of torch.distributed.checkpoint names. Pure.

The file is a pickle from a program that nobody has to trust, so it is never loaded. A pickle holds
its texts as they are, one after another, and the names of records are found among the bytes:
walking through the opcodes finds the same ones, and takes minutes for the metadata of a large
model.
"""

import re
from collections.abc import Iterable

# The metadata of a model with a million shards has about half of this.
MAX_METADATA_BYTES = 512 * 1024 * 1024
METADATA = re.compile(r"^(?:__\d+)?\.metadata$")
RECORD = re.compile(r"^__\d+_\d+\.distcp$")
_NAMED = re.compile(rb"__\d{1,9}_\d{1,9}\.distcp")
_MAX_NAME_BYTES = 32


def named_records(blocks: Iterable[bytes]) -> frozenset[str]:
    """Return the names of the records in a `.metadata` that is read block by block."""
    found: set[bytes] = set()
    end = b""
    for block in blocks:
        text = end + block
        found.update(_NAMED.findall(text))
        end = text[-_MAX_NAME_BYTES:]  # a name may begin in one block and end in the next
    return frozenset(name.decode() for name in found)
