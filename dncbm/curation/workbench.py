"""From edits in the database to edited models, and back with what they cost."""

from dataclasses import replace
from pathlib import Path
from typing import final

from dncbm.curation.apply import Edited, apply, same_weights
from dncbm.curation.data import ModelData
from dncbm.curation.evaluate import evaluate
from dncbm.curation.operations import Operation
from dncbm.curation.store import CurationStore, Edit, ModelKey
from dncbm.errors import Conflict

REFITS = "refits"


@final
class Workbench:
    """One model directory with its edits.

    Args:
        store: of the edits.
        model: id and fingerprint under which they are kept.
        base: the model unedited.
        path: the model directory.
        state: folder for what is made on the way, such as refitted heads.
    """

    def __init__(
        self, store: CurationStore, model: ModelKey, base: Edited, path: Path, state: Path
    ) -> None:
        self.store, self.model, self.base = store, model, base
        self._path, self._cache = path, state / REFITS

    @property
    def _data(self) -> ModelData:
        """Read anew each time: codes of many images are not kept while nobody edits."""
        return ModelData(self._path, self.base.cbm, self._cache)

    def with_edits(self, edits: list[Edit]) -> Edited:
        """The model after the edits of a chain, with what its evaluation measured.

        Those are the temperatures and, where decisions changed, the accuracy: that of the model as
        it was made does not hold any more.
        """
        operations = [one for edit in edits for one in edit.operations]
        made = apply(self.base, operations, self._data.refit)
        evaluation = edits[-1].evaluation if edits else None
        if evaluation is None:
            return made
        metrics = dict(made.cbm.metrics)
        if evaluation["heads"] and not same_weights(self.base.cbm, made.cbm):
            after = {row["head"]: row["accuracy_after"] for row in evaluation["heads"]}
            metrics["accuracy"] = {evaluation["split"]: after}
        known = {"temperatures": evaluation["temperatures"], "metrics": metrics}
        return replace(made, cbm=replace(made.cbm, **known))

    def active(self) -> tuple[Edit | None, Edited]:
        """The edit that is active, and the model as it is with it."""
        edit = self.store.active(self.model)
        edits = [] if edit is None else self.store.chain(self.model, edit.id)
        return edit, self.with_edits(edits)

    def propose(self, operations: tuple[Operation, ...], *, author: str, reason: str) -> Edit:
        """A draft on top of the active edit, of operations that can be applied to it.

        Raises:
            InvalidInput: a concept that does not exist, or a weight for a removed one.
            UnknownName: a class that does not exist.
        """
        _, before = self.active()
        apply(before, operations, lambda cbm, _: cbm)  # a refit can always be done, but slowly
        return self.store.create(self.model, operations, author=author, reason=reason)

    def evaluate(self, edit_id: int, *, author: str) -> Edit:
        """Measure an edit against its parent, and keep the figures with it.

        Raises:
            UnknownName: the model has no such edit.
            Conflict: it is or was active.
            Unavailable: decisions change, and the embeddings of the model are gone.
        """
        edit = self.store.get(self.model, edit_id)
        if edit.status not in ("draft", "evaluated"):
            raise Conflict(
                f"Edit {edit_id} is {edit.status} and keeps the evaluation that it has. Make a "
                "new edit to measure something else."
            )
        before = self.with_edits(self.store.chain(self.model, edit.parent))
        _, found = evaluate(before, edit.operations, self._data)
        return self.store.record_evaluation(self.model, edit_id, found, author=author)
