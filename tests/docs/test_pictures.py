"""The pictures of the README show what is there, in a light and in a dark theme."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from docs import record

PROJECT = Path(__file__).parents[2]
ASSETS = PROJECT / "docs/assets"
SVG = "{http://www.w3.org/2000/svg}"
PROGRAM = """
import os, sys, time
print("\\x1b[32mgreen\\x1b[0m plain \\x1b[2mfaint\\x1b[0m <&>", flush=True)
for number in range(3):
    print(f"\\rcount {number}", end="", flush=True)
    time.sleep(1)
print()
print(os.get_terminal_size().columns)
sys.exit(int(sys.argv[1]))
"""


def texts(drawn: str) -> list[str]:
    """Return every text in a picture."""
    return ["".join(each.itertext()) for each in ElementTree.fromstring(drawn).iter(f"{SVG}text")]


@pytest.fixture(scope="module")
def recording() -> record.Recording:
    """Record a small program."""
    return record.record([sys.executable, "-c", PROGRAM, "3"], columns=60, rows=10, prompt="count")


def test_a_recording_has_what_the_screen_showed_and_the_exit_code(recording: record.Recording):
    last = recording.frames[-1].lines
    assert [span.text for span in last[0]] == ["$ count"]
    assert [(span.text, span.color) for span in last[1]] == [
        ("green", "green"),
        ("plain", "default"),
        ("faint", "faint"),
        ("<&>", "default"),
    ]
    assert [span.text for span in last[3]] == ["60"]
    assert recording.exit_code == 3


def test_a_line_that_is_overwritten_is_animated_through_its_states(recording: record.Recording):
    drawn = record.draw(recording, columns=60, title="count", speed=1)
    # A busy machine may record fewer states than there were, but none twice or out of order.
    counts = [text for text in texts(drawn) if text.startswith("count ")]
    assert counts[-1] == "count 2"
    assert len(counts) > 1
    assert counts == sorted(set(counts))
    assert len(re.findall(r"@keyframes", drawn)) >= 1
    # Without animation the last state is the one in view: states are a picture's width apart.
    width = int(ElementTree.fromstring(drawn).attrib["width"])
    states = len(record.changes_of(recording.frames, 2))
    assert f"#r2{{transform:translateX(-{(states - 1) * width}px)" in drawn


@pytest.mark.parametrize("picture", sorted(ASSETS.glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_follows_the_theme_and_loads_nothing(picture: Path):
    drawn = picture.read_text()
    assert ElementTree.fromstring(drawn).tag == f"{SVG}svg"
    assert "prefers-color-scheme" in drawn
    assert re.findall(r"(?:href|src)=\"(?!#)|url\((?!#)|@import|<script", drawn) == []


def test_the_diagram_names_the_states_of_the_workflow():
    drawn = (ASSETS / "architecture.svg").read_text()
    workflow = yaml.safe_load((PROJECT / "stacks/workflows/train.asl.yaml").read_text())
    shown = re.findall(r'class="state".*?<text[^>]*>(\w+)</text>', drawn)
    assert shown[0] == workflow["StartAt"]
    assert set(shown) <= set(workflow["States"])


def test_the_recording_is_of_a_demo_that_was_interrupted_three_times():
    shown = texts((ASSETS / "demo.svg").read_text())
    assert "$ runctl demo" in shown
    interruptions = {text for text in shown if text.startswith("EC2 takes i-")}
    assert len(interruptions) == 3
    assert any(text.startswith("The final weights are bit for bit those") for text in shown)
