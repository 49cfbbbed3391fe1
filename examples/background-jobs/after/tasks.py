"""The jobs of the site."""

import work

from spoolkit import SPOOL_OK, SPOOL_RETRY, Retry, spool, thread


@thread
def count_in_thread(seconds):
    work.count("thread", seconds)


@spool
def count_in_spooler(seconds):
    work.count("spool", seconds)


@spool(retries=20, backoff=1)
def deliver_order(order):
    delivered = work.send("deliver", order)
    return SPOOL_OK if delivered else SPOOL_RETRY


@spool(retries=100)
def announce_order(order):
    if not work.send("announce", order):
        raise Retry(delay=1, reason="the partner is away")
