"""The references of dependency files are in the package, or refused before an upload."""

import pytest

from runctl.cli.project.dependencies import check_dependencies
from runctl.cli.project.scan import scan_project
from runctl.model.errors import InvalidRequestError
from runctl.model.python_versions import allows, allows_any
from runctl.model.requirement_lines import Kind, read_lines, target_of

BUILD = '[build-system]\nrequires = []\nbuild-backend = "b"\nbackend-path = ["."]\n'
TREE = {
    "train.py": "",
    "pyproject.toml": BUILD,
    "pkg/pyproject.toml": BUILD,
    "pkg/pkg.py": "",
    "sub/setup.py": "",
    "wheels/x-1.0-py3-none-any.whl": "",
    "other/requirements.txt": "-r more.txt\n-f links\n",
    "other/more.txt": "numpy\n",
    "other/links/y-1.0.zip": "",
    "constraints.txt": "numpy<3\n",
    "plain/data.csv": "",
}


def plant(top, files):
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def problems(top, files, script="train.py"):
    plant(top, {**TREE, **files})
    try:
        check_dependencies(scan_project(top), script)
    except InvalidRequestError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "-e .[dev]",
        "--editable=./pkg",
        "-e pkg",
        "-e ./sub[extra]",
        '-e "./pkg"',
        ".",
        ".[dev]",
        "./pkg",
        "./pkg[a,b] ; python_version > '3'",
        "pkg/",
        "./wheels/x-1.0-py3-none-any.whl --hash=sha256:00",
        "x @ file:./wheels/x-1.0-py3-none-any.whl",
        "x @ file:pkg ; python_version > '3'",
        "file:./pkg",
        "--find-links wheels",
        "-fwheels",
        "--find-links=file:wheels",
        "-r other/requirements.txt",
        "-c constraints.txt",
        "--index-url https://example.com/simple --extra-index-url ./wheels",
        "--find-links /part/of/the/image",
        "numpy==2.0 \\\n  --hash=sha256:00",
        "pkg @ git+https://example.com/pkg@main",
        "git+ssh://git@example.com/pkg.git#egg=pkg",
    ],
)
def test_references_to_packed_files_are_accepted(tmp_path, line):
    assert problems(tmp_path, {"requirements.txt": f"{line}\n"}) == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("./gone", "requirements.txt:2: './gone': gone does not exist in the project"),
        ("-e ../other", "'-e ../other' is outside the project; copy it into the project, or name"),
        ("-r ../base.txt", "'-r ../base.txt' is outside the project"),
        ("/home/me/pkg", "'/home/me/pkg' is a path of this machine; copy it into the project and"),
        ("-e /home/me/pkg", "write ./pkg"),
        ("x @ file:///home/me/x.whl", "write ./x.whl"),
        ("-r /etc/base.txt", "write ./base.txt"),
        ("~/pkg", "is a path of this machine"),
        ("x.whl", "'x.whl': x.whl does not exist"),
        ("./plain", "plain/ has neither pyproject.toml nor setup.py"),
        ("--find-links nowhere", "nowhere does not exist in the project"),
        ("-c gone.txt", "gone.txt does not exist in the project"),
        (
            "./ignored",
            "ignored is left out of the package by .gitignore:1; include it with `!ignored/`",
        ),
        ("./dist/z.whl", "is left out of the package by .gitignore:2; include it with `!dist/`"),
        ("./${WHERE}/pkg", "uses ${WHERE}, which is not set where the dependencies are installed"),
        ("-r requirements.txt", "includes itself"),
    ],
)
def test_references_to_missing_files_are_refused_with_line_and_remedy(tmp_path, line, expected):
    files = {
        "requirements.txt": f"# first\n{line}\n",
        ".gitignore": "ignored/\ndist\n",
        "ignored/setup.py": "",
        "dist/z.whl": "",
    }
    assert expected in problems(tmp_path, files)


