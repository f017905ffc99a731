"""Training steps of other SAE libraries behind one interface: a step, and the model's output.

Each adapter takes the library's own training step, with its own bookkeeping and optimizer, and
only replaces the first weights by the common ones. Settings that would change the task (learning
rate schedules, warm-ups, resampling) are off everywhere.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib.cm
import torch
from torch import Tensor

from benchmarks._harness import Peer, peer


@dataclass(frozen=True)
class Task:
    """What all implementations are given."""

    directions: Tensor
    """(c, d) unit rows: where dictionary and encoder start."""
    k: int
    l1: float
    """Weight of the sum of codes against the squared error summed over the width."""
    lr: float
    steps: int
    batch_size: int


@dataclass(frozen=True)
class Trainer:
    """One implementation in training."""

    step: Callable[[Tensor], object]
    output: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Standardised rows to reconstruction (n, d) and codes (n, c)."""
    dictionary: Callable[[], Tensor]
    """(c, d), rows of any length."""


Factory = Callable[[Any, Task], Trainer]


def saelens(kind: str) -> Factory:
    """SAELens: its trainer's step on one of its training SAEs."""

    def build(_: Any, task: Task) -> Trainer:
        import sae_lens
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        concepts, width = task.directions.shape
        common = {"d_in": width, "d_sae": concepts, "dtype": "float32", "device": "cpu"}
        own: dict[str, dict[str, Any]] = {
            "Standard": {"l1_coefficient": task.l1, "l1_warm_up_steps": 0},
            "TopK": {"k": task.k, "aux_loss_coefficient": 0.0},
            "BatchTopK": {"k": task.k, "aux_loss_coefficient": 0.0},
            "JumpReLU": {"l0_warm_up_steps": 0, "jumprelu_init_threshold": 0.1},
        }
        config = getattr(sae_lens, f"{kind}TrainingSAEConfig")(**common, **own[kind])
        sae = getattr(sae_lens, f"{kind}TrainingSAE")(config)
        with torch.no_grad():
            sae.W_dec.copy_(task.directions)
            sae.W_enc.copy_(task.directions.T)
        trainer = SAETrainer(
            cfg=SAETrainerConfig(
                total_training_samples=task.steps * task.batch_size,
                train_batch_size_samples=task.batch_size,
                lr=task.lr,
                lr_end=task.lr,
                device="cpu",
            ),
            sae=sae,
            data_provider=iter(()),
        )

        def step(batch: Tensor) -> None:
            trainer.step(batch)
            trainer.n_training_steps += 1

        def output(rows: Tensor) -> tuple[Tensor, Tensor]:
            codes = sae.encode(rows)
            codes = codes.to_dense() if codes.is_sparse else codes
            return sae.decode(codes), codes

        return Trainer(step, output, lambda: sae.W_dec.detach())

    return build


def dictionary_learning(kind: str) -> Factory:
    """dictionary_learning: a trainer's `update`."""

    def build(_: Any, task: Task) -> Trainer:
        from dictionary_learning.trainers import (
            batch_top_k,
            gdm,
            jumprelu,
            matryoshka_batch_top_k,
            standard,
            top_k,
        )

        concepts, width = task.directions.shape
        common: dict[str, Any] = {
            "steps": 10**9,
            "activation_dim": width,
            "dict_size": concepts,
            "layer": 0,
            "lm_name": "none",
            "lr": task.lr,
            "warmup_steps": 0,
            "device": "cpu",
            "seed": 0,
        }
        classes: dict[str, tuple[Any, dict[str, Any]]] = {
            "Standard": (
                standard.StandardTrainer,
                {"l1_penalty": task.l1, "sparsity_warmup_steps": None},
            ),
            "Gated": (gdm.GatedSAETrainer, {"l1_penalty": task.l1, "sparsity_warmup_steps": None}),
            "JumpReLU": (
                jumprelu.JumpReluTrainer,
                {"target_l0": task.k, "sparsity_warmup_steps": None},
            ),
            "TopK": (top_k.TopKTrainer, {"k": task.k, "auxk_alpha": 0.0}),
            "BatchTopK": (batch_top_k.BatchTopKTrainer, {"k": task.k, "auxk_alpha": 0.0}),
            "Matryoshka": (
                matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer,
                {"k": task.k, "auxk_alpha": 0.0, "group_fractions": [0.0625, 0.125, 0.25, 0.5625]},
            ),
        }
        made, own = classes[kind]
        trainer = made(**common, **own)
        with torch.no_grad():
            _start(trainer.ae, task.directions)
        count = iter(range(1, 10**9))
        # Step 0 would set the bias to a geometric median, which the others do not do.
        return Trainer(
            lambda batch: trainer.update(next(count), batch),
            lambda rows: trainer.ae(rows, output_features=True),
            lambda: _rows(trainer.ae, task.directions.shape),
        )

    return build


