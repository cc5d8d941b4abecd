"""Ask a server for 60 rows and print what came: `python -m tests.served.asks score|answer URL FOLDER [TOKENIZER]`."""

from __future__ import annotations

import hashlib
import sys
from contextlib import closing
from pathlib import Path

import torch
from transformers import AutoTokenizer

from distillab.config.served import ServerConfig
from distillab.config.teacher import TeacherAnswersConfig
from distillab.teachers.protocol import Prompt
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import Wanted
from distillab.teachers.served.dialects.openai_chat import OpenAiChat
from distillab.teachers.served.dialects.vllm import Vllm
from distillab.teachers.served.journal import AnswerJournal
from distillab.teachers.served.scoring import score_rows
from distillab.teachers.served.teacher import served_identity
from distillab.teachers.served.writing import ServedWriter
from distillab.teachers.stored.answer_identity import answers_identity
from distillab.teachers.stored.answers import generate_store

ROWS = 60
SETTINGS = TeacherAnswersConfig(answers_per_prompt=2, sample=True, max_new_tokens=8, batch_size=4)
PROMPTS = [Prompt(f"row {n}", (5, 6, 7), (("user", f"question {n}"),)) for n in range(ROWS // 2)]


def scored(url: str, folder: Path) -> str:
    """The values of all rows."""
    client = Client(ServerConfig(url=url, dialect="vllm", model="table", k=5), AnswerJournal(folder), tokenizer="t")
    rows = [Wanted([1, 2 + number % 30, number // 30], (1, 2), 5, 48, str(number)) for number in range(ROWS)]
    found = [got for _, got in score_rows(client, Vllm("table"), rows)]
    return repr(sum(float(got.actual_logp.sum()) for got in found if not isinstance(got, Exception)))


def written(url: str, folder: Path, tokenizer: str, **limits: object) -> str:
    """The hash of the store's files."""
    server = ServerConfig(url=url, dialect="openai_chat", model="m", **limits)  # type: ignore[arg-type]
    identity = served_identity(server, "text", width=400, name="chat", template_sha256="", probe=None)
    with closing(AnswerJournal(folder / "served")) as journal:
        generate_store(
            folder,
            teacher=ServedWriter(Client(server, journal, tokenizer=""), OpenAiChat("m"), identity),
            tokenizer=AutoTokenizer.from_pretrained(tokenizer),
            stop_ids=(2,),
            prompts=PROMPTS,
            settings=SETTINGS,
            identity=answers_identity(
                identity,
                tokenizer="t",
                stop_ids=(2,),
                prompts=PROMPTS,
                settings=SETTINGS,
                source="rows",
                rows_per_shard=8,
            ),
        )
    digest = hashlib.sha256()
    for path in sorted((folder / "shards").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, address, output, *more = sys.argv[1:]
    print(scored(address, Path(output)) if kind == "score" else written(address, Path(output), *more))
