"""Pipelines as durable jobs: submitting, following and cancelling them."""
