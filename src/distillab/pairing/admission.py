"""Contract x method -> is the method valid for this pair? What a method needs is read from the method alone."""

from __future__ import annotations

from distillab.config.methods import METHODS, Method
from distillab.errors import TokenizerMismatch
from distillab.pairing.known import teachers_with_tokenizer
from distillab.records import AccessLevel, MethodAdmission, PairJudgement, TokenizerContract, TokenizerSide

_MAX_IDS = 12
_FROM_TEACHER: dict[AccessLevel, str] = {
    "none": "learns from the data set alone: no token of the teacher is used",
    "text": "learns from the teacher's answers as text, which every tokenizer can read",
    "top_k": "maps the teacher's kept tokens to the student's",
    "logits": "maps the teacher's vocabulary to the student's",
    "internals": "aligns the teacher's positions with the student's",
}


def admit(contract: TokenizerContract, method_name: str, method: Method) -> MethodAdmission:
    """Whether the pair allows the method, with the reason."""
    admitted = method.tokens == "any" or contract.verdict != "different"
    return MethodAdmission(
        method=method_name, access=method.access, admitted=admitted, reason=_reason(contract, method, admitted)
    )


def judgement(contract: TokenizerContract) -> PairJudgement:
    """The contract with every method's admission, and the ways out where one is refused."""
    methods = tuple(admit(contract, name, method) for name, method in METHODS.items())
    refused = any(not method.admitted for method in methods)
    return PairJudgement(contract=contract, methods=methods, ways_out=_ways_out(contract) if refused else ())


def require_admitted(
    contract: TokenizerContract, method_name: str, method: Method, *, demonstrate_mismatch: bool = False
) -> None:
    """Refuse a method that the pair does not allow.

    Args:
        demonstrate_mismatch: let it pass, to show the failure; the caller marks every record with it.
    Raises:
        TokenizerMismatch: says what is wrong with an example, what would be trained, and the ways out.
    """
    admission = admit(contract, method_name, method)
    if admission.admitted or demonstrate_mismatch:
        return
    example = contract.example
    raise TokenizerMismatch(
        f"Method {method_name} is not valid for this pair: {admission.reason}.",
        where=f"teacher {contract.teacher.name}, student {contract.student.name}",
        facts=[
            contract.reason,
            f"{example.text!r} in both:",
            f"  teacher {ids_line(example.teacher_ids)} {tokens_line(example.teacher_tokens)}",
            f"  student {ids_line(example.student_ids)} {tokens_line(example.student_tokens)}",
            *(f"trained would be: {sentence}" for sentence in contract.would_train),
        ],
        fix="one of:\n" + "\n".join(f"    {way}" for way in _ways_out(contract)),
    )


def ids_line(ids: tuple[int, ...]) -> str:
    """The first ids as text, `1, 450, 4996, …`."""
    return ", ".join(map(str, ids[:_MAX_IDS])) + (", …" if len(ids) > _MAX_IDS else "")


def tokens_line(tokens: tuple[str, ...]) -> str:
    """The first tokens as text, `<s> | ▁The | ▁quick | …`."""
    return " | ".join(tokens[:_MAX_IDS]) + (" | …" if len(tokens) > _MAX_IDS else "")


def _reason(contract: TokenizerContract, method: Method, admitted: bool) -> str:
    if method.tokens == "any":
        return _FROM_TEACHER[method.access]
    ids = any(term.access != "internals" and term.tokens == "shared" for term in method.terms)
    if not ids and not admitted:
        return "it compares both models' states position by position, and in this pair they read different tokens there"
    if not ids:
        return "compares both models' states position by position, and both read the same tokens"
    if not admitted:
        return "it compares token ids with the teacher's, and in this pair equal ids mean different tokens"
    if contract.verdict == "identical":
        return "compares token ids with the teacher's, and every id means the same"
    return f"compares token ids with the teacher's on the {contract.shared_width:,} ids that both share"


def _ways_out(contract: TokenizerContract) -> tuple[str, ...]:
    return (
        f"path A: a teacher with the student's tokenizer. {_how_to_find(contract.student)}",
        "path B: sequence-level KD (method: seqkd): the student learns from the teacher's answers as text",
        "path C: a method made for two tokenizers; this version has none yet",
    )


def _how_to_find(student: TokenizerSide) -> str:
    known = teachers_with_tokenizer(student.fingerprint)
    if known:
        return f"For {student.name} that is e.g. {' or '.join(known)}"
    return (
        f"Look among the larger models of {student.name}'s own family, or at the model that its tokenizer was taken "
        f"from, and run distillab check on it: the verdict must not be 'different'"
    )
