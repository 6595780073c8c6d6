"""The command that starts a run of several nodes, as the documentation prints it."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.books import check_machines
from tests.e2e.gangs import site_packages
from tests.e2e.testbed import PROJECT, Testbed

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

COMMAND = (
    "runctl aws train-distributed --script training/train_ddp.py --nodes 4 "
    "--instance-type g4dn.xlarge --spot"
)
IMAGES, PIXELS = 1797, 64


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the example, and with images in place of scikit-learn's."""
    folder = tmp_path / "project"
    data = folder / "training/sklearn/datasets/data"
    data.mkdir(parents=True)
    (folder / "training/sklearn/__init__.py").touch()
    script = (PROJECT / "examples/training/train_ddp.py").read_text()
    # Without the packages that it asks for: there is no index to install them from.
    _, end_of_metadata, program = script.partition("# ///\n")
    assert end_of_metadata
    (folder / "training/train_ddp.py").write_text(program)
    pick = random.Random(7)
    with gzip.open(data / "digits.csv.gz", "wt") as lines:
        for number in range(IMAGES):
            pixels = [pick.randrange(17) for _ in range(PIXELS)]
            print(*pixels, number % 10, sep=",", file=lines)
    (folder / ".runctl.toml").write_text(
        f'[env]\nPYTHONPATH = "{site_packages()}"\nOMP_NUM_THREADS = "1"\n'
    )
    return folder


def test_the_printed_command_trains_on_four_nodes(testbed: Testbed, project: Path) -> None:
    guide = (PROJECT / "docs/how-to/distributed.md").read_text()
    assert f"$ {COMMAND}\n" in guide
    possible = not testbed.cloud.health()["shares_network_because"]
    testbed.cloud.set_knobs(boot_delay=0.05, agent_delay=0.05, own_networks=possible)
    _, *words = COMMAND.split()
    done = subprocess.run(
        [sys.executable, "-m", "runctl.cli.main", "--local", *words, "--name", "printed"],
        cwd=project,
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "RUNCTL_LOCAL_HOME": str(testbed.endpoint.home),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    story = testbed.story("printed")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{story}"
    (attempt,) = testbed.attempts("printed")
    assert len(set(attempt.instance_ids)) == 4
    assert {node.pool.split("/")[0] for node in attempt.nodes} == {"g4dn.xlarge"}
    assert len({node.pool.split("/")[1] for node in attempt.nodes}) == 1
    result = json.loads(testbed.output("printed", "result.json"))
    assert result["steps"] == 20 * (1500 // 60)
    check_machines(testbed, "printed")
