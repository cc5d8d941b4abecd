"""Benchmarks: what an optimizer step costs, beside the least that its arithmetic can cost. `python -m bench --help`.

Read `settings.py` (sizes, cases, what a whole run measures), `measure.py` (how), then one case, `floor.py`.
Nothing here is imported by the package, and nothing here needs anything but the package and random weights.
"""
