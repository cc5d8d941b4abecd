"""Records -> markdown. Nothing is measured here, and nothing is rounded before the ratios are made.

A ratio is made round by round, because the runs of a round stood beside each other in time, and of the rounds'
ratios the median is given. A ratio of two medians over all rounds would mix quiet minutes with busy ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bench.measure import MIB, percentile, summary
from bench.settings import ACROSS, ACROSS_BASE, OFFLINE, TARGETS, WITHOUT_TEACHER, Target

Record = dict[str, Any]


def report(records: Sequence[Record]) -> str:
    """Everything that the records say: a line about the machine, a table a block, the targets."""
    parts = [about(records)]
    for title in dict.fromkeys(record["block"] for record in records):
        block = [record for record in records if record["block"] == title]
        parts.append(f"### {title}\n\n{_block(block)}")
    judged = targets(records)
    if judged:
        parts.append("### Targets\n\n" + judged)
    return "\n\n".join(parts) + "\n"


def about(records: Sequence[Record]) -> str:
    """Where and with what the figures were taken; each value that differs between the records is given."""
    facts = []
    for group in ("machine", "versions"):
        for name in dict.fromkeys(key for record in records for key in record[group]):
            values = sorted({record[group].get(name, "") for record in records} - {"", "absent"})
            if name == "load":
                values = [f"{min(map(float, values)):.2f} to {max(map(float, values)):.2f}"]
            if values:
                facts.append(f"{name} {', '.join(values)}")
    facts.append("commit " + ", ".join(sorted({record["commit"] for record in records})))
    if not all(record["peak_reset"] for record in records):
        facts.append("memory: peaks count from the start of the process (clear_refs is not allowed here)")
    return "; ".join(facts)


def cpu_s(record: Record) -> list[float]:
    """Seconds of CPU, program and kernel, of each measured step."""
    return [step["user_s"] + step["sys_s"] for step in record["steps_s"]]


def ratio(records: Sequence[Record], case: str, base: str, value: Callable[[Record], float]) -> float | None:
    """Median over the rounds of value(case) / value(base), or over the sum for a base of "a + b"; None: never both."""
    found, bases = [], base.split(" + ")
    for number in {record["round"] for record in records}:
        sides = {record["case"]: value(record) for record in records if record["round"] == number}
        if {case, *bases} <= set(sides) and all(sides[name] > 0 for name in bases):
            found.append(sides[case] / sum(sides[name] for name in bases))
    return percentile(found, 0.5) if found else None


def targets(records: Sequence[Record]) -> str:
    """The targets that the records can judge, as a table; empty where they can judge none."""
    rows = []
    for target in TARGETS:
        measured = _judge(records, target)
        if measured is not None:
            rows.append(
                [
                    f"{target.case} / {target.base}, {target.field}, malloc {target.allocator}",
                    f"≤ {target.limit:.2f}",
                    f"{measured:.2f}",
                    "yes" if measured <= target.limit else "no",
                ]
            )
    return markdown(["target", "limit", "measured", "met"], rows) if rows else ""


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _median_cpu(record: Record) -> float:
    return percentile(cpu_s(record), 0.5)


def _cpu_a_token(record: Record) -> float:
    return _median_cpu(record) / float(record["tokens"])


def _memory(record: Record) -> float:
    return float(record["training_bytes"])


def _judge(records: Sequence[Record], target: Target) -> float | None:
    fitting = [
        record
        for record in records
        if record["size"] == target.size and record["threads"] == 1 and record["allocator"] == target.allocator
    ]
    value = {"cpu": _median_cpu, "token": _cpu_a_token, "memory": _memory}[target.field]
    # a pair is compared within its own block: another block ran at another time
    for title in dict.fromkeys(record["block"] for record in fitting):
        block = [record for record in fitting if record["block"] == title]
        found = ratio(block, target.case, target.base, value)
        if found is not None:
            return found
    return None


def _block(records: Sequence[Record]) -> str:
    cases = list(dict.fromkeys(record["case"] for record in records))
    if cases == ["loss_memory"]:
        return _loss_memory(records)
    on_gpu = any("gpu" in record for record in records)
    least = ACROSS_BASE if set(cases) <= set(ACROSS) else "floor"
    head = ["case", "CPU s/step: median (min, p90)", "of which kernel", "wall s/step", "tokens/s", f"× {least}", "over"]
    rows = []
    for case in cases:
        own = [record for record in records if record["case"] == case]
        rows.append([case, *_times(own), *_ratios(records, case), _mib([record["training_bytes"] for record in own])])
        if on_gpu:
            rows[-1] += _gpu(own)
    gpu_head = ["FLOPs utilisation", "GPU MiB"] if on_gpu else []
    return markdown([*head, "training MiB", *gpu_head], rows) + "".join(_top_ten(record) for record in records)


def _times(own: Sequence[Record]) -> list[str]:
    cpu = summary([value for record in own for value in cpu_s(record)])
    kernel = percentile([step["sys_s"] for record in own for step in record["steps_s"]], 0.5)
    wall = percentile([step["wall_s"] for record in own for step in record["steps_s"]], 0.5)
    return [
        f"{cpu['median']:.3f} ({cpu['min']:.3f}, {cpu['p90']:.3f})",
        f"{kernel:.3f}",
        f"{wall:.3f}",
        f"{own[0]['tokens'] / wall:,.0f}",
    ]


def _ratios(records: Sequence[Record], case: str) -> list[str]:
    base = "floor_sft" if case in WITHOUT_TEACHER else ACROSS_BASE if case in ACROSS else "floor"
    over_floor = ratio(records, case, base, _median_cpu)
    beside = "logits" if case.startswith("logits+") else "sft" if case in OFFLINE else None
    added = None if beside is None else ratio(records, case, beside, _median_cpu)
    return [
        "" if over_floor is None else f"{over_floor:.2f}",
        "" if added is None else f"{beside} {100 * (added - 1):+.0f} %",
    ]


def _mib(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5) / MIB:,.0f}"


def _gpu(own: Sequence[Record]) -> list[str]:
    used = [record["utilisation"] for record in own if record["utilisation"] is not None]
    return [
        f"{100 * percentile(used, 0.5):.1f} %" if used else "unknown device",
        _mib([r["gpu_peak_bytes"] for r in own]),
    ]


def _loss_memory(records: Sequence[Record]) -> str:
    rows = [
        [
            record["allocator"],
            f"{record['supervised']:,}",
            f"{record['vocabulary']:,}",
            f"{record['supervised'] * record['vocabulary'] * 4 / MIB:,.0f}",
            f"{record['results_bytes'] / MIB:,.0f}",
            _mib([record["loss_bytes"]]),
        ]
        for record in records
    ]
    head = ["malloc", "supervised positions", "vocabulary", "all logits of one model, MiB", "results, MiB"]
    return markdown([*head, "peak above, MiB"], rows)


def _top_ten(record: Record) -> str:
    if not record.get("top_ten"):
        return ""
    rows = [[row["name"], str(row["calls"]), f"{row['ms']:.1f}", f"{row['share']:.1%}"] for row in record["top_ten"]]
    return f"\n\nWhere a step of {record['case']} goes:\n\n" + markdown(["operation", "calls", "ms", "share"], rows)
