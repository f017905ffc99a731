"""Drift of a model, as it travels over the wire."""

from datetime import datetime

from pydantic import Field

from api.schemas import Page, _Schema


class ConceptDrift(_Schema):
    """One concept in live photos beside the training photos."""

    concept: int
    name: str
    density_training: float = Field(description="Share of photos in which it is active.")
    density_live: float
    mean_training: float = Field(description="Mean code over all photos.")
    mean_live: float
    shift: float | None = Field(
        description="Live minus training mean, in training standard deviations; null where those "
        "are not known or 0."
    )
    p_value: float | None = Field(
        description="Two-proportion z test of activity, corrected across concepts (Benjamini-"
        "Hochberg); null where too few photos were seen."
    )
    shifted: bool = Field(description="Significant, and large enough to matter.")
    examples: str = Field(description="Address of the training photos in which it is strongest.")


class DriftAnswer(Page):
    """Whether live photos look like the training photos; clearest shifts first."""

    model: str
    enabled: bool = Field(description="Whether live codes are counted (DNCBM_DRIFT).")
    images: int = Field(description="Live photos counted so far, by all processes.")
    since: datetime | None
    concepts_tested: int
    concepts_shifted: int
    share_shifted: float | None = Field(description="Shifted among the tested concepts.")
    psi: float | None = Field(
        description="Population stability index, mean over tested concepts; above 0.25 is commonly "
        "called a shift, below 0.1 none."
    )
    concepts: list[ConceptDrift]
