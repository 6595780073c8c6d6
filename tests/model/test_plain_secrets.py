"""A value that looks like a secret is refused by name or shape, and never shown."""

import json

import pytest

from runctl.model.errors import InvalidRequestError
from runctl.model.plain_secrets import MASK, find_plain_secrets, mask_request, mask_text
from runctl.model.request_parsing import parse_request

# Built here, so that no scanner of repositories takes a line of this file for a real key.
HEX = "0123456789abcdef" * 3
SHAPED = {
    "hugging face": "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0dE3f",
    "openai": "sk-" + "aB3dE6gH9jK2mN5pQ8sT1vW4",
    "openai project": "sk-proj-" + "aB3dE6gH9jK2mN5pQ8sT1vW4-xy_z",
    "anthropic": "sk-ant-api03-" + "aB3dE6gH9jK2mN5pQ8sT1vW4",
    "github": "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0dE3fGh",
    "github fine": "github_pat_" + "11AB3dE6gH9jK2mN5pQ8sT_1vW4",
    "gitlab": "glpat-" + "aB3dE6gH9jK2mN5pQ8sT",
    "access key": "AKIA" + "IOSFODNN7EXAMPLE",
    "session key": "ASIA" + "IOSFODNN7EXAMPLE",
    "slack": "xoxb-" + "123456789012-abcdef",
    "google": "AIza" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0dE3fG",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0In0" + ".c2lnbmF0dXJl",
    "pem": "-----BEGIN " + "RSA PRIVATE KEY-----\nMIIB\n-----END",
    "openssh": "-----BEGIN " + "OPENSSH PRIVATE KEY-----\nb3Bl",
    "url": "postgres://user:" + "hunter2@db.example.com/train",
}


@pytest.mark.parametrize("value", SHAPED.values(), ids=SHAPED)
@pytest.mark.parametrize(
    "where",
    [
        lambda value: {"env": {"ANYTHING": value}},
        lambda value: {"args": ["--anything", value]},
        lambda value: {"args": [f"--anything={value}"]},
        lambda value: {"resume_args": [f"x.y={value}"]},
        lambda value: {"command": ["sh", "-c", f"FOO='{value}' exec python train.py"]},
    ],
    ids=["env", "option", "assignment", "hydra", "shell"],
)
def test_shape_of_a_key_is_enough(value, where):
    document = where(value)
    assert find_plain_secrets(document)
    assert value.split("\n")[0] not in json.dumps(mask_request(document))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_API_KEY", "abc123secret"),
        ("WANDB_API_KEY", HEX[:40]),
        ("HF_TOKEN", "not-a-prefix"),
        ("MY_SERVICE_TOKEN", HEX[:32]),
        ("DB_PASSWORD", "hunter2"),
        ("DB_PASSWORD", "12345678"),
        ("apiKey", "abc123secret"),
        ("AWS_SECRET_ACCESS_KEY", "/" + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKE"),
        ("CLIENT_SECRET", "correct-horse"),
        ("GOOGLE_CREDENTIALS", '{"type": "service_account"}'),
    ],
)
def test_name_and_value_that_fit_each_other_are_enough(name, value):
    assert [secret.where for secret in find_plain_secrets({"env": {name: value}})] == [
        f"env.{name}"
    ]
    option = f"--{name.lower().replace('_', '-')}"
    assert find_plain_secrets({"args": [option, value]}) or name == "apiKey"
    with pytest.raises(InvalidRequestError) as caught:
        parse_request({"command": ["train"], "env": {name: value}})
    assert f"env.{name}: the value looks like a secret" in str(caught.value)
    assert f"{name}=secret:NAME" in str(caught.value)
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false"),
        ("MAX_TOKENS", "4096"),
        ("NUM_KEYS", "16"),
        ("SORT_KEY", "val_loss"),
        ("KEY", "validation_accuracy_top5"),
        ("CACHE_KEY", HEX[:40]),
        ("EOS_TOKEN", "<|endoftext|>"),
        ("TOKEN", "42"),
        ("OPENAI_API_KEY", "EMPTY"),
        ("OPENAI_API_KEY", "sk-no-key-required"),
        ("API_KEY", "$WANDB_API_KEY"),
        ("API_KEY", ""),
        ("WANDB_API_KEY", "secret:team/wandb-AbC123dEf456"),
        ("WANDB_API_KEY", "ssm:/team/wandb"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/opt/google/key.json"),
        ("PASSWORD_FILE", "/run/secrets/password"),
        ("TOKENIZER", "sk-learn-random-forest-classifier"),
        ("GIT_SHA", HEX[:40]),
        ("DATABASE_URL", "postgres://db.example.com:5432/train"),
        ("REPOSITORY", "git@github.com:team/project.git"),
        ("CERTIFICATE", "-----BEGIN CERTIFICATE-----\nMIIB"),
        ("OMP_NUM_THREADS", "4"),
    ],
)
def test_values_that_only_resemble_a_secret_are_accepted(name, value):
    assert find_plain_secrets({"env": {name: value}}) == []
    assert parse_request({"command": ["train"], "env": {name: value}}).program.env == {name: value}


