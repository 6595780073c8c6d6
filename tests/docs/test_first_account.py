"""The guide to a first account: its commands, options and tags exist."""

import re
from pathlib import Path

from runctl.model.identity import DEPLOYMENT_TAG, RUN_TAG

GUIDE = (Path(__file__).parents[2] / "docs/how-to/first-account.md").read_text()


def test_the_experiment_selects_the_instance_by_the_tags_of_runs():
    assert f'"{RUN_TAG}": "my-first"' in GUIDE
    assert f'"{DEPLOYMENT_TAG}": "runctl"' in GUIDE


def test_files_named_in_the_guide_exist():
    scripts = re.findall(r"--project examples ([\w/]+\.py)", GUIDE)
    assert scripts
    for script in scripts:
        assert (Path(__file__).parents[2] / "examples" / script).exists()
