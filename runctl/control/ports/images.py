"""The ports of the registry of images, and of their builds."""

from collections.abc import Sequence
from typing import Protocol

from runctl.model.image import FoundImage, StoredImage
from runctl.model.image_build import BuildPlace, EndedBuild
from runctl.model.image_reference import ImageReference


class Images(Protocol):
    """The registry: the deployment's own repository of builds, and others in its region."""

    @property
    def place(self) -> BuildPlace:
        """Where this deployment builds images."""
        ...

    def is_here(self, reference: ImageReference) -> bool:
        """Whether this registry can look an image up."""
        ...

    def find_built(self, tag: str) -> FoundImage | None:
        """Return the image of that tag in the repository of builds, or None."""
        ...

    def find(self, reference: ImageReference) -> FoundImage:
        """Return an image; raises RequestError if it is missing or may not be read."""
        ...

    def stored(self) -> list[StoredImage]:
        """Return the images of the repository of builds."""
        ...

    def delete(self, digests: Sequence[str]) -> list[str]:
        """Delete images of the repository of builds, which may be gone; return what failed."""
        ...


class Builds(Protocol):
    """CodeBuild."""

    def find(self, build_id: str) -> EndedBuild | None:
        """Return a build with the last lines of its log; None for one that is not known."""
        ...
