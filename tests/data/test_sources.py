"""Every kind of source, and every broken one, named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict
from tests.processes import start_code

from distillab.config.data import SourceConfig
from distillab.data.sources import find_source, read_rows
from distillab.errors import ConfigError, DataError

ROWS = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}, {"prompt": "c", "answer": "3"}]


def source(path, **settings):
    return SourceConfig(path=str(path), **settings)


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def every_form(tmp_path):
    write(tmp_path / "rows.jsonl", lines(ROWS))
    write(tmp_path / "lines.json", lines(ROWS))
    write(tmp_path / "list.json", json.dumps(ROWS, indent=1))
    write(tmp_path / "rows.csv", "prompt,answer\na,1\nb,2\nc,3\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    parts = DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])})
    parts.save_to_disk(str(tmp_path / "parts"))
    return tmp_path


FORMS = ["rows.jsonl", "lines.json", "list.json", "rows.csv", "rows.parquet", "saved", "parts"]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows_and_keys(every_form, name):
    rows = read_rows(source(every_form / name))
    assert [row.values for row in rows] == ROWS
    assert [row.key for row in rows] == [row.key for row in read_rows(source(every_form / "rows.jsonl"))]
    assert all(str(every_form) in row.origin for row in rows)


@pytest.mark.parametrize("name", FORMS)
def test_limit_takes_the_first_rows(every_form, name):
    assert [row.values for row in read_rows(source(every_form / name, limit=2))] == ROWS[:2]


def test_keys_do_not_depend_on_order_and_duplicates_are_told_apart(tmp_path):
    twice = [*ROWS, ROWS[0]]
    forward = read_rows(source(write(tmp_path / "a.jsonl", lines(twice))))
    backward = read_rows(source(write(tmp_path / "b.jsonl", lines(twice[::-1]))))
    assert {row.key: row.values for row in forward} == {row.key: row.values for row in backward}
    assert len({row.key for row in forward}) == 4


def test_a_split_is_chosen_from_a_saved_data_set(every_form):
    assert len(read_rows(source(every_form / "parts", split="test"))) == 1
    with pytest.raises(DataError, match=r'no split "dev"(.|\n)*train, test'):
        read_rows(source(every_form / "parts", split="dev"))
    with pytest.raises(DataError, match="has no splits"):
        read_rows(source(every_form / "saved", split="train"))
    with pytest.raises(DataError, match="A file has no splits"):
        read_rows(source(every_form / "rows.jsonl", split="train"))


def test_missing_file_names_the_near_one(every_form):
    with pytest.raises(DataError, match=r'no such file(.|\n)*did you mean "rows\.jsonl"'):
        read_rows(source(every_form / "row.jsonl"))
    with pytest.raises(DataError, match="nor is there a folder"):
        read_rows(source(every_form / "nowhere" / "row.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", "The file is empty"),
        ("blank.jsonl", "\n\n", "holds no rows"),
        ("header.csv", "prompt,answer\n", "holds no rows"),
        ("rows.txt", "hello", r'ending in "\.txt"(.|\n)*\.jsonl'),
        ("rows", "hello", "no ending"),
        ("bad.parquet", "hello", "not readable Parquet"),
        ("bad.json", '[{"a": 1},', r"not JSON(.|\n)*bad\.json:1"),
        ("item.json", '[{"a": 1}, 2]', "item 2: a JSON int"),
        ("twice.csv", "a,a\n1,2\n", "is in the header twice"),
        ("fields.csv", "a,b\n1,2\n1,2,3\n4\n", r"2 lines(.|\n)*line 3: 3 fields(.|\n)*line 4: 1 field"),
        ("quote.csv", 'a,b\n1,"2\n', "line 2|line 3"),
        ("latin.csv", b"a,b\n1,2\n\xe9,3\n", r"not UTF-8(.|\n)*latin\.csv:3(.|\n)*byte 8 of the file is 0xe9"),
        ("latin.json", b'[{"a":\n"\xe9"}]', r"latin\.json:2"),
    ],
)
def test_unusable_files_say_why(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read_rows(source(write(tmp_path / name, content)))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"prompt": "a", ', r"line 2: not JSON \("),
        ("[1, 2]", "line 2: a JSON list, not an object"),
        ('"text"', "line 2: a JSON str, not an object"),
        ('{"a": 1, "a": 2}', "line 2: duplicate key: a"),
        ('{"a": NaN}', "line 2: NaN is not JSON"),
        ("[" * 100_000, "line 2: JSON nested too deeply"),
    ],
)
def test_one_broken_line_among_good_ones_is_named(tmp_path, broken, message):
    good = json.dumps(ROWS[0])
    path = write(tmp_path / "rows.jsonl", f"{good}\n{broken}\n{good}\n")
    with pytest.raises(DataError, match=message) as caught:
        read_rows(source(path))
    assert caught.value.rule == "1 line of the file cannot be read."


def test_not_utf8_is_named_by_line_and_byte(tmp_path):
    path = write(tmp_path / "rows.jsonl", b'\xef\xbb\xbf{"a": "x"}\n{"a": "caf\xe9"}\n')
    with pytest.raises(DataError, match=rf"line 2: not UTF-8 \(byte {14 + 10} of the file is 0xe9\)"):
        read_rows(source(path))
    assert path.read_bytes()[24] == 0xE9


def test_many_broken_lines_are_counted_and_five_shown(tmp_path):
    path = write(tmp_path / "rows.jsonl", "{\n" * 12)
    with pytest.raises(DataError) as caught:
        read_rows(source(path))
    assert caught.value.rule.startswith("12 lines")
    assert len(caught.value.facts) == 6
    assert caught.value.facts[-1] == "… and 7 more"


def test_a_folder_that_is_no_saved_data_set(tmp_path):
    write(tmp_path / "x.jsonl", "{}")
    with pytest.raises(DataError, match=r"not written by datasets\.save_to_disk, and holds no Parquet(.|\n)*x\.jsonl"):
        read_rows(source(tmp_path))


def test_a_damaged_saved_data_set(every_form):
    (every_form / "saved" / "state.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        read_rows(source(every_form / "saved"))


@pytest.mark.slow
def test_an_unreachable_hub_id_says_so():
    code = (
        "import datasets.config, huggingface_hub.constants\n"
        "datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True\n"
        "from distillab.config.data import SourceConfig\n"
        "from distillab.data.sources import read_rows\n"
        "from distillab.errors import DataError\n"
        "try: read_rows(SourceConfig(path='nobody/no-such-data'))\n"
        "except DataError as error: print(error)\n"
    )
    out, _ = start_code(code).communicate()
    assert "no such file or folder, and the data set" in out
    assert "nobody/no-such-data" in out


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("content", "said", "fix"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4f\nsize 9\n", "git-LFS pointer", "git lfs pull"),
        ("<!doctype html><html>Log in.</html>", "web page", "download the file itself"),
    ],
    ids=["pointer", "page"],
)
def test_what_a_download_left_is_named(tmp_path: Path, ending: str, content: str, said: str, fix: str) -> None:
    path = tmp_path / f"rows{ending}"
    path.write_text(content)
    with pytest.raises(DataError, match="holds no rows") as caught:
        read_rows(SourceConfig(path=str(path)))
    assert said in str(caught.value) and fix in str(caught.value)


def test_a_web_page_is_no_file() -> None:
    with pytest.raises(DataError, match="not read from a web page") as caught:
        read_rows(SourceConfig(path="https://example.org/rows.jsonl"))
    assert caught.value.where == "https://example.org/rows.jsonl"


@pytest.fixture
def in_a_store(every_form):
    """The files of `every_form`, and parts of a Parquet file, in fsspec's store in memory."""
    store = fsspec.filesystem("memory")
    for name in ("rows.jsonl", "list.json", "rows.csv", "rows.parquet"):
        store.pipe(f"/bucket/{name}", (every_form / name).read_bytes())
    for number, row in enumerate(ROWS):
        with store.open(f"/bucket/parts/{number}.parquet", "wb") as file:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), file)
    yield store
    store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("name", ["rows.jsonl", "list.json", "rows.csv", "rows.parquet", "parts", "parts/*.parquet"])
