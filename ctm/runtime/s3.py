"""A tree of files in a bucket of S3, or of anything that speaks S3: MinIO, SeaweedFS, Ceph."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache, cached_property
from typing import Any, NamedTuple

from ctm.errors import StorageError
from ctm.runtime.s3_place import (
    CHANGED,
    THREADS,
    BotoCoreError,
    BrokenAnswerError,
    HTTPError,
    ResponseParserError,
    S3Place,
    broken_by,
)
from ctm.runtime.storage import FileStat

__all__ = ["S3Tree"]

WHOLE = 16 * 2**20
"""Objects of up to so many bytes are read by one request."""

RANGE = 8 * 2**20
"""Bytes a request of larger objects."""


class S3Tree:
    """The objects below ``s3://bucket/prefix``, by their keys without the prefix.

    Every object is read as it was listed (``If-Match``), its length is checked and so is the checksum that the storage
    keeps of it: one of S3's (by boto3), or the MD5 that the ETag is unless the object was uploaded in parts.

    Attributes:
        uri: its address.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._place = S3Place(uri, named_by="dataset.root")

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
        return self._place.address(path)

    @cached_property
    def _listing(self) -> tuple[dict[str, FileStat], dict[str, str]]:
        files: dict[str, FileStat] = {}
        refused: dict[str, str] = {}
        for path, stat in self._place.answer(self.uri, self._list):
            parts = path.split("/")
            if path.endswith("/"):
                continue  # the mark of a folder, which some tools write
            if {"", ".", ".."} & set(parts):
                refused[path] = "an object whose key has an empty part, '.' or '..', which no path can have"
            elif not any(part.startswith(".") for part in parts):
                files[path] = stat
        if not files:
            raise StorageError(
                f"{self._place.endpoint} has no object under prefix {self._place.prefix!r} of bucket "
                f"{self._place.bucket!r}; set dataset.root to where the data lie"
            )
        return dict(sorted(files.items())), dict(sorted(refused.items()))

    def _list(self) -> list[tuple[str, FileStat]]:
        place = self._place
        with broken_by(HTTPError, ResponseParserError):
            pages = place.client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=place.prefix)
            return [
                (entry["Key"][len(place.prefix) :], FileStat(entry["Size"], entry.get("ETag", "").strip('"')))
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
                    f"{self.place(path)} is damaged: what {self._place.endpoint} delivers, twice, does not have the "
                    f"MD5 of its ETag, {found[path].md5}; upload it again"
                )
        return {path: content.data for path, content in found.items()}

    def _download(self, files: Mapping[str, FileStat | None]) -> dict[str, _Content]:
        """Objects, and ranges of large ones, side by side."""
        ranges = {path: _ranges(stat) for path, stat in files.items()}
        self._place.client  # noqa: B018 - made here, not by sixteen threads at once
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
        request = {"Bucket": self._place.bucket, "Key": self._place.prefix + path}
        if stat and stat.stamp:
            request["IfMatch"] = f'"{stat.stamp}"'
        if span:
            request["Range"] = f"bytes={span.start}-{span.stop - 1}"
        size = len(span) if span else stat.size if stat else None
        return self._place.answer(self.place(path), lambda: self._get_once(request, stat, size))

    def _get_once(self, request: dict[str, str], stat: FileStat | None, size: int | None) -> _Content:
        with broken_by(HTTPError, ResponseParserError):
            answer = self._place.client.get_object(**request)
        etag = answer.get("ETag", "").strip('"')
        if stat and stat.stamp and stat.stamp != etag:  # a storage that does not know If-Match
            raise StorageError(f"s3://{self._place.bucket}/{request['Key']} {CHANGED}")
        with broken_by(HTTPError, BotoCoreError), closing(answer["Body"]) as body:
            data = body.read()
        if size is not None and len(data) != size:
            raise BrokenAnswerError(f"{len(data)} bytes instead of {size}")
        return _Content(data, _md5(answer, etag, self._place.bucket))


class _Content(NamedTuple):
    """An object, or a range of one."""

    data: bytes
    md5: str | None
    """What the whole object's MD5 must be; None if the storage does not say."""

    @property
    def is_intact(self) -> bool:
        return self.md5 is None or hashlib.md5(self.data, usedforsecurity=False).hexdigest() == self.md5


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
