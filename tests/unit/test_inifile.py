"""Ini files, read as uWSGI reads them: the same file is given to uWSGI itself, and both must find the same options."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit.errors import ConfigurationError
from spoolkit.uwsgi import inifile

ENVIRONMENT = {"PATH": os.environ["PATH"], "SET": "value", "EMPTY": "", "WORDS": "some words"}

LOGIC = frozenset({"ini", "include", "inherit", "for", "end", "endif", "endfor", "end-if", "end-for"})
"""What uWSGI shows as options of their own, and what is no option any more once it is read."""


def by_uwsgi(path: Path) -> dict[str, list[str]]:
    """The options of the file as uWSGI finds them."""
    binary = Path(sys.executable).with_name("uwsgi")
    command = [binary, "--show-config", "--no-server", "--ini", path.name]
    done = subprocess.run(
        command, cwd=path.parent, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, errors="surrogateescape"
    )
    shown = done.stderr.partition(";uWSGI instance configuration\n[uwsgi]\n")[2]
    assert shown, f"uWSGI refused it:\n{done.stderr[-1000:]}"
    found: dict[str, list[str]] = {}
    for line in shown.partition(";end of configuration\n")[0].split("\n"):
        name, equal, value = line.partition(" = ")
        if equal and name not in LOGIC | {"show-config", "no-server"} and not name.startswith(("if-", "for-")):
            found.setdefault(name, []).append(value)
    return found


def by_us(path: Path) -> Mapping[str, list[str]]:
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        return inifile.read(path.name, ENVIRONMENT)
    finally:
        os.chdir(here)


def written(folder: Path, *lines: str) -> Path:
    path = folder / "main.ini"
    path.write_text("\n".join([*lines, ""]))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with files that a main.ini may include and look for."""
    folder = tmp_path / "some folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "more.ini").write_text("[uwsgi]\nin-sub = %d|%n\nagain = sub\n[other]\nin-other = %x\n")
    (folder / "sub" / "capitals.ini").write_text("[uwsgi]\na = %D|%P|%S|%N|%E|%C\nb = %d|%n\n")
    (folder / "sub" / "unfinished.ini").write_text("[uwsgi]\nif-env = SET\nwithin = yes")
    return folder


