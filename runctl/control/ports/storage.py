"""The ports of what is stored: objects, inputs, environments, checkpoints and secrets."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

from runctl.model.build_context import BuildContext
from runctl.model.checkpoint import Manifest
from runctl.model.input_sources import InputSource, StoredObject
from runctl.model.object_checksums import Checksum
from runctl.model.secret_references import SecretReference
from runctl.model.stored_data import ItemKey, ObjectVersion
from runctl.model.stored_environment import StoredEnvironment
from runctl.policy.environments import EnvironmentObject


class Objects(Protocol):
    """The part of S3 that the control functions use."""

    def read_context(self, uri: str, *, texts: Collection[str]) -> BuildContext:
        """Return what a build would see of a packed project, with the contents of some files.

        Raises RequestError for something that is not an archive.
        """
        ...

    def problem_with(self, uri: str) -> str | None:
        """Return why the agent cannot read an s3:// object, with the remedy, or None."""
        ...

    def problem_with_bucket(self, bucket: str) -> str | None:
        """Return why a bucket cannot be used from here, with the remedy, or None."""
        ...

    def problem_with_target(self, uri: str) -> str | None:
        """Return why a prefix cannot be one for results, with the remedy, or None.

        Nothing is written, so it may be one for which the deployment lacks the permission.
        """
        ...

    def problem_with_writing(self, uri: str) -> str | None:
        """Return why runs cannot write below a prefix, with the remedy, or None."""
        ...

    def size_of(self, uri: str) -> int:
        """Return the size of an s3:// object in bytes, 0 if it cannot be read."""
        ...

    def uri(self, key: str) -> str:
        """Return the s3:// URI of a key in the deployment's bucket."""
        ...


class Inputs(Protocol):
    """The objects that runs read; RequestError, with the remedy, if they cannot be read."""

    def list_objects(self, source: InputSource) -> Iterator[StoredObject]:
        """Yield the objects of an input in the order of their keys, markers of folders included."""
        ...

    def find_checksum(self, source: InputSource, found: StoredObject) -> Checksum:
        """Return by what the content of an object can be verified; it must be readable."""
        ...


class EnvironmentCatalog(Protocol):
    """The environments that runs share, in S3."""

    def objects(self, prefix: str = "") -> list[EnvironmentObject]:
        """Return the objects below `environments/` whose further key has a prefix, by key."""
        ...

    def current(self, fingerprint: str) -> StoredEnvironment | None:
        """Return the environment that new runs use; DamagedCheckpointError if it is unreadable."""
        ...

    def get_manifest(self, fingerprint: str, sha256: str) -> Manifest:
        """Return a manifest; DamagedCheckpointError if it is missing or cannot be read."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is missing is fine."""
        ...


class Checkpoints(Protocol):
    """The checkpoints of one run."""

    def manifest_keys(self) -> list[str]:
        """Return the keys of all manifests, the newest save first."""
        ...

    def get_manifest(self, key: str) -> Manifest:
        """Return a manifest; DamagedCheckpointError when it is missing or cannot be read."""
        ...


class Secrets(Protocol):
    """The secrets that requests refer to, without their values."""

    def problem_with(self, reference: SecretReference) -> str | None:
        """Return why a run could not read a secret, with the remedy; None if nothing is known."""
        ...


class RunData(Protocol):
    """Everything that is stored of runs; every removal may be repeated."""

    def objects(self, prefix: str) -> Iterator[ObjectVersion]:
        """Yield every version of every object below a prefix, deletion markers included."""
        ...

    def remove_objects(self, objects: Iterable[ObjectVersion]) -> None:
        """Remove these versions for good."""
        ...

    def log_streams(self, run_id: str) -> list[str]:
        """Return the names of the streams of a run, those of its builds included."""
        ...

    def remove_log_stream(self, name: str) -> None:
        """Remove a stream with all its lines."""
        ...

    def items(self, run_id: str) -> list[ItemKey]:
        """Return the keys of the items of a run and its attempts, that of the run last."""
        ...

    def remove_items(self, keys: Sequence[ItemKey]) -> None:
        """Remove items of the ledger, in this order."""
        ...
