"""A field that is added to the table of request fields appears wherever fields do."""

import dataclasses
import inspect
import json
from dataclasses import dataclass

import jsonschema
import pytest

from runctl.cli.commands.aws.field_options import field_parameters, fields_with_options
from runctl.cli.commands.aws.option_values import read_option
from runctl.cli.invocation import make_command
from runctl.model.errors import InvalidRequestError
from runctl.model.limit_options import LimitOptions
from runctl.model.request import RunRequest, fields_of
from runctl.model.request_fields import Option, Syntax, an_object, whole_number
from runctl.model.request_parsing import parse_request
from runctl.model.request_schema import request_schema
from tests.docs.test_reference import load_generator


@dataclass(frozen=True, kw_only=True)
class MoreLimits(LimitOptions):
    """The limits of today, and one more."""

    max_cost_usd: int = whole_number(
        "Maximum cost of the run in US dollars.",
        least=1,
        most=1000,
        default=50,
        option=Option("--max-cost", "Maximum cost in US dollars.", "USD", Syntax.NUMBER),
    )


@dataclass(frozen=True, kw_only=True)
class Depth:
    """An object inside an object."""

    metres: int = whole_number("Depth in metres.", least=1, most=9, default=1)


@dataclass(frozen=True, kw_only=True)
class Well:
    """The fields that only one kind of run has."""

    width: int = whole_number(
        "Width of the well.",
        least=1,
        most=9,
        default=1,
        option=Option("--width", "Width of the well.", "N", Syntax.NUMBER),
    )
    depth: Depth = an_object("Depth of the well.", holder=Depth)


@dataclass(frozen=True, kw_only=True)
class MoreRequest(RunRequest):
    """A copy of the table with two more entries."""

    limits: MoreLimits = dataclasses.field(default_factory=MoreLimits)
    well: Well = an_object("A well.", holder=Well, omits_default=True, kind="environment")


PROGRAM = {"command": ["train"]}


def test_it_is_parsed_and_checked():
    assert parse_request({**PROGRAM, "max_cost_usd": 7}, MoreRequest).limits.max_cost_usd == 7
    assert parse_request(PROGRAM, MoreRequest).limits.max_cost_usd == 50
    with pytest.raises(InvalidRequestError, match="max_cost_usd: 0 is not a whole number from 1"):
        parse_request({**PROGRAM, "max_cost_usd": 0}, MoreRequest)


def test_it_is_stored_and_read_back():
    request = parse_request({**PROGRAM, "max_cost_usd": 7}, MoreRequest)
    stored = json.loads(json.dumps(request.as_document()))
    assert stored["max_cost_usd"] == 7
    assert MoreRequest.from_stored(stored) == request
    # A version without the entry keeps it.
    assert RunRequest.from_stored(stored).as_document() == stored
    assert MoreRequest.from_stored({**stored, "max_cost_usd": "7"}).limits.max_cost_usd == 50


def test_an_object_of_one_kind_is_refused_for_the_others():
    well = {"well": {"width": 2, "depth": {"metres": 3}}}
    request = parse_request({**PROGRAM, "kind": "environment", **well}, MoreRequest)
    assert (request.well.width, request.well.depth.metres) == (2, 3)
    with pytest.raises(InvalidRequestError, match="well: only for runs of the kind environment"):
        parse_request({**PROGRAM, **well}, MoreRequest)


def test_a_field_of_an_inner_object_is_named_with_its_path():
    document = {**PROGRAM, "kind": "environment", "well": {"depth": {"metres": 0, "feet": 1}}}
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(document, MoreRequest)
    assert [problem.field for problem in caught.value.problems] == [
        "well.depth.metres",
        "well.depth.feet",
    ]


def test_only_the_command_of_its_kind_has_its_option():
    names = {parameter.name for parameter in field_parameters(MoreRequest)}
    assert ("max_cost" in names, "width" in names) == (True, False)
    names = {parameter.name for parameter in field_parameters(MoreRequest, kind="environment")}
    assert {"max_cost", "width"} <= names


def test_it_is_in_the_schema():
    validator = jsonschema.Draft202012Validator(request_schema(fields_of(MoreRequest)))
    assert validator.is_valid({**PROGRAM, "max_cost_usd": 7})
    assert not validator.is_valid({**PROGRAM, "max_cost_usd": 0})


def test_it_is_an_option_of_the_command_line():
    given = {}

    def body(_invocation, **options):
        given.update(options)

    body.__signature__ = _signature(field_parameters(MoreRequest))
    command = make_command(body, "train")
    command.main(["--max-cost", "7"], standalone_mode=False)
    (field,) = (
        field for _, path, field, _ in fields_with_options(MoreRequest) if path == "max_cost_usd"
    )
    assert read_option(field, given["max_cost"]) == 7
    page = command.get_help(command.make_context("train", []))
    assert "--max-cost USD" in page.split("Limits:")[1].split("Saving:")[0]


def test_it_is_on_the_reference_page():
    section = load_generator().request_page(MoreRequest).split("## Limits")[1].split("## Saving")[0]
    row = "| `max_cost_usd` | whole number | `50` | `--max-cost` | Maximum cost of the run in US "
    assert row in section


def test_none_of_this_is_there_without_the_entry():
    assert "max_cost_usd" not in fields_of(RunRequest)
    assert "max_cost_usd" not in load_generator().request_page()


def _signature(parameters):
    first = inspect.Parameter("invocation", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([first, *parameters])
