"""Secrets: written `${NAME}` in every text that is kept or shown, and replaced only where a place is opened.

A variable of the environment is a secret by its name: HF_TOKEN, S3_SECRET, DB_PASSWORD, MY_KEY_2. A recipe that uses
one keeps `${NAME}`; nothing that is computed from the recipe, a fingerprint neither, knows the value.
"""

from __future__ import annotations

import os
import re

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_SECRET_WORD = re.compile(r"(TOKEN|KEY|KEYS|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?)\d*(_|$)", re.IGNORECASE)
_USER_AND_PASSWORD = re.compile(r"(?<=://)[^/\s?#]*:[^/\s?#]*@")
# A shorter value may be part of any text; such a one is kept out because it is never put in.
_SHORTEST = 8


def is_secret(name: str) -> bool:
    """Whether a variable's name says that its value is a secret.

    >>> [is_secret(name) for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "token2", "TOKENIZER", "MAX_TOKENS")]
    [True, True, True, False, False]
    """
    return _SECRET_WORD.search(name) is not None


def secrets_in(text: str) -> list[str]:
    """Names of the secrets that a text uses.

    >>> secrets_in("https://host/${HF_TOKEN}/${USER}")
    ['HF_TOKEN']
    """
    return [match[1] for match in VARIABLE.finditer(text) if is_secret(match[1])]


def revealed(text: str) -> str:
    """The text with the values of secrets in it: for opening a place, never for writing."""
    return VARIABLE.sub(
        lambda match: os.environ.get(match[1], match[2] or "") if is_secret(match[1]) else match[0], text
    )


def redacted(text: str) -> str:
    """The text with `${NAME}` for every value of a secret, and without the password of an address.

    >>> redacted("https://somebody:word@host/rows")
    'https://•••@host/rows'
    """
    for name, value in sorted(os.environ.items(), key=lambda item: -len(item[1])):
        if len(value) >= _SHORTEST and value in text and is_secret(name):
            text = text.replace(value, f"${{{name}}}")
    return _USER_AND_PASSWORD.sub("•••@", text)


def has_password(text: str) -> bool:
    """Whether an address in the text has `user:password@`.

    >>> has_password("https://somebody:word@host"), has_password("abfs://container@account/path")
    (True, False)
    """
    return _USER_AND_PASSWORD.search(text) is not None
