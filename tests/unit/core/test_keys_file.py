import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dncbm.errors import InvalidInput, Unavailable, UnknownName
from dncbm.files import locked
from dncbm.keys import SCOPES, Key, add_key, hash_of, parse_keys, read_keys, revoke_key

HASH = "sha256:" + "0" * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def entry(**changes: str) -> str:
    fields = {"name": '"shop"', "hash": f'"{HASH}"', "scopes": '["read"]'} | changes
    return "[[keys]]\n" + "\n".join(f"{name} = {value}" for name, value in fields.items())


def test_a_key_is_kept_as_its_hash_alone(file: Path) -> None:
    key, text = add_key(file, "shop", ["predict"])
    assert len(text) > 40
    assert text not in file.read_text()
    assert key == read_keys(file)[0] == Key("shop", hash_of(text.encode()), ("predict",))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_several_keys_come_and_go(file: Path) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    add_key(file, "shop", ["read", "predict", "read"], end)
    add_key(file, "boss", ["admin"])
    shop, boss = read_keys(file)
    assert (shop.scopes, shop.expires) == (("read", "predict"), end)
    assert revoke_key(file, "shop") == shop
    assert read_keys(file) == [boss]
    with pytest.raises(UnknownName, match=r"key 'bos'.*boss"):
        revoke_key(file, "bos")


@pytest.mark.parametrize("own", SCOPES)
@pytest.mark.parametrize("asked", SCOPES)
def test_each_scope_includes_the_lower_ones(own: str, asked: str) -> None:
    key = Key("a", HASH, (own,))
    assert key.allows(asked) == (SCOPES.index(own) >= SCOPES.index(asked))


def test_a_key_ends_at_its_moment() -> None:
    (key,) = parse_keys(entry(expires="2027-01-01T00:00:00"), "k")
    end = datetime(2027, 1, 1, tzinfo=UTC)
    assert not key.is_expired(end - timedelta(seconds=1))
    assert key.is_expired(end)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys = 3", "tables"),
        ("[other]", "other"),
        ("[[keys]", "not TOML"),
        (entry(hash='"sha256:12"'), "64 hexadecimal"),
        (entry(scopes="[]"), "one or more"),
        (entry(scopes='["root"]'), "Unknown scope 'root'"),
        (entry(name='"a b"'), "'a b'"),
        (entry(expires='"tomorrow"'), "date and time"),
        (entry(extra="1"), "an entry has name"),
        (entry() + "\n" + entry(), "'shop' twice"),
    ],
)
def test_a_wrong_file_is_explained(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_keys(text, "keys.toml")


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_others_must_not_read_it(file: Path) -> None:
    add_key(file, "shop", ["read"])
    file.chmod(0o640)
    with pytest.raises(InvalidInput, match=r"mode 0640.*chmod 600"):
        read_keys(file)


def test_wrong_requests_change_nothing(file: Path) -> None:
    add_key(file, "shop", ["read"])
    before = file.read_bytes()
    for name, scopes, end, message in [
        ("shop", ["read"], None, "already"),
        ("UP", ["read"], None, "'UP'"),
        ("a", [], None, "no scope"),
        ("a", ["root"], None, "Unknown scope"),
        ("a", ["read"], datetime(2020, 1, 1, tzinfo=UTC), "past"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            add_key(file, name, scopes, end)
    assert file.read_bytes() == before


def test_one_change_at_a_time(file: Path) -> None:
    with locked(file.parent), pytest.raises(Unavailable, match="Another command"):
        add_key(file, "shop", ["read"])


def test_a_missing_file_is_explained(file: Path) -> None:
    with pytest.raises(InvalidInput, match="dncbm keys add"):
        read_keys(file)
