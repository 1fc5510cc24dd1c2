"""A Kubeflow Pipelines server in small: its v2beta1 REST paths on loopback, its state in memory, its strictness kept.

Every request body must be what the client's own models say: an unknown field or a wrong type is answered as the real
server would, with 400 and the API's error JSON. A run's package must parse as the protos, and its arguments must fit
the package's parameters. Nothing is executed: a test says how a run goes.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import kfp_server_api
from dateutil.parser import isoparse
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

__all__ = ["KubeflowServer", "Request", "kubeflow_server"]

ROOT = "/apis/v2beta1"
LISTS = {"experiments": "experiments", "runs": "runs", "recurringruns": "recurringRuns"}
IDS = {"experiments": "experiment_id", "runs": "run_id", "recurringruns": "recurring_run_id"}
MODELS = {"experiments": "V2beta1Experiment", "runs": "V2beta1Run", "recurringruns": "V2beta1RecurringRun"}
QUERIES = {"page_token", "page_size", "filter", "namespace", "experiment_id"}
NEEDED = {"experiments": ("display_name",), "runs": ("display_name",), "recurringruns": ("display_name", "trigger")}
TYPES = {"STRING": str, "STRUCT": dict, "LIST": list, "BOOLEAN": bool, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": float}


class Refused(Exception):
    """A request that the server answers with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


