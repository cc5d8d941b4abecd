"""Scoring by llama.cpp's own server equals transformers on the same float32 weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from distillab.cache.next_tokens import TopK
from distillab.config.served import ServerConfig
from distillab.pairing.token_bytes import token_meanings
from distillab.teachers.served.client import Client
from distillab.teachers.served.dialects.dialect import Wanted
from distillab.teachers.served.dialects.llama_cpp import LlamaCpp
from distillab.teachers.served.errors import RowFailed, WrongAnswer
from distillab.teachers.served.journal import AnswerJournal
from distillab.teachers.served.scoring import score_row, score_rows
from tests.served.conftest import SmallMistral

# Measured 8.0e-3 at the server's defaults, and 1e-3 without its float16 attention (flash_attn off, cache_type f32).
TOLERANCE_NATS = 2e-2
K = 16
TEXTS = (
    "Once upon a time there was a little dog. The dog said: hello!",
    "Lily and Ben went to the park.\n\nThey saw a größe 🐶 and a 𓀀; then they ran home.",
    "<unk>",
    "One day, a boy named Tim found 1,234 shiny stones. He was very happy and showed them to his mom.",
)


@pytest.fixture
def client(llama_server: str, tmp_path: Path) -> Iterator[Client]:
    journal = AnswerJournal(tmp_path)
    client = Client(ServerConfig(url=llama_server, dialect="llama_cpp", k=K), journal, tokenizer="small mistral")
    yield client
    client.close()
    journal.close()


@pytest.fixture
def dialect(small_mistral: SmallMistral) -> LlamaCpp:
    return LlamaCpp(token_meanings(small_mistral.tokenizer))


def row(small_mistral: SmallMistral, text: str, *, first: int = 1) -> Wanted:
    ids = [*small_mistral.tokenizer(text).input_ids, 2]
    return Wanted(ids, range(first, len(ids)), K, 32_000, text[:20])


def largest_error(small_mistral: SmallMistral, wanted: Wanted, got: TopK) -> float:
    """Compare with transformers: the k most likely, the actual token and the tail; in nats."""
    logp = small_mistral.logp([int(id_) for id_ in wanted.ids])[[place - 1 for place in wanted.scored]]
    actual = logp[range(len(logp)), [wanted.ids[place] for place in wanted.scored]]
    ids = torch.from_numpy(got.ids).long()
    tail = logp.exp().sum(-1) - logp.exp().gather(1, ids).sum(-1)
    top = logp.topk(K).values
    return max(
        float((torch.from_numpy(got.logp) - logp.gather(1, ids)).abs().max()),
        float((torch.from_numpy(got.logp) - top).abs().max()),  # no more likely token is missing
        float((torch.from_numpy(got.actual_logp) - actual).abs().max()),
        float((torch.from_numpy(got.tail_logmass).double().exp() - tail).abs().max()),
    )


def test_every_kind_of_token_is_scored_as_by_transformers(
    client: Client, dialect: LlamaCpp, small_mistral: SmallMistral
) -> None:
    rows = [row(small_mistral, text) for text in TEXTS]
    kinds = {dialect_part for wanted in rows for part in dialect.calls(wanted) for dialect_part in part.call.body}
    assert {"grammar", "logit_bias"} <= kinds
    errors = []
    for wanted, got in score_rows(client, dialect, rows):
        assert not isinstance(got, RowFailed), got
        assert got.ids.shape == (len(wanted.scored), K)
        errors.append(largest_error(small_mistral, wanted, got))
    print(f"largest error {max(errors):.2e} nats over {sum(len(wanted.scored) for wanted in rows)} tokens")
    assert max(errors) < TOLERANCE_NATS


def test_a_part_of_a_row_is_scored_and_not_the_prompt(
    client: Client, dialect: LlamaCpp, small_mistral: SmallMistral
) -> None:
    whole, part = row(small_mistral, TEXTS[0]), row(small_mistral, TEXTS[0], first=9)
    gap = Wanted(whole.ids, (3, 4, 8, 9), K, 32_000, "with a gap")
    all_, some, few = (score_row(client, dialect, wanted) for wanted in (whole, part, gap))
    np.testing.assert_allclose(some.actual_logp, all_.actual_logp[8:], atol=TOLERANCE_NATS)
    np.testing.assert_allclose(few.actual_logp, all_.actual_logp[[2, 3, 7, 8]], atol=TOLERANCE_NATS)


def test_what_is_stored_is_not_asked_for_again(client: Client, dialect: LlamaCpp, small_mistral: SmallMistral) -> None:
    wanted = row(small_mistral, TEXTS[1])
    first = score_row(client, dialect, wanted)
    asked = client.counts.asked
    again = score_row(client, dialect, wanted)
    assert client.counts.asked == asked == client.counts.stored
    np.testing.assert_array_equal(first.logp, again.logp)


def test_too_long_a_row_fails_with_the_server_s_reason(
    client: Client, dialect: LlamaCpp, small_mistral: SmallMistral
) -> None:
    with pytest.raises(RowFailed, match="refuses a request") as caught:
        score_row(client, dialect, Wanted([1] + [264] * 600, [600], K, 32_000, "long"))
    assert "exceeds the available context size" in str(caught.value)
    assert client.counts.asked == 1  # it is not tried again


@pytest.mark.slow
def test_another_text_than_was_sent_is_refused(client: Client, small_mistral: SmallMistral) -> None:
    """With the ids of another tokenizer, a special token is taken for text, and the grammar is not obeyed."""
    meanings = token_meanings(small_mistral.tokenizer)
    meanings[2], meanings[5000] = meanings[5000], meanings[2]
    client.server = client.server.model_copy(update={"tries": 1})  # HTTP 500 would be tried again
    with pytest.raises(RowFailed):
        score_row(client, LlamaCpp(meanings), Wanted([1, 5713, 2, 264], (1, 2, 3), K, 32_000, "another"))


def test_a_width_that_is_not_the_model_s_is_refused(client: Client, dialect: LlamaCpp) -> None:
    with pytest.raises(WrongAnswer, match="beyond the vocabulary"):
        score_row(client, dialect, Wanted([1, 5713, 3714], (1, 2), K, 300, "narrow"))
