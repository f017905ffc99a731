"""Statistics and tests against slow formulas in float64, image by image."""

import math
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dncbm.database import Base, Database
from dncbm.drift.compare import compare, corrected, stability_index
from dncbm.drift.monitor import DriftMonitor, Flusher
from dncbm.drift.reference import Reference
from dncbm.drift.statistics import CodeStatistics, decile_edges, edges_mark, even_edges
from dncbm.drift.store import DriftStore
from dncbm.errors import ArtifactError, InvalidInput, Unavailable


def sparse_codes(images: int, concepts: int, seed: int, *, boost: int = 0) -> np.ndarray:
    """Concepts of falling density; the first `boost` of them are three times as frequent."""
    draw = np.random.default_rng(seed)
    density = np.linspace(0.3, 0.02, concepts)
    density[:boost] *= 3
    is_active = draw.random((images, concepts)) < density
    return np.where(is_active, draw.gamma(2.0, 1.0, (images, concepts)), 0.0).astype(np.float32)


def reference(codes: np.ndarray) -> Reference:
    edges = decile_edges(codes)
    found = CodeStatistics.of(codes, edges)
    return Reference(
        edges=edges, density=found.density, mean=found.mean, statistics=found,
        fingerprint=f"model-{edges_mark(edges)}",
    )  # fmt: skip


def test_statistics_equal_those_of_a_loop() -> None:
    codes = sparse_codes(200, 7, 0)
    codes[:, 6] = 0
    edges = decile_edges(codes)
    found = CodeStatistics.of(codes, edges)
    assert found.images == 200
    for concept in range(7):
        column = [float(code) for code in codes[:, concept]]
        active = [code for code in column if code > 0]
        assert found.active[concept] == len(active)
        assert found.total[concept] == pytest.approx(math.fsum(active), rel=1e-12)
        assert found.squares[concept] == pytest.approx(math.fsum(c * c for c in active), rel=1e-12)
        bins = [0] * 10
        for code in active:
            bins[sum(code >= edge for edge in edges[concept])] += 1
        assert found.histogram[concept].tolist() == bins
        assert found.deviation[concept] == pytest.approx(np.std(column), abs=1e-9)
        if active:
            assert max(bins) - min(bins) <= 1  # deciles


def test_dense_and_sparse_tables_count_the_same() -> None:
    codes = sparse_codes(50, 5, 1)
    edges = decile_edges(sp.csr_matrix(codes))
    assert np.array_equal(edges, decile_edges(codes))
    a, b = CodeStatistics.of(codes, edges), CodeStatistics.of(sp.csr_matrix(codes), edges)
    assert np.array_equal(a.histogram, b.histogram)
    assert np.allclose(a.total, b.total, rtol=1e-14)


def test_parts_add_up_to_the_whole() -> None:
    codes = sparse_codes(100, 5, 2)
    edges = decile_edges(codes)
    whole = CodeStatistics.of(codes, edges)
    parts = CodeStatistics.empty(edges)
    for start in range(0, 100, 7):
        parts = parts + CodeStatistics.of(codes[start : start + 7], edges)
    for name in ("images", "active", "histogram"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))
    for name in ("total", "squares", "mean", "deviation"):
        assert np.allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
    with pytest.raises(InvalidInput, match="different edges"):
        whole + CodeStatistics.empty(edges + 1)


def test_codes_that_do_not_fit_are_refused() -> None:
    edges = decile_edges(sparse_codes(20, 5, 3))
    with pytest.raises(InvalidInput, match="4 concepts; the edges have 5"):
        CodeStatistics.of(np.zeros((2, 4)), edges)
    with pytest.raises(InvalidInput, match="NaN"):
        CodeStatistics.of(np.full((1, 5), np.nan), edges)


def slow_p(x1: int, n1: int, x2: int, n2: int) -> float:
    pooled = (x1 + x2) / (n1 + n2)
    z = (x2 / n2 - x1 / n1) / math.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n2))
    return 2 * (1 - 0.5 * (1 + math.erf(abs(z) / math.sqrt(2))))


def slow_correction(p: list[float]) -> list[float]:
    m = len(p)
    ranked = sorted(range(m), key=p.__getitem__)
    found = [0.0] * m
    for place, index in enumerate(ranked):
        later = [p[ranked[j]] * m / (j + 1) for j in range(place, m)]
        found[index] = min(1.0, *later)
    return found


def test_p_values_equal_slow_ones() -> None:
    known = reference(sparse_codes(1000, 30, 4))
    live = CodeStatistics.of(sparse_codes(300, 30, 5, boost=3), known.edges)
    found = compare(live, known)
    trained = known.statistics
    plain = [
        slow_p(int(a), 1000, int(b), 300) for a, b in zip(trained.active, live.active, strict=True)
    ]
    assert found.tested == 30
    assert found.p_value == pytest.approx(slow_correction(plain), abs=1e-12)
    assert set(np.flatnonzero(found.is_shifted)) >= {0, 1, 2}
    for concept in (0, 7):
        deviation = np.std(sparse_codes(1000, 30, 4)[:, concept].astype(float))
        mean = live.total[concept] / 300 - known.statistics.total[concept] / 1000
        assert found.shift[concept] == pytest.approx(mean / deviation, rel=1e-9)


