"""`dncbm drift`: do the photos that a service saw look like the training photos."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from dncbm.database import Database
from dncbm.errors import InvalidInput
from pipelines.cli_parts import AsJson, Model, print_json
from pipelines.console import stdout

Url = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="DNCBM_DATABASE_URL",
        help="Database of the service; default: the file in .dncbm of MODEL or its folder.",
    ),
]
Limit = Annotated[int, typer.Option(help="Concepts to list.", min=0)]


def drift(model: Model, database: Url = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Compare the concepts of served photos (DNCBM_DRIFT=1) with those of the training photos."""
    found = measured(model, database, limit)
    if as_json:
        print_json(found)
        return
    share = found["share_shifted"]
    shown = "too few photos to tell" if share is None else f"{share:.1%} of concepts shifted"
    stdout.print(f"{found['images']} photos since {found['since'] or 'never'}: {shown}")
    for line in found["concepts"]:
        stdout.print(
            f"{line['concept']:6d}  {line['name']:30s} {line['density_training']:7.2%} -> "
            f"{line['density_live']:7.2%}{'  shifted' if line['shifted'] else ''}",
            markup=False,
            highlight=False,
        )


def measured(model: Path, url: str | None, limit: int) -> dict[str, Any]:
    """Live statistics of a model directory beside its training data; largest shifts first.

    Raises:
        InvalidInput: there is no database.
        ArtifactError: not a model directory.
    """
    from dncbm.drift.compare import compare
    from dncbm.drift.statistics import CodeStatistics
    from dncbm.drift.store import DriftStore
    from dncbm.drift.training import reference_of
    from dncbm.predictor import Predictor

    database = Database(url) if url else Database.of_file(_file(model))
    predictor = Predictor.load(model, device="cpu")
    reference = reference_of(predictor)
    stored = DriftStore(database).read(reference.fingerprint, reference.edges)
    database.close()
    live = stored.statistics if stored else CodeStatistics.empty(reference.edges)
    found = compare(live, reference)
    order = np.lexsort((-np.abs(found.effect), ~found.is_shifted))[:limit].tolist()
    return {
        "images": live.images,
        "since": stored.since.isoformat() if stored else None,
        "concepts_tested": found.tested,
        "concepts_shifted": found.shifted,
        "share_shifted": found.share_shifted,
        "psi": found.psi,
        "concepts": [
            {
                "concept": concept,
                "name": predictor.dictionary.names[concept].name,
                "density_training": float(reference.density[concept]),
                "density_live": float(live.density[concept]),
                "shifted": bool(found.is_shifted[concept]),
            }
            for concept in order
        ],
    }


def _file(model: Path) -> Path:
    places = [root / ".dncbm" / "dncbm.sqlite" for root in (model, model.resolve().parent)]
    for place in places:
        if place.is_file():
            return place
    raise InvalidInput(
        f"There is no database at {' or '.join(map(str, places))}. Serve the model with "
        "DNCBM_DRIFT=1 first, or give --database."
    )