def test_a_url_of_a_store_gives_the_same_rows(in_a_store, name):
    rows = read_rows(source(f"memory://bucket/{name}"))
    assert [row.values for row in rows] == ROWS
    assert rows[0].origin.startswith("memory://")


def test_a_url_that_is_not_there(in_a_store):
    with pytest.raises(DataError, match="no such file"):
        read_rows(source("memory://bucket/row.jsonl"))
    with pytest.raises(ConfigError, match="password"):
        read_rows(source("memory://user:word@bucket/row.jsonl"))


def test_facts_of_a_file_change_with_its_content(in_a_store, every_form):
    for place, change in (
        (every_form / "rows.jsonl", lambda: write(every_form / "rows.jsonl", lines(ROWS[::-1]))),
        ("memory://bucket/rows.jsonl", lambda: in_a_store.pipe("/bucket/rows.jsonl", lines(ROWS[::-1]).encode())),
    ):
        before = find_source(source(place)).facts
        assert find_source(source(place)).facts == before
        change()
        assert find_source(source(place)).facts != before


def test_a_pattern_takes_its_files_in_the_order_of_their_names(every_form):
    for number in (2, 0, 1):
        write(every_form / f"part-{number}.jsonl", lines([ROWS[number]]))
    rows = read_rows(source(every_form / "part-*.jsonl"))
    assert [row.values for row in rows] == ROWS
    assert [Path(row.origin).name for row in rows] == [f"part-{n}.jsonl:1" for n in range(3)]
    assert [row.values for row in read_rows(source(every_form / "part-*.jsonl", limit=2))] == ROWS[:2]
    with pytest.raises(DataError, match="No file matches"):
        read_rows(source(every_form / "part-*.csv"))


def test_a_folder_of_parquet_parts(every_form):
    folder = every_form / "folder"
    folder.mkdir()
    for number, row in enumerate(ROWS):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / f"{number}.parquet")
    assert [row.values for row in read_rows(source(folder))] == ROWS


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_columns_that_other_characters_separate(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt{mark}answer\na{mark}b\n")
    with pytest.raises(DataError, match="not separated by commas") as caught:
        read_rows(SourceConfig(path=str(path)))
    assert f"sep={mark!r}" in str(caught.value)
