"""Collects problems while a file is read in slices, merging the rows of each."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .schema import ROWS_SHOWN, Problem

Severity = Literal["error", "warning"]


class Findings:
    """An ordered set of problems; one found in several slices stays one, with all its rows counted."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Severity, str, str], list[int]] = {}
        self._counts: dict[tuple[Severity, str, str], int] = {}

    def add(self, severity: Severity, where: str, message: str) -> None:
        """Notes a problem that has no rows."""
        self._rows.setdefault((severity, where, message), [])
        self._counts.setdefault((severity, where, message), 0)

    def add_rows(
        self, severity: Severity, where: str, message: str, bad: NDArray[np.bool_], first_row: int = 0
    ) -> None:
        """Notes a problem of the rows that `bad` (n,) marks, counted from `first_row`, if it marks any."""
        indices = np.flatnonzero(bad)
        if indices.size == 0:
            return
        self.add(severity, where, message)
        rows = self._rows[(severity, where, message)]
        rows.extend(int(i) + first_row for i in indices[: ROWS_SHOWN - len(rows)])
        self._counts[(severity, where, message)] += int(indices.size)

    @property
    def has_errors(self) -> bool:
        """Whether any problem so far is an error."""
        return any(severity == "error" for severity, _, _ in self._rows)

    def problems(self) -> list[Problem]:
        """What was found, errors first, otherwise in the order found."""
        found = [
            Problem(severity, where, message, tuple(rows), self._counts[(severity, where, message)])
            for (severity, where, message), rows in self._rows.items()
        ]
        return sorted(found, key=lambda problem: problem.severity != "error")
