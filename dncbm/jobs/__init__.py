"""Pipelines as durable jobs: submitting, following and cancelling them.

    client = JobClient(Places.of(Path("models")))
    job = client.submit("clothing", "discover", {"data": "clothing.zip"})

`client` is what both doors use, `executor` is the worker. DBOS keeps queue, states and finished
stages; `journal` keeps progress and logs. Nothing outside this room knows of DBOS.
"""
