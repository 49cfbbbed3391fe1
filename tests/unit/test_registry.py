"""The registry: which function a task's name means, and which declarations are refused."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoolkit import ConfigurationError, DuplicateTaskError, SignatureError, UnknownTaskError, registry, spool, thread
from spoolkit.job import TaskOptions
from spoolkit.registry import Declared


@pytest.fixture(autouse=True)
def no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task of another test is known, and none of these afterwards."""
    monkeypatch.setattr(registry, "this_process", registry.Registry())


def test_a_declared_task_is_found_by_its_module_and_qualified_name() -> None:
    def inner() -> None: ...

    declared = registry.declare(inner, TaskOptions())
    assert declared.name == f"{__name__}.test_a_declared_task_is_found_by_its_module_and_qualified_name.<locals>.inner"
    assert registry.find(declared.name) is declared


def test_a_declared_task_knows_the_parameters_of_positional_arguments() -> None:
    def mixed(first: int, /, second: int, *rest: int, only: int, **others: int) -> None: ...

    declared = registry.declare(mixed, TaskOptions())
    assert declared.positional == ["first", "second"]
    assert list(declared.signature.parameters) == ["first", "second", "rest", "only", "others"]


def test_a_function_declared_twice_replaces_its_earlier_declaration() -> None:
    def once() -> None: ...

    first, second = registry.declare(once, TaskOptions()), registry.declare(once, TaskOptions(retries=1))
    assert registry.find(first.name) is second


def test_the_error_for_an_unknown_task_says_where_to_import_its_module() -> None:
    with pytest.raises(UnknownTaskError, match=r"uwsgi\.ini") as unknown:
        registry.find("tasks.nobody")
    assert unknown.value.task == "tasks.nobody"


CLEAN = "from spoolkit import spool\n@spool\ndef clean(): ...\nprint(clean.name, clean.declared.code_folder)"


