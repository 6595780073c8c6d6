"""The platform of an image, from the instance types that a run may use.

The platform follows from a type's name alone (`runctl.model.pool.machine_kind`): a `g` among the
options after the generation is Graviton, and so is the family a1.
"""

from collections.abc import Collection, Sequence

from runctl.model.pool import MachineKind, machine_kind

AMD64, ARM64 = "linux/amd64", "linux/arm64"


def platform_of(instance_type: str) -> str:
    """Return the platform of the machines of a type."""
    return ARM64 if machine_kind(instance_type) is MachineKind.ARM_CPU else AMD64


def choose_platform(instance_types: Sequence[str], *, first_type: str = "") -> str:
    """Return the platform with the most of a run's types, that of the first type among equals.

    `first_type` is that of an existing instance for the first attempt, which decides.
    """
    platforms = [platform_of(name) for name in (instance_types if not first_type else [first_type])]
    return max(platforms, key=platforms.count)


def types_for(instance_types: Sequence[str], platform: str) -> tuple[str, ...]:
    """Return the types that run images of a platform; all if it is not known."""
    return tuple(name for name in instance_types if not platform or platform_of(name) == platform)


def problem_with_platforms(instance_types: Sequence[str], platforms: Collection[str]) -> str:
    """Return why none of a run's types can run an image, with the remedy; empty if one can."""
    if not platforms or any(platform_of(name) in platforms for name in instance_types):
        return ""
    wanted = sorted({platform_of(name) for name in instance_types})
    return (
        f"the image is for {', '.join(sorted(platforms))}, but the run's instance types need "
        f"{', '.join(wanted)}; build it for that platform, or change instance_types"
    )