def test_stability_index_equals_a_slow_one() -> None:
    known = reference(sparse_codes(400, 4, 6))
    live = CodeStatistics.of(sparse_codes(100, 4, 7, boost=1), known.edges)
    for concept, value in enumerate(stability_index(live, known)):
        total = 0.0
        old, new = known.statistics, live
        before = [*old.histogram[concept], old.images - old.active[concept]]
        now = [*new.histogram[concept], new.images - new.active[concept]]
        for b, n in zip(before, now, strict=True):
            p, q = (b + 0.5) / (400 + 5.5), (n + 0.5) / (100 + 5.5)
            total += (q - p) * math.log(q / p)
        assert value == pytest.approx(total, rel=1e-12)


def test_false_alarms_are_rare_where_nothing_changed() -> None:
    known = reference(sparse_codes(3000, 200, 8))
    shares = []
    for seed in range(20):
        live = CodeStatistics.of(sparse_codes(500, 200, 100 + seed), known.edges)
        shares.append(compare(live, known).share_shifted)
    assert np.mean(shares) < 0.01
    changed = CodeStatistics.of(sparse_codes(500, 200, 9, boost=20), known.edges)
    alarms = np.flatnonzero(compare(changed, known).is_shifted).tolist()
    assert alarms[:20] == list(range(20))
    assert len(alarms) <= 22  # of all alarms a twentieth may be false


def test_too_few_images_are_not_tested() -> None:
    known = reference(sparse_codes(1000, 10, 10))
    for images in (0, 3):
        live = CodeStatistics.of(sparse_codes(images, 10, 11), known.edges)
        found = compare(live, known)
        assert (found.tested, found.shifted, found.share_shifted, found.psi) == (0, 0, None, None)
    assert np.isnan(corrected(np.array([np.nan, 0.5]))[0])


def test_without_training_codes_the_dictionary_is_compared() -> None:
    codes = sparse_codes(5000, 10, 12)
    whole = reference(codes)
    edges = even_edges(codes.max(axis=0).astype(float))
    bare = Reference(
        edges=edges, density=whole.density, mean=whole.mean, statistics=None, fingerprint="x"
    )
    same = CodeStatistics.of(sparse_codes(500, 10, 13), edges)
    other = CodeStatistics.of(sparse_codes(500, 10, 13, boost=4), edges)
    assert compare(same, bare).shifted == 0
    found = compare(other, bare)
    assert np.flatnonzero(found.is_shifted).tolist() == [0, 1, 2, 3]
    assert np.isnan(found.shift).all()
    assert found.psi > compare(same, bare).psi


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.of_file(tmp_path / "drift.sqlite")


def test_the_schema_is_what_the_steps_make(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        differences = compare_metadata(context, Base.metadata)
    assert [item for item in differences if "drift" in str(item)] == []


def test_threads_and_processes_lose_nothing(database: Database) -> None:
    """Two monitors stand for two processes; each is used by four threads."""
    codes = sparse_codes(640, 6, 14)
    known = reference(codes)
    monitors = [DriftMonitor(known, DriftStore(database)) for _ in range(2)]

    def serve(number: int) -> None:
        monitor = monitors[number % 2]
        for start in range(80 * number, 80 * (number + 1), 8):
            monitor.observe(torch.from_numpy(codes[start : start + 8]))
            if start % 5 == 0:
                monitor.flush()

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monitors[0].flush()
    live, since = monitors[1].read()
    assert live.images == 640
    assert np.array_equal(live.histogram, known.statistics.histogram)
    assert np.allclose(live.squares, known.statistics.squares, rtol=1e-12)
    assert since is not None
    assert monitors[1].share_shifted == 0
    monitors[0].reset()
    assert monitors[0].read()[0].images == 0
    assert monitors[0].share_shifted is None


def test_counts_survive_a_database_that_does_not_answer(database: Database) -> None:
    codes = sparse_codes(40, 6, 15)
    monitor = DriftMonitor(reference(codes), DriftStore(database))

    class Away:
        def add(self, *_: object) -> None:
            raise Unavailable("away")

    store, monitor._store = monitor._store, Away()
    flusher = Flusher(0.001)
    flusher.add(monitor)
    monitor.observe(torch.from_numpy(codes))
    with pytest.raises(Unavailable):
        monitor.flush()
    monitor._store = store
    flusher.close()
    assert (
        store.read(monitor.reference.fingerprint, monitor.reference.edges).statistics.images == 40
    )


def test_bad_codes_do_not_stop_serving(database: Database) -> None:
    monitor = DriftMonitor(reference(sparse_codes(40, 6, 16)), DriftStore(database))
    monitor.observe(torch.full((1, 6), float("nan")))
    assert monitor.read()[0].images == 0


def test_statistics_of_other_sizes_are_refused(database: Database) -> None:
    store = DriftStore(database)
    part = CodeStatistics.of(sparse_codes(9, 6, 17), np.ones((6, 9)))
    store.add("same", part)
    with pytest.raises(ArtifactError, match="6 concepts in 10 bins; this model has 5"):
        store.read("same", np.ones((5, 9)))
