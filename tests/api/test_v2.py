"""The Open Inference Protocol: by hand, and by Triton's own client over a true socket."""

import asyncio
import base64
import json
import struct
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from api.registry import Registry, serve_model
from api.routes import v2
from tests.api.conftest import OPTIONS, build, client_for
from tests.api.fakes import CLASSES, FakePredictor, codes_of, photo
from tests.api.live import serving
from tests.api.real import load_predictor, write_browsable
from tests.api.test_predictions import post, problem

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gevent's, of how it patches
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

URL = "/v2/models/clothing/infer"


def body(*images: bytes, **fields: Any) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    tensor = {"name": "image", "shape": [len(images)], "datatype": "BYTES", "data": data}
    return {"inputs": [tensor], **fields}


def outputs(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {item["name"]: item for item in answer.json()["outputs"]}


def refused(answer: Any, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    return str(answer.json()["error"])


def test_metadata_and_health(client: TestClient) -> None:
    server = client.get("/v2").json()
    assert server["name"] == "dncbm"
    assert {"explain", "binary_tensor_data"} <= set(server["extensions"])
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    model = client.get("/v2/models/clothing").json()
    assert model["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    shapes = {item["name"]: (item["datatype"], item["shape"]) for item in model["outputs"]}
    assert shapes == {
        "class": ("BYTES", [-1]),
        "class_index": ("INT64", [-1]),
        "probability": ("FP32", [-1]),
        "logits": ("FP32", [-1, 3]),
        "codes": ("FP32", [-1, 12]),
    }
    assert client.get("/v2/models/clothing/ready").json() == {"name": "clothing", "ready": True}


def test_infer_says_what_predict_says(client: TestClient) -> None:
    images = [photo(1), photo(2), photo(3)]
    answer = client.post(URL, json=body(*images, id="a7"))
    found = outputs(answer)
    assert (answer.json()["model_name"], answer.json()["id"]) == ("clothing", "a7")
    expected = post(client, *images, url="/v1/models/clothing/predict?top_classes=3").json()
    for row, item in enumerate(expected["predictions"]):
        assert found["class"]["data"][row] == item["class"]
        assert found["class_index"]["data"][row] == item["class_index"]
        assert found["probability"]["data"][row] == pytest.approx(item["probability"], rel=1e-6)
        logits = found["logits"]["data"][row * 3 : row * 3 + 3]
        for one in (item, *item["alternatives"]):
            assert logits[one["class_index"]] == pytest.approx(one["logit"], rel=1e-6)
    assert (found["logits"]["shape"], found["class"]["shape"]) == ([3, 3], [3])
    assert "codes" not in found


@pytest.mark.parametrize("name", ["nec", "effective_concepts"])
def test_sparse_probe_by_either_name(client: TestClient, name: str) -> None:
    found = outputs(client.post(URL, json=body(photo(1), parameters={name: 5})))
    url = "/v1/models/clothing/predict?nec=5"
    [expected] = post(client, photo(1), url=url).json()["predictions"]
    assert max(found["logits"]["data"]) == pytest.approx(expected["logit"], rel=1e-6)
    assert "Available: 5" in refused(client.post(URL, json=body(photo(1), parameters={name: 6})))
    both = {"nec": 5, "effective_concepts": 6}
    assert "two names" in refused(client.post(URL, json=body(photo(1), parameters=both)))


def test_codes_on_request(client: TestClient) -> None:
    wanted = [{"name": "codes"}, {"name": "class"}]
    found = outputs(client.post(URL, json=body(photo(1), photo(2), outputs=wanted)))
    assert set(found) == {"codes", "class"}
    assert found["codes"]["shape"] == [2, 12]
    from dncbm.data.images import decode_image

    expected = [codes_of(decode_image(photo(seed))).tolist() for seed in (1, 2)]
    np.testing.assert_allclose(found["codes"]["data"], np.ravel(expected), rtol=1e-6)


def binary(*images: bytes, **fields: Any) -> tuple[bytes, dict[str, str]]:
    blob = b"".join(struct.pack("<I", len(image)) + image for image in images)
    tensor = body(*images)["inputs"][0] | {"parameters": {"binary_data_size": len(blob)}}
    del tensor["data"]
    text = json.dumps({"inputs": [tensor], **fields}).encode()
    return text + blob, {"Inference-Header-Content-Length": str(len(text))}


def test_binary_in_json_out(client: TestClient) -> None:
    data, headers = binary(photo(1), photo(2))
    found = outputs(client.post(URL, content=data, headers=headers))
    assert found == outputs(client.post(URL, json=body(photo(1), photo(2))))


def test_binary_out(client: TestClient) -> None:
    wanted = {"parameters": {"binary_data_output": True}}
    answer = client.post(URL, json=body(photo(1), photo(2), **wanted))
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers["Inference-Header-Content-Length"])
    described = {item["name"]: item for item in json.loads(answer.content[:size])["outputs"]}
    assert [item["parameters"]["binary_data_size"] for item in described.values()][1:] == [
        16,
        8,
        24,
    ]
    plain = outputs(client.post(URL, json=body(photo(1), photo(2))))
    logits = np.frombuffer(answer.content[-24:], "<f4")
    np.testing.assert_array_equal(logits, np.float32(plain["logits"]["data"]))


def changed(**fields: Any) -> dict[str, Any]:
    made = body(photo(1))
    made["inputs"][0] |= fields
    return made


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        (changed(name="pixels"), "There is no input 'pixels'"),
        (changed(datatype="FP32"), "send BYTES"),
        (changed(shape=[2]), "but 1 elements"),
        (changed(shape=[1, 2]), "but 1 elements"),
        (changed(data=["%%%"]), "image[0] is not base64"),
        (changed(data=[5]), "not text"),
        (changed(data=[]), "0 images"),
        (changed(data=None), "0 images"),
        (changed(parameters={"binary_data_size": 7}), "both data and binary_data_size"),
        (body(*[photo(1)] * 5), "between 1 and 4"),
        (body(b"no image"), "cannot be used"),
        (body(photo(1), outputs=[{"name": "clas"}]), "Nearest known names: class"),
        (
            body(photo(1), outputs=[{"name": "class", "parameters": {"classification": 3}}]),
            "classification extension",
        ),
        (body(photo(1), parameters={"nec": "many"}), "parameters.nec"),
        ({"inputs": []}, "inputs"),
        ({}, "inputs"),
        ([], "body"),
    ],
)
def test_bad_requests(client: TestClient, request_body: Any, message: str) -> None:
    assert message in refused(client.post(URL, json=request_body))


