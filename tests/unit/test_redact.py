"""Secret values: which names have them, and that nothing which shows jobs shows them."""

from __future__ import annotations

import inspect
import itertools
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import (
    ArgumentError,
    ArgumentTypeError,
    ConfigurationError,
    DecodeError,
    Limit,
    SpoolKit,
    application,
    current_job,
    register,
    registry,
    restore_spooler_args,
    spool,
)
from spoolkit.admin import lookup, redaction
from spoolkit.api import jobs_blueprint
from spoolkit.attempt import job_log
from spoolkit.cli import commands
from spoolkit.coordination import limits
from spoolkit.dashboard import Access, dashboard_blueprint
from spoolkit.dashboard.access import ALL_RIGHTS
from spoolkit.encoding import codec, redact
from spoolkit.encoding.redact import REDACTED, UNKNOWN_TASK, is_secret
from spoolkit.job import JobSpec
from spoolkit.settings import Settings
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations

SECRET = [
    *("password", "token", "secret", "key", "authorization", "Authorization", "AUTHORIZATION"),
    *("api_key", "accessToken", "APIKey", "user-password", "X-Api-Key", "tokens", "SECRET_KEYS", "password2"),
    *("oauth2token", "_token", "clientSecretId", "apikey", "auth", "set-cookie", "passwordHash"),
]
HARMLESS = ["monkey", "keyboard", "tokenizer", "secretary", "author", "user", "keynote", "x", "", "_", "5", "hockey"]


@dataclass(frozen=True)
class Login:
    user: str
    password: str


class Vault:
    """A type of the application whose ``repr()`` says all."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def __repr__(self) -> str:
        return f"Vault({self.content})"


register(Vault, tag="vault", encode=lambda value: value.content, decode=Vault)


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds is not known to the next one."""
    monkeypatch.setattr(redact, "this_process", redact.Names())


@pytest.mark.parametrize("name", SECRET)
def test_a_name_with_a_secret_word_is_secret(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_name_that_only_contains_the_letters_is_not_secret(name: str) -> None:
    assert not is_secret(name)


def test_an_application_adds_names_of_one_or_more_words_and_functions() -> None:
    kit = SpoolKit()
    assert not is_secret("card")
    kit.redact("card", "accountNumber", lambda name: name.startswith("x_"))
    for name in ("card", "cards", "creditCard", "card_number", "account_number", "oldAccountNumbers", "x_ray"):
        assert is_secret(name), name
    for name in ("discard", "wildcard", "account", "number", "number_of_account", "account_id_number", "ray_x"):
        assert not is_secret(name), name
    assert is_secret("password")


def test_a_function_that_fails_hides_the_value() -> None:
    SpoolKit().redact(lambda name: name[100])  # type: ignore[arg-type, return-value]
    assert is_secret("x")


@pytest.mark.parametrize("wrong", ["", "__", "12", 5, None, b"card", ["card"]])
def test_what_is_neither_a_name_nor_a_function_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="redact has"):
        SpoolKit().redact("card", wrong)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"password": "p", "user": "u"}, {"password": REDACTED, "user": "u"}),
        ([{"a": ({"token": 5},)}], [{"a": {"$tuple": [{"token": REDACTED}]}}]),
        ({"keys": {"a": 1}}, {"keys": REDACTED}),
        ({"$token": "p"}, {"$dict": {"$token": REDACTED}}),
        ({"$x": {"token": 1}, "y": 2}, {"$dict": {"$x": {"token": REDACTED}, "y": 2}}),
        (Vault({"secret": "s", "a": 1}), {"$vault:": {"secret": REDACTED, "a": 1}}),
        (None, None),
        (5, 5),
        ("password", "password"),
    ],
)
def test_a_value_is_shown_without_those_within_it_that_are_secret(value: object, shown: object) -> None:
    assert redact.value(json.loads(codec.encode(value))) == shown


def f(user: str, password: str, /, keyboard: str = "", *tokens: str, api_key: str = "", **rest: object) -> None: ...


