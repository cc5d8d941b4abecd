"""`distillab check`: compare the tokenizers of a pair, and list the valid methods."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillab.terminal import echo, plain_console

if TYPE_CHECKING:
    from rich.console import Console

    from distillab.data.sources import Row
    from distillab.records import DataOverlap, PairCheck, TokenizerContract, TokenizerInfo

_STYLE = {"identical": "bold green", "padded": "bold green", "extended": "bold yellow", "different": "bold red"}


def check_command(
    teacher: Annotated[str, typer.Argument(help="Folder or hub id of the teacher, or of its tokenizer.")],
    student: Annotated[str, typer.Argument(help="Folder or hub id of the student, or of its tokenizer.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="File with rows: measure the overlap on this text.")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens", help="A text: only show its tokens in both tokenizers, and what each teacher token maps to."
        ),
    ] = None,
    transport: Annotated[
        str | None,
        typer.Option(
            "--transport",
            help="A token of the teacher: only show which tokens the student writes in its place, counted on the text.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
    require: Annotated[
        str | None, typer.Option("--require", help="A method: exit code 1 if it is not valid for the pair.")
    ] = None,
) -> None:
    """Check a teacher-student pair by its tokenizers and configs; weights are not needed.

    Exit code 0: checked; 1: the method of --require is refused, or a tokenizer does not match its model.
    """
    from distillab.cli.check_tokens import show_tokens
    from distillab.cli.check_transport import show_transport
    from distillab.config.methods import METHODS
    from distillab.errors import ConfigError, near_names
    from distillab.pairing.loading import load_tokenizer

    if tokens is not None:
        if data is not None or transport is not None or as_json or require is not None:
            raise ConfigError(
                "--tokens cannot be combined with other options.",
                fix="remove --data, --transport, --json and --require, or --tokens",
            )
        show_tokens(load_tokenizer(teacher), load_tokenizer(student), tokens)
        return
    if transport is not None:
        if as_json or require is not None:
            raise ConfigError(
                "--transport can be combined with --data alone.", fix="remove --json and --require, or --transport"
            )
        show_transport(load_tokenizer(teacher), load_tokenizer(student), transport, data=data)
        return
    if require is not None and require not in METHODS:
        raise ConfigError(f'No such method: "{require}".', where="--require", fix=near_names(require, METHODS))
    pair = checked_pair(teacher, student, data=data)
    if as_json:
        echo(json.dumps(pair.model_dump(mode="json"), indent=2))
    else:
        show_pair(pair, plain_console())
    if any(not method.admitted and method.method == require for method in pair.methods):
        raise typer.Exit(1)


def checked_pair(teacher: str, student: str, *, data: Path | str | None) -> PairCheck:
    """Compare the tokenizers of two models.

    Args:
        data: rows on whose text the overlap is measured; None: on the sample that ships with distillab.
    Raises:
        TokenizerMismatch: a tokenizer does not match its model.
        DataError: the rows cannot be read.
    """
    from distillab.pairing.admission import pair_check
    from distillab.pairing.contract import compare_tokenizers
    from distillab.pairing.embedded import require_embedded
    from distillab.pairing.loading import load_tokenizer, logits_width

    texts, source = texts_in(data) if data is not None else ([], "")
    loaded = [load_tokenizer(path) for path in (teacher, student)]
    widths = [logits_width(path) for path in (teacher, student)]
    for role, tokenizer, width in zip(("teacher", "student"), loaded, widths, strict=True):
        require_embedded(tokenizer, width=width, role=role)
    contract = compare_tokenizers(
        loaded[0], loaded[1], teacher_width=widths[0], student_width=widths[1], texts=texts, source=source
    )
    return pair_check(contract)


def texts_in(data: Path | str) -> tuple[list[str], str]:
    """Return the texts of a file of rows, and their name; see `texts_of`."""
    from distillab.config.data import SourceConfig
    from distillab.data.sources import read_rows

    return texts_of(read_rows(SourceConfig(path=str(data))), Path(str(data)).name)


def texts_of(rows: Sequence[Row], name: str) -> tuple[list[str], str]:
    """Return the texts on which the overlap is measured, and their name.

    Raises:
        DataError: all rows are empty.
    """
    from distillab.data.row_examples import to_examples
    from distillab.errors import DataError
    from distillab.pairing.overlap import MAX_TEXTS

    examples = to_examples(rows, columns=None, prompt_share=0.5)
    texts = [text for text in (example.prompt + example.answer for example in examples) if text]
    if not texts:
        raise DataError("There is no text to measure.", where=name, facts=[f"{len(rows)} rows, all empty"])
    if len(texts) > MAX_TEXTS:
        return texts[:MAX_TEXTS], f"{name} (the first {MAX_TEXTS:,} of {len(texts):,} rows)"
    return texts, name


def show_pair(pair: PairCheck, console: Console) -> None:
    """Print the check of a pair."""
    from distillab.pairing.sample import SAMPLE_SOURCE

    contract = pair.contract
    console.print(f"verdict: {contract.verdict}", style=_STYLE[contract.verdict])
    console.print(contract.reason)
    _show_tokenizers(console, contract)
    _show_ids(console, contract)
    _show_texts(console, contract)
    if contract.verdict == "different" or contract.data.source != SAMPLE_SOURCE:
        _show_data(console, contract.data)
    if contract.notes:
        _title(console, "Notes")
        for note in contract.notes:
            console.print(f"  - {note}", style="yellow")
    _title(console, "Methods")
    width = max(len(method.method) for method in pair.methods)
    for method in pair.methods:
        word, style = ("valid  ", "green") if method.admitted else ("refused", "red")
        console.print(f"  {word}  {method.method:<{width}}  access: {method.access:<9}  {method.reason}", style=style)
    _title(console, f"Recommended: {pair.recommended.method}")
    for sentence in pair.recommended.because:
        console.print(f"  - {sentence}")
    if contract.would_train:
        _title(console, "What a refused method would train")
        for sentence in contract.would_train:
            console.print(f"  - {sentence}")
    if pair.ways_out:
        _title(console, "Ways out")
        for way in pair.ways_out:
            console.print(f"  - {way}")


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(text, style="bold")


def _show_tokenizers(console: Console, contract: TokenizerContract) -> None:
    _title(console, "The two tokenizers")
    for role, info in (("teacher", contract.teacher), ("student", contract.student)):
        width = "unknown (no config.json)" if info.logits_width is None else f"{info.logits_width:,}"
        console.print(f"  {role}  {info.name}: {info.family}, {info.tokens:,} tokens, logits width {width}")
        console.print(f"           special tokens by role: {_roles(info)}")
        for note in info.loading_notes:
            console.print(f"           loading: {note}", style="yellow")


def _roles(info: TokenizerInfo) -> str:
    return ", ".join(f"{role} {id_}" for role, id_ in info.roles.items()) or "none"


def _show_ids(console: Console, contract: TokenizerContract) -> None:
    teacher, student = contract.teacher.tokens, contract.student.tokens
    _title(console, "Vocabularies")
    for count, what in (
        (contract.equal_ids, "ids that mean the same"),
        (contract.equal_strings, "token strings in both, whatever their ids"),
        (contract.equal_bytes, "byte strings that are one token in both"),
    ):
        shares = f"{count / teacher:.1%} of the teacher's tokens, {count / student:.1%} of the student's"
        console.print(f"  {count:>9,}  {what}: {shares}")
    if contract.verdict != "different":
        console.print(f"  {contract.shared_width:>9,}  ids, from 0 on, that a loss by id can compare")
    if contract.extra_tokens:
        console.print(f"  in one tokenizer only: {' '.join(map(repr, contract.extra_tokens))}")


def _show_texts(console: Console, contract: TokenizerContract) -> None:
    from distillab.pairing.admission import ids_line, tokens_line

    shown = [("The first sentence in both, as the models see it", contract.example)]
    if contract.verdict != "different":
        shown += [("A text that the two split differently", text) for text in contract.probes_differ]
    for title, text in shown:
        _title(console, title)
        console.print(f"  {text.text!r}")
        console.print(f"  teacher  {ids_line(text.teacher_ids)}")
        console.print(f"           {tokens_line(text.teacher_tokens)}")
        console.print(f"  student  {ids_line(text.student_ids)}")
        console.print(f"           {tokens_line(text.student_tokens)}")


def _show_data(console: Console, data: DataOverlap) -> None:
    _title(console, f"On {data.source}: {data.rows:,} rows")
    console.print(f"  {data.teacher_tokens:,} teacher tokens, {data.student_tokens:,} student tokens")
    console.print(
        f"  boundaries that the other has too: teacher {data.teacher_boundaries_shared:.1%}, "
        f"student {data.student_boundaries_shared:.1%}"
    )
    console.print(
        f"  tokens with the same bytes at the same place: teacher {data.teacher_tokens_identical:.1%}, "
        f"student {data.student_tokens_identical:.1%}"
    )
    console.print(f"  teacher tokens that are in the student's vocabulary: {data.teacher_tokens_known:.1%}")
    console.print(f"  positions at which a loss by index would compare equal ids: {data.equal_ids_by_position:.1%}")
    if data.rows_not_comparable:
        console.print(f"  {data.rows_not_comparable:,} rows could not be compared: their bytes differ", style="yellow")
