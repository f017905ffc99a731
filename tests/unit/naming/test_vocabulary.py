import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dncbm.artifacts import load_manifest
from dncbm.errors import ArtifactError, ArtifactMismatch, InvalidInput
from dncbm.naming import vocabulary as vocabulary_module
from dncbm.naming.assign import assign_names
from dncbm.naming.config import naming_preset
from dncbm.naming.vocabulary import (
    Vocabulary,
    build_vocabulary,
    clean_words,
    load_vocabulary,
    read_words,
    save_vocabulary,
)

from .conftest import WORDS


def build(words: list[str], encode_texts: Callable[..., Tensor]) -> Vocabulary:
    return build_vocabulary(words, encode_texts, encoder_fingerprint="e" * 64)


def test_bundled_list_is_large_unique_and_as_the_readme_says() -> None:
    words = read_words()
    assert len(words) > 18_000
    assert len({word.casefold() for word in words}) == len(words)
    assert words == sorted(words)
    assert all(word == " ".join(word.split()) and len(word) > 2 for word in words)
    folder = Path(__file__).parents[3] / "vocab"
    readme = (folder / "README.md").read_text()
    assert hashlib.sha256((folder / "words.txt").read_bytes()).hexdigest() in readme
    assert f"{len(words):,}" in readme


def test_bundled_list_holds_the_words_of_the_concept_world() -> None:
    world = pytest.importorskip("dncbm.data.concept_world")
    assert sorted({*world.CONCEPTS, *world.CLASSES} - set(read_words())) == []


def test_text_list_is_cleaned_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\ufeffDog\n\n  # pets\n cat \ndog\nCat\nred   car\n" + "x" * 200 + "\n")
    with caplog.at_level(logging.INFO):
        assert read_words(path) == ["Dog", "cat", "red car"]
    assert "2 blank or comment, 2 repeated, 1 too long" in caplog.text


def test_csv_takes_the_first_column_and_skips_a_header(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('name,count\n"stop, sign",3\ndog,2\n\ncat,1\n')
    assert read_words(str(path)) == ["stop, sign", "dog", "cat"]


@pytest.mark.parametrize("text", ["", "dog\n", "\n\n#a\n#b\n", "dog\nDOG\n dog \n"])
def test_too_few_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "few.txt").write_text(text)
    with pytest.raises(InvalidInput, match=r"few.txt has [01] usable words; .* at least 2"):
        read_words(tmp_path / "few.txt")


