"""The routes of the service over real HTTP."""

import httpx


def test_health(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    state = client.get("/readyz")
    assert state.status_code == 200
    assert state.json()["status"] == "ready"
