"""One training run of any variant: batch, loss, gradient, step, counts, and its state on disk."""

import logging
import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.artifacts import writing
from dncbm.errors import ArtifactMismatch, InvalidInput
from dncbm.sae.activations import BatchTopK
from dncbm.sae.atoms import ArchetypalAtoms, Atoms, FreeAtoms, archetypes
from dncbm.sae.batches import Batches
from dncbm.sae.config import SaeConfig
from dncbm.sae.exchange import exchange, settle
from dncbm.sae.init import initialize, set_standardization
from dncbm.sae.loss import auxiliary_loss
from dncbm.sae.model import SaeModel
from dncbm.sae.objective import Encoder, Losses, batch_codes, encoder_parts, losses
from dncbm.sae.products import Products
from dncbm.sae.resample import draw_inputs, revive
from dncbm.sae.rows import EmbeddingRows, InputStatistics
from dncbm.training.checkpoints import (
    flatten_optimizer,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from dncbm.training.precision import product_dtype
from dncbm.training.schedules import Schedule, constant, cosine, held
from dncbm.training.seeding import generator
from dncbm.training.workers import ALONE, Workers

_log = logging.getLogger(__name__)


class TrainingRun:
    """The state of one training run, all of which a checkpoint holds."""

    def __init__(
        self,
        rows: EmbeddingRows,
        config: SaeConfig,
        statistics: InputStatistics,
        device: str,
        workers: Workers = ALONE,
        batches: Batches | None = None,
    ) -> None:
        self.rows, self.config, self.device = rows, config, torch.device(device)
        self.workers, self.statistics = workers, statistics
        self.total = config.total_steps(len(rows))
        self.per_epoch = config.steps_per_epoch(len(rows))
        self.schedule = _schedule(config, self.total)
        steps = (round(share * self.total) for share in config.exchange)
        self.exchanges = {step for step in steps if 0 < step < self.total}
        self.model = build_initial(rows, config, statistics).to(self.device).train()
        self.atoms = _atoms(self.model, rows, config)
        # Machines may round the first weights differently, and then stay apart for good.
        first = (*self.model.state_dict().values(), *self.atoms.state().values())
        workers.share_first_(*first)
        self.optimizer = torch.optim.Adam(self._parameters(), lr=config.lr, fused=True)
        self.products = Products(product_dtype(config.precision, self.device))
        self.levels = config.build_levels()
        if isinstance(self.model.activation, BatchTopK):
            self.model.activation.workers = workers
        self.step = 0
        self.history: list[dict[str, float]] = []
        counts = torch.zeros(config.num_concepts, dtype=torch.int64, device=self.device)
        self.fired_in_epoch, self.fired_in_window = counts, counts.clone()
        self.rows_since_fired = counts.clone()
        self.newcomers = counts.bool()
        self.epochs_in_window = 0
        self.sums = torch.zeros(5, dtype=torch.float64, device=self.device)
        pin = self.device.type == "cuda"
        self.batches = batches or Batches(rows, config, workers, pin=pin)

    def advance(self) -> None:
        """One step, and the end of the epoch where it is one."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.step)
        self._train_step(*self._batch())
        self.step += 1
        if self.step in self.exchanges:
            self._exchange_concepts()
        if self.step % self.per_epoch == 0 or self.step == self.total:
            self._end_epoch()

    def _batch(self) -> tuple[Tensor, int]:
        """The worker's standardised rows of the step, and the number of all workers' rows."""
        fetched, rows = self.batches[self.step]
        return self.model.standardize(fetched.to(self.device, non_blocking=True)), rows

    def _train_step(self, batch: Float[Tensor, "n d"], rows: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        terms, fired = self._losses(batch, rows)
        terms.total.backward()
        self._exchange(terms, fired)
        self._require_finite(terms)
        self.atoms.after_backward()
        if self.step in self.exchanges:
            settle(self.model, self.optimizer, self.newcomers.nonzero()[:, 0])
            self.newcomers[:] = False
        self.optimizer.step()
        self.atoms.after_step()
        self._count(terms, fired, rows)

    def _losses(self, batch: Float[Tensor, "n d"], rows: int) -> tuple[Losses, Tensor]:
        dictionary = self.atoms.rows()
        codes = batch_codes(
            self.model, batch, dictionary, products=self.products, levels=self.levels
        )
        residual = batch - codes.reconstructions[:, -1].detach()
        terms = losses(
            codes,
            batch,
            self.config,
            rows=rows,
            auxiliary=self._auxiliary(batch, residual, dictionary),
            sparsity_factor=self._sparsity_factor(),
            workers=self.workers,
        )
        return terms, codes.fired

    def _sparsity_factor(self) -> float:
        steps = self.config.sparsity_warmup * self.total
        return 1.0 if self.step + 1 >= steps else (self.step + 1) / steps

    def _auxiliary(self, batch: Tensor, residual: Tensor, dictionary: Tensor) -> Tensor:
        dead = (self.rows_since_fired > self.config.dead_after).nonzero()[:, 0]
        if not self.config.aux_weight or not len(dead):
            return batch.new_zeros(())
        inputs, weight, bias = encoder_parts(self.model, batch)
        part = Encoder(inputs, weight[dead], bias[dead])
        pre = self.products.pre_activations(*part, name="dead")
        candidates = self.products.tracked(pre, *part)
        return auxiliary_loss(
            residual,
            candidates,
            dictionary[dead],
            self.config.aux_k,
            products=self.products,
            workers=self.workers,
        )

    def _exchange(self, terms: Losses, fired: Tensor) -> None:
        """Sums over workers: of gradients, of the loss's parts and of counts."""
        if self.workers.size > 1:
            gradients = [p.grad for p in self._parameters() if p.grad is not None]
            self.workers.sum_(*gradients, *(term.detach() for term in terms), fired)

    def _require_finite(self, terms: Losses) -> None:
        loss = float(terms.total.detach())
        if not math.isfinite(loss):
            raise InvalidInput(
                f"SAE training diverged in epoch {self.step // self.per_epoch}, step {self.step}: "
                f"the loss is {loss}. Lower lr (it is {self.config.lr}) or use center and scale."
            )

    def _parameters(self) -> list[torch.nn.Parameter]:
        own = {id(p): p for p in (*self.model.parameters(), *self.atoms.parameters())}
        return [p for p in own.values() if p.requires_grad]

    def _count(self, losses: Losses, fired: Tensor, rows: int) -> None:
        self.fired_in_epoch += fired
        self.rows_since_fired += rows
        self.rows_since_fired[fired > 0] = 0
        terms = [losses.reconstruction, losses.sparsity, losses.auxiliary, losses.total]
        row_mean = torch.stack([*(term.detach().double() for term in terms), fired.sum() / rows])
        self.sums += row_mean * rows

    def _end_epoch(self) -> None:
        epoch = (self.step - 1) // self.per_epoch
        seen = len(self.rows) if self.step % self.per_epoch == 0 else self._rows_so_far()
        means = (self.sums / seen).tolist()
        names = ("reconstruction", "sparsity", "auxiliary", "loss", "l0")
        entry = {"epoch": float(epoch), **dict(zip(names, means, strict=True))}
        entry["dead_fraction"] = float((self.fired_in_epoch == 0).double().mean())
        entry["resampled"] = float(self._maybe_resample(epoch))
        self.history.append(entry)
        self.fired_in_epoch.zero_()
        self.sums.zero_()
        _log.debug("epoch %d: %s", epoch, entry)

    def _rows_so_far(self) -> int:
        return (self.step % self.per_epoch) * self.config.batch_size

    def _maybe_resample(self, epoch: int) -> int:
        """Resample at the end of a window; the reference stops `every` + 1 epochs early."""
        every = self.config.resample_every
        epochs = -(-self.total // self.per_epoch)
        if not every or epoch + every >= epochs - 1:
            return 0
        self.fired_in_window += self.fired_in_epoch
        self.epochs_in_window += 1
        if self.epochs_in_window < every:
            return 0
        dead = self.fired_in_window == 0
        self.fired_in_window.zero_()
        self.epochs_in_window = 0
        return self._resample(dead, epoch) if bool(dead.any()) else 0

    def _exchange_concepts(self) -> None:
        stream = generator(self.config.seed, "exchange", self.step)
        changed = exchange(self.model, self.rows, k=self.config.k, generator=stream)
        self.rows_since_fired[changed] = 0
        self.fired_in_window[changed] += 1  # or resampling would take them for dead
        self.newcomers[changed] = True
        # Machines may round differently and choose others.
        counts = (self.rows_since_fired, self.fired_in_window, self.newcomers)
        same = (*self.model.state_dict().values(), *counts)
        self.workers.share_first_(*same)
        _log.debug("step %d: %d concepts exchanged", self.step, len(changed))

    def _resample(self, dead: Tensor, epoch: int) -> int:
        inputs = draw_inputs(
            self.model,
            self.rows,
            count=int(dead.sum()),
            candidates=self.config.resample_rows,
            l1=self.config.l1,
            reduction=self.config.reduction,
            generator=generator(self.config.seed, "resample", epoch),
        )
        return len(revive(self.model, self.optimizer, dead, inputs))

    def save(self, path: Path, identity: str) -> None:
        """Write everything that the next step depends on."""
        moments, optimizer = flatten_optimizer(self.optimizer)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        state = {
            "identity": identity,
            "step": self.step,
            "epochs_in_window": self.epochs_in_window,
            "history": self.history,
            "optimizer": optimizer,
        }
        with writing(path):
            save_checkpoint(path, tensors | moments | self._counters(), state)

    def restore(self, path: Path, identity: str) -> None:
        """Continue where `path` stopped; nothing happens where there is no such file."""
        found = load_checkpoint(path)
        if found is None:
            return
        tensors, state = found
        if state.get("identity") != identity:
            raise ArtifactMismatch(
                f"{path} is the checkpoint of an SAE run with another configuration or other "
                "embeddings. Delete it to start anew, or give another checkpoint path."
            )
        prefix = "model."
        self.model.load_state_dict(
            {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        )
        restore_optimizer(self.optimizer, tensors, state["optimizer"])
        for name, counter in self._counters().items():
            counter.copy_(tensors[name])
        self.step, self.history = state["step"], state["history"]
        self.epochs_in_window = state["epochs_in_window"]

    def _counters(self) -> dict[str, Tensor]:
        return {
            "fired_in_epoch": self.fired_in_epoch,
            "fired_in_window": self.fired_in_window,
            "rows_since_fired": self.rows_since_fired,
            "newcomers": self.newcomers,
            "sums": self.sums,
            **self.atoms.state(),
        }


def build_initial(rows: EmbeddingRows, config: SaeConfig, statistics: InputStatistics) -> SaeModel:
    """The model before the first step."""
    model = SaeModel(
        config.embed_dim,
        config.num_concepts,
        activation=config.build_activation(),
        normalize=config.normalize,
    )
    set_standardization(model, statistics, center=config.center, scale=config.scale)
    initialize(model, rows, init=config.init, generator=generator(config.seed, "init"))
    if not config.biases:
        for bias in (model.encoder_bias, model.pre_bias):
            bias.data.zero_()
            bias.requires_grad_(False)
    return model


def _schedule(config: SaeConfig, total: int) -> Schedule:
    if config.schedule == "constant":
        return constant(config.lr)
    warmup = min(config.warmup, total - 1)
    if config.schedule == "held":
        return held(config.lr, total, warmup)
    return cosine(config.lr, 0.0, total, warmup)


def _atoms(model: SaeModel, rows: EmbeddingRows, config: SaeConfig) -> Atoms:
    if not config.archetypes:
        return FreeAtoms(model)
    stream = generator(config.seed, "archetypes")
    points = archetypes(model, rows, config.archetypes, stream).to(model.input_mean.device)
    return ArchetypalAtoms(model, points, config.relaxation)
