"""On a terminal, a live display redraws its place while a command runs, in colours."""

import sys

from docs import record

PROGRAM = """
import sys, time
from rich.live import Live
from rich.text import Text
from runctl.cli.display.console import open_console
from runctl.cli.display.streams import guarded_streams

with guarded_streams():
    console = open_console(stderr=True)
    with Live(console=console, auto_refresh=False) as live:
        for number in range(4):
            live.update(Text(f"epoch {number}", style="green"), refresh=True)
        console.print(Text("the story", style="bold"))
        print("printed\\x1b[2J")
"""


def test_a_live_display_stays_in_its_place_below_what_is_printed():
    recording = record.record([sys.executable, "-c", PROGRAM], columns=60, rows=12, prompt="show")
    assert recording.exit_code == 0
    shown = [line for line in recording.frames[-1].lines if line]
    assert [[(span.text, span.color) for span in line] for line in shown] == [
        [("$ show", "default")],
        [("the story", "default")],
        [("printed", "default")],
        [("epoch 3", "green")],
    ]
    assert shown[1][0].is_bold
