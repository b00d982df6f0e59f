"""The description of the paths, in OpenAPI 3.1, made from the configuration."""

from __future__ import annotations

from typing import Any

from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.http.requests import MOST_JOBS, JobRequest

__all__ = ["LONGEST_WAIT", "description"]

LONGEST_WAIT = 60.0
"""Seconds that a request may wait for a result."""

_PROBLEM = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "problems": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"at": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
        "ids": {"type": "array", "items": {"type": "string"}, "description": "Of those that were pushed."},
        "duplicates": {"type": "array", "items": {"type": "string"}},
    },
}

_TEXT = {"type": "string"}
_COUNT = {"type": "integer"}
_MAYBE_COUNT = {"type": ["integer", "null"]}

_TOPIC = {
    "type": "object",
    "properties": {
        "name": _TEXT,
        "ready": _COUNT,
        "delayed": _COUNT,
        "running": _MAYBE_COUNT,
        "dead": _COUNT,
        "oldest": {"type": ["number", "null"], "description": "Seconds that a job has been waiting."},
    },
}

_RESULT = {
    "type": "object",
    "required": ["id", "ok"],
    "properties": {"id": _TEXT, "ok": {"type": "boolean"}, "result": {}, "error": _TEXT},
}


def description(config: ServiceConfig) -> dict[str, Any]:
    """Of this service."""
    return {
        "openapi": "3.1.0",
        "info": {"title": f"{config.name}: jobs", "version": "1"},
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Job": JobRequest.model_json_schema(), "Problem": _PROBLEM, "Topic": _TOPIC},
        },
        "paths": {
            "/topics/{topic}/jobs": {"post": _push(config)},
            "/jobs/{id}/result": {"get": _result()},
            "/topics": {"get": _topics()},
            "/health": {"get": _health()},
            "/metrics": {
                "get": {
                    "summary": "Numbers for Prometheus.",
                    "responses": {
                        "200": {"description": "Its text format.", "content": {"text/plain": {}}},
                        **_problems(401, 403),
                    },
                }
            },
            "/openapi.json": {
                "get": {
                    "summary": "This.",
                    "responses": {"200": {"description": "JSON."}, **_problems(401, 403)},
                }
            },
        },
    }


def _push(config: ServiceConfig) -> dict[str, Any]:
    job = {"$ref": "#/components/schemas/Job"}
    many = {"type": "array", "items": job, "minItems": 1, "maxItems": MOST_JOBS}
    return {
        "summary": "Push a job, or several in one go.",
        "parameters": [_parameter("topic", {"type": "string", "enum": [t.name for t in config.topics]})],
        "requestBody": {"required": True, "content": _json({"oneOf": [job, many]})},
        "responses": {
            "202": {
                "description": "They are safe in the broker.",
                "content": _json(
                    {
                        "type": "object",
                        "properties": {"id": _TEXT, "ids": {"type": "array", "items": _TEXT}},
                    }
                ),
            },
            **_problems(401, 403, 404, 408, 409, 413, 422, 503),
        },
    }


def _result() -> dict[str, Any]:
    wait = {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT, "default": 0}
    return {
        "summary": "The result of a job, of a topic that keeps results.",
        "parameters": [
            _parameter("id", _TEXT),
            {"name": "wait", "in": "query", "schema": wait, "description": "Seconds to wait for it."},
        ],
        "responses": {
            "200": {"description": "It has ended.", "content": _json(_RESULT)},
            **_problems(401, 403, 404, 406, 422, 503),
        },
    }


def _topics() -> dict[str, Any]:
    topics = {"type": "array", "items": {"$ref": "#/components/schemas/Topic"}}
    schema = {"type": "object", "properties": {"topics": topics}}
    return {
        "summary": "The jobs of each topic, counted.",
        "responses": {"200": {"description": "All.", "content": _json(schema)}, **_problems(401, 403, 503)},
    }


def _health() -> dict[str, Any]:
    return {
        "summary": "Whether the broker answers; needs no token.",
        "security": [],
        "responses": {"200": {"description": "It does."}, **_problems(503)},
    }


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _problems(*statuses: int) -> dict[str, Any]:
    content = _json({"$ref": "#/components/schemas/Problem"})
    return {str(status): {"description": _MEANING[status], "content": content} for status in statuses}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


_MEANING = {
    401: "There is no token.",
    403: "The token is wrong.",
    404: "There is no such topic, or no result yet.",
    406: "The result is no JSON.",
    408: "The body did not come in time.",
    409: "A job of this id is not done; of several jobs those with other ids were pushed.",
    413: "The body is too large.",
    422: "The body is no JSON, or not as it must be.",
    503: "The broker cannot be reached just now, or declines; the text tells which.",
}