def test_unreadable_lists(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="Cannot read the word list .*none.txt"):
        read_words(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00dog")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read_words(tmp_path / "binary.txt")


def test_clean_words_keeps_order_and_first_spelling() -> None:
    assert clean_words(["b", "A", "a", "B ", "c"]) == ["b", "A", "c"]


def test_build_embeds_allowed_words_at_length_one(encode_texts: Callable[..., Tensor]) -> None:
    vocabulary = build([*WORDS, "Porn", "dog", ""], encode_texts)
    assert vocabulary.words == WORDS
    assert vocabulary.blocked == {"Porn"}
    torch.testing.assert_close(vocabulary.embeddings.norm(dim=1), torch.ones(len(WORDS)))


def test_build_passes_templates_on(encode_texts: Callable[..., Tensor]) -> None:
    bare = build(list(WORDS), encode_texts)
    photo = build_vocabulary(
        WORDS, encode_texts, encoder_fingerprint="e", templates=["a photo of a {}."]
    )
    assert photo.templates == ("a photo of a {}.",)
    assert not torch.allclose(bare.embeddings, photo.embeddings)


def test_build_refuses_bad_input(encode_texts: Callable[..., Tensor]) -> None:
    with pytest.raises(InvalidInput, match="1 usable words are left of 3"):
        build(["dog", "Dog", "porn"], encode_texts)
    with pytest.raises(InvalidInput, match="Each template needs one '{}'"):
        build_vocabulary(WORDS, encode_texts, encoder_fingerprint="e", templates=["a photo"])
    with pytest.raises(InvalidInput, match="Each template needs one '{}'"):
        build_vocabulary(WORDS, encode_texts, encoder_fingerprint="e", templates=[])

    def broken(texts: list[str], *, templates: tuple[str, ...]) -> Tensor:
        rows = torch.ones(len(texts), 4)
        rows[2, 1] = float("nan")
        return rows

    with pytest.raises(InvalidInput, match=r"1 word vectors are not finite.*row 2 \('red car'\)"):
        build(list(WORDS), broken)


def test_words_and_embeddings_must_fit() -> None:
    with pytest.raises(InvalidInput, match="3 words came with 2 embeddings"):
        Vocabulary(("a", "b", "c"), torch.eye(2), ("{}",), "e")
    with pytest.raises(InvalidInput, match="at least 2 words, got 1"):
        Vocabulary(("a",), torch.ones(1, 2), ("{}",), "e")


def test_saved_and_loaded_the_same(tmp_path: Path, encode_texts: Callable[..., Tensor]) -> None:
    vocabulary = build([*WORDS, "porn"], encode_texts)
    manifest = save_vocabulary(tmp_path / "v", vocabulary)
    loaded = load_vocabulary(tmp_path / "v")
    assert loaded.words == vocabulary.words
    assert loaded.blocked == {"porn"}
    assert torch.equal(loaded.embeddings, vocabulary.embeddings)
    assert loaded.fingerprint == manifest.fingerprint
    assert load_manifest(tmp_path / "v").inputs == {"encoder": "e" * 64}
    assert save_vocabulary(tmp_path / "again", loaded).fingerprint == manifest.fingerprint


def test_damaged_vocabulary(tmp_path: Path, encode_texts: Callable[..., Tensor]) -> None:
    save_vocabulary(tmp_path / "v", build(list(WORDS), encode_texts))
    (tmp_path / "v" / "words.json").write_text('{"words": ["a"], "blocked": []}')
    with pytest.raises(ArtifactError, match="words.json was changed"):
        load_vocabulary(tmp_path / "v")


def test_other_encoder_is_refused_by_name(encode_texts: Callable[..., Tensor]) -> None:
    vocabulary = build(list(WORDS), encode_texts)
    vocabulary.require_encoder("e" * 64)
    with pytest.raises(ArtifactMismatch, match="encoder eeeeeeeeeeee, but encoder ffffffffffff"):
        vocabulary.require_encoder("f" * 64)


def test_bundled_list_is_what_the_builder_makes() -> None:
    pytest.importorskip("wordfreq")
    from vocab import build as builder

    assert builder.build() == read_words()


def test_very_many_words_are_embedded_in_blocks_and_kept_in_half_precision(
    tmp_path: Path, encode_texts: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_vocabulary(WORDS, encode_texts, encoder_fingerprint="e" * 64)
    monkeypatch.setattr(vocabulary_module, "LARGE", 5)
    monkeypatch.setattr(vocabulary_module, "_EMBEDDED_AT_ONCE", 3)
    blocks = build_vocabulary(WORDS, encode_texts, encoder_fingerprint="e" * 64)
    assert blocks.embeddings.dtype == torch.float16
    torch.testing.assert_close(blocks.embeddings.float(), whole.embeddings, atol=5e-4, rtol=0)
    save_vocabulary(tmp_path / "v", blocks)
    loaded = load_vocabulary(tmp_path / "v")
    assert loaded.embeddings.dtype == torch.float16
    rows = whole.embeddings[:4]
    config = naming_preset("paper")
    found = [assign_names(rows, v, config=config) for v in (whole, loaded)]
    assert [name.name for name in found[0]] == [name.name for name in found[1]] == list(WORDS[:4])


def test_a_bad_embedding_in_a_later_block_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_module, "LARGE", 2)
    monkeypatch.setattr(vocabulary_module, "_EMBEDDED_AT_ONCE", 2)

    def broken(texts: Sequence[str], **_: object) -> Tensor:
        return torch.tensor([[float("nan") if text == "tree" else 1.0, 0.0] for text in texts])

    with pytest.raises(InvalidInput, match=r"row 3 \('tree'\)"):
        build_vocabulary(WORDS, broken, encoder_fingerprint="e" * 64)
