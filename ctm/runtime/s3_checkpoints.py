"""Checkpoints in S3: every state one object, put whole, with its SHA-256, and held against it when it is read."""

from __future__ import annotations

import logging
from pathlib import Path

from ctm.errors import ArtifactError, StorageError
from ctm.runtime.digest import digest_artifact
from ctm.runtime.outputs import staged_outputs
from ctm.runtime.s3_place import ClientError, S3Place

__all__ = ["S3Checkpoints"]

logger = logging.getLogger(__name__)

PROOF = "proof"
"""The object with which a place is tried out."""

DIGEST = "sha256"
"""The name, in an object's metadata, of its digest."""

RIGHTS = "Checkpoints there take the rights to list, read, write and delete"


class S3Checkpoints:
    """The checkpoints of one run as objects below ``<place>/<run>/``; a ``CheckpointStore``.

    Attributes:
        uri: the run's own prefix.
        is_used: whether a stage has opened it.
    """

    def __init__(self, place: str, run: str) -> None:
        """Makes no request yet.

        Args:
            place: ``s3://bucket`` or ``s3://bucket/prefix``.
            run: names the run.

        Raises:
            StorageError: the address has no bucket.
        """
        self.uri = S3Place(place, named_by="--checkpoints").address(run)
        self.is_used = False
        self._place = S3Place(self.uri, named_by="--checkpoints")

    def open(self) -> list[str]:
        """Lists the objects; then writes, looks up and deletes a small one."""
        try:
            names = self._list()
            self._place.ask("put_object", PROOF, Body=b"ctm was here\n")
            self._place.ask("head_object", PROOF)
            self._place.ask("delete_object", PROOF)
        except StorageError as error:
            rights = f". {RIGHTS}" if isinstance(error.__cause__, ClientError) else ""
            raise StorageError(f"{error}{rights}") from error
        self.is_used = True
        return names

    def put(self, file: Path) -> None:
        """Uploads a file with its digest; the object before it stays until all of it has arrived."""
        self._place.upload(file, file.name, metadata={DIGEST: digest_artifact(file)})

    def get(self, file: Path) -> None:
        """Downloads a file, unless it is here already, as it was put."""
        recorded = self._place.ask("head_object", file.name)["Metadata"].get(DIGEST)
        if file.is_file() and digest_artifact(file) == recorded:
            return
        address = self._place.address(file.name)
        logger.info("fetching %s", address)
        with staged_outputs({"file": file}) as staged:
            self._place.download(file.name, staged["file"])
            if digest_artifact(staged["file"]) != recorded:
                raise ArtifactError(
                    f"{address}: damaged checkpoint (its SHA-256 is not the one that was recorded with it)."
                )

    def drop(self, name: str) -> None:
        """Deletes an object."""
        self._place.ask("delete_object", name)

    def clear(self) -> None:
        """Deletes all objects of the run, and what uploads that were broken off have left, where that can be seen."""
        for name in self._list():
            self._place.ask("delete_object", name)
        try:
            for upload in self._place.ask_all("list_multipart_uploads").get("Uploads", ()):
                name = upload["Key"].removeprefix(self._place.prefix)
                self._place.ask("abort_multipart_upload", name, UploadId=upload["UploadId"])
        except StorageError as error:
            logger.info("uploads that were broken off may have left parts: %s", error)

    def _list(self) -> list[str]:
        """The names of the run's objects, of which there are a few."""
        found = self._place.ask_all("list_objects_v2").get("Contents", ())
        return [entry["Key"].removeprefix(self._place.prefix) for entry in found]
