"""Adam over the parameters of a splat, whose rows come and go during training.

Densification removes, appends and rewrites Gaussians, and the moments of Adam must follow row by
row; this class owns both, so that strategies never touch optimiser state by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("means", "scales", "quats", "opacities", "sh0", "shN")
Params = dict[str, nn.Parameter]


class SplatOptimizer:
    """One Adam with one group a parameter (betas .9 / .999, eps 1e-15 as in 3DGS)."""

    def __init__(self, tensors: Mapping[str, Tensor], learning_rates: Mapping[str, float]) -> None:
        groups = [
            {
                "params": [nn.Parameter(tensors[name].detach().clone().contiguous())],
                "lr": learning_rates[name],
                "name": name,
            }
            for name in NAMES
        ]
        self._adam = torch.optim.Adam(groups, eps=1e-15, fused=True)

    @property
    def params(self) -> Params:
        """The current parameters by name; ask again after every change of rows."""
        return {group["name"]: group["params"][0] for group in self._adam.param_groups}

    def __len__(self) -> int:
        return len(self._adam.param_groups[0]["params"][0])

    def step(self) -> None:
        """One Adam step on every parameter that has a gradient; gradients are then dropped."""
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def drop_gradients(self) -> None:
        """Forget the gradients of this step."""
        self._adam.zero_grad(set_to_none=True)

    def set_learning_rate(self, name: str, value: float) -> None:
        for group in self._adam.param_groups:
            if group["name"] == name:
                group["lr"] = value

    @torch.no_grad()
    def select(self, index: Tensor) -> None:
        """Keep only the Gaussians at `index` (a boolean mask [N], or integers in the new order)."""
        self._replace(lambda _, tensor: tensor[index], lambda tensor: tensor[index])

    @torch.no_grad()
    def append(self, tensors: Mapping[str, Tensor]) -> None:
        """Add Gaussians, with fresh moments."""
        count = len(tensors["means"])

        def grow(name: str, tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensors[name].to(tensor.dtype)])

        def pad(moment: Tensor) -> Tensor:
            return torch.cat([moment, moment.new_zeros((count, *moment.shape[1:]))])

        self._replace(grow, pad)

    @torch.no_grad()
    def write(self, index: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the rows `index` [M] of the named parameters, and clear all their moments."""
        for name, parameter in self.params.items():
            if name in tensors:
                parameter[index] = tensors[name]
        self.clear_moments(index)

    @torch.no_grad()
    def clear_moments(self, index: Tensor) -> None:
        """Set Adam's moments of the rows `index` to zero."""
        for state in self._adam.state.values():
            for key in ("exp_avg", "exp_avg_sq"):
                state[key][index] = 0

    def state_dict(self) -> dict[str, Any]:
        """Parameters, moments and step counts: everything a bit-equal continuation needs."""
        state = {}
        for name, parameter in self.params.items():
            entry: dict[str, Any] = {"value": parameter.detach()}
            entry.update(self._adam.state.get(parameter, {}))
            state[name] = entry
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take the state of `state_dict` (learning rates are the schedule's, not kept there)."""
        self._adam.state.clear()
        for group in self._adam.param_groups:
            entry = dict(state[group["name"]])
            device = group["params"][0].device
            parameter = nn.Parameter(entry.pop("value").to(device).clone().contiguous())
            group["params"][0] = parameter
            if entry:
                self._adam.state[parameter] = {
                    key: value.to(device).clone() for key, value in entry.items()
                }

    def _replace(self, of_param: Any, of_moment: Any) -> None:
        for group in self._adam.param_groups:
            old = group["params"][0]
            new = nn.Parameter(of_param(group["name"], old.detach()).contiguous())
            state = self._adam.state.pop(old, None)
            if state:
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key] = of_moment(state[key]).contiguous()
                self._adam.state[new] = state
            group["params"][0] = new
