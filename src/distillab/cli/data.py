"""`distillab data`: show rows as the model reads them, and count kept and dropped rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillab.terminal import plain_console

if TYPE_CHECKING:
    from distillab.config import RunRecipe, StudyRecipe
    from distillab.config.data import DataConfig
    from distillab.records import EncodingCounts

_RECIPE_ENDINGS = (".yaml", ".yml")
_SAMPLE = 1000


def data_command(
    source: Annotated[
        str, typer.Argument(help="Recipe (YAML), or with --tokenizer a data file, saved data set or hub id.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes: data.template=alpaca data.max_tokens=256 …")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Folder or hub id; default: the recipe's student.")
    ] = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Number of rows to print.")] = 3,
    every_row: Annotated[
        bool, typer.Option("--all", help=f"Count all rows, not only the first {_SAMPLE:,} of each source.")
    ] = False,
) -> None:
    """Print rows with the supervised tokens marked, and count rows and tokens."""
    from distillab.cli.console import quiet_libraries
    from distillab.errors import ConfigError

    whole_file = not source.endswith(_RECIPE_ENDINGS)
    if whole_file and tokenizer is None:
        raise ConfigError(
            "A data file needs a tokenizer.",
            where=source,
            fix="add --tokenizer FOLDER, or give a recipe",
        )
    recipe = _recipe(source, overrides or [], tokenizer, whole_file)
    if every_row and recipe.data.streaming is not None:
        raise ConfigError("Streamed rows are not all read before a run.", where="data.streaming", fix="leave out --all")
    quiet_libraries()
    _show(recipe, show, whole_file=whole_file, every_row=every_row)


def _recipe(source: str, overrides: list[str], tokenizer: str | None, whole_file: bool) -> RunRecipe | StudyRecipe:
    from distillab.cli.recipes import load_any
    from distillab.config import RunRecipe
    from distillab.config.loader import build_recipe

    if whole_file:
        values = {"student": {"path": tokenizer}, "data": {"train": {"path": source}}}
        return build_recipe(RunRecipe, values, overrides, where="the command line")
    if tokenizer is not None:
        overrides = [*overrides, f"student.tokenizer={tokenizer}"]
    return load_any(Path(source), overrides)


def _show(recipe: RunRecipe | StudyRecipe, show: int, *, whole_file: bool, every_row: bool) -> None:

    from distillab.cli.recipes import show_losses
    from distillab.data.encoding import Encoder
    from distillab.data.splits import load_examples, load_source, with_supervised_answers
    from distillab.data.templates import resolve_templates
    from distillab.data.textfiles import first_of
    from distillab.data.view import coloured, marked
    from distillab.pairing.embedded import require_embedded
    from distillab.pairing.loading import load_tokenizer, logits_width
    from distillab.runs.dates import dated

    config = recipe.data
    # the recipe's revision is that of the model, so it does not apply to another tokenizer
    own = recipe.student.tokenizer is None
    loaded = load_tokenizer(
        recipe.student.tokenizer or recipe.student.path, revision=recipe.student.revision if own else None
    )
    width = logits_width(loaded.path)  # None if there is no model beside the tokenizer
    require_embedded(loaded, width=width, role="student")
    if not every_row:
        config = _sampled(config)
    splits = None if whole_file else load_examples(config)
    if splits is None:
        read = load_source(config, config.sources[0])
        shape, skipped = read.shape, read.skipped
        parts = [(config.train_name, with_supervised_answers(read.examples, read.shape, config))]
    else:
        shape, skipped = splits.shape, splits.skipped
        parts = list(zip(splits.sources, (splits.train, splits.held_out), strict=True))
    counted = parts if every_row else [(name, examples[:_SAMPLE]) for name, examples in parts]
    sampled = not every_row and sum(len(examples) for _, examples in parts) + len(skipped) >= _SAMPLE
    template = resolve_templates(config.templates, loaded.tokenizer, shape.kind, dated(recipe).data.date)
    encoder = Encoder(loaded.tokenizer, template, config.max_tokens)
    encoded = [encoder.encode_all(examples, source=name) for name, examples in counted]

    console = plain_console()
    meanings = loaded.meanings
    shown = list(zip(encoded[0].rows, encoded[0].examples, strict=True))[:show]
    for row, example in shown:
        mark = ", cut at max_tokens" if row.truncated else ""
        mark += f", the template drops {row.removed} characters of its answers" if row.removed else ""
        mark += f", {row.lost} characters have no token" if row.lost else ""
        mark += f", the template adds {row.added} characters to its answers" if row.added else ""
        console.print(
            f"{example.origin}  ({len(row)} tokens, {int(row.answer_mask.sum())} supervised{mark})", style="bold"
        )
        console.print(
            coloured(row, meanings) if console.is_terminal and not console.no_color else marked(row, meanings)
        )
        console.print()
    console.print(
        f"tokenizer {loaded.name}   rows {shape}   template {template.name} {template.sha256[:12]}   "
        f"max_tokens {config.max_tokens}"
    )
    for note in loaded.notes:
        console.print(f"note: {note}")
    if sampled:
        console.print(f"sampled: only the first {_SAMPLE:,} rows are counted and split; --all counts every row")
    if skipped:
        console.print(f"skipped: {len(skipped)} rows that cannot be read (data.on_bad_row: skip)")
        for line in first_of(skipped):
            console.print(f"  {line}")
    for split in encoded:
        console.print(_counts(split.counts))
    if splits is not None:
        for line in splits.drawn:
            console.print(f"source: {line}")
        console.print(f"held-out rows whose prompt and answer are also in the training part: {splits.overlap}")
        console.print(f"held-out prompts that are also in the training part: {splits.prompts_in_both}")
        show_losses(recipe)


def _sampled(config: DataConfig) -> DataConfig:
    """Limit the sources to their first rows.

    If a column names the split, every row is read, because the values can come in runs of thousands of rows.
    """
    if config.held_out.column is not None:
        return config

    def first(limit: int | None) -> int:
        most = _SAMPLE + (config.held_out.first or 0)
        return most if limit is None else min(limit, most)

    held_out = config.held_out
    if held_out.path is not None:
        held_out = held_out.model_copy(update={"limit": first(held_out.limit)})
    sources = tuple(one.model_copy(update={"limit": first(one.limit)}) for one in config.sources)
    train = sources if isinstance(config.train, tuple) else sources[0]
    return config.model_copy(update={"train": train, "held_out": held_out})


def _counts(counts: EncodingCounts) -> str:
    lines = [
        counts.source,
        f"  rows               {counts.rows:>9,}",
        f"  kept               {counts.kept:>9,}",
        f"  prompts            {counts.prompts:>9,}  (different prompts; a fraction never splits the answers to one)",
        f"  dropped            {counts.rows - counts.kept:>9,}  "
        f"(empty answer {counts.dropped_empty_answer:,}, prompt fills max_tokens {counts.dropped_no_room:,})",
        f"  truncated          {counts.truncated:>9,}  (answer cut at max_tokens, without EOS)",
        f"  special in text    {counts.special_in_text:>9,}  (text that looks like a special token; plain text)",
        f"  cut by template    {counts.rows_cut_by_template:>9,}  "
        f"({counts.characters_cut_by_template:,} characters of answers; not trained on)",
        f"  added by template  {counts.rows_added_to_by_template:>9,}  "
        f"({counts.characters_added_by_template:,} characters in answers; trained on)",
        f"  without a token    {counts.rows_with_lost_text:>9,}  "
        f"({counts.characters_lost:,} characters that the tokenizer drops or maps to unk; not trained on)",
        f"  tokens             {counts.tokens:>9,}",
        f"  supervised tokens  {counts.supervised_tokens:>9,}",
        f"  share of the prompt {counts.prompt_share:>8.1%}",
    ]
    return "\n".join(lines)
