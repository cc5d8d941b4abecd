"""The verdicts and their evidence, on the real tokenizers of the investigation and on tiny ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors

from distillab.pairing.contract import compare_tokenizers
from distillab.pairing.loading import LoadedTokenizer, load_tokenizer, logits_width
from distillab.records import TokenizerContract

Load = Callable[[str], LoadedTokenizer]


def contract(teacher: LoadedTokenizer, student: LoadedTokenizer, /, **widths: int | None) -> TokenizerContract:
    return compare_tokenizers(
        teacher, student, teacher_width=widths.get("teacher"), student_width=widths.get("student")
    )


# ---------------------------------------------------------------- the investigation


def test_mistral_and_tinyllama(real: Load) -> None:
    result = contract(real("mistral-7b-v0.1"), real("tinyllama-1.1b"), teacher=32_000, student=32_000)
    assert result.verdict == "different"
    assert result.example.text.startswith("The quick brown fox jumps")
    assert result.example.teacher_ids[:7] == (1, 415, 2936, 9060, 285, 1142, 461)
    assert result.example.student_ids[:7] == (1, 450, 4996, 17354, 1701, 29916, 432)
    assert (result.teacher.tokens, result.student.tokens) == (32_000, 32_000)
    assert result.equal_ids == 270
    assert result.equal_strings == 24_184
    assert round(result.equal_strings / 32_000, 3) == 0.756
    assert result.shared_width == 0
    assert "270 (0.8%)" in result.reason
    assert "24,184 token strings (75.6%)" in result.reason


def test_equal_ids_by_hand(real: Load, materials: Path) -> None:
    """Independent of the meanings: both are SentencePiece vocabularies, so their pieces compare as strings."""
    ours, theirs = (
        json.loads((materials / "tokenizers" / name / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        for name in ("mistral-7b-v0.1", "tinyllama-1.1b")
    )
    result = contract(real("mistral-7b-v0.1"), real("tinyllama-1.1b"))
    assert result.equal_ids == sum(theirs.get(piece) == id_ for piece, id_ in ours.items())
    assert result.equal_strings == len(set(ours) & set(theirs))


def test_the_concrete_example_is_true(real: Load) -> None:
    teacher, student = real("mistral-7b-v0.1"), real("tinyllama-1.1b")
    first, second = contract(teacher, student).would_train
    piece = teacher.tokenizer.convert_ids_to_tokens(450)
    assert first == (
        f"position 1: the student's token ' The' would be pushed towards the teacher's token {piece!r}, "
        "because both have id 450"
    )
    learnt = student.tokenizer.convert_ids_to_tokens(415)
    assert f"the teacher predicts ' The', its id 415, the student would learn to predict {learnt!r}" in second


def test_a_copy_of_the_tokenizer_is_identical(real: Load, edited) -> None:
    """Llama-2's folder has the same tokenizer.json and vocab_size; loaded by another class and from another place."""
    folder = edited("tinyllama-1.1b", tokenizer_config=lambda c: c.update(tokenizer_class="PreTrainedTokenizerFast"))
    teacher = load_tokenizer(str(folder))
    result = contract(teacher, real("tinyllama-1.1b"), teacher=logits_width(str(folder)), student=32_000)
    assert result.verdict == "identical"
    assert result.equal_ids == result.equal_strings == result.shared_width == 32_000
    assert (result.notes, result.probes_differ, result.would_train) == ((), (), ())
    assert result.teacher.fingerprint == result.student.fingerprint


