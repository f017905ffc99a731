import multiprocessing
import os
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dncbm.database import Base, Database
from dncbm.database.audit import AuditLog
from dncbm.errors import ArtifactError, ArtifactMismatch, InvalidInput, UnknownName
from dncbm.registry.place import open_store
from dncbm.registry.store import RegistryStore
from dncbm.registry.tables import TABLES
from tests.unit.registry.directories import (
    ENCODER,
    SOURCE,
    rewrite_manifest,
    write_model,
    write_part,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def store(database: Database, root: Path) -> RegistryStore:
    return RegistryStore(database, root)


def test_the_migrated_schema_is_that_of_the_tables(database: Database) -> None:
    ours = {table.__tablename__ for table in TABLES}
    with database.engine.begin() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, _: kind != "table" or name in ours,
                "include_object": lambda item, name, kind, *_: kind != "table" or name in ours,
            },
        )
        assert compare_metadata(context, Base.metadata) == []


def test_a_model_is_recorded_with_everything_in_its_manifests(store: RegistryStore) -> None:
    made = write_model(store.root / "My Shoes", kinds=("report",))
    model = store.register(store.root / "My Shoes")
    assert (model.id, model.path, model.cbm, model.state) == (
        "my-shoes",
        "My Shoes",
        made["cbm"],
        "ready",
    )
    found, total = store.artifacts()
    assert total == len(found) == 5
    sae = store.artifact(made["sae"])
    assert sae.kind == "sae"
    assert sae.paths == ("My Shoes/sae",)
    assert sae.seed == 7
    assert sae.encoder == "mini"  # by the embeddings, which used the same
    assert sae.inputs == {"embeddings": made["embeddings"], "encoder": ENCODER}
    assert sae.metrics == {"accuracy": {"test": {"dense": 0.5}}}
    folder = store.root / "My Shoes" / "sae"
    assert sae.size_bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert sae.created is not None
    assert abs((datetime.now(UTC) - sae.created).total_seconds()) < 600


def test_registering_again_changes_nothing(store: RegistryStore) -> None:
    write_model(store.root / "a")
    before = store.register(store.root / "a"), store.artifacts(), store.models()
    assert (store.register(store.root / "a"), store.artifacts(), store.models()) == before


def test_artifacts_by_kind_and_in_pages(store: RegistryStore) -> None:
    for name in "abc":
        write_model(store.root / name, content=name)
        store.register(store.root / name)
    saes, total = store.artifacts("sae", limit=2)
    more, _ = store.artifacts("sae", limit=2, offset=2)
    assert total == 3
    assert len({item.fingerprint for item in saes + more}) == 3
    assert store.artifacts("nonsense") == ([], 0)
    assert store.artifacts("embeddings")[0][0].paths == (
        "a/embeddings", "b/embeddings", "c/embeddings",
    )  # fmt: skip


def test_lineage_ends_in_what_is_no_artifact(store: RegistryStore) -> None:
    made = write_model(store.root / "a")
    store.register(store.root / "a")
    tree = store.lineage(made["cbm"])
    assert (tree.role, tree.fingerprint) == ("cbm", made["cbm"])
    roles = [part.role for part in tree.inputs]
    assert roles == ["dictionary", "embeddings", "encoder", "sae"]
    dictionary, embeddings, encoder, _ = tree.inputs
    assert encoder.artifact is None
    assert encoder.fingerprint == ENCODER
    sources = [part.fingerprint for part in dictionary.inputs[0].inputs if part.role == "source"]
    assert sources == [SOURCE]
    # the embeddings were taken apart above, under the dictionary
    assert embeddings.more
    assert embeddings.inputs == ()
    with pytest.raises(UnknownName, match="artifact"):
        store.lineage("f" * 64)
    with pytest.raises(UnknownName, match="artifact"):
        store.lineage("a\0b")


def test_a_long_lineage_is_cut(store: RegistryStore) -> None:
    before = SOURCE
    for number in range(120):
        folder = store.root / f"e{number}"
        before = write_part(folder, "embeddings", {"source": before}, str(number))
        store.register_artifacts(folder)
    node, depth = store.lineage(before), 0
    while node.inputs:
        node, depth = node.inputs[0], depth + 1
    assert depth == 100
    assert node.more


def test_weights_of_open_clip_beside_a_model_are_no_half_written_part(store: RegistryStore) -> None:
    write_model(store.root / "a")
    (store.root / "a" / "encoder").mkdir()
    (store.root / "a" / "encoder" / "open_clip_config.json").write_text("{}")
    assert store.register(store.root / "a")


