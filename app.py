"""The CDK app: three stacks, each built on the previous one."""

import sys
from pathlib import Path

from aws_cdk import App, Environment

from stacks.assets import build_agent, build_functions, build_plotter, build_sampler
from stacks.compute import ComputeStack
from stacks.errors import BadContextError
from stacks.orchestration import OrchestrationStack
from stacks.settings import read_settings
from stacks.storage import StorageStack


def compose(app: App) -> None:
    """Add the stacks to the app."""
    settings = read_settings(app.node)
    # In the folder where the CDK was started: that of an installed application may be read-only.
    build = Path.cwd() / "build"
    env = Environment(account=settings.account, region=settings.region)
    storage = StorageStack(app, f"{settings.name}-storage", settings=settings, env=env)
    compute = ComputeStack(
        app,
        f"{settings.name}-compute",
        settings=settings,
        storage=storage,
        agent=build_agent(build=build, bytecode=settings.bytecode),
        env=env,
    )
    OrchestrationStack(
        app,
        f"{settings.name}-orchestration",
        settings=settings,
        storage=storage,
        compute=compute,
        functions=build_functions(build=build),
        sampler=build_sampler(build=build, platform=settings.function_platform),
        plotter=build_plotter(build=build, platform=settings.function_platform),
        env=env,
    )


if __name__ == "__main__":
    # `python -m stacks.check` validates more strictly; here it would double the time of a synth.
    app = App(
        analytics_reporting=False,
        builtin_cloud_formation_validation=False,
        stack_traces=False,
        tree_metadata=False,
    )
    try:
        compose(app)
    except BadContextError as exc:
        sys.exit(f"error: {exc}")
    app.synth()
