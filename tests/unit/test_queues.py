"""Queues with names: their settings, where calls write, and what the commands do with them."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import Job, SpoolKit, application, periodic, registry, spool
from spoolkit.admin import actions, stats
from spoolkit.cli import running as cli_running
from spoolkit.errors import ConfigurationError, PartlyAcceptedError, QueueFull, QueueOptionError, SpoolkitError
from spoolkit.lifecycle import sweeping
from spoolkit.schedules import ticks
from spoolkit.schedules.schedule import SECOND
from spoolkit.settings import Queue, Settings
from spoolkit.spooldir import gate, room, running, spoolfile
from spoolkit.spooldir.schedules import due_of, tick_id
from spoolkit.spooling import unique_jobs
from spoolkit.spooling.standalone import Spooler
from spoolkit.system.process import PerProcess
from spoolkit.task import SpoolTask
from spoolkit.uwsgi import bridge, inifile, recommended

done: list[Any] = []


note: SpoolTask[[Any], None]
mail: SpoolTask[[Any], None]


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks that no other test knows: their application must have the queue."""
    global note, mail
    monkeypatch.setattr(registry, "this_process", registry.Registry())
    # That of an earlier test may be alive until its garbage is collected, and does not have the queue.
    monkeypatch.setattr(application.this_process, "latest", None)
    done.clear()

    @spool(name="queues.note")
    def note(number: Any) -> None:
        done.append(number)

    @spool(queue="mail", name="queues.mail")
    def mail(number: Any) -> None:
        done.append(number)


@pytest.fixture
def app(tasks: None, tmp_path: Path) -> Iterator[Flask]:
    """An application with two queues, in whose context the test runs."""
    app = Flask("queues_of_a_site")
    queues = {"mail": {"processes": 2}, "reports": {"path": str(tmp_path / "own")}}
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_QUEUES=queues)
    SpoolKit(app)
    with app.app_context():
        yield app


@pytest.fixture
def command(app: Flask) -> Callable[..., Result]:
    return lambda *words: app.test_cli_runner().invoke(args=["spool", *words])


def files_in(folder: Path) -> list[str]:
    return [os.path.basename(path) for path in spoolfile.scanned(str(folder))]


# Settings


def test_a_queue_has_a_directory_beside_the_spool_directory_or_one_of_its_own(app: Flask, tmp_path: Path) -> None:
    config = Settings.load(app.config, "/")
    assert config.queues == (Queue("mail", "", 2), Queue("reports", str(tmp_path / "own"), 1))
    assert [job.queue for job in (mail(1), note.using(queue="reports")(2), note(3))] == ["mail", "reports", None]
    folders = (tmp_path / "spool-queues" / "mail", tmp_path / "own", tmp_path / "spool")
    assert [len(files_in(folder)) for folder in folders] == [1, 1, 1]


def test_the_environment_gives_queues_as_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPOOLKIT_QUEUES", '{"mail": {"processes": 3}, "slow": null}')
    assert Settings.load({}, str(tmp_path)).queues == (Queue("mail", "", 3), Queue("slow"))


@pytest.mark.parametrize(
    "value",
    [
        "mail",
        ["mail"],
        {"": {}},
        {"a/b": {}},
        {"..": {}},
        {"default": {}},
        {"mäil": {}},
        {5: {}},
        {"mail": 2},
        {"mail": {"proceses": 2}},
        {"mail": {"processes": 0}},
        {"mail": {"processes": True}},
        {"mail": {"processes": "2"}},
        {"mail": {"path": "relative"}},
        {"mail": {"path": 5}},
        {"a": {"path": "/q"}, "b": {"path": "/q"}},
        {"a": {"path": "/q"}, "b": {"path": "/q/inside"}},
        {"a": {"path": "/spool"}},
        {"a": {"path": "/spool/inside"}},
    ],
    ids=str,
)
def test_what_is_no_queue_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigurationError, match="SPOOLKIT_QUEUES") as refused:
        Settings.load({"SPOOLKIT_SPOOL": "/spool", "SPOOLKIT_QUEUES": value}, "/")
    assert refused.value.setting is not None
    assert refused.value.setting.startswith("SPOOLKIT_QUEUES")


