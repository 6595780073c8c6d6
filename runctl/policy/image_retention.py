"""Which images of builds may be deleted: those that nothing has used for long."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from runctl.model.image import StoredImage

# Any of them can be built again, at the cost of a few minutes.
KEPT_UNUSED = timedelta(days=90)


def unused_images(
    images: Sequence[StoredImage], *, recorded: Collection[str] = (), now: datetime
) -> tuple[str, ...]:
    """Return the digests of the images that may be deleted.

    `recorded` are the digests of unsettled runs, whose next attempt will pull them. A push or a
    pull counts as use.
    """
    return tuple(
        image.digest
        for image in images
        if image.digest not in recorded and now - image.used_at >= KEPT_UNUSED
    )