@pytest.mark.parametrize("kind", ["sae", "report"])
def test_a_half_written_part_is_refused_by_name(store: RegistryStore, kind: str) -> None:
    write_model(store.root / "a", kinds=("report",))
    (store.root / "a" / kind / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=f"a/{kind} is half written: it has no manifest.json"):
        store.register(store.root / "a")
    assert store.models() == []
    assert store.artifacts()[1] == 0


def test_drafts_and_unfinished_models_are_refused(store: RegistryStore) -> None:
    write_model(store.root / ".a.draft-01234567")
    with pytest.raises(ArtifactError, match="still being written"):
        store.register(store.root / ".a.draft-01234567")
    write_part(store.root / "b", "embeddings", {"source": SOURCE})
    with pytest.raises(ArtifactError, match="no finished model: cbm, sae, dictionary missing"):
        store.register(store.root / "b")
    with pytest.raises(ArtifactError, match="is not a directory"):
        store.register(store.root / "c")
    with pytest.raises(InvalidInput, match="does not lie under"):
        store.register(store.root / ".." / "elsewhere")


def test_parts_of_two_models_are_refused(store: RegistryStore) -> None:
    write_model(store.root / "a", content="1")
    write_model(store.root / "b", content="2")
    shutil.rmtree(store.root / "a" / "sae")
    shutil.copytree(store.root / "b" / "sae", store.root / "a" / "sae")
    with pytest.raises(ArtifactMismatch, match="was made with sae"):
        store.register(store.root / "a")


@pytest.mark.parametrize(
    "changes",
    [
        {"files": ["data.txt"]},
        {"inputs": {"encoder": 3}},
        {"inputs": {"a\nb": "c"}},
        {"dncbm_version": "1\0"},
        {"config": None},
        {"kind": "x" * 65},
        {"created": 5},
    ],
)
def test_a_manifest_of_another_form_is_an_error_of_ours(
    store: RegistryStore, changes: dict[str, object]
) -> None:
    write_model(store.root / "a")
    rewrite_manifest(store.root / "a" / "sae", **changes)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        store.register(store.root / "a")


def test_numbers_that_are_none_are_kept_as_none(store: RegistryStore) -> None:
    made = write_model(store.root / "a")
    rewrite_manifest(store.root / "a" / "cbm", metrics={"a": [float("nan"), 1.5]})
    store.register(store.root / "a")
    assert store.artifact(made["cbm"]).metrics == {"a": [None, 1.5]}


def test_scan_registers_marks_and_names(store: RegistryStore) -> None:
    for name in ("a", "b", "c"):
        write_model(store.root / name, content=name)
    write_part(store.root / "begun", "embeddings", {"source": SOURCE}, "begun")
    (store.root / "other").mkdir()
    write_model(store.root / ".hidden")
    first = store.scan()
    assert first.models == ("a", "b", "c")
    assert (first.missing, dict(first.refused)) == ((), {})
    assert store.artifacts("embeddings")[1] == 2

    shutil.rmtree(store.root / "a")
    (store.root / "b" / "sae" / "data.txt").unlink()
    second = store.scan()
    assert second.models == ("c",)
    assert second.missing == ("a",)
    assert list(second.refused) == ["b"]
    assert "data.txt missing" in second.refused["b"]
    assert {model.id: model.state for model in store.models()} == {
        "a": "missing", "b": "damaged", "c": "ready",
    }  # fmt: skip
    assert store.artifacts()[1] == 11  # what vanished is still known
    gone = next(item for item in store.artifacts("cbm")[0] if not item.paths)
    assert store.lineage(gone.fingerprint).inputs

    write_model(store.root / "a", content="a")
    write_model(store.root / "b", content="b")
    assert store.scan().models == ("a", "b", "c")


def test_the_root_itself_may_be_the_model(database: Database, root: Path) -> None:
    made = write_model(root)
    store = RegistryStore(database, root)
    assert store.scan().models == ("models",)
    assert store.artifact(made["sae"]).paths == ("sae",)
    assert store.directory(store.model("models")) == root


def test_ids_stay(store: RegistryStore) -> None:
    write_model(store.root / "A b", content="1")
    write_model(store.root / "a_b", content="2")
    assert store.scan().models == ("a-b", "a-b-2")
    shutil.rmtree(store.root / "A b")
    assert store.scan().models == ("a-b-2",)
    write_model(store.root / "a b", content="3")  # another directory: no vanished id is reused
    assert store.register(store.root / "a b").id == "a-b-3"
    os.rename(store.root / "a_b", store.root / "moved")
    assert store.scan().models == ("a-b-2", "a-b-3")
    assert store.model("a-b-2").path == "moved"
    write_model(store.root / "moved", content="4")  # trained again in its place
    before = store.model("a-b-2").cbm
    assert store.register(store.root / "moved").id == "a-b-2"
    assert store.model("a-b-2").cbm != before


