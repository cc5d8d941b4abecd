"""Caches in other places: an S3-compatible store, and a web server that gives ranges; both real, both on loopback.

The store needs s3fs and moto[server], whose botocore wants python-dateutil < 3, which our pins do not have: where they
are not installed, its tests are skipped, and the web server's remain.
"""

from __future__ import annotations

import http.server
import pickle
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distillab.cache.journals import Manifest
from distillab.cache.merge import merge
from distillab.cache.reader import CacheReader
from distillab.cache.rows import row_digest
from distillab.cache.verify import verify
from distillab.errors import CacheCorrupt, CacheError, ConfigError
from tests.cache.cache_samples import ALL, build, numbers, sample_identity, sample_rows, tree
from tests.object_store import SECRET, object_store

ROWS = sample_rows(7)
Store = Callable[[Path], str]
"""Puts a folder into the store as it is now; the folder's URL there."""


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Files, listings, and ranges of files, of the folder `root`."""

    root: Path
    asked: list[str]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        self.asked.append(f"{path.name} {self.headers.get('Range')}")
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        content, start = path.read_bytes(), int(wanted[1])
        part = content[start : int(wanted[2]) + 1]
        if not part:
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Store]:
    pytest.importorskip("aiohttp")
    root = tmp_path / "web"
    root.mkdir()
    handler = type("Handler", (_Ranges,), {"asked": [], "root": root})

    class Server(http.server.ThreadingHTTPServer):
        def finish_request(self, request: Any, client_address: Any) -> None:
            handler(request, client_address, self, directory=str(root))  # type: ignore[call-arg]

    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    def put(folder: Path) -> str:
        shutil.copytree(folder, root / folder.name, dirs_exist_ok=True)
        return f"http://127.0.0.1:{server.server_port}/{folder.name}"

    yield put
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with object_store(monkeypatch) as store:

        def put(folder: Path) -> str:
            for name, content in tree(folder).items():
                store.pipe_file(f"bucket/{folder.name}/{name}", content)
            return f"s3://bucket/{folder.name}"

        yield put


@pytest.fixture(params=["web", "bucket"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    build(tmp_path / "c", ROWS, sample_identity(ROWS))
    return tmp_path / "c"


def test_a_cache_is_read_from_a_store(cache: Path, store: Store) -> None:
    reader = CacheReader(store(cache))
    near = CacheReader(cache)
    assert reader.complete
    assert reader.identity == near.identity
    assert reader.keys() == [row.key for row in ROWS]
    order = reader.find_many([row_digest(row.input_ids, row.answer_mask) for row in ROWS[::-1]])
    assert order == list(range(7))[::-1]
    for far, here in zip(reader.read([6, 0, 3], ALL), near.read([6, 0, 3], ALL), strict=True):
        assert far.input_ids.tolist() == here.input_ids.tolist()
        assert {kind: numbers(far.sections[kind]) for kind in ALL} == {
            kind: numbers(here.sections[kind]) for kind in ALL
        }
    assert numbers(reader.read_flat([5, 1], "top_k")) == numbers(near.read_flat([5, 1], "top_k"))
    assert reader.head().weight.tolist() == near.head().weight.tolist()
    again = pickle.loads(pickle.dumps(reader))  # noqa: S301
    assert again.read([4], ["text"])[0].key == ROWS[4].key
    assert verify(reader.location).complete


def test_damage_in_a_store_is_seen(cache: Path, store: Store) -> None:
    path = cache / "shards" / "shard-00001.safetensors"
    content = path.read_bytes()
    wrong = bytearray(content)
    wrong[-1] ^= 1
    path.write_bytes(wrong)
    reader = CacheReader(store(cache))
    assert reader.read([2], ["text"])[0].key == ROWS[2].key
    with pytest.raises(CacheCorrupt, match=r"(?s)://.*shard-00001.*row 3"):
        reader.read([3], ["text"])
    # cut off in the records, then in the index
    path.write_bytes(content[:-10])
    reader = CacheReader(store(cache))
    with pytest.raises(CacheCorrupt, match=r"(?s)too short.*://.*shard-00001"):
        reader.read([3], ["text"])
    path.write_bytes(content[:-200])
    reader = CacheReader(store(cache))
    with pytest.raises(CacheCorrupt, match=r"(?s)too short.*://.*shard-00001"):
        reader.read([3], ["text"])
    path.write_bytes(content[:100])
    with pytest.raises(CacheCorrupt, match=r"(?s)too short.*://.*shard-00001"):
        CacheReader(store(cache))


def test_a_missing_file_in_a_store(cache: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    path = cache / "shards" / "shard-00002.safetensors"
    path.unlink()
    with pytest.raises(CacheCorrupt, match=r"(?s)missing.*://.*shard-00002"):
        CacheReader(store(cache))
    url = store(cache)
    with pytest.raises(CacheCorrupt, match=r"(?s)no cache here.*://.*nowhere/identity.json"):
        CacheReader(url.rpartition("/")[0] + "/nowhere")


def test_a_merged_cache_in_a_store(store: Store, tmp_path: Path) -> None:
    for i in range(2):
        build(tmp_path / f"part{i}", ROWS, sample_identity(ROWS), worker=i, workers=2)
        store(tmp_path / f"part{i}")
    merge(tmp_path / "merged", [tmp_path / "part0", tmp_path / "part1"])
    reader = CacheReader(store(tmp_path / "merged"))
    assert reader.keys() == [row.key for row in ROWS]
    assert reader.head().cap == 30.0


def test_a_store_that_does_not_answer(web: Store, cache: Path) -> None:
    reader = CacheReader(web(cache))
    # a port that nothing listens on
    url = re.sub(r":\d+/", ":1/", reader.location)
    with pytest.raises(CacheError, match=r"(?s)cannot be read.*http://127.0.0.1:1/c/identity.json"):
        CacheReader(url)


@pytest.fixture
def plain_web(tmp_path: Path) -> Iterator[str]:
    """python -m http.server: it sends the whole file, whatever range it is asked for."""
    pytest.importorskip("aiohttp")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_without_ranges_is_no_damage(plain_web: str, cache: Path) -> None:
    with pytest.raises(CacheError, match=r"(?s)gives only whole files.*shard-00000.*range requests") as caught:
        CacheReader(f"{plain_web}/{cache.name}")
    assert not isinstance(caught.value, CacheCorrupt)


def test_a_manifest_leads_to_no_other_host(web: Store, tmp_path: Path) -> None:
    """https://good/cache/../../evil/… is another host: a list from outside must not choose whom this machine asks."""
    for i in range(2):
        build(tmp_path / f"part{i}", ROWS, sample_identity(ROWS), worker=i, workers=2)
        web(tmp_path / f"part{i}")
    merge(tmp_path / "merged", [tmp_path / "part0", tmp_path / "part1"])
    text = (tmp_path / "merged" / "manifest.json").read_text()
    manifest = Manifest.model_validate_json(text)
    moved = [
        entry.model_copy(update={"file": entry.file.replace("../part1", "../../127.0.0.2:80/part1")}).sealed()
        for entry in manifest.shards
    ]
    (tmp_path / "merged" / "manifest.json").write_text(
        manifest.model_copy(update={"shards": tuple(moved)}).model_dump_json()
    )
    with pytest.raises(CacheCorrupt, match=r"(?s)another host or bucket.*127\.0\.0\.2"):
        CacheReader(web(tmp_path / "merged"))


def test_credentials_stand_in_no_file(bucket: Store, cache: Path) -> None:
    CacheReader(bucket(cache))
    assert not any(SECRET.encode() in content for content in tree(cache).values())


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    # what fsspec has loaded before
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"(?s)s3:// is not installed.*distillab\[s3\]"):
        CacheReader("s3://bucket/cache")
