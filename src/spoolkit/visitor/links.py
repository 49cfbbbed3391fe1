"""Which job may the holder of a link watch, and until when? A link is signed: nobody else can make one."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from urllib.parse import urlsplit

from flask import Flask
from itsdangerous import BadData, URLSafeTimedSerializer

from spoolkit.errors import ArgumentError, shown
from spoolkit.spooldir import signing
from spoolkit.store import locations
from spoolkit.system import clock

MAX_LABEL = 200
"""Characters of a label."""

MAX_URL = 2000
"""Characters of a URL of a result."""

SALT = "spoolkit.progress"


@dataclass(frozen=True)
class Link:
    """What a link says, for everybody to read."""

    #: The id of the job.
    job: str
    #: The time from which on it is not valid, unix time in seconds (UTC).
    expires_at: float
    #: What the job is for the visitor.
    label: str
    #: Where the visitor finds the result; ``None``: nowhere.
    result_url: str | None = None


def check_label(label: object) -> str:
    """Return ``label``. Raises :class:`ArgumentError` unless it is a text of a reasonable length."""
    # A text that is translated when it is shown is no str yet.
    if (text := str(label)) and len(text) <= MAX_LABEL:
        return text
    raise ArgumentError(f"label is {shown(label)}: give a text of 1 to {MAX_LABEL} characters", argument="label")


def check_url(url: object) -> str | None:
    """Return the URL of a result.

    Raises:
        ArgumentError: It is neither a path nor a URL of the web: ``javascript:`` would run in the site's name.
    """
    if url is None:
        return None
    try:
        is_usable = isinstance(url, str) and 0 < len(url) <= MAX_URL and urlsplit(url).scheme in ("", "http", "https")
    except ValueError:
        is_usable = False
    # Browsers drop such characters, also from the middle of a scheme.
    if not is_usable or any(character <= " " or character == "\x7f" for character in str(url)):
        raise ArgumentError(
            f"result_url is {shown(url)}: give a path such as /exports/5, or a URL with http or https, of at most "
            f"{MAX_URL} characters",
            argument="result_url",
        )
    return str(url)


def sign(link: Link, app: Flask) -> str:
    """Return the signed text of a link.

    Raises:
        SpoolUnavailableError: The site has no ``SECRET_KEY``, and no key can be made in its spool directory.
    """
    keys = _secret_keys(app) or [signing.read_or_make(locations.spool_dir_of(None))]
    return str(_serializer(keys).dumps(astuple(link)))


def read(text: str, app: Flask) -> tuple[Link, float] | None:
    """Return what a signed text says, and when it was signed (unix time in seconds); ``None``: this site has not."""
    keys = _secret_keys(app)
    if not keys and (key := signing.read(locations.spool_dir_of(None))) is not None:
        keys = [key]
    if not keys:
        return None
    try:
        fields, signed_at = _serializer(keys).loads(text, return_timestamp=True)
        return Link(*fields), signed_at.timestamp()
    except (BadData, TypeError):  # another version had other fields
        return None


def is_expired(link: Link) -> bool:
    """Whether the link is not valid any more."""
    return link.expires_at <= clock.now()


def _serializer(keys: list[bytes]) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(keys, salt=SALT, signer_kwargs={"digest_method": hashlib.sha256})


def _secret_keys(app: Flask) -> list[bytes]:
    """The site's own keys, the one that signs last."""
    if not app.secret_key:
        return []
    own = [*(app.config.get("SECRET_KEY_FALLBACKS") or ()), app.secret_key]
    # Not bytes() of whatever it is: of a number, which app.config.from_prefixed_env() makes of digits, these are zeros.
    return [key if isinstance(key, bytes) else str(key).encode() for key in own]
