"""A small resumable training loop: what to minimise is a function, where it stands is a file."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dncbm.errors import ArtifactMismatch, InvalidInput
from dncbm.training import checkpoints, schedules, seeding

LOGGER = logging.getLogger(__name__)

LossFunction = Callable[[int, torch.Generator], Mapping[str, Tensor]]
"""Named losses (scalars; their sum is minimised) of a step, drawn with the given generator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int
    """Number of updates of the whole run, resumed parts included."""
    learning_rate: float = 2e-3
    """Peak rate of AdamW, reached after the warm-up."""
    final_learning_rate: float = 1e-5
    """Rate at the last update; a half cosine leads there."""
    warmup: int = 200
    """Updates of linear warm-up, part of ``steps``."""
    weight_decay: float = 0.05
    """Decoupled decay of weights with two or more axes; biases and norms have none."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    average_decay: float = 0.999
    """Per-step decay of the running average of the weights, which is what gets evaluated."""
    log_every: int = 50
    """Updates between two log lines."""
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


class Trainer:
    """Trains a module in place and keeps a running average of its weights.

    ``module`` holds everything that learns. ``average`` (name → tensor) is the running average of
    its state, with a shorter memory at the start, so that early averages are usable.
    """

    def __init__(self, module: nn.Module, config: LoopConfig, checkpoint: Path) -> None:
        self.module = module
        self.config = config
        self.checkpoint = checkpoint
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(module, config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.average = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self.step = 0
        self._rate = schedules.cosine(
            config.learning_rate,
            config.final_learning_rate,
            config.steps,
            min(config.warmup, config.steps - 1),
        )

    def fit(
        self, losses_of: LossFunction, on_checkpoint: Callable[[int], None] | None = None
    ) -> None:
        """Resume from the checkpoint if there is one, then train to ``config.steps``."""
        self.resume()
        began, first = time.monotonic(), self.step
        sums: dict[str, float] = {}
        while self.step < self.config.steps:
            for name, value in self._update(losses_of).items():
                sums[name] = sums.get(name, 0.0) + value
            self.step += 1
            if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                self._log(sums, (self.step - first) / (time.monotonic() - began))
                sums = {}
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                self.save()
                if on_checkpoint is not None:
                    on_checkpoint(self.step)

    def _update(self, losses_of: LossFunction) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        losses = losses_of(self.step, seeding.generator(self.config.seed, "step", self.step))
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.max_gradient_norm)
        self.optimizer.step()
        self._update_average()
        return {name: value.item() for name, value in losses.items()}

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)
            else:
                self.average[name].copy_(tensor)

    def _log(self, sums: Mapping[str, float], speed: float) -> None:
        since = self.step % self.config.log_every or self.config.log_every
        means = " ".join(f"{name} {total / since:.4f}" for name, total in sums.items())
        LOGGER.info(
            "step %d of %d: %s; %.2f steps per second, %.0f s left",
            self.step,
            self.config.steps,
            means,
            speed,
            (self.config.steps - self.step) / speed,
        )

    def save(self) -> None:
        """Replace the checkpoint by the present state."""
        tensors, state = checkpoints.flatten_optimizer(self.optimizer)
        tensors |= {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        checkpoints.save_checkpoint(
            self.checkpoint,
            tensors,
            {"step": self.step, "seed": self.config.seed, "optimizer": state},
        )

    def resume(self) -> bool:
        """Take the state of the checkpoint; False where there is none.

        Settings may differ from those of the run that wrote it (more steps, say), its seed and
        the module's shape may not.

        Raises:
            ArtifactMismatch: the checkpoint is of another module or seed.
        """
        saved = checkpoints.load_checkpoint(self.checkpoint)
        if saved is None:
            return False
        tensors, state = saved
        self._require_ours(_under(tensors, "module."), state.get("seed", self.config.seed))
        self.module.load_state_dict(_under(tensors, "module."))
        self.average = _under(tensors, "average.")
        checkpoints.restore_optimizer(self.optimizer, tensors, state["optimizer"])
        self.step = int(state["step"])
        LOGGER.info("resumed at step %d from %s", self.step, self.checkpoint)
        return True

    def _require_ours(self, saved: Mapping[str, Tensor], seed: int) -> None:
        remedy = "Give another checkpoint file, or delete this one to start anew."
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


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
