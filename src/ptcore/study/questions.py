"""The ten questions that developers ask before they choose, answered from a comparison.

Each has one figure per strategy, the lower the better, and a winner with its margin. Figures that are
priced rest on constants with an uncertainty: a margin that the uncertainty could turn round is called
a tie. Figures that are counted have none. Strategies that a question is not about have no figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ptcore.study.compare import Comparison, Row
from ptcore.study.uncertainty import Margin, margin

Figure = Callable[[Row], float | None]


@dataclass(frozen=True, slots=True)
class Question:
    """A question's number, what its figure is, and the figure. `priced`: cycles over `per`, by constants."""

    name: str
    text: str
    figure: Figure
    priced: bool = False
    per: Callable[[Row], int] = lambda row: 1


def _operations(row: Row) -> int:
    return max(row.price.operations, 1)


def _touched(row: Row) -> int:
    return max(row.accesses, 1)


def _exposed(row: Row) -> float | None:
    return None if row.exposure_by_design is not None else row.exposure.longest_ns / 1e6


def _by_cpu(row: Row) -> bool:
    """Whether a CPU reaches the memory, and no device by a translation of its own."""
    return not (row.device_accesses or row.device_invalidations)


def _device(row: Row) -> float | None:
    return None if _by_cpu(row) else row.price.cycles / _operations(row)


def _per_operation(row: Row) -> float | None:
    return row.price.cycles / _operations(row) if _by_cpu(row) else None


def never_exposed(row: Row) -> bool:
    """Whether freed memory could never be reached: by design or through a stale translation."""
    return row.exposure_by_design is None and row.exposure.longest_ns == 0


QUESTIONS = (
    Question(
        "Q1",
        "CPUs interrupted per 1000 operations",
        lambda r: 1000 * r.cpus_interrupted / _operations(r),
    ),
    Question("Q2", "longest window in which freed memory can be reached (ms)", _exposed),
    Question(
        "Q3",
        "cycles per page touched by a CPU, mapping included",
        lambda r: r.price.cycles / _touched(r) if _by_cpu(r) else None,
        priced=True,
        per=_touched,
    ),
    Question(
        "Q4",
        "touches served in a dearer way, per 1000",
        lambda r: 1000 * r.fallbacks / _touched(r),
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
        "times that leaves in use were split, as arm64 without BBML2 cannot",
        lambda r: r.splits,
    ),
    Question(
        "Q8",
        "tables built, at boot and later (KiB)",
        lambda r: (r.boot_table_bytes + r.tables_allocated_bytes) / 1024,
    ),
    Question(
        "Q9",
        "cycles per operation where a device reaches the memory",
        _device,
        priced=True,
        per=_operations,
    ),
    Question("Q10", "entries written per page touched", lambda r: r.entries_written / _touched(r)),
)

WINNERS = (
    Question(
        "cheapest",
        "cycles per operation where a CPU reaches the memory",
        _per_operation,
        priced=True,
        per=_operations,
    ),
    Question(
        "cheapest, off the direct map",
        "the same, of those where memory is not reachable by design",
        lambda r: _per_operation(r) if r.exposure_by_design is None else None,
        priced=True,
        per=_operations,
    ),
    Question(
        "cheapest, nothing exposed",
        "the same, of those where freed memory can never be reached",
        lambda r: _per_operation(r) if never_exposed(r) else None,
        priced=True,
        per=_operations,
    ),
)
"""What names a workload's winner: one for all strategies, one for pages that must not or cannot be in the
direct map, one for those that a secret can be kept with."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A question's winner (several where they are alike) and the next one, with their figures.

    `margin`: how many times as much the next one has, with its bounds (the same three where it is
    counted); None where one of them is nothing or there is no next. `verdict` says it in words.
    """

    question: Question
    winners: tuple[str, ...]
    best: float | None
    runner_up: str | None
    next: float | None
    margin: Margin | None
    tie: bool
    verdict: str

    @property
    def winner(self) -> str:
        """The winners' names, '-' for none."""
        return ", ".join(self.winners) or "-"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        bounds = self.margin
        return {
            "name": self.question.name, "question": self.question.text,
            "priced": self.question.priced, "winner": self.winner, "best": self.best,
            "runner_up": self.runner_up, "next": self.next,
            "margin": None if bounds is None else bounds.ratio,
            "margin_least": None if bounds is None else bounds.least,
            "margin_most": None if bounds is None else bounds.most,
            "tie": self.tie, "verdict": self.verdict,
        }  # fmt: skip


def answers(found: Comparison, questions: Sequence[Question] = QUESTIONS) -> tuple[Answer, ...]:
    """Return the answer to each question, in order. Pure."""
    return tuple(_answer(question, found.rows) for question in questions)


def winners(found: Comparison) -> tuple[Answer, ...]:
    """Return the workload's winners: the cheapest, that off the direct map, and that which leaves nothing
    exposed. Pure."""
    return answers(found, WINNERS)


def _answer(question: Question, rows: Sequence[Row]) -> Answer:
    figures = [(question.figure(row), row) for row in rows]
    ranked = sorted(
        ((figure, row) for figure, row in figures if figure is not None), key=lambda pair: pair[0]
    )
    if not ranked:
        return Answer(question, (), None, None, None, None, False, "no strategy that it is about")
    best, first = ranked[0]
    alike = tuple(row.strategy for figure, row in ranked if figure == best)
    if len(ranked) == 1:
        return Answer(question, alike, best, None, None, None, False, "alone")
    if len(alike) > 1:
        said = "all alike" if len(alike) == len(ranked) else f"tie of {len(alike)}"
        return Answer(question, alike, best, None, None, None, True, said)
    after, second = ranked[1]
    if not best:
        return Answer(
            question, alike, best, second.strategy, after, None, False, f"0 against {after:,.4g}"
        )
    if question.priced:
        scale = question.per(first) / question.per(second)
        bounds = margin(first.price, second.price, scale)
    else:
        bounds = Margin(after / best, after / best, after / best)
    verdict = _in_words(bounds, question.priced)
    return Answer(question, alike, best, second.strategy, after, bounds, bounds.tie, verdict)


def _in_words(bounds: Margin, priced: bool) -> str:
    if not priced:
        return f"by {times(bounds.ratio)}, counted"
    between = f"{times(bounds.least)} to {times(bounds.most)}"
    return f"{'tie' if bounds.tie else 'by'} {times(bounds.ratio)} ({between})"


def times(ratio: float) -> str:
    """Return a ratio as people read it: 1.08x, 23.4x, 10,053x."""
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


__all__ = [
    "QUESTIONS",
    "WINNERS",
    "Answer",
    "Question",
    "answers",
    "never_exposed",
    "times",
    "winners",
]
