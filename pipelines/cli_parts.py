"""What the commands share: their options, and how results are shown."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from dncbm.artifacts import package_version
from dncbm.errors import InvalidInput
from pipelines.console import stdout
from pipelines.recipes import TABLES

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Model directory.")]
Photos = Annotated[
    list[Path], typer.Argument(metavar="IMAGE...", help="Photos, or folders of them.")
]
Nec = Annotated[int | None, typer.Option(help="Use the head with this many concepts per class.")]
Edits = Annotated[
    bool,
    typer.Option("--edits/--no-edits", help="With the model's active edit, or as it was made."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Model directory to write.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON line last, for machines.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", help="Photos: a folder (one sub-folder per class), zip, tar, CSV, Parquet."
    ),
]
Dataset = Annotated[
    str | None, typer.Option("--dataset", help="hf:NAME or torchvision:NAME (needs the network).")
]
EncoderSpec = Annotated[
    str,
    typer.Option(
        "--encoder", help="mini, ARCH:PRETRAINED, hf-hub:ORG/NAME or ARCH:/path/to/weights."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Precision = Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")]
Backend = Annotated[
    str,
    typer.Option(
        help="What computes embeddings on a CPU: torch, torch-graph, torch-bf16, onnxruntime, "
        "openvino, openvino-bf16, onnxruntime-int8; or auto: measured here, the fastest exact one."
    ),
]
Engine = Annotated[str, typer.Option(help="local, or ray: the cluster at $RAY_ADDRESS.")]
Workers = Annotated[int, typer.Option(help="Image decoding processes.")]
Vocabulary = Annotated[
    str | None, typer.Option(help="Word list, one entry per line; default: the bundled one.")
]
SaePreset = Annotated[str, typer.Option("--sae-preset", help="default, dncbm-paper, topk, ...")]
NamingPreset = Annotated[str, typer.Option("--naming-preset", help="default or paper.")]
Solver = Annotated[str | None, typer.Option(help="Probe solver: elastic-net or paper.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override a field of sae, naming or probe, e.g. sae.num_concepts=1024; "
        "FIELD= takes an override back.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of split, autoencoder and probe.")]
SAE_PRESETS = (
    "default, topk, batchtopk, matryoshka, msae, archetypal, relu, gated, jumprelu or dncbm-paper."
)
Original = Annotated[
    str,
    typer.Option(
        "--model",
        help="An encoder (as --encoder), torchvision:NAME[@FILE], timm:NAME[@FILE], or "
        "scratch:NAME for a B-cos network without trained weights.",
    ),
]
Teacher = Annotated[
    str | None, typer.Option(help="Encoder to learn from; default: the model itself.")
]
SetTraining = Annotated[
    list[str] | None,
    typer.Option("--set", help="A field of training or convert, e.g. convert.bias=keep."),
]
Loss = Annotated[
    str | None,
    typer.Option(help="pairwise or cosine (encoders); uniform-off-label, bce or cross-entropy."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what happens inside.")]


def commands() -> ModuleType:
    """The stages, imported when one runs: `dncbm --help` need not load torch."""
    return importlib.import_module("pipelines.commands")


def overridden(
    assignments: list[str] | None, solver: str | None, *, only: tuple[str, ...] = TABLES
) -> dict[str, dict[str, Any]]:
    """`sae.k=16` and `probe.solver=paper` as `{"sae": {...}, "probe": {...}}`."""
    tables: dict[str, dict[str, Any]] = {}
    for assignment in assignments or ():
        target, equals, text = assignment.partition("=")
        table, dot, key = target.partition(".")
        if not (equals and dot and key and table in only):
            forms = " or ".join(f"{name}.FIELD=VALUE" for name in only)
            raise InvalidInput(f"--set {assignment!r} is not of the form {forms}.")
        tables.setdefault(table, {})[key] = _parse(text)
    if solver is not None:
        tables.setdefault("probe", {})["solver"] = solver
    return tables


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def show(result: dict[str, Any], as_json: bool) -> None:
    """A result as a table, or as one JSON line."""
    if as_json:
        print_json(result)
    else:
        commands().show_table(result)


def print_json(result: dict[str, Any]) -> None:
    """One line, last."""
    stdout.file.write(json.dumps(result) + "\n")
    stdout.file.flush()


def show_version(wanted: bool) -> None:
    """Print the version and stop, where it is asked for."""
    if wanted:
        stdout.print(f"dncbm {package_version()}")
        raise typer.Exit
