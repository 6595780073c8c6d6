"""The benchmark of environments drives the product as an agent does.

A step that fails ends the benchmark, so all of runctl's own steps run here, on a small package.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.checkpoint import object_server
from bench.environment import COMMIT, RESTORE, step, stored_manifest

pytestmark = pytest.mark.slow

WHEELS = Path(__file__).parents[2] / "build/wheels"
PACKAGE = "annotated-doc"


def test_environment_that_was_built_and_committed_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(WHEELS))
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").touch()
    (project / "requirements.txt").write_text(f"{PACKAGE}\n")
    with object_server(tmp_path / "objects") as endpoint:
        run = {"project": str(project), "endpoint": endpoint, "run": "run-0"}
        ours = {**run, "target": str(tmp_path / "ours")}
        built = step("runctl: build", ours)
        committed = step(COMMIT, {**ours, "within": 600, "gives_way": False})
        manifest = tmp_path / "manifest.json"
        manifest.write_bytes(stored_manifest(endpoint, tmp_path / "ours"))
        restored = step(RESTORE, {**run, "target": str(tmp_path / "restored")})
        plain = {**run, "manifest": str(manifest), "target": str(tmp_path / "plain")}
        fetched = step("plain parallel GETs", plain)
    for measured in (built, committed, restored, fetched):
        assert measured["seconds"] > 0
        assert measured["peak_mib"] > 0
    assert modules(tmp_path / "restored") == modules(tmp_path / "ours")
    assert modules(tmp_path / "plain") == modules(tmp_path / "ours")


def modules(folder: Path) -> set[str]:
    """Return the names of the package's modules."""
    found = {path.name for path in folder.rglob("annotated_doc/*.py")}
    assert found
    return found
