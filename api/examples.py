"""An example of an answer from its schema: what fields say themselves, else by their names."""

from typing import Any

_DEEPEST = 8
_SAMPLES: dict[str, Any] = {
    "accuracy": 0.87,
    "accuracy_after": 0.86,
    "accuracy_before": 0.87,
    "author": "ada",
    "bias": 0.25,
    "class_index": 4,
    "code": 2.0,
    "code_after": 0.0,
    "code_before": 2.0,
    "concept": 17,
    "confidence": 0.9,
    "contribution": 3.0,
    "created": "2026-01-31T12:00:00Z",
    "density": 0.125,
    "dictionary": "clothing",
    "ece": 0.055,
    "ece_calibrated": 0.031,
    "effective_concepts": 10,
    "exact": True,
    "fingerprint": "9c43f1bc54895d7f",
    "group": 17,
    "heat": "data:image/png;base64,iVBORw0KGgo=",
    "id": "clothing",
    "image": "photo.jpg",
    "images": 372,
    "index": 4,
    "intact": True,
    "item_id": "train/shoes/17.jpg",
    "limit": 50,
    "logit": 6.25,
    "margin": 0.04,
    "max_code": 7.5,
    "mean_code": 0.25,
    "model": "clothing",
    "name": "sneaker",
    "named": 500,
    "num_concepts": 767,
    "offset": 0,
    "predicted": "Boots",
    "probability": 0.93,
    "reason": "They are laces.",
    "row": 2279,
    "score": 0.31,
    "seen": "data:image/png;base64,iVBORw0KGgo=",
    "similarity": 0.84,
    "split": "test",
    "temperature": 1.3,
    "text": "striped shirt",
    "total": 1,
    "true": "Shoes",
    "unique_names": 320,
    "value": 6.25,
    "weight": 1.5,
}
_PLAIN: dict[str, Any] = {"integer": 1, "number": 0.5, "boolean": True, "string": "text"}
_EMPTY = {"next", "error", "remainder"}
"""What is null or 0 in a small answer."""


def example_of(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """A value that the schema allows; `schemas` are the components that it refers to."""
    return _example(schema, schemas, "", 0)


def _example(schema: dict[str, Any], schemas: dict[str, Any], name: str, depth: int) -> Any:
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if schema.get("examples"):
        return schema["examples"][0]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return _choice(choices, schemas, name, depth)
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return _object(schema, schemas, depth)
    if kind == "array":
        items = schema.get("items", {})
        return [] if depth > _DEEPEST else [_example(items, schemas, _singular(name), depth + 1)]
    return _plain(schema, name)


def _choice(choices: list[Any], schemas: dict[str, Any], name: str, depth: int) -> Any:
    nullable = any(choice.get("type") == "null" for choice in choices)
    if nullable and (name in _EMPTY or depth > _DEEPEST):
        return None
    first: dict[str, Any] = next((one for one in choices if one.get("type") != "null"), {})
    return _example(first, schemas, name, depth)


def _object(schema: dict[str, Any], schemas: dict[str, Any], depth: int) -> dict[str, Any]:
    return {
        key: _example(value, schemas, key, depth + 1)
        for key, value in schema.get("properties", {}).items()
    }


def _singular(name: str) -> str:
    """`concept` for the elements of `concepts`."""
    return {"classes": "true"}.get(name, name.removesuffix("s"))


def _plain(schema: dict[str, Any], name: str) -> Any:
    kind = schema.get("type", "string")
    if schema.get("format") == "date-time":
        return _SAMPLES["created"]
    found = _SAMPLES.get(name, _PLAIN.get(kind))
    types: dict[str, Any] = {"integer": int, "number": (int, float), "boolean": bool, "string": str}
    fits = isinstance(found, types.get(kind, object)) and isinstance(found, bool) == (
        kind == "boolean"
    )
    value = found if fits else _PLAIN.get(kind)
    low = schema.get("minimum")
    return low if low is not None and not isinstance(value, str) and value < low else value
