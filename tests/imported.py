"""What the programs that tests start have imported when they begin: `tests/processes.py` forks them from it.

No program itself: runpy warns of one that is imported before it runs.
"""

import gc

import pytest  # noqa: F401 (the programs of tests share builders with tests)
import transformers.models.llama.modeling_llama  # noqa: F401

import distillab.cli.console
import distillab.config.loader
import distillab.evaluation.rouge
import distillab.study.cache_build
import distillab.study.study
import distillab.teachers  # noqa: F401

# as in conftest.py: what is imported is left alone
gc.collect()
gc.freeze()
