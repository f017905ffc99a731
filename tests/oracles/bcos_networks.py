"""Whole B-cos networks as products of explicit matrices, read from their state dicts.

Layer by layer a picture becomes `rows @ picture + place`: no derivatives, nothing held.
"""

import math
from itertools import count
from typing import NamedTuple

import numpy as np

from tests.oracles import bcos

Array = np.ndarray


class Maps(NamedTuple):
    """Maps of one picture, and how they came from it: value = rows @ picture + place."""

    value: Array
    rows: Array
    place: Array

    def through(self, matrix: Array, shape: tuple[int, ...]) -> "Maps":
        value = (matrix @ self.value.ravel()).reshape(shape)
        return Maps(value, matrix @ self.rows, matrix @ self.place)

    def plus(self, other: "Maps") -> "Maps":
        return Maps(*(a + b for a, b in zip(self, other, strict=True)))

    def below(self, other: "Maps") -> "Maps":
        return Maps(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class Layers:
    """A state dict, and what layers with its weights do to maps."""

    def __init__(self, state: dict[str, Array], b: float, *, antialiased: bool = False) -> None:
        self.state, self.b, self.antialiased = state, b, antialiased

    def has(self, key: str) -> bool:
        return any(name.startswith(f"{key}.") for name in self.state)

    def conv(
        self, key: str, m: Maps, *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> Maps:
        weight = self.state[f"{key}.linear.weight"]
        thinned = self.antialiased and stride == 2
        if thinned and weight.shape[2:] == (1, 1):
            m = halved(m)
        matrix, _, shape = bcos.conv(
            m.value, weight, None, stride=1 if thinned else stride, padding=padding, groups=groups,
            b=self.b,
        )  # fmt: skip
        m = m.through(matrix, shape)
        return halved(m) if thinned and weight.shape[2:] != (1, 1) else m

    def pool(self, m: Maps) -> Maps:
        return halved(m) if self.antialiased else filtered(m, np.full((3, 3), 1 / 9), 2, 1)

    def batch_norm(self, key: str, m: Maps) -> Maps:
        scale = [
            w / math.sqrt(v + 1e-5)
            for w, v in zip(
                self.state[f"{key}.weight"], self.state[f"{key}.running_var"], strict=True
            )
        ]
        return m.through(np.diag(np.repeat(scale, m.value[0].size)), m.value.shape)

    def norm(self, key: str, m: Maps, *, whole: bool = False, eps: float = 1e-5) -> Maps:
        """Of each place, or of the whole picture; channels come first."""
        channels, places = len(m.value), m.value[0].size
        members = [[c * places + p for c in range(channels)] for p in range(places)]
        members = [sum(members, [])] if whole else members
        scale = np.repeat(self.state[f"{key}.weight"], places)
        matrix = bcos.normalising(m.value, members, scale, centred=True, eps=eps)
        return m.through(matrix, m.value.shape)

    def linear(self, key: str, m: Maps) -> Maps:
        """B-cos on the channels of each place."""
        weight = self.state[f"{key}.linear.weight"]
        found = [
            bcos.linear(row, weight, None, b=self.b, max_out=1, unit_norm=True)[0]
            for row in m.value.reshape(len(m.value), -1).T
        ]
        return m.through(per_place(found), (len(weight), *m.value.shape[1:]))

    def head(self, key: str, m: Maps) -> Maps:
        return mean(self.conv(key, m, padding=self.state[f"{key}.linear.weight"].shape[2] // 2))


def picture(image: Array) -> Maps:
    return Maps(image, np.eye(image.size), np.zeros(image.size))


def per_place(matrices: list[Array]) -> Array:
    """One matrix (o, i) of each place as one of all maps, channels first."""
    places, (outs, ins) = len(matrices), matrices[0].shape
    whole = np.zeros((outs * places, ins * places))
    for p, matrix in enumerate(matrices):
        for o in range(outs):
            for i in range(ins):
                whole[o * places + p, i * places + p] = matrix[o, i]
    return whole


def halved(m: Maps) -> Maps:
    """Each channel by a low-pass about the middles of half as many places."""
    channels, high, wide = m.value.shape
    of_one = np.kron(halving(high), halving(wide))
    shape = (channels, (high + 1) // 2, (wide + 1) // 2)
    return m.through(np.kron(np.eye(channels), of_one), shape)


def halving(side: int) -> Array:
    """Places from pixels along one axis; beyond the border the last pixel (even) or nothing."""
    taps = (1, 3, 3, 1) if side % 2 == 0 else (1, 2, 1)
    found = np.zeros(((side + 1) // 2, side))
    for place in range(len(found)):
        for tap, weight in enumerate(taps):
            pixel = 2 * place - 1 + tap
            if side % 2 == 0:
                pixel = min(max(pixel, 0), side - 1)
            if 0 <= pixel < side:
                found[place, pixel] += weight / sum(taps)
    return found


def filtered(m: Maps, kernel: Array, stride: int, padding: int) -> Maps:
    """Each channel by the same kernel, with zeros around."""
    channels, high, wide = m.value.shape
    size = len(kernel)
    ys = range(0, high + 2 * padding - size + 1, stride)
    xs = range(0, wide + 2 * padding - size + 1, stride)
    rows = []
    for c in range(channels):
        for y in ys:
            for x in xs:
                row = np.zeros(m.value.shape)
                for i in range(size):
                    for j in range(size):
                        inside = 0 <= y + i - padding < high and 0 <= x + j - padding < wide
                        if inside:
                            row[c, y + i - padding, x + j - padding] = kernel[i, j]
                rows.append(row.ravel())
    return m.through(np.array(rows), (channels, len(ys), len(xs)))


def mean(m: Maps) -> Maps:
    places = m.value[0].size
    return m.through(np.kron(np.eye(len(m.value)), np.full((1, places), 1 / places)), (-1,))


def resnet(net: Layers, image: Array, *, small: bool = False, groups: int = 1) -> Maps:
    m = picture(image)
    if small:
        m = net.batch_norm("bn1", net.conv("conv1", m, padding=1))
    else:
        m = net.pool(net.batch_norm("bn1", net.conv("conv1", m, stride=2, padding=3)))
    for stage in (1, 2, 3, 4):
        for block in count():
            key = f"layer{stage}.{block}"
            if not net.has(key):
                break
            stride = 2 if stage > 1 and block == 0 else 1
            m = _residual(net, key, m, stride, groups)
    return net.head("fc", m)


def _residual(net: Layers, key: str, m: Maps, stride: int, groups: int) -> Maps:
    narrow = net.has(f"{key}.conv3")
    plans = [(0, 1, 1), (1, stride, groups), (0, 1, 1)] if narrow else [(1, stride, 1), (1, 1, 1)]
    found = m
    for i, (padding, step, parts) in enumerate(plans, start=1):
        found = net.conv(f"{key}.conv{i}", found, stride=step, padding=padding, groups=parts)
        found = net.batch_norm(f"{key}.bn{i}", found)
    if net.has(f"{key}.downsample"):
        m = net.batch_norm(f"{key}.downsample.1", net.conv(f"{key}.downsample.0", m, stride=stride))
    return found.plus(m)


def densenet(net: Layers, image: Array, *, small: bool = False) -> Maps:
    m = picture(image)
    if small:
        m = net.conv("features.conv0", m, padding=1)
    else:
        m = net.conv("features.conv0", m, stride=2, padding=3)
        m = net.pool(net.batch_norm("features.norm0", m))
    for block in count(1):
        if not net.has(f"features.denseblock{block}"):
            break
        if block > 1:
            key = f"features.transition{block - 1}"
            m = net.conv(f"{key}.conv", net.batch_norm(f"{key}.norm", m))
            m = filtered(m, np.full((2, 2), 0.25), 2, 0)
        for layer in count(1):
            key = f"features.denseblock{block}.denselayer{layer}"
            if not net.has(key):
                break
            grown = net.conv(f"{key}.conv1", net.batch_norm(f"{key}.norm1", m))
            grown = net.conv(f"{key}.conv2", net.batch_norm(f"{key}.norm2", grown), padding=1)
            m = m.below(grown)
    return net.head("classifier", net.batch_norm("features.norm5", m))


def vgg(net: Layers, image: Array, *, depths: tuple[int, ...]) -> Maps:
    m, place = picture(image), 0
    for depth in depths:
        for _ in range(depth):
            m = net.conv(f"features.{place}", m, padding=1)
            m = net.batch_norm(f"features.{place + 1}", m)
            place += 2
        m = filtered(m, np.full((2, 2), 0.25), 2, 0)
        place += 1
    m = net.conv("classifier.1", net.conv("classifier.0", m, padding=3))
    return net.head("classifier.2", m)


def convnext(net: Layers, image: Array, *, batch: bool) -> Maps:
    def norm(key: str, m: Maps) -> Maps:
        return net.batch_norm(key, m) if batch else net.norm(key, m, eps=1e-6)

    m = norm("features.1", net.conv("features.0", picture(image), stride=4))
    for place in count(2):
        if not net.has(f"features.{place}"):
            break
        if place % 2:
            m = norm(f"features.{place}.0", m)
            m = net.conv(f"features.{place}.1", m, stride=2)
            continue
        for block in count():
            key = f"features.{place}.{block}"
            if not net.has(key):
                break
            found = net.conv(f"{key}.block.0", m, padding=3, groups=len(m.value))
            found = net.conv(f"{key}.block.2", norm(f"{key}.block.1", found))
            found = net.conv(f"{key}.block.3", found)
            scale = np.repeat(net.state[f"{key}.layer_scale"].ravel(), m.value[0].size)
            m = found.through(np.diag(scale), m.value.shape).plus(m)
    return net.head("classifier.1", norm("classifier.0", m))


def vit(
    net: Layers, image: Array, *, patch: int, heads: int, strides: tuple[int, ...], table: Array
) -> Maps:
    m = picture(image)
    for place, stride in enumerate(strides):
        key = f"0.to_patch_embedding.conv_stem.{3 * place}"
        m = net.conv(key, m, stride=stride, padding=1)
        m = net.norm(f"0.to_patch_embedding.conv_stem.{3 * place + 1}", m, whole=True)
    m = net.linear("0.to_patch_embedding.linear", _patches(m, patch))
    m = Maps(m.value + table, m.rows, m.place + table.ravel())
    for encoder in count():
        key = f"0.transformer.encoder_{encoder}"
        if not net.has(key):
            break
        m = _attention(net, f"{key}.attn", m, heads).plus(m)
        found = net.linear(f"{key}.ff.net.linear1", net.norm(f"{key}.ff.net.norm", m))
        m = net.linear(f"{key}.ff.net.linear2", found).plus(m)
    whole = mean(m)
    whole = Maps(whole.value[:, None, None], whole.rows, whole.place)
    return net.linear("0.linear_head.linear", net.norm("0.linear_head.norm", whole))


def _patches(m: Maps, size: int) -> Maps:
    """Rows, columns, then channels of each patch become its channels."""
    channels, high, wide = m.value.shape
    order = [
        ((c * high) + y * size + i) * wide + x * size + j
        for i in range(size)
        for j in range(size)
        for c in range(channels)
        for y in range(high // size)
        for x in range(wide // size)
    ]
    shape = (size * size * channels, high // size, wide // size)
    return m.through(np.eye(m.value.size)[order], shape)


def table(channels: int, high: int, wide: int) -> Array:
    waves = np.zeros((channels, high, wide))
    quarter = channels // 4
    for y in range(high):
        for x in range(wide):
            for i in range(quarter):
                wave = 10_000 ** (-i / (quarter - 1))
                waves[i, y, x] = math.sin(x * wave)
                waves[quarter + i, y, x] = math.cos(x * wave)
                waves[2 * quarter + i, y, x] = math.sin(y * wave)
                waves[3 * quarter + i, y, x] = math.cos(y * wave)
    return waves


def _attention(net: Layers, key: str, m: Maps, heads: int) -> Maps:
    m = net.norm(f"{key}.norm", m)
    shape, (width, places) = m.value.shape, (len(m.value), m.value[0].size)
    query, keys, values = np.split(net.state[f"{key}.to_qkv.weight"], 3)
    tokens = m.value.reshape(width, places).T
    size, matrix = width // heads, np.zeros((width * places, width * places))
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = (tokens @ query[part].T) @ (tokens @ keys[part].T).T / math.sqrt(size)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        for channel in range(h * size, (h + 1) * size):
            rows = slice(channel * places, (channel + 1) * places)
            matrix[rows] = np.kron(values[channel][None], shares)
    return net.linear(f"{key}.to_out", m.through(matrix, shape))