@pytest.mark.parametrize(
    ("length", "cut", "message"),
    [
        ("-1", 0, "must be the length of the JSON"),
        ("9999999", 0, "must be the length of the JSON"),
        ("9" * 5000, 0, "must be the length of the JSON"),
        (None, 3, "bytes follow the JSON"),
        (None, -1, "bytes follow the JSON"),
    ],
)
def test_bad_binary(client: TestClient, length: str | None, cut: int, message: str) -> None:
    data, headers = binary(photo(1))
    data = data + b"xyz" if cut > 0 else data[: len(data) + cut]
    if length is not None:
        headers = {"Inference-Header-Content-Length": length}
    assert message in refused(client.post(URL, content=data, headers=headers))


@pytest.mark.parametrize("prefix", [b"\xff\xff\xff\xff", b"\x01", b"\x05\x00\x00\x00abc"])
def test_elements_that_end_too_early(client: TestClient, prefix: bytes) -> None:
    tensor = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(prefix)},
    }
    text = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    assert "end within element 0" in refused(
        client.post(URL, content=text + prefix, headers=headers)
    )


def test_many_empty_elements_are_not_collected(client: TestClient) -> None:
    blob = bytes(4 * 20_000)
    tensor = {
        "name": "image",
        "shape": [20_000],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(blob)},
    }
    text = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    assert "too many images" in refused(client.post(URL, content=text + blob, headers=headers))


def test_errors_are_the_protocols(client: TestClient) -> None:
    assert "Nearest known names: clothing" in refused(client.get("/v2/models/clothng"), 404)
    assert "no request" in refused(client.post(URL, content=b"," * 5000))
    assert "larger than the limit" in refused(client.post(URL, content=b"x" * 300_000), 413)
    refused(client.get("/v2/nothing"), 404)
    gzip = {"Content-Encoding": "gzip"}
    assert "compressed" in refused(client.post(URL, content=b"x", headers=gzip))


def test_a_key_is_asked_for(model_dir: Path) -> None:
    keyed = client_for(build(model_dir, FakePredictor(), replace(OPTIONS, api_key="k")))
    assert "API key" in refused(keyed.post(URL, json=body(photo(1))), 401)
    assert keyed.get("/v2/health/live").status_code == 200
    with_key = keyed.post(URL, json=body(photo(1)), headers={"X-API-Key": "k"})
    assert with_key.status_code == 200


