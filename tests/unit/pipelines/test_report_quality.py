from dataclasses import fields

from dncbm.sae.geometry import Stability
from dncbm.sae.metrics import SaeMetrics
from pipelines.report_quality import quality_rows

HELD_OUT = {
    "unexplained_variance": 0.2,
    "cosine": 0.9,
    "coherence_max": 0.8,
    "monosemanticity": None,
}
COUNTS = {"rows", "num_concepts", "cknna_rows", "seeds", "density_histogram"}
"""Sizes and the histogram, which is drawn: no measures."""


def test_train_and_held_out_stand_side_by_side() -> None:
    found = {
        row.name: (row.train, row.held_out)
        for row in quality_rows(
            {
                "unexplained_variance": 0.1,
                "cosine": 0.95,
                "coherence_max": 0.8,
                "monosemanticity": None,
                "held_out": HELD_OUT,
                "stability": {"seeds": 3, "matched_cosine": 0.7, "chance": 0.2},
            },
            {"accuracy_kept": 0.9, "accuracy_embeddings": 0.8},
        )
    }
    assert found == {
        "unexplained variance": (0.1, 0.2),
        "cosine": (0.95, 0.9),
        "accuracy kept": (None, 0.9),
        "largest coherence": (0.8, None),  # of the dictionary: the same on all photos
        "stability": (0.7, None),
        "… by chance": (0.2, None),
    }


def test_every_measure_is_shown_with_how_to_read_it() -> None:
    names = {field.name for kind in (SaeMetrics, Stability) for field in fields(kind)} - COUNTS
    measured = dict.fromkeys(names, 0.5)
    rows = quality_rows({**measured, "stability": measured}, {"accuracy_kept": 1.0})
    assert len(rows) == len(names)  # "lowest" is not shown, "accuracy kept" is
    assert all(row.says and row.good and row.misleads for row in rows)


def test_a_model_without_held_out_photos_or_of_an_older_version() -> None:
    rows = quality_rows({"l0": 32.0, "held_out": None}, {})
    assert [(row.name, row.train, row.held_out) for row in rows] == [("L0", 32.0, None)]
