"""Align two tokenisations of one text, and map the tokens of one vocabulary to another.

`TokenTable` lists what the ids of a tokenizer spell, `SpanAligner` finds the common spans, `answer_spans` keeps those
that a loss can use; `project_vocabulary` maps next-token distributions. No function here takes a tokenizer itself.
"""