def test_in_a_test_run_a_queue_has_a_private_directory(app: Flask) -> None:
    app.config["SPOOLKIT_QUEUES"] = {"mail": {"path": "/srv/no-such-folder/mail"}}
    job = mail(1)
    assert job.state == "queued"
    assert not os.path.exists("/srv/no-such-folder")


# Calls


def test_the_directory_of_a_queue_is_made_by_its_first_job_for_its_owner_only(app: Flask, tmp_path: Path) -> None:
    mail(1)
    for folder in (tmp_path / "spool-queues", tmp_path / "spool-queues" / "mail"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_call_may_name_another_queue_than_its_task(app: Flask, tmp_path: Path) -> None:
    assert mail.using(queue="default")(1).queue is None
    assert len(files_in(tmp_path / "spool")) == 1
    assert mail.using(queue=str(tmp_path / "own"))(1).queue == "reports", "the directory of a queue with a name"
    assert mail.spool(number=1, spooler="reports").queue == "reports"
    assert mail.spool(number=1, spooler=b"reports").queue == "reports"


def test_many_jobs_of_one_call_go_to_their_queue(app: Flask, tmp_path: Path) -> None:
    assert {job.queue for job in mail.map([(1,), (2,)])} == {"mail"}
    Spooler(str(tmp_path / "spool-queues" / "mail")).run_due()
    assert sorted(done) == [1, 2]


@pytest.mark.parametrize("queue", ["mial", "Default"])
def test_an_unknown_queue_is_refused_at_the_call(app: Flask, queue: str, tmp_path: Path) -> None:
    with pytest.raises(QueueOptionError, match=f"{queue!r}.*mail") as refused:
        note.using(queue=queue)(1)
    assert refused.value.argument == "queue"
    assert not (tmp_path / "spool-queues").exists()


def test_a_queue_that_uwsgi_does_not_serve_is_refused_at_the_call(
    app: Flask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "spool").mkdir(0o700)
    monkeypatch.setattr(bridge, "directories", lambda: [str(tmp_path / "spool")])
    with pytest.raises(QueueOptionError, match=r"spooler = .*spool-queues/mail"):
        mail(1)


def test_a_task_for_an_unknown_queue_is_refused_once_there_is_an_application(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    app = Flask(__name__)
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    with pytest.raises(ConfigurationError, match=r"queues\.mail .*'mail'"):
        SpoolKit(app)
    app.config.update(SPOOLKIT_QUEUES={"mail": {}})
    SpoolKit(app)
    with app.app_context(), pytest.raises(ConfigurationError, match="'slow'"):
        spool(queue="slow", name="queues.slow")(lambda: None)


@pytest.mark.parametrize("queue", ["", "a b", "../x", 5, True])
def test_a_task_with_an_impossible_queue_is_refused(queue: object) -> None:
    with pytest.raises(ConfigurationError, match="queue is"):
        spool(queue=queue)(lambda: None)  # type: ignore[call-overload]


def test_a_job_of_a_queue_is_found_run_and_retried_there(
    app: Flask, command: Callable[..., Result], tmp_path: Path
) -> None:
    job = mail("no number")
    folder = str(tmp_path / "spool-queues" / "mail")
    assert (job.state, Job.get(job.id).queue) == ("queued", "mail")
    assert "queue      mail" in command("show", job.id).output
    job.cancel()
    delayed = mail.using(delay=60)(2)
    assert command("run-now", delayed.id).exit_code == 0
    Spooler(folder).run_due()
    assert (done, delayed.state, Job.get(delayed.id).queue) == ([2], "done", "mail")
    assert delayed.wait(timeout=0)


def test_a_queue_that_is_not_configured_any_more_keeps_its_jobs(app: Flask, tmp_path: Path) -> None:
    job = mail(1)
    Spooler(str(tmp_path / "spool-queues" / "mail")).run_due()
    app.config["SPOOLKIT_QUEUES"] = {}
    assert (job.state, job.status.queue) == ("done", "mail")


# Commands


def test_pause_resume_and_drain_take_the_name_of_a_queue(
    app: Flask, command: Callable[..., Result], tmp_path: Path
) -> None:
    mail(1)
    note(2)
    folder = str(tmp_path / "spool-queues" / "mail")
    assert command("pause", "mail").output == f"{folder} is paused\n"
    assert [gate.is_paused(path) for path in (folder, str(tmp_path / "spool"))] == [True, False]
    assert command("resume", "mail").output == f"{folder} is open\n"
    assert command("drain", "mail", "--wait").output == f"{folder} is drained\n"
    assert command("pause", "default").output == f"{tmp_path / 'spool'} is paused\n"
    assert command("pause", "unknown").exit_code == 2


def test_stats_count_by_queue(app: Flask, command: Callable[..., Result]) -> None:
    mail(1)
    mail(2)
    note(3)
    command("pause", "mail")
    found = [(one.queue, one.jobs, one.running, one.spoolers, one.state) for one in stats.gather().queues]
    assert found == [("default", 1, 0, 0, "open"), ("mail", 2, 0, 0, "paused")]
    assert "QUEUE" in command("stats").output


def test_the_doctor_says_which_queue_has_no_spooler(app: Flask, command: Callable[..., Result]) -> None:
    mail(1)
    output = command("doctor").output
    assert "[spooler-alive] the queue mail has no spooler" in output
    assert "[queue] the queue reports has no spooler: its directory" in output


def test_before_the_first_start_the_remedy_for_a_queue_is_to_start(
    app: Flask, command: Callable[..., Result], tmp_path: Path
) -> None:
    ini = tmp_path / "uwsgi.ini"

    def remedies() -> dict[str, str]:
        found = json.loads(command("doctor", "--ini", str(ini), "--json").output)
        return {one["problem"].split()[2]: one["remedy"] for one in found if one["check"] == "queue"}

    ini.write_text(f"[uwsgi]\nspooler = {tmp_path}/spool\nspooler = {tmp_path}/spool-queues/mail\n")
    found = remedies()
    assert found["mail"].startswith("uwsgi --ini uwsgi.ini")
    assert found["reports"].startswith("flask spool ini")
    ini.write_text("[uwsgi]\nif-strange = 1\n")
    assert remedies()["mail"].startswith("flask spool ini")


def test_the_remedy_for_a_queue_that_the_ini_file_has_is_to_start_uwsgi(
    app: Flask, command: Callable[..., Result], tmp_path: Path
) -> None:
    mail(1)
    ini, path = tmp_path / "uwsgi.ini", tmp_path / "spool-queues" / "mail"

    def remedy() -> str:
        lines = command("doctor", "--ini", str(ini)).output.splitlines()
        (index,) = [number for number, line in enumerate(lines) if "[spooler-alive] the queue mail" in line]
        return lines[index + 1].strip()

    ini.write_text(f"[uwsgi]\nspooler = {tmp_path}/spool\n")
    assert remedy() == f"spooler = {path}"
    ini.write_text(f"[uwsgi]\nspooler = {tmp_path}/spool\nspooler = {path}\n")
    assert remedy().startswith("uwsgi --ini uwsgi.ini")


def test_the_doctor_names_a_paused_task_once_and_where_its_jobs_wait(
    app: Flask, command: Callable[..., Result], tmp_path: Path
) -> None:
    mail(1)
    assert command("pause", "--task", "queues.note").exit_code == 0
    assert command("doctor").output.count("[paused] queues.note is paused") == 1
    assert command("resume", "--task", "queues.note").exit_code == 0
    assert command("pause", "mail", "--task", "queues.note").exit_code == 0
    assert command("doctor").output.count("[paused] queues.note is paused") == 1, "in this queue only"
    assert command("pause", "--task", "queues.mail").exit_code == 0
    folder = tmp_path / "spool-queues" / "mail"
    Spooler(str(folder)).run_due()
    assert f"queues.mail is paused: 1 of its jobs waits in {folder}" in command("doctor").output


@pytest.fixture
def unblocked() -> Iterator[None]:
    """The command leaves the signals that stop it blocked: its process ends then. Here it does not."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.usefixtures("unblocked")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {"spool": 1, "spool-queues/mail": 2, "own": 1}),
        (("--queue", "mail"), {"spool-queues/mail": 2}),
        (("--queue", "mail", "--processes", "3"), {"spool-queues/mail": 3}),
        (("--processes", "3"), {"spool": 3, "spool-queues/mail": 3, "own": 3}),
        (("--queue", "default", "--queue", "reports"), {"spool": 1, "own": 1}),
    ],
    ids=str,
)
def test_run_serves_all_queues_or_those_that_are_named(
    words: tuple[str, ...],
    expected: dict[str, int],
    command: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    served: dict[str, int] = {}
    monkeypatch.setattr(cli_running, "supervise", lambda processes, **_: served.update(processes) or 0)
    assert command("run", *words).exit_code == 0
    assert served == {str(tmp_path / path): number for path, number in expected.items()}
    assert all(stat.S_IMODE(os.stat(path).st_mode) == 0o700 for path in served)


def test_run_refuses_an_unknown_queue(command: Callable[..., Result]) -> None:
    assert command("run", "--queue", "unknown").exit_code == 2


def test_the_printed_ini_has_a_line_for_each_process(tmp_path: Path) -> None:
    folder = tmp_path / "a folder's"
    folder.mkdir()
    path = folder / "uwsgi.ini"
    queues = [("%dspool-queues/mail", 2), ("/var/spool/own", 1)]
    path.write_text(recommended.ini(module="app:app", spool="%dspool", spoolers=2, queues=queues))
    options = inifile.read(str(path), {})
    own, mails = f"{folder}/spool", f"{folder}/spool-queues/mail"
    assert options["spooler"] == [own, own, mails, mails, "/var/spool/own"]
    assert "spooler-processes" not in options, "its last value would apply to all queues"


def test_ini_prints_the_queues_of_the_application(command: Callable[..., Result], tmp_path: Path) -> None:
    lines = [
        line for line in command("ini", "--module", "app:app").output.splitlines() if line.startswith("spooler = ")
    ]
    folders = ["spool", "spool", "spool-queues/mail", "spool-queues/mail", "own"]
    assert lines == [f"spooler = {tmp_path / folder}" for folder in folders]


# Periodic tasks


@pytest.fixture
def folder(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The directory of the queue, before its first job."""
    (tmp_path / "spool").mkdir(0o700)
    monkeypatch.setattr(sweeping, "_sweeps", [])
    return str(tmp_path / "spool-queues" / "mail")


def test_the_runs_of_a_periodic_task_are_jobs_of_its_queue(
    folder: str, tmp_path: Path, time_passes: Callable[[float], None], command: Callable[..., Result]
) -> None:
    spool_dir = str(tmp_path / "spool")
    periodic(every=60, args=("tick",), name="x")(mail)
    ticks.reconcile(spool_dir)
    ticks.reconcile(spool_dir)
    (path,) = spoolfile.pending(folder)
    job = Job.get(spoolfile.id_of(os.path.basename(path)) or "")
    assert job.queue == "mail"
    assert spoolfile.pending(spool_dir) == []
    time_passes(61)
    Spooler(folder).run_due()
    assert (done, job.state) == (["tick"], "done")
    assert len(spoolfile.pending(folder)) == 1, "the next one"
    assert os.listdir(tmp_path / "spool" / "schedules")
    assert not os.path.exists(os.path.join(folder, "schedules"))
    assert command("periodic", "run", "x").exit_code == 0
    assert len(spoolfile.scanned(folder)) == 1


@pytest.mark.parametrize("queues", [(None, "mail"), ("mail", None)], ids=str)
def test_a_run_waits_once_although_the_queue_of_its_task_is_another_one_now(
    queues: tuple[str | None, ...], folder: str, tmp_path: Path, time_passes: Callable[[float], None]
) -> None:
    spool_dir = str(tmp_path / "spool")
    os.makedirs(folder, 0o700)
    dirs = [spool_dir if queue is None else folder for queue in queues]

    def moves(what: str) -> None:
        done.append(what)

    for queue in queues:
        registry.this_process.schedules.clear()
        periodic(every=60, args=("tick",), name="x")(spool(queue=queue, name="queues.moves")(moves))
        for _ in range(2):
            ticks.reconcile(spool_dir)
        assert [len(spoolfile.pending(one)) for one in dirs] == [1, 0]
    time_passes(61)
    for one in dirs:
        Spooler(one).run_due()
    assert done == ["tick"]
    assert [len(spoolfile.pending(one)) for one in dirs] == [0, 1]


def test_two_runs_in_different_queues_do_not_overlap(
    folder: str, tmp_path: Path, time_passes: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool_dir = str(tmp_path / "spool")
    periodic(every=60, args=("tick",), name="x")(mail)
    ticks.reconcile(spool_dir)
    (path,) = spoolfile.pending(folder)
    due = due_of(spoolfile.id_of(os.path.basename(path)) or "")
    monkeypatch.setattr(running, "held", lambda one: [tick_id("x", due - 60 * SECOND)] if one == spool_dir else [])
    time_passes(61)
    Spooler(folder).run_due()
    assert done == []


def test_where_a_queue_is_not_served_its_runs_are_jobs_of_the_default_one(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool_dir = str(tmp_path / "spool")
    monkeypatch.setattr(bridge, "directories", lambda: [spool_dir])
    periodic(every=60, args=("tick",))(mail)
    ticks.reconcile(spool_dir)
    assert len(spoolfile.pending(spool_dir)) == 1
    assert not os.path.exists(folder)


@pytest.mark.parametrize(("is_scanned", "place"), [(True, "later/900"), (False, "later")])
def test_a_run_has_the_priority_of_its_task_where_it_can_have_one(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_scanned: bool, place: str
) -> None:
    spool_dir = str(tmp_path / "spool")
    monkeypatch.setattr(bridge, "has_priorities", lambda: is_scanned)

    @periodic(every=60)
    @spool(priority=900, name="queues.low")
    def low() -> None: ...

    for _ in range(2):
        ticks.reconcile(spool_dir)
    (path,) = spoolfile.pending(spool_dir)
    assert os.path.dirname(path) == os.path.join(spool_dir, place)


def test_a_periodic_task_needs_the_name_of_its_queue(app: Flask, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="need a queue with a name"):
        periodic(every=60)(spool(queue=str(tmp_path / "own"), name="queues.path")(lambda: None))


# A limit


@pytest.fixture
def limited(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """At most 3 jobs wait in each queue, and 1 mail."""
    monkeypatch.setattr(room, "BELIEVED", 0.0)
    app.config.update(SPOOLKIT_MAX_WAITING=3, SPOOLKIT_QUEUES={"mail": {"max_waiting": 1}})
    return app


def test_a_call_beyond_the_limit_of_its_queue_is_refused_until_jobs_are_over(limited: Flask, tmp_path: Path) -> None:
    note(1)
    note.using(delay=60)(2)
    mail(1)
    note(3)
    for call, name, limit in ((note, "default", 3), (mail, "mail", 1)):
        with pytest.raises(QueueFull, match=r"SPOOLKIT_MAX_WAITING|max_waiting") as refused:
            call(4)
        assert (refused.value.queue, refused.value.limit, refused.value.waiting) == (name, limit, limit)
    assert len(files_in(tmp_path / "spool")) == 2
    Spooler(str(tmp_path / "spool")).run_due()
    note(4)


def test_many_jobs_are_accepted_as_a_whole_or_not_at_all(limited: Flask, tmp_path: Path) -> None:
    note.map([(1,), (2,)])
    with pytest.raises(QueueFull):
        note.map([(3,), (4,)])
    note(3)
    with pytest.raises(QueueFull):
        note(4)
    assert len(files_in(tmp_path / "spool")) == 2, "a chunk of two jobs, and another job"


def test_many_calls_that_replace_say_which_were_accepted_before_the_queue_was_full(
    limited: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @spool(name="queues.latest", unique=("key",), on_duplicate="replace")
    def latest(key: int, value: str) -> None: ...

    for key in range(2):
        latest.using(delay=60)(key, "old")
    existing, busy = unique_jobs._existing, []

    def starts_and_ends(job: Any, *others: Any) -> Any:
        if job.args[0] == 1 and not busy:
            busy.append(actions.cancel(others[1].status.id))
            note.map([(1,), (2,)])
            raise unique_jobs._BusyError
        return existing(job, *others)

    monkeypatch.setattr(unique_jobs, "_existing", starts_and_ends)
    with pytest.raises(PartlyAcceptedError, match=r"1 of 2 calls were accepted, .*SPOOLKIT_MAX_WAITING") as raised:
        latest.map([(0, "new"), (1, "new")])
    assert raised.value.accepted == (0,)


def test_retries_are_never_refused(limited: Flask, tmp_path: Path) -> None:
    @spool(name="queues.dies", retries=0)
    def dies() -> None:
        raise ValueError

    job = dies()
    Spooler(str(tmp_path / "spool")).run_due()
    for number in range(3):
        note(number)
    actions.retry(job.id)
    assert job.state == "queued"


def test_a_duplicate_of_a_waiting_job_is_not_refused(limited: Flask) -> None:
    @spool(name="queues.once", unique=True)
    def once() -> None: ...

    first = once()
    note(1)
    note(2)
    assert once() == first


def test_a_full_queue_is_answered_with_503_unless_the_site_does_so_itself(limited: Flask) -> None:
    def view() -> str:
        mail(1)
        mail(2)
        return ""

    limited.add_url_rule("/mail", view_func=view)
    answer = limited.test_client().get("/mail")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["error"]["type"] == "QueueFull"
    assert int(answer.headers["Retry-After"]) > 0


def test_the_sites_own_handler_answers(limited: Flask) -> None:
    limited.register_error_handler(SpoolkitError, lambda error: (f"own: {error}", 429))
    limited.add_url_rule("/mail", view_func=lambda: str([mail(1), mail(2)]))
    assert limited.test_client().get("/mail").status_code == 429


@pytest.mark.parametrize("value", [0, -1, "many"])
def test_what_is_no_limit_is_refused_by_name(value: object) -> None:
    for config in ({"SPOOLKIT_MAX_WAITING": value}, {"SPOOLKIT_QUEUES": {"mail": {"max_waiting": value}}}):
        with pytest.raises(ConfigurationError, match="SPOOLKIT_"):
            Settings.load({"SPOOLKIT_SPOOL": "/spool", **config}, "/")


@given(limit=st.integers(1, 2000), waiting=st.integers(0, 2000), calls=st.lists(st.integers(1, 50), max_size=100))
def test_the_limit_is_exceeded_by_a_hundredth_at_most(limit: int, waiting: int, calls: list[int]) -> None:
    counts = 0

    def count(_: str, most: int) -> int:
        nonlocal counts
        counts += 1
        return min(waiting, most)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(room, "count", count)
        patched.setattr(room, "_counted", PerProcess(dict))
        patched.setattr(room, "BELIEVED", 0.0 if limit % 2 else 60.0)
        for number in calls:
            if room.take("/spool", limit, number) is None:
                waiting += number
                assert waiting <= limit + limit // room.OVER