def test_identical_ids_but_loaded_as_transformers_builds_it(real: Load, materials: Path) -> None:
    """The trap of transformers 5.23: nothing but the probes shows it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(materials / "tokenizers" / "tinyllama-1.1b"))
    if tokenizer(" x", add_special_tokens=False)["input_ids"] == [29871, 921]:
        pytest.skip("this transformers reads the file")
    result = contract(LoadedTokenizer(tokenizer, "auto", "auto", ()), real("tinyllama-1.1b"))
    assert result.verdict == "identical"
    assert " leading space" in [probe.text for probe in result.probes_differ]
    assert any("split differently" in note for note in result.notes)
    assert result.teacher.fingerprint != result.student.fingerprint


def test_gpt2_and_tinyllama(real: Load) -> None:
    result = contract(real("gpt2"), real("tinyllama-1.1b"), teacher=50_257, student=32_000)
    assert result.verdict == "different"
    assert result.teacher.family == "byte-level BPE"
    assert result.equal_bytes > result.equal_strings, "only bytes see that 'Ġthe' is '▁the'"
    assert any("student's tokenizer puts BOS in front" in note for note in result.notes)


# ---------------------------------------------------------------- widths and extensions


def test_padded(real: Load) -> None:
    tinyllama = real("tinyllama-1.1b")
    for teacher, student in ((32_064, 32_000), (32_000, 32_064), (32_064, 32_064), (None, 32_064)):
        result = contract(tinyllama, tinyllama, teacher=teacher, student=student)
        assert result.verdict == "padded", (teacher, student)
        assert result.shared_width == 32_000
        assert not any("danger" in note for note in result.notes)
    assert contract(tinyllama, tinyllama, teacher=None, student=None).verdict == "identical"


def test_width_smaller_than_the_tokenizer_is_a_danger(real: Load) -> None:
    tinyllama = real("tinyllama-1.1b")
    result = contract(tinyllama, tinyllama, teacher=32_000, student=31_999)
    assert any("danger: the student's logits have 31,999 rows" in note for note in result.notes)
    assert not any("teacher's logits" in note for note in result.notes)
    assert result.shared_width == 31_999


def test_extended(real: Load, edited) -> None:
    def add(tokenizer: dict[str, Any]) -> None:
        for id_, content in ((32_000, "<|im_start|>"), (32_001, "<|im_end|>")):
            flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
            tokenizer["added_tokens"].append({"id": id_, "content": content} | flags)

    bigger = load_tokenizer(str(edited("tinyllama-1.1b", tokenizer=add)))
    for teacher, student, who in (
        (bigger, real("tinyllama-1.1b"), "teacher"),
        (real("tinyllama-1.1b"), bigger, "student"),
    ):
        result = contract(teacher, student)
        assert result.verdict == "extended"
        assert result.shared_width == result.equal_ids == 32_000
        assert result.extra_tokens == ("<|im_start|>", "<|im_end|>")
        assert f"the {who} has 2 more tokens" in result.reason
    # Width does not hide the extension, and a narrower model narrows what is shared.
    assert contract(bigger, real("tinyllama-1.1b"), teacher=32_064, student=32_000).verdict == "extended"
    assert contract(bigger, bigger, teacher=32_002, student=32_064).verdict == "padded"


def test_two_different_extensions_of_one_tokenizer(toy, wrap, merges) -> None:
    ours, theirs = toy(merges), toy(merges)
    ours.add_special_tokens(["<pad>"])
    theirs.add_special_tokens(["<|user|>"])
    result = contract(wrap(ours), wrap(theirs))
    size = ours.get_vocab_size()
    assert result.verdict == "different"
    assert result.equal_ids == size - 1
    assert (
        f"the first id that differs is {size - 1}, the teacher's '<pad>' and the student's '<|user|>'" in result.reason
    )
    assert result.would_train, "no token of the example differs, so the id itself is named"


def test_unused_ids_on_one_side_shorten_what_is_shared(toy, wrap, merges) -> None:
    from tokenizers import Tokenizer

    spec = json.loads(toy(merges).to_str())
    spec["model"]["merges"] = []
    vocab = spec["model"]["vocab"]
    gone = vocab.pop("h")
    spec["model"]["vocab"] = {piece: id_ for piece, id_ in vocab.items() if len(piece) == 1 or piece.startswith("<")}
    full = json.loads(json.dumps(spec))
    full["model"]["vocab"]["h"] = gone
    ours, theirs = (wrap(Tokenizer.from_str(json.dumps(s))) for s in (full, spec))
    result = contract(ours, theirs)
    assert result.verdict == "extended"
    assert result.shared_width == gone
    assert result.extra_tokens == ("h",)
    back = contract(theirs, ours)
    assert (back.shared_width, back.equal_ids) == (gone, result.equal_ids)
    assert result.equal_ids == len(spec["model"]["vocab"])


def test_each_side_lacks_another_token(wrap) -> None:
    """No id clashes, but neither vocabulary contains the other."""
    from tokenizers import Tokenizer, models

    ours, theirs = (
        wrap(Tokenizer(models.BPE(vocab=vocab, merges=[])), eos=None, bos=None, unk=None)
        for vocab in ({"a": 0, "b": 1, "d": 3}, {"a": 0, "c": 2, "d": 3})
    )
    result = contract(ours, theirs)
    assert (result.verdict, result.equal_ids, result.shared_width) == ("different", 2, 0)


# ---------------------------------------------------------------- same size, same family, other tokens


def test_two_toy_tokenizers_of_one_size(toy, wrap, merges) -> None:
    """The error that equal sizes hide: the same merges learnt in another order."""
    ours, theirs = toy(merges), toy(merges[4:6] + merges[:4] + merges[6:])
    assert ours.get_vocab_size() == theirs.get_vocab_size()
    result = contract(wrap(ours), wrap(theirs), teacher=ours.get_vocab_size(), student=ours.get_vocab_size())
    assert result.verdict == "different"
    assert result.equal_strings == ours.get_vocab_size()
    assert ours.get_vocab_size() - 6 == result.equal_ids


def test_one_swapped_pair_of_ids_is_found(real: Load, edited) -> None:
    def swap(tokenizer: dict[str, Any]) -> None:
        vocab = tokenizer["model"]["vocab"]
        vocab["▁The"], vocab["▁the"] = vocab["▁the"], vocab["▁The"]

    result = contract(load_tokenizer(str(edited("tinyllama-1.1b", tokenizer=swap))), real("tinyllama-1.1b"))
    assert result.verdict == "different"
    assert result.equal_ids == 31_998
    assert "'Ġ" not in result.reason
    assert "first id that differs is 278, the teacher's ' The' and the student's ' the'" in result.reason


def test_merges_differ_with_the_same_vocabulary(toy, wrap, merges) -> None:
    """(q,u)(qu,i) before (i,c)(ic,k) makes 'qui ck'; the other way round 'qu ick'. Ids mean the same."""
    other = [*merges[:3], merges[5], merges[6], *merges[3:5], merges[7]]
    ours, theirs = toy(merges), toy(other)
    spec = json.loads(theirs.to_str())
    spec["model"]["vocab"] = json.loads(ours.to_str())["model"]["vocab"]
    result = contract(wrap(ours), wrap(type(ours).from_str(json.dumps(spec))))
    assert result.verdict == "identical"
    assert any("lists of merges or scores differ" in note and "at rule 3" in note for note in result.notes)
    assert any("quick" in probe.text for probe in result.probes_differ)
    assert any("split differently" in note for note in result.notes)


def test_merges_that_no_fixed_probe_shows(toy, wrap) -> None:
    """'xj' before 'jx' makes 'xjxj', else 'x jx j'; such a text is made from the merges themselves."""
    pairs = [("x", "j"), ("j", "x"), ("xj", "xj")]
    ours = toy(pairs)
    spec = json.loads(ours.to_str())
    spec["model"]["merges"] = [list(pair) for pair in (pairs[1], pairs[0], pairs[2])]
    result = contract(wrap(ours), wrap(type(ours).from_str(json.dumps(spec))))
    assert result.verdict == "identical"
    assert any("merges or scores differ" in note and "at rule 0" in note for note in result.notes)
    assert [probe.text for probe in result.probes_differ] == ["xjxj"]


def test_normaliser_differs(toy, wrap, merges) -> None:
    result = contract(wrap(toy(merges)), wrap(toy(merges, prefix=False)))
    assert result.verdict == "identical"
    assert result.probes_differ
    assert any("prefix space" in note for note in result.notes)


def test_unigram_scores_differ(unigram, wrap) -> None:
    spec = json.loads(unigram.to_str())
    spec["model"]["vocab"][4][1] = -50.0
    result = contract(wrap(unigram), wrap(type(unigram).from_str(json.dumps(spec))))
    assert result.verdict == "identical"
    assert any("at rule 4" in note for note in result.notes)
    assert result.probes_differ


# ---------------------------------------------------------------- notes


def test_bos_on_one_side_only(toy, wrap, merges) -> None:
    result = contract(wrap(toy(merges, bos=False)), wrap(toy(merges)))
    assert result.verdict == "identical"
    assert result.notes == ("only the student's tokenizer puts BOS in front of a text",)


def test_eos_behind_on_one_side_only(toy, wrap, merges) -> None:
    ours = toy(merges)
    ours.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    assert contract(wrap(ours), wrap(toy(merges))).notes == ("only the teacher's tokenizer puts EOS behind a text",)


def test_other_eos_role(toy, wrap, merges) -> None:
    """As Qwen's base and chat models: the same tokens, another one ends an answer."""
    backends = [toy(merges) for _ in range(2)]
    for backend in backends:
        backend.add_special_tokens(["<|im_end|>"])
    result = contract(wrap(backends[0]), wrap(backends[1], eos="<|im_end|>"))
    assert result.verdict == "identical"
    id_ = backends[0].token_to_id("<|im_end|>")
    assert result.notes == (f"EOS differs: teacher '</s>' (id 2), student '<|im_end|>' (id {id_})",)


