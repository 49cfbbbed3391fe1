from history import record

from spoolkit import spool


@spool
def own(word: str) -> None:
    record("ran", word)
