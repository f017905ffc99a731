"""A student of `mini` in the full bottleneck: accuracy, its reasons, and how much faster it is.

    python -m benchmarks.distillation.student --data clothing.zip --out OUT

First the teacher's model (`dncbm quickstart`, or `--model DIR` of one that is there), then its
student by `dncbm distill`: embeddings alone on `--more` photos where they are given, then the
teacher's concepts on the photos themselves. Everything goes on where it was killed. Compared are
the stored classifiers on the test photos as files, each through its own preprocessing: accuracy,
agreement, the cosine of contributions to the teacher's class and the overlap of its five largest.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks._harness import Row, alternate, best_and_median, finish, parser
from dncbm.data.images import decode_image
from dncbm.data.sources import open_source
from dncbm.distillation.embeddings import TOP, top_overlap
from dncbm.distillation.loss import contributions, similarities
from dncbm.distillation.recipe import DistillRecipe
from dncbm.predictor import Predictor
from pipelines.distill import distill_stage
from pipelines.quickstart import run_pipeline
from pipelines.recipes import Recipe
from pipelines.workspace import Workspace

_AT_ONCE = 64
_TURNS = 7


def teacher_model(options: argparse.Namespace) -> Path:
    """Where the teacher's model is; made now where none was given."""
    if options.model is not None:
        return Path(options.model)
    root = options.out / "teacher"
    if not (root / "cbm").is_dir():
        run_pipeline(Recipe(data=str(options.data), encoder="mini", device="cpu"), Workspace(root))
    return root


def student_model(teacher: Path, options: argparse.Namespace) -> Row:
    """Distilled in one step, or in two with further photos."""
    student, network = options.student, {}
    if student.startswith("scratch:") and student.count(":") == 1:
        network = {"width": options.width}
    training = {"precision": "float32", "learning_rate": options.lr, "batch_size": 64}
    if options.more is not None:
        first = DistillRecipe(
            teacher="mini", student=student, data=str(options.more), device="cpu",
            network=network, training={**training, "epochs": options.more_epochs},
        )  # fmt: skip
        distill_stage(first, Workspace(options.out / "first"))
        student, network = str(options.out / "first"), {}
    recipe = DistillRecipe(
        teacher=str(teacher), student=student, data=str(options.data), device="cpu",
        network=network, training={**training, "epochs": options.epochs, "weight": options.weight},
    )  # fmt: skip
    return distill_stage(recipe, Workspace(options.out / "student"))


@torch.inference_mode()
def compared(teacher: Predictor, student: Predictor, data: str) -> Row:
    """Both on the test photos as files."""
    source = open_source(data)
    test = [
        index
        for index, record in enumerate(source.records)
        if record.split == "test" and record.label in teacher.classes
    ]
    truth = np.array([teacher.classes.index(str(source.records[index].label)) for index in test])
    sums: dict[str, float] = {}
    for start in range(0, len(test), _AT_ONCE):
        images = [decode_image(source.read(i)) for i in test[start : start + _AT_ONCE]]
        codes = [model.encode(model.embed(images)) for model in (student, teacher)]
        found = _figures(codes, teacher, torch.from_numpy(truth[start : start + _AT_ONCE]))
        for name, values in found.items():
            sums[name] = sums.get(name, 0.0) + float(values.double().sum())
    return {name: total / len(test) for name, total in sums.items()} | {"test photos": len(test)}


def _figures(codes: list[Tensor], teacher: Predictor, truth: Tensor) -> dict[str, Tensor]:
    probe = teacher.cbm.probe
    given, wanted = (probe.logits(part).argmax(1) for part in codes)
    parts = [contributions(part, probe.weights, wanted) for part in codes]
    return {
        "accuracy": given == truth, "teacher accuracy": wanted == truth,
        "agreement": given == wanted, "contributions, cosine": similarities(*parts),
        f"contributions, top {TOP}": top_overlap(parts[0], parts[1], TOP),
    }  # fmt: skip


def main() -> None:
    """Make both models and compare them."""
    made = parser(__doc__)
    made.add_argument("--data", required=True, help="photos, each class in a folder")
    made.add_argument("--model", help="a model of mini on these photos; default: made now")
    made.add_argument("--student", default="scratch:standard_resnet18")
    made.add_argument("--width", type=int, default=16)
    made.add_argument("--more", help="photos to learn embeddings from first; no labels needed")
    made.add_argument("--more-epochs", type=float, default=5)
    made.add_argument("--epochs", type=float, default=30)
    made.add_argument("--lr", type=float, default=2e-3)
    made.add_argument("--weight", type=float, default=1.0, help="λ of contributions")
    made.add_argument("--threads", type=int, default=1)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    root = teacher_model(options)
    result = student_model(root, options)
    teacher, student = (
        Predictor.load(path, device="cpu") for path in (root, options.out / "student")
    )
    row: Row = {
        "parameters": result["parameters"], "teacher parameters": result["teacher_parameters"],
        **compared(teacher, student, options.data),
    }  # fmt: skip
    ratios: dict[str, float | None] = {
        "parameters, student / teacher": result["parameters"] / result["teacher_parameters"]
    }
    for count in (1, 32):
        runs = {
            name: _passes(model, count) for name, model in (("t", teacher), ("s", student))
        }  # fmt: skip
        for run in runs.values():
            run()
        seconds = alternate(runs, turns=_TURNS)
        best = {name: best_and_median(values)["best_s"] for name, values in seconds.items()}
        row |= {f"ms, {count} photos": 1e3 * best["s"], f"teacher ms, {count}": 1e3 * best["t"]}
        ratios[f"time of {count} photos, teacher / student"] = best["t"] / best["s"]
    finish("distillation_student", [row], ratios, options)


def _passes(model: Predictor, count: int):
    """Pixels to logits, without decoding."""
    pixels = torch.rand(count, 3, *model.encoder.image_size)
    return lambda: model.cbm.probe.logits(model.encode(model.encoder.encode_images(pixels)))


if __name__ == "__main__":
    main()
