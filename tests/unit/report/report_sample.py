"""A made-up, plausible report."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from dncbm.report.data import (
    AccuracyRow,
    ClassExplanation,
    ConceptCard,
    Confusion,
    LocalExplanation,
    Metric,
    QualityRow,
    ReportData,
    Thumbnail,
    WeightedConcept,
)
from dncbm.report.pictures import preview, thumbnail
from dncbm.types import ConceptName, Contribution, Prediction

CLASSES = ("Dress", "Hat", "Longsleeve", "Outwear", "Pants", "Shirt", "Shoes", "Shorts", "T-Shirt")
WORDS = (
    "sneaker",
    "lace-up",
    "denim",
    "striped",
    "floral print",
    "long sleeve",
    "button-down collar",
    "leather",
    "hood",
    "red",
    "knitted",
    "waistband",
    "brim",
    "zipper",
    "polka dots",
    "wrinkled",
    "hanger",
    "wooden floor",
    "bedsheet",
    "plaid",
    "logo",
    "turtleneck",
    "beige",
    "velvet",
)


def picture(seed: int, size: int = 160) -> Image.Image:
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(int(v) for v in draw.integers(150, 245, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, w, h = (int(v) for v in draw.integers(0, size, 4))
        colour = tuple(int(v) for v in draw.integers(30, 220, 3))
        pen.ellipse((x, y, x + w // 2 + 8, y + h // 2 + 8), fill=colour)
    return image


def name(index: int, word: str | None = None) -> ConceptName:
    status = "unnamed" if index % 11 == 10 else "named"
    return ConceptName(
        concept=index,
        name=word or (WORDS[index % len(WORDS)] if status == "named" else f"concept {index}"),
        score=0.34 - (index % 17) / 100,
        margin=0.01,
        alternatives=(),
        status=status,  # type: ignore[arg-type]
        group=index,
    )


def prediction(seed: int) -> Prediction:
    draw = np.random.default_rng(seed)
    codes, weights = draw.gamma(2, 0.8, 5), draw.normal(0.5, 0.8, 5)
    parts = sorted(
        (
            Contribution(
                concept=i, name=WORDS[(seed * 5 + i) % 24], code=c, weight=w, contribution=c * w
            )
            for i, (c, w) in enumerate(zip(codes.tolist(), weights.tolist(), strict=True))
        ),
        key=lambda part: -abs(part.contribution),
    )
    logit = sum(part.contribution for part in parts) - 0.2 + 0.75
    return Prediction(
        class_name=CLASSES[seed % 9],
        class_index=seed % 9,
        probability=0.93 - seed / 20,
        logit=logit,
        bias=-0.2,
        remainder=0.75,
        contributions=tuple(parts),
    )


def weighted(seed: int, *, signed: bool) -> tuple[WeightedConcept, ...]:
    draw = np.random.default_rng(seed)
    values = draw.normal(0, 1, 8) if signed else draw.gamma(2, 0.5, 8)
    order = sorted(values.tolist(), key=abs, reverse=True)
    return tuple(
        WeightedConcept(concept=i, name=WORDS[(seed * 3 + i) % 24], value=value)
        for i, value in enumerate(order)
    )


def quality(label: str, train: float | None, held_out: float | None, unit: str = "") -> QualityRow:
    return QualityRow(
        name=label,
        says="what this measures, in one line",
        good="near 0, or near 1",
        misleads="when few images are judged, or all of them are alike",
        train=train,
        held_out=held_out,
        unit=unit,
    )


def sample(*, gallery: int = 12, thumbs: int = 6) -> ReportData:
    draw = np.random.default_rng(0)
    counts = draw.poisson(1.2, (9, 9)) + np.diag(draw.integers(18, 40, 9))
    curve = {5: 0.742, 10: 0.771, 15: 0.784, 20: 0.79, 25: 0.792, 30: 0.796}
    total = 372
    rows = [
        AccuracyRow(name="Zero-shot", correct=190, total=total, baseline=True, note="names only"),
        AccuracyRow(
            name="Linear probe",
            correct=301,
            total=total,
            baseline=True,
            note="on the raw embeddings",
        ),
        AccuracyRow(name="DN-CBM, dense", correct=300, total=total, effective_concepts=412.3),
    ] + [
        AccuracyRow(
            name=f"DN-CBM, {nec} concepts per class",
            correct=round(a * total),
            total=total,
            effective_concepts=nec,
        )
        for nec, a in curve.items()
    ]
    return ReportData(
        dataset="clothing photos",
        encoder="mini (256 dimensions, 64 × 64 pixels)",
        created="2026-11-23",
        recipe={
            "command": "dncbm quickstart --data clothing.zip --out out/clothing",
            "dictionary": "preset default, 2,048 concepts",
            "classifier": "elastic net",
            "seed": "0",
        },
        fingerprints={
            role: f"{i:02x}" * 32 for i, role in enumerate(("encoder", "sae", "cbm"), 171)
        },
        splits={"train": 2004, "validation": 341, "test": total},
        accuracies=rows,
        nec_curve=tuple(curve.items()),
        sae_metrics=(
            quality("Unexplained variance", 0.083, 0.097),
            quality("Cosine", 0.957, 0.951),
            quality("L0", 31.7, 31.6),
            quality("Dead concepts", 0.021, 0.043, unit="%"),
            quality("Stability", 0.71, None),
            quality("Accuracy kept", None, 0.982, unit="%"),
        ),
        densities=np.concatenate([np.zeros(43), draw.beta(0.6, 30, 2005)]).tolist(),
        naming=(
            Metric(name="Named", value=0.81, unit="%"),
            Metric(name="Different names", value=1204),
            Metric(name="Mean score", value=0.231, meaning="cosine, of the named"),
            Metric(name="Vocabulary", value="20,000 words"),
        ),
        scores=draw.normal(0.22, 0.05, 2048).tolist(),
        score_threshold=0.17,
        concepts=tuple(
            ConceptCard(
                name=name(i),
                density=0.12 / (1 + i),
                thumbnails=tuple(
                    Thumbnail(image=thumbnail(picture(i * 7 + j)), caption=CLASSES[(i + j) % 9])
                    for j in range(thumbs)
                ),
            )
            for i in range(gallery)
        ),
        num_concepts=2048,
        classes=tuple(
            ClassExplanation(
                name=label,
                images=40 + i,
                concepts=weighted(i, signed=False),
                weights=weighted(i + 20, signed=True),
            )
            for i, label in enumerate(CLASSES)
        ),
        explanations=tuple(
            LocalExplanation(
                image=preview(picture(100 + i, 300)),
                title=f"test/{CLASSES[i]}/photo_{i:04d}.jpg",
                prediction=prediction(i),
                true_class=CLASSES[i] if i != 3 else "Shirt",
                alternatives=(prediction(i + 1), prediction(i + 2)),
            )
            for i in range(6)
        ),
        confusion=Confusion(classes=CLASSES, counts=counts.tolist()),
    )


def tiny(**changes: object) -> ReportData:
    base = ReportData(dataset="d", encoder="e", created="2026-11-23")
    return replace(base, **changes)  # type: ignore[arg-type]


def png_bytes() -> bytes:
    stream = io.BytesIO()
    picture(0, 8).save(stream, "PNG")
    return stream.getvalue()
