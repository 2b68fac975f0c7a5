"""Executions over HTTP: `durable_flow.web.api` has an ASGI application to mount in yours, or to run alone.

Needs ``pip install "durable-flow[web]"``.
"""

from importlib.util import find_spec

from durable_flow import MissingExtraError

if find_spec("starlette") is None:
    raise MissingExtraError("web", "starlette")
