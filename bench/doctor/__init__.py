"""Planted faults: what share of them does the doctor find, and what does it say of set-ups without a fault?

`python -m bench.doctor` runs every case and prints the table of docs/doctor/how-good.md. Read `case.py` (what a case
is, how it is judged), then one of the `cases_*.py`. A case plants one fault into a set-up that is good without it.
"""
