"""A place in S3, or in anything that speaks S3: the connection, and what its refusals mean for whoever asked."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ctm.errors import StorageError

try:
    import boto3
    from boto3.s3.transfer import S3TransferRetriesExceededError, TransferConfig, create_transfer_manager
    from botocore.config import Config
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        CredentialRetrievalError,
        HTTPClientError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
        SSLError,
    )
    from botocore.exceptions import ConnectionError as NoConnectionError
    from botocore.parsers import ResponseParserError
    from botocore.session import Session
    from urllib3.exceptions import HTTPError
except ImportError as error:
    raise StorageError("data in s3:// need boto3, which is not installed: pip install 'ctm[data]'") from error

__all__ = [
    "CHANGED",
    "THREADS",
    "BotoCoreError",
    "BrokenAnswerError",
    "ClientError",
    "HTTPError",
    "ResponseParserError",
    "S3Place",
    "broken_by",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

THREADS = 16
"""Requests at a time of one process: what it waits for is the way to the storage, not the processor."""

ATTEMPTS = 5
"""How often a request is tried, unless AWS's own configuration says otherwise (``max_attempts``)."""

CONNECT_SECONDS, READ_SECONDS = 5, 60

LONGEST_WAIT = 20.0
"""Seconds between two attempts at most."""

DENIED = {
    "403",
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
"""Error codes that have to do with who asks."""

PART = 64 * 2**20
"""Larger files are carried in parts of so many bytes."""

TRANSFER = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, preferred_transfer_client="classic")

CREDENTIALS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile of ~/.aws"

CHANGED = "has changed since it was listed; run the command again"

GO_ON = "What is finished is kept: the same command goes on from there"


