"""`dncbm localise`: which attribution methods point where they should."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dncbm.errors import InvalidInput
from pipelines.cli_parts import AsJson, Data, Dataset, Device, Verbose, print_json
from pipelines.console import configure_logging, progress_listener, stdout

ModelSpec = Annotated[
    str,
    typer.Option(
        "--model",
        help="Model directory, encoder (as --encoder), bcos:DIR, guided:DIR, "
        "torchvision:NAME[@FILE] or timm:NAME[@FILE].",
    ),
]


def localise(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to write.")],
    data: Data = None,
    dataset: Dataset = None,
    model: ModelSpec = "mini",
    methods: Annotated[
        str | None, typer.Option(help="Names, with commas; default: five of them.")
    ] = None,
    layers: Annotated[
        str, typer.Option(help="input, middle, final, or names of modules.")
    ] = "input,middle,final",
    settings: Annotated[
        str, typer.Option(help="Some of gridpg,difull,dipart.")
    ] = "gridpg,difull,dipart",
    sides: Annotated[str, typer.Option(help="Cells along a side, such as 2,3.")] = "2",
    grids: Annotated[int, typer.Option(help="Pictures per setting and side.")] = 10,
    targets: Annotated[str, typer.Option(help="classes or concepts.")] = "classes",
    smooth: Annotated[
        str | None,
        typer.Option(help="Also smooth maps by Gaussians of these sides, such as 5,9."),
    ] = None,
    box_data: Annotated[
        str | None, typer.Option(help="Boxes of the photos (VOC, COCO, YOLO, ...): score them too.")
    ] = None,
    photos: Annotated[int, typer.Option(help="Look at no more photos than this.")] = 2000,
    confidence: Annotated[
        float, typer.Option(help="Lowest probability of the right class; paper: 0.99.")
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of photos and grids.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Measure how well attribution methods localise classes or concepts (GridPG, DiFull, DiPart).

    Photos of different classes are put into one picture; a map is scored by its share in the cell
    of its class. An interrupted run resumes.
    """
    from pipelines.localise import LocaliseConfig, localise_stage

    configure_logging(verbose=verbose)
    config = LocaliseConfig(
        methods=_items(methods or ""), layers=_items(layers), settings=_items(settings),
        sides=_numbers(sides, "--sides"), grids=grids, targets=targets,  # type: ignore[arg-type]
        smooth=_numbers(smooth or "", "--smooth"), photos=photos, confidence=confidence, seed=seed,
        boxes=box_data,
    )  # fmt: skip
    location = dataset or data
    if location is None:
        raise InvalidInput("No photos given. Use --data PATH or --dataset NAME.")
    with progress_listener() as progress:
        result = localise_stage(
            location, out, config, model=model, dataset=dataset is not None, device=device,
            progress=progress,
        )  # fmt: skip
    show_means(result)
    if as_json:
        print_json(result)


def show_means(result: dict[str, Any]) -> None:
    """Mean scores, methods by layers, a table per setting; and what is not defined."""
    means = result["means"]
    layers = list(dict.fromkeys(row["layer"] for row in means))
    for setting, side in dict.fromkeys((row["setting"], row["side"]) for row in means):
        mine = [row for row in means if (row["setting"], row["side"]) == (setting, side)]
        chance = f"chance {mine[0]['chance']:.3f}, {mine[0]['maps']} maps each"
        size = f", {side} x {side}" if side > 1 else ""
        table = Table(title=f"{setting}{size} ({chance})", title_justify="left")
        for heading in ("method", *layers):
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for method, smooth in dict.fromkeys((row["method"], row["smooth"]) for row in mine):
            found = {
                row["layer"]: f"{row['mean']:.3f} ± {row['sd']:.3f}"
                for row in mine
                if (row["method"], row["smooth"]) == (method, smooth)
            }
            title = method if smooth == 1 else f"{method}, K={smooth}"
            table.add_row(title, *(found.get(layer, "–") for layer in layers))
        stdout.print(table)
    for row in result["undefined"]:
        what = " ".join(str(row[key]) for key in ("method", "layer") if key in row)
        stdout.print(f"Not defined: {row['setting']} {what}".rstrip() + f": {row['reason']}")
    stdout.print(f"Report: {result['report']}")


def _items(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _items(text))
    except ValueError as error:
        raise InvalidInput(f"{option} {text!r} is no list of whole numbers such as 2,3.") from error
