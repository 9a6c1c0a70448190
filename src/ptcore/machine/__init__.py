"""Floor 5: CPUs over tables and caches, an append-only ledger, its price and its exposure."""

from __future__ import annotations

from ptcore.machine.events import Event
from ptcore.machine.ledger import Ledger
from ptcore.machine.machine import Machine
from ptcore.machine.protocol import Strategy
from ptcore.machine.requests import Handle, Request

__all__ = ["Event", "Handle", "Ledger", "Machine", "Request", "Strategy"]
