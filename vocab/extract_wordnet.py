"""Reduce WordNet to the nouns that can be seen: writes `wordnet_visual.tsv`.

Run once per WordNet release; the result is committed, so `build.py` does not need WordNet:

    python vocab/extract_wordnet.py DICT_DIRECTORY

`DICT_DIRECTORY` holds `data.noun` and `index.sense` of WordNet 3.1. A lemma is
kept when a visible sense is its most common one. A sense is visible by its lexicographer
file (artifacts, animals, plants, food, bodies, ...) or by standing below one of a few roots
in a mostly abstract file (colours, sports, weather, ...). Instances (people, places), words
written with a capital and genus names are dropped.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

NOUN_FILES = {
    5: "animal", 6: "artifact", 8: "body", 13: "food", 17: "object",
    20: "plant", 25: "shape", 27: "substance",
}  # fmt: skip
CAPITALS_ALLOWED = {"animal", "artifact", "food", "plant"}

# Visible branches of mostly abstract files, by the first word and number of the root sense.
ROOTS = {
    ("color", 7): "colour",
    ("texture", 7): "texture",
    ("weather", 19): "weather",
    ("atmospheric_phenomenon", 19): "weather",
    ("light", 19): "weather",
    ("sport", 4): "activity",
    ("dance", 4): "activity",
    ("dancing", 4): "activity",
    ("locomotion", 4): "activity",
    ("diversion", 4): "activity",
    ("contest", 11): "event",
    ("social_gathering", 14): "event",
    ("ceremony", 11): "event",
    ("celebration", 4): "event",
    ("show", 11): "event",
    ("geographical_area", 15): "place",
    ("tract", 15): "place",
    ("urban_area", 15): "place",
    ("vegetation", 14): "place",
    ("grouping", 14): "group",
    ("crowd", 14): "group",
    ("animal_group", 14): "group",
    ("picture", 10): "picture",
    ("sign", 10): "picture",
    ("symbol", 10): "picture",
    ("gesture", 10): "activity",
    ("facial_expression", 10): "activity",
    ("flag", 10): "picture",
    ("fire", 11): "event",
    ("explosion", 11): "event",
}

# Branches of visible files that no photograph shows: medicines, chemistry, anatomy, microbes.
HIDDEN_ROOTS = {
    ("drug", 6), ("medicine", 6), ("chemical_element", 27), ("compound", 27), ("poison", 27),
    ("organic_compound", 27), ("protein", 27), ("atom", 27), ("nerve", 8), ("artery", 8),
    ("vein", 8), ("muscle", 8), ("cell", 3), ("microorganism", 3), ("bacteria", 5),
    ("neural_structure", 8), ("internal_organ", 8), ("gland", 8), ("ligament", 8),
    ("reproductive_organ", 8), ("secretion", 8), ("molecule", 27), ("taxonomic_group", 5),
    ("taxonomic_group", 20), ("antigen", 27), ("hormone", 8), ("duct", 8), ("bone", 8),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Synset:
    """One WordNet synset: its members and its direct hypernyms."""

    file: int
    words: tuple[str, ...]
    parents: tuple[str, ...]
    instance: bool


def read_synsets(path: Path) -> dict[str, Synset]:
    """The synsets of a `data.*` file by offset."""
    synsets = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split(" | ")[0].split()
        count = int(fields[3], 16)
        rest = fields[4 + 2 * count :]
        pointers = [rest[1 + 4 * i : 5 + 4 * i] for i in range(int(rest[0]))]
        synsets[fields[0]] = Synset(
            file=int(fields[1]),
            words=tuple(fields[4 + 2 * i] for i in range(count)),
            parents=tuple(offset for kind, offset, *_ in pointers if kind in ("@", "@i")),
            instance=any(kind == "@i" for kind, *_ in pointers),
        )
    return synsets


def read_senses(path: Path) -> dict[str, list[tuple[str, int]]]:
    """The noun senses of each lemma as (offset, tag count), most common first."""
    senses: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        key, offset, number, tags = line.split()
        lemma, code = key.split("%")
        if code[0] == "1":
            senses[lemma].append((int(number), offset, int(tags)))
    return {lemma: [(o, t) for _, o, t in sorted(rows)] for lemma, rows in senses.items()}


def branch_of(offset: str, synsets: dict[str, Synset]) -> str | None:
    """The visible branch that a noun sense belongs to, or None."""
    above = roots_above(offset, synsets)
    if above & HIDDEN_ROOTS:
        return None
    if synsets[offset].file in NOUN_FILES:
        return NOUN_FILES[synsets[offset].file]
    return next((ROOTS[root] for root in sorted(above & ROOTS.keys())), None)


def roots_above(offset: str, synsets: dict[str, Synset]) -> set[tuple[str, int]]:
    """Every (word, file) of the synset and of what stands above it."""
    found, queue, seen = set(), [offset], set()
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        node = synsets[current]
        found.update((word.lower(), node.file) for word in node.words)
        queue.extend(node.parents)
    return found


def surface(lemma: str, synset: Synset) -> str:
    """How the synset writes the lemma (with its capitals)."""
    return next((word for word in synset.words if word.lower() == lemma), lemma)


def visible_nouns(
    synsets: dict[str, Synset], senses: dict[str, list[tuple[str, int]]]
) -> Iterator[tuple[str, str, float]]:
    """Lemma, branch and the share of its uses that are visible."""
    for lemma, rows in senses.items():
        branches = [branch_of(offset, synsets) for offset, _ in rows]
        total = sum(tags + 1 for _, tags in rows)
        seen = sum(tags + 1 for (_, tags), branch in zip(rows, branches, strict=True) if branch)
        first = branches[0]
        if first is None and seen / total < 0.6:
            continue
        index = next(i for i, branch in enumerate(branches) if branch)
        synset, branch = synsets[rows[index][0]], branches[index]
        proper = surface(lemma, synset) != lemma
        if synset.instance or (proper and branch not in CAPITALS_ALLOWED):
            continue
        if any(word.lower().startswith(("genus_", "family_")) for word in synset.words):
            continue
        yield lemma, str(branch), seen / total


def main() -> None:
    """Write the table of visible lemmas."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dictionary", type=Path)
    directory = parser.parse_args().dictionary
    senses = read_senses(directory / "index.sense")
    rows = visible_nouns(read_synsets(directory / "data.noun"), senses)
    usable = re.compile(r"[a-z]{2,}(?: [a-z]{2,}){0,2}")
    table = sorted(
        (lemma.replace("_", " "), branch, f"{share:.2f}")
        for lemma, branch, share in rows
        if usable.fullmatch(lemma.replace("_", " "))
    )
    text = "".join("\t".join(row) + "\n" for row in table)
    (HERE / "wordnet_visual.tsv").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
