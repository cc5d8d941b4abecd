"""The kind `text`: answers of a teacher, recorded separately (`answers.py`)."""

from __future__ import annotations

from typing import ClassVar

from distillab.cache.text import Text, TextLayout
from distillab.config.cache import TextKind
from distillab.records import AccessLevel
from distillab.teachers.stored.kind import Sizes, StoredKind


class StoredText(StoredKind[TextKind, TextLayout, Text]):
    """The teacher's answers."""

    access: ClassVar[AccessLevel] = "text"

    def layout(self, settings: TextKind, sizes: Sizes) -> TextLayout:
        """See `StoredKind`."""
        return TextLayout()

    def relative_error(self, settings: TextKind) -> float:
        """See `StoredKind`: an answer is stored exactly."""
        return 0.0


TEXT = StoredText()
