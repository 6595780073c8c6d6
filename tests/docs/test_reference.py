"""The generated pages and pictures agree with the code."""

import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs.reference.state_machine import draw, edges, lane_columns, order
from runctl.model.request_parsing import parse_request
from stacks.workflows.definition import read_definition
from tests.infra.mapping import mapping_definition

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def load_generator():
    spec = importlib.util.spec_from_file_location("generate", REFERENCE / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", load_generator().pages(), ids=lambda path: path.name)
def test_a_generated_page_is_up_to_date(path):
    assert path.read_text() == load_generator().pages()[path], "make docs"


def test_the_picture_of_the_state_machine_has_every_state_and_transition():
    definition = read_definition()
    drawing = ElementTree.fromstring(draw(definition))
    texts = {element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert set(definition["States"]) <= texts
    transitions = drawing.find("{http://www.w3.org/2000/svg}desc").text
    assert "Backoff to LaunchInstances" in transitions
    assert "PrepareRun to RejectRequest after an error" in transitions


def test_the_picture_of_the_state_machine_follows_the_definition():
    definition = read_definition()
    definition["States"]["DecideNext"]["Next"] = "FinishRun"
    assert draw(definition) != draw(read_definition())
    assert "DecideNext to FinishRun" in draw(definition)


def test_each_arrow_to_another_row_has_a_lane_that_it_shares_with_no_other_target():
    definition = read_definition()
    rows = {name: row for row, name in enumerate(order(definition))}
    columns = lane_columns(definition)
    for lane, column in columns.items():
        for other, taken in columns.items():
            if lane is not other and lane.is_back == other.is_back and column == taken:
                assert not lane.overlaps(other)
    drawn = {(row, lane.to) for lane in columns for row in lane.rows}
    for edge in edges(definition):
        source, target = rows[edge.source], rows[edge.target]
        assert (target == source + 1 and not edge.is_error) or (source, target) in drawn


def test_the_picture_shows_the_states_of_a_map_below_it():
    definition = mapping_definition()
    assert order(definition) == ["Members", "Member", "Finish"]
    drawing = draw(definition, "a sweep")
    assert "Members to Member; Members to Finish" in drawing
    assert "The state machine of a sweep" in drawing


def test_the_request_on_the_page_is_valid():
    block = (REFERENCE / "run-request.md").read_text().split("```json\n")[1].split("```")[0]
    document = json.loads(block.replace("BUCKET", "my-bucket"))
    assert parse_request(document).program.script == "s3://my-bucket/train.py"