def test_a_folder_of_the_instances_image_is_only_warned_of(runctl, deployed, project):
    plant(project, {"requirements.txt": "numpy\n--find-links /opt/wheels\n"})
    done = runctl("aws", "train", "--dry-run", "train.py")
    assert done.code == 0
    assert (
        "warning: requirements.txt:2: '--find-links /opt/wheels' is not part of the project; "
        "instances have it only if their machine image does" in done.stderr
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"Pipfile": ""}, "Pipfile: not read, so the program gets plain Python; if it needs"),
        ({"requirements-dev.txt": ""}, "the line `-r requirements-dev.txt`"),
        ({"requirements/base.txt": ""}, "the line `-r requirements/base.txt`"),
        ({"setup.py": ""}, "the line `-e .`"),
        (
            {"pyproject.toml": '[project]\nname = "x"\ndynamic = ["dependencies"]\n'},
            "only its build",
        ),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "*"\ntorch = "*"\n'}, "-e ."),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "*"\n'}, ""),
        ({"pyproject.toml": "[tool.ruff]\n"}, ""),
        ({"pyproject.toml": "project = 3\ntool = [1]\n"}, ""),
        ({"Pipfile": "", "requirements.txt": "numpy\n"}, ""),
        ({"docs/requirements.txt": ""}, ""),
    ],
)
def test_unread_dependency_files_are_warned_of(tmp_path, files, expected):
    project = scan_project(plant(tmp_path, {"train.py": "", **files}))
    warnings = "".join(map(str, check_dependencies(project, "train.py")))
    assert expected in warnings
    assert bool(expected) == bool(warnings)


TOKEN = "ghp_0123456789abcdefABCDEF0123"
LOGINS = {
    "an index": {"requirements.txt": "numpy\n--extra-index-url https://me:s3cret@example.com/\n"},
    "a repository": {"requirements.txt": f"x\nx @ git+https://{TOKEN}@example.com/x\n"},
    "a nested file": {
        "requirements.txt": "-r other/requirements.txt\n",
        "other/requirements.txt": "x\n-i https://me:s3cret@example.com/simple\n",
    },
    "a wheel": {
        "pyproject.toml": '[project]\ndependencies = ["x @ https://a:s3cret@example.com/x.whl"]\n'
    },
    "an index of uv": {
        "pyproject.toml": '[[tool.uv.index]]\nurl = "https://a:s3cret@example.com/simple"\n',
        "uv.lock": "version = 1\n",
    },
    "a script": {
        "train.py": "# /// script\n# dependencies = ['x @ https://a:s3cret@example.com/x.zip']\n"
        "# ///\n"
    },
}


@pytest.mark.parametrize("files", LOGINS.values(), ids=LOGINS)
def test_a_login_in_an_address_is_refused_with_the_place_for_it_and_without_its_value(
    tmp_path, files
):
    found = problems(tmp_path, files)
    assert "contains what looks like a" in found
    assert "--env PIP_EXTRA_INDEX_URL=secret:NAME" in found
    assert "s3cret" not in found
    assert TOKEN not in found
    name = next(iter(files))
    if name == "requirements.txt" and len(files) == 1:
        assert "requirements.txt:2: " in found
        check_dependencies(scan_project(tmp_path), "train.py", not_secrets=[name])


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://example.com/simple",
        "--extra-index-url https://me@example.com/simple",
        "# --extra-index-url https://me:s3cret@example.com/simple",
        "x @ git+ssh://git@example.com/x.git",
        "x @ https://example.com/x-1.0.tar.gz#sha256=0123456789abcdef",
    ],
)
def test_an_address_without_a_login_is_accepted(tmp_path, line):
    assert problems(tmp_path, {"requirements.txt": f"numpy\n{line}\n"}) == ""


def test_an_address_that_is_declared_harmless_is_accepted(runctl, deployed, project):
    plant(
        project, {"requirements.txt": "--extra-index-url https://public:access@example.com/\nx\n"}
    )
    assert runctl("aws", "train", "--dry-run", "train.py").code == 2
    words = ("--not-secret", "requirements.txt", "train.py")
    assert runctl("aws", "train", "--dry-run", *words).code == 0


CONDA = "name: x\nchannels: [conda-forge]\ndependencies:\n  - pytorch\n"


