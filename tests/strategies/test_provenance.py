"""Every strategy says whose it is: in its list, at the head of its module, and in the documents."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from ptcore import strategies

OWNERS = re.compile(r"kernel's|proposal's|ours|article")
MODULES = [module.name for module in pkgutil.iter_modules(strategies.__path__)]
WITH_STRATEGIES = [
    name
    for name in MODULES
    if hasattr(importlib.import_module(f"ptcore.strategies.{name}"), "STRATEGIES")
]


@pytest.mark.parametrize("known", strategies.known(), ids=lambda known: known.name)
def test_a_strategy_says_whose_policy_it_is(known: strategies.Known) -> None:
    assert OWNERS.search(known.provenance)
    assert known.sentence.endswith(".")


@pytest.mark.parametrize("name", WITH_STRATEGIES)
def test_a_modules_head_says_where_mechanism_and_policy_come_from(name: str) -> None:
    head = importlib.import_module(f"ptcore.strategies.{name}").__doc__ or ""
    assert OWNERS.search(head)
    assert re.search(r"Linux |bjackman|__GFP_UNMAPPED|secondary\s+article", head), "and its source"


def test_the_documents_have_a_row_for_each() -> None:
    text = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"`([\w+]+)`", "\n".join(re.findall(r"^\| `.*?\|", text, re.MULTILINE))))
    named = {
        name.partition("+")[0] + "+NAME" if "+" in name else name for name in strategies.names()
    }
    assert rows == named