def names_itself(*command: str, cwd: str | Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=dict(os.environ), timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_task_of_a_script_is_named_after_the_scripts_file(tmp_path: Path) -> None:
    (tmp_path / "nightly.py").write_text(CLEAN)
    assert names_itself(f"{tmp_path}/nightly.py", cwd="/") == ["nightly.clean", str(tmp_path)]


def test_the_task_of_a_module_run_with_m_is_named_after_the_module(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "nightly.py").write_text(CLEAN)
    assert names_itself("-m", "jobs.nightly", cwd=tmp_path) == ["jobs.nightly.clean", str(tmp_path)]


def test_a_task_can_be_declared_in_a_shell() -> None:
    assert names_itself("-c", CLEAN, cwd="/") == ["__main__.clean", "None"]


def test_home_is_the_folder_of_the_top_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "a_site" / "jobs"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("def top(): ...")
    (package / "__init__.py").write_text("")
    (package / "mail.py").write_text("def send(): ...")
    monkeypatch.syspath_prepend(tmp_path)
    import a_site  # type: ignore[import-not-found]
    from a_site.jobs import mail  # type: ignore[import-not-found]

    for function in (a_site.top, mail.send):
        assert registry.declare(function, TaskOptions()).code_folder == str(tmp_path)


def test_a_renamed_task_is_found_by_its_aliases() -> None:
    @spool(name="mail.send", aliases=["mail.send_mail", "old.mail"])
    def send() -> None: ...

    assert send.name == "mail.send"
    for name in ("mail.send", "mail.send_mail", "old.mail"):
        assert registry.find(name) is send.declared


def make(word: str) -> Any:
    """A factory, as an application may have one."""

    @spool
    def job() -> str:
        return word

    return job


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Write a module, and import it as it then is."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, text: str, *, reload: bool = False) -> Any:
        (tmp_path / f"{name}.py").write_text(f"from spoolkit import spool\n{text}")
        importlib.invalidate_caches()
        if reload:
            return importlib.reload(sys.modules[name])
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return write


def test_two_functions_of_one_name_are_refused_with_both_places(tmp_path: Path) -> None:
    def one() -> None: ...

    def two() -> None: ...

    spool(name="same.name")(one)
    with pytest.raises(DuplicateTaskError, match=r"two functions are called same\.name") as refused:
        spool(name="same.name")(two)
    places = tuple(f"{__file__}:{function.__code__.co_firstlineno}" for function in (one, two))
    assert (refused.value.task, refused.value.places) == ("same.name", places)
    assert all(place in str(refused.value) for place in places)
    assert isinstance(refused.value, ConfigurationError)
    assert registry.find("same.name").function is one


def test_two_functions_of_one_name_in_one_module_are_refused(module: Callable[..., Any]) -> None:
    with pytest.raises(DuplicateTaskError, match=r"same_twice\.py:2 and .*same_twice\.py:4"):
        module("same_twice", "@spool\ndef send(): ...\n@spool\ndef send(): ...")


def test_a_call_of_a_replaced_task_is_refused(directory: str) -> None:
    earlier, later = make("alpha"), make("beta")
    with pytest.raises(DuplicateTaskError, match=r"was declared again") as refused:
        earlier()
    assert refused.value.places == (earlier.declared.place, later.declared.place)
    with pytest.raises(DuplicateTaskError):
        earlier.using(delay=5)()
    with pytest.raises(DuplicateTaskError):
        earlier.spool()
    assert not list(Path(directory).glob("uwsgi_*"))
    assert earlier.run() == "alpha"
    assert later().task == later.name


@pytest.mark.parametrize("reload", [False, True])
def test_a_reloaded_module_may_declare_its_task_on_another_line(
    module: Callable[..., Any], directory: str, reload: bool
) -> None:
    name = f"executed_{reload}"
    before = module(name, "@spool\ndef send(): ...").send
    after = module(name, "\n\n@spool\ndef send(): ...", reload=reload).send
    assert registry.find(f"{name}.send") is after.declared
    after()
    with pytest.raises(DuplicateTaskError, match=rf"{name}\.py:2.* again .*{name}\.py:4"):
        before()


def test_a_script_that_is_also_imported_may_call_both_of_its_tasks(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from flask import Flask\nfrom spoolkit import SpoolKit, spool\n"
        "app = Flask(__name__)\nSpoolKit(app)\n"
        "@spool\ndef pay(): ...\n"
        "if __name__ == '__main__':\n    import shop\n"
        "    with app.app_context():\n        print(pay().task, shop.pay().task)\n"
    )
    env = {**os.environ, "SPOOLKIT_SPOOL": str(tmp_path / "spool")}
    done = subprocess.run(
        [sys.executable, tmp_path / "shop.py"], capture_output=True, text=True, env=env, cwd="/", timeout=100
    )
    assert done.stdout.split() == ["shop.pay", "shop.pay"], done.stderr


def test_a_task_may_be_declared_again_in_a_shell() -> None:
    inputs = [
        "from spoolkit import spool",
        "@spool\ndef send(): ...",
        "\n@spool\ndef send(to): ...",
        "print(send.name)",
    ]
    script = "\n".join(f"exec(compile({text!r}, '<input {n}>', 'exec'), globals())" for n, text in enumerate(inputs))
    assert names_itself("-c", script, cwd="/") == ["__main__.send"]


@pytest.mark.parametrize(("first", "second"), [(spool, thread), (thread, spool)])
def test_one_function_declared_for_both_engines_needs_two_names(first: Any, second: Any) -> None:
    def report() -> None: ...

    report.__qualname__ = f"report_{first.__name__}"
    first(report)
    with pytest.raises(DuplicateTaskError, match=rf"for {first.__name__} already.*for {second.__name__}.*name="):
        second(report)
    assert second(name=f"{report.__qualname__}.also")(report).name == f"{report.__qualname__}.also"


def test_thread_tasks_declared_on_the_same_line_each_run_their_own_function(directory: str) -> None:
    def make(word: str) -> Any:
        @thread
        def in_thread() -> str:
            return word

        return in_thread

    earlier, later = make("alpha"), make("beta")
    jobs = earlier(), later()
    assert all(job.wait(60) for job in jobs)
    assert [job.result for job in jobs] == ["alpha", "beta"]


def test_an_alias_of_another_task_is_refused() -> None:
    def pay() -> None: ...

    def charge() -> None: ...

    spool(name="shop.pay", aliases=["shop.old"])(pay)
    for aliases, whose in ((["shop.pay"], "the name"), (["shop.old"], "an alias")):
        with pytest.raises(DuplicateTaskError, match=rf"is {whose} of the task shop\.pay .*remove it"):
            spool(name="shop.charge", aliases=aliases)(charge)
    with pytest.raises(DuplicateTaskError, match=r"'shop\.old' is an alias of the task shop\.pay"):
        spool(name="shop.old")(charge)
    # Declared again without it, the task has given the alias away.
    spool(name="shop.pay", aliases=["shop.pay"])(pay)
    assert thread(name="shop.charge", aliases=["shop.old"])(charge).declared is registry.find("shop.old")


@pytest.mark.parametrize(
    ("setting", "given"),
    [("aliases", {"aliases": "one"}), ("aliases", {"aliases": [1]}), ("name", {"name": ""}), ("name", {"name": 5})],
)
def test_a_name_or_an_alias_that_is_not_a_text_is_refused(setting: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=setting) as refused:
        spool(**given)
    assert refused.value.setting == setting


def test_the_error_for_an_unknown_task_suggests_similar_names() -> None:
    @spool(name="billing.send_invoice")
    def send_invoice() -> None: ...

    with pytest.raises(UnknownTaskError, match=r"'billing\.send_invoices'.*billing\.send_invoice[,.] .*aliases="):
        registry.find("billing.send_invoices")


def test_the_error_for_arguments_of_another_version_shows_them_and_the_signature() -> None:
    @spool(name="versions.resize")
    def resize(image: str, width: int) -> None: ...

    resize.declared.check(("a.png",), {"width": 5})
    with pytest.raises(SignatureError, match=r"1 by position, size, but .* versions\.resize\(image: .*'width'"):
        resize.declared.check(("a.png",), {"size": 5})


# Arguments that fit


def _named(a: Any, b: Any = 1, *, c: Any = 2) -> None: ...
def _positional(a: Any, /, b: Any, *, c: Any) -> None: ...
def _any_number(a: Any, *b: Any, **c: Any) -> None: ...
def _same_name(a: Any, b: Any = 1, /, **c: Any) -> None: ...
def _none() -> None: ...


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([_named, _positional, _any_number, _same_name, _none]),
    st.lists(st.none(), max_size=3),
    st.dictionaries(st.sampled_from("abcd"), st.none()),
)
def test_arguments_fit_exactly_if_the_signature_can_be_bound(
    function: Callable[..., None], args: list[None], kwargs: dict[str, None]
) -> None:
    declared = Declared("task", function, TaskOptions())
    try:
        declared.signature.bind(*args, **kwargs)
    except TypeError:
        assert declared.mismatch(args, kwargs) is not None
    else:
        assert declared.mismatch(args, kwargs) is None
