import hashlib
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dncbm.errors import ArtifactError, InvalidInput
from dncbm.registry import unpack
from dncbm.registry.bundle import export_model
from dncbm.registry.unpack import Limits, import_model
from tests.unit.registry.directories import rewrite_manifest, write_model, write_part


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = write_model(tmp_path / "Shoes", kinds=("report",))
    write_part(tmp_path / "Shoes", "vocabulary", {"encoder": made["encoder"]})
    (tmp_path / "Shoes" / "recipe.json").write_text('{"encoder": "mini"}')
    (tmp_path / "Shoes" / ".work").mkdir()
    (tmp_path / "Shoes" / ".work" / "checkpoint").write_text("x")
    (tmp_path / "Shoes" / "notes.txt").write_text("private")
    return tmp_path / "Shoes"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("form", ["bundle.zip", "bundle"])
def test_there_and_back(model: Path, tmp_path: Path, form: str) -> None:
    out = export_model(model, tmp_path / "out" / form)
    back = import_model(out, tmp_path / "there", name="shoes")
    assert back == tmp_path / "there" / "shoes"
    before, after = contents(model), contents(back)
    assert before.keys() - after.keys() == {".work/checkpoint", "notes.txt"}
    assert after.keys() - before.keys() == {"README.md", "SHA256SUMS", "config.json"}
    assert all(before[name] == after[name] for name in before.keys() & after.keys())
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["shoes"]
    assert stat.S_IMODE((back / "cbm" / "manifest.json").stat().st_mode) & 0o444 == 0o444
    again = export_model(back, tmp_path / "again" / f"other-{form}", name="Shoes")
    assert (
        contents(again) == contents(out) if out.is_dir() else again.read_bytes() == out.read_bytes()
    )


def test_the_list_is_that_of_sha256sum(model: Path, tmp_path: Path) -> None:
    out = export_model(model, tmp_path / "out")
    listed = dict(
        reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines()
    )
    assert listed.keys() == contents(out).keys() - {"README.md", "SHA256SUMS"}
    for name, value in listed.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == value
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, check=True)


def test_a_model_to_serve_needs_no_embeddings(model: Path, tmp_path: Path) -> None:
    out = export_model(model, tmp_path / "a.zip", training=False)
    back = import_model(out, tmp_path)
    assert back.name == "a"
    kinds = {path.name for path in back.iterdir() if path.is_dir()}
    assert kinds == {"sae", "dictionary", "cbm", "report"}


def test_the_card_may_be_edited_and_what_is_hidden_is_left_out(model: Path, tmp_path: Path) -> None:
    out = export_model(model, tmp_path / "out")
    assert "50.0%" in (out / "README.md").read_text()
    (out / "README.md").write_text("# Mine")
    (out / ".gitattributes").write_text("* text")
    (out / ".cache").mkdir()
    (out / ".cache" / "x").write_text("")
    back = import_model(out, tmp_path / "there")
    assert (back / "README.md").read_text() == "# Mine"
    assert not (back / ".cache").exists()