@pytest.mark.parametrize("name", ["environment.yml", "environment.yaml", "conda.yml"])
@pytest.mark.parametrize("script", ["train.py", "run.sh", ""])
def test_a_conda_environment_is_refused_with_the_alternative(tmp_path, name, script):
    plant(tmp_path, {"train.py": "", "run.sh": "", name: CONDA})
    with pytest.raises(InvalidRequestError) as refused:
        check_dependencies(scan_project(tmp_path), script)
    (problem,) = refused.value.problems
    assert problem.field == name
    assert "build a container with a Dockerfile instead" in problem.message
    assert f"add `{name}` to .runctlignore" in problem.message


@pytest.mark.parametrize(
    ("files", "script"),
    [
        ({"requirements.txt": "numpy\n"}, "train.py"),
        ({"train.py": "# /// script\n# dependencies = ['numpy']\n# ///\n"}, "train.py"),
        ({".runctlignore": "environment.yml\n"}, "train.py"),
        ({"environment.yml": "colour: green\n"}, "train.py"),
        ({"main": ""}, "main"),
    ],
    ids=["requirements.txt", "script metadata", "excluded", "not of conda", "another language"],
)
def test_a_conda_file_that_nothing_needs_is_no_problem(tmp_path, files, script):
    plant(tmp_path, {"train.py": "", "environment.yml": CONDA, **files})
    check_dependencies(scan_project(tmp_path), script)


def test_the_refusal_of_a_conda_environment_precedes_any_upload(runctl, deployed, project):
    plant(project, {"environment.yml": CONDA})
    done = runctl("aws", "train", "train.py")
    assert (done.code, "environment.yml: conda environments are not built" in done.stderr) == (
        2,
        True,
    )
    assert deployed.executions() == []


def test_a_folder_of_excluded_wheels_is_refused(tmp_path):
    files = {"requirements.txt": "-f links\nx\n", ".gitignore": "*.whl\n", "links/x.whl": ""}
    expected = "links is left out of the package by .gitignore:1; include it with `!links/x.whl`"
    assert expected in problems(tmp_path, files)


def test_a_nested_file_is_checked_too_with_its_own_name_and_line(tmp_path):
    files = {"requirements.txt": "-r other/requirements.txt\n", "other/more.txt": "\nnumpy=2\n"}
    assert "other/more.txt:2: 'numpy=2' is not a valid requirement" in problems(tmp_path, files)


def test_the_nearest_file_counts_and_its_paths_may_start_at_either_folder(tmp_path):
    files = {"job/train.py": "", "job/requirements.txt": "-e ./pkg\n"}
    assert problems(tmp_path, files, "job/train.py") == ""
    files |= {"job/requirements.txt": "./own\n", "job/own/setup.py": ""}
    assert problems(tmp_path, files, "job/train.py") == ""


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ('x = { path = "wheels/x-1.0-py3-none-any.whl" }', ""),
        ('x = { path = "pkg", editable = true }', ""),
        ('x = { git = "https://example.com/x", branch = "main" }', ""),
        ('x = { path = "../x" }', "'x @ file:../x' is outside the project"),
        ('x = { path = "gone" }', "gone does not exist in the project"),
        ("x = { workspace = true }", "gives x a source that only uv supports; run `uv lock`"),
        ('x = { index = "mine" }', "gives x a source that only uv supports"),
    ],
)
def test_sources_of_uv_are_followed_or_refused(tmp_path, sources, expected):
    text = f'[project]\nname = "p"\ndependencies = ["x"]\n[tool.uv.sources]\n{sources}\n'
    found = problems(tmp_path / "one", {"pyproject.toml": text})
    assert expected in found
    assert bool(expected) == bool(found)
    block = "".join(
        f"# {line}\n" for line in ["dependencies = ['x']", "[tool.uv.sources]", sources]
    )
    script = f"# /// script\n{block}# ///\n"
    assert expected in problems(tmp_path / "two", {"train.py": script})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('editable = "pkg"', ""),
        ('virtual = "."', ""),
        ('editable = "."', ""),
        ('registry = "https://index.example.org/simple"', ""),
        ('directory = "../shared"', "uv.lock: x at '../shared' is outside the project"),
        ('registry = "wheels"', ""),
        ('registry = "nowhere"', "nowhere does not exist in the project"),
        ('path = "gone.whl"', "uv.lock: x at 'gone.whl': gone.whl does not exist"),
    ],
)
def test_local_packages_of_a_lock_must_be_there(tmp_path, source, expected):
    lock = f'version = 1\n[[package]]\nname = "x"\nversion = "1"\nsource = {{ {source} }}\n'
    found = problems(tmp_path, {"uv.lock": lock})
    assert expected in found
    assert bool(expected) == bool(found)


