"""Write Ollama's Modelfile: how the student was prompted in training, in the language of Go's templates."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from distillab.data.chat_template import ChatTemplate
from distillab.data.examples import Example, Kind
from distillab.data.templates import resolve_template
from distillab.errors import ConfigError, DataError
from distillab.export.finished import FinishedRun

_PROMPT = "PROMPT-OF-THE-USER"
_RAW = "{{ .Prompt }}"
# before the role, before the content, after it
_TURNS = {
    "ChatML": ("<|im_start|>", "\n", "<|im_end|>\n"),
    "Llama 3": ("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
    "Zephyr": ("<|", "|>\n", "</s>\n"),
    "Phi 3": ("<|", "|>\n", "<|end|>\n"),
}
Turns = list[dict[str, str]]
_USER, _ANSWER = {"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Seven."}
_SYSTEM = {"role": "system", "content": "Be brief."}
_PROBES: tuple[Turns, ...] = ([_USER], [_USER, _ANSWER, _USER], [_SYSTEM, _USER], [_SYSTEM, _USER, _ANSWER, _USER])


@dataclass(frozen=True)
class PromptForm:
    """How a prompt becomes the text that the student reads.

    Attributes:
        template: in the language of Go's templates, without the begin token.
        system: the system turn where the user gives none; "" if there is none.
        adds_bos: whether the begin token is put before the text.
        note: which form it is, and what it does not do.
    """

    template: str
    system: str
    adds_bos: bool
    note: str


def prompt_form(run: FinishedRun, tokenizer: PreTrainedTokenizerFast) -> PromptForm:
    """Return the form in which the run prompted its student.

    A chat template is a program, so it is translated only where it writes turns as one of the known forms does, tried
    on four conversations; of any other one the form of a single question is kept.

    Raises:
        ConfigError, DataError: the recipe's template cannot be used.
    """
    data = run.record.config["data"]
    sources = data["train"] if isinstance(data["train"], list) else [data["train"]]
    own = {one.get("template") or data["template"] for one in sources}
    begins = bool(tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id])
    if len(own) > 1:
        return PromptForm(
            _RAW, "", begins, f"the rows had several templates ({', '.join(sorted(own))}): prompts are raw"
        )
    kind, date = kind_of(run), datetime.date.fromisoformat(data["date"] or datetime.date.today().isoformat())
    template = resolve_template(own.pop(), tokenizer, kind, date, requires_generation_prompt=False)
    if kind == "text":
        return PromptForm(_RAW, "", begins, "the student was trained on plain text: prompts are raw")
    example = Example("", "a prompt", "pair", _PROMPT, "", instruction=_PROMPT)
    text = template.render_prompt(example)
    if not template.complete:
        return PromptForm(_go(text), "", begins, f"prompts have the run's template: {template.name}")
    begins = begins and text.startswith(str(tokenizer.bos_token))  # else the template's text has it, or nothing does
    bos = str(tokenizer.bos_token) if begins else ""
    known = _known_turns(tokenizer, bos, date)
    if known is None:
        note = "of the chat template the form of one question is kept: later turns and system turns are not as in it"
        return PromptForm(_go(text.removeprefix(bos)), "", begins, note)
    name, system = known
    before, between, after = _TURNS[name]
    turns = f"{{{{- range .Messages }}}}{before}{{{{ .Role }}}}{between}{{{{ .Content }}}}{after}{{{{ end }}}}"
    note = f"the chat template writes turns as {name} does, and so does the Modelfile"
    return PromptForm(f"{turns}{before}assistant{between}", system, begins, note)


def kind_of(run: FinishedRun) -> Kind:
    """Return the kind of the training rows: text, where all tokens but the first of each row are supervised."""
    counts = run.record.train_counts
    return "text" if counts.tokens - counts.supervised_tokens <= counts.kept else "pair"


def modelfile(file: str, form: PromptForm, *, stops: Sequence[str], context: int) -> str:
    """Return a Modelfile.

    Args:
        file: name of the GGUF file beside it.
        stops: texts of the tokens that end an answer.
        context: positions that the student was built for.
    Raises:
        ConfigError: a text holds three quotes, which a Modelfile cannot.
    """
    lines = [f"# {form.note}", f"FROM ./{file}", f"TEMPLATE {_quoted(form.template)}"]
    lines += [f"SYSTEM {_quoted(form.system)}"] if form.system else []
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join((*lines, f"PARAMETER num_ctx {context}")) + "\n"


def _quoted(text: str) -> str:
    if '"""' in text:
        raise ConfigError('A Modelfile cannot hold a text with """.', facts=[f"text: {text[:80]!r}"])
    return f'"""{text}"""'


def _go(text: str) -> str:
    """Return a text around the prompt as a Go template."""
    return text.replace("{{", '{{ "{{" }}').replace(_PROMPT, _RAW)


def _known_turns(tokenizer: PreTrainedTokenizerFast, bos: str, date: datetime.date) -> tuple[str, str] | None:
    """Return the form of the turns, and the system turn that the template adds; None where no form fits."""
    try:
        template = ChatTemplate(tokenizer, date)
        texts = [template.render(turns, add_generation_prompt=True, origin="a probe") for turns in _PROBES]
    except DataError:
        return None  # it refuses system turns, for example
    found = [text.removeprefix(bos) for text in texts]
    for name, form in _TURNS.items():
        plain = [_written(turns, form) for turns in _PROBES]
        if found == plain:
            return name, ""
        added = found[0].removesuffix(plain[0])
        before, after = _written([{"role": "system", "content": _PROMPT}], form).split(_PROMPT)[0], form[2]
        if added.startswith(before) and added.endswith(after):
            system = added.removeprefix(before).removesuffix(after)
            turn = {"role": "system", "content": system}
            if found == [_written(t if t[0] is _SYSTEM else [turn, *t], form) for t in _PROBES]:
                return name, system
    return None


def _written(turns: Turns, form: tuple[str, str, str]) -> str:
    before, between, after = form
    whole = "".join(f"{before}{turn['role']}{between}{turn['content']}{after}" for turn in turns)
    return f"{whole}{before}assistant{between}"
