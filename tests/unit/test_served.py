"""Which applications uWSGI serves by its options, and that each is made only once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolkit import ConfigurationError
from spoolkit.uwsgi import served
from spoolkit.uwsgi.served import Target


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from, whose modules are forgotten afterwards."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"module": ["shop"]}, [Target("shop", "", "application")]),
        ({"wsgi": ["shop.web:app"]}, [Target("shop.web", "", "app")]),
        ({"module": ["other", "shop:create_app()"]}, [Target("shop", "", "create_app()")]),
        ({"module": ["shop"], "callable": ["create_app()"]}, [Target("shop", "", "create_app()")]),
        ({"wsgi-file": ["app.py"], "callable": ["app"]}, [Target("", "app.py", "app")]),
        (
            {
                "mount": [
                    "/one=one:app",
                    "/two=two.py",
                    "three=/srv/three.wsgi",
                    "/four=four:create_app()",
                    "/p=static/",
                ]
            },
            [
                Target("one", "", "app"),
                Target("", "two.py", "application"),
                Target("", "/srv/three.wsgi", "application"),
                Target("four", "", "create_app()"),
            ],
        ),
        ({"module": ["shop:app"], "mount": ["/b=blog:app"]}, [Target("shop", "", "app"), Target("blog", "", "app")]),
    ],
)
def test_targets_are_read_from_the_options(options: dict[str, list[str]], expected: list[Target]) -> None:
    assert served.targets(options) == expected


@pytest.mark.parametrize(
    ("options", "separate"),
    [
        ({"mount": ["/one=one:app"]}, False),
        ({"mount": ["/one=one:app", "/two=two:app"]}, True),
        ({"module": ["one:app"], "mount": ["/two=two:app"]}, True),
        ({"mount": ["/one=one:app", "/two=two:app"], "single-interpreter": ["true"]}, False),
        ({"mount": ["/one=one:app", "/two=two:app"], "single-interpreter": ["false"]}, True),
    ],
)
def test_separate_interpreters_are_recognised_by_the_options(options: dict[str, list[str]], separate: bool) -> None:
    assert served.has_separate_interpreters(options) == separate


FACTORY = "made = []\ndef create_app():\n    made.append(lambda environ, respond: len(made))\n    return made[-1]\n"


def test_load_once_calls_a_factory_once_although_uwsgi_calls_it_too(shop: Path) -> None:
    (shop / "shop_s.py").write_text(FACTORY)
    target = Target("shop_s", "", "create_app()")
    served.load_once([target, target])
    module = sys.modules["shop_s"]
    first, second = module.create_app(), module.create_app()  # as uWSGI does, for two mounts
    assert [first, second] == module.made
    assert module.create_app() is module.made[2]


def test_a_file_that_load_executes_is_the_module_that_others_import(shop: Path) -> None:
    path = shop / "web_s.py"
    path.write_text("def application(environ, respond): ...\n")
    application = served.load(Target("", str(path), "application"))
    assert sys.modules["web_s"].application is application
    hidden = shop / "front.wsgi"
    hidden.write_text(path.read_text())
    assert callable(served.load(Target("", str(hidden), "application")))


@pytest.mark.parametrize("name", ["nothing", "nothing()", "number", "number_of()"])
def test_load_refuses_what_is_no_application(name: str, shop: Path) -> None:
    (shop / "shop_t.py").write_text("number = 5\ndef number_of():\n    return 5\n")
    with pytest.raises(ConfigurationError, match="shop_t"):
        served.load(Target("shop_t", "", name))


def test_load_returns_the_applications_of_a_module_with_several(shop: Path) -> None:
    (shop / "many_s.py").write_text("applications = {'/': 'app'}\n")
    assert served.load(Target("many_s", "", "application")) == {"/": "app"}