@dataclass(frozen=True)
class Request:
    """What a client has sent."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any


@dataclass
class KubeflowServer:
    """The state of a server, and what a test tells it.

    Attributes:
        host: its address.
        requests: all that was asked, in order.
        token: what clients must send; None: anyone may ask.
        multi_user: whether requests must name a namespace.
        page_size: objects of one answer at most.
        silent: the path of requests that get no answer for a second.
    """

    host: str = ""
    requests: list[Request] = field(default_factory=list)
    token: str | None = None
    multi_user: bool = False
    page_size: int = 1000
    silent: str = ""
    objects: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {kind: {} for kind in LISTS})
    faults: list[tuple[str, str, tuple[int, str, str]]] = field(default_factory=list)
    course: list[dict[str, Any]] = field(default_factory=list)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The runs, oldest first."""
        return list(self.objects["runs"].values())

    @property
    def arguments(self) -> list[dict[str, Any]]:
        """The arguments of each run."""
        return [run["runtime_config"]["parameters"] for run in self.runs]

    @property
    def schedules(self) -> list[dict[str, Any]]:
        """The recurring runs, oldest first."""
        return list(self.objects["recurringruns"].values())

    @property
    def writes(self) -> list[Request]:
        """The requests that would change something."""
        return [request for request in self.requests if request.method != "GET"]

    def fail(
        self, method: str, path: str, status: int, body: Any, *, times: int = 1, content_type: str = "application/json"
    ) -> None:
        """Answers requests whose path begins with ``path`` with an error, so many times."""
        text = body if isinstance(body, str) else json.dumps(body)
        self.faults += [(method, path, (status, text, content_type))] * times

    def play(self, *steps: Mapping[str, Any]) -> None:
        """How the runs go: each question about a run sees the next step, and then always the last one.

        A step holds fields of the run, and under ``tasks`` a state, or a whole task detail, for each task.
        """
        self.course = [dict(step) for step in steps]

    def add_run(self, **fields: Any) -> str:
        """A run that was not submitted here; its id."""
        run_id = fields.get("run_id") or str(uuid.uuid4())
        run = {"run_id": run_id, "created_at": now(), "state": "SUCCEEDED", "storage_state": "AVAILABLE", **fields}
        check_type(run, "V2beta1Run", "run")
        self.objects["runs"][run_id] = run
        return run_id

    def answer(self, request: Request, headers: Mapping[str, str]) -> Any:
        """The answer to a request."""
        if self.token and headers.get("authorization") != f"Bearer {self.token}":
            raise Refused(401, "Request header error: there is no user identity header")
        path = request.path.removeprefix(ROOT)
        if path == request.path:
            raise Refused(404, "Not Found")
        if path == "/healthz" and request.method == "GET":
            return {"multi_user": self.multi_user, "pipeline_store": "database"}
        kind, _, identifier = path.lstrip("/").partition("/")
        if kind not in LISTS:
            raise Refused(404, "Not Found")
        match request.method, unquote(identifier):
            case "GET", "":
                return self._list(kind, request.query)
            case "POST", "":
                return self._create(kind, request.body)
            case "GET", known if known in self.objects[kind]:
                return self._get(kind, known)
            case "DELETE", known if known in self.objects[kind]:
                del self.objects[kind][known]
                return {}
            case _, unknown:
                raise Refused(404, f"{MODELS[kind]} {unknown} not found")

    def _list(self, kind: str, query: Mapping[str, str]) -> dict[str, Any]:
        if unknown := set(query) - QUERIES:
            raise Refused(400, f"unknown query parameters {sorted(unknown)}")
        if self.multi_user and not query.get("namespace") and not query.get("experiment_id"):
            raise Refused(400, "Invalid input error: A namespace must be specified in multi-user mode")
        found = [self._get(kind, name) for name in self.objects[kind]]
        for name in ("experiment_id", "namespace"):
            if query.get(name) and (name, kind) != ("namespace", "runs"):
                found = [entry for entry in found if entry.get(name) == query[name]]
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", ()):
            if predicate["operation"] not in (1, "EQUALS"):
                raise Refused(400, f"filter: operation {predicate['operation']} is not one of this server")
            found = [entry for entry in found if entry.get(predicate["key"]) == predicate["stringValue"]]
        start = int(query.get("page_token") or 0)
        stop = start + min(self.page_size, int(query.get("page_size") or 10))
        answer: dict[str, Any] = {LISTS[kind]: found[start:stop], "total_size": len(found)}
        return answer | ({"next_page_token": str(stop)} if stop < len(found) else {})

    def _create(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        check_type(body, MODELS[kind], "body")
        for name in NEEDED[kind]:
            if not body.get(name):
                raise Refused(400, f"Invalid input error: {name} must be specified")
        if self.multi_user and kind == "experiments" and not body.get("namespace"):
            raise Refused(400, "Invalid input error: A namespace must be specified in multi-user mode")
        if kind != "experiments":
            if body.get("experiment_id") not in self.objects["experiments"]:
                raise Refused(404, f"Experiment {body.get('experiment_id')!r} not found")
            check_job(body)
        if kind == "recurringruns":
            check_trigger(body["trigger"], str(body.get("max_concurrency", "")))
            body |= {"status": "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED"}
        if kind == "runs":
            body |= {"state": "PENDING", "storage_state": "AVAILABLE"}
        identifier = str(uuid.uuid4())
        self.objects[kind][identifier] = {**body, IDS[kind]: identifier, "created_at": now()}
        return self.objects[kind][identifier]

    def _get(self, kind: str, identifier: str) -> dict[str, Any]:
        entry = self.objects[kind][identifier]
        if kind == "runs" and self.course:
            step = self.course.pop(0) if len(self.course) > 1 else dict(self.course[0])
            told = {n: t if isinstance(t, dict) else {"state": t} for n, t in step.pop("tasks", {}).items()}
            tasks = [{"task_id": f"task-{name}", "display_name": name, **fields} for name, fields in told.items()]
            entry |= {**step, "run_details": {"task_details": tasks}}
            check_type(entry, "V2beta1Run", "run")
        return entry


def now() -> str:
    """The time as the server writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def check_type(value: Any, name: str, place: str) -> None:
    """Refuses a value that is not of the type that the client's models give it."""
    plain: dict[str, type | tuple[type, ...]] = {"str": str, "bool": bool, "int": int, "float": (int, float)}
    if name == "object":
        return
    if name.startswith("list["):
        for number, item in enumerate(expect(value, list, place)):
            check_type(item, name[5:-1], f"{place}[{number}]")
    elif name.startswith("dict("):
        for key, item in expect(value, dict, place).items():
            check_type(item, name[5:-1].split(", ", 1)[1], f"{place}.{key}")
    elif name in plain:
        expect(value, plain[name], place)
    elif name == "datetime":
        try:
            isoparse(expect(value, str, place))
        except ValueError:
            raise Refused(400, f"invalid value for timestamp {place}: {value!r}") from None
    else:
        check_fields(value, getattr(kfp_server_api, name), place)


def check_fields(value: Any, model: Any, place: str) -> None:
    """Refuses unknown fields of a model, and values that are none of an enumeration."""
    if not model.openapi_types:
        allowed = {getattr(model, name) for name in vars(model) if name.isupper()}
        if value not in allowed:
            raise Refused(400, f"invalid value for enum field {place}: {value!r}")
        return
    types = {model.attribute_map[attribute]: kind for attribute, kind in model.openapi_types.items()}
    for key, item in expect(value, dict, place).items():
        if key not in types:
            raise Refused(400, f'unknown field "{key}" in {place}')
        check_type(item, types[key], f"{place}.{key}")


def expect(value: Any, types: Any, place: str) -> Any:
    """The value, if it is of one of these types."""
    if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
        raise Refused(400, f"invalid value for field {place}: {value!r}")
    return value


def check_job(body: Mapping[str, Any]) -> None:
    """Refuses a package that is none, and arguments that do not fit it."""
    document = body.get("pipeline_spec") or {}
    if set(document) - {"pipeline_spec", "platform_spec"} or "pipeline_spec" not in document:
        raise Refused(400, f"Invalid input error: pipeline_spec holds {sorted(document)}")
    try:
        spec = json_format.ParseDict(document["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(document.get("platform_spec", {}), pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError as error:
        raise Refused(400, f"Invalid input error: invalid v2 pipeline spec: {error}") from None
    given = (body.get("runtime_config") or {}).get("parameters") or {}
    defined = spec.root.input_definitions.parameters
    if unknown := sorted(set(given) - set(defined)):
        raise Refused(400, f"Invalid input error: unknown parameters {unknown}")
    for name, definition in defined.items():
        kind = pipeline_spec_pb2.ParameterType.ParameterTypeEnum.Name(definition.parameter_type)
        if name in given:
            check_argument(given[name], TYPES[kind], f"parameter {name}")
        elif not definition.is_optional and not definition.HasField("default_value"):
            raise Refused(400, f"Invalid input error: parameter {name} is not given")


def check_argument(value: Any, kind: type, place: str) -> None:
    """Refuses an argument of another type than the package's, and null, which its structs cannot hold."""
    expect(value, (int, float) if kind in (int, float) else kind, place)
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if item is None:
            raise Refused(400, f"Invalid input error: {place} holds null")
        waiting += item.values() if isinstance(item, dict) else item if isinstance(item, list) else []


def check_trigger(trigger: Mapping[str, Any], concurrency: str) -> None:
    """Refuses a schedule that the scheduler could not read: cron has six fields there, seconds first."""
    cron = (trigger.get("cron_schedule") or {}).get("cron", "")
    if len(cron.split()) != 6:
        raise Refused(400, f"Invalid input error: Schedule cron is not supported: expected 6 fields, found {cron!r}")
    if not concurrency.isdigit() or not 1 <= int(concurrency) <= 10:
        raise Refused(400, "Invalid input error: The max concurrency of the job should be in range [1, 10]")


class Handler(BaseHTTPRequestHandler):
    """Reads a request, notes it, and writes the state's answer."""

    server: Any

    def do_GET(self) -> None:
        """Answers with JSON, an error as the API's gateway words it."""
        state: KubeflowServer = self.server.state
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), json.loads(raw) if raw else None)
        with self.server.lock:
            state.requests.append(request)
            if request.path == state.silent:
                time.sleep(1)
            for fault in state.faults:
                method, path, answer = fault
                if method == request.method and request.path.startswith(path):
                    state.faults.remove(fault)
                    return self.reply(*answer)
            try:
                answer = state.answer(request, {key.lower(): value for key, value in self.headers.items()})
            except Refused as refused:
                details = [{"@type": "type.googleapis.com/google.rpc.Status", "message": refused.text}]
                body = {"error": refused.text, "message": refused.text, "code": 3, "details": details}
                return self.reply(refused.status, json.dumps(body))
            self.reply(200, json.dumps(answer))

    do_POST = do_DELETE = do_GET

    def reply(self, status: int, text: str, content_type: str = "application/json") -> None:
        """Sends an answer."""
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Keeps silent."""


@contextmanager
def kubeflow_server(**settings: Any) -> Iterator[KubeflowServer]:
    """A server on a free port of loopback for as long as the block lasts."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.state = KubeflowServer(host=f"http://127.0.0.1:{http.server_port}", **settings)  # type: ignore[attr-defined]
    http.lock = threading.Lock()  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield http.state  # type: ignore[attr-defined]
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The display names of objects of the server."""
    return [str(entry["display_name"]) for entry in entries]
