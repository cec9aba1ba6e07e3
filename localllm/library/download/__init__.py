"""Download the files of Hub repositories over plain HTTP: resumable and verified.

A file on its way has three files beside its final place (`target.py`): NAME.part (its bytes),
NAME.part.json (the journal of what of them can be trusted) and NAME.part.lock. Its life:

1. lock     One process downloads a file; others wait and show its progress (`file_download.py`).
2. resume   The journal and the part file's length say which bytes are usable (`journal.py`). None
            are after a damaged journal or when it describes another file.
3. fetch    One to eight threads claim missing ranges and write them (`fetch.py`, `part_file.py`).
            A failed attempt is repeated after a backoff, and after the last one the next endpoint
            is used (`http/retry_policy.py`). Another ETag or a server that ignores ranges restarts
            the file from zero.
4. hash     A thread reads the part file back and computes its SHA-256 (`hash_thread.py`).
5. repair   With a wrong checksum a second copy is compared chunk by chunk (`repair.py`), once.
6. rename   Synced to the disk, the part file gets its final name; journal and lock are deleted.

At every step before the last a crash, Ctrl+C, a full disk or a lost network leaves the part file
and a journal that claims no byte which is not there. docs/download.md has the whole table of
failures.
"""