def test_secret_key_is_recognized_next_to_its_access_key():
    secret = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
    alone = {"env": {"ONE": secret}}
    assert find_plain_secrets(alone) == []
    both = {"env": {"ONE": secret, "TWO": SHAPED["access key"]}}
    assert {secret.label for secret in find_plain_secrets(both)} == {"ONE", "TWO"}


def test_argument_is_refused_with_what_to_do_instead():
    with pytest.raises(InvalidRequestError) as caught:
        parse_request({"command": ["train", "--api-key", "sk-123"]})
    message = str(caught.value)
    assert "command[2]: the value looks like a secret" in message
    assert "process list" in message
    assert "let the program read the variable" in message
    assert "add '--api-key' to not_secrets" in message
    assert "sk-123" not in message


def test_request_may_declare_exceptions():
    document = {
        "command": ["train", "--api-key", "public-demo-key", SHAPED["openai"]],
        "env": {"SERVICE_TOKEN": HEX},
    }
    labels = [secret.label for secret in find_plain_secrets(document)]
    assert labels == ["SERVICE_TOKEN", "--api-key", "command[3]"]
    insisting = {**document, "not_secrets": labels}
    request = parse_request(insisting)
    assert request.program.not_secrets == tuple(labels)
    assert parse_request(request.as_document()) == request
    assert mask_request(request.as_document())["env"] == document["env"]


def test_names_and_references_stay_visible_and_only_values_are_masked():
    document = {
        "script": "train.py",
        "args": ["--epochs", "3", "--api-key", "sk-123", "--lr=0.1"],
        "env": {"WANDB_API_KEY": "abc123secret", "HF_TOKEN": "secret:hf#token", "A": "1"},
    }
    assert mask_request(document) == {
        "script": "train.py",
        "args": ["--epochs", "3", "--api-key", MASK, "--lr=0.1"],
        "env": {"WANDB_API_KEY": MASK, "HF_TOKEN": "secret:hf#token", "A": "1"},
    }
    assert document["env"]["WANDB_API_KEY"] == "abc123secret"


def test_text_is_masked_where_it_contains_a_secret():
    assert mask_text("--epochs 3 --api-key sk-123 WANDB_API_KEY=abc123secret") == (
        f"--epochs 3 --api-key {MASK} WANDB_API_KEY={MASK}"
    )


@pytest.mark.parametrize("env", [["WANDB_API_KEY=abc123secret"], {"A": ["abc123secret"]}])
def test_message_about_a_bad_value_does_not_show_it(env):
    with pytest.raises(InvalidRequestError) as caught:
        parse_request({"command": ["train", 5], "env": env, "args": "--password hunter22"})
    assert "abc123secret" not in str(caught.value)
    assert "hunter22" not in str(caught.value)
