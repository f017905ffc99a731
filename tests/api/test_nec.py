"""The number of effective concepts, by both of its names."""

import pytest
from fastapi.testclient import TestClient

from tests.api.fakes import photo
from tests.api.test_predictions import URL, answer, post, problem


@pytest.mark.parametrize("query", ["effective_concepts=5", "nec=5&effective_concepts=5"])
def test_effective_concepts_is_nec(client: TestClient, query: str) -> None:
    assert answer(client, photo(1), url=f"{URL}?{query}") == answer(
        client, photo(1), url=f"{URL}?nec=5"
    )


def test_two_numbers_of_concepts(client: TestClient) -> None:
    url = f"{URL}?nec=5&effective_concepts=6"
    assert "two names of one number" in problem(post(client, photo(1), url=url), 422)
