"""A tree of files in a bucket of S3, or of anything that speaks S3: MinIO, SeaweedFS, Ceph."""

from __future__ import annotations

import hashlib
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cache, cached_property
from typing import Any, NamedTuple, TypeVar

from ctm.errors import StorageError
from ctm.runtime.storage import FileStat

try:
    import boto3
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

__all__ = ["S3Tree"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

THREADS = 16
"""Requests at a time of one process: what it waits for is the way to the storage, not the processor."""

WHOLE = 16 * 2**20
"""Objects of up to so many bytes are read by one request."""

RANGE = 8 * 2**20
"""Bytes a request of larger objects."""

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

CREDENTIALS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile of ~/.aws"

CHANGED = "has changed since it was listed; run the command again"

GO_ON = "What is finished is kept: the same command goes on from there"


class S3Tree:
    """The objects below ``s3://bucket/prefix``, by their keys without the prefix.

    Credentials, region and endpoint come from where AWS's own tools take them: environment, ``~/.aws``, the machine's
    role. Every object is read as it was listed (``If-Match``), its length is checked and so is the checksum that the
    storage keeps of it: one of S3's (by boto3), or the MD5 that the ETag is unless the object was uploaded in parts.

    Attributes:
        uri: its address.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        if not self._bucket:
            raise StorageError(f"{uri!r} names no bucket; an address is s3://bucket or s3://bucket/prefix")

    def __reduce__(self) -> tuple[Callable[[str], S3Tree], tuple[str]]:
        return _sent_tree, (self.uri,)

    @property
    def files(self) -> Mapping[str, FileStat]:
        """All objects in ascending order; hidden ones, of which a part begins with a dot, are not among them."""
        return self._listing[0]

    @property
    def refused(self) -> Mapping[str, str]:
        """Objects whose keys cannot be paths."""
        return self._listing[1]

    def read(self, path: str) -> bytes:
        """The contents of an object; if the tree has been listed, the object must be as it was then."""
        listed = self.__dict__.get("_listing", ({}, {}))[0]  # a worker process has no use for a listing of its own
        return self._read({path: listed.get(path)})[path]

    def read_all(self, files: Mapping[str, FileStat]) -> dict[str, bytes]:
        """The contents of several objects, read side by side."""
        return self._read(files)

    def place(self, path: str) -> str:
        """The object's address."""
        return f"s3://{self._bucket}/{self._prefix}{path}"

    @cached_property
    def _client(self) -> Any:
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
    def _endpoint(self) -> str:
        return str(self._client.meta.endpoint_url)

    @cached_property
    def _listing(self) -> tuple[dict[str, FileStat], dict[str, str]]:
        files: dict[str, FileStat] = {}
        refused: dict[str, str] = {}
        for path, stat in self._answer(self.uri, self._list):
            parts = path.split("/")
            if path.endswith("/"):
                continue  # the mark of a folder, which some tools write
            if {"", ".", ".."} & set(parts):
                refused[path] = "an object whose key has an empty part, '.' or '..', which no path can have"
            elif not any(part.startswith(".") for part in parts):
                files[path] = stat
        if not files:
            raise StorageError(
                f"{self._endpoint} has no object under prefix {self._prefix!r} of bucket {self._bucket!r}; "
                "set dataset.root to where the data lie"
            )
        return dict(sorted(files.items())), dict(sorted(refused.items()))

    def _list(self) -> list[tuple[str, FileStat]]:
        with _broken_by(HTTPError, ResponseParserError):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            return [
                (entry["Key"][len(self._prefix) :], FileStat(entry["Size"], entry.get("ETag", "").strip('"')))
                for page in pages
                for entry in page.get("Contents", ())
            ]

    def _read(self, files: Mapping[str, FileStat | None]) -> dict[str, bytes]:
        """The contents of objects, each whole and undamaged, or a StorageError."""
        found = self._download(files)
        damaged = {path: files[path] for path, content in found.items() if not content.is_intact}
        if damaged:
            found |= self._download(damaged)  # in place: the order stays
        for path in damaged:
            if not found[path].is_intact:
                raise StorageError(
                    f"{self.place(path)} is damaged: what {self._endpoint} delivers, twice, does not have the MD5 of "
                    f"its ETag, {found[path].md5}; upload it again"
                )
        return {path: content.data for path, content in found.items()}

    def _download(self, files: Mapping[str, FileStat | None]) -> dict[str, _Content]:
        """Objects, and ranges of large ones, side by side."""
        ranges = {path: _ranges(stat) for path, stat in files.items()}
        self._client  # noqa: B018 - made here, not by sixteen threads at once
        with ThreadPoolExecutor(max(1, min(THREADS, sum(map(len, ranges.values()))))) as pool:
            try:
                waiting = {
                    path: [pool.submit(self._get, path, files[path], span) for span in spans]
                    for path, spans in ranges.items()
                }
                return {path: _join([part.result() for part in waiting.pop(path)]) for path in files}
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # what has not begun need not
                raise

    def _get(self, path: str, stat: FileStat | None, span: range | None) -> _Content:
        """An object, or a range of it, as it was when it was listed."""
        request = {"Bucket": self._bucket, "Key": self._prefix + path}
        if stat and stat.stamp:
            request["IfMatch"] = f'"{stat.stamp}"'
        if span:
            request["Range"] = f"bytes={span.start}-{span.stop - 1}"
        size = len(span) if span else stat.size if stat else None
        return self._answer(self.place(path), lambda: self._get_once(request, stat, size))

    def _get_once(self, request: dict[str, str], stat: FileStat | None, size: int | None) -> _Content:
        with _broken_by(HTTPError, ResponseParserError):
            answer = self._client.get_object(**request)
        etag = answer.get("ETag", "").strip('"')
        if stat and stat.stamp and stat.stamp != etag:  # a storage that does not know If-Match
            raise StorageError(f"s3://{self._bucket}/{request['Key']} {CHANGED}")
        with _broken_by(HTTPError, BotoCoreError), closing(answer["Body"]) as body:
            data = body.read()
        if size is not None and len(data) != size:
            raise _BrokenAnswerError(f"{len(data)} bytes instead of {size}")
        return _Content(data, _md5(answer, etag, self._bucket))

    def _answer(self, place: str, ask: Callable[[], T]) -> T:
        """What ``ask`` returns; asked again where an answer breaks off, which boto3 leaves to its callers."""
        attempts = self._client.meta.config.retries["total_max_attempts"]
        for attempt in range(attempts):
            if attempt:
                time.sleep(random.SystemRandom().random() * min(2.0 ** (attempt - 1), LONGEST_WAIT))
            try:
                return ask()
            except _BrokenAnswerError as error:
                logger.debug("%s: attempt %d: %s", place, attempt + 1, error)
                reason = str(error)
            except (BotoCoreError, ClientError) as error:
                raise StorageError(self._explain(place, error)) from error
        raise StorageError(f"{place} could not be read whole from {self._endpoint}: {reason}. {GO_ON}")

    def _explain(self, place: str, error: Exception) -> str:
        if isinstance(error, ClientError):
            return self._explain_refusal(place, error)
        match error:
            case NoCredentialsError() | PartialCredentialsError() | CredentialRetrievalError():
                return f"{place}: no credentials for {self._endpoint} ({error}). {self._hint}{CREDENTIALS}"
            case ParamValidationError():
                return f"{place}: {self._bucket!r} is no name of a bucket; an address is s3://bucket/prefix"
            case SSLError():
                return f"{place}: no secure connection to {self._endpoint} ({error}); AWS_CA_BUNDLE names a certificate"
            case NoConnectionError() | HTTPClientError():
                return f"{place}: {self._endpoint} cannot be reached ({error}). {self._hint}{GO_ON}"
        return f"{place}: {error}"

    def _explain_refusal(self, place: str, error: ClientError) -> str:
        code, text = error.response["Error"].get("Code", "?"), error.response["Error"].get("Message", "")
        if code in DENIED:
            return f"{place}: {self._endpoint} refuses access ({code}: {text}). {self._hint}{CREDENTIALS}"
        if code == "NoSuchBucket":
            return f"{place}: {self._endpoint} has no bucket {self._bucket!r}. {self._hint}Check dataset.root"
        if code in ("NoSuchKey", "404"):
            return f"{place} does not exist"
        if code in ("PreconditionFailed", "412"):
            return f"{place} {CHANGED}"
        if error.response["ResponseMetadata"].get("HTTPStatusCode", 0) >= 500:
            return f"{place}: {self._endpoint} is out of order ({code}: {text}). {GO_ON}"
        return f"{place}: {self._endpoint} answers {code}: {text}"

    @property
    def _hint(self) -> str:
        own = "amazonaws.com" not in self._endpoint
        return "" if own else "A storage other than Amazon's is named by AWS_ENDPOINT_URL_S3 or in ~/.aws/config. "


class _Content(NamedTuple):
    """An object, or a range of one."""

    data: bytes
    md5: str | None
    """What the whole object's MD5 must be; None if the storage does not say."""

    @property
    def is_intact(self) -> bool:
        return self.md5 is None or hashlib.md5(self.data, usedforsecurity=False).hexdigest() == self.md5


class _BrokenAnswerError(Exception):
    """An answer began and did not end as it should."""


@contextmanager
def _broken_by(*errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise _BrokenAnswerError(str(error)) from error


@cache
def _sent_tree(uri: str) -> S3Tree:
    """One tree a process, so that every piece of work that is sent there uses the same connections."""
    return S3Tree(uri)


def _ranges(stat: FileStat | None) -> list[range | None]:
    """The pieces in which an object is read; None is all of it."""
    if stat is None or stat.size <= WHOLE:
        return [None]
    return [range(start, min(start + RANGE, stat.size)) for start in range(0, stat.size, RANGE)]


def _join(parts: list[_Content]) -> _Content:
    return _Content(b"".join(part.data for part in parts), parts[0].md5)


def _md5(answer: Mapping[str, Any], etag: str, bucket: str) -> str | None:
    """The MD5 of the whole object, which its ETag is but for uploads in parts, some encryptions, and S3 Express."""
    other = answer.get("ServerSideEncryption", "").startswith("aws:kms") or "SSECustomerAlgorithm" in answer
    plain = re.fullmatch("[0-9a-f]{32}", etag) and not other and not bucket.endswith("--x-s3")
    return etag if plain else None