def test_an_alias_and_its_history(store: RegistryStore) -> None:
    for name in "ab":
        write_model(store.root / name, content=name)
    store.scan()
    store.set_alias("production", "a", author="Ann", reason="first")
    store.set_alias("production", "b", author=" Bob ", reason="better")
    store.set_alias("production", "b", author="Bob", reason="better")  # changes nothing
    store.set_alias("canary", "production", author="Ann", reason="as production now")
    assert [(item.name, item.model) for item in store.aliases()] == [
        ("canary", "b"),
        ("production", "b"),
    ]
    assert store.model("production").id == "b"
    store.delete_alias("production", author="Ann", reason="over")
    with pytest.raises(UnknownName, match="canary"):
        store.model("production")
    history = [(item.model, item.author, item.reason) for item in store.alias_history("production")]
    assert history == [(None, "Ann", "over"), ("b", "Bob", "better"), ("a", "Ann", "first")]
    assert store.model("canary").id == "b"
    log = AuditLog(store.database)
    _, entries = log.page(limit=10, offset=0)
    assert [(item.action, item.subject, item.author) for item in entries] == [
        ("alias.delete", "production", "Ann"),
        ("alias.set", "canary", "Ann"),
        ("alias.set", "production", "Bob"),
        ("alias.set", "production", "Ann"),
    ]
    assert entries[1].detail == {"model": "b", "reason": "as production now"}
    assert log.verify().intact


def test_aliases_that_cannot_be(store: RegistryStore) -> None:
    write_model(store.root / "a")
    store.scan()
    for name in ("", "A", "a b", "../x", "a--b", "-a", "x" * 65, "a\n"):
        with pytest.raises(InvalidInput, match="is not possible"):
            store.set_alias(name, "a", author="Ann", reason="r")
    with pytest.raises(InvalidInput, match="is the id of a model"):
        store.set_alias("a", "a", author="Ann", reason="r")
    with pytest.raises(UnknownName, match="Unknown model 'b'"):
        store.set_alias("x", "b", author="Ann", reason="r")
    for author, reason in ((" ", "r"), ("Ann", ""), ("A\0", "r"), ("Ann", "r" * 2001)):
        with pytest.raises(InvalidInput, match="of the change"):
            store.set_alias("x", "a", author=author, reason=reason)
    for name in ("none", "é", "a\0", "x" * 300):
        for ask in (store.alias, store.alias_history, store.model):
            with pytest.raises(UnknownName):
                ask(name)
        with pytest.raises(UnknownName):
            store.delete_alias(name, author="Ann", reason="r")
    assert store.aliases() == []
    shutil.rmtree(store.root / "a")
    store.scan()
    with pytest.raises(InvalidInput, match="is missing"):
        store.set_alias("x", "a", author="Ann", reason="r")


def test_a_new_model_does_not_take_the_name_of_an_alias(store: RegistryStore) -> None:
    write_model(store.root / "a", content="1")
    store.scan()
    store.set_alias("production", "a", author="Ann", reason="r")
    write_model(store.root / "production", content="2")
    assert store.register(store.root / "production").id == "production-2"


def test_threads_that_register_the_same_model_make_one_row(store: RegistryStore) -> None:
    write_model(store.root / "a")
    barrier = threading.Barrier(4)
    ids = []

    def register() -> None:
        barrier.wait()
        ids.append(store.register(store.root / "a").id)

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids == ["a"] * 4
    assert len(store.models()) == 1
    assert store.artifacts()[1] == 4


def _register(url: str, root: Path) -> None:
    RegistryStore(Database(url), root).register(root / "a")


def test_processes_that_register_the_same_model_make_one_row(
    store: RegistryStore, database: Database
) -> None:
    write_model(store.root / "a")
    url = database.url.render_as_string(hide_password=False)
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_register, args=(url, store.root)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [model.id for model in store.models()] == ["a"]
    assert store.artifacts()[1] == 4


def test_the_database_lies_in_the_state_folder(tmp_path: Path) -> None:
    root = tmp_path / "models"
    write_model(root / "a")
    store = open_store(root)
    assert store.scan().models == ("a",)
    assert (root / ".dncbm" / "dncbm.sqlite").is_file()
    assert open_store(root, tmp_path / "state").models() == []
    assert open_store(root, url=f"sqlite:///{tmp_path}/b.sqlite").models() == []
    with pytest.raises(InvalidInput, match="is not a directory"):
        open_store(tmp_path / "nothing")
