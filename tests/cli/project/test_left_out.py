"""Files that ignore rules leave out are reported before the upload, with their remedy."""

import tarfile

import pytest

from runctl.cli.project import left_out
from runctl.cli.project.left_out import groups_of
from runctl.cli.project.left_out_report import named_by
from runctl.cli.project.package import pack_project
from runctl.cli.project.scan import scan_project
from runctl.model.left_out import PAX_KEY, Omission, explain_failure, read_note, write_note
from tests.cli.project.test_package import paths, plant


def shown(top):
    return {group.path: group for group in groups_of(scan_project(top)) if not group.is_clutter}


def test_a_data_folder_is_counted_and_its_remedy_includes_it(tmp_path):
    plant(tmp_path, {"t.py": "", ".gitignore": "data/\n", "data/a.csv": "x" * 12_000})
    group = shown(tmp_path)["data/"]
    assert str(group) == "data/ (1 file, 12.0 kB); include it with `!data/` in .runctlignore"
    (tmp_path / ".runctlignore").write_text("\n".join(group.remedy))
    assert "data/a.csv" in paths(tmp_path)


@pytest.mark.parametrize(
    ("rules", "files", "left"),
    [
        ("data/*\n", ["data/a.csv"], "data/a.csv"),
        ("data/*\n", ["data/raw/a.csv"], "data/raw/"),
        ("/data\n", ["data/a.csv", "data/b/c.csv"], "data/"),
        ("data/\n*.csv\n", ["data/a.csv"], "data/"),
        ("*\n!*.py\n!.gitignore\n", ["data/a.csv"], "data/"),
        ("*.csv\n", [f"data/{name}.csv" for name in "abcde"], "data/*.csv"),
        ("**/raw/\n", ["x/raw/a"], "x/raw/"),
        ("we*rd\n", ["we*rd"], "we*rd"),
        ("models\n", ["pkg/models/__init__.py"], "pkg/models/"),
    ],
)
def test_the_remedy_includes_what_it_names(tmp_path, rules, files, left):
    plant(tmp_path, {"t.py": "", ".gitignore": rules, **dict.fromkeys(files, "1")})
    group = shown(tmp_path)[left]
    (tmp_path / ".runctlignore").write_text("\n".join(group.remedy))
    assert set(files) <= set(paths(tmp_path))


def test_rules_of_a_repository_above_the_project_have_a_remedy_in_it(tmp_path):
    plant(tmp_path, {".git/HEAD": "", ".gitignore": "data/\n*.bin\n", "ml/t.py": ""})
    plant(tmp_path / "ml", {"data/w.bin": "1"})
    group = shown(tmp_path / "ml")["data/"]
    (tmp_path / "ml/.runctlignore").write_text("\n".join(group.remedy))
    assert "data/w.bin" in paths(tmp_path / "ml")


def test_common_clutter_is_not_reported(tmp_path):
    names = (".cache/x", "build/x", "dist/x.whl", ".idea/x", "x.log", "wandb/x", "my/pyvenv.cfg")
    rules = "".join(f"{name.partition('/')[0]}\n" for name in names)
    plant(tmp_path, {"t.py": "", ".gitignore": rules})
    plant(tmp_path, dict.fromkeys(names, ""))
    assert shown(tmp_path) == {}


def test_a_huge_folder_is_read_only_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(left_out, "MAX_COUNTED", 10)
    plant(tmp_path, {"t.py": "", ".gitignore": "data/\n"})
    plant(tmp_path, {f"data/{number}": "x" for number in range(50)})
    looked: list[str] = []
    real = left_out._inside

    def inside(top, path):
        for entry in real(top, path):
            looked.append(entry)
            yield entry

    monkeypatch.setattr(left_out, "_inside", inside)
    assert "(more than 10 files, " in str(shown(tmp_path)["data/"])
    assert len(looked) == 11


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('open("data/train.csv")', "data/train.csv"),
        ("open('./data/train.csv')", "data/train.csv"),
        ('Path("data") / "x"', "data"),
        ("cat data/train.csv", "data/train.csv"),
        ("data = load()", ""),
        ('open("mydata/x")', ""),
        ('open("other/data/x")', ""),
    ],
)
def test_a_program_that_names_a_left_out_file_is_recognized(tmp_path, text, named):
    plant(tmp_path, {"t.py": text, ".gitignore": "data/\n", "data/train.csv": ""})
    assert named_by(shown(tmp_path)["data/"], text) == named


@pytest.mark.parametrize(
    ("files", "args", "who"),
    [
        ({}, ["--data", "data"], "the command line"),
        ({}, ["--data=./data/"], "the command line"),
        ({"train.py": "x = 'conf/a.yaml'", "conf/a.yaml": "path: data/a"}, [], "conf/a.yaml"),
        ({"conf/a.yaml": "path: data/a"}, ["--config", "conf/a.yaml"], "conf/a.yaml"),
        ({"train.py": "run('./go.sh')", "go.sh": "python x.py", "x.py": "'data/a'"}, [], "x.py"),
    ],
)
def test_arguments_and_files_that_the_program_names_are_searched_too(
    runctl, deployed, project, files, args, who
):
    plant(project, {".gitignore": "data/\n", "data/a": "1", **files})
    done = runctl("aws", "train", "--dry-run", "train.py", *args)
    assert f"warning: {who} names " in done.stderr


