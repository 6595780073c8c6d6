"""The build hook: the CDK application travels in the wheel, inside of the package."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Where they are in a wheel; runctl/application.py finds them there.
FOLDER = "runctl/cdk_app"
APPLICATION = (
    "app.py",
    "cdk.json",
    "examples/training",
    "instance_scripts",
    "lambdas",
    "package-lock.json",
    "package.json",
    "stacks",
)


class ApplicationHook(BuildHookInterface[Any]):
    """Adds the application to a wheel; an editable installation uses the checkout's."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Map the application's files to their place in the wheel."""
        if version == "standard":
            build_data["force_include"] |= {name: f"{FOLDER}/{name}" for name in APPLICATION}
