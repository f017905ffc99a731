from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.fakes import HOSTILE
from tests.api.test_predictions import problem

URL = "/v1/dictionaries/clothing"


def concepts(client: TestClient, **query: Any) -> list[int]:
    body = client.get(f"{URL}/concepts", params=query).json()
    return [item["concept"] for item in body["concepts"]]


def test_list_and_describe(client: TestClient) -> None:
    expected = {"id": "clothing", "num_concepts": 12, "named": 9, "unique_names": 8}
    assert client.get("/v1/dictionaries").json()["dictionaries"] == [expected]
    assert client.get(URL).json() == expected


def test_concept_fields(client: TestClient) -> None:
    first = client.get(f"{URL}/concepts").json()["concepts"][0]
    assert first == {
        "concept": 0,
        "name": "red",
        "status": "named",
        "score": 0.9,
        "margin": 0.01,
        "group": 0,
        "density": 0.5,
        "mean_code": 1.0,
        "max_code": 4.5,
        "weight": None,
    }


def test_missing_statistics_are_null(client: TestClient) -> None:
    assert client.get(f"{URL}/concepts/11").json()["max_code"] is None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"name": "RED"}, [0, 6]),
        ({"name": "nothing"}, []),
        ({"status": "blocked"}, [11]),
        ({"status": "unnamed"}, [9, 10]),
        ({"status": "named", "name": "s", "sort": "density"}, [1, 2, 4, 5]),
        ({"sort": "score", "limit": 3}, [0, 1, 2]),
        ({"sort": "score", "limit": 3, "order": "asc"}, [9, 10, 11]),
        ({"sort": "density", "limit": 2}, [0, 1]),
        ({"sort": "concept", "order": "desc", "limit": 2}, [11, 10]),
        ({"sort": "max_code", "limit": 2}, [10, 9]),
    ],
)
def test_filter_and_sort(client: TestClient, query: Any, expected: list[int]) -> None:
    assert concepts(client, **query) == expected


def test_pages_follow_each_other(client: TestClient) -> None:
    address, seen = f"{URL}/concepts?sort=density&limit=5", []
    while address:
        body = client.get(address).json()
        assert body["total"] == 12
        seen += [item["concept"] for item in body["concepts"]]
        address = body["next"]
    assert seen == list(range(12))
    assert concepts(client, offset=100) == []


@pytest.mark.parametrize(
    "query", ["sort=colour", "status=odd", "order=up", "limit=0", "offset=-3", "name=" + "x" * 201]
)
def test_bad_query(client: TestClient, query: str) -> None:
    assert problem(client.get(f"{URL}/concepts?{query}"), 422).startswith(query.split("=")[0])


def test_every_number_sorts(client: TestClient) -> None:
    for sort in ("score", "margin", "density", "mean_code", "max_code"):
        body = client.get(f"{URL}/concepts?sort={sort}&limit=500").json()
        values = [item[sort] for item in body["concepts"]]
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=True), sort


@pytest.mark.parametrize("path", [f"{URL}/concepts?statuss=named", "/v1/models?limt=3"])
def test_a_mistyped_filter_is_refused(client: TestClient, path: str) -> None:
    detail = problem(client.get(path), 422)
    assert "Unknown query parameter" in detail
    assert "Nearest known names: " in detail


def test_a_refused_value_is_named(client: TestClient) -> None:
    assert ", got 'colour'" in problem(client.get(f"{URL}/concepts?sort=colour"), 422)


def test_describe_concept(client: TestClient) -> None:
    body = client.get(f"{URL}/concepts/2").json()
    assert body["name"] == HOSTILE
    assert body["alternatives"] == [
        {"name": "other", "score": 0.2},
        {"name": "another", "score": 0.1},
    ]


@pytest.mark.parametrize("path", ["concepts/12", "concepts/12/examples"])
def test_unknown_concept(client: TestClient, path: str) -> None:
    assert "concepts are 0 to 11" in problem(client.get(f"{URL}/{path}"), 404)


@pytest.mark.parametrize("concept", ["-1", "red", "1.5", "9" * 40])
def test_malformed_concept(client: TestClient, concept: str) -> None:
    problem(client.get(f"{URL}/concepts/{concept}"), 422)


def test_examples_in_order_with_thumbnails(client: TestClient) -> None:
    body = client.get(f"{URL}/concepts/0/examples").json()
    assert [item["item_id"] for item in body["examples"]] == [
        "c/9.jpg",
        "b/2.jpg",
        "../../etc/passwd",
    ]
    assert [item["thumbnail"] for item in body["examples"]] == [None] * 3
    [example] = client.get(f"{URL}/concepts/1/examples").json()["examples"]
    picture = client.get(example["thumbnail"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content.startswith(b"\xff\xd8")


def test_concept_without_examples(client: TestClient) -> None:
    body = client.get(f"{URL}/concepts/9/examples").json()
    assert (body["examples"], body["total"], body["next"]) == ([], 0, None)


def test_missing_thumbnail(client: TestClient) -> None:
    assert "no thumbnail of row 5" in problem(client.get(f"{URL}/thumbnails/5.jpg"), 404)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/dictionaries/clothing/thumbnails/..%2F..%2F..%2Fsecret.txt.jpg",
        "/v1/dictionaries/clothing/thumbnails/../../../secret.txt",
        "/v1/dictionaries/..%2F..%2Fetc/concepts",
        "/v1/dictionaries/%2e%2e/concepts",
        "/v1/models/..%2Fclothing",
        "/v1/models/clothing%2F..%2F..",
        "/v1/models/clothing%00",
        "/report/..%2Fsecret.txt",
        "/report/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/web/..%2Fmain.py",
        "/web/index.html",
        "/web/%2e%2e/main.py",
        "//etc/passwd",
        "/../../../../etc/passwd",
    ],
)
def test_no_path_leads_out(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code in (404, 422)
    assert response.headers["content-type"] == "application/problem+json"
    assert "top secret" not in response.text
    assert "root:" not in response.text


def test_search(client: TestClient) -> None:
    body = client.get(f"{URL}/search", params={"text": "red", "limit": 2}).json()
    assert body["text"] == "red"
    assert [(match["concept"], match["name"]) for match in body["matches"]] == [
        (0, "red"),
        (6, "red"),
    ]


@pytest.mark.parametrize(
    "query", ["", "text=", "text=%20", "text=" + "x" * 201, "text=a&limit=0", "text=a&limit=501"]
)
def test_bad_search(client: TestClient, query: str) -> None:
    problem(client.get(f"{URL}/search?{query}"), 422)


def test_unknown_dictionary(client: TestClient) -> None:
    assert "Unknown dictionary 'clothes'" in problem(client.get("/v1/dictionaries/clothes"), 404)
