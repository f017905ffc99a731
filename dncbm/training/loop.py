"""The resumable training loop: what to minimise is a function, where it stands is a file."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dncbm.errors import ArtifactMismatch, InvalidInput, Unavailable
from dncbm.training import checkpoints, schedules, seeding
from dncbm.training.clipping import clip_adaptively_
from dncbm.training.precision import product_dtype, products
from dncbm.training.progress import Progress, no_progress
from dncbm.training.workers import ALONE, Workers

LOGGER = logging.getLogger(__name__)

LossFunction = Callable[[int, torch.Generator], Mapping[str, Tensor]]
"""Named losses (scalars; their sum is minimised) of a step, drawn with the given generator.

With several workers, a worker's losses are those of its own rows over the number of all rows, so
that the sum over workers is the loss of the whole batch.
"""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int
    """Number of updates of the whole run, resumed parts included."""
    learning_rate: float = 2e-3
    """Peak rate, reached after the warm-up."""
    final_learning_rate: float = 1e-5
    """Rate at the last update; a half cosine leads there."""
    warmup: int = 200
    """Updates of linear warm-up, part of ``steps``."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """``adam`` adds the weight decay to the gradients, ``adamw`` decays the weights themselves."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Memory of the optimizer for gradients and for their squares."""
    weight_decay: float = 0.05
    """Decay of weights with two or more axes; biases and norms have none."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    adaptive_clipping: float | None = None
    """Clip each unit to this share of its length instead of all gradients to one norm; see
    `dncbm.training.clipping`."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of products inside the losses: bfloat16 only where the device multiplies it."""
    average_decay: float = 0.999
    """Per-step decay of the running average of the weights, which is what gets evaluated."""
    log_every: int = 50
    """Updates between two log lines and rows of the history."""
    checkpoint_every: int = 500
    """Updates between two checkpoints."""
    seed: int = 0
    """Fixes every draw: step k draws the same in a resumed and an uninterrupted run."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.log_every < 1 or self.checkpoint_every < 1:
            raise InvalidInput(
                "steps, log_every and checkpoint_every are at least 1, "
                f"got {self.steps}, {self.log_every}, {self.checkpoint_every}."
            )
        if not 0 <= self.average_decay < 1:
            raise InvalidInput(f"average_decay lies in [0, 1), got {self.average_decay}.")
        if self.optimizer not in _OPTIMIZERS:
            raise InvalidInput(f"optimizer is {self.optimizer!r}; the rule is adam or adamw.")
        for name in ("learning_rate", "max_gradient_norm", "adaptive_clipping"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInput(f"{name} is {value}; the rule is a number above 0.")


class Trainer:
    """Trains a module in place and keeps a running average of its weights.

    ``module`` holds everything that learns. ``average`` (name → tensor) is the running average of
    its state, with a shorter memory at the start, so that early averages are usable. ``history``
    has one row per ``log_every`` updates: the step, the mean of each loss and the learning rate.

    Several workers train as one: gradients are summed, and all begin with the first one's weights.
    Batch norms see the rows of their own worker alone, as in PyTorch's data-parallel training, and
    their running statistics are averaged over workers after each update; so a network with batch
    norms learns slightly differently than alone, and any other the same.

    Args:
        module: moved to ``device``.
        config: how long and how fast.
        checkpoint: file to resume from and to write to, which all workers see.
        purpose: what else fixes the run, such as a fingerprint of its data; a checkpoint of
            another purpose is refused.
        decay_of: weight decay of a parameter by its name, instead of ``config.weight_decay``.
        device: where to compute.
        workers: the processes that train together.
    """

    def __init__(
        self, module: nn.Module, config: LoopConfig, checkpoint: Path, *, purpose: str = "",
        decay_of: Callable[[str, nn.Parameter], float] | None = None,
        device: torch.device | str = "cpu", workers: Workers = ALONE,
    ) -> None:  # fmt: skip
        self.module, self.config, self.checkpoint = module.to(device), config, checkpoint
        self.purpose, self.device, self.workers = purpose, torch.device(device), workers
        lower = product_dtype(config.precision, self.device)  # asked once, as it may warn
        self._precision = "float32" if lower is None else "bfloat16"
        groups = _parameter_groups(module, decay_of or _by_axes(config.weight_decay))
        self.optimizer = _OPTIMIZERS[config.optimizer](
            groups, lr=config.learning_rate, betas=config.betas, fused=True
        )
        self.average = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self.step = 0
        self.history: list[Row] = []
        self._sums: dict[str, float] = {}
        self._rate = schedules.cosine(
            config.learning_rate,
            config.final_learning_rate,
            config.steps,
            min(config.warmup, config.steps - 1),
        )

    def fit(
        self,
        losses_of: LossFunction,
        on_checkpoint: Callable[[int], Row | None] | None = None,
        *,
        on_step: Callable[[int], None] | None = None,
        progress: Progress = no_progress,
    ) -> list[Row]:
        """Resume from the checkpoint if there is one, then train to ``config.steps``.

        Args:
            losses_of: what to minimise.
            on_checkpoint: called with the number of updates done, before each checkpoint; figures
                that it returns become a row of the history.
            on_step: called with the step before each update, to set what changes with it.
            progress: told ``("train", updates done, config.steps)``.

        Returns:
            The history, resumed parts included.

        Raises:
            InvalidInput: a loss that is not finite; weights and checkpoint are those before it.
            ArtifactMismatch: the checkpoint is of another run.
        """
        self.resume()
        began, first = time.monotonic(), self.step
        progress("train", self.step, self.config.steps)
        while self.step < self.config.steps:
            if on_step is not None:
                on_step(self.step)
            for name, value in self._update(losses_of).items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self.step += 1
            if self._is_due(self.config.log_every):
                self._log((self.step - first) / (time.monotonic() - began))
            if self._is_due(self.config.checkpoint_every):
                figures = on_checkpoint(self.step) if on_checkpoint is not None else None
                if figures is not None:
                    self.history.append({"step": self.step, **figures})
                self.save()
            progress("train", self.step, self.config.steps)
        return self.history

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _update(self, losses_of: LossFunction) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        draw = seeding.generator(self.config.seed, "step", self.step)
        with products(self._precision, self.device):
            losses = losses_of(self.step, draw)
        values = torch.stack(list(losses.values()))
        self.optimizer.zero_grad(set_to_none=True)
        values.sum().backward()
        found = dict(zip(losses, self._exchange(values.detach()).tolist(), strict=True))
        self._require_finite(found)
        if self.config.adaptive_clipping is not None:
            clip_adaptively_(self.module.parameters(), self.config.adaptive_clipping)
        else:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.max_gradient_norm)
        self.optimizer.step()
        self._average_buffers()
        self._update_average()
        return found

    def _exchange(self, values: Tensor) -> Tensor:
        """Sums over workers of gradients and losses."""
        if self.workers.size > 1:
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            self.workers.sum_(*gradients, values)
        return values

    def _require_finite(self, losses: Mapping[str, float]) -> None:
        bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
        if bad:
            shown = ", ".join(f"{name} is {value}" for name, value in bad.items())
            raise InvalidInput(
                f"Training broke at step {self.step}: {shown}, which is not a finite number. "
                "Lower the learning rate, or look for NaN in the inputs and in the weights that "
                "training began with."
            )

    @torch.no_grad()
    def _average_buffers(self) -> None:
        if self.workers.size > 1:
            buffers = [b for b in self.module.buffers() if b.is_floating_point()]
            if buffers:
                self.workers.sum_(*buffers)
                torch._foreach_div_(buffers, float(self.workers.size))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)
            else:
                self.average[name].copy_(tensor)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The module in eval mode with its averaged weights; both restored behind it."""
        own = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.load_state_dict(self.average)
        self.module.eval()
        try:
            yield self.module
        finally:
            self.module.load_state_dict(own)
            for part, mode in modes:
                part.training = mode

    def _log(self, speed: float) -> None:
        since = self.step % self.config.log_every or self.config.log_every
        means = {name: total / since for name, total in self._sums.items()}
        self.history.append(
            {"step": self.step, **means, "learning_rate": self._rate(self.step - 1)}
        )
        self._sums = {}
        LOGGER.info(
            "step %d of %d: %s; %.2f steps per second, %.0f s left",
            self.step,
            self.config.steps,
            " ".join(f"{name} {mean:.4f}" for name, mean in means.items()),
            speed,
            (self.config.steps - self.step) / speed,
        )

    def save(self) -> None:
        """Replace the checkpoint by the present state; the first worker writes, the others wait."""
        if self.workers.rank == 0:
            self._write()
        self.workers.smallest(torch.zeros((), device=self.device))

    def _write(self) -> None:
        tensors, state = checkpoints.flatten_optimizer(self.optimizer)
        tensors |= {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        values = {
            "step": self.step, "seed": self.config.seed, "optimizer": state,
            "purpose": self.purpose, "history": self.history, "sums": self._sums,
        }  # fmt: skip
        checkpoints.save_checkpoint(self.checkpoint, tensors, values)

    def resume(self) -> bool:
        """Take the state of the checkpoint; False where there is none.

        Settings may differ from those of the run that wrote it (more steps, say), its seed and
        purpose and the module's shape may not.

        Raises:
            ArtifactMismatch: the checkpoint is of another module, seed or purpose.
            Unavailable: some workers do not see the checkpoint.
        """
        saved = checkpoints.load_checkpoint(self.checkpoint)
        if saved is not None:
            self._take(*saved)
        self._begin_together()
        return saved is not None

    def _take(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self._require_ours(_under(tensors, "module."), state)
        self.module.load_state_dict(_under(tensors, "module."))
        for name, tensor in _under(tensors, "average.").items():
            self.average[name].copy_(tensor)
        checkpoints.restore_optimizer(self.optimizer, tensors, state["optimizer"])
        self.step = int(state["step"])
        self.history, self._sums = state.get("history", []), state.get("sums", {})
        LOGGER.info("resumed at step %d from %s", self.step, self.checkpoint)

    def _begin_together(self) -> None:
        if self.workers.size == 1:
            return
        own = torch.tensor([self.step, -self.step], device=self.device)
        if any(self.workers.smallest(value) != value for value in own):
            raise Unavailable(
                f"Some workers do not see {self.checkpoint}, from which others resume. Put it "
                "where all of them can read it."
            )
        self.workers.share_first_(*self.module.state_dict().values(), *self.average.values())

    def _require_ours(self, saved: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        remedy = "Give another checkpoint file, or delete this one to start anew."
        seed = state.get("seed", self.config.seed)
        if seed != self.config.seed:
            raise ArtifactMismatch(
                f"{self.checkpoint} was written by a run with seed {seed}, this one has seed "
                f"{self.config.seed}. {remedy}"
            )
        theirs = {name: tuple(tensor.shape) for name, tensor in saved.items()}
        ours = {name: tuple(tensor.shape) for name, tensor in self.module.state_dict().items()}
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                raise ArtifactMismatch(
                    f"{self.checkpoint} was written by a run of another module: its {name} has "
                    f"shape {theirs.get(name)}, this module's {ours.get(name)}. {remedy}"
                )
        if state.get("purpose", self.purpose) != self.purpose:
            raise ArtifactMismatch(
                f"{self.checkpoint} was written by a run on other data or with other settings. "
                f"{remedy}"
            )


_OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _by_axes(weight_decay: float) -> Callable[[str, nn.Parameter], float]:
    return lambda _, parameter: weight_decay if parameter.ndim >= 2 else 0.0


def _parameter_groups(
    module: nn.Module, decay_of: Callable[[str, nn.Parameter], float]
) -> list[dict[str, object]]:
    """Parameters that learn, by their weight decay, the largest first."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(decay_of(name, parameter), []).append(parameter)
    return [{"params": groups[decay], "weight_decay": decay} for decay in sorted(groups)[::-1]]
