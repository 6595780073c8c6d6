"""The interpreter of a script; a script without one is reported with the remedy."""

from __future__ import annotations

import pytest

from runctl.model.script_kinds import ScriptKind, kind_of_script, problem_with_script


@pytest.mark.parametrize(
    ("path", "head", "kind"),
    [
        ("train.py", b"", ScriptKind.PYTHON),
        ("train.py", b"#!/usr/bin/env python", ScriptKind.PYTHON),
        ("train", b"import x", ScriptKind.PYTHON),
        ("app.pyz", b"PK", ScriptKind.PYTHON),
        ("a/go.sh", b"echo", ScriptKind.BASH),
        ("go.sh", b"#!/bin/dash\n", ScriptKind.ITSELF),
        ("train", b"#!/usr/bin/perl\n", ScriptKind.ITSELF),
        ("train.R", b"#!/usr/bin/env Rscript\n", ScriptKind.ITSELF),
        ("train.txt", b"#!/bin/sh\n", ScriptKind.ITSELF),
        ("train", b"\x7fELF\x02", ScriptKind.ITSELF),
    ],
)
def test_script_is_started_by_what_it_is(path: str, head: bytes, kind: ScriptKind) -> None:
    assert kind_of_script(path, head) is kind
    assert problem_with_script(path, head) == ""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nb/train.ipynb", "`jupyter nbconvert --to script train.ipynb`, which writes train.py"),
        ("train.IPYNB", "is a notebook"),
        ("notes.txt", "is not a program (.txt)"),
        ("config.yaml", "is not a program (.yaml)"),
        ("model.safetensors", "is not a program"),
        ("fit.R", "runctl aws train --command Rscript fit.R"),
        ("fit.jl", "runctl aws train --command julia fit.jl"),
        ("fit.odd", "runctl aws train --command PROGRAM fit.odd"),
    ],
)
def test_script_that_cannot_be_started_is_reported_with_its_remedy(
    path: str, expected: str
) -> None:
    assert expected in problem_with_script(path, b"text")
