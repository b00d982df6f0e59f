"""`service.toml`: what it may say, and what is said of what it may not."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from multiprocessing_kit.errors import ServiceConfigError
from multiprocessing_kit.retry import RetryType
from multiprocessing_kit.service.config import ServiceConfig, known_keys
from multiprocessing_kit.service.config_fields import from_environment
from multiprocessing_kit.service.config_file import load_config
from multiprocessing_kit.service.status import shown_url
from multiprocessing_kit.service.toml_lines import Key, key_lines

HEAD = """\
name = "shop"
broker = "sqlite:///shop.db"
"""
TOPIC = """\
[[topics]]
name = "mail"
worker = "jobs:mail"
"""
FINE = HEAD + TOPIC


def loaded(folder: Path, text: str) -> ServiceConfig:
    """The configuration of this text, in a file of the folder."""
    path = folder / "service.toml"
    path.write_text(text)
    return load_config(path)


def refused(folder: Path, text: str) -> list[str]:
    """The lines that are said of it, without the folder."""
    with pytest.raises(ServiceConfigError) as caught:
        loaded(folder, text)
    assert caught.value.file == str(folder / "service.toml")
    return str(caught.value).replace(f"{folder}/", "").splitlines()


# After two lines of HEAD and three of TOPIC, what is added begins at line 6.
BAD_TOPICS = [
    ("timeout = -1", "6: topics.0.timeout: -1 is not greater than 0"),
    ("timeout = 0", "6: topics.0.timeout: 0 is not greater than 0"),
    ("timeout = inf", "6: topics.0.timeout: inf is not a finite number"),
    ("timeout = '5'", "6: topics.0.timeout: '5' is not a number"),
    ("timeout = true", "6: topics.0.timeout: true is not a number"),
    ("\n\ntimeout = -1", "8: topics.0.timeout: -1 is not greater than 0"),
    ("priority = 1.5", "6: topics.0.priority: 1.5 is not a whole number"),
    ("priority = 'high'", "6: topics.0.priority: 'high' is not a whole number"),
    ("workers = 'all'", "6: topics.0.workers: 'all' is neither a number of workers nor { min = …, max = … }"),
    ("workers = 0", "6: topics.0.workers: 0 is not 1 to 1024 workers"),
    ("workers = { min = -1 }", "6: topics.0.workers.min: -1 is not 0 or more"),
    ("workers = { max = 2000 }", "6: topics.0.workers.max: 2000 is not 1024 or less"),
    ("workers = { min = 3, max = 2 }", "6: topics.0.workers.max: 2 is less than min, 3"),
    (
        "workers = { min = 1, most = 2 }",
        "6: topics.0.workers.most: there is no such key; there are min, max",
    ),
    (
        "[topics.workers]\nmin = 1\nmaxx = 2",
        "8: topics.0.workers.maxx: there is no such key; did you mean max? there are min, max",
    ),
    ("backlog = { per_worker = 0 }", "6: topics.0.backlog.per_worker: 0 is not 1 or more"),
    ("backlog = 5", "6: topics.0.backlog: 5 is not a table { … }"),
    ("retry = { type = 'later' }", "6: topics.0.retry.type: 'later' is not 'requeue' or 'immediate'"),
    (
        "retry = { wait = 'long' }",
        "6: topics.0.retry.wait: 'long' is not 'none', 'fixed' or 'exponential'",
    ),
    ("retry = { max = -1 }", "6: topics.0.retry.max: -1 is not 0 or more"),
    ("retry = { crashes = 0 }", "6: topics.0.retry.crashes: 0 is not 1 or more"),
    ("retry = [1]", "6: topics.0.retry: [1] is not a table { … }"),
    ("max_jobs_per_worker = -1", "6: topics.0.max_jobs_per_worker: -1 is not 0 or more"),
    ("max_memory_per_worker = 0", "6: topics.0.max_memory_per_worker: 0 is not 1 or more"),
    ("results = -1", "6: topics.0.results: -1 is not 0 or more"),
    ("schedules = 1", "6: topics.0.schedules: 1 is not an array [ … ]"),
    (
        "schedules = [\n  { cron = '@daily' },\n  { cron = '61 * * * *' },\n]",
        "8: topics.0.schedules.1.cron: '61 * * * *' is no cron line of five fields, such as '*/5 * * * *'",
    ),
    ("[[topics.schedules]]\npayload = 1", "6: topics.0.schedules.0.cron: it must be given"),
    (
        "[[topics.schedules]]\ncron = '@daily'\ntimezone = 'Mars/Base'",
        "8: topics.0.schedules.0.timezone: there is no time zone 'Mars/Base'",
    ),
    (
        "[[topics.schedules]]\ncron = '@daily'\npayload = { on = 2030-01-31 }",
        "8: topics.0.schedules.0.payload: dict {'on': datetime.date(2030, 1, 31)} cannot be written as json",
    ),
    ("calls = ['os:system']", "3: topics.0: topic 'mail' needs worker or calls, and not both"),
    ("pool = 'crowd'", "6: topics.0.pool: there is no pool 'crowd'; there is none at all"),
    (
        "pool = 'crowd'\nworkers = 2\n[[pools]]\nname = 'crowd'",
        "6: topics.0.pool: topic 'mail' has workers of its own and a pool; one of them must go",
    ),
    ("[[pools]]\nname = 'crowd'", "6: pools.0: pool 'crowd' serves no topic"),
    (
        "pool = 'mail'\n[[topics]]\nname = 'sms'\nworker = 'jobs:sms'\n[[pools]]\nname = 'sms'",
        "6: topics.0.pool: there is no pool 'mail'; there are sms",
        "10: pools.0: pool 'sms' serves no topic",
        "11: pools.0.name: pool 'sms' has the name of a topic with workers of its own",
    ),
    ("[[topics]]\nname = 'mail'\nworker = 'jobs:x'", "7: topics.1.name: topic 'mail' is there twice"),
    ("[[topics]]\nname = 'x'", "6: topics.1: topic 'x' needs worker or calls, and there is neither"),
    ("[[topics]]\nworker = 'jobs:x'", "6: topics.1.name: it must be given"),
    (
        "[[topics]]\nname = 'a b'\nworker = 'jobs.x'",
        "7: topics.1.name: 'a b' is not 1 to 64 letters, digits, dots, dashes and underscores",
        "8: topics.1.worker: 'jobs.x' is not MODULE:NAME, such as shop.jobs:SendMail",
    ),
    (
        "[[topics]]\nname = 'x'\ncalls = [\n'a:b', # fine\n'a.b']",
        "10: topics.1.calls.1: 'a.b' is not MODULE:NAME, or MODULE:CLASS.* for all of its methods",
    ),
    ("tiemout = 5", "6: topics.0.tiemout: there is no such key; did you mean timeout? there are name,"),
    ("[http]\nport = 70000\ntoken = 'short'",
        "7: http.port: 70000 is not 65535 or less",
        "8: http.token: it is shorter than 8 characters",
    ),
    ("[alerts]\nurls = []", "7: alerts.urls: it has 0 of at least 1"),
    (
        "[alerts]\nurls = ['json://x']\nbody = '{nobody}'",
        "8: alerts.body: '{nobody}' is no template of {service} {topic} {kind} {text} {host}",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_TOPICS, ids=lambda case: case[0].replace("\n", " "))
def test_each_fault_is_told_with_line_and_key(tmp_path: Path, case: tuple[str, ...]) -> None:
    told = refused(tmp_path, f"{FINE}{case[0]}\n")
    assert len(told) == len(case) - 1
    for line, wanted in zip(told, case[1:], strict=True):
        assert line.startswith(f"service.toml:{wanted}")


BAD_HEADS = [
    ("", "service.toml: name: it must be given", "service.toml: broker: it must be given"),
    ("name = 5\nbroker = 'sqlite:///x'", "service.toml:1: name: 5 is not a text in quotes"),
    (f"{HEAD}lease = 1", "service.toml:3: lease: 1 is not 3 or more"),
    (f"{HEAD}encoding = 'xml'", "service.toml:3: encoding: 'xml' is not 'json', 'msgpack' or 'pickle'"),
    (f"{HEAD}setup = 'boot'", "service.toml:3: setup: 'boot' is not MODULE:NAME, such as shop.jobs:SendMail"),
    (f"{HEAD}log = ''", "service.toml:3: log: '' is no path"),
    (f"{HEAD}log_format = 'xml'", "service.toml:3: log_format: 'xml' is not 'text' or 'json'"),
    (
        "name = 'shop'\nbroker = 'mysql://me:secret@host/'",
        "service.toml:2: broker: it is none of sqlite://…, redis://…, rediss://…, unix://…, amqp://…, "
        "amqps://…, env:NAME",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_HEADS, ids=lambda case: case[0].replace("\n", " "))
def test_faults_outside_topics(tmp_path: Path, case: tuple[str, ...]) -> None:
    assert refused(tmp_path, f"{case[0]}\n{TOPIC}") == list(case[1:])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name = shop\n", "service.toml:1: no TOML: Invalid value"),
        (
            "name = 'shop'\n\nbroker\n",
            "service.toml:3: no TOML: Expected '=' after a key in a key/value pair",
        ),
        ("name = 'shop'\nname = 'x'\n", "service.toml:2: no TOML: Cannot overwrite a value"),
        ("name = 'shop'\nx = [1,\n", "service.toml:3: no TOML: "),
        (HEAD, "service.toml: topics: it must be given"),
        (f"{HEAD}topics = []", "service.toml:3: topics: it has 0 of at least 1"),
        (f"{HEAD}topics = 5", "service.toml:3: topics: 5 is not an array [ … ]"),
        (f"{HEAD}topics = [5]", "service.toml:3: topics.0: 5 is not a table { … }"),
    ],
)
def test_what_is_hardly_a_configuration(tmp_path: Path, text: str, told: str) -> None:
    (line,) = refused(tmp_path, text)
    assert line.startswith(told)


def test_pickle_needs_a_secret(tmp_path: Path) -> None:
    text = f'encoding = "pickle"\n{FINE}'
    assert refused(tmp_path, text) == [
        "service.toml: secret: encoding 'pickle' needs one, that signs what is pickled"
    ]
    assert loaded(tmp_path, f'secret = "s"\n{text}').payloads().encoding == "pickle"


def test_all_faults_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = f"{HEAD}lease = 0\n{TOPIC}timeout = -1\nretry = {{ max = -1, first = -2 }}\n"
    told = [line.split(": ")[1] for line in refused(tmp_path, text)]
    assert told == ["lease", "topics.0.timeout", "topics.0.retry.max", "topics.0.retry.first"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "service.toml"
    with pytest.raises(ServiceConfigError, match=r"service\.toml: cannot be read: No such file"):
        load_config(path)
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(ServiceConfigError, match=r"service\.toml: is not UTF-8: .* at byte 8"):
        load_config(path)
    with pytest.raises(ServiceConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


# ── values ────────────────────────────────────────────────────────────────────────────────────────


def test_the_example(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """\
        name = "shop"
        broker = "sqlite:///var/shop.db"
        setup = "shop.boot:setup"
        [[topics]]
        name = "mail"
        worker = "shop.jobs:SendMail"
        priority = 10
        workers = { min = 1, max = 8 }
        backlog = { per_worker = 100, alert = 10000 }
        retry = { max = 5, type = "requeue", wait = "exponential", max_wait = 600 }
        timeout = 30.0
        max_jobs_per_worker = 10000
        max_seconds_per_worker = 3600
        """,
    )
    (topic,) = config.topics
    assert (topic.workers and topic.workers.max, topic.timeout, topic.backlog.alert) == (8, 30.0, 10000)
    strategy = topic.retry.strategy()
    assert (strategy.max_retries, strategy.retry_type) == (5, RetryType.REQUEUE)


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [("3", 3, 3), ("{ min = 2 }", 2, 2), ("{ max = 4 }", 1, 4), ("{ min = 0, max = 2 }", 0, 2)],
)
def test_numbers_of_workers(tmp_path: Path, given: str, least: int, most: int) -> None:
    workers = loaded(tmp_path, f"{FINE}workers = {given}\n").topics[0].workers
    assert workers is not None
    assert (workers.min, workers.max) == (least, most)


def test_crews_are_pools_and_topics_with_the_highest_priority_first(tmp_path: Path) -> None:
    text = """\
        [[pools]]
        name = "crowd"
        workers = 3
        [[topics]]
        name = "sms"
        worker = "jobs:sms"
        pool = "crowd"
        [[topics]]
        name = "fax"
        worker = "jobs:fax"
        pool = "crowd"
        priority = 5
        """
    crews = loaded(tmp_path, FINE + textwrap.dedent(text)).crews()
    found = {
        name: (workers.max, [topic.name for topic in topics]) for name, (workers, topics) in crews.items()
    }
    assert found == {"crowd": (3, ["fax", "sms"]), "mail": (1, ["mail"])}


@pytest.mark.parametrize(
    ("broker", "url"),
    [
        ("sqlite:///shop.db", "sqlite:///{folder}/shop.db"),
        ("sqlite:///var/shop.db?synchronous=full", "sqlite:///{folder}/var/shop.db?synchronous=full"),
        ("sqlite:////var/shop.db", "sqlite:////var/shop.db"),
        ("redis://localhost/0", "redis://localhost/0"),
        ("amqp://me:secret@host:5/vhost", "amqp://me:secret@host:5/vhost"),
        ("env:SHOP_BROKER", "sqlite:///{folder}/by/environment.db"),
    ],
)
def test_relative_paths_are_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: str, url: str
) -> None:
    monkeypatch.setenv("SHOP_BROKER", "sqlite:///by/environment.db")
    folder = tmp_path / "100% ours"
    folder.mkdir()
    text = FINE.replace("sqlite:///shop.db", broker)
    config = loaded(folder, f'log = "log/shop.log"\nruntime_dir = "run"\n{text}')
    assert config.broker_url == url.replace("{folder}", str(folder).replace("%", "%25").replace(" ", "%20"))
    assert (config.log, config.runtime_dir) == (f"{folder}/log/shop.log", f"{folder}/run")
    assert config.directory == str(folder)


@pytest.mark.parametrize("log", ["stderr", "syslog", "journal", "/var/log/shop.log"])
def test_logs_that_are_no_relative_paths(tmp_path: Path, log: str) -> None:
    assert loaded(tmp_path, f'log = "{log}"\n{FINE}').log == log


def test_without_a_file_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    topic = {"name": "mail", "worker": "jobs:mail"}
    config = ServiceConfig.model_validate({"name": "shop", "broker": "sqlite:///x", "topics": [topic]})
    assert (config.broker_url, config.directory) == ("sqlite:///x", str(tmp_path))


def test_what_the_environment_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_SECRET", "abc")
    monkeypatch.delenv("SHOP_NOTHING", raising=False)
    config = loaded(tmp_path, f'secret = "env:SHOP_SECRET"\n{FINE}[http]\ntoken = "env:T"\n')
    assert config.payloads().secret == "abc"
    with pytest.raises(ServiceConfigError, match="there is no variable SHOP_NOTHING in the env") as caught:
        from_environment("env:SHOP_NOTHING", "http.token")
    assert caught.value.key == "http.token"


@pytest.mark.parametrize(
    ("wait", "least", "most"),
    [("none", [0, 0, 0], [0, 0, 0]), ("fixed", [2, 2, 2], [2, 2, 2]), ("exponential", [2, 4, 8], [3, 5, 9])],
)
def test_waits_of_retries(tmp_path: Path, wait: str, least: list[float], most: list[float]) -> None:
    retry = f'{{ wait = "{wait}", first = 2, max_wait = 9, max = 20 }}'
    waits = _waits(loaded(tmp_path, f"{FINE}retry = {retry}\n"), 20)
    assert all(low <= one <= high for low, one, high in zip(least, waits, most, strict=False))
    assert max(waits) <= 9


def _waits(config: ServiceConfig, count: int) -> list[float]:
    import tenacity

    strategy = config.topics[0].retry.strategy()
    found = []
    for attempt in range(1, count + 1):
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = attempt
        found.append(0.0 if strategy.wait is None else strategy.wait(state))
    return found


# ── where it is ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("a = 1", ("a",), 1),
        ("# b = 1\n\n a.b.c = 1", ("a", "b", "c"), 3),
        ("'a b'.\"c\" = 1", ("a b", "c"), 1),
        ("[a]\nb = 1\n[c]\nb = 1", ("c", "b"), 4),
        ("[[a]]\nb = 1\n[[a]]\nb = 1", ("a", 1, "b"), 4),
        ("[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\nc = 1", ("a", 1, "b", "c"), 6),
        ("[[a]]\n[[a.b]]\nc = 1\n[[a.b]]\nc = 1\n[[a]]\n[[a.b]]\nc = 1", ("a", 1, "b", 0, "c"), 8),
        ("a = { b = 1, c = { d = 2 } }", ("a", "c", "d"), 1),
        ("a = [\n1, # ]\n[\n2,\n3]\n]\nb = 1", ("a", 1, 1), 5),
        ("a = [\n1, # ]\n[\n2,\n3]\n]\nb = 1", ("b",), 7),
        ("a = [{ b = 1 },\n{ b = 2 }]", ("a", 1, "b"), 2),
        ('a = "]=\\"["\nb = 1', ("b",), 2),
        ("a = '\\'\nb = 1", ("b",), 2),
        ('a = """\nb = 1\n\\""" ""\n"""\nb = 2', ("b",), 5),
        ("a = '''\nb = 1\n'''\nb = 2", ("b",), 4),
        ("a = ''''x'''''\nb = 2", ("b",), 2),
        ("a = 1979-05-27 07:32:00Z # b = 1\r\nb = 0x1F\r\nc = 1", ("c",), 3),
    ],
)
def test_lines_of_keys(text: str, key: Key, line: int) -> None:
    assert key_lines(text)[key] == line


@pytest.mark.parametrize(
    ("path", "some"),
    [((), "broker"), (("topics", 0), "worker"), (("topics", 1, "retry"), "crashes"), (("http",), "token")],
)
def test_keys_that_may_be(path: Key, some: str) -> None:
    assert some in known_keys(path)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/shop.db?synchronous=full", "sqlite:////var/shop.db"),
        ("redis://me:secret@host:6379/0", "redis://me:***@host:6379/0"),
        ("redis://:secret@host/0?password=other", "redis://:***@host/0"),
        ("amqp://host/x", "amqp://host/x"),
    ],
)
def test_urls_are_shown_without_passwords(url: str, shown: str) -> None:
    assert shown_url(url) == shown