def runs_beside_the_loop(monkeypatch: pytest.MonkeyPatch, name: str, seen: list[bool]) -> None:
    """Note for each call of a function of the routes whether it runs outside of the event loop."""
    original = getattr(v2, name)

    def noted(*given: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            seen.append(True)
        else:
            seen.append(False)
        return original(*given)

    monkeypatch.setattr(v2, name, noted)


def test_bodies_are_decoded_beside_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base64 of megabytes takes a while, in which the loop has to answer others."""
    seen: list[bool] = []
    for name in ("read_call", "_instances", "_outputs"):
        runs_beside_the_loop(monkeypatch, name, seen)
    assert client.post(URL, json=body(photo(1))).status_code == 200
    assert seen == [True, True]
    text = base64.b64encode(photo(1)).decode()
    instances = {"instances": [{"image": {"b64": text}}]}
    assert client.post("/v1/models/clothing:predict", json=instances).status_code == 200
    assert seen == [True, True, True]


def test_version_one_predicts(client: TestClient) -> None:
    text = base64.b64encode(photo(1)).decode()
    instances = {"instances": [{"image": {"b64": text}}] * 2}
    found = client.post("/v1/models/clothing:predict", json=instances).json()["predictions"]
    [expected] = post(client, photo(1)).json()["predictions"]
    assert found == [expected | {"image": f"instances[{index}]"} for index in range(2)]
    many = {"instances": [{"image": {"b64": text}}] * 5}
    assert "5 images" in problem(client.post("/v1/models/clothing:predict", json=many), 422)
    problem(client.post("/v1/models/clothing:predict", json={"instances": [{}]}), 422)
    noise = client.post("/v1/models/clothing:predict", content=b":" * 5000)
    assert "no request" in problem(noise, 422)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = write_browsable(tmp_path_factory.mktemp("explained") / "clothing")
    app = create_app(Registry([serve_model("clothing", root, load_predictor(root))]), OPTIONS)
    with client_for(app) as client:
        yield client


def test_explain_in_both_versions(real: TestClient) -> None:
    query = "class=Shoes&concept=3&nec=5"
    url = f"/v1/models/clothing/explain?{query}"
    [expected] = post(real, photo(1), url=url).json()["explanations"]
    parameters = {"class": "Shoes", "concept": [3], "nec": 5}
    answer = real.post(
        "/v2/models/clothing/explain", json=body(photo(1), id="7", parameters=parameters)
    ).json()
    assert answer == {
        "model_name": "clothing",
        "id": "7",
        "explanations": [expected | {"image": "image[0]"}],
    }
    text = base64.b64encode(photo(1)).decode()
    one = real.post(
        f"/v1/models/clothing:explain?{query}", json={"instances": [{"image": {"b64": text}}]}
    ).json()
    assert one == {"explanations": [expected | {"image": "instances[0]"}]}
    wrong = body(photo(1), parameters={"class": "Shoos"})
    assert "Shoes" in refused(real.post("/v2/models/clothing/explain", json=wrong), 404)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(build(tmp_path_factory.mktemp("triton"), FakePredictor())) as url:
        yield url.removeprefix("http://")


@pytest.mark.parametrize("is_binary", [True, False])
def test_tritons_client(address: str, is_binary: bool) -> None:
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("clothing")
        assert client.get_server_metadata()["name"] == "dncbm"
        assert client.get_model_metadata("clothing")["inputs"][0]["name"] == "image"
        images = [photo(1), photo(2)]
        if not is_binary:
            images = [base64.b64encode(image) for image in images]
        tensor = triton.InferInput("image", [2], "BYTES")
        tensor.set_data_from_numpy(np.array(images, dtype=object), binary_data=is_binary)
        wanted = [
            triton.InferRequestedOutput(name, binary_data=is_binary)
            for name in ("class", "class_index", "probability", "logits", "codes")
        ]
        found = client.infer("clothing", [tensor], outputs=wanted, request_id="9")
        names = [str(name, "utf-8") if is_binary else name for name in found.as_numpy("class")]
        logits = found.as_numpy("logits")
        assert names == [CLASSES[index] for index in logits.argmax(axis=1)]
        assert found.as_numpy("class_index").tolist() == logits.argmax(axis=1).tolist()
        assert (logits.shape, logits.dtype) == ((2, 3), np.float32)
        assert found.as_numpy("codes").shape == (2, 12)
        assert found.get_response()["id"] == "9"


def test_tritons_client_with_its_defaults(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([photo(1)], dtype=object))
        found = client.infer("clothing", [tensor])
        assert found.as_numpy("class").shape == (1,)
        assert found.as_numpy("codes") is None
        with pytest.raises(InferenceServerException, match="Nearest known names: clothing"):
            client.infer("clothng", [tensor])
