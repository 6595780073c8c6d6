"""The time that an expression may take does not depend on how busy the machine is."""

from __future__ import annotations

import time

import jsonata
import pytest

from runctl.local.stepfunctions import expressions

ENDLESS = "( $f := function($n) { $f($n + 1) }; $f(0) )"


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    expressions.install()


def test_an_expression_that_waits_for_the_processor_does_not_fail() -> None:
    expression = jsonata.Jsonata.jsonata("$pause() + 1", timeout=50)
    expression.register_lambda("pause", lambda: time.sleep(0.2) or 1)
    assert expression.evaluate(None) == 2


def test_an_expression_that_never_ends_fails() -> None:
    with pytest.raises(jsonata.jexception.JException) as failed:
        jsonata.Jsonata.jsonata(ENDLESS, timeout=50).evaluate(None)
    assert failed.value.error == "D1012"
