"""Options after a script are runctl's only in complete combinations, with values in S3."""

import pytest

from runctl.cli.project.script_options import (
    Combination,
    ScriptOption,
    local_path,
    take_script_options,
)


def is_in_s3(value: str) -> bool:
    return value.startswith("s3://")


COPY = Combination(
    kind="copy",
    noun="a copy",
    options={
        "--from": ScriptOption(
            field="copy.source", accepts=is_in_s3, replace=lambda uri: local_path("source", uri)
        ),
        "--to": ScriptOption(
            field="copy.target",
            accepts=is_in_s3,
            replace=lambda _uri: "$RUNCTL_OUTPUT_DIR",
            is_required=False,
        ),
        "--threads": ScriptOption(
            field="copy.threads",
            accepts=str.isdigit,
            rule="a number",
            read=int,
            replace=lambda _: None,
            is_required=False,
        ),
    },
)


def test_a_complete_combination_is_read_and_its_values_become_local_paths() -> None:
    words = ["--from", "s3://b/raw/", "-v", "--to", "s3://b/out/", "last"]

    taken = take_script_options(words, [COPY])

    expected = ("--from", "$RUNCTL_INPUT_DIR/source", "-v", "--to", "$RUNCTL_OUTPUT_DIR", "last")
    assert taken.args == expected
    assert taken.fields == {
        "kind": "copy", "copy.source": "s3://b/raw/", "copy.target": "s3://b/out/",
    }  # fmt: skip
    assert taken.note.startswith("this is a copy: runctl reads --from and --to, ")


def test_an_equals_sign_is_understood_and_a_value_that_only_runctl_needs_is_removed() -> None:
    taken = take_script_options(["--from=s3://b/a/best.pt", "--threads", "8"], [COPY])

    assert taken.args == ("--from=$RUNCTL_INPUT_DIR/source/best.pt",)
    assert taken.fields == {"kind": "copy", "copy.source": "s3://b/a/best.pt", "copy.threads": 8}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--to", "s3://b/out/"],
        ["--from", "data/raw"],
        ["--from", "data/raw", "--to", "s3://b/out/"],
        ["--from"],
        ["--from="],
        ["--fro", "s3://b/raw/"],
        ["--", "--from", "s3://b/raw/"],
        ["copy", "s3://b/raw/", "s3://b/out/"],
    ],
)
def test_any_other_use_of_the_names_stays_the_scripts_own(words: list[str]) -> None:
    taken = take_script_options(words, [COPY])

    assert (taken.args, taken.fields, taken.note) == (tuple(words), {}, "")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--from", "s3://b/raw/", "--to", "results"], "'results' of --to is not an S3 URI"),
        (["--threads=many", "--from", "s3://b/1/"], "'many' of --threads is not a number"),
        (["--from", "s3://b/1/", "--from=s3://b/2/"], "--from is given twice"),
    ],
)
def test_what_looks_like_a_combination_and_is_none_stays_the_scripts_own_with_the_reason(
    words: list[str], reason: str
) -> None:
    taken = take_script_options(words, [COPY])

    assert (taken.args, taken.fields) == (tuple(words), {})
    assert taken.note.startswith("this is not a copy: the script gets --")
    assert taken.note.endswith(f" as given, because {reason}")


def test_what_follows_two_dashes_is_the_scripts_own() -> None:
    taken = take_script_options(["--from", "s3://b/raw/", "--", "--to", "s3://b/out/"], [COPY])

    assert taken.args == ("--from", "$RUNCTL_INPUT_DIR/source", "--", "--to", "s3://b/out/")
    assert "copy.target" not in taken.fields


def test_a_key_that_reads_like_a_variable_stays_a_name() -> None:
    assert local_path("x", "s3://b/$RUNCTL_RUN_ID.pt") == "$RUNCTL_INPUT_DIR/x/$$RUNCTL_RUN_ID.pt"
    assert local_path("x", "s3://b") == "$RUNCTL_INPUT_DIR/x"


def test_an_evaluation_is_understood_as_it_is_printed_in_the_documentation() -> None:
    places = ["s3://bucket/checkpoints/best.pt", "s3://bucket/test-data/"]
    words = ["--checkpoint", places[0], "--test-data", places[1]]
    words += ["--output", "s3://bucket/evaluation-results/"]

    taken = take_script_options(words)

    assert " ".join(taken.args) == (
        "--checkpoint $RUNCTL_INPUT_DIR/checkpoint/best.pt --test-data $RUNCTL_INPUT_DIR/test-data "
        "--output $RUNCTL_OUTPUT_DIR"
    )
    assert taken.fields == {
        "kind": "evaluate",
        "evaluate.checkpoint": "s3://bucket/checkpoints/best.pt",
        "evaluate.test_data": "s3://bucket/test-data/",
        "evaluate.output": "s3://bucket/evaluation-results/",
    }
    assert taken.note == (
        "this is an evaluation: runctl reads --checkpoint, --test-data and --output, and the "
        "script gets local paths instead of those in S3"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--checkpoint", "s3://b/best.pt"],
        ["--test-data", "s3://b/test/"],
        ["--checkpoint", "best.pt", "--test-data", "s3://b/test/"],
        ["--checkpoint", "s3://b/best.pt", "--test-data", "data/test"],
        ["--checkpoint", "run:lm", "--test-data", "s3://b/t/", "--output", "results.json"],
    ],
)
def test_a_script_may_have_options_of_these_names(words: list[str]) -> None:
    assert take_script_options(words).args == tuple(words)


def test_a_checkpoint_of_a_run_is_a_folder() -> None:
    taken = take_script_options(["--checkpoint=run:lm@100", "--test-data=s3://b/t.csv"])

    assert taken.args == (
        "--checkpoint=$RUNCTL_INPUT_DIR/checkpoint",
        "--test-data=$RUNCTL_INPUT_DIR/test-data/t.csv",
    )


def test_the_options_of_processing_become_local_paths_and_one_worker() -> None:
    printed = "--input-s3 s3://bucket/raw-data/ --output-s3 s3://bucket/processed-data/ --workers 8"
    taken = take_script_options([*printed.split(), "--size", "64"])

    assert " ".join(taken.args) == (
        "--input-s3 $RUNCTL_INPUT_DIR --output-s3 $RUNCTL_OUTPUT_DIR --workers 1 --size 64"
    )
    assert taken.fields == {
        "kind": "process",
        "process.input": "s3://bucket/raw-data/",
        "process.output": "s3://bucket/processed-data/",
        "process.workers": 8,
    }


@pytest.mark.parametrize(
    "words",
    [
        ["--workers", "8"],
        ["--input-s3", "s3://b/raw/", "--workers", "8"],
        ["--input-s3", "raw", "--output-s3", "s3://b/clean/"],
        ["--input-s3", "s3://b/raw/", "--output-s3", "s3://b/clean/", "--workers", "all"],
    ],
)
def test_a_script_may_process_data_itself(words: list[str]) -> None:
    assert take_script_options(words).args == tuple(words)
