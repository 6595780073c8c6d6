"""The names of a deployment's parts."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Installed:
    """The names of a deployment's parts, as its parameter says them.

    The buckets and the ARNs of secrets, parameters and keys, which may be patterns, are those of
    the owner that runs may use; `writable_buckets` are among the `readable_buckets`.
    """

    name: str
    region: str
    account: str
    bucket: str
    table: str
    log_group: str
    topic_arn: str
    dead_letters: str
    security_group: str
    command_document: str
    start_document: str
    machines: Mapping[str, str]
    launch_templates: Mapping[str, str]
    gang_templates: Mapping[str, str]
    subnets: Mapping[str, str]
    instance_types: tuple[str, ...] = ()
    readable_buckets: tuple[str, ...] = ()
    writable_buckets: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    secret_keys: tuple[str, ...] = ()

    def templates(self) -> Mapping[str, str]:
        """Return all launch templates by a name for each."""
        gangs = {f"{kind} (gang)": found for kind, found in self.gang_templates.items()}
        return {**self.launch_templates, **gangs}