def test_the_list_is_in_the_archives_header_and_is_not_unpacked(tmp_path):
    top = plant(tmp_path / "top", {"t.py": "", ".gitignore": "data/\n", "data/ünï.csv": ""})
    package = pack_project(scan_project(top), tmp_path / "a.tar.gz")
    with tarfile.open(package.path) as archive:
        assert archive.getnames() == [".gitignore", "t.py"]
        note = read_note(archive.pax_headers[PAX_KEY])
    assert note == (Omission(path="data/", by=".gitignore", remedy=("!data/",)),)


@pytest.mark.parametrize("text", ["", "x", "{}", "[1]", '[["a"]]', '[["a","b",3]]', "null"])
def test_a_list_that_cannot_be_read_explains_nothing(text):
    assert read_note(text) == ()


def test_a_list_of_a_newer_version_is_read():
    assert read_note('[["a","b",["!a"],"new"]]')[0].path == "a"


PROJECT = "/var/lib/runctl/project"
NOTE = read_note(
    write_note(
        [
            Omission(path="data/", by=".gitignore", remedy=("!data/",)),
            Omission(path="sub/models/", by=".gitignore", remedy=("!sub/models/",)),
            Omission(path="vocab.json", by=".gitignore", remedy=("!vocab.json",)),
            Omission(path="big/*.bin", by=".gitignore", remedy=("!big/*.bin",)),
            Omission(path="settings.py", by=".gitignore", remedy=("!settings.py",)),
        ]
    )
)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("FileNotFoundError: [Errno 2] No such file or directory: 'data/train.csv'", "data/"),
        (f"No such file or directory: '{PROJECT}/data/train.csv'", "data/"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'data'", "data/"),
        ("cat: data/train.csv: No such file or directory", "data/"),
        ("./run.sh: line 2: data/train.csv: No such file or directory", "data/"),
        ("FileNotFoundError: [Errno 2] No such file or directory: '../data/x'", "data/"),
        ("No such file or directory: 'models/a.pt'", "sub/models/"),
        ("OSError: Unable to open file (unable to open file: name = 'data/x.h5')", "data/"),
        (f"FileNotFoundError: Unable to find '{PROJECT}/data/train.parquet'", "data/"),
        ("ValueError: vocab.json does not exist", "vocab.json"),
        ("FileNotFoundError: big/w.bin", "big/*.bin"),
        ("ModuleNotFoundError: No module named 'sub.models'", "sub/models/"),
        ("ModuleNotFoundError: No module named 'settings'", "settings.py"),
    ],
)
def test_a_failure_because_of_a_left_out_file_is_explained(words, path):
    expected = explain_failure(f"Traceback\n{words}\n", NOTE, project=PROJECT)
    assert expected == (
        f"{path} is left out of the package by .gitignore; include it with `!{path}` in "
        ".runctlignore"
    )
    assert ": " not in expected


@pytest.mark.parametrize(
    "words",
    [
        "",
        "ValueError: data/train.csv has 3 columns",
        "No such file or directory: '/elsewhere/data/train.csv'",
        "No such file or directory: 'database/x'",
        "No such file or directory: 'out/x'",
        "ModuleNotFoundError: No module named 'torch'",
    ],
)
def test_other_failures_are_not_explained(words):
    assert explain_failure(words, NOTE, project=PROJECT) == ""


def test_left_out_files_are_reported_before_the_upload_in_a_dry_run_and_as_json(
    runctl, deployed, project
):
    plant(project, {".gitignore": "data/\nsets\n", "data/a.csv": "1", "sets/b.csv": "22"})
    (project / "train.py").write_text('open("data/a.csv")\n')
    done = runctl("--json", "aws", "train", "--dry-run", "train.py")
    listed = {entry["path"]: entry for entry in done.document["left_out"]}
    assert listed["data/"]["named"] == "data/a.csv"
    assert listed["sets/"] == {
        "path": "sets/",
        "by": ".gitignore:2",
        "files": 1,
        "size_bytes": 2,
        "is_cut": False,
        "may_hold_secrets": False,
        "remedy": ["!sets/"],
        "named": "",
    }
    done = runctl("aws", "train", "--dry-run", "train.py")
    assert "warning: train.py names data/a.csv, which is left out by .gitignore" in done.stderr
    assert (
        "left out by .gitignore: sets/ (1 file, 2 B); include it with `!sets/` in .runctlignore"
        in done.stderr
    )
    done = runctl("--json", "aws", "train", "--detach", "train.py")
    assert {entry["path"] for entry in done.document["left_out"]} == {"data/", "sets/"}


def test_files_excluded_by_runctlignore_are_not_reported(runctl, deployed, project):
    plant(project, {".runctlignore": "data/\n", "data/a.csv": "1"})
    assert "left out" not in runctl("aws", "train", "--dry-run", "train.py").stderr
    (project / "train.py").write_text('open("data/a.csv")\n')
    done = runctl("aws", "train", "--dry-run", "train.py")
    assert "which is left out by .runctlignore" in done.stderr