SAME = {
    "one and many": ["[uwsgi]", "a = 1", "b = 2", "a = 3"],
    "without a value": ["[uwsgi]", "flag", "empty =", "spaces =   "],
    "space": ["[uwsgi]", "   a   =   some words   ", "\tb\t=\tx\t", "c=d", "d = 1\r"],
    "equal signs": ["[uwsgi]", "a = b=c=d", "=nameless"],
    "comments": ["[uwsgi]", "; a = 1", "# b = 2", "  ; c = 3", "d = 4 ; no comment", "e = 5 # nor this"],
    "sections": ["a = 0", "[other]", "b = 1", "[uwsgi]", "c = 2", "[other]", "d = 3", "[uwsgi]", "e = 4"],
    "a section that is not closed": ["[uwsgi]", "a = 1", "[uwsgi", "b = 2"],
    "a section with a comment": ["[uwsgi]", "a = 1", "[uwsgi] ; again", "b = 2"],
    "no new line at the end": ["[uwsgi]", "a = 1\nb = 2"],
    "where the file is": ["[uwsgi]", "a = %d|%p|%s|%n|%e|%c|%x|%o|%D|%P|%S|%N|%E|%C|%X|%O"],
    "who and where": ["[uwsgi]", "a = %v|%h|%u|%g"],
    "percent signs": ["[uwsgi]", "a = 100%%", "b = %%d|%z|%y"],
    "environment": ["[uwsgi]", "a = $(SET)|$(EMPTY)|$(NOT_SET)|$SET|$(SET", "b = x$(WORDS)y$(SET)"],
    "other options": ["[uwsgi]", "one = 1", "a = %(one)|%(none)|%(one", "b = %(one)%(one)"],
    "an option further down": ["[uwsgi]", "a = %(later)", "later = x"],
    "the first of many": ["[uwsgi]", "one = 1", "one = 2", "a = %(one)"],
    "environment within options": ["[uwsgi]", "one = $(SET)", "a = %(one)"],
    "taken at once": ["[uwsgi]", "n = 2", "spooler-processes = %(n)", "spooler-processes = $(SET)"],
    "a loop": ["[uwsgi]", "for = 1 2  3", "a = x%(_)y%(_)", "b = c", "endfor =", "d = %(_)"],
    "a loop over nothing": ["[uwsgi]", "for =", "a = %(_)", "end =", "b = 1"],
    "two loops": ["[uwsgi]", "for = 1 2", "a = %(_)", "endfor =", "for = 3", "a = %(_)", "end-for ="],
    "set": ["[uwsgi]", "if-env = SET", "a = %(_)", "endif =", "b = 1"],
    "not set": ["[uwsgi]", "if-env = NOT_SET", "a = %(_)", "endif =", "b = 1"],
    "set to nothing": ["[uwsgi]", "if-env = EMPTY", "a = [%(_)]", "endif ="],
    "set to that": ["[uwsgi]", "if-env = SET=value", "a = %(_)", "endif =", "if-env = SET=x", "b = 1", "endif ="],
    "not not set": ["[uwsgi]", "if-not-env = SET", "a = 1", "endif =", "if-not-env = NOT_SET", "b = 1", "end ="],
    "not set to that": ["[uwsgi]", "if-not-env = SET=x", "a = %(_)", "endif =", "if-not-env = SET=value", "b = 1"],
    "an option is there": ["[uwsgi]", "one = 1", "if-opt = one", "a = %(_)", "endif =", "if-opt = two", "b = 1"],
    "an option is that": ["[uwsgi]", "one = 1", "if-opt = one=1", "a = %(_)", "end =", "if-opt = one=2", "b = 1"],
    "an option is not there yet": ["[uwsgi]", "if-opt = one", "a = 1", "end =", "one = 1"],
    "no such option": ["[uwsgi]", "if-not-opt = one", "a = 1", "end =", "one = 1", "if-not-opt = one", "b = 1"],
    "exists": ["[uwsgi]", "if-exists = sub", "a = %(_)", "endif =", "if-exists = none", "b = 1", "endif ="],
    "exists not": ["[uwsgi]", "if-not-exists = sub", "a = 1", "endif =", "if-not-exists = none", "b = %(_)"],
    "a file": ["[uwsgi]", "if-file = main.ini", "a = %(_)", "endif =", "if-file = sub", "b = 1", "endif ="],
    "no file": ["[uwsgi]", "if-not-file = main.ini", "a = 1", "endif =", "if-not-file = sub", "b = %(_)"],
    "a directory": ["[uwsgi]", "if-dir = sub", "a = %(_)", "endif =", "if-directory = main.ini", "b = 1", "endif ="],
    "no directory": ["[uwsgi]", "if-not-dir = main.ini", "a = %(_)", "endif =", "if-not-dir = sub", "b = 1"],
    "not this host": ["[uwsgi]", "if-hostname = nowhere", "a = 1", "end =", "if-hostname = %h", "b = 1", "end ="],
    "the first start": ["[uwsgi]", "if-reload =", "a = 1", "endif =", "if-not-reload =", "b = 1", "endif ="],
    "the plugin of Python": ["[uwsgi]", "if-plugin = python", "a = 1", "end ="],
    "a condition without an end": ["[uwsgi]", "if-env = SET", "a = %(_)", "b = 1"],
    "an end of nothing": ["[uwsgi]", "endif =", "a = 1"],
    "included": ["[uwsgi]", "again = before", "ini = sub/more.ini", "again = after", "where = %d"],
    "included by another word": ["[uwsgi]", "include = %dsub/more.ini", "again = after"],
    "a section of another file": ["[uwsgi]", "ini = sub/more.ini:other", "a = %x"],
    "included many times": ["[uwsgi]", *["ini = sub/more.ini"] * 30],
    "a section of this file": ["[uwsgi]", "ini = :mine", "a = 1", "[mine]", "a = 2", "b = %x"],
    "included twice": ["[uwsgi]", "ini = sub/more.ini", "ini = sub/more.ini"],
    "included on a condition": ["[uwsgi]", "if-env = NOT_SET", "ini = sub/more.ini", "endif =", "a = 1"],
    "included in a loop": ["[uwsgi]", "for = more", "ini = sub/%(_).ini", "endfor =", "a = 1"],
    "the first file, in capitals": ["[uwsgi]", "ini = sub/capitals.ini", "a = %D"],
    "inherited": ["[uwsgi]", "again = before", "inherit = sub/more.ini", "again = after"],
    "inherited twice": ["[uwsgi]", "inherit = sub/more.ini", "ini = sub/more.ini", "inherit = sub/capitals.ini"],
    "a placeholder that is set": ["[uwsgi]", "set-placeholder = base=/srv", "a = %(base)/spool"],
    "the same, shorter": ["[uwsgi]", "set-ph = base=/srv", "a = %(base)/spool", "if-opt = base", "b = %(_)"],
    "the same, older": ["[uwsgi]", "a = %(base)/spool", "set = base=/srv=1"],
    "numbers": ["[uwsgi]", "for-times = 3", "a = %(_)", "endfor =", "for-times = x", "b = 1", "endfor ="],
    "the user": ["[uwsgi]", "a = %U|%G"],
    "a tab in a loop": ["[uwsgi]", "for = 1 2\t3", "a = %(_)", "endfor ="],
    "a percent sign at the end": ["[uwsgi]", "a = 100%", "b = 1"],
    "a space of another kind": ["[uwsgi]", "a = \u00a0x", "b = x\u3000"],
    "what is not there": ["[uwsgi]", "if-not-env = NOT_SET", "a = [%(_)]", "endif ="],
    "a condition that goes on": ["[uwsgi]", "ini = sub/unfinished.ini", "a = 1", "endif =", "b = 2"],
}