PYPROJECT = '[project]\nname = "pro"\nrequires-python = "{}"\n'


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"requirements.txt": "numpy\n"},
        {"train.py": "# /// script\n# dependencies = []\n# ///\n"},
        {"uv.lock": "version = 1\n"},
        {"sub/train.py": "", "sub/requirements.txt": ""},
    ],
    ids=["alone", "requirements.txt", "script metadata", "uv.lock", "a folder above"],
)
def test_a_python_version_that_no_instance_has_is_refused(tmp_path, files):
    files = {"pyproject.toml": PYPROJECT.format(">=3.99"), **files}
    script = "sub/train.py" if "sub/train.py" in files else "train.py"
    expected = "pyproject.toml: requires-python '>=3.99' excludes every Python version that"
    assert expected in problems(tmp_path, files, script)


def test_the_python_version_of_a_script_is_checked_too(tmp_path):
    script = "# /// script\n# requires-python = '<3.10'\n# ///\n"
    assert "the script metadata of train.py: requires-python" in problems(
        tmp_path, {"train.py": script}
    )


def test_an_invalid_python_version_is_refused(tmp_path):
    files = {"pyproject.toml": PYPROJECT.format("3.11 or so")}
    assert "is not a valid specifier (e.g. >=3.11)" in problems(tmp_path, files)


@pytest.mark.parametrize(
    ("specifier", "version", "allowed"),
    [
        ("", (3, 12, 1), True),
        (">=3.11", (3, 11, 0), True),
        (">=3.11,<3.13", (3, 13, 0), False),
        ("~=3.11", (3, 14, 0), True),
        ("~=3.11.2", (3, 12, 0), False),
        ("~=3.11.2", (3, 11, 9), True),
        ("==3.12.*", (3, 12, 7), True),
        ("==3.12.*", (3, 11, 7), False),
        ("!=3.12.*", (3, 12, 7), False),
        ("==3.12.1", (3, 12, 1), True),
        (">3.11", (3, 11, 4), True),
        ("<4", (3, 30, 0), True),
        (">=3.11rc1", (3, 10, 0), True),
    ],
)
def test_specifiers_mean_what_they_mean_to_pip(specifier, version, allowed):
    from pip._vendor.packaging.specifiers import SpecifierSet

    assert allows(specifier, version) is allowed
    if "rc" not in specifier:  # what is not judged here counts as allowed
        assert (".".join(map(str, version)) in SpecifierSet(specifier)) is allowed


def test_bounds_that_exclude_each_other_allow_nothing():
    assert not allows_any(">=3.12,<3.11")
    assert not allows_any("==2.7.*")
    assert allows_any("==3.11.*")


def test_lines_are_read_as_pip_reads_them():
    text = "a \\\n  # not a comment of the line\nb # one\n-e 'x y'\n-rz.txt\nc --hash=sha256:0 \\\n"
    found = [(line.number, line.kind, line.value) for line in read_lines(text)]
    assert found == [
        (1, Kind.REQUIREMENT, "a"),
        (3, Kind.REQUIREMENT, "b"),
        (4, Kind.EDITABLE, "x y"),
        (5, Kind.INCLUDE, "z.txt"),
        (6, Kind.REQUIREMENT, "c"),
    ]


@pytest.mark.parametrize(
    ("requirement", "moves"),
    [
        ("x @ git+https://example.com/x@main", True),
        ("x @ git+https://example.com/x", True),
        ("git+ssh://git@example.com/x.git", True),
        (f"x @ git+https://example.com/x@{'a' * 40}#egg=x", False),
        ("x @ https://example.com/archive/main.zip", True),
        ("x @ https://example.com/archive/main.zip#sha256=00", False),
        ("https://example.com/x-1.0-py3-none-any.whl", False),
        ("x==1.0", False),
        ("./x", False),
    ],
)
def test_references_that_may_change_are_recognized(requirement, moves):
    assert target_of(requirement).is_moving is moves
