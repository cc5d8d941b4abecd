"""Keep secrets out of everything written or shown: they stay `${NAME}` until a path or address is opened.

An environment variable is a secret by its name: HF_TOKEN, S3_SECRET, DB_PASSWORD, MY_KEY_2. A recipe that uses one
keeps `${NAME}`; nothing computed from the recipe, such as a fingerprint, depends on the value.
"""

from __future__ import annotations

import os
import re

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_SECRET_WORD = re.compile(r"(TOKEN|KEY|KEYS|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?)\d*(_|$)", re.IGNORECASE)
_USER_AND_PASSWORD = re.compile(r"(?<=://)[^/\s?#]*:[^/\s?#]*@")
# A shorter value can be part of any text; it is kept out because it is never inserted.
_SHORTEST = 8


def is_secret(name: str) -> bool:
    """Return whether a variable is a secret by its name.

    >>> [is_secret(name) for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "token2", "TOKENIZER", "MAX_TOKENS")]
    [True, True, True, False, False]
    """
    return _SECRET_WORD.search(name) is not None


def secrets_in(text: str) -> list[str]:
    """Return the names of the secrets that a text uses.

    >>> secrets_in("https://host/${HF_TOKEN}/${USER}")
    ['HF_TOKEN']
    """
    return [match[1] for match in VARIABLE.finditer(text) if is_secret(match[1])]


def revealed(text: str) -> str:
    """Return the text with the values of secrets inserted: for opening a path or address, never for writing."""
    return VARIABLE.sub(
        lambda match: os.environ.get(match[1], match[2] or "") if is_secret(match[1]) else match[0], text
    )


def redacted(text: str) -> str:
    """Return the text with `${NAME}` for every value of a secret, and without the password of an address.

    >>> redacted("https://somebody:word@host/rows")
    'https://•••@host/rows'
    """
    for name, value in sorted(os.environ.items(), key=lambda item: -len(item[1])):
        if len(value) >= _SHORTEST and value in text and is_secret(name):
            text = text.replace(value, f"${{{name}}}")
    return _USER_AND_PASSWORD.sub("•••@", text)


def has_password(text: str) -> bool:
    """Return whether an address in the text has `user:password@`.

    >>> has_password("https://somebody:word@host"), has_password("abfs://container@account/path")
    (True, False)
    """
    return _USER_AND_PASSWORD.search(text) is not None
