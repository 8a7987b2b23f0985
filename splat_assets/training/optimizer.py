"""Adam over the parameters of a splat, whose rows come and go during training.

Densification removes, appends and rewrites Gaussians, and the moments of Adam must follow row by
row; this class owns both, so that strategies never touch optimiser state by hand. On the CPU the
step is our kernel; on CUDA torch's fused one, or gsplat's, which leaves unseen Gaussians alone
(Taming 3DGS, arXiv 2406.15643).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from splat_assets.training.cpu_kernels import AdamTensors

NAMES = ("means", "scales", "quats", "opacities", "sh0", "shN")
Params = dict[str, nn.Parameter]

BETAS = (0.9, 0.999)
EPS = 1e-15  # as in 3DGS; both are literals in the CPU kernel


@dataclass
class _Slot:
    """One parameter, its rate and its moments. `step` counts the steps it had a gradient in."""

    parameter: nn.Parameter
    learning_rate: float
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: int = 0


class SplatOptimizer:
    """Adam with one learning rate a parameter (betas .9 / .999, eps 1e-15 as in 3DGS).

    With `selective`, on CUDA, a step changes only the Gaussians that it is told are visible.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        learning_rates: Mapping[str, float],
        *,
        selective: bool = False,
    ) -> None:
        self.selective = selective and tensors["means"].is_cuda
        self._slots: dict[str, _Slot] = {}
        for name in NAMES:
            value = tensors[name].detach().clone().contiguous()
            self._slots[name] = _Slot(
                nn.Parameter(value),
                learning_rates[name],
                torch.zeros_like(value),
                torch.zeros_like(value),
            )

    @property
    def params(self) -> Params:
        """The current parameters by name; ask again after every change of rows."""
        return {name: slot.parameter for name, slot in self._slots.items()}

    def __len__(self) -> int:
        return len(self._slots["means"].parameter)

    @torch.no_grad()
    def step(self, visible: Tensor | None = None) -> None:
        """One Adam step on every parameter that has a gradient; gradients are then dropped.

        A gradient that is not finite (a degenerate projection) counts as zero.

        Args:
            visible: [N] bool; on CUDA only these Gaussians and their moments change. The CPU takes
                them all: there it would save little.
        """
        moving = {
            name: slot for name, slot in self._slots.items() if slot.parameter.grad is not None
        }
        if moving and not moving["means"].parameter.is_cuda:
            from splat_assets.training.cpu_kernels import adam

            gradients = [slot.parameter.grad for slot in moving.values()]
            adam(self.next_step(list(moving)), [g.contiguous() for g in gradients if g is not None])
        else:
            slots = list(moving.values())
            for slot in slots:
                assert slot.parameter.grad is not None
                slot.step += 1
                torch.nan_to_num_(slot.parameter.grad, 0.0, 0.0, 0.0)
            _step_on_cuda(slots) if visible is None else _step_visible(slots, visible)
        self.drop_gradients()

    @torch.no_grad()
    def add_regularisers(self, opacity_weight: float, scale_weight: float) -> None:
        """Add the gradients of both weights times the sums of all opacities and of all scales."""
        opacities, scales = (self._slots[name].parameter for name in ("opacities", "scales"))
        if opacities.grad is not None and opacity_weight:
            alpha = torch.sigmoid(opacities)
            opacities.grad.addcmul_(alpha, 1 - alpha, value=opacity_weight)
        if scales.grad is not None and scale_weight:
            scales.grad.add_(torch.exp(scales), alpha=scale_weight)

    def next_step(self, names: Sequence[str]) -> list[AdamTensors]:
        """Count a step of these parameters, which a kernel is about to do."""
        from splat_assets.training.cpu_kernels import AdamTensors

        chosen = [self._slots[name] for name in names]
        for slot in chosen:
            slot.step += 1
        return [
            AdamTensors(
                slot.parameter, slot.exp_avg, slot.exp_avg_sq, slot.learning_rate, slot.step
            )
            for slot in chosen
        ]

    def drop_gradients(self) -> None:
        """Forget the gradients of this step."""
        for slot in self._slots.values():
            slot.parameter.grad = None

    def set_learning_rate(self, name: str, value: float) -> None:
        self._slots[name].learning_rate = value

    @torch.no_grad()
    def select(self, index: Tensor) -> None:
        """Keep only the Gaussians at `index` (a boolean mask [N], or integers in the new order)."""
        self._replace(lambda _, tensor: tensor[index], lambda tensor: tensor[index])

    @torch.no_grad()
    def append(self, tensors: Mapping[str, Tensor]) -> None:
        """Add Gaussians, with fresh moments."""
        count = len(tensors["means"])

        def pad(moment: Tensor) -> Tensor:
            return _appended(moment, moment.new_zeros(()).expand(count, *moment.shape[1:]))

        self._replace(lambda name, tensor: _appended(tensor, tensors[name]), pad)

    @torch.no_grad()
    def write(self, index: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the rows `index` [M] of the named parameters, and clear all their moments."""
        for name, value in tensors.items():
            self._slots[name].parameter[index] = value
        self.clear_moments(index)

    @torch.no_grad()
    def clear_moments(self, index: Tensor) -> None:
        """Set Adam's moments of the rows `index` to zero."""
        for slot in self._slots.values():
            slot.exp_avg[index] = 0
            slot.exp_avg_sq[index] = 0

    def forget_moments(self) -> None:
        """Give their memory back: there will be no further step."""
        for slot in self._slots.values():
            slot.exp_avg, slot.exp_avg_sq = slot.exp_avg[:0].clone(), slot.exp_avg_sq[:0].clone()

    def state_dict(self) -> dict[str, Any]:
        """Parameters, moments and step counts: everything a bit-equal continuation needs. The
        tensors share their memory with those in use."""
        return {
            name: {
                "value": _without_room(slot.parameter.detach()),
                "exp_avg": _without_room(slot.exp_avg),
                "exp_avg_sq": _without_room(slot.exp_avg_sq),
                "step": slot.step,
            }
            for name, slot in self._slots.items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the state of `state_dict` (learning rates are the schedule's, not kept there). Its
        tensors may become those of the optimiser, as they are."""
        for name, slot in self._slots.items():
            device = slot.parameter.device
            value, slot.exp_avg, slot.exp_avg_sq = (
                state[name][key].to(device).contiguous()
                for key in ("value", "exp_avg", "exp_avg_sq")
            )
            slot.parameter = nn.Parameter(value)
            slot.step = int(state[name]["step"])

    def _replace(
        self, of_param: Callable[[str, Tensor], Tensor], of_moment: Callable[[Tensor], Tensor]
    ) -> None:
        if not self._slots["means"].parameter.is_cuda:
            from splat_assets.rendering.cpu.buffers import release

            release()  # what a step needs has the old size, and would stand beside the copies
        for name, slot in self._slots.items():
            slot.parameter = nn.Parameter(of_param(name, slot.parameter.detach()).contiguous())
            slot.exp_avg = of_moment(slot.exp_avg).contiguous()
            slot.exp_avg_sq = of_moment(slot.exp_avg_sq).contiguous()


def _appended(tensor: Tensor, rows: Tensor) -> Tensor:
    """`tensor` and `rows` below it. On the CPU, where memory not yet written to costs nothing, as
    much again is set aside and used by the next call, which then copies none of the old rows."""
    rows = rows.to(tensor.dtype)
    count = len(tensor) + len(rows)
    shape = (count, *tensor.shape[1:])
    if tensor.is_cuda or not tensor.numel():
        return torch.cat([tensor, rows])
    if tensor.untyped_storage().nbytes() < math.prod(shape) * tensor.element_size():
        from splat_assets.rendering.cpu.buffers import fresh

        nbytes = 2 * math.prod(shape) * tensor.element_size()
        roomy = torch.from_numpy(fresh(nbytes)).view(tensor.dtype).view(-1, *shape[1:])
        roomy[: len(tensor)] = tensor
    else:
        roomy = tensor
    whole = roomy.as_strided(shape, tensor.stride(), 0)
    whole[len(tensor) :] = rows
    return whole


def _without_room(tensor: Tensor) -> Tensor:
    """The same memory without what is set aside, which `torch.save` would write too."""
    return tensor if tensor.is_cuda else torch.from_numpy(tensor.numpy())


def _step_on_cuda(slots: list[_Slot]) -> None:
    from torch.optim.adam import adam

    for slot in slots:
        gradient = slot.parameter.grad
        assert gradient is not None
        # the function counts the step itself
        count = torch.full((), float(slot.step - 1), device=gradient.device)
        adam(
            [slot.parameter],
            [gradient],
            [slot.exp_avg],
            [slot.exp_avg_sq],
            [],
            [count],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=slot.learning_rate,
            weight_decay=0.0,
            eps=EPS,
            maximize=False,
        )


def _step_visible(slots: list[_Slot], visible: Tensor) -> None:
    """gsplat's kernel knows no bias correction: it goes into rate and eps."""
    from gsplat.cuda._wrapper import adam

    for slot in slots:
        gradient = slot.parameter.grad
        assert gradient is not None
        first, second = (1.0 - beta**slot.step for beta in BETAS)
        adam(
            slot.parameter,
            gradient.contiguous(),
            slot.exp_avg,
            slot.exp_avg_sq,
            visible,
            slot.learning_rate * math.sqrt(second) / first,
            *BETAS,
            EPS * math.sqrt(second),
        )
