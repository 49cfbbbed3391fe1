"""The spool directory: each module is about the files of one kind in it, and most are named after their folder.

Three kinds are in ``spoolers/``: the files of the spoolers (:mod:`~spoolkit.spooldir.spoolers`), their slots
(:mod:`~spoolkit.spooldir.slots`), and the files that close the gate (:mod:`~spoolkit.spooldir.gate`). ``threads/``
belongs to :mod:`spoolkit.threads`, the store's file to :mod:`spoolkit.store`.
"""