class S3Place:
    """A prefix of a bucket, and a client that reaches it.

    Credentials, region and endpoint come from where AWS's own tools take them: environment, ``~/.aws``, the machine's
    role.

    Attributes:
        uri: its address.
        bucket: the bucket.
        prefix: what the keys of its objects begin with; empty, or with a slash at its end.
    """

    def __init__(self, uri: str, *, named_by: str) -> None:
        """Makes no request yet.

        Args:
            uri: ``s3://bucket`` or ``s3://bucket/prefix``.
            named_by: the parameter or option that says so, for messages.

        Raises:
            StorageError: the address has no bucket.
        """
        self.uri = uri
        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        self.prefix = f"{prefix}/" if prefix else ""
        self._named_by = named_by
        if not self.bucket:
            raise StorageError(f"{uri!r} names no bucket; an address is s3://bucket or s3://bucket/prefix")

    def address(self, path: str) -> str:
        """The address of an object of the place."""
        return f"s3://{self.bucket}/{self.prefix}{path}"

    @cached_property
    def client(self) -> Any:
        """Made where it is first used, since no connection can be sent to another process."""
        try:
            session = Session()
            attempts = session.get_config_variable("max_attempts") or ATTEMPTS
            config = Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                max_pool_connections=THREADS,
                retries={"mode": "standard", "total_max_attempts": attempts},
            )
            return boto3.Session(botocore_session=session).client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise StorageError(f"{self.uri}: the AWS configuration cannot be used: {error}") from error

    @property
    def endpoint(self) -> str:
        """The address of the server."""
        return str(self.client.meta.endpoint_url)

    def ask(self, request: str, path: str, **about: Any) -> Any:
        """The answer to one request of the client that concerns an object of the place."""
        call, key = getattr(self.client, request), self.prefix + path
        return self.answer(self.address(path), lambda: call(Bucket=self.bucket, Key=key, **about))

    def ask_all(self, request: str, **about: Any) -> Any:
        """The answer to one request of the client that concerns all objects of the place."""
        call = getattr(self.client, request)
        return self.answer(self.uri, lambda: call(Bucket=self.bucket, Prefix=self.prefix, **about))

    def upload(self, file: Path, path: str, *, metadata: Mapping[str, str]) -> None:
        """Writes a file as one object, which appears, or is replaced, when all of it has arrived.

        A large one goes in parts side by side; none is held in memory.
        """

        def upload() -> None:
            about = {"Metadata": dict(metadata)}
            with create_transfer_manager(self.client, TRANSFER) as manager:
                manager.upload(str(file), self.bucket, self.prefix + path, extra_args=about).result()

        self.answer(self.address(path), upload)

    def download(self, path: str, file: Path) -> None:
        """Writes the contents of an object into a file; a large one comes in parts, as ``upload`` sends it."""

        def download() -> None:
            with broken_by(S3TransferRetriesExceededError), create_transfer_manager(self.client, TRANSFER) as manager:
                manager.download(self.bucket, self.prefix + path, str(file)).result()

        self.answer(self.address(path), download)

    def answer(self, address: str, ask: Callable[[], T]) -> T:
        """What ``ask`` returns; asked again where an answer breaks off, which boto3 leaves to its callers.

        Args:
            address: what is asked for, in messages.
            ask: makes the requests; what breaks off in ``broken_by`` is asked again.

        Raises:
            StorageError: it is refused, or cannot be had.
        """
        attempts = self.client.meta.config.retries["total_max_attempts"]
        for attempt in range(attempts):
            if attempt:
                time.sleep(random.SystemRandom().random() * min(2.0 ** (attempt - 1), LONGEST_WAIT))
            try:
                return ask()
            except BrokenAnswerError as error:
                logger.debug("%s: attempt %d: %s", address, attempt + 1, error)
                reason = str(error)
            except (BotoCoreError, ClientError) as error:
                raise StorageError(self._explain(address, error)) from error
        raise StorageError(f"{address} could not be read whole from {self.endpoint}: {reason}. {GO_ON}")

    def _explain(self, address: str, error: Exception) -> str:
        if isinstance(error, ClientError):
            return self._explain_refusal(address, error)
        match error:
            case NoCredentialsError() | PartialCredentialsError() | CredentialRetrievalError():
                return f"{address}: no credentials for {self.endpoint} ({error}). {self._hint}{CREDENTIALS}"
            case ParamValidationError():
                return f"{address}: {self.bucket!r} is no name of a bucket; an address is s3://bucket/prefix"
            case SSLError():
                return (
                    f"{address}: no secure connection to {self.endpoint} ({error}); AWS_CA_BUNDLE names a certificate"
                )
            case NoConnectionError() | HTTPClientError():
                return f"{address}: {self.endpoint} cannot be reached ({error}). {self._hint}{GO_ON}"
        return f"{address}: {error}"

    def _explain_refusal(self, address: str, error: ClientError) -> str:
        code, text = error.response["Error"].get("Code", "?"), error.response["Error"].get("Message", "")
        if code in DENIED:
            return f"{address}: {self.endpoint} refuses access ({code}: {text}). {self._hint}{CREDENTIALS}"
        if code == "NoSuchBucket":
            return f"{address}: {self.endpoint} has no bucket {self.bucket!r}. {self._hint}Check {self._named_by}"
        if code in ("NoSuchKey", "404"):
            return f"{address} does not exist"
        if code in ("PreconditionFailed", "412"):
            return f"{address} {CHANGED}"
        if error.response["ResponseMetadata"].get("HTTPStatusCode", 0) >= 500:
            return f"{address}: {self.endpoint} is out of order ({code}: {text}). {GO_ON}"
        return f"{address}: {self.endpoint} answers {code}: {text}"

    @property
    def _hint(self) -> str:
        own = "amazonaws.com" not in self.endpoint
        return "" if own else "A storage other than Amazon's is named by AWS_ENDPOINT_URL_S3 or in ~/.aws/config. "


@contextmanager
def broken_by(*errors: type[Exception]) -> Iterator[None]:
    """Errors that mean, inside, that an answer began and did not end as it should."""
    try:
        yield
    except errors as error:
        raise BrokenAnswerError(str(error)) from error


class BrokenAnswerError(Exception):
    """An answer began and did not end as it should."""
