"""Any order of writing, removing, registering, scanning and naming, beside a plain model of it."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dncbm.database import Database
from dncbm.errors import ArtifactError, InvalidInput, UnknownName
from dncbm.registry.store import RegistryStore
from tests.unit.registry.directories import write_model

NAMES = st.sampled_from(["a", "b"])
ALIASES = st.sampled_from(["production", "canary"])
CONTENT = st.sampled_from(["1", "2"])


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.root = self.folder / "models"
        self.root.mkdir()
        self.database = Database(f"sqlite:///{self.folder}/a.sqlite")
        self.store = RegistryStore(self.database, self.root)
        self.disk: dict[str, str] = {}  # directory -> fingerprint of its cbm
        self.models: dict[str, list[str]] = {}  # id -> [directory, cbm, state]
        self.aliases: dict[str, str] = {}
        self.history: dict[str, list[str | None]] = {}

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        self.write("a", "1")
        self.scan()

    @rule(name=NAMES, content=CONTENT)
    def write(self, name: str, content: str) -> None:
        # the name is part of the content: what is no copy is never taken for moved
        self.disk[name] = write_model(self.root / name, content=name + content)["cbm"]

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        shutil.rmtree(self.root / name, ignore_errors=True)
        self.disk.pop(name, None)

    @rule(name=NAMES)
    def register(self, name: str) -> None:
        if name in self.disk:
            assert self.store.register(self.root / name).id == name
            self.models[name] = [name, self.disk[name], "ready"]
        else:
            with pytest.raises(ArtifactError):
                self.store.register(self.root / name)

    @rule()
    def scan(self) -> None:
        found = self.store.scan()
        for name, cbm in self.disk.items():
            self.models[name] = [name, cbm, "ready"]
        for name in self.models.keys() - self.disk.keys():
            self.models[name][2] = "missing"
        assert set(found.models) == self.disk.keys()
        assert set(found.missing) == self.models.keys() - self.disk.keys()

    @rule(alias=ALIASES, wanted=st.one_of(NAMES, ALIASES))
    def set_alias(self, alias: str, wanted: str) -> None:
        model = self.aliases.get(wanted, wanted)
        if model not in self.models:
            error: type[Exception] = UnknownName
        elif self.models[model][2] != "ready":
            error = InvalidInput
        else:
            self.store.set_alias(alias, wanted, author="Ann", reason="r")
            if self.aliases.get(alias) != model:
                self.history.setdefault(alias, []).insert(0, model)
            self.aliases[alias] = model
            return
        with pytest.raises(error):
            self.store.set_alias(alias, wanted, author="Ann", reason="r")

    @rule(alias=ALIASES)
    def delete_alias(self, alias: str) -> None:
        if self.aliases.pop(alias, None) is None:
            with pytest.raises(UnknownName):
                self.store.delete_alias(alias, author="Ann", reason="r")
        else:
            self.store.delete_alias(alias, author="Ann", reason="r")
            self.history[alias].insert(0, None)

    @invariant()
    def the_store_says_the_same(self) -> None:
        found = {item.id: [item.path, item.cbm, item.state] for item in self.store.models()}
        assert found == self.models
        assert {item.name: item.model for item in self.store.aliases()} == self.aliases
        for alias, model in self.aliases.items():
            assert self.store.model(alias).id == model
        for alias, history in self.history.items():
            assert [item.model for item in self.store.alias_history(alias)] == history


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=25, stateful_step_count=15, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