def test_what_cannot_be_exported(model: Path, tmp_path: Path) -> None:
    (tmp_path / "there.zip").write_text("")
    for out in ("there.zip", "Shoes"):
        with pytest.raises(InvalidInput, match="exists already"):
            export_model(model, tmp_path / out)
    shutil.copytree(model, tmp_path / "damaged")
    (tmp_path / "damaged" / "sae" / "data.txt").write_text("changed")
    for out in ("a.zip", "a"):
        with pytest.raises(ArtifactError, match="was changed after it was written"):
            export_model(tmp_path / "damaged", tmp_path / "out" / out)
    assert list((tmp_path / "out").iterdir()) == []
    shutil.rmtree(model / "cbm")
    with pytest.raises(ArtifactError, match="no finished model: cbm missing"):
        export_model(model, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()


def edited(out: Path, change: Callable[[Path], None]) -> Path:
    """The bundle folder after a change, with a checksum list that agrees with it."""
    change(out)
    lines = [
        f"{hashlib.sha256(data).hexdigest()}  {name}\n"
        for name, data in contents(out).items()
        if name not in ("README.md", "SHA256SUMS")
    ]
    (out / "SHA256SUMS").write_text("".join(lines))
    return out


def refused(source: Path, tmp_path: Path, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        import_model(source, tmp_path / "there", name="shoes")
    assert ".draft-" not in str(raised.value)
    assert not (tmp_path / "there").exists() or list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: (out / "sae" / "data.txt").write_text("x"), "another checksum"),
        (lambda out: (out / "sae" / "data.txt").unlink(), "is missing, though"),
        (lambda out: (out / "sae" / "more.txt").write_text("x"), "is not in SHA256SUMS"),
        (lambda out: (out / "SHA256SUMS").write_text("nonsense"), "has the line 'nonsense'"),
        (lambda out: (out / "SHA256SUMS").write_bytes(b"\xff"), "is not text"),
    ],
)
def test_a_bundle_that_was_changed(
    model: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    out = export_model(model, tmp_path / "out")
    change(out)
    refused(out, tmp_path, ArtifactError, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: (out / "sae" / "data.txt").write_text("x"), "is not what sae/manifest.json"),
        (lambda out: (out / "sae" / "more.txt").write_text("x"), "is not what sae/manifest.json"),
        (lambda out: (out / "sae" / "data.txt").unlink(), "data.txt missing"),
        (lambda out: (out / "sae" / "manifest.json").unlink(), "half written"),
        (lambda out: shutil.rmtree(out / "sae"), "sae missing"),
        (lambda out: rewrite_manifest(out / "sae", config={}), "was changed after"),
        (lambda out: rewrite_manifest(out / "sae", files={"../../x": "0" * 64}), "was changed"),
    ],
)
def test_a_bundle_whose_list_was_changed_with_it(
    model: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    out = export_model(model, tmp_path / "out")
    refused(edited(out, change), tmp_path, ArtifactError, message)


def test_parts_of_another_model(model: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "other", content="other")
    out = export_model(model, tmp_path / "out")

    def change(out: Path) -> None:
        shutil.rmtree(out / "sae")
        shutil.copytree(tmp_path / "other" / "sae", out / "sae")

    refused(edited(out, change), tmp_path, ArtifactError, "was made with sae")


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "/etc/evil", "sae/../../evil", "sae\\evil", "C:/evil", "sae//x", ".ssh/key",
     "sae/.hidden", "sae/a\nb", "evil.txt", "bin/evil", "sae/" + "x" * 600],
)  # fmt: skip
def test_names_that_lead_elsewhere(model: Path, tmp_path: Path, name: str) -> None:
    out = export_model(model, tmp_path / "a.zip")
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(name, "evil")
    before = sorted(tmp_path.rglob("*evil*"))
    refused(out, tmp_path, InvalidInput, "unsafe name|no part of a model")
    assert sorted(tmp_path.rglob("*evil*")) == before


def test_links_and_doubles(model: Path, tmp_path: Path) -> None:
    out = export_model(model, tmp_path / "a.zip")
    shutil.copy(out, tmp_path / "b.zip")
    with zipfile.ZipFile(out, "a") as archive:
        link = zipfile.ZipInfo("sae/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(out, tmp_path, InvalidInput, "no plain file")
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(tmp_path / "b.zip", "a") as b,
    ):
        b.writestr("sae/data.txt", "second")
    refused(tmp_path / "b.zip", tmp_path, InvalidInput, "twice")
    folder = export_model(model, tmp_path / "folder")
    os.symlink("/etc/passwd", folder / "sae" / "link")
    refused(folder, tmp_path, InvalidInput, "no plain file")


def test_too_much_of_it(model: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "a.zip", tmp_path / "folder"):
        export_model(model, out)
        with pytest.raises(InvalidInput, match="more than 3 files"):
            import_model(out, tmp_path / "there", limits=Limits(entries=3))
        with pytest.raises(InvalidInput, match="limit is 100"):
            import_model(out, tmp_path / "there", limits=Limits(size_bytes=100))
    assert list((tmp_path / "there").iterdir()) == []


def test_a_zip_bomb_stops_at_what_it_announces(tmp_path: Path) -> None:
    bomb = tmp_path / "a.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sae/data.txt", bytes(50_000_000))
    data = bomb.read_bytes()
    size = (50_000_000).to_bytes(4, "little")
    assert data.count(size) == 2
    bomb.write_bytes(data.replace(size, (10).to_bytes(4, "little")))
    refused(bomb, tmp_path, InvalidInput, "announces|damaged")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_what_is_no_bundle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", tmp_path, InvalidInput, "is not a zip file or is damaged")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, InvalidInput, "is not a bundle: it has no SHA256SUMS")
    refused(tmp_path / "none", tmp_path, InvalidInput, "does not exist")


def test_what_stands_there_is_never_replaced(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = export_model(model, tmp_path / "a.zip")
    (tmp_path / "there" / "a").mkdir(parents=True)
    (tmp_path / "there" / "a" / "mine").write_text("")
    with pytest.raises(InvalidInput, match="exists already"):
        import_model(out, tmp_path / "there")
    # the other import may come first while this one is checked
    checks = iter([None])
    real = unpack._require_free

    def once(target: Path) -> None:
        if next(checks, real) is real:
            real(target)

    monkeypatch.setattr(unpack, "_require_free", once)
    with pytest.raises(InvalidInput, match="exists already"):
        import_model(out, tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["a"]
