import base64
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image, features

from tests.api.conftest import OPTIONS, build, client_for
from tests.api.fakes import CLASSES, HOSTILE, FakePredictor, photo, png, save

URL = "/v1/models/clothing/predict"


def post(client: TestClient, *images: bytes, url: str = URL) -> Any:
    files = [
        ("image", (f"photo{i}.png", data, "application/octet-stream"))
        for i, data in enumerate(images)
    ]
    return client.post(url, files=files)


def answer(client: TestClient, *images: bytes, url: str = URL) -> list[dict[str, Any]]:
    response = post(client, *images, url=url)
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def account(prediction: dict[str, Any]) -> float:
    total = prediction["bias"]
    for part in prediction["contributions"]:
        total += part["contribution"]
    return total + prediction["remainder"]


def problem(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert {"type", "title", "status", "detail", "instance"} <= set(body)
    assert body["status"] == status
    assert body["title"]
    assert body["type"].startswith("urn:dncbm:problem:")
    assert "Traceback" not in response.text
    return body["detail"]


def test_one_photo_answers_class_and_contributions(client: TestClient) -> None:
    body = post(client, photo(1)).json()
    assert body["model"] == "clothing"
    [prediction] = body["predictions"]
    assert prediction["class"] in CLASSES
    assert prediction["image"] == "photo0.png"
    assert prediction["alternatives"] == []
    assert 0 < prediction["probability"] <= 1
    assert len(prediction["contributions"]) == 5
    assert set(prediction["contributions"][0]) == {
        "concept",
        "name",
        "code",
        "weight",
        "contribution",
        "concepts",
    }
    assert all(part["concepts"] == [] for part in prediction["contributions"])


@pytest.mark.parametrize("top", [0, 1, 5, 12])
def test_parts_sum_to_the_logit_exactly_after_json(client: TestClient, top: int) -> None:
    url = f"{URL}?top_contributions={top}&top_classes=3"
    for prediction in answer(client, *map(photo, range(4)), url=url):
        assert len(prediction["contributions"]) == top
        for scored in (prediction, *prediction["alternatives"]):
            assert account(scored) == scored["logit"]
            for part in scored["contributions"]:
                assert part["contribution"] == part["code"] * part["weight"]


def test_several_photos_answer_in_order(client: TestClient) -> None:
    images = [photo(seed) for seed in range(4)]
    together = answer(client, *images)
    alone = [answer(client, image)[0] for image in images]
    assert [item["image"] for item in together] == [f"photo{i}.png" for i in range(4)]
    assert [item["logit"] for item in together] == [item["logit"] for item in alone]


def test_json_gives_the_same_answer_as_multipart(client: TestClient) -> None:
    text = base64.b64encode(photo(1)).decode()
    body = {"images": [text, f"data:image/png;base64,{text}"]}
    predictions = client.post(URL, json=body).json()["predictions"]
    expected = answer(client, photo(1))[0]
    for index, prediction in enumerate(predictions):
        assert prediction == expected | {"image": f"images[{index}]"}


def test_alternatives_have_the_shape_of_the_best_class(client: TestClient) -> None:
    [prediction] = answer(client, photo(1), url=f"{URL}?top_classes=100")
    ranked = [prediction, *prediction["alternatives"]]
    assert sorted(item["class"] for item in ranked) == sorted(CLASSES)
    assert [item["logit"] for item in ranked] == sorted(
        (item["logit"] for item in ranked), reverse=True
    )
    assert set(prediction) - set(ranked[1]) == {"image", "alternatives"}


def test_nec_uses_the_sparse_probe(client: TestClient, predictor: FakePredictor) -> None:
    [prediction] = answer(client, photo(1), url=f"{URL}?nec=5&top_contributions=12")
    sparse = predictor.cbm.nec_probes[5].weights
    for part in prediction["contributions"]:
        assert part["weight"] == float(sparse[prediction["class_index"], part["concept"]])
    assert sum(part["weight"] != 0 for part in prediction["contributions"]) == 5


@pytest.mark.parametrize("nec", ["6", "0", "-5", "many", "5.5"])
def test_bad_nec(client: TestClient, nec: str) -> None:
    assert "nec" in problem(post(client, photo(1), url=f"{URL}?nec={nec}"), 422)


def test_unavailable_nec_lists_those_there_are(client: TestClient) -> None:
    detail = problem(post(client, photo(1), url=f"{URL}?nec=6"), 422)
    assert "Available: 5" in detail


@pytest.mark.parametrize(
    "query",
    ["top_classes=0", "top_contributions=-1", "top_contributions=x", "top_classes=9999", "by=x"],
)
def test_bad_query(client: TestClient, query: str) -> None:
    detail = problem(post(client, photo(1), url=f"{URL}?{query}"), 422)
    assert detail.startswith(query.split("=")[0])


def test_unknown_model_names_the_nearest(client: TestClient) -> None:
    detail = problem(post(client, photo(1), url="/v1/models/clothng/predict"), 404)
    assert "'clothng'" in detail
    assert "Nearest known names: clothing" in detail


def unusual_images() -> dict[str, bytes]:
    gray16 = Image.fromarray(np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30))
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    return {
        "16-bit": save(gray16, "PNG"),
        "cmyk": save(Image.new("CMYK", (20, 20), (10, 200, 30, 0)), "JPEG"),
        "animated": save(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "alpha": save(Image.new("RGBA", (20, 20), (255, 0, 0, 0)), "PNG"),
        "palette": save(Image.new("P", (20, 20)), "PNG"),
        "bilevel": save(Image.new("1", (20, 20)), "PNG"),
        "webp": save(Image.new("RGB", (20, 20), "teal"), "WEBP"),
        "one pixel": png(size=(1, 1)),
    }


@pytest.mark.parametrize("kind", unusual_images())
def test_unusual_images_are_answered(client: TestClient, kind: str) -> None:
    [prediction] = answer(client, unusual_images()[kind])
    assert account(prediction) == prediction["logit"]


def test_animation_is_its_first_frame(client: TestClient) -> None:
    first = answer(client, save(Image.new("RGB", (20, 20), "red"), "GIF"))[0]
    assert answer(client, unusual_images()["animated"])[0]["logit"] == first["logit"]


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", photo(1)[:300], b"%PDF-1"],
    ids=["empty", "text", "svg", "truncated", "pdf"],
)
def test_broken_image_is_named(client: TestClient, data: bytes) -> None:
    files = [("image", ("good.png", photo(1))), ("image", ("holiday 7.png", data))]
    assert "'holiday 7.png'" in problem(client.post(URL, files=files), 422)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_refused(client: TestClient) -> None:
    avif = save(Image.new("RGB", (20, 20)), "AVIF")
    assert "Use JPEG, PNG" in problem(post(client, avif), 422)


