"""The picture of a state machine, drawn from its definition: states below each other.

The states of a Map's processor are below the Map, indented. An arrow to the next state is straight.
Every other target has a lane of its own, which all arrows to it share: forward on the right, back
on the left. Dashed lanes are taken after an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from stacks.workflows.definition import all_states, inner_definitions

WIDTH, HEIGHT, GAP, TOP, INDENT = 360, 44, 20, 40, 24
LANE = 16
CONDITION_WIDTH = 58

STYLE = """\
svg { --text: #1f2328; --muted: #59636e; --back: #ffffff; --line: #59636e; --error: #cf222e; \
--task: #ddf4ff; --choice: #fff8c5; --end: #dafbe1; --fail: #ffebe9; }
@media (prefers-color-scheme: dark) { svg { --text: #f0f6fc; --muted: #9198a1; --back: #0d1117; \
--line: #9198a1; --error: #ff7b72; --task: #0c2d6b; --choice: #3b2300; --end: #04260f; \
--fail: #490202; } }
text { font: 14px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; \
fill: var(--text); }
.small { font-size: 11px; fill: var(--muted); }
.page { fill: var(--back); }
.Task, .Wait, .Map { fill: var(--task); } .Choice { fill: var(--choice); }
.Succeed { fill: var(--end); } .Fail { fill: var(--fail); }
rect, path { stroke: var(--line); stroke-width: 1.5; } .page { stroke: none; }
path { fill: none; } .error { stroke: var(--error); stroke-dasharray: 5 4; }
.head { fill: var(--line); stroke: none; } .error-head { fill: var(--error); stroke: none; }
"""


@dataclass(frozen=True)
class Edge:
    """A transition; `condition` is that of a choice."""

    source: str
    target: str
    is_error: bool = False
    condition: str = ""


@dataclass(frozen=True)
class Lane:
    """The line that all transitions to a target share, unless they come from right above it."""

    target: str
    is_error: bool
    rows: tuple[int, ...]
    to: int

    @property
    def is_back(self) -> bool:
        """Whether it leads up."""
        return max(self.rows) > self.to

    def overlaps(self, other: "Lane") -> bool:
        """Return whether two lanes cannot share a column."""
        mine, theirs = sorted((*self.rows, self.to)), sorted((*other.rows, other.to))
        return mine[0] <= theirs[-1] and theirs[0] <= mine[-1]


def edges(definition: Mapping[str, Any]) -> list[Edge]:
    """Return the transitions of a definition, errors after the others of a state."""
    return [edge for name, state in all_states(definition) for edge in _edges(name, state)]


def _edges(name: str, state: Mapping[str, Any]) -> Iterator[Edge]:
    for inner in inner_definitions(state):
        yield Edge(name, inner["StartAt"])
    for choice in state.get("Choices", []):
        condition = choice["Condition"].removeprefix("{% ").removesuffix(" %}")
        yield Edge(name, choice["Next"], condition=condition.replace("$states.input.", ""))
    if "Default" in state:
        yield Edge(name, state["Default"], condition="otherwise")
    if "Next" in state:
        yield Edge(name, state["Next"])
    # Different errors may lead to the same state.
    for target in dict.fromkeys(rule["Next"] for rule in state.get("Catch", [])):
        if target != state.get("Next"):
            yield Edge(name, target, is_error=True)


def order(definition: Mapping[str, Any]) -> list[str]:
    """Return the states in their order, those that only an error leads to last.

    The states of a processor follow their Map.
    """
    return list(_depths(definition))


def _depths(definition: Mapping[str, Any], depth: int = 0) -> dict[str, int]:
    """Return the states in their order, each with the number of Maps that it is in."""
    states = definition["States"]
    found = [edge for name, state in states.items() for edge in _edges(name, state)]
    regular = {definition["StartAt"]}
    while (
        new := {edge.target for edge in found if edge.source in regular and not edge.is_error}
        - regular
    ):
        regular |= new
    depths = {}
    for name in sorted(states, key=lambda name: name not in regular):
        depths[name] = depth
        for inner in inner_definitions(states[name]):
            depths |= _depths(inner, depth + 1)
    return depths


def draw(definition: Mapping[str, Any], subject: str = "a run") -> str:
    """Return the picture as SVG."""
    depths, found = _depths(definition), edges(definition)
    names, states = list(depths), dict(all_states(definition))
    rows = {name: row for row, name in enumerate(names)}
    columns = lane_columns(definition)
    left = {lane: column for lane, column in columns.items() if lane.is_back}
    right = {lane: column for lane, column in columns.items() if not lane.is_back}
    x = LANE * (max(left.values(), default=0) + 3)
    width = x + WIDTH + LANE * (max(right.values(), default=0) + 3)
    height = _middle(len(names) - 1) + HEIGHT
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
        f'<title id="title">The state machine of {escape(subject)}</title>',
        f'<desc id="desc">{escape("; ".join(map(_say, found)))}.</desc>',
        f"<style>\n{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        *(
            _state(name, states[name], found, x, (rows[name], depths[name] * INDENT))
            for name in names
        ),
        *(
            _arrow(x + WIDTH // 2, rows[edge.source])
            for edge in found
            if rows[edge.target] == rows[edge.source] + 1 and not edge.is_error
        ),
        *(_lane(lane, x - LANE * (column + 1), x) for lane, column in left.items()),
        *(
            _lane(lane, x + WIDTH + LANE * (column + 1), x + WIDTH)
            for lane, column in right.items()
        ),
        "</svg>\n",
    ]
    return "\n".join(parts)


def lane_columns(definition: Mapping[str, Any]) -> dict[Lane, int]:
    """Return the lanes, each with its column on its side, counted from the states."""
    rows = {name: row for row, name in enumerate(order(definition))}
    lanes = list(_lanes(edges(definition), rows))
    return {
        **_columns([lane for lane in lanes if lane.is_back]),
        **_columns([lane for lane in lanes if not lane.is_back]),
    }


def _say(edge: Edge) -> str:
    suffix = " after an error" if edge.is_error else ""
    return f"{edge.source} to {edge.target}{suffix}"


def _lanes(found: list[Edge], rows: Mapping[str, int]) -> Iterator[Lane]:
    sources: dict[tuple[str, bool, bool], list[int]] = {}
    for edge in found:
        source, target = rows[edge.source], rows[edge.target]
        if target != source + 1 or edge.is_error:
            key = (edge.target, edge.is_error, source > target)
            sources.setdefault(key, []).append(source)
    for (target, is_error, _), starts in sources.items():
        yield Lane(target, is_error, tuple(sorted(set(starts))), rows[target])


def _columns(lanes: list[Lane]) -> dict[Lane, int]:
    """Assign a column to each lane, short ones next to the states."""
    columns: dict[Lane, int] = {}
    for lane in sorted(lanes, key=lambda lane: (lane.is_error, _length(lane), lane.target)):
        taken = {column for other, column in columns.items() if lane.overlaps(other)}
        columns[lane] = next(column for column in range(len(lanes)) if column not in taken)
    return columns


def _length(lane: Lane) -> int:
    return max(abs(row - lane.to) for row in lane.rows)


def _middle(row: int) -> int:
    return TOP + row * (HEIGHT + GAP)


def _state(
    name: str, state: Mapping[str, Any], found: list[Edge], x: int, place: tuple[int, int]
) -> str:
    row, indent = place
    y = _middle(row) - HEIGHT // 2
    conditions = "; ".join(
        f"{edge.target}: {edge.condition}"
        for edge in found
        if edge.source == name and edge.condition and edge.condition != "otherwise"
    )
    detail = conditions or state["Type"].lower()
    if len(detail) > CONDITION_WIDTH:
        detail = detail[: CONDITION_WIDTH - 1].rstrip() + "…"
    title = escape(conditions or state.get("Comment", ""))
    return (
        f'<g><title>{title}</title><rect class="{state["Type"]}" x="{x + indent}" y="{y}" '
        f'width="{WIDTH - 2 * indent}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{x + indent + 12}" y="{y + 19}">{escape(name)}</text>'
        f'<text class="small" x="{x + indent + 12}" y="{y + 35}">{escape(detail)}</text></g>'
    )


def _arrow(x: int, row: int) -> str:
    start, end = _middle(row) + HEIGHT // 2, _middle(row + 1) - HEIGHT // 2
    return f'<path d="M{x} {start}V{end - 6}"/><path class="head" d="M{x - 5} {end - 8}h10l-5 8z"/>'


def _lane(lane: Lane, x: int, side: int) -> str:
    """Draw a lane at `x`; it leaves the states a bit below their middle and enters above it."""
    end = _middle(lane.to) - 8
    starts = [_middle(row) + 8 for row in lane.rows]
    first, last = min((*starts, end)), max((*starts, end))
    outward = 1 if x > side else -1
    branches = "".join(f"M{side} {start}H{x}" for start in starts)
    style, head = ("error", "error-head") if lane.is_error else ("", "head")
    tip = side + 8 * outward
    return (
        f'<path class="{style}" d="{branches}M{x} {first}V{last}M{x} {end}H{tip}"/>'
        f'<path class="{head}" d="M{tip} {end - 5}v10l{-8 * outward} -5z"/>'
    )
