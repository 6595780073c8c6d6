"""Whether the instances of a subnet reach AWS, by the routes and endpoints of its VPC."""

from collections.abc import Iterable

ANYWHERE = "0.0.0.0/0"
# What an instance calls: without a route to the internet, each needs an endpoint.
NEEDED_ENDPOINTS = (
    "dynamodb", "ec2messages", "ecr.api", "ecr.dkr", "lambda", "logs", "s3", "ssm", "ssmmessages",
    "states", "sts",
)  # fmt: skip


def problem_with_routes(
    default_routes: Iterable[tuple[str, bool]],
    endpoints: Iterable[str],
    *,
    has_public_address: bool,
) -> str:
    """Return why instances of a subnet would not reach AWS; empty if they would.

    `default_routes` are the targets of the routes to anywhere, and whether each exists.
    """
    routes = list(default_routes)
    active = [target for target, is_active in routes if is_active]
    missing = sorted(set(NEEDED_ENDPOINTS) - set(endpoints))
    if not missing:
        return ""
    if not active:
        gone = ", ".join(target for target, _ in routes)
        why = f"its route out leads to {gone}, which is gone" if gone else "it has no route out"
        return f"{why}, and its VPC has no endpoint for {', '.join(missing)}"
    if all(target.startswith("igw-") for target in active) and not has_public_address:
        return (
            f"its route out leads to {', '.join(active)}, which only instances with a public "
            "address can use, and the launch templates give them none"
        )
    return ""
