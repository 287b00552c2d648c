"""AdamW that updates only the rows of a batch where an embedding has sparse gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW


class RowAdamW(AdamW):
    """AdamW; of a parameter [V, D] with a sparse gradient, only the rows of that gradient change.

    Parameters with dense gradients get torch's AdamW bit for bit. For rows (docs/decisions/
    sparse-embeddings.md), a gradient has its whole effect at once, because a row may not return for
    thousands of steps, over which momentum would spread it:

        v    <- beta2 * v + (1 - beta2) * g^2
        row  <- row - lr * g / (sqrt(v / (1 - beta2^t)) + eps)

    Weight decay reaches all rows in `decay_rows`, which the caller runs after each epoch.
    """

    def __init__(self, parameters: Any, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        self._kept: dict[Tensor, float] = {}  # share of its weights that decay leaves so far

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update. Sparse gradients are coalesced, and None afterwards."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._update_rows(parameter, group)
                    parameter.grad = None
        return super().step(closure)

    def _update_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "exp_avg_sq" not in state:
            state["step"] = torch.zeros(())
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state.pop("exp_avg", None)  # of a checkpoint from before this law
        state["step"] += 1
        beta, gradient = group["betas"][1], gradient.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        squares = state["exp_avg_sq"][rows].mul_(beta).addcmul_(values, values, value=1 - beta)
        state["exp_avg_sq"][rows] = squares
        scale = squares.div_(1 - beta ** float(state["step"])).sqrt_().add_(group["eps"])
        parameter.index_add_(0, rows, values / scale, alpha=-group["lr"])
        decayed = 1 - group["lr"] * group["weight_decay"]
        self._kept[parameter] = self._kept.get(parameter, 1.0) * decayed

    @torch.no_grad()
    def decay_rows(self) -> None:
        """Apply the weight decay of the steps since the last call to all rows."""
        for parameter, kept in self._kept.items():
            parameter.mul_(kept)
        self._kept.clear()


def clip_gradients(module: nn.Module, largest: float) -> None:
    """Scale all gradients so that their norm is at most `largest`; sparse ones are coalesced."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    if not any(_gradient(p).is_sparse for p in parameters):
        nn.utils.clip_grad_norm_(parameters, largest)
        return
    for parameter in parameters:
        if _gradient(parameter).is_sparse:
            parameter.grad = _gradient(parameter).coalesce()
    gradients = [_gradient(p) for p in parameters]
    values = [g.values() if g.is_sparse else g for g in gradients]
    norm = nn.utils.get_total_norm(values)
    for value in values:
        value.mul_((largest / (norm + 1e-6)).clamp(max=1.0))


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def sparse_parameters(module: nn.Module) -> list[Tensor]:
    """Return the tables whose gradients are sparse, in the order of the module."""
    return [m.weight for m in module.modules() if isinstance(m, nn.Embedding) and m.sparse]