@pytest.mark.parametrize("case", SAME)
def test_read_gives_the_options_that_uwsgi_reads(folder: Path, case: str) -> None:
    path = written(folder, *SAME[case])
    assert by_us(path) == by_uwsgi(path)


def test_the_folder_of_a_linked_file_is_the_folder_of_the_link(folder: Path) -> None:
    (folder / "real.ini").write_text("[uwsgi]\na = %d|%p|%n\n")
    path = folder / "sub" / "main.ini"
    path.symlink_to("../real.ini")
    assert by_us(path) == by_uwsgi(path)
    (folder / "linked").symlink_to("sub")
    path = written(folder / "linked", "[uwsgi]", "a = %d|%p")
    path.unlink()
    path = folder / "linked" / "plain.ini"
    path.write_text("[uwsgi]\na = %d|%p\n")
    assert by_us(path) == by_uwsgi(path)


def test_bytes_that_are_not_utf8_are_kept(folder: Path) -> None:
    path = folder / "main.ini"
    path.write_bytes(b"[uwsgi]\na = \xff\xfe\nb = %d\n")
    assert by_us(path) == by_uwsgi(path)
    assert by_us(path)["a"] == ["\udcff\udcfe"]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["ini = main.ini"], "includes itself"),
        (["ini = :uwsgi"], "includes itself"),
        (["include = other.yml"], "other.yml"),
        (["inherit = /etc/uwsgi.xml"], "uwsgi.xml"),
        (["if-moon = full", "a = 1"], "moon"),
        (["for-moon = full", "a = 1"], "for-moon"),
    ],
)
def test_read_refuses_what_it_does_not_understand(folder: Path, lines: list[str], says: str) -> None:
    path = written(folder, "[uwsgi]", *lines)
    with pytest.raises(ConfigurationError, match=says):
        by_us(path)


@pytest.mark.parametrize("inner", ["for = 1 2", "if-env = SET"])
def test_a_nested_condition_is_refused_as_by_uwsgi(folder: Path, inner: str) -> None:
    path = written(folder, "[uwsgi]", "if-env = SET", inner, "a = 1", "end =", "end =")
    with pytest.raises(ConfigurationError):
        by_us(path)


@pytest.mark.parametrize("name", ["nowhere.ini", "sub"])
def test_a_missing_file_raises_the_error_of_the_system(folder: Path, name: str) -> None:
    with pytest.raises(OSError, match=name):
        by_us(folder / name)
    with pytest.raises(OSError, match=name):
        by_us(written(folder, "[uwsgi]", f"ini = {name}"))


def test_read_takes_another_section_after_a_colon(folder: Path) -> None:
    assert inifile.read(f"{folder}/sub/more.ini:other") == {"in-other": ["other"]}
    assert inifile.read(f"{folder}/sub/more.ini:none") == {}


def test_a_placeholder_that_contains_itself_ends(folder: Path) -> None:
    path = written(folder, "[uwsgi]", "a = %(a)%(a)%(b)", "b = %(a)")
    assert len(by_us(path)["a"][0]) < 100 * 65536


def test_the_default_environment_is_that_of_the_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOLKIT_TEST_WORD", "word")
    path = written(folder, "[uwsgi]", "a = $(SPOOLKIT_TEST_WORD)")
    assert inifile.read(str(path)) == {"a": ["word"]}


names = st.sampled_from(["a", "b", "c", "spooler-processes"])
texts = st.lists(
    st.sampled_from(
        ["x", "1", " ", "=", ";", "#", "[", "]", "%d", "%n", "%%", "%z", "$(SET)", "$(NOT_SET)", "%(_)", "é"]
    ),
    max_size=5,
).map("".join)
conditions = st.sampled_from(
    [
        *("if-env = SET", "if-env = NOT_SET", "if-env = SET=value", "if-opt = a", "if-opt = a=x", "if-opt = b"),
        *("if-exists = main.ini", "if-not-exists = main.ini", "if-file = none", "if-dir = .", "for = 1 2", "for ="),
    ]
)
options = st.builds("{} = {}".format, names, texts)
blocks = st.builds(
    lambda head, within, end: [head, *within, end],
    conditions,
    st.lists(options, max_size=3),
    st.sampled_from(["end =", "endif", "end-for ="]),
)
sections = st.sampled_from([["[uwsgi]"], ["[other]"]])
files = st.lists(st.one_of(options.map(lambda line: [line]), blocks, sections), max_size=6)


@given(files)
def test_generated_files_are_read_as_by_uwsgi(parts: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), "[uwsgi]", "z = 1", *[line for part in parts for line in part])
        assert by_us(path) == by_uwsgi(path)