def test_role_that_one_side_lacks(toy, wrap, merges) -> None:
    result = contract(wrap(toy(merges)), wrap(toy(merges, bos=False), bos=None))
    assert any(note == "BOS differs: teacher '<s>' (id 1), student none" for note in result.notes)


def test_special_token_with_another_name(toy, wrap, merges) -> None:
    spec = json.loads(toy(merges, bos=False).to_str().replace("</s>", "<eos>"))
    theirs = type(toy(merges)).from_str(json.dumps(spec))
    result = contract(wrap(toy(merges, bos=False)), wrap(theirs, eos="<eos>"))
    assert result.verdict == "identical"
    assert result.notes == ("1 special tokens have one role but two names, e.g. '</s>' (id 2) and '<eos>' (id 2)",)


def test_special_on_one_side_only(toy, wrap, merges) -> None:
    ours, theirs = toy(merges), toy(merges)
    ours.add_special_tokens([AddedToken("<tool>", special=True)])
    theirs.add_tokens([AddedToken("<tool>", special=False)])
    result = contract(wrap(ours), wrap(theirs))
    assert result.verdict == "identical"
    assert any("special in one tokenizer only" in note and "'<tool>'" in note for note in result.notes)


def test_chat_templates(toy, wrap, merges) -> None:
    plain, one, two = (wrap(toy(merges), chat_template=t) for t in (None, "{{ 1 }}", "{{ 2 }}"))
    assert contract(one, one).notes == ()
    assert contract(one, two).notes == (
        "the chat templates differ: render every chat for both models with one of the two",
    )
    assert contract(one, plain).notes == ("only the teacher has a chat template",)


