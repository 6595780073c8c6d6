"""RecordImage: records the image that a build has made, or ends the run with the build's output."""

import re

from runctl.control.image_plan import problem_with_found
from runctl.control.ports.services import Services
from runctl.control.results import RecordedImage, UnbuiltImage
from runctl.model.errors import NotFoundError
from runctl.model.excerpt import last_lines, shorten_reason
from runctl.model.outcome import RunStatus

_SHOWN_LINES = 15
# The cause of a failed task contains CodeBuild's description of the build, possibly cut off.
_BUILD_ID = re.compile(r'"Id"\s*:\s*"([^"]+)"')
_AT_LIMIT = "AccountLimitExceededException"
_REMEDY = (
    "raise the account's quota of concurrently running builds of CodeBuild, or build the image "
    "with `--build local`"
)


def record_image(
    services: Services, run_id: str, *, tag: str, build_id: str = "", cause: str = ""
) -> RecordedImage | UnbuiltImage:
    """Record the image of that tag for the run; without one, return how the run ends.

    The registry decides, not the build: of two builds of the same content, the one that pushes last
    is refused, and its image exists. May be repeated.
    """
    run = services.ledger.find_run(run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id}")
    if run.ended is not None:
        return UnbuiltImage(run_id=run_id, status=run.ended, reason=run.reason)
    if run.image is None:
        found = services.images.find_built(tag)
        if found is None or (problem := problem_with_found(run.request, found)):
            reason = _explain(services, build_id, cause) if found is None else problem
            return UnbuiltImage(run_id=run_id, status=RunStatus.FAILED, reason=reason)
        services.ledger.record_image(run_id, found.image)
    return RecordedImage(run_id=run_id)


def _explain(services: Services, build_id: str, cause: str) -> str:
    named = _BUILD_ID.search(cause)
    build_id = build_id or (named[1] if named else "")
    build = services.builds.find(build_id) if build_id else None
    if build is None and _AT_LIMIT in cause:
        return shorten_reason(f"the image could not be built: {cause}; {_REMEDY}")
    if build is None:
        return shorten_reason(f"the image could not be built: {cause or 'no build was started'}")
    output = last_lines("\n".join(build.lines), most=_SHOWN_LINES)
    summary = f"the build of the image ended as {build.status.lower()}"
    if build.status == "SUCCEEDED":
        summary = "the build of the image succeeded, but its image is not in the registry"
    return shorten_reason(f"{summary}: {output}" if output else summary)
