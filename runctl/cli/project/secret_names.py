"""The names of files that suggest secrets, which are packed only if a rule names them."""

import re
from fnmatch import translate
from pathlib import Path

# The `by` of such a path. It completes the sentence "left out of the package by …".
BY_NAME = "default (it may hold secrets)"

# In lower case. _NAMES are compared with the last part of a path, _PATHS with its end.
_NAMES = (
    # Environment files and credentials of frameworks.
    ".env", ".env.*", ".envrc", ".secrets", ".secrets.*",
    "secrets.json", "secrets.toml", "secrets.yaml", "secrets.yml",
    # Credentials of clouds.
    ".aws", ".azure", ".boto", ".s3cfg", ".oci", ".databrickscfg", "credentials",
    "credentials.json", "application_default_credentials.json", "client_secret*.json",
    "service-account*.json", "service_account*.json", "*-service-account.json",
    "*_service_account.json", "serviceaccount*.json",
    # Credentials of tools and registries.
    ".ssh", ".gnupg", ".netrc", "_netrc", ".git-credentials", ".pypirc", ".npmrc", ".kaggle",
    "kaggle.json", ".huggingface", ".kube", ".dockercfg", ".pgpass", ".my.cnf", ".vault-token",
    ".htpasswd", ".terraformrc", "credentials.tfrc.json", ".modal.toml", ".comet.config",
    # Private keys and key stores.
    "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx", "id_rsa*",
    "id_dsa*", "id_ecdsa*", "id_ed25519*",
    # Terraform writes secrets into its state in plain text.
    "*.tfstate", "*.tfstate.*", "*.tfvars", "*.tfvars.json",
)  # fmt: skip
_PATHS = (
    ".docker/config.json", ".cache/huggingface/token", ".cache/huggingface/stored_tokens",
    ".config/gcloud", ".config/gh", ".config/rclone", ".streamlit/secrets.toml",
)  # fmt: skip
# Names that match but belong to files without secrets.
_HARMLESS = (
    ".env.example", ".env.sample", ".env.template", ".env.dist", ".env.defaults", "*.pub",
    "id_rsa*.py", "id_dsa*.py", "id_ecdsa*.py", "id_ed25519*.py", "*.tfvars.example",
)  # fmt: skip
_CERTIFICATE_BYTES = 2_000_000
_PUBLIC = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?(?:CERTIFICATE|(?:\w+ )*PUBLIC KEY|CRL)")


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(pattern) for pattern in patterns))


_IS_NAME, _IS_HARMLESS = _any_of(_NAMES), _any_of(_HARMLESS)
_IS_PATH = re.compile(rf"(?:.*/)?(?:{'|'.join(map(re.escape, _PATHS))})")


def holds_secrets(top: Path, path: str) -> bool:
    """Whether the name of a file or folder, relative to `top`, suggests secrets."""
    known = path.casefold()
    parts = known.split("/")
    if any(_is_named(known, end=end) for end in range(1, len(parts))):
        return False  # below a folder that was left out by its name, or included by a rule
    return _is_named(known, end=len(parts)) and not (
        known.endswith(".pem") and _is_public(top / path)
    )


def _is_named(path: str, *, end: int) -> bool:
    parts = path.split("/")[:end]
    if _IS_PATH.fullmatch("/".join(parts)):
        return True
    return bool(_IS_NAME.match(parts[-1])) and not _IS_HARMLESS.match(parts[-1])


def _is_public(path: Path) -> bool:
    """Whether a PEM file contains only certificates or public keys, as programs ship them."""
    try:
        if not path.is_file() or path.stat().st_size > _CERTIFICATE_BYTES:
            return False
        content = path.read_bytes()
    except OSError:
        return False
    return b"PRIVATE KEY" not in content and _PUBLIC.search(content) is not None
