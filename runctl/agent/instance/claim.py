"""What an instance says of itself when it requests credentials."""

from collections.abc import Mapping
from typing import Any

from runctl.agent.instance.imds import Metadata, MetadataError
from runctl.agent.instance.settings import read_settings
from runctl.model.errors import RunctlError


def read_claim() -> Mapping[str, Any]:
    """Return the run and the attempt that this instance takes for its own, if it has them."""
    try:
        settings = read_settings(Metadata())
    except (MetadataError, RunctlError):
        return {}
    return {"run_id": settings.run_id, "attempt": settings.attempt}
