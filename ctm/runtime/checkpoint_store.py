"""Where the state of unfinished runs lies: a folder, and for machines that lose their disk a place in S3 beside it."""

from __future__ import annotations

import logging
from pathlib import Path

from ctm.errors import ArtifactError, StorageError
from ctm.runtime.digest import digest_artifact
from ctm.runtime.outputs import remove, staged_outputs
from ctm.runtime.storage import is_remote

__all__ = ["WORKING_FOLDER", "CheckpointStore", "end_checkpoints", "open_checkpoints"]

logger = logging.getLogger(__name__)

WORKING_FOLDER = Path(".ctm/checkpoints")
"""Where checkpoints lie unless another folder is named, and where they are written before they go to a store."""

PROOF = "proof"
"""The object with which a place is tried out."""

DIGEST = "sha256"
"""The name, in an object's metadata, of its digest."""

RIGHTS = "Checkpoints there take the rights to list, read, write and delete"


class CheckpointStore:
    """The files of one run as objects below ``<place>/<run>/`` in S3, each whole or not at all.

    Every object is put with its SHA-256, and held against it when it is read. All methods raise a StorageError where
    the place cannot be reached or refuses.

    Attributes:
        uri: the run's own prefix.
        is_used: whether a stage has opened it: most have nothing to keep.
    """

    def __init__(self, place: str, run: str) -> None:
        """Makes no request yet.

        Args:
            place: ``s3://bucket`` or ``s3://bucket/prefix``.
            run: names the run.

        Raises:
            StorageError: the address has no bucket, or S3 needs a library that is not installed.
        """
        from ctm.runtime.s3_place import S3Place

        self.uri = S3Place(place, named_by="--checkpoints").address(run)
        self.is_used = False
        self._place = S3Place(self.uri, named_by="--checkpoints")

    def open(self) -> list[str]:
        """The names of what is kept. Then writes, looks up and deletes a small object: before the work, not after it.

        Raises:
            StorageError: the place cannot be reached, or one of the rights it takes is missing.
        """
        from ctm.runtime.s3_place import ClientError

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
        """Keeps a file in place of the one of its name, which stays until all of this one has arrived."""
        self._place.upload(file, file.name, metadata={DIGEST: digest_artifact(file)})

    def get(self, file: Path) -> None:
        """Makes ``file`` the one that is kept by its name, unless it is already.

        Raises:
            ArtifactError: what is kept is not what was put.
        """
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
        """Keeps the file of that name no longer."""
        self._place.ask("delete_object", name)

    def clear(self) -> None:
        """Removes all files of the run, and what uploads that were broken off have left, where that can be seen."""
        for name in self._list():
            self.drop(name)
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


def open_checkpoints(place: Path | str, run: str) -> tuple[Path, CheckpointStore | None]:
    """The folder in which a run writes its checkpoints, and the store that keeps them; no request is made yet.

    Args:
        place: a folder, which is all then, or ``s3://bucket/prefix``.
        run: names this very run: ``<stage>/<fingerprint>``.

    Raises:
        StorageError: see ``CheckpointStore``.
    """
    if not is_remote(str(place)):
        return Path(place, run), None
    return WORKING_FOLDER / run, CheckpointStore(str(place), run)


def end_checkpoints(folder: Path, store: CheckpointStore | None) -> None:
    """Removes the checkpoints of a run that has ended well; what a store does not let go of is no error any more."""
    remove(folder)
    if store is not None and store.is_used:
        try:
            store.clear()
        except StorageError as error:
            logger.warning("remove %s yourself, it is not needed any more: %s", store.uri, error)
