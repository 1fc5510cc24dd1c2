"""AdamW with parameter groups, and the cosine schedule with linear warm-up, from the configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ctm.runtime.context import Precision
from ctm.training.config import TrainingConfig

__all__ = ["build_optimiser", "cosine_with_warmup", "fuses"]


def build_optimiser(
    model: nn.Module,
    config: TrainingConfig,
    *,
    rates: Mapping[str, float],
    group_of: Callable[[str], str],
    fused: bool | None = None,
) -> AdamW:
    """AdamW over the parameters of ``model``.

    Weight decay spares all parameters of less than two dimensions (norms, biases, gates), and those that the model or
    a module of it names in ``no_weight_decay``, as timm's do: tokens and position embeddings.

    Args:
        model: whose parameters that need a gradient are optimised.
        config: decay rates and weight decay.
        rates: peak learning rate of each group.
        group_of: gives the group of a parameter's name.
        fused: one kernel for all parameters; see ``fuses``.
    """
    exempt = _no_weight_decay(model)
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and name not in exempt
            groups.setdefault((group_of(name), decays), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "lr": rates[group], "weight_decay": config.weight_decay if decays else 0.0}
            for (group, decays), parameters in groups.items()
        ],
        betas=config.betas,
        fused=fused,
    )


def fuses(device: torch.device, precision: Precision) -> bool | None:
    """Whether AdamW is fused: on a GPU, but not with fp16, where it would scale gradients that Fabric has to clip."""
    return True if device.type == "cuda" and precision != "fp16" else None


def _no_weight_decay(model: nn.Module) -> set[str]:
    return {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in model.named_modules()
        if callable(getattr(module, "no_weight_decay", None))
        for name in module.no_weight_decay()
    }


def cosine_with_warmup(optimiser: Optimizer, *, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Learning rates rise linearly to their peak over ``warmup_steps``, then fall on half a cosine to 0 at the end."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimiser, factor)
