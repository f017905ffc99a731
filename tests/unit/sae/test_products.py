"""Custom gradients against finite differences, and the memory that steps share."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from dncbm.sae.active import ActiveCodes, choose, decode_active, decode_bags
from dncbm.sae.products import Products

ROWS, WIDTH, CONCEPTS = 5, 4, 7


def _made(*shape: int, seed: int = 0) -> Tensor:
    made = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return made.requires_grad_()


INPUTS, WEIGHT, BIAS = _made(ROWS, WIDTH, seed=1).detach(), _made(CONCEPTS, WIDTH, seed=2), _made(7)
DIRECTIONS = _made(CONCEPTS, WIDTH, seed=3)


def test_chosen_entries() -> None:
    positions = torch.tensor([0, 3, 6, 8, 9, 22, 23, 34])  # a row without any, concepts without any

    def values(weight: Tensor, bias: Tensor) -> Tensor:
        pre = (INPUTS @ weight.T + bias).detach()
        return choose(pre, positions, INPUTS, weight, bias).values

    assert gradcheck(values, (WEIGHT, BIAS))
    found = choose(INPUTS @ WEIGHT.T.detach(), positions, INPUTS, WEIGHT, BIAS)
    assert found.rows.tolist() == [0, 0, 0, 1, 1, 3, 3, 4]
    assert found.concepts.tolist() == [0, 3, 6, 1, 2, 1, 2, 6]
    assert found.starts.tolist() == [0, 3, 5, 5, 7]


def test_no_chosen_entry() -> None:
    none = torch.empty(0, dtype=torch.int64)
    found = choose(INPUTS @ WEIGHT.T.detach(), none, INPUTS, WEIGHT, BIAS)
    rebuilt = decode_active(found, DIRECTIONS)
    assert not rebuilt.any()
    gradients = torch.autograd.grad(rebuilt.sum() + found.values.sum(), (WEIGHT, BIAS))
    assert not any(gradient.any() for gradient in gradients)


def test_sparse_decoding() -> None:
    concepts, starts = torch.tensor([2, 2, 6, 0]), torch.tensor([0, 1, 1, 4])

    def decoded(values: Tensor, directions: Tensor) -> Tensor:
        return decode_bags(concepts, values, starts, directions)

    assert gradcheck(decoded, (_made(4), DIRECTIONS))
    codes = ActiveCodes(_made(4), concepts, torch.tensor([0, 2, 2, 2]), starts)
    expected = torch.zeros(4, WIDTH, dtype=torch.float64)
    for value, concept, row in zip(*codes[:3], strict=True):
        expected[row] += value * DIRECTIONS[concept]
    torch.testing.assert_close(decode_active(codes, DIRECTIONS), expected)


def test_dense_pre_activations() -> None:
    def pre(weight: Tensor, bias: Tensor) -> Tensor:
        products = Products()
        parts = (INPUTS, weight, bias)
        return products.tracked(products.pre_activations(*parts), *parts)

    torch.testing.assert_close(pre(WEIGHT, BIAS), INPUTS @ WEIGHT.T + BIAS)
    assert gradcheck(pre, (WEIGHT, BIAS))


@pytest.mark.parametrize("which", ["codes", "sum", "both"])
def test_rectified(which: str) -> None:
    def rectified(weight: Tensor, bias: Tensor) -> Any:
        products = Products()
        parts = (INPUTS, weight, bias)
        codes, total = products.rectified(products.pre_activations(*parts), *parts)
        return {"codes": codes, "sum": total, "both": codes * total}[which]

    codes = (INPUTS @ WEIGHT.T + BIAS).clamp(min=0)
    expected = {"codes": codes, "sum": codes.sum(), "both": codes * codes.sum()}[which]
    torch.testing.assert_close(rectified(WEIGHT, BIAS), expected)
    assert gradcheck(rectified, (WEIGHT, BIAS))


def test_dense_decoding() -> None:
    def decoded(codes: Tensor, directions: Tensor) -> Tensor:
        return Products().decode(codes, directions)

    codes = _made(ROWS, CONCEPTS, seed=4)
    torch.testing.assert_close(decoded(codes, DIRECTIONS), codes @ DIRECTIONS)
    assert gradcheck(decoded, (codes, DIRECTIONS))
    assert gradcheck(lambda codes: decoded(codes, DIRECTIONS.detach()), (codes,))
    assert gradcheck(lambda directions: decoded(codes.detach(), directions), (DIRECTIONS,))


def _three_decodings(products: Products, weight: Tensor, bias: Tensor) -> Tensor:
    """As in a Gated step with the auxiliary loss: the deepest graph over shared memory."""
    parts = (INPUTS, weight, bias)
    pre = products.tracked(products.pre_activations(*parts), *parts)
    gate = products.decode(pre.relu(), DIRECTIONS.detach(), name="gate slopes")
    rebuilt = products.decode((2 * pre + bias).relu(), DIRECTIONS)
    some = (INPUTS, weight[:3], bias[:3])
    dead = products.tracked(products.pre_activations(*some, name="dead"), *some)
    helped = products.decode(dead.relu(), DIRECTIONS[:3], name="dead slopes")
    return rebuilt.square().sum() + gate.pow(3).sum() + helped.square().sum()


def test_one_step_may_hold_all_tables_at_once() -> None:
    assert gradcheck(
        lambda weight, bias: (
            _three_decodings(Products(), weight, bias) + _three_decodings(Products(), weight, bias)
        ),
        (WEIGHT, BIAS),
    )


def test_the_next_step_works_in_the_same_memory_and_leaves_the_gradients_alone() -> None:
    products = Products()
    first = torch.autograd.grad(_three_decodings(products, WEIGHT, BIAS), (WEIGHT, BIAS))
    kept = [gradient.clone() for gradient in first]
    places = {name: held.data_ptr() for name, held in products._buffers.items()}
    _three_decodings(products, 2 * WEIGHT, BIAS).backward(inputs=[WEIGHT])
    assert {name: held.data_ptr() for name, held in products._buffers.items()} == places
    assert len(set(places.values())) == len(places) == 5
    assert all(torch.equal(gradient, before) for gradient, before in zip(first, kept, strict=True))
    again = torch.autograd.grad(_three_decodings(products, WEIGHT, BIAS), (WEIGHT, BIAS))
    assert all(torch.equal(gradient, before) for gradient, before in zip(again, kept, strict=True))
    WEIGHT.grad = None


def test_a_table_that_was_overwritten_before_backward_is_noticed() -> None:
    products, parts = Products(), (INPUTS, WEIGHT, BIAS)
    codes, total = products.rectified(products.pre_activations(*parts), *parts)
    loss = products.decode(codes, DIRECTIONS).square().sum() + total
    products.pre_activations(*parts)  # the next step, too early
    with pytest.raises(RuntimeError, match="modified (by an )?inplace"):
        loss.backward()


def test_a_finished_step_is_freed_without_the_garbage_collector() -> None:
    products, inputs = Products(), torch.randn(ROWS, WIDTH, dtype=torch.float64)
    parts = (inputs, WEIGHT, BIAS)
    codes, total = products.rectified(products.pre_activations(*parts), *parts)
    torch.autograd.grad(products.decode(codes, DIRECTIONS).sum() + total, (WEIGHT, BIAS))
    seen = weakref.ref(inputs)
    del inputs, parts, codes, total
    assert seen() is None


def test_a_smaller_batch_uses_a_part_of_the_memory_and_a_larger_one_gets_new() -> None:
    products, like = Products(), torch.zeros(1)
    whole = products.buffer("pre", 6, 5, like)
    assert products.buffer("pre", 2, 5, like).data_ptr() == whole.data_ptr()
    assert products.buffer("pre", 7, 5, like).numel() == 35
    assert products.buffer("pre", 2, 5, like.double()).dtype == torch.float64


@pytest.mark.parametrize("rows", [0, 1, 255, 256, 257, 700])
def test_active_codes_are_counted_exactly_in_bfloat16(rows: int) -> None:
    codes = torch.ones(rows, 3, dtype=torch.bfloat16)
    codes[::3, 1] = 0
    counts = Products(torch.bfloat16).count_active(codes)
    assert counts.tolist() == [rows, rows - -(-rows // 3), rows]


def test_bfloat16_products_leave_gradients_in_the_parameters_type() -> None:
    products = Products(torch.bfloat16)
    inputs = torch.randn(64, 32)
    weight, bias = torch.randn(48, 32, requires_grad=True), torch.randn(48, requires_grad=True)
    pre = products.pre_activations(inputs, weight, bias)
    assert pre.dtype == torch.bfloat16
    codes, total = products.rectified(pre, inputs, weight, bias)
    rebuilt = products.decode(codes, weight)
    (rebuilt.square().mean() + 0.1 * total / 64).backward()
    exact_codes = (inputs @ weight.T + bias).relu()
    exact = (exact_codes @ weight).square().mean() + 0.1 * exact_codes.sum() / 64
    for parameter, expected in zip(
        (weight, bias), torch.autograd.grad(exact, (weight, bias)), strict=True
    ):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert float((parameter.grad - expected).norm() / expected.norm()) < 0.02