def g(user: str, *rest: str, **secrets: str) -> None: ...


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "shown"),
    [
        (f, ["u", "p"], {}, (["u", REDACTED], {})),
        (f, ["u", "p", "k", "t", "t"], {}, (["u", REDACTED, "k", REDACTED, REDACTED], {})),
        (f, ["u", "p"], {"api_key": "a", "x": 1}, (["u", REDACTED], {"api_key": REDACTED, "x": 1})),
        (f, ["u", "p"], {"password": "q", "token": 1}, (["u", REDACTED], {"password": REDACTED, "token": REDACTED})),
        (g, ["u", "r"], {"x": "s"}, (["u", "r"], {"x": REDACTED})),
        (g, [{"token": 1, "a": 2}], {}, ([{"token": REDACTED, "a": 2}], {})),
        (g, [], {"user": "u", "x": "s"}, ([], {"user": "u", "x": REDACTED})),
        # Of another version of the task: which value is the password is not known.
        (f, ["p"], {"user": "u"}, ([redact.OTHER_SIGNATURE], {"user": "u"})),
        (None, ["u", "p"], {"token": "t", "user": "u"}, ([UNKNOWN_TASK] * 2, {"token": REDACTED, "user": "u"})),
    ],
)
def test_arguments_by_position_have_the_names_of_the_signature(
    function: Callable[..., object] | None, args: list[Any], kwargs: dict[str, Any], shown: object
) -> None:
    signature = None if function is None else inspect.signature(function)
    assert redact.call(args, kwargs, signature) == shown


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*SECRET, *HARMLESS, "$vault:", "$dict"]), inner, max_size=3)
    ),
)


@given(JSON)
def test_what_was_not_edited_is_restored(tree: Any) -> None:
    redacted = redact.value(tree)
    assert redact.restored(redacted, tree) == tree
    assert redact.value(redacted) == redacted


def test_an_edited_value_keeps_the_secrets_beside_it() -> None:
    before = [{"user": "u", "password": "p", "more": [{"token": 1}, 2]}]
    edited = [{"user": "new", "password": REDACTED, "more": [{"token": REDACTED}, 3]}]
    assert redact.restored(edited, before) == [{"user": "new", "password": "p", "more": [{"token": 1}, 3]}]
    assert redact.restored([{"password": "q"}], before) == [{"password": "q"}]


@pytest.mark.parametrize(
    ("edited", "before"),
    [
        ({"token": REDACTED}, {}),
        ({"token": REDACTED}, 5),
        ([REDACTED], ["a", "b"]),
        ([[{"token": REDACTED}]], [[{"token": 1}, {"token": 2}]]),
    ],
)
def test_a_marker_stands_for_no_value_that_was_not_there(edited: Any, before: Any) -> None:
    with pytest.raises(ArgumentError, match="give the value"):
        redact.restored(edited, before)


def test_a_short_secret_is_not_replaced_in_other_texts() -> None:
    assert redact.secret_texts({"key": ["a", "abcdef", 1234567, None]}, {"key": REDACTED}) == {"abcdef", "1234567"}
    assert redact.scrub("a abcdef abcdefg", {"abcdef", "abcdefg"}) == f"a {REDACTED} {REDACTED}"
    login = json.loads(codec.encode({"key": Login("somebody", "open sesame")}))
    assert redact.secret_texts(login, {"key": REDACTED}) == {"somebody", "open sesame"}


@pytest.mark.parametrize(
    "secret",
    [
        "open 'sesame' \"sesame\"",
        "sesame\nsesame",
        "sesame\\ sesame\t",
        "sesame é \x1b[0m sesame",
        b"\x00sesame's \xff sesame",
    ],
)
def test_a_secret_is_replaced_as_tracebacks_and_logs_write_it(secret: str | bytes) -> None:
    found = redact.secret_texts(json.loads(codec.encode({"key": secret})), {"key": REDACTED})
    written = [repr(secret), repr([secret])]
    if isinstance(secret, str):
        written += [secret, json.dumps(secret), json.dumps(secret, ensure_ascii=False)]
    for text in written:
        assert REDACTED in redact.scrub(text, found)
        assert "sesame" not in redact.scrub(text, found)


# -- nothing shows them ------------------------------------------------------------------------------------------------

Flasks = Callable[..., Result]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("the_application", root_path=str(tmp_path))
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    app.register_blueprint(jobs_blueprint(details=True, listing=True))
    everybody = Access("somebody", can=ALL_RIGHTS)
    app.register_blueprint(dashboard_blueprint(access=lambda request: everybody), url_prefix="/spool")
    with app.app_context():
        yield app
        locations.store().close()


@pytest.fixture
def flask_spool(app: Flask) -> Flasks:
    runner = app.test_cli_runner()
    return lambda *words: runner.invoke(commands, [str(word) for word in words])


def run_all() -> None:
    Spooler(application.settings().spool).run_due()


POOL = ["user", "count", "monkey", "author", "password", "api_key", "accessToken", "secrets"]


