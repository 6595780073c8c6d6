"""`runctl list`: the kinds of runs, and what each kind has."""


def test_the_kinds_are_listed_once_one_run_does_not_train(deployed, runctl, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    deployed.begin("fit")
    assert "kind" not in runctl("list").stdout
    deployed.begin("digits", kind="serve")
    listed = {run["run_id"]: run["kind"] for run in runctl("list", "--json").document["runs"]}
    assert listed == {"fit": "train", "digits": "serve"}
    heading, *lines = runctl("list").stdout.splitlines()
    assert heading.split()[:2] == ["run", "kind"]
    assert sorted(line.split()[1] for line in lines) == ["serve", "train"]
    monkeypatch.setenv("COLUMNS", "40")
    assert "serve · " in runctl("list").stdout


def test_an_evaluation_has_no_checkpoint_of_its_own(deployed, runctl):
    deployed.begin("score", kind="evaluate", evaluate={"checkpoint": "run:lm"})
    deployed.train("score", 1)
    page = runctl("status", "score").stdout
    assert "run:lm" in page
    assert "none yet" not in page
