import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import torch

from dncbm.errors import InvalidInput, Unavailable
from dncbm.naming.assign import assign_names
from dncbm.naming.config import NamingConfig, naming_preset
from dncbm.naming.propose import HttpProposer, extended, parse_answer, proposals
from tests.unit.naming.conftest import fake_texts, make_vocabulary


def chat(content: object) -> bytes:
    text = content if isinstance(content, str) else json.dumps(content)
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


class Endpoint:
    """A chat endpoint on this machine that gives the answers it is told, then the last again."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = [(200, chat(["zebra"]))]
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                owner.asked.append(json.loads(self.rfile.read(length)))
                owner.keys.append(self.headers.get("Authorization"))
                answers = owner.answers
                status, body = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Silence."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/chat/completions"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_images_go_out_and_phrases_come_back(endpoint: Endpoint) -> None:
    endpoint.answers = [(200, chat(["zebra", "striped animal", "grass", "a fourth"]))]
    proposer = HttpProposer(url=endpoint.url, model="tiny", key="secret")
    assert proposer([b"one", b"two"]) == ["zebra", "striped animal", "grass"]
    question = endpoint.asked[0]
    assert question["model"] == "tiny"
    _, first, second = question["messages"][0]["content"]
    assert first["image_url"]["url"].endswith(base64.b64encode(b"one").decode())
    assert second["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert endpoint.keys == ["Bearer secret"]


def test_a_busy_endpoint_is_asked_again_and_a_refusal_is_not(endpoint: Endpoint) -> None:
    proposer = HttpProposer(url=endpoint.url, model="tiny", wait=0.0)
    endpoint.answers = [(503, b""), (429, b""), (200, chat(["zebra"]))]
    assert proposer([b"image"]) == ["zebra"]
    assert (len(endpoint.asked), endpoint.keys) == (3, [None] * 3)
    endpoint.answers = [(401, b"")]
    with pytest.raises(Unavailable, match="did not answer: HTTP Error 401"):
        proposer([b"image"])
    assert len(endpoint.asked) == 4
    endpoint.answers = [(500, b"")]
    with pytest.raises(Unavailable, match="500"):
        proposer([b"image"])
    assert len(endpoint.asked) == 7


def test_a_silent_endpoint_is_given_up(endpoint: Endpoint) -> None:
    endpoint.server.shutdown()  # accepts, never answers
    proposer = HttpProposer(url=endpoint.url, model="tiny", timeout=0.05, retries=1, wait=0.0)
    with pytest.raises(Unavailable, match="did not answer"):
        proposer([b"image"])


@pytest.mark.parametrize(
    ("answer", "phrases"),
    [
        (chat(["zebra", "<b>bold</b>", "a" * 41, "one two three four five", "", "x"]), ["zebra"]),
        (chat(["mother-in-law's hat"]), ["mother-in-law's hat"]),
        (chat("The photos show a zebra."), []),
        (chat({"names": ["zebra"]}), []),
        (chat(["zebra", 3]), []),
        (chat([]), []),
        (b"not json", []),
        (b"[]", []),
        (b'{"choices": []}', []),
        (b"\xff\xfe", []),
    ],
)
def test_only_a_list_of_short_phrases_is_an_answer(answer: bytes, phrases: list[str]) -> None:
    assert parse_answer(answer) == phrases


def test_proposals_pass_the_block_list() -> None:
    answers = iter([["gun fight", "zebra", "porn star"], ["sea"]])
    pictures = [(3, [b"image"]), (4, []), (5, [b"image"])]
    found = proposals(lambda images: next(answers), pictures)
    assert found[5] == ["sea"]
    assert "porn star" not in found[3]
    assert "zebra" in found[3]
    assert 4 not in found


def test_a_proposal_is_scored_like_any_word_and_can_lose() -> None:
    words = fake_texts(["dog", "cat"])
    vocabulary = make_vocabulary(["dog", "cat"], words)
    wider = extended(vocabulary, ["zebra", "Dog", "zebra"], fake_texts)
    assert wider.words == ("dog", "cat", "zebra")
    assert extended(vocabulary, ["CAT"], fake_texts) is vocabulary
    rows = torch.cat([fake_texts(["zebra"]), words[:1]])
    found = assign_names(rows, wider, config=naming_preset("paper"))
    assert [name.name for name in found] == ["zebra", "dog"]


def test_an_address_needs_a_scheme_and_a_model() -> None:
    with pytest.raises(InvalidInput, match=r"http\(s\) address and a model"):
        HttpProposer(url="file:///etc/passwd", model="tiny")
    with pytest.raises(InvalidInput, match="''"):
        HttpProposer(url="http://localhost", model="")
    assert NamingConfig().proposer == ""
