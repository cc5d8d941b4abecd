"""What runs, studies and checks write to disk: plain values, no torch.

A report is made from these records alone. Every file that holds one carries `schema_version`.
Units are in the names: `_nats`, `_s`, `_bytes`, `_tokens`; shares are fractions between 0 and 1.
"""

from distillab.records.access import ACCESS_ORDER, AccessLevel
from distillab.records.base import SCHEMA_VERSION, Record, read_record, write_record
from distillab.records.findings import SEVERITY_ORDER, CheckResult, Conclusions, Finding, Investigation, Phase, Severity
from distillab.records.metrics import FAMILIES, HEADLINES, PRIMARY, EvaluationRecord, Family, Metric
from distillab.records.outlook import begins_above_uniform, outlook, run_outlook, study_outlook, teachers_not_better
from distillab.records.pairing import (
    DataOverlap,
    MethodAdmission,
    PairCheck,
    Recommendation,
    SideBySide,
    TokenizerContract,
    TokenizerInfo,
    Verdict,
)
from distillab.records.pruning import CalibrationRows, ModelSizes, PruningRecord
from distillab.records.runs import (
    CurvePoint,
    EvaluatedModel,
    ReferenceLines,
    RunCost,
    RunRecord,
)
from distillab.records.sources import (
    AnswersMade,
    AnswerStoreCounts,
    CacheUse,
    EncodingCounts,
    NotJudged,
    ServedCost,
    ServerCheck,
    ServerProbe,
    SpanCounts,
    TeacherProvenance,
    total_cost,
)
from distillab.records.studies import (
    FEWEST_ROWS,
    ArmResult,
    Baseline,
    Comparison,
    GenerationSample,
    Interval,
    Recovered,
    StudyResults,
    TeacherCost,
)

__all__ = [
    "ACCESS_ORDER",
    "FAMILIES",
    "FEWEST_ROWS",
    "HEADLINES",
    "PRIMARY",
    "SCHEMA_VERSION",
    "SEVERITY_ORDER",
    "AccessLevel",
    "AnswerStoreCounts",
    "AnswersMade",
    "ArmResult",
    "Baseline",
    "CacheUse",
    "CalibrationRows",
    "CheckResult",
    "Comparison",
    "Conclusions",
    "CurvePoint",
    "DataOverlap",
    "EncodingCounts",
    "EvaluatedModel",
    "EvaluationRecord",
    "Family",
    "Finding",
    "GenerationSample",
    "Interval",
    "Investigation",
    "MethodAdmission",
    "Metric",
    "ModelSizes",
    "NotJudged",
    "PairCheck",
    "Phase",
    "PruningRecord",
    "Recommendation",
    "Record",
    "Recovered",
    "ReferenceLines",
    "RunCost",
    "RunRecord",
    "ServedCost",
    "ServerCheck",
    "ServerProbe",
    "Severity",
    "SideBySide",
    "SpanCounts",
    "StudyResults",
    "TeacherCost",
    "TeacherProvenance",
    "TokenizerContract",
    "TokenizerInfo",
    "Verdict",
    "begins_above_uniform",
    "outlook",
    "read_record",
    "run_outlook",
    "study_outlook",
    "teachers_not_better",
    "total_cost",
    "write_record",
]
