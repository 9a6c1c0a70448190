"""The ten questions that developers ask before they choose, answered from a comparison.

Each has one figure per strategy, the lower the better, and a winner with its margin. A margin that
lies inside the uncertainty of the constants is called a tie. Strategies that a question is not about
have no figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ptcore.machine.cost import Constant, Price
from ptcore.study.compare import Comparison, Row

Figure = Callable[[Row], float | None]


@dataclass(frozen=True, slots=True)
class Question:
    """A question's number, what its figure is, and the figure. `priced`: it rests on the constants."""

    name: str
    text: str
    figure: Figure
    priced: bool = False


def _operations(row: Row) -> int:
    return max(row.price.operations, 1)


def _exposed(row: Row) -> float | None:
    return None if row.exposure_by_design is not None else row.exposure.longest_ns / 1e6


def _device(row: Row) -> float | None:
    if not row.device_walks + row.device_invalidations:
        return None
    return 1000 * row.device_invalidations / _operations(row)


def _per(count: float, of: int) -> float:
    return count / max(of, 1)


QUESTIONS = (
    Question(
        "Q1",
        "CPUs interrupted per 1000 operations",
        lambda r: 1000 * _per(r.cpus_interrupted, _operations(r)),
    ),
    Question("Q2", "longest window in which freed memory can be reached (ms)", _exposed),
    Question(
        "Q3",
        "cycles per page touched, mapping included",
        lambda r: _per(r.price.cycles, r.accesses),
        priced=True,
    ),
    Question(
        "Q4",
        "touches served in a dearer way, per 1000",
        lambda r: 1000 * _per(r.fallbacks, r.accesses),
    ),
    Question(
        "Q5",
        "tables that splits of the direct map took (KiB)",
        lambda r: r.split_table_bytes / 1024,
    ),
    Question(
        "Q6",
        "pages that a pool keeps and that serve nobody, at the end",
        lambda r: r.stranded_pages,
    ),
    Question(
        "Q7",
        "splits of live leaves: arm64 without BBML2 cannot (1 = needed)",
        lambda r: float(r.split_table_bytes > 0),
    ),
    Question(
        "Q8",
        "tables built, at boot and later (KiB)",
        lambda r: (r.boot_table_bytes + r.tables_allocated_bytes) / 1024,
    ),
    Question("Q9", "IOTLB invalidations per 1000 operations", _device),
    Question(
        "Q10", "entries written per page touched", lambda r: _per(r.entries_written, r.accesses)
    ),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A question's winner and the next one, with their figures; `verdict` has the margin, or why none."""

    question: Question
    winner: str
    best: float | None
    runner_up: str
    next: float | None
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "name": self.question.name, "question": self.question.text, "winner": self.winner,
            "best": self.best, "runner_up": self.runner_up, "next": self.next, "verdict": self.verdict,
        }  # fmt: skip


def factor(constant: Constant) -> float:
    """Return by how much a constant may be off: 'x2: ...' is 2; 2 where it is said in words."""
    digits = constant.uncertainty.removeprefix("x").partition(":")[0]
    try:
        return float(digits)
    except ValueError:
        return 2.0


def spread(price: Price) -> float:
    """Return by what factor a price may be off: the constants' factors, weighted by what they make."""
    known = {constant.name: constant for constant in price.constants}
    if not price.cycles:
        return 1.0
    return sum(line.cycles * factor(known[line.name]) for line in price.lines) / price.cycles


def answers(found: Comparison) -> tuple[Answer, ...]:
    """Return the answer to each question, in order. Pure."""
    return tuple(_answer(question, found.rows) for question in QUESTIONS)


def _answer(question: Question, rows: tuple[Row, ...]) -> Answer:
    figures = [(question.figure(row), row) for row in rows]
    ranked = sorted(
        ((figure, row) for figure, row in figures if figure is not None), key=lambda pair: pair[0]
    )
    if not ranked:
        return Answer(question, "-", None, "-", None, "no strategy that it is about")
    best, first = ranked[0]
    tied = [row.strategy for figure, row in ranked if figure == best]
    if len(tied) > 1:
        return Answer(question, ", ".join(tied), best, "-", None, "tie")
    if len(ranked) == 1:
        return Answer(question, first.strategy, best, "-", None, "alone")
    after, second = ranked[1]
    inside = question.priced and best * spread(first.price) >= after / spread(second.price)
    margin = f"by {after / best:.2f}x" if best else f"by {after:,.4g}"
    verdict = f"tie: {margin} is inside the uncertainty" if inside else margin
    return Answer(question, first.strategy, best, second.strategy, after, verdict)


__all__ = ["QUESTIONS", "Answer", "Question", "answers", "factor", "spread"]
