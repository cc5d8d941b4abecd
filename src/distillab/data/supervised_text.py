"""Compare a rendered answer with the answer in the data: what the template adds and removes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SupervisedText:
    """The supervised text of an answer, `before + text + behind`, without special tokens.

    Attributes:
        text: the part that comes from the data.
        before, behind: text that the template adds around it, such as an empty `<think></think>`.
        removed: characters of the data's answer that the template drops.
        added: characters that the template adds.
    """

    text: str
    before: str = ""
    behind: str = ""
    removed: int = 0
    added: int = 0

    @property
    def whole(self) -> str:
        """Return all supervised text."""
        return self.before + self.text + self.behind

    def inside(self, generated: str) -> str:
        """Return a generated answer without the template's additions, for comparison with `text`.

        >>> SupervisedText("4", before="<think></think>").inside("<think></think>5")
        '5'
        """
        return generated.removeprefix(self.before).removesuffix(self.behind)


def supervised_text(answer: str, rendered: str) -> SupervisedText:
    """Return how a rendered answer differs from the answer in the data.

    If the rendering contains the answer (up to spaces around it), its rest was added. If the answer contains the
    rendering, the rest of the answer was removed. Otherwise they differ between their common prefix and suffix.

    Args:
        answer: as in the data.
        rendered: as the template writes it, without special tokens.
    """
    for kept in filter(None, (answer, answer.strip())):
        # the last occurrence: templates add text before an answer, such as empty reasoning
        before, found, behind = rendered.rpartition(kept)
        if found:
            return SupervisedText(kept, before, behind, len(answer) - len(kept), len(before) + len(behind))
    if rendered in answer:
        return SupervisedText(rendered, removed=len(answer) - len(rendered))
    start = _common(answer, rendered)
    end = _common(answer[start:][::-1], rendered[start:][::-1])
    return SupervisedText(rendered, removed=len(answer) - start - end, added=len(rendered) - start - end)


def _common(left: str, right: str) -> int:
    """Return the length of the common prefix."""
    pairs = zip(left, right, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
