"""Adam (Kingma and Ba 2015) over a small table of which each step touches one row.

For what is learnt per training view: a view's moments must count its own visits only, where an
ordinary Adam would let every row drift on with each step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-12


class RowAdam:
    """Values [N, D], zero at first, and their moments."""

    def __init__(self, rows: int, columns: int, device: str | torch.device = "cpu") -> None:
        self.values = torch.zeros(rows, columns, device=device)
        self._first = torch.zeros_like(self.values)
        self._second = torch.zeros_like(self.values)
        self._visits = [0] * rows

    @torch.no_grad()
    def step(self, row: int, gradient: Tensor, rate: float | Tensor) -> Tensor:
        """Move one row by its gradient [D] and return the change. A gradient that is not finite
        is left out."""
        if not bool(torch.isfinite(gradient).all()):
            return torch.zeros_like(gradient)
        self._visits[row] += 1
        count = self._visits[row]
        first = self._first[row].lerp_(gradient, 1 - _BETA1)
        second = self._second[row].mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        spread = (second / (1 - _BETA2**count)).sqrt_().add_(_EPS)
        change = -rate * (first / (1 - _BETA1**count)) / spread
        self.values[row] += change
        return change

    def state_dict(self) -> dict[str, Any]:
        return {
            "values": self.values,
            "first": self._first,
            "second": self._second,
            "visits": list(self._visits),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.values.device
        self.values = state["values"].to(device).clone()
        self._first = state["first"].to(device).clone()
        self._second = state["second"].to(device).clone()
        self._visits = list(state["visits"])
