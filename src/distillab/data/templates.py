"""Resolve the template that a recipe names."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from transformers import PreTrainedTokenizerFast

from distillab.data.chat import Chat
from distillab.data.examples import Kind
from distillab.data.rendering import Alpaca, BySource, Custom, PlainPair, PlainText, RenderedSegment, Template, Turns
from distillab.errors import ConfigError, near_names

__all__ = ["TEMPLATE_NAMES", "RenderedSegment", "Template", "resolve_template", "resolve_templates"]

TEMPLATE_NAMES = ("auto", "plain", "chat", "alpaca", "turns")


def resolve_templates(
    names: Mapping[str, str],
    tokenizer: PreTrainedTokenizerFast,
    kind: Kind,
    date: datetime.date | None = None,
    *,
    requires_generation_prompt: bool = True,
) -> Template:
    """Return the template of rows whose sources can have templates of their own.

    Args:
        names: `DataConfig.templates`.
    Raises:
        DataError, ConfigError: see `resolve_template`, which has the other arguments.
    """
    found = {
        name: resolve_template(template, tokenizer, kind, date, requires_generation_prompt=requires_generation_prompt)
        for name, template in names.items()
    }
    return BySource(found) if len(found) > 1 else next(iter(found.values()))


def resolve_template(
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    kind: Kind,
    date: datetime.date | None = None,
    *,
    requires_generation_prompt: bool = True,
) -> Template:
    """Return the template of that name for examples of one kind.

    auto: conversations and pairs use the tokenizer's chat template; without one, pairs are plain.
    Text is always plain.

    Args:
        name: auto, plain, chat, alpaca, turns, or a text that contains {prompt}.
        tokenizer: its chat template is used.
        kind: pair, messages or text.
        date: the day that a chat template which writes the date gets; default: today.
        requires_generation_prompt: as for `Chat`.
    Raises:
        DataError: a chat template that cannot be used.
        ConfigError: an unknown name, a template that does not fit the kind, no chat template.
    """
    has_chat = tokenizer.chat_template is not None
    if name == "auto":
        name = "plain" if kind == "text" or (kind == "pair" and not has_chat) else "chat"
    fits = {"text": ("plain",), "pair": ("plain", "chat", "alpaca", "turns", "custom"), "messages": ("chat", "turns")}
    short = "custom" if "{prompt}" in name else name
    if short != "custom" and short not in TEMPLATE_NAMES:
        raise ConfigError(f'There is no template "{name}".', fix=near_names(name, TEMPLATE_NAMES))
    if short not in fits[kind]:
        raise ConfigError(
            f"The template {short} does not fit rows of the kind {kind}.", fix=f"use {' or '.join(fits[kind])}"
        )
    if short == "chat":
        if not has_chat:
            others = "turns" if kind == "messages" else "plain, alpaca or turns"
            raise ConfigError("The tokenizer has no chat template.", fix=f"template: {others}")
        return Chat(tokenizer, date or datetime.date.today(), requires_generation_prompt=requires_generation_prompt)
    if short == "custom":
        if "{answer}" in name:
            raise ConfigError(
                "A custom template must end where the answer begins.",
                facts=[f"template: {name!r}"],
                fix="remove {answer}; answer and EOS are added",
            )
        return Custom(name)
    if kind == "text":
        return PlainText()
    if short == "plain":
        return PlainPair()
    return Alpaca() if short == "alpaca" else Turns()
