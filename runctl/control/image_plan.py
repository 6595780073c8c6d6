"""The image of a run before its first launch: found, to be built, or left to the instance."""

from collections.abc import Mapping
from dataclasses import dataclass

from runctl.control.ports.services import Services
from runctl.model.build_context import cache_tag, dockerfile_of, image_tag, wanted_texts
from runctl.model.errors import InvalidRequestError, Problem, RequestError
from runctl.model.image import FoundImage, Image
from runctl.model.image_build import BuildOrder, order_build
from runctl.model.image_reference import parse_image_reference
from runctl.model.request import RunRequest
from runctl.model.secret_references import references_in
from runctl.policy.platforms import choose_platform, problem_with_platforms

NO_COMMAND = (
    "the image has neither CMD nor ENTRYPOINT; give a script or a command, or add one of them to "
    "the Dockerfile"
)


@dataclass(frozen=True, kw_only=True)
class ImagePlan:
    """What is known of a run's image: the image itself, or the build that makes it.

    Neither, if the program needs none, or if only the instance can look the image up.
    """

    image: Image | None = None
    build: BuildOrder | None = None


def plan_image(services: Services, request: RunRequest) -> ImagePlan:
    """Find the image that a request needs, or order its build.

    The same request gives the same plan, until somebody pushes the image. Raises
    InvalidRequestError for what would fail on a machine that is paid for.
    """
    docker = request.docker
    if docker.dockerfile:
        return _plan_build(services, request)
    if docker.archive and (problem := services.objects.problem_with(docker.archive)):
        raise _invalid("archive", problem)
    reference = parse_image_reference(docker.image)
    if reference is None or not services.images.is_here(reference):
        _check_secrets(services, {"login": docker.login})
        return ImagePlan()
    try:
        found = services.images.find(reference)
    except RequestError as exc:
        raise _invalid("image", str(exc)) from exc
    if problem := problem_with_found(request, found):
        raise _invalid("image", problem)
    return ImagePlan(image=found.image)


def problem_with_found(request: RunRequest, found: FoundImage) -> str:
    """Return why a run cannot use an image that exists, with the remedy; empty if it can."""
    program = request.program
    if found.has_command is False and not program.script and not program.command:
        return NO_COMMAND
    return problem_with_platforms(request.resources.instance_types, found.platforms)


def _plan_build(services: Services, request: RunRequest) -> ImagePlan:
    docker, program = request.docker, request.program
    platform = choose_platform(
        request.resources.instance_types, first_type=_type_of_first(services, request)
    )
    try:
        context = services.objects.read_context(program.code, texts=wanted_texts(docker.dockerfile))
        dockerfile = dockerfile_of(context, docker)
        tag = image_tag(context, docker, platform=platform)
    except (RequestError, ValueError) as exc:
        raise _invalid("dockerfile", str(exc)) from exc
    has_program = bool(program.script or program.command)
    if not has_program and dockerfile.has_command(docker.target) is False:
        raise _invalid("dockerfile", NO_COMMAND)
    found = services.images.find_built(tag)
    if found is not None:
        if problem := problem_with_found(request, found):
            raise _invalid("dockerfile", problem)
        return ImagePlan(image=found.image)
    _check_secrets(
        services,
        {
            "login": docker.login,
            **{f"build_secrets.{name}": text for name, text in docker.build_secrets.items()},
        },
    )
    try:
        order = order_build(
            docker,
            services.images.place,
            code=program.code,
            tag=tag,
            cache_tag=cache_tag(dockerfile, docker, platform=platform),
            platform=platform,
            base_images=dockerfile.base_images,
        )
    except LookupError as exc:
        message = "this deployment builds no images for it; deploy runctl again"
        raise _invalid("dockerfile", f"{platform}: {message}") from exc
    return ImagePlan(build=order)


def _check_secrets(services: Services, texts: Mapping[str, str]) -> None:
    """Raise InvalidRequestError for secrets of these fields that a run could not read."""
    found = {
        field: services.secrets.problem_with(reference)
        for field, reference in references_in(texts).items()
    }
    if problems := [
        Problem(f"docker.{field}", f"{texts[field]}: {problem}")
        for field, problem in found.items()
        if problem
    ]:
        raise InvalidRequestError(tuple(problems))


def _type_of_first(services: Services, request: RunRequest) -> str:
    """Return the type of the existing instance for the first attempt, empty without one."""
    instance_id = request.resources.instance_id
    machines = services.fleet.describe([instance_id]) if instance_id else []
    pool = machines[0].pool if machines else None
    return pool.instance_type if pool is not None else ""


def _invalid(field: str, message: str) -> InvalidRequestError:
    return InvalidRequestError((Problem(f"docker.{field}", message),))
