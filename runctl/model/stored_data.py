"""What is stored of a run, by the names under which it can be removed."""

from typing import NamedTuple


class ObjectVersion(NamedTuple):
    """A version of an object in the deployment's bucket; a deletion marker has no bytes."""

    key: str
    version: str
    size_bytes: int = 0


class ItemKey(NamedTuple):
    """The key of an item of the ledger."""

    pk: str
    sk: str
