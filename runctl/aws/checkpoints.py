"""The checkpoint store: parts named by their content, manifests written last and never changed."""

from collections.abc import Iterable
from typing import Any

from runctl.aws.errors import translated
from runctl.aws.parts import PartStore
from runctl.model import identity
from runctl.model.checkpoint import Manifest
from runctl.model.errors import CheckpointError, DamagedCheckpointError
from runctl.model.manifest_rules import MAX_MANIFEST_BYTES

MAX_REVISIONS = 10_000


class CheckpointStore(PartStore):
    """The checkpoints of one run in S3; safe to share between threads."""

    def __init__(self, client: Any, *, bucket: str, run_id: str, rank: int = 0) -> None:
        """`rank` is that of the node whose own manifests are stored."""
        super().__init__(client, bucket=bucket, part_prefix=identity.part_key(run_id, ""))
        self._run_id = run_id
        self._rank = rank

    def put_manifest(self, manifest: Manifest) -> str:
        """Store a manifest under a new key, and return the key.

        If the answer to an earlier try was lost, the same manifest is stored already, and its key
        is returned.
        """
        body = _body_of(manifest)
        for revision in range(MAX_REVISIONS):
            key = identity.manifest_key(
                self._run_id, save=manifest.save, attempt=manifest.attempt, revision=revision
            )
            if self._put_if_absent(key, body) or self._get(key, most=MAX_MANIFEST_BYTES) == body:
                return key
        raise CheckpointError(f"save {manifest.save} has {MAX_REVISIONS} manifests already")

    def get_manifest(self, key: str) -> Manifest:
        """Return a manifest; DamagedCheckpointError when it is missing or cannot be read.

        Manifests name others by their keys, and only those of this run are followed.
        """
        folders = (
            identity.manifest_prefix(self._run_id),
            identity.partial_prefix(self._run_id),
            identity.node_manifest_prefix(self._run_id),
        )
        if not key.startswith(folders):
            raise DamagedCheckpointError(f"{key[:200]!a} is not a manifest of {self._run_id}")
        return Manifest.from_json(self._get(key, most=MAX_MANIFEST_BYTES, ChecksumMode="ENABLED"))

    def manifest_keys(self) -> list[str]:
        """Return the keys of all manifests, the newest save first."""
        return sorted(
            (key for key in self._keys(identity.manifest_prefix(self._run_id))), reverse=True
        )

    def delete_manifest(self, key: str) -> None:
        """Remove a manifest unless it is already gone."""
        self._delete([key])

    def put_node_manifest(self, manifest: Manifest) -> str:
        """Store the manifest of this node's files under a new key, and return the key.

        Its `save` counts those of the node. A number that is in use, as an agent that was restarted
        finds it, is passed over.
        """
        body = _body_of(manifest)
        for number in range(manifest.save, manifest.save + MAX_REVISIONS):
            key = identity.node_manifest_key(self._run_id, manifest.attempt, self._rank, number)
            if self._put_if_absent(key, body) or self._get(key, most=MAX_MANIFEST_BYTES) == body:
                return key
        raise CheckpointError(f"node {self._rank} has {MAX_REVISIONS} more manifests already")

    def node_manifest_keys(self) -> list[str]:
        """Return the keys of the manifests of single nodes, by attempt, rank and number."""
        return sorted(self._keys(identity.node_manifest_prefix(self._run_id)))

    def put_partial(self, manifest: Manifest) -> None:
        """Store the manifest of a node's unfinished checkpoint; a later one replaces it."""
        with translated():
            self._client.put_object(
                Bucket=self._bucket,
                Key=identity.partial_key(self._run_id, manifest.attempt, self._rank),
                Body=manifest.as_json(),
                ContentType="application/json",
                ChecksumAlgorithm="SHA256",
            )

    def partial_keys(self) -> list[str]:
        """Return the keys of unfinished checkpoints' manifests, the highest attempt first."""
        return sorted(self._keys(identity.partial_prefix(self._run_id)), reverse=True)

    def delete_partials(self) -> None:
        """Remove the manifests of unfinished checkpoints, once a newer whole one is stored."""
        self._delete(self.partial_keys())

    def delete_parts(self, digests: Iterable[str]) -> None:
        """Remove parts that no manifest needs any more."""
        self._delete([identity.part_key(self._run_id, digest) for digest in digests])


def _body_of(manifest: Manifest) -> bytes:
    body = manifest.as_json()
    if len(body) > MAX_MANIFEST_BYTES:  # readers would refuse it
        raise CheckpointError(
            f"the list of the checkpoint's files has {len(body):,} bytes, more than "
            f"{MAX_MANIFEST_BYTES:,}; pack small files into archives"
        )
    return body