def random_call(chance: random.Random) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The parameters of a function, and arguments that fit: secret ones contain "hidden", all others "plain"."""
    number = itertools.count()
    names = chance.sample(POOL, chance.randint(1, 5))
    split = chance.randint(0, len(names))
    by_position, by_name = names[:split], names[split:]
    rest, rest_by_name = chance.choice(["", "rest", "tokens"]), chance.choice(["", "more"])
    parts = [*by_position, *([f"*{rest}"] if rest else ["*"] if by_name else []), *by_name]
    parts += [f"**{rest_by_name}"] if rest_by_name else []

    def value(name: str) -> Any:
        text = f"{'hidden' if is_secret(name) else 'plain'}-{next(number)}"
        other = f"hidden-{next(number)}"
        return chance.choice(
            [
                text,
                [text, {"token": other}],
                ({"deep": [{"clientSecret": {"any": other}}]}, text),
                Login(text, other),
                Vault({"a": text, "password": [other]}),
                frozenset({Login(text, other)}),
                {"$key": other, "$a": text},
            ]
        )

    args = [value(name) for name in by_position]
    args += [value(rest) for _ in range(chance.randint(0, 2))] if rest else []
    kwargs = {name: value(name) for name in by_name}
    if rest_by_name and chance.random() < 0.5:
        kwargs["extra"] = value(rest_by_name)
    return ", ".join(parts), tuple(args), kwargs


# Not by hypothesis: it changes the recursion limit while it runs, which a job would put back.
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.matrix) for seed in range(6, 60))])
def test_no_secret_of_any_call_is_shown(app: Flask, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    (parameters, args, kwargs), pages = random_call(random.Random(seed)), seed == 3 or seed >= 6
    made: dict[str, Any] = {}
    exec(f"def anything({parameters}):\n    return {{'token': 'hidden result', 'a': 'plain result'}}", made)
    made["anything"].__module__ = __name__
    task = spool(retries=0, name="shop.anything", queue=None)(made["anything"])
    try:
        with caplog.at_level(logging.DEBUG):
            job = task.using(headers={"Authorization": "hidden header", "request_id": "plain header"})(*args, **kwargs)
            texts = [everything(app, job.id, pages)]
            run_all()
            texts.append(everything(app, job.id, pages))
        del registry.this_process.tasks["shop.anything"]
        texts += [everything(app, job.id, pages), repr(job), repr(job.status), caplog.text]
        plain = [text for text in _texts([args, kwargs]) if text.startswith("plain")]
        assert not [text for text in texts if "hidden-" in text or "hidden result" in text or "hidden header" in text]
        for text in plain:
            assert texts[0].count(text) >= 3
        assert texts[1].count("plain result") >= 3
        assert texts[1].count("plain header") >= 3
    finally:
        registry.this_process.tasks.pop("shop.anything", None)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Login):
        yield value.user  # the other one is hidden
    elif isinstance(value, Vault):
        yield from _texts(value.content)
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, (list, tuple, frozenset)):
        for member in value:
            yield from _texts(member)


def everything(app: Flask, id: str, pages: bool) -> str:
    """All that the commands, the API and, if asked for, the pages show of a job."""
    runner, client = app.test_cli_runner(), app.test_client()
    outputs = [
        runner.invoke(commands, list(words), catch_exceptions=False).output
        for words in (["show", id], ["show", id, "--json"], ["ls"], ["ls", "--json"], ["stats"], ["stats", "--json"])
    ]
    # Each application compiles the templates anew, which takes a second.
    for path in (f"/jobs/{id}", "/jobs", *((f"/spool/jobs/{id}", "/spool/jobs", "/spool/") if pages else ())):
        answer = client.get(path)
        assert answer.status_code == 200
        outputs.append(answer.text)
    return "\n".join(outputs)


@spool(retries=0)
def echoes(user: str, password: str) -> None:
    print(f"signing in {user} with {password}")
    raise ValueError(f"{user} cannot sign in with {password}")


def test_a_secret_that_the_task_itself_writes_is_not_shown_with_its_details(app: Flask, flask_spool: Flasks) -> None:
    job = echoes("somebody", "open sesame")
    run_all()
    for text in (
        flask_spool("show", job.id).output,
        flask_spool("show", job.id, "--json").output,
        app.test_client().get(f"/jobs/{job.id}").text,
    ):
        assert "sesame" not in text
        assert f"signing in somebody with {REDACTED}" in text
        assert f"somebody cannot sign in with {REDACTED}" in text
    assert "open sesame" in lookup.details(job.id).attempts[0].log  # what is stored stays as it is
    assert redaction.text(lookup.details(job.id), "with open sesame") == f"with {REDACTED}"


def test_show_prints_the_call_as_code_with_markers(app: Flask, flask_spool: Flasks) -> None:
    job = echoes("somebody", password="open sesame")
    assert "('somebody', password=[redacted])" in flask_spool("show", job.id).output
    details = app.test_client().get(f"/jobs/{job.id}").get_json()
    assert details["arguments"] == {"args": ["somebody"], "kwargs": {"password": REDACTED}}


def test_a_retried_job_still_has_its_secrets(app: Flask) -> None:
    got: list[str] = []
    task = spool(name="shop.remembers")(lambda password: got.append(password))
    try:
        job = task("open sesame")
        redaction.details(lookup.details(job.id))
        run_all()
        assert got == ["open sesame"]
    finally:
        registry.this_process.tasks.pop("shop.remembers")


@spool(limit=Limit(1, key=lambda api_key: api_key))
def limited(api_key: str) -> None: ...


@spool(limit=Limit(1, key=lambda user: {"user": user, "token": user}))
def limited_by_two(user: str) -> None: ...


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f'{limited.name} "open sesame"', f"{limited.name} {REDACTED}"),
        (
            f'{limited_by_two.name} {{"user":"u","token":"t"}}',
            f'{limited_by_two.name} {{"user":"u","token":"{REDACTED}"}}',
        ),
        (f"{limited_by_two.name} {'0' * 64}", f"{limited_by_two.name} {'0' * 64}"),
        (limited.name, limited.name),
        ('shop.unknown "open sesame"', f"shop.unknown {UNKNOWN_TASK}"),
    ],
)
def test_a_key_that_is_made_of_a_secret_argument_is_not_shown(text: str, shown: str) -> None:
    assert limits.shown_key(text) == shown
    status = replace(lookup._of_job(JobSpec("0" * 32, "t"), lookup.State.QUEUED), parked_for=text)
    assert redaction.status(status).parked_for == shown


def test_errors_do_not_quote_secrets() -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        echoes.using(headers={"Authorization": "Bearer abcdef", "x": 5})  # type: ignore[dict-item]
    assert "abcdef" not in str(refused.value)
    assert "'x': int" in str(refused.value)
    with pytest.raises(ArgumentTypeError) as row:
        echoes.map([["somebody", "open sesame"]])  # type: ignore[list-item]
    assert "sesame" not in str(row.value)
    for data in (b"open sesame", b'["open sesame"]'):
        with pytest.raises(DecodeError) as unread:
            restore_spooler_args({b"token": data}, {"token": int})
        assert "sesame" not in str(unread.value)
    with pytest.raises(DecodeError, match="5x"):
        restore_spooler_args({b"count": b"5x"}, {"count": int})


def test_no_repr_of_a_call_has_its_values(app: Flask) -> None:
    call = echoes.using(headers={"token": "open sesame"}).call("somebody", "open sesame")
    prepared = echoes.using(headers={"token": "open sesame"})
    for thing in (call, prepared, call.job(), prepared("somebody", "open sesame")):
        assert "sesame" not in repr(thing)


def test_a_header_in_the_log_is_redacted_by_its_name() -> None:
    job = JobSpec("0" * 32, "t", headers={"authorization": "Bearer abcdef", "request_id": "4f1c"})
    config = Settings.load({"SPOOLKIT_LOG_HEADERS": "authorization,request_id"}, ".")
    assert job_log.about(job, config)._job[2] == f"authorization={REDACTED} request_id=4f1c"


@spool(retries=0, name="shop.refused")
def refused(user: str, password: str) -> None:
    current_job().progress(1, 2, f"as {password}")
    raise ValueError(f"401 for {user}:{password}")


def test_lists_show_no_secret_that_an_error_quotes(app: Flask, flask_spool: Flasks) -> None:
    job = refused("eve", "sesame-open")
    run_all()
    client = app.test_client()
    paths = ("/jobs", f"/jobs/{job.id}", "/spool/jobs", "/spool/dead", "/spool/", f"/spool/jobs/{job.id}")
    texts = [client.get(path).text for path in paths]
    texts += [flask_spool(*words).output for words in (["ls"], ["ls", "--json"], ["watch", "--times", "1"], ["dead"])]
    assert [text for text in texts if "sesame" in text] == []
    assert sum("401 for eve:[redacted]" in text for text in texts) >= 6
