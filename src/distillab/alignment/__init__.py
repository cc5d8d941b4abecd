"""Two tokenisations of one text: the spans that they share, and what a token of one is in the other.

`TokenTable` says what the ids of a tokenizer spell, `SpanAligner` finds the spans, `answer_spans` keeps those that a
loss may use; `project_vocabulary` maps next-token distributions. Nothing here knows a tokenizer: what is needed of one
comes in as data.
"""
