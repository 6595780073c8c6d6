"""The store of environments: those that all runs of a deployment share, and those of an area.

Instances write each object once, and the bucket refuses to replace it. What an instance reads is
not trusted: a manifest is named by its digest, a run records the digest of the one it uses, and
every part is verified against the manifest.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import date
from typing import Any

from runctl.aws.parts import PartStore
from runctl.model import identity
from runctl.model.checkpoint import Manifest
from runctl.model.errors import CheckpointError, DamagedCheckpointError
from runctl.model.manifest_rules import MAX_MANIFEST_BYTES, digest
from runctl.model.stored_environment import MAX_DOCUMENT_BYTES, StoredEnvironment


@dataclass(frozen=True, kw_only=True)
class RunGeneration:
    """A run, and how often its recorded versions were dropped."""

    run_id: str
    generation: int = 0


class EnvironmentStore(PartStore):
    """The environments in the deployment's bucket; safe to share between threads.

    Every call may be repeated: what is stored already, possibly by a try whose answer was lost,
    stays as it is. Each raises TransientError, RefusedError or UnexpectedAwsError if S3 fails.
    """

    def __init__(self, client: Any, *, bucket: str, area: str = "") -> None:
        """Use the environments of an area, else those that all runs share."""
        prefix = f"{identity.environments_prefix(area)}parts/"
        super().__init__(client, bucket=bucket, part_prefix=prefix, write_once=True)
        self._area = area

    def of_area(self, area: str) -> "EnvironmentStore":
        """Return the store of the environments of an area."""
        return EnvironmentStore(self._client, bucket=self._bucket, area=area)

    def put_manifest(self, fingerprint: str, manifest: Manifest) -> str:
        """Store a manifest and return its digest; CheckpointError if it is too large."""
        body = manifest.as_json()
        if len(body) > MAX_MANIFEST_BYTES:  # readers would refuse it
            raise CheckpointError(
                f"the list of the environment's files has {len(body):,} bytes, more than "
                f"{MAX_MANIFEST_BYTES:,}"
            )
        sha256 = hashlib.sha256(body).hexdigest()
        self._put_if_absent(self._manifest_key(fingerprint, sha256), body)
        return sha256

    def get_manifest(self, fingerprint: str, sha256: str) -> Manifest:
        """Return the manifest with this digest.

        Raises DamagedCheckpointError if it is missing, does not have the digest, or breaks a rule
        of `manifest_rules`.
        """
        key = self._manifest_key(fingerprint, sha256)
        body = self._get(key, most=MAX_MANIFEST_BYTES)
        if hashlib.sha256(body).hexdigest() != sha256:
            raise DamagedCheckpointError(f"{key} does not have the digest that it is named by")
        return Manifest.from_json(body)

    def current(self, fingerprint: str) -> StoredEnvironment | None:
        """Return the environment that new runs use; None if there is none.

        Raises DamagedCheckpointError if the object that names it cannot be read.
        """
        key = identity.current_environment_key(fingerprint, area=self._area)
        body = self._find(key, most=MAX_DOCUMENT_BYTES)
        return None if body is None else StoredEnvironment.from_json(body)

    def make_current(self, fingerprint: str, stored: StoredEnvironment) -> bool:
        """Let new runs use an environment, unless they use one already; return whether they do."""
        key = identity.current_environment_key(fingerprint, area=self._area)
        return self._put_if_absent(key, stored.as_json())

    def note_use(self, fingerprint: str, day: date) -> None:
        """Leave a marker that an environment was used on a day."""
        self._put_if_absent(identity.environment_use_key(fingerprint, day, area=self._area), b"")

    def used_by(self, run: RunGeneration, fingerprint: str) -> str | None:
        """Return the digest of the only manifest that a run accepts; None if it has used none.

        Raises DamagedCheckpointError if the record cannot be read.
        """
        key = self._record_key(run, fingerprint)
        body = self._find(key, most=MAX_DOCUMENT_BYTES)
        if body is None:
            return None
        try:
            return digest(json.loads(body)["digest"])
        except (KeyError, TypeError, ValueError, RecursionError) as exc:
            raise DamagedCheckpointError(f"{key} cannot be read: {exc}") from exc

    def record_use_by(self, run: RunGeneration, fingerprint: str, sha256: str) -> str:
        """Record the digest that a run uses, unless one is recorded; return the recorded one."""
        key = self._record_key(run, fingerprint)
        document = {"fingerprint": fingerprint, "digest": sha256}
        if self._put_if_absent(key, json.dumps(document, separators=(",", ":")).encode()):
            return sha256
        return self.used_by(run, fingerprint) or sha256

    def _manifest_key(self, fingerprint: str, sha256: str) -> str:
        return identity.environment_manifest_key(fingerprint, sha256, area=self._area)

    def _record_key(self, run: RunGeneration, fingerprint: str) -> str:
        return identity.used_environment_key(
            run.run_id, fingerprint, run.generation, area=self._area
        )
