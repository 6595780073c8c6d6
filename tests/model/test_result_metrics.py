"""Metrics of a result: what a program may write into its file, and how the rest is refused."""

import json

import pytest

from runctl.model.result_metrics import (
    MAX_METRICS_BYTES,
    BadMetricsError,
    flat_metrics,
    read_result_metrics,
    stored_text,
)


def read(text: str) -> dict[str, object]:
    return read_result_metrics(text.encode())


def test_numbers_texts_booleans_and_one_object_of_them_are_read() -> None:
    document = {"accuracy": 0.91, "epochs": 3, "model": "mlp", "is_best": True, "f1": {"cat": 0.5}}

    metrics = read(json.dumps(document))

    assert metrics == document
    assert json.loads(stored_text(metrics)) == document
    assert list(flat_metrics(metrics)) == ["accuracy", "epochs", "model", "is_best", "f1.cat"]


def test_what_json_cannot_express_becomes_text_and_null_is_left_out() -> None:
    metrics = read('{"loss": NaN, "best": Infinity, "worst": -Infinity, "n": 1e999, "none": null}')

    assert metrics == {"loss": "NaN", "best": "Infinity", "worst": "-Infinity", "n": "Infinity"}
    assert "NaN" in stored_text(metrics)


def test_a_whole_number_keeps_its_digits() -> None:
    assert read('{"a": 9007199254740993, "b": 12}') == {"a": "9007199254740993", "b": 12}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is not JSON"),
        ("accuracy 0.9", "it is not JSON"),
        ("[" * 30_000, "it is not JSON"),
        ("[1, 2]", "it is a list"),
        ("3", "it is a number"),
        ("null", "it is null"),
        ('{"matrix": [[1, 0], [0, 1]]}', "matrix is a list; a metric is a number"),
        ('{"a": {"b": {"c": 1}}}', "a.b is an object"),
        ('{"": 1}', "not a valid name"),
        ('{"a\\u001b[31m": 1}', "not a valid name"),
        (json.dumps({"x" * 201: 1}), "use 1 to 200"),
        (json.dumps({"text": "x" * MAX_METRICS_BYTES}), "exceed the limit of 32,768"),
        (json.dumps({"text": "é" * 10_000}, ensure_ascii=False), "exceed the limit of 32,768"),
    ],
)
def test_anything_else_is_refused_with_its_name(text: str, problem: str) -> None:
    with pytest.raises(BadMetricsError, match=problem.replace("[", r"\[")):
        read(text)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(BadMetricsError, match="not JSON"):
        read_result_metrics(b"\xff\xfe{")
