"""References to the contract's variables are replaced in arguments, and nothing else is."""

from __future__ import annotations

import pytest

from runctl.model.contract import expand

VARIABLES = {
    "RUNCTL_CHECKPOINT_DIR": "/saved $RUNCTL_ATTEMPT",
    "RUNCTL_RESUME_STEP": "",
    "HOME": "/root",
}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("$RUNCTL_CHECKPOINT_DIR", "/saved $RUNCTL_ATTEMPT"),  # once, and never divided
        ("--to=${RUNCTL_CHECKPOINT_DIR}x", "--to=/saved $RUNCTL_ATTEMPTx"),
        ("$RUNCTL_CHECKPOINT_DIR/$RUNCTL_RESUME_STEP/", "/saved $RUNCTL_ATTEMPT//"),
        ("$RUNCTL_PARTIAL_DIR", ""),
        ("$$RUNCTL_CHECKPOINT_DIR", "$RUNCTL_CHECKPOINT_DIR"),
        ("$$${RUNCTL_RESUME_STEP}", "$${RUNCTL_RESUME_STEP}"),
        ("$HOME `ls` $(ls) *", "$HOME `ls` $(ls) *"),
        ("$RUNCTL_CHECKPOINT_DIRS", "$RUNCTL_CHECKPOINT_DIRS"),
        ("${RUNCTL_RESUME_STEP:+--resume}", "${RUNCTL_RESUME_STEP:+--resume}"),
        ("", ""),
    ],
)
def test_reference_is_replaced_and_nothing_else(word: str, expected: str) -> None:
    assert expand([word], VARIABLES) == [expected]
