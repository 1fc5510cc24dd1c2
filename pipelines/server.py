"""The connection to a Kubeflow Pipelines server, whose errors are shown with the server's own words."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import kfp
from kfp_server_api.exceptions import ApiException
from kfp_server_api.rest import RESTClientObject
from urllib3.exceptions import HTTPError

from pipelines.errors import PipelineError

__all__ = ["Server"]

TOKEN = "KUBEFLOW_TOKEN"
"""Environment variable with the token of a server that asks for one."""

PAGE = 100
"""Objects asked for at a time."""

TIMEOUT = (10, 60)
"""Seconds to connect, and to wait for an answer; kfp's client waits for ever."""


class Server:
    """A Kubeflow Pipelines server that has answered once.

    Attributes:
        host: its address.
        namespace: the namespace of runs and experiments; None where the server serves one only.
        client: kfp's own client.
    """

    def __init__(self, host: str, namespace: str | None = None) -> None:
        """Connects to ``host``.

        Raises:
            PipelineError: the server cannot be reached, refuses, is no Kubeflow Pipelines, or needs a namespace.
        """
        self.host = (host if "://" in host else f"https://{host}").rstrip("/")
        with self.errors():
            self.client = _connect(self.host, namespace)
            health = self.client.get_kfp_healthz()
        self.namespace = namespace or self.client.get_user_namespace() or None
        if health.multi_user and not self.namespace:
            raise PipelineError(f"{self.host} serves several namespaces: name yours with --namespace.")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """What the server, or the way to it, finds wrong in this block becomes a ``PipelineError``."""
        try:
            yield
        except ApiException as error:
            raise PipelineError(error_text(self.host, error)) from error
        except HTTPError as error:
            raise PipelineError(f"{self.host} cannot be reached: {_reason(error)}. Check --host.") from error

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is made if there is none of that name."""
        if found := self.find_experiment(name):
            return found
        with self.errors(), contextlib.redirect_stdout(io.StringIO()):  # kfp prints a line of its own
            experiment = self.client.create_experiment(name=name, namespace=self.namespace)
        return self.checked(experiment.experiment_id)

    def find_experiment(self, name: str) -> str | None:
        """The id of an experiment, or None if there is none of that name."""
        wanted = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        found = self.pages(self.client.list_experiments, "experiments", filter=json.dumps({"predicates": [wanted]}))
        return next((experiment.experiment_id for experiment in found), None)

    def pages(self, ask: Callable[..., Any], field: str, **query: Any) -> Iterator[Any]:
        """Every object of a list, page after page."""
        token = ""
        while True:
            with self.errors():
                answer = ask(page_token=token, page_size=PAGE, namespace=self.namespace, **query)
            yield from getattr(answer, field) or ()
            token = answer.next_page_token or ""
            if not token:
                return

    def checked(self, identifier: str | None) -> str:
        """An id that the server must have given."""
        if not identifier:
            raise PipelineError(
                f"{self.host} accepted the request and returned no id: nothing is known of its outcome."
            )
        return identifier

    def run_url(self, run_id: str) -> str:
        """The page of a run."""
        return f"{self.host}/#/runs/details/{run_id}"


def error_text(host: str, error: ApiException) -> str:
    """One message of an error answer: status, the server's words, and what may help."""
    if not error.status:  # how the client tells of a certificate, or of an answer that it cannot read
        return f"{host}: {' '.join(str(error.reason).split())}. Check --host."
    hint = f" Set {TOKEN} to a token that may do this." if error.status in (401, 403) else ""
    return f"{host} answers {error.status} {error.reason or ''}".rstrip() + f": {_words(error.body)}.{hint}"


class Rest(RESTClientObject):  # type: ignore[misc]  # kfp has no types
    """Sends requests, which are given up when no answer comes; kfp's client has no option for it."""

    def request(self, *arguments: Any, **options: Any) -> Any:
        """Sends one."""
        return super().request(*arguments, **options | {"_request_timeout": TIMEOUT})


def _connect(host: str, namespace: str | None) -> Any:
    """A client that asks once where kfp would ask five times in twenty seconds and log a traceback each time."""

    class Client(kfp.Client):  # type: ignore[misc]  # kfp has no types
        def _load_config(self, *arguments: Any) -> Any:
            config = super()._load_config(*arguments)
            config.retries = 0  # urllib3's own are three
            return config

        def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
            ask = self._healthz_api.healthz_service_get_healthz_with_http_info
            health, _, headers = ask(_request_timeout=TIMEOUT)
            if "json" not in headers.get("Content-Type", ""):
                raise PipelineError(
                    f"{host} is no Kubeflow Pipelines API: it answers with a page, such as one to log in. "
                    f"Check --host, and set {TOKEN} where the server asks for a token."
                )
            return health

    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # the error itself is shown
    client = Client(
        host=host,
        namespace=namespace or "kubeflow",
        existing_token=os.environ.get(TOKEN),
        ssl_ca_cert=os.environ.get("SSL_CERT_FILE"),
    )
    client.runs.api_client.rest_client = Rest(client._existing_config)  # one for all parts of the API
    return client


def _words(body: Any) -> str:
    """What a body says: the fields of the API's error JSON, or the beginning of the text."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return " ".join(text.split())[:300].rstrip(".") or "no text"
    details = document.get("details")
    told = [document.get("error"), document.get("message")]
    told += [_detail(detail) for detail in (details if isinstance(details, list) else [details])]
    lines = list(dict.fromkeys(str(line).strip().rstrip(".") for line in told if line))
    return "; ".join(line for line in lines if not any(line in other for other in lines if other != line)) or text


def _detail(detail: Any) -> Any:
    """A detail is text, or an object that may carry text under one of several names."""
    if not isinstance(detail, dict):
        return detail
    names = ("error_details", "errorDetails", "error_message", "message")
    return next((detail[name] for name in names if detail.get(name)), None)


def _reason(error: HTTPError) -> str:
    """The innermost reason of an error of the connection."""
    reason = getattr(error, "reason", None) or error
    text = str(reason)
    return text.rpartition(": ")[2] if "object at 0x" in text else text