def sparsify(_: Any, task: Task) -> Trainer:
    """EleutherAI's sparsify: its coder's forward pass, in the order of its trainer's step."""
    with contextlib.redirect_stdout(io.StringIO()):
        from sparsify import SparseCoder, SparseCoderConfig

    concepts, width = task.directions.shape
    coder = SparseCoder(width, SparseCoderConfig(num_latents=concepts, k=task.k))
    with torch.no_grad():
        coder.encoder.weight.copy_(task.directions)
        coder.W_dec.copy_(task.directions)
    optimizer = torch.optim.Adam(coder.parameters(), lr=task.lr)

    def step(batch: Tensor) -> None:
        coder.set_decoder_norm_to_unit_norm()
        coder(batch).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()

    def output(rows: Tensor) -> tuple[Tensor, Tensor]:
        found = coder(rows)
        codes = torch.zeros(len(rows), concepts)
        return found.sae_out, codes.scatter(1, found.latent_indices, found.latent_acts)

    return Trainer(step, output, lambda: coder.W_dec.detach())


def overcomplete(kind: str) -> Factory:
    """overcomplete: its models under its own training loop's body."""

    def build(module: Any, task: Task) -> Trainer:
        from torch import nn

        concepts, width = task.directions.shape
        name = {"Standard": "SAE", "TopK": "TopKSAE", "BatchTopK": "BatchTopKSAE"}[kind]
        options = {} if kind == "Standard" else {"top_k": task.k}
        if kind == "BatchTopK":
            options = {"top_k": task.k * task.batch_size}
        encoder = nn.Linear(width, concepts)
        with torch.no_grad():
            encoder.weight.copy_(task.directions)
            encoder.bias.zero_()

        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = encoder

            def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
                pre = self.linear(rows)
                return pre, pre.relu()

        model = getattr(module, name)(width, concepts, encoder_module=Encoder(), **options)
        with torch.no_grad():
            model.dictionary._weights.copy_(task.directions)
        optimizer = torch.optim.Adam(model.parameters(), lr=task.lr)
        model.train()

        def step(batch: Tensor) -> None:
            optimizer.zero_grad()
            _, codes, found = model(batch)
            loss = (batch - found).square().sum(-1).mean()
            if kind == "Standard":
                loss = loss + task.l1 * codes.abs().sum(-1).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        def output(rows: Tensor) -> tuple[Tensor, Tensor]:
            _, codes, found = model(rows)
            return found, codes

        return Trainer(step, output, lambda: model.get_dictionary().detach())

    return build


def installed() -> dict[str, Peer]:
    """The libraries, with the reason where one is missing."""
    if not torch.cuda.is_available():  # its Triton kernels need a GPU; this is its own switch
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    if not hasattr(matplotlib.cm, "get_cmap"):  # overcomplete's plots were written for it
        matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return {
            "SAELens": peer("sae_lens", "sae-lens"),
            "dictionary_learning": peer("dictionary_learning.trainers", "dictionary-learning"),
            "sparsify": peer("sparsify", "eai-sparsify"),
            "overcomplete": peer("overcomplete.sae", "overcomplete"),
        }


PEERS: dict[tuple[str, str], Factory] = {
    ("SAELens", "relu"): saelens("Standard"),
    ("dictionary_learning", "relu"): dictionary_learning("Standard"),
    ("overcomplete", "relu"): overcomplete("Standard"),
    ("SAELens", "topk"): saelens("TopK"),
    ("dictionary_learning", "topk"): dictionary_learning("TopK"),
    ("sparsify", "topk"): sparsify,
    ("overcomplete", "topk"): overcomplete("TopK"),
    ("SAELens", "batchtopk"): saelens("BatchTopK"),
    ("dictionary_learning", "batchtopk"): dictionary_learning("BatchTopK"),
    ("SAELens", "jumprelu"): saelens("JumpReLU"),
    ("dictionary_learning", "jumprelu"): dictionary_learning("JumpReLU"),
    ("dictionary_learning", "gated"): dictionary_learning("Gated"),
    ("dictionary_learning", "matryoshka"): dictionary_learning("Matryoshka"),
}


def _start(autoencoder: Any, directions: Tensor) -> None:
    """The common first weights, in whichever layout the class keeps them."""
    for name, parameter in autoencoder.named_parameters():
        if name in ("encoder.weight", "W_dec"):
            parameter.copy_(directions)
        elif name in ("decoder.weight", "W_enc"):
            parameter.copy_(directions.T)
        elif name in ("encoder.bias", "b_enc", "b_dec", "bias", "decoder_bias"):
            parameter.zero_()


def _rows(autoencoder: Any, shape: torch.Size) -> Tensor:
    weight = getattr(autoencoder, "W_dec", None)
    weight = autoencoder.decoder.weight if weight is None else weight
    return weight.detach() if weight.shape == shape else weight.detach().T
