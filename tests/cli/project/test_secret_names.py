"""Files whose names suggest secrets are packed only if a rule names them."""

import tarfile

import pytest

from runctl.cli.project.left_out import groups_of, note_of
from runctl.cli.project.package import pack_project
from runctl.cli.project.scan import scan_project
from runctl.cli.project.secret_names import BY_NAME
from runctl.model.left_out import explain_failure, read_note
from tests.cli.project.test_package import paths, plant

SECRETS = (
    ".env", ".env.production", "conf/.env.local", ".envrc", ".aws/credentials", ".aws/config",
    ".ssh/id_ed25519", "id_rsa", "id_rsa_deploy", ".netrc", "_netrc", ".pypirc", ".npmrc",
    ".git-credentials", ".gnupg/private-keys-v1.d/k", ".docker/config.json", ".kaggle/kaggle.json",
    "kaggle.json", ".huggingface/token", ".cache/huggingface/token", ".config/gcloud/x.db",
    ".azure/msal_token_cache.json", ".kube/config", "server.key", "certs/server.pem", "SERVER.PEM",
    "store.p12", "store.pfx", "store.jks", "terraform.tfstate", "terraform.tfstate.backup",
    "prod.tfvars", "prod.auto.tfvars.json", "credentials.json", "client_secret_12.json",
    "gcp/service-account-prod.json", "secrets.yaml", ".streamlit/secrets.toml",
)  # fmt: skip
HARMLESS = (
    ".env.example", ".env.sample", ".env.template", ".docker/Dockerfile", "environment.yml",
    "env.py", "key.py", "keys.txt", "tokens.json", "tokenizer.json", "config.json", "id_rsa.pub",
    "token", "monkey.png", "credentials.py", ".cache/huggingface/x", "aws/x.py", "ssh/x.py",
)  # fmt: skip
KEY = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def packed(top, tmp_path) -> dict[str, bytes]:
    """Return the contents of the archive that would be uploaded."""
    package = pack_project(scan_project(top), tmp_path / "package.tar.gz")
    with tarfile.open(package.path) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return {member.name: archive.extractfile(member).read() for member in files}


def test_no_archive_contains_files_whose_names_suggest_secrets(tmp_path):
    top = plant(tmp_path / "top", dict.fromkeys((*SECRETS, *HARMLESS), "a-secret-or-not"))
    # A rule of .gitignore that includes a file does not include a secret.
    plant(top, {"train.py": "", ".gitignore": "!.env\n!*.pem\n"})
    assert set(packed(top, tmp_path)) == {"train.py", ".gitignore", *HARMLESS}


@pytest.mark.parametrize("name", SECRETS)
def test_the_suggested_line_includes_each_file_again(tmp_path, name):
    plant(tmp_path, {"train.py": "", name: "x"})
    (group,) = groups_of(scan_project(tmp_path))
    assert (group.by, group.may_hold_secrets) == (BY_NAME, True)
    (tmp_path / ".runctlignore").write_text("\n".join(group.remedy))
    assert name in paths(tmp_path)


@pytest.mark.parametrize("rules", ["*\n!*\n", "!**\n", "*\n!src/\n!src/**\n", "!src/*\n!?*\n"])
def test_a_broad_rule_includes_no_secret(tmp_path, rules):
    plant(tmp_path, {"src/train.py": "", "src/.env": "", "src/a.pem": "", ".runctlignore": rules})
    found = paths(tmp_path)
    assert "src/train.py" in found
    assert not {"src/.env", "src/a.pem"} & set(found)


def test_a_later_rule_excludes_what_an_earlier_one_includes(tmp_path):
    plant(tmp_path, {"train.py": "", ".env": "", ".runctlignore": "!.env\n"})
    assert ".env" in paths(tmp_path)
    plant(tmp_path, {".runctlignore": "!.env\n.env\n"})
    assert ".env" not in paths(tmp_path)


def test_certificates_are_packed_and_private_keys_are_not(tmp_path):
    top = plant(
        tmp_path / "top",
        {
            "train.py": "",
            "cacert.pem": f"# authorities\n{CERTIFICATE * 3}",
            "public.pem": "-----BEGIN PUBLIC KEY-----\nAAAA\n",
            "both.pem": CERTIFICATE + KEY,
            "key.pem": KEY,
            "unknown.pem": "AAAA",
            "chain.crt": CERTIFICATE,
        },
    )
    assert paths(top) == ["cacert.pem", "chain.crt", "public.pem", "train.py"]


def test_a_virtual_environment_called_env_is_not_a_secret(tmp_path):
    top = plant(tmp_path / "top", {"train.py": "", ".env/pyvenv.cfg": "", ".env/lib/x.py": ""})
    assert scan_project(top).left_out == ()
    assert paths(top) == ["train.py"]


def test_a_failure_because_of_a_missing_secret_file_is_explained(tmp_path):
    plant(tmp_path, {"train.py": "", "conf/.env": "", "server.key": ""})
    note = read_note(note_of(scan_project(tmp_path)))
    words = "FileNotFoundError: [Errno 2] No such file or directory: 'server.key'"
    assert explain_failure(words, note, project="/p") == (
        "server.key is left out of the package by default (it may hold secrets); include it with "
        "`!server.key` in .runctlignore"
    )
    words = "FileNotFoundError: [Errno 2] No such file or directory: '/p/conf/.env'"
    assert "`!conf/.env`" in explain_failure(words, note, project="/p")


def test_one_line_names_left_out_secrets_and_how_to_include_them(runctl, deployed, project):
    plant(project, {".env": "KEY=very-secret", "certs/server.key": "very-secret"})
    done = runctl("aws", "train", "--dry-run", "train.py")
    assert done.code == 0
    (line,) = [text for text in done.stderr.splitlines() if "left out" in text]
    assert line == (
        "left out because their names suggest secrets: .env, certs/server.key; include a file "
        "with a line such as `!.env` in .runctlignore"
    )
    assert ".env" not in done.stdout
    document = runctl("--json", "aws", "train", "--dry-run", "train.py").document
    listed = {entry["path"]: entry for entry in document["left_out"]}
    assert listed[".env"]["may_hold_secrets"] is True
    assert listed[".env"]["remedy"] == ["!.env"]
    assert "very-secret" not in done.stdout + done.stderr + str(document)


def test_many_left_out_secrets_are_still_one_line(runctl, deployed, project):
    plant(project, {f"keys/{number}.key": "" for number in range(30)})
    done = runctl("aws", "train", "--dry-run", "train.py")
    (line,) = [text for text in done.stderr.splitlines() if "left out" in text]
    assert "and 25 more; include a file with a line such as `!keys/0.key`" in line


def test_a_program_that_names_a_left_out_secret_is_warned_of(runctl, deployed, project):
    plant(project, {".env": "", "train.py": "load_dotenv('.env')\n"})
    done = runctl("aws", "train", "--dry-run", "train.py")
    assert (
        "warning: train.py names .env, which is left out by default (it may hold secrets): .env "
        in done.stderr
    )
