"""Probe texts on which tokenizers are known to disagree: spaces, indentation, scripts, control characters."""

from __future__ import annotations

FIRST_SENTENCE = "The quick brown fox jumps over the lazy dog."

PROBES: tuple[str, ...] = (
    FIRST_SENTENCE,
    "hello",
    " leading space",
    "   three leading spaces",
    "trailing space ",
    "two  spaces   three",
    "    def f(x):\n        return x + 1\n",
    "\tif (a && b) {\n\t\tc[i]++;\n\t}",
    "\nstarts with a newline",
    "a\r\nb\r\n\r\nc",
    "\n\n\n",
    "0 1 12 123 1234 12345 3.14159 1,000,000",
    "Natalia sold 48/2 = <<48/2=24>>24 clips.\n#### 72",
    "don't we'll I'M THEY'RE",
    "ALL CAPITALS and MiXeD cAsE",
    "antidisestablishmentarianism pneumonoultramicroscopic",
    "https://example.org/a/b?c=d&e=f#g user@example.org",
    '{"key": [1, 2.5, null], "other": "value"}',
    "### Instruction:\nSay it.\n\n### Response:\n",
    "“quoted” — dash … ‘single’",
    "naïve café Ångström",
    "cafe\u0301 A\u030angstro\u0308m",
    "ﬁ ﬂ ① ² ½ Ⅳ ａｂｃ",
    "快速的棕色狐狸跳过懒狗。",
    "日本語のテキスト、カタカナ",
    "Быстрая лиса αβγ עברית العربية",
    "हिन्दी ไทย 한국어",
    "😀 👩‍👩‍👧 🇨🇭 ❤️",
    "no\u00a0break\u2009thin\u3000wide",
    "control \x00\x01\x1b\x7f end",
    "zero\u200bwidth \ufeffmark",
    "!!!??? ... --- === ### ~~~",
    "aaaaaaaaaaaaaaaa      bbbbbbbb",
)
