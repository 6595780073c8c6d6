"""The generated reference pages agree with the code."""

import importlib.util
import json
from pathlib import Path

import pytest

from runctl.model.request_parsing import parse_request

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def load_generator():
    spec = importlib.util.spec_from_file_location("generate", REFERENCE / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["run-request.md", "run-request.schema.json"])
def test_a_generated_page_is_up_to_date(name):
    assert (REFERENCE / name).read_text() == load_generator().pages()[REFERENCE / name], "make docs"


def test_the_request_on_the_page_is_valid():
    block = (REFERENCE / "run-request.md").read_text().split("```json\n")[1].split("```")[0]
    document = json.loads(block.replace("BUCKET", "my-bucket"))
    assert parse_request(document).program.script == "s3://my-bucket/train.py"
