"""Tokenizer contract and method -> is the method valid for this pair, and why?"""

from __future__ import annotations

from typing import Literal

from distillab.config.methods import METHODS, Method, described
from distillab.errors import TokenizerMismatch
from distillab.pairing.known import teachers_with_tokenizer
from distillab.pairing.recommendation import cross_tokenizer_methods, recommend
from distillab.records import (
    AccessLevel,
    MethodAdmission,
    PairCheck,
    TokenizerContract,
    TokenizerInfo,
    Verdict,
)

MethodStatus = Literal["valid", "superseded", "refused"]

_MAX_IDS = 12
_FROM_TEACHER: dict[AccessLevel, str] = {
    "none": "learns from the data set alone: no token of the teacher is used",
    "text": "learns from the teacher's answers as text, which every tokenizer can read",
}


def method_status(verdict: Verdict, method: Method) -> MethodStatus:
    """Return whether a method is valid; `superseded`: valid, but a method on shared ids compares more directly."""
    if method.tokens == "any":
        return "valid"
    if method.tokens == "shared":
        return "refused" if verdict == "different" else "valid"
    return "valid" if verdict == "different" else "superseded"


def shared_vocabulary_method(method: Method) -> str:
    """Return the first method on shared ids with the same access level as this cross-tokenizer method."""
    return next(name for name, other in METHODS.items() if other.tokens == "shared" and other.access == method.access)


def equals_with_same_tokens(method: Method) -> bool:
    """Return whether the method equals `shared_vocabulary_method(method)` if both tokenizers are the same."""
    other = METHODS[shared_vocabulary_method(method)]
    if method.answers != other.answers or len(method.terms) != len(other.terms):
        return False
    return all(
        (across.matches or across.kind) == shared.kind
        and all(getattr(across, name) == getattr(shared, name) for name in type(shared).model_fields if name != "kind")
        for across, shared in zip(method.terms, other.terms, strict=True)
    )


def admit(contract: TokenizerContract, method_name: str, method: Method) -> MethodAdmission:
    """Return whether the pair allows the method, with the reason."""
    return MethodAdmission(
        method=method_name,
        access=method.access,
        admitted=method_status(contract.verdict, method) != "refused",
        reason=_reason(contract, method),
    )


def pair_check(contract: TokenizerContract) -> PairCheck:
    """Return the contract, the admission of every method, the recommended one, and the ways out of a refusal."""
    methods = tuple(admit(contract, name, method) for name, method in METHODS.items())
    refused = any(not method.admitted for method in methods)
    return PairCheck(
        contract=contract,
        methods=methods,
        recommended=recommend(contract),
        ways_out=_ways_out(contract) if refused else (),
    )


def require_admitted(contract: TokenizerContract, method_name: str, method: Method) -> None:
    """Refuse a method that the pair does not allow.

    Raises:
        TokenizerMismatch: with an example, what would be trained, and the ways out.
    """
    admission = admit(contract, method_name, method)
    if admission.admitted:
        return
    example = contract.example
    raise TokenizerMismatch(
        f"Method {described(method_name, method)} is not valid for this pair: {admission.reason}.",
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
    """Return the first ids as text, `1, 450, 4996, …`."""
    return ", ".join(map(str, ids[:_MAX_IDS])) + (", …" if len(ids) > _MAX_IDS else "")


def tokens_line(tokens: tuple[str, ...]) -> str:
    """Return the first tokens as text, `<s> | ▁The | ▁quick | …`."""
    return " | ".join(tokens[:_MAX_IDS]) + (" | …" if len(tokens) > _MAX_IDS else "")


def _reason(contract: TokenizerContract, method: Method) -> str:
    if method.tokens == "any":
        return _FROM_TEACHER[method.access]
    if method.tokens == "aligned":
        return f"reads a text in both tokenisations and compares {_of_both(method)}{_superseded(contract, method)}"
    admitted = method_status(contract.verdict, method) != "refused"
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


def _of_both(method: Method) -> str:
    """Return what is compared across two tokenisations."""
    if any(term.tokens == "aligned" and term.access == "internals" for term in method.terms):
        return "inner states"
    if any(term.matches is not None and not term.needs_common_tokens for term in method.terms):
        return "next-token distributions at aligned positions, one carried to the tokens of the other"
    if any(term.matches is not None for term in method.terms):
        return "next-token distributions at aligned positions, over common tokens"
    return "probabilities, whatever the tokens"


def _superseded(contract: TokenizerContract, method: Method) -> str:
    if method_status(contract.verdict, method) != "superseded":
        return ""
    better = shared_vocabulary_method(method)
    same_cuts = contract.verdict != "extended" and not contract.probes_differ
    if same_cuts and equals_with_same_tokens(method):
        return f"; with the same tokens, as here, it equals {better} and costs more"
    return f"; ids are shared here: prefer {better}, which compares every token directly"


def _ways_out(contract: TokenizerContract) -> tuple[str, ...]:
    fitting = cross_tokenizer_methods(contract)
    path_c = (
        f"a method made for two tokenizers, best first: {', '.join(fitting)}"
        if fitting
        else "none here: the two have too little in common for those made for two tokenizers (see distillab check)"
    )
    return (
        f"path A: a teacher with the student's tokenizer. {_how_to_find(contract.student)}",
        "path B: sequence-level KD (method: seqkd): the student learns from the teacher's answers as text",
        f"path C: {path_c}",
    )


def _how_to_find(student: TokenizerInfo) -> str:
    known = teachers_with_tokenizer(student.fingerprint)
    if known:
        return f"For {student.name} that is e.g. {' or '.join(known)}"
    return (
        f"Look among the larger models of {student.name}'s own family, or at the model that its tokenizer was taken "
        f"from, and run distillab check on it: the verdict must not be 'different'"
    )