def test_too_many_pixels(client: TestClient, predictor: FakePredictor) -> None:
    bomb = save(Image.new("1", (1000, 1000)), "PNG")
    assert len(bomb) < 2000
    assert "'photo0.png'" in problem(post(client, bomb), 422)
    assert predictor.calls == []


def test_pixels_of_a_request_are_bounded_together(
    client: TestClient, predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = png(size=(300, 400))
    answer(client, image, image)  # 240,000 of 250,000
    assert predictor.calls == [2]
    for name in ("api.images.decode_image", "api.limits.InferenceLimiter.slot"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("decoded, or in a slot"))
    detail = problem(post(client, image, image, image), 422)
    assert "The 3 images have 360,000 pixels together; one request may have 250,000" in detail
    assert predictor.calls == [2]


def test_too_many_images(client: TestClient) -> None:
    for number in (5, 6, 9):
        detail = problem(post(client, *[png()] * number), 422)
        assert "more than 4 files; send between 1 and 4 images" in detail
    body = {"images": [base64.b64encode(png()).decode()] * 5}
    assert "5 images; send between 1 and 4" in problem(client.post(URL, json=body), 422)


def test_declared_huge_upload(client: TestClient, predictor: FakePredictor) -> None:
    assert "200,000 bytes" in problem(post(client, b"x" * 300_000), 413)
    assert predictor.calls == []


def test_a_length_of_thousands_of_digits(client: TestClient) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": "9" * 5000}
    problem(client.post(URL, content=iter([b"{}"]), headers=headers), 413)


@pytest.mark.parametrize(
    "content_type", ["application/json", "multipart/form-data; boundary=frontier"]
)
def test_huge_upload_without_a_length_stops_while_reading(
    client: TestClient, content_type: str
) -> None:
    read = 0

    def endless() -> Any:
        nonlocal read
        yield b'--frontier\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in itertools.repeat(None, 1000):
            read += 50_000
            yield b"x" * 50_000

    headers = {"Content-Type": content_type}
    problem(client.post(URL, content=endless(), headers=headers), 413)


@pytest.mark.parametrize("content_type", ["image/png", "text/plain", "", "application/xml"])
def test_unsupported_media(client: TestClient, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    detail = problem(client.post(URL, content=photo(1), headers=headers), 415)
    assert "multipart/form-data" in detail


def test_form_without_the_field(client: TestClient) -> None:
    detail = problem(client.post(URL, files={"photo": ("a.png", photo(1))}), 422)
    assert "no file field 'image' (fields: 'photo')" in detail
    assert "curl -F image=@photo.jpg" in detail


def test_text_instead_of_a_file(client: TestClient) -> None:
    response = client.post(URL, data={"image": "photo.jpg"}, files={"other": b"x"})
    assert "image=@photo.jpg" in problem(response, 422)


@pytest.mark.parametrize("charset", ["unicode_escape", "utf-7", "utf-8", "no-such", "rot13"])
def test_a_file_name_that_json_cannot_say(client: TestClient, charset: str) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="\\ud800'
        + b"x" * 300
        + b'"\r\n\r\n'
        + photo(1)
        + b"\r\n--b--\r\n"
    )
    headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    response = client.post(URL, content=body, headers=headers)
    assert response.status_code == 200, response.text
    name = response.json()["predictions"][0]["image"]
    assert name.startswith("?x" if charset == "unicode_escape" else "\\ud800x")
    assert len(name) == 200


def test_text_fields_are_short(client: TestClient) -> None:
    """Decoding 1 MiB of punycode takes minutes, in the event loop."""
    headers = {"Content-Type": "multipart/form-data; boundary=b; charset=punycode"}
    head = b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\n'
    body = head + b"b" * 2000 + b"\r\n--b--\r\n"
    detail = problem(client.post(URL, content=body, headers=headers), 422)
    assert "more than 1,024 bytes; only files are read" in detail
    assert "image=@photo.jpg" in detail


@pytest.mark.parametrize(
    "body",
    [
        b'{"images":[' + b"1," * 5000 + b"1]}",
        b'{"images":[' + b'"",' * 5000 + b'""]}',
        b'{"images":["aGk="]' + b"".join(b',"%d":1' % i for i in range(5000)) + b"}",
    ],
    ids=["numbers", "empty", "fields"],
)
def test_json_of_many_parts_is_not_read(
    client: TestClient, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = "api.schemas.PredictBody.model_validate_json"
    monkeypatch.setattr(read, lambda *_, **__: pytest.fail("read"))
    headers = {"Content-Type": "application/json"}
    detail = problem(client.post(URL, content=body, headers=headers), 422)
    assert "commas and colons" in detail
    assert "with 1 to 4 images" in detail


def test_malformed_multipart(client: TestClient) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=frontier"}
    problem(client.post(URL, content=b"no parts here", headers=headers), 400)
    headers = {"Content-Type": "multipart/form-data"}
    problem(client.post(URL, content=b"no boundary", headers=headers), 400)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", "Invalid JSON"),
        (b"[]", "object"),
        (b"{}", "images"),
        (b'{"images": []}', "images"),
        (b'{"images": "abc"}', "images"),
        (b'{"images": [1]}', "images.0"),
        (b'{"images": ["%%%"]}', "images[0] is not base64"),
        (b'{"images": ["http://169.254.169.254/latest"]}', "Addresses are not fetched"),
        (b'{"urls": ["http://localhost"], "images": ["aGk="]}', "urls"),
        (b'{"images": ["aGk="]}', "'images[0]'"),
        (b"[" * 100_000, "JSON"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_bad_json(client: TestClient, body: bytes, expected: str) -> None:
    headers = {"Content-Type": "application/json"}
    assert expected in problem(client.post(URL, content=body, headers=headers), 422)


def test_validation_errors_do_not_repeat_the_input(client: TestClient) -> None:
    response = client.post(URL, json={"images": [{"secret": "hunter2"}]})
    assert "hunter2" not in response.text


def test_hostile_file_name_stays_data(client: TestClient) -> None:
    response = client.post(URL, files={"image": (HOSTILE.replace('"', "'"), photo(1))})
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "<img src=x" in response.json()["predictions"][0]["image"]


def test_concurrent_answers_equal_sequential_ones(
    client: TestClient, predictor: FakePredictor
) -> None:
    images = [photo(seed) for seed in range(12)]
    sequential = [answer(client, image) for image in images]
    with ThreadPoolExecutor(4) as pool:  # concurrency 2 + waiting 2
        concurrent = list(pool.map(lambda image: answer(client, image), images))
    assert concurrent == sequential
    assert predictor.most_running <= 2


NDJSON = {"Accept": "application/x-ndjson"}


def test_lines_say_what_one_answer_says(client: TestClient) -> None:
    files = [("image", (f"photo{i}.png", photo(i))) for i in range(4)]
    response = client.post(f"{URL}?top_classes=2", files=files, headers=NDJSON)
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert lines == answer(client, *map(photo, range(4)), url=f"{URL}?top_classes=2")


def test_lines_come_batch_by_batch(model_dir: Path) -> None:
    predictor = FakePredictor()
    client = client_for(build(model_dir, predictor, replace(OPTIONS, max_images=32)))
    files = [("image", (f"{i}.png", png())) for i in range(20)]
    response = client.post(URL, files=files, headers=NDJSON)
    names = [json.loads(line)["image"] for line in response.text.splitlines()]
    assert names == [f"{i}.png" for i in range(20)]
    assert predictor.calls == [8, 8, 4]


def test_a_later_batch_that_fails_says_so_per_photo(model_dir: Path) -> None:
    predictor = FakePredictor()
    client = client_for(build(model_dir, predictor, replace(OPTIONS, max_images=32)))
    files = [("image", (f"{i}.png", png())) for i in range(10)]
    files[9] = ("image", ("broken.png", png()[:60]))
    lines = client.post(URL, files=files, headers=NDJSON).text.splitlines()
    assert len(lines) == 10
    assert all("class" in json.loads(line) for line in lines[:8])
    assert "broken.png" in json.loads(lines[9])["error"]


def test_a_first_batch_that_fails_is_a_problem(client: TestClient) -> None:
    files = [("image", ("broken.png", png()[:60]))]
    assert "broken.png" in problem(client.post(URL, files=files, headers=NDJSON), 422)
