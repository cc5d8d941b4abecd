"""What a template makes of an answer: the text that is learned, and how it differs from the data's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Learned:
    """An answer as it is learned. What is learned is `before + text + behind`, special tokens aside.

    Attributes:
        text: the answer, as far as it comes from the data.
        before, behind: text that the template puts around it, as an empty `<think></think>`.
        removed: characters of the data's answer that are not learned.
        added: characters that are learned and are not the data's.
    """

    text: str
    before: str = ""
    behind: str = ""
    removed: int = 0
    added: int = 0

    @property
    def whole(self) -> str:
        """All text that is learned."""
        return self.before + self.text + self.behind

    def inside(self, generated: str) -> str:
        """A generated answer without what the template puts around every answer, to be compared with `text`.

        >>> Learned("4", before="<think></think>").inside("<think></think>5")
        '5'
        """
        return generated.removeprefix(self.before).removesuffix(self.behind)


def learned(answer: str, rendered: str) -> Learned:
    """What a template made of an answer.

    Where the rendering holds the answer, but for spaces around it, the rest of it was added; where the answer holds the
    rendering, the rest of the answer was removed. Otherwise the two differ between their common beginning and end.

    Args:
        answer: as it stands in the data.
        rendered: as the template writes it, without special tokens of the template.
    """
    for kept in filter(None, (answer, answer.strip())):
        # the last one: templates write before an answer, as an empty thought
        before, found, behind = rendered.rpartition(kept)
        if found:
            return Learned(kept, before, behind, len(answer) - len(kept), len(before) + len(behind))
    if rendered in answer:
        return Learned(rendered, removed=len(answer) - len(rendered))
    start = _common(answer, rendered)
    end = _common(answer[start:][::-1], rendered[start:][::-1])
    return Learned(rendered, removed=len(answer) - start - end, added=len(rendered) - start - end)


def _common(left: str, right: str) -> int:
    """Characters at the beginning of both."""
    pairs = zip(left, right, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