# ---------------------------------------------------------------- symmetry


@pytest.mark.parametrize(
    ("one", "two"), [("mistral-7b-v0.1", "tinyllama-1.1b"), ("tok512", "tok105"), ("gpt2", "tok512")]
)
def test_swapping_the_sides_swaps_the_evidence(real: Load, one: str, two: str) -> None:
    texts = ["The quick brown fox.\nIt jumps over 12 dogs!", " café  日本", ""]
    there = compare_tokenizers(real(one), real(two), teacher_width=600, student_width=None, texts=texts, source="x")
    back = compare_tokenizers(real(two), real(one), teacher_width=None, student_width=600, texts=texts, source="x")
    for name in ("verdict", "equal_ids", "equal_strings", "equal_bytes", "shared_width"):
        assert getattr(there, name) == getattr(back, name)
    assert (there.teacher, there.student) == (back.student, back.teacher)
    assert (there.example.teacher_ids, there.example.student_ids) == (
        back.example.student_ids,
        back.example.teacher_ids,
    )
    assert [p.text for p in there.probes_differ] == [p.text for p in back.probes_differ]
    assert there.data is not None
    assert back.data is not None
    for figure in ("tokens", "boundaries_shared", "tokens_identical"):
        assert getattr(there.data, f"teacher_{figure}") == getattr(back.data, f"student_{figure}")
        assert getattr(there.data, f"student_{figure}") == getattr(back.data, f"teacher_{figure}")
    assert there.data.equal_ids_by_position == back.data.equal_ids_by_position


def test_first_sentence_of_the_data(real: Load) -> None:
    texts = ["", "  One day there was a dog. It ran.", "x"]
    result = compare_tokenizers(
        real("tok512"), real("tok512"), teacher_width=None, student_width=None, texts=texts, source="x"
    )
    assert result.example.text == "One day there was a dog."
    assert result.data is not None
    assert result.data.rows == 2
