"""Hyperparameters: lists and ranges are read strictly, and values keep their text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.model.hyperparameters import (
    Choices,
    Range,
    SearchSpace,
    SyntaxProblemError,
    Value,
    check_name,
    read_domain,
    split_word,
)


def texts(domain):
    return [domain.at(index).text for index in range(domain.points)]


def test_a_list_keeps_type_and_text_of_its_values():
    assert read_domain("0.001, 1e-2 ,32,true,adam") == Choices(
        (
            Value("0.001", 0.001),
            Value("1e-2", 0.01),
            Value("32", 32),
            Value("true", True),
            Value("adam", "adam"),
        )
    )


def test_a_list_in_json_keeps_the_types_of_json():
    assert read_domain([0.001, 32, True, "32"]) == Choices(
        (Value("0.001", 0.001), Value("32", 32), Value("true", True), Value("32", "32"))
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2..8", Range(2, 8, is_integer=True)),
        ("-1..1", Range(-1, 1, is_integer=True)),
        ("0.0..0.5", Range(0, 0.5, is_integer=False)),
        ("1e-5..1e-1:log", Range(1e-5, 1e-1, is_integer=False, is_log=True)),
        ("1..1000:log:4", Range(1, 1000, is_integer=True, is_log=True, steps=4)),
        ("0..1.0:5", Range(0, 1, is_integer=False, steps=5)),
    ],
)
def test_a_range_has_two_ends_and_may_be_logarithmic_or_stepped(given, expected):
    assert read_domain(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2..5", ["2", "3", "4", "5"]),
        ("0.0..1.0:5", ["0", "0.25", "0.5", "0.75", "1"]),
        ("1e-4..1e-1:log:4", ["0.0001", "0.001", "0.01", "0.1"]),
        ("1..1000:log:4", ["1", "10", "100", "1000"]),
        # Steps that round to the same integer are one point.
        ("1..3:9", ["1", "2", "3"]),
    ],
)
def test_a_grid_of_a_range_includes_both_ends(given, expected):
    assert texts(read_domain(given)) == expected


def test_a_path_is_a_value_and_not_a_range():
    assert texts(read_domain("../small,../large")) == ["../small", "../large"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "has no values; list them"),
        ("  ", "has no values; list them"),
        ("0.1,,0.2", "'0.1,,0.2' has an empty value; remove a comma"),
        ("0.1,0.1", "0.1 is listed twice; remove one"),
        ("0.1,1e-1", "1e-1 is listed twice; remove one"),
        ("8..2", "8..2: the ends are reversed; give the lower one first"),
        ("2..2", "2..2: the ends are equal; give the value itself"),
        ("0..1:log", "0..1: a logarithmic range must begin above 0"),
        ("-1..1:log", "-1..1: a logarithmic range must begin above 0"),
        ("1..", "1..: '' is not a number; give both ends"),
        ("..5", "..5: '' is not a number; give both ends"),
        ("1..ten", "1..ten: 'ten' is not a number"),
        ("1..1e999", "1..1e999: '1e999' is not a number"),
        ("1..5:exp", "1..5: 'exp' is not valid after a range; known: log, and a number of steps"),
        ("1..5:log:log", "'log' is not valid after a range"),
        ("1..5:1", "1..5: 1 steps; give from 2 to 1000"),
        ("x" * 201, "value 1 has more than 200 characters"),
        (",".join(map(str, range(1001))), "1001 values exceed the limit of 1000"),
        ([], "has no values"),
        ([None], "None is not a value"),
        ([math.nan], "nan is not a value"),
        ([[1]], "[1] is not a value"),
        (0.1, "0.1 is neither text"),
        ({"low": 1}, "is neither text"),
    ],
)
def test_what_is_not_a_list_or_range_is_refused_with_the_remedy(given, message):
    with pytest.raises(SyntaxProblemError) as caught:
        read_domain(given)
    assert message in str(caught.value)


def test_true_and_1_are_different_values():
    assert texts(read_domain("true,1")) == ["true", "1"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr", "'lr' has no ':'; write NAME:VALUES, such as lr:0.001,0.01"),
        ("lr=0.1,0.2", "'lr=0.1,0.2' has no ':'; write NAME:VALUES, such as lr:0.1,0.2"),
    ],
)
def test_a_word_without_a_colon_is_refused(word, message):
    with pytest.raises(SyntaxProblemError) as caught:
        split_word(word)
    assert str(caught.value) == message


def test_only_the_first_colon_ends_the_name():
    assert split_word("lr:1e-5..1e-1:log") == ("lr", "1e-5..1e-1:log")


@pytest.mark.parametrize("name", ["", "1st", "a b", "-lr", "x" * 65, None, "lr$"])
def test_a_name_is_one_that_a_script_can_have_as_an_option(name):
    assert check_name(name)


@pytest.mark.parametrize("name", ["lr", "_x", "optimizer.lr", "batch-size", "x" * 64])
def test_dots_and_hyphens_are_valid_in_names(name):
    assert check_name(name) is None


def test_the_last_hyperparameter_varies_the_fastest():
    space = SearchSpace({"a": read_domain("1,2"), "b": read_domain("x,y,z")})
    assert space.points == 6
    assert [[value.text for value in space.at(index).values()] for index in range(6)] == [
        ["1", "x"], ["1", "y"], ["1", "z"], ["2", "x"], ["2", "y"], ["2", "z"],
    ]  # fmt: skip


def test_a_range_of_fractions_has_no_grid():
    space = SearchSpace({"a": read_domain("1,2"), "b": read_domain("0.0..1.0")})
    assert (space.points, space.without_grid) == (None, ["b"])


RANGES = ["2..8", "-3..3", "0.0..0.5", "1e-5..1e-1:log", "1..1000:log", "0..1.0:7", "0.3..0.30001"]


@given(given=st.sampled_from(RANGES), fraction=st.floats(0, 1, exclude_max=True))
def test_whatever_is_drawn_is_in_the_range_and_its_text_means_its_value(given, fraction):
    domain = read_domain(given)
    drawn = domain.draw(fraction)
    assert domain.low <= drawn.plain <= domain.high
    assert float(drawn.text) == drawn.plain
    assert domain.holding(float(drawn.plain)) == drawn


def test_every_integer_is_as_likely_as_the_ends():
    domain = read_domain("2..5")
    drawn = [domain.draw(step / 400).text for step in range(400)]
    assert {text: drawn.count(text) for text in "2345"} == dict.fromkeys("2345", 100)
