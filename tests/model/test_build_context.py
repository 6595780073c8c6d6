"""What an image build reads: Docker's own rules for ignored files, stages, and the tag."""

import pytest

from runctl.model.build_context import BuildContext, cache_tag, dockerfile_of, image_tag
from runctl.model.docker_options import DockerOptions
from runctl.model.dockerfile import parse_dockerfile
from runctl.model.dockerignore import is_ignored, parse_dockerignore


# The expected results are those of the engine (moby/patternmatcher), not of git.
@pytest.mark.parametrize(
    ("text", "ignored", "kept"),
    [
        ("data", ["data", "data/a", "data/a/b"], ["src/data", "data2"]),
        ("/data/", ["data", "data/a"], ["src/data"]),
        ("*.log", ["a.log"], ["logs/a.log", "a.log.txt"]),
        ("**/*.log", ["a.log", "logs/a.log", "a/b/c.log"], ["a.logs"]),
        ("*/temp*", ["src/temp", "src/temporary.txt"], ["temp", "a/b/temp"]),
        ("**", ["a", "a/b"], []),
        ("a/**", ["a/b", "a/b/c"], ["b"]),
        ("a/**/c", ["a/c", "a/b/c", "a/b/d/c"], ["a/b", "c"]),
        ("temp?", ["tempa", "tempa/x"], ["temp", "tempab"]),
        ("[ab].txt", ["a.txt", "b.txt"], ["c.txt"]),
        ("[^a].txt", ["b.txt"], ["a.txt"]),
        ("*\n!README.md", ["a", "src/README.md"], ["README.md"]),
        ("docs\n!docs/keep.md", ["docs/a.md"], ["docs/keep.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["a.md", "README-secret.md"], ["README.md"]),
        ("!a\na", ["a"], ["b"]),
        ("# comment\n  spaced  \n\n#not", ["spaced"], ["#not", "# comment"]),
        ("a/../b", ["b"], ["a"]),
        (r"\#a", ["#a"], ["a"]),
        ("\ufeffdata", ["data"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_files_are_ignored_as_the_engine_ignores_them(text, ignored, kept):
    patterns = parse_dockerignore(text)
    assert [path for path in [*ignored, *kept] if is_ignored(path, patterns)] == ignored


@pytest.mark.parametrize("text", ["!", "[a", "a\\", "[z-a]"])
def test_a_malformed_pattern_is_refused(text):
    with pytest.raises(ValueError, match=r"pattern|'\['|backslash"):
        parse_dockerignore(text)


MULTI = r"""# syntax=docker/dockerfile:1
ARG BASE=python:3.12
FROM --platform=$BUILDPLATFORM ${BASE} AS build
RUN pip install \
    # a comment inside
    wheel

RUN <<EOF
FROM not-a-stage
EOF
FROM scratch as empty
from build AS Run
COPY --from=build /wheels /wheels
ENTRYPOINT ["python"]
FROM nvcr.io/nvidia/pytorch:24.01-py3
CMD python train.py
FROM run AS last
"""


def test_stages_are_read_with_their_bases():
    dockerfile = parse_dockerfile(MULTI)
    assert dockerfile.stage_names == ("build", "empty", "Run", "last")
    assert dockerfile.base_images == ("${BASE}", "nvcr.io/nvidia/pytorch:24.01-py3")
    assert [stage.base for stage in dockerfile.stages][-1] == "run"


@pytest.mark.parametrize(
    ("target", "expected"),
    [("", True), ("build", None), ("empty", False), ("RUN", True), ("3", True), ("0", None)],
)
def test_whether_a_stage_has_a_command_is_known_unless_its_base_decides(target, expected):
    assert parse_dockerfile(MULTI).has_command(target) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM scratch\nCMD []\n", False),
        ('FROM scratch AS a\nCMD ["x"]\nFROM a\nENTRYPOINT []\n', False),
        ('FROM scratch AS a\nCMD ["x"]\nFROM a\n', True),
        ("FROM scratch\nCMD [broken\n", True),
        ("# escape=`\nFROM scratch\nRUN a `\n  CMD x\n", False),
        ("FROM scratch\nRUN <<-'A' <<B\n\tA\nCMD x\nB\n", False),
        ("FROM base\nCMD []\n", None),
    ],
)
def test_commands_are_read_through_continued_lines_and_here_documents(text, expected):
    assert parse_dockerfile(text).has_command() is expected


def test_a_target_that_no_stage_has_is_missing():
    dockerfile = parse_dockerfile(MULTI)
    assert [dockerfile.index_of(name) for name in ("none", "9", "-1")] == [None, None, None]


def context(files: dict[str, str] | None = None) -> BuildContext:
    texts = {"Dockerfile": "FROM scratch\nCMD x\n", ".dockerignore": "*.log\ndata\n"}
    members = {"Dockerfile": "file 644 0", "train.py": "file 644 1", **(files or {})}
    return BuildContext(members=members, texts=texts)


DOCKER = DockerOptions(dockerfile="Dockerfile")


def tag(found: BuildContext, docker: DockerOptions = DOCKER) -> str:
    return image_tag(found, docker, platform="linux/amd64")


def test_the_tag_is_the_same_until_something_that_the_build_sees_changes():
    first = tag(context())
    assert first == tag(context())
    assert first.startswith("amd64-")
    assert tag(context({"a.log": "file 644 9", "data/x": "file 644 9"})) == first
    for path, member in (
        ("train.py", "file 644 2"),
        ("train.py", "file 755 1"),
        ("b/a.log", "file 644 9"),
        ("link", "link train.py"),
    ):
        assert tag(context({path: member})) != first


def test_an_ignore_file_of_the_dockerfile_takes_precedence():
    found = context({"a.log": "file 644 9"})
    own = BuildContext(
        members=found.members, texts={**found.texts, "Dockerfile.dockerignore": "nothing"}
    )
    assert tag(own) != tag(found)
    assert tag(own) == tag(
        BuildContext(members=found.members, texts={"Dockerfile": found.texts["Dockerfile"]})
    )


def test_a_bad_pattern_is_reported_with_its_file():
    bad = BuildContext(members={}, texts={".dockerignore": "[a"})
    with pytest.raises(ValueError, match=r"\.dockerignore: '\[a' has no end"):
        tag(bad)


def test_the_cache_is_shared_by_versions_of_a_project_and_by_no_other_platform():
    dockerfile = dockerfile_of(context(), DOCKER)
    first = cache_tag(dockerfile, DOCKER, platform="linux/amd64")
    changed = dockerfile_of(context({"train.py": "file 644 2"}), DOCKER)
    assert cache_tag(changed, DOCKER, platform="linux/amd64") == first
    assert cache_tag(dockerfile, DOCKER, platform="linux/arm64") != first


def test_a_dockerfile_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match="is not a text file"):
        dockerfile_of(BuildContext(members={"Dockerfile": "file 644 0"}), DOCKER)
