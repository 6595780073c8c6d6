"""Which tests share a worker, what begins first, and the deployed system that folders share."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import botocore.loaders
import pytest
from botocore.client import ClientCreator
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.plugins import permissions

# A shell that starts the tests in the background has SIGINT ignored, by their programs, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a busy machine.
settings.register_profile("runctl", deadline=None)
settings.load_profile("runctl")

# Each session of botocore parses the models of its services anew, some 0.2 s for each client; the
# files do not change, so all sessions of a test process read them through one loader.
botocore.loaders.create_loader = cache(botocore.loaders.create_loader)
# Nor do a service's methods, which make up half of what a client costs.
make_methods = ClientCreator._create_methods
made: dict[str, dict[str, Any]] = {}


def create_methods(creator: ClientCreator, service: Any) -> dict[str, Any]:
    """Return the methods of a service's clients, made by the first of them."""
    if service.service_name not in made:
        made[service.service_name] = make_methods(creator, service)
    return dict(made[service.service_name])


ClientCreator._create_methods = create_methods


def pytest_configure(config: pytest.Config) -> None:
    """Find the permissions that no end-to-end test uses."""
    permissions.install(config)


@contextmanager
def one_for_all_workers(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """Yield a path that all workers share, to one of them at a time; the first finds it missing."""
    base = factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield shared / name


@pytest.fixture(scope="session")
def testbed(tmp_path_factory: pytest.TempPathFactory):
    """Deploy the real template to a fresh local cloud, and take it down at the end.

    The permissions of every role are enforced.
    """
    from runctl.local import daemon
    from runctl.local.deploy import deploy, synthesize
    from tests.e2e.role_use import unlisted, used_actions
    from tests.e2e.testbed import PROJECT, Testbed

    home: Path = tmp_path_factory.mktemp("cloud")
    base = tmp_path_factory.getbasetemp()
    base.chmod(0o755)  # programs of another user pass through it, if we are root
    built = [(PROJECT / "build" / name).resolve() for name in ("wheels", "frameworks")]
    endpoint = daemon.start(
        home,
        die_with_parent=True,
        own_disks=True,
        # Tests open a trainer's gate by a file below their tmp_path.
        shared_folders=[base, *built],
        environment={"SFN_WAIT_SCALE": "0.02"},
    )
    try:
        context = {"secrets": "e2e/*", "parameters": "/e2e/*"}
        with one_for_all_workers(tmp_path_factory, "testbed.cdk.out") as assembly:
            if not assembly.exists():
                partial = assembly.with_suffix(".partial")
                synthesize(endpoint, project=PROJECT, assembly=partial, context=context)
                partial.rename(assembly)
        deploy(endpoint, project=PROJECT, context=context, assembly=assembly)
        deployed = Testbed(endpoint)
        yield deployed
        permissions.record(deployed)
        # Whatever the tests of this session made a role do, the list of its calls must have.
        assert unlisted(used_actions(deployed)) == {}
    finally:
        daemon.stop(home)


# What is set up once for a whole folder (the synthesized templates, the frameworks' models) should
# not be set up by every worker.
TOGETHER = ("training", "local", "machine", "workflow", "infra")
# The end-to-end tests in five parts, so that none of them takes longer than all other tests of a
# worker; the parts of one worker share its local cloud.
INTERRUPTIONS, KINDS, OTHERS = "e2e interruptions", "e2e kinds", "e2e others"
GANGS, MACHINES = "e2e gangs", "e2e machines"
STORIES = {
    "e2e/test_interruptions.py": INTERRUPTIONS,
    "e2e/test_redrive.py": INTERRUPTIONS,
    "e2e/test_starting_and_stopping.py": INTERRUPTIONS,
    "e2e/test_moments.py": INTERRUPTIONS,
    "e2e/test_notifying_and_reconciling.py": INTERRUPTIONS,
    "e2e/test_detectors.py": MACHINES,
    "e2e/test_evaluations.py": KINDS,
    "e2e/test_existing_instances.py": MACHINES,
    "e2e/test_fallback.py": MACHINES,
    "e2e/test_full_disk.py": MACHINES,
    "e2e/test_gangs.py": GANGS,
    "e2e/test_gang_command.py": GANGS,
    "e2e/test_inputs.py": MACHINES,
    "e2e/test_processing.py": KINDS,
    "e2e/test_refused_launches.py": MACHINES,
    "e2e/test_services.py": KINDS,
    "e2e/test_slow_boot.py": MACHINES,
    "e2e/test_sweep.py": KINDS,
    "e2e/test_warm_instances.py": KINDS,
    # The same undisturbed runs of the frameworks are what it compares with.
    "agent/test_trainer_contract.py": "training",
}
# The longest first, so that no worker is left with one of them at the end.
FIRST = (
    INTERRUPTIONS,
    OTHERS,
    MACHINES,
    GANGS,
    KINDS,
    "machine",
    "training",
    "image",
    "cli/test_on_the_local_cloud.py",
    "wheel",
    "agent",
    "local",
    "infra",
    "workflow",
)
TESTS = Path(__file__).parent


def group_of(path: Path) -> str:
    """Return the name of the group that a file's tests belong to."""
    inside = path.relative_to(TESTS)
    folder = inside.parts[0]
    alone = folder if folder in TOGETHER else inside.as_posix()
    return STORIES.get(inside.as_posix(), OTHERS if folder == "e2e" else alone)


def rank_of(path: Path) -> int:
    """Return when a file's tests should begin."""
    group = group_of(path)
    folder = path.relative_to(TESTS).parts[0]
    name = group if group in FIRST else folder
    return FIRST.index(name) if name in FIRST else len(FIRST)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first; within a group the random order stands."""
    items.sort(key=lambda item: rank_of(item.path))


class Groups(LoadScopeScheduling):
    """Gives each group to one worker, in the order in which they were sorted.

    Not by `xdist_group`: xdist 3.8 writes the group into a test's id, where pytest 9.2 ignores it.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(TESTS.parent / nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    """Hand the tests out in groups."""
    config.option.loadscopereorder = False
    return Groups(config, log)
