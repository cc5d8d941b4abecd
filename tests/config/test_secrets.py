"""A secret of the environment opens a place, and stands in no record, fingerprint or message."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from distillab.cache.sources import open_source
from distillab.config import RunRecipe, StudyRecipe, load_recipe
from distillab.config.identity import identity_settings
from distillab.config.loader import build_recipe
from distillab.errors import ConfigError, DataError
from distillab.paths import is_local, local_path
from distillab.redaction import redacted

VALUE = "canary-7f3a91c2"
RUN = {"student": {"path": "s"}, "data": {"train": {"path": "d"}}}


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_HUB_TOKEN", VALUE)
    monkeypatch.setenv("PLAIN", "models")


def test_a_record_keeps_the_text_before_expansion() -> None:
    values = {
        "title": "of ${MY_HUB_TOKEN}",
        "student": {"path": "${PLAIN}/${MY_HUB_TOKEN}/s", "tokenizer": "/t/${MY_HUB_TOKEN}"},
        "teacher": {"path": "t", "cache": "s3://bucket/${MY_HUB_TOKEN}"},
        "data": {"train": {"path": "${MY_HUB_TOKEN:-none}/rows"}},
    }
    recipe = build_recipe(StudyRecipe, values, ["data.held_out.path=${MY_HUB_TOKEN}/h"], where="here")
    assert VALUE not in recipe.model_dump_json() + repr(recipe) + str(identity_settings(recipe))
    assert recipe.student.path == "models/${MY_HUB_TOKEN}/s"
    assert local_path(recipe.student.path) == Path(f"models/{VALUE}/s")
    assert local_path(recipe.data.train.path) == Path(f"{VALUE}/rows")


def test_what_is_computed_from_a_recipe_does_not_know_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RUN | {"student": {"path": "/m/${MY_HUB_TOKEN}"}}
    one = build_recipe(RunRecipe, values, [], where="here").model_dump_json()
    monkeypatch.setenv("MY_HUB_TOKEN", "another-value")
    assert build_recipe(RunRecipe, values, [], where="here").model_dump_json() == one


@pytest.mark.parametrize(
    "override",
    [
        "output=runs/${MY_HUB_TOKEN}",
        "cache.folder=caches/${MY_HUB_TOKEN}",
        "data.template='${MY_HUB_TOKEN} {prompt}'",
        "student.revision=${MY_HUB_TOKEN}",
        "evaluation.value_pattern='${MY_HUB_TOKEN}(.)'",
        "training.device=${MY_HUB_TOKEN}",
    ],
)
def test_a_secret_is_refused_where_it_would_be_written(override: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        build_recipe(RunRecipe, RUN, [override], where="here")
    assert VALUE not in str(refusal.value)
    assert override.split("=")[0] in str(refusal.value)


def test_a_secret_that_is_not_set_is_said() -> None:
    with pytest.raises(ConfigError, match="MY_OTHER_SECRET, which is not set"):
        build_recipe(RunRecipe, RUN, ["student.path=/m/${MY_OTHER_SECRET}"], where="here")


@pytest.mark.parametrize(
    "address",
    ["https://somebody:pa55-word@host/x", "s3://k:pa55-word@bucket", "a b://u:pa55-word@h", "x://u@v:p@pa55-word@h"],
)
@pytest.mark.parametrize("key", ["teacher.cache", "teacher.path", "student.path", "output", "name", "data.train.path"])
def test_a_password_in_an_address_is_refused_and_not_repeated(key: str, address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="user's password") as refusal:
        build_recipe(RunRecipe, RUN, [f"{key}='{address}'"], where="here")
    shown = "".join(traceback.format_exception(refusal.value))
    assert "pa55-word" not in shown and "•••@" in shown
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"student: {{path: s}}\ndata: {{train: {{path: d}}}}\nname: '{address}'\n")
    with pytest.raises(ConfigError, match="user's password"):
        load_recipe(RunRecipe, recipe)


def test_a_password_of_a_variable_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "https://somebody:pa55-word@host")
    with pytest.raises(ConfigError, match="user's password") as refusal:
        build_recipe(RunRecipe, RUN, ["teacher.cache=${WHERE}/x"], where="here")
    assert "pa55-word" not in str(refusal.value)


def test_a_caches_address_with_a_password_is_refused() -> None:
    with pytest.raises(ConfigError, match="user's password") as refusal:
        open_source("https://somebody:pa55-word@host/cache")
    assert "pa55-word" not in str(refusal.value)


def test_a_secret_that_the_shell_has_put_into_an_address_is_taken_out() -> None:
    recipe = build_recipe(RunRecipe, RUN, [f"student.path=https://host/{VALUE}/m"], where="here")
    assert recipe.student.path == "https://host/${MY_HUB_TOKEN}/m"


def test_a_message_shows_no_secret() -> None:
    error = DataError("a rule", where=f"/x/{VALUE}", facts=[f"seen {VALUE}"], fix=f"not {VALUE}")
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert VALUE not in shown and "${MY_HUB_TOKEN}" in shown


def test_a_cache_behind_a_secret_is_read_and_named_without_it(tmp_path: Path) -> None:
    folder = tmp_path / VALUE
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    text = f"{tmp_path}/${{MY_HUB_TOKEN}}"
    source = open_source(text)
    assert source.whole("file") == b"content"
    assert source.location == text and open_source(source.location).whole("file") == b"content"
    assert is_local(text)


def test_a_remote_cache_behind_a_secret_is_read_and_named_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe(f"/{VALUE}/file", b"content")
    source = open_source("memory://${MY_HUB_TOKEN}")
    assert source.whole("file") == b"content"
    assert VALUE not in source.location + source.place("file")
    with pytest.raises(Exception, match=r"not there|no such|missing") as refusal:
        source.read([("nothing", 0, 4)])
    assert VALUE not in str(refusal.value)


def test_a_short_value_is_not_sought_in_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "a")
    assert redacted("a path") == "a path"
