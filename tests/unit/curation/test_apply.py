"""Edits as functions of a model: against slow versions, and what they must never change."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dncbm.curation.apply import Edited, apply, same_weights
from dncbm.curation.data import ModelData
from dncbm.curation.evaluate import evaluate
from dncbm.curation.operations import operation_json, parse_operations
from dncbm.errors import ArtifactMismatch, InvalidInput, Unavailable, UnknownName
from dncbm.probe.changes import change_codes, changed_concepts, parse_changes
from dncbm.probe.metrics import fit_temperature, probe_logits
from tests.oracles.curation import edited_logits, groups_of
from tests.unit.curation.conftest import CLASSES, C, load_base, write_model

RELAXED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
concepts = st.integers(0, C - 1)
names = st.sampled_from(["leg", "wing", "trainer", "eye", "fur"])
renames = st.fixed_dictionaries({"op": st.just("rename"), "concept": concepts, "name": names})
merges = st.fixed_dictionaries(
    {
        "op": st.just("merge"),
        "concepts": st.lists(concepts, min_size=2, max_size=4, unique=True),
        "name": names,
    }
)
blocks = st.fixed_dictionaries({"op": st.just("block"), "concept": concepts})
removals = st.fixed_dictionaries({"op": st.just("remove"), "concept": concepts})
weights = st.fixed_dictionaries(
    {
        "op": st.just("set_weight"),
        "class": st.sampled_from(CLASSES),
        "concept": st.integers(0, 5),
        "weight": st.floats(-3, 3, width=32),
    }
)
late_removals = removals.filter(lambda one: one["concept"] > 5)  # never of a concept that is set
anything = st.one_of(renames, merges, blocks, late_removals, weights)


def some_codes(seed: int, n: int = 7) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    codes = draw.gamma(1.0, 2.0, size=(n, C)) * (draw.random((n, C)) < 0.4)
    return torch.from_numpy(codes.astype(np.float32))


def edited(base: Edited, *operations: dict) -> Edited:
    return apply(base, parse_operations(list(operations)))


def every_head(model: Edited):
    return [model.cbm.probe, *model.cbm.nec_probes.values()]


@RELAXED
@given(st.lists(st.one_of(renames, merges, blocks), min_size=1, max_size=6), st.integers(0, 99))
def test_names_never_change_a_logit(base, operations, seed) -> None:
    after, codes = edited(base, *operations), some_codes(seed)
    assert after.cbm is base.cbm
    for old, new in zip(every_head(base), every_head(after), strict=True):
        assert torch.equal(old.logits(codes), new.logits(codes))


@RELAXED
@given(st.lists(concepts, min_size=1, max_size=5, unique=True), st.integers(0, 99))
def test_removing_equals_setting_the_code_to_zero(base, removed, seed) -> None:
    after = edited(base, *({"op": "remove", "concept": c} for c in removed))
    codes = some_codes(seed)
    changes = parse_changes([{"concept": c, "set": 0.0} for c in removed])
    every = [one.name for one in base.dictionary.names]
    zeroed = change_codes(codes, changed_concepts(changes, every))
    for old, new in zip(every_head(base), every_head(after), strict=True):
        assert torch.equal(old.logits(zeroed), new.logits(codes))
        assert (new.weights[:, removed] == 0).all()
        for row, other in zip(zeroed, codes, strict=True):
            assert old.contributions(row, 0).logit == new.contributions(other, 0).logit
    assert all(after.dictionary.names[c].status == "blocked" for c in removed)


@RELAXED
@given(st.lists(st.one_of(removals, weights), min_size=1, max_size=6), st.integers(0, 99))
def test_logits_are_those_of_the_slow_version(base, operations, seed) -> None:
    last = [one for one in operations if one["op"] == "remove"]
    ordered = [one for one in operations if one["op"] != "remove"] + last
    after, codes, head = edited(base, *ordered), some_codes(seed), base.cbm.probe
    expected = edited_logits(
        head.weights.numpy(), head.bias.numpy(), codes.numpy(), after.cbm.classes, ordered
    )
    found = after.cbm.probe.logits(codes).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def plain(model: Edited):
    heads = [(head.weights.tolist(), head.bias.tolist()) for head in every_head(model)]
    # The text of a name, since not-a-number scores are not equal to themselves.
    listed = [repr(name) for name in model.dictionary.names]
    return heads, listed, model.removed, model.hidden, model.cbm.temperatures


@RELAXED
@given(st.lists(anything, min_size=1, max_size=5), st.lists(anything, min_size=1, max_size=5))
def test_one_after_the_other_equals_both_together(base, first, second) -> None:
    before = plain(base)
    a, b = parse_operations(first), parse_operations(second)
    assert plain(apply(apply(base, a), b)) == plain(apply(base, [*a, *b]))
    assert plain(base) == before  # nothing is changed in place


@RELAXED
@given(merges, st.integers(0, 99))
def test_a_merge_adds_up_to_the_same(base, operation, seed) -> None:
    after = edited(base, operation)
    chosen = operation["concepts"]
    listed = after.dictionary.names
    assert {listed[c].name for c in chosen} == {operation["name"]}
    assert len({listed[c].group for c in chosen}) == 1
    groups = np.array([one.group for one in listed])
    for row in some_codes(seed):
        single = base.cbm.probe.contributions(row, 1, top=C)
        merged = after.cbm.probe.contributions(row, 1, top=C, groups=groups)
        assert merged.logit == single.logit
        assert merged.remainder == single.remainder == 0.0
        alone = dict(zip(single.concepts.tolist(), single.contributions.tolist(), strict=True))
        for parts, total in zip(merged.members, merged.contributions, strict=True):
            assert sum(alone.get(c, 0.0) for c in parts) == total


@RELAXED
@given(st.lists(st.one_of(renames, merges), min_size=1, max_size=4))
def test_equal_names_share_a_group(base, operations) -> None:
    """As in the slow version, where no synonym is renamed: those pairs are torn apart then."""
    touched = {c for one in operations for c in one.get("concepts", [one.get("concept")])}
    after = edited(base, *operations).dictionary.names
    for a, b in ((x, y) for x in after for y in after):
        if a.name == b.name:
            assert a.group == b.group
        assert after[a.group].group == a.group <= a.concept
    if touched.isdisjoint({4, 5}):
        assert [one.group for one in after] == groups_of([one.name for one in after], {(4, 5)})


def test_a_renamed_concept_leaves_its_group_and_keeps_its_old_name_in_mind(base) -> None:
    found = edited(base, {"op": "rename", "concept": 1, "name": " trainer "}).dictionary.names
    assert (found[1].name, found[1].status, found[1].group) == ("trainer", "named", 1)
    assert found[1].alternatives[0] == ("wing", 0.5)
    assert np.isnan(found[1].score)
    assert found[3].group == 3  # was called after the one that left


def test_a_blocked_concept_is_shown_as_its_index_and_not_found(base) -> None:
    after = edited(base, {"op": "block", "concept": 2})
    assert after.dictionary.names[2].name == "concept 2"
    assert after.hidden == {2}
    text = torch.randn(after.dictionary.directions.shape[1])
    assert 2 in [c for c, _ in base.dictionary.search(text, C)]
    assert 2 not in [c for c, _ in after.dictionary.search(text, C)]


def test_a_sparse_head_keeps_its_number_of_concepts(base) -> None:
    sparse = base.cbm.nec_probes[3]
    used = int(sparse.weights[0].nonzero()[0, 0])
    free = int((sparse.weights[0] == 0).nonzero()[0, 0])
    for concept, expected in ((used, 2.5), (free, 0.0)):
        one = {"op": "set_weight", "class": "ant", "concept": concept, "weight": 2.5}
        after = edited(base, one).cbm
        assert float(after.probe.weights[0, concept]) == 2.5
        assert float(after.nec_probes[3].weights[0, concept]) == expected


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ([], InvalidInput, "list of 1 to 1000"),
        ("remove", InvalidInput, "list of 1 to 1000"),
        ([7], InvalidInput, "not an object"),
        ([{"op": "removes", "concept": 1}], UnknownName, "Nearest known names: remove"),
        ([{"op": "remove"}], InvalidInput, "takes concept; given: nothing"),
        ([{"op": "remove", "concept": True}], InvalidInput, "0 or more"),
        ([{"op": "remove", "concept": -1}], InvalidInput, "0 or more"),
        ([{"op": "rename", "concept": 1, "name": " "}], InvalidInput, "1 to 200 characters"),
        ([{"op": "rename", "concept": 1, "name": "a\nb"}], InvalidInput, "control character"),
        ([{"op": "merge", "concepts": [1, 1], "name": "a"}], InvalidInput, "different"),
        ([{"op": "remove", "concept": C}], InvalidInput, f"0 to {C - 1}"),
        (
            [{"op": "set_weight", "class": "ann", "concept": 1, "weight": 1}],
            UnknownName,
            "Nearest known names: ant",
        ),
        (
            [{"op": "set_weight", "class": "ant", "concept": 1, "weight": float("nan")}],
            InvalidInput,
            "finite",
        ),
        (
            [{"op": "set_weight", "class": "ant", "concept": 1, "weight": 10**400}],
            InvalidInput,
            "finite",
        ),
        (
            [{"op": "remove", "concept": 1},
             {"op": "set_weight", "class": "ant", "concept": 1, "weight": 1}],
            InvalidInput,
            "is removed",
        ),
        (
            [{"op": "set_weight", "class": "ant", "concept": 1, "weight": 1}, {"op": "refit"}],
            InvalidInput,
            "Put set_weight after refit",
        ),
        ([{"op": "refit"}], InvalidInput, "needs the training embeddings"),
    ],
)  # fmt: skip
def test_what_cannot_be_applied_is_refused(base, items, error, message) -> None:
    with pytest.raises(error, match=message):
        apply(base, parse_operations(items))


def test_a_weight_for_a_concept_that_an_earlier_edit_removed_is_refused(base) -> None:
    before = edited(base, {"op": "remove", "concept": 1})
    with pytest.raises(InvalidInput, match="Concept 1 is removed"):
        edited(before, {"op": "set_weight", "class": "ant", "concept": 1, "weight": 1.0})


@RELAXED
@given(st.lists(anything, min_size=1, max_size=5))
def test_operations_survive_json(operations) -> None:
    parsed = parse_operations(operations)
    assert parse_operations([operation_json(one) for one in parsed]) == parsed


def test_evaluation_tells_the_costs_and_calibrates(base, model_dir, tmp_path) -> None:
    data = ModelData(model_dir, base.cbm, tmp_path)
    head, split = base.cbm.probe, data.validation
    concept = int(head.weights.abs().sum(dim=0).argmax())
    after, found = evaluate(base, parse_operations([{"op": "remove", "concept": concept}]), data)
    logits = probe_logits(after.cbm.probe, split.matrix)
    right = (logits.argmax(axis=1) == split.labels).mean()
    before = (probe_logits(head, split.matrix).argmax(axis=1) == split.labels).mean()
    assert found["images"] == 90
    assert (found["accuracy_before"], found["accuracy_after"]) == (before, right)
    assert before > right  # it is the concept that matters most
    assert found["removals"] == [
        {"concept": concept, "name": base.dictionary.names[concept].name,
         "cost": pytest.approx(before - right)}
    ]  # fmt: skip
    assert found["temperatures"]["dense"] == fit_temperature(logits, split.labels)
    assert found["temperatures"]["dense"] != base.cbm.temperatures["dense"]
    shares = [row["accuracy_after"] * row["images"] for row in found["per_class"]]
    assert sum(shares) == pytest.approx(right * 90)


def test_a_refit_forgoes_the_removed_and_is_fitted_once(base, model_dir, tmp_path) -> None:
    data = ModelData(model_dir, base.cbm, tmp_path)
    concept = int(base.cbm.probe.weights.abs().sum(dim=0).argmax())
    operations = parse_operations([{"op": "remove", "concept": concept}, {"op": "refit"}])
    after, found = evaluate(base, operations, data)
    assert all((head.weights[:, concept] == 0).all() for head in every_head(after))
    assert not same_weights(after.cbm, apply(base, operations[:1]).cbm)
    assert found["accuracy_after"] >= found["accuracy_before"] - found["removals"][0]["cost"]
    (made,) = (path for path in tmp_path.iterdir() if not path.name.startswith("."))
    stamp = (made / "manifest.json").stat().st_mtime_ns
    again = apply(base, operations, ModelData(model_dir, base.cbm, tmp_path).refit)
    assert same_weights(again.cbm, after.cbm)
    assert (made / "manifest.json").stat().st_mtime_ns == stamp


def test_without_removals_a_refit_finds_the_same_probe(base, model_dir, tmp_path) -> None:
    data = ModelData(model_dir, base.cbm, tmp_path)
    after = apply(base, parse_operations([{"op": "refit"}]), data.refit)
    assert same_weights(after.cbm, base.cbm)
    assert after.cbm.temperatures == pytest.approx(base.cbm.temperatures)


def test_all_removed_cannot_be_refitted(base, model_dir, tmp_path) -> None:
    items = [{"op": "remove", "concept": c} for c in range(C)]
    data = ModelData(model_dir, base.cbm, tmp_path)
    with pytest.raises(InvalidInput, match="at least one"):
        apply(base, parse_operations([*items, {"op": "refit"}]), data.refit)


def test_embeddings_that_are_gone_are_missed_by_what_needs_them(base, tmp_path) -> None:
    data = ModelData(tmp_path / "nowhere", base.cbm, tmp_path)
    with pytest.raises(Unavailable, match="embeddings is gone"):
        evaluate(base, parse_operations([{"op": "remove", "concept": 1}]), data)
    named = parse_operations([{"op": "rename", "concept": 1, "name": "trainer"}])
    after, found = evaluate(base, named, data)
    assert found["images"] == 0
    assert found["accuracy_after"] is None
    assert found["temperatures"] == base.cbm.temperatures
    assert after.dictionary.names[1].name == "trainer"


def test_embeddings_of_another_model_are_refused(base, model_dir, tmp_path) -> None:
    manifest = replace(base.cbm.manifest, inputs=base.cbm.manifest.inputs | {"embeddings": "x"})
    data = ModelData(model_dir, replace(base.cbm, manifest=manifest), tmp_path)
    with pytest.raises(ArtifactMismatch):
        _ = data.splits


def test_validation_is_held_out_as_it_was_in_training(tmp_path: Path) -> None:
    root = write_model(tmp_path / "m", {"train": 120, "test": 12})
    base = load_base(root)
    data = ModelData(root, base.cbm, tmp_path)
    logits = probe_logits(base.cbm.probe, data.validation.matrix)
    assert len(data.validation.labels) == 12
    assert fit_temperature(logits, data.validation.labels) == base.cbm.temperatures["dense"]
