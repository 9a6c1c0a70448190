"""One exception class per status, and one status enum for Python and C."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from ptcore import errors
from ptcore.errors import Fault, PtcoreError, Status, fault_class

ABI = Path(__file__).parents[2] / "src/ptcore/table/abi.h"
INSIDE_THE_ENGINE = {"MISSING", "DOWN"}


def test_the_statuses_are_those_of_the_compiled_code() -> None:
    found = re.findall(r"^\s*PT_(\w+) = (\d+),?", ABI.read_text(), re.MULTILINE)
    numbers = {name: int(number) for name, number in found}
    assert numbers["OK"] == 0
    in_c = {name: number for name, number in numbers.items() if name not in INSIDE_THE_ENGINE}
    assert in_c == {status.name: status.value for status in Status}
    assert max(numbers.values()) < 254, "statuses are uint8, and all-ones is no status"


def test_every_failing_status_has_one_exception_class_that_knows_it() -> None:
    classes = [fault_class(status) for status in Status if status is not Status.OK]
    assert len(set(classes)) == len(Status) - 1
    for status, cls in zip(list(Status)[1:], classes, strict=True):
        assert cls.status is status
        assert issubclass(cls, Fault)
        assert cls.__doc__
    with pytest.raises(KeyError):
        fault_class(Status.OK)


def exception_classes() -> list[type[PtcoreError]]:
    return [
        thing
        for thing in vars(errors).values()
        if isinstance(thing, type) and issubclass(thing, Exception)
    ]


def test_all_errors_are_ptcore_errors_with_a_docstring() -> None:
    assert len(exception_classes()) > 20
    for cls in exception_classes():
        assert issubclass(cls, PtcoreError)
        assert len(cls.__doc__ or "") > 20, cls


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("FormatError", ValueError),
        ("AddressError", ValueError),
        ("Misaligned", errors.AddressError),
        ("OutOfRange", errors.AddressError),
        ("NotCanonical", errors.AddressError),
        ("NotCanonical", Fault),
        ("Fault", LookupError),
        ("AlreadyMapped", errors.MapError),
        ("NotMapped", errors.MapError),
        ("InsideLargerLeaf", errors.MapError),
        ("NoFrame", errors.MapError),
        ("NoAddressSpace", errors.MapError),
    ],
)
def test_the_families_are_those_promised(name: str, family: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), family)


@pytest.mark.parametrize("cls", exception_classes(), ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling(cls: type[PtcoreError]) -> None:
    error = cls("what happened")
    error.note = 5  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_a_trace_error_names_its_line() -> None:
    error = errors.TraceError("no such event", line=7)
    assert error.line == 7
    assert str(error) == "line 7: no such event"
    assert errors.TraceError("empty").line is None
