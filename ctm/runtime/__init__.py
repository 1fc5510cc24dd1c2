"""What every stage runs on; nothing here knows of images or models.

From the start of a run to its end:

* ``log`` and ``progress`` say on standard error what goes on; ``preemption`` ends a run in order at SIGTERM
  and Ctrl-C.
* ``context`` is what may differ from machine to machine without changing results.
* ``storage`` shows raw data as a tree of files, in a folder or, by ``s3``, in a bucket.
* ``checkpoint_store`` keeps the state of unfinished work, in a folder and perhaps in a bucket.
* ``s3_place`` is a prefix of a bucket, for both: requests, retries, and what refusals mean.
* ``outputs`` makes files and folders appear whole or not at all.
* ``digest`` and ``provenance`` say what was written, and by which revision and run, for fingerprints and manifests.
"""
