"""The recipes of docs/frameworks.md, with the real frameworks: pushed from a request, run in a worker."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.folders import PATIENCE, until
from tests.service.services import Shop


def write(folder: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(source))


def run(shop: Shop, source: str, *, expect: int = 0) -> str:
    """A program of the web application's; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        cwd=shop.folder,
        env=shop.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == expect, f"{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


# ── Django ────────────────────────────────────────────────────────────────────────────────────────

DJANGO = {
    "shop/__init__.py": "",
    "shop/settings.py": """
        from pathlib import Path

        BASE_DIR = Path(__file__).parents[1]
        SECRET_KEY = "of the test"
        ALLOWED_HOSTS = ["testserver"]
        INSTALLED_APPS = ["shop"]
        ROOT_URLCONF = "shop.urls"
        USE_TZ = True
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        DATABASES = {
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": BASE_DIR / "orders.db",
                "ATOMIC_REQUESTS": True,
            }
        }
        """,
    "shop/models.py": """
        from django.db import models


        class Order(models.Model):
            to = models.CharField(max_length=100)
            confirmed = models.CharField(max_length=100, default="")
        """,
    "shop/boot.py": """
        import os

        import django


        def setup():
            os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
            django.setup()
        """,
    "shop/pushing.py": """
        import threading

        from django.conf import settings

        from multiprocessing_kit.service.config_file import load_config
        from multiprocessing_kit.service.service import Service

        _here = threading.local()


        def client():
            '''The client of this thread.'''
            if not hasattr(_here, "client"):
                _here.client = Service(load_config(settings.BASE_DIR / "service.toml")).client()
            return _here.client
        """,
    "shop/views.py": """
        from django.db import transaction
        from django.http import JsonResponse

        from shop.models import Order
        from shop.pushing import client


        def order(request):
            made = Order.objects.create(to=request.POST["to"])
            # After the commit: a job must not look for a row that is not there yet, or never will be.
            transaction.on_commit(lambda: client().push("confirm", made.pk))
            if made.to == "nobody":
                raise ValueError("no such customer")
            return JsonResponse({"order": made.pk}, status=202)
        """,
    "shop/urls.py": """
        from django.urls import path

        from shop.views import order

        urlpatterns = [path("orders", order)]
        """,
    "shop/jobs.py": """
        import os

        from django.db import close_old_connections, connection

        from multiprocessing_kit import Worker


        class DjangoWorker(Worker):
            '''Its jobs find a connection to the database that works.'''

            def process(self, argument):
                close_old_connections()
                try:
                    return self.run(argument)
                finally:
                    close_old_connections()


        class Confirm(DjangoWorker):
            def run(self, pk):
                from shop.models import Order

                order = Order.objects.get(pk=pk)
                order.confirmed = f"to {order.to} by {os.getpid()}"
                order.save()
                if order.to == "breaker":
                    connection.connection.close()  # as a server does that is restarted
        """,
}

CONFIRM = """
    [[topics]]
    name = "confirm"
    worker = "shop.jobs:Confirm"
"""

BOOTED = "from shop.boot import setup; setup()\n"


@pytest.mark.timeout(180)
def test_django(tmp_path: Path) -> None:
    with Shop(tmp_path, CONFIRM, settings='setup = "shop.boot:setup"') as shop:
        write(tmp_path, DJANGO)
        run(
            shop,
            BOOTED + "from django.core.management import call_command as call\n"
            "call('makemigrations', 'shop', verbosity=0); call('migrate', verbosity=0)",
        )
        shop.run()
        run(
            shop,
            BOOTED + "from django.test import Client\n"
            "client = Client(raise_request_exception=False)\n"
            "for to, status in (('ann', 202), ('breaker', 202), ('nobody', 500), ('bob', 202)):\n"
            "    answer = client.post('/orders', {'to': to})\n"
            "    assert answer.status_code == status, answer.content\n",
        )
        shop.wait_until_empty("confirm")
        found = run(
            shop,
            BOOTED + "from shop.models import Order\n"
            "for order in Order.objects.order_by('pk'): print(order.to, order.confirmed, sep=': ')",
        ).splitlines()
        (worker,) = shop.workers("confirm")
        assert found == [f"{to}: to {to} by {worker}" for to in ("ann", "breaker", "bob")]
        assert shop.backlog("confirm").dead == 0


# ── Flask ─────────────────────────────────────────────────────────────────────────────────────────

FLASK = {
    "shop/__init__.py": """
        import threading

        from flask import Flask, jsonify, request

        from multiprocessing_kit.service.config_file import load_config
        from multiprocessing_kit.service.service import Service

        _here = threading.local()


        def client():
            '''The client of this thread.'''
            if not hasattr(_here, "client"):
                _here.client = Service(load_config("service.toml")).client()
            return _here.client


        def create_app():
            app = Flask("shop")
            app.config["GREETING"] = "Dear"

            @app.post("/letters")
            def letters():
                job_id = client().push("letter", request.get_json())
                return jsonify(id=job_id), 202

            return app
        """,
    "shop/boot.py": """
        from shop import create_app


        def setup():
            create_app().app_context().push()  # for as long as the worker lives
        """,
    "shop/jobs.py": """
        from flask import current_app


        def letter(argument):
            return f"{current_app.config['GREETING']} {argument['to']}"
        """,
}

LETTER = """
    [[topics]]
    name = "letter"
    worker = "shop.jobs:letter"
    results = 60.0
"""


@pytest.mark.timeout(180)
def test_flask(tmp_path: Path) -> None:
    with Shop(tmp_path, LETTER, settings='setup = "shop.boot:setup"') as shop:
        write(tmp_path, FLASK)
        shop.run()
        job_id = run(
            shop,
            "from shop import create_app\n"
            "answer = create_app().test_client().post('/letters', json={'to': 'Ann'})\n"
            "assert answer.status_code == 202\n"
            "print(answer.get_json()['id'])",
        )
        assert shop.result(job_id) == "Dear Ann"


# ── FastAPI ───────────────────────────────────────────────────────────────────────────────────────

FASTAPI = {
    "web.py": """
        import asyncio
        import functools
        from concurrent.futures import ThreadPoolExecutor
        from contextlib import asynccontextmanager

        from fastapi import FastAPI, Request
        from pydantic import BaseModel

        from multiprocessing_kit.service.config_file import load_config
        from multiprocessing_kit.service.service import Service


        @asynccontextmanager
        async def lifespan(app):
            loop = asyncio.get_running_loop()
            config = load_config("service.toml")
            # A client blocks, and is for one thread at a time: it has one of its own.
            with ThreadPoolExecutor(1, "push") as thread:
                client = await loop.run_in_executor(thread, Service(config).client)

                async def push(topic, argument, **options):
                    call = functools.partial(client.push, topic, argument, **options)
                    return await loop.run_in_executor(thread, call)

                app.state.push = push
                yield
                await loop.run_in_executor(thread, client.close)


        app = FastAPI(lifespan=lifespan)


        class Letter(BaseModel):
            to: str


        @app.post("/letters", status_code=202)
        async def letters(letter: Letter, request: Request):
            return {"id": await request.app.state.push("letter", letter.model_dump())}
        """,
    "threads.py": """
        import threading

        from fastapi import FastAPI
        from fastapi.concurrency import run_in_threadpool

        from multiprocessing_kit.service.config_file import load_config
        from multiprocessing_kit.service.service import Service

        _here = threading.local()


        def push(topic, argument, **options):
            '''By the client of this thread.'''
            if not hasattr(_here, "client"):
                _here.client = Service(load_config("service.toml")).client()
            return _here.client.push(topic, argument, **options)


        app = FastAPI()


        @app.post("/letters", status_code=202)
        async def letters(letter: dict):
            return {"id": await run_in_threadpool(push, "letter", letter)}


        @app.post("/letters-of-a-thread", status_code=202)
        def letters_of_a_thread(letter: dict):
            return {"id": push("letter", letter)}
        """,
    "greeting.py": """
        def letter(argument):
            return f"Dear {argument['to']}"
        """,
}

# A server of its own, with real sockets; the framework's test client warns of what it is made of.
ASKED = """
import asyncio, sys
import httpx, uvicorn
from {module} import app

async def main():
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{{port}}", trust_env=False) as client:
        asked = [client.post("{path}", json={{"to": f"Ann {{n}}"}}) for n in range(20)]
        for answer in await asyncio.gather(*asked):
            assert answer.status_code == 202, answer.text
            print(answer.json()["id"])
    server.should_exit = True
    await task

asyncio.run(main())
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("module", "path"), [("web", "/letters"), ("threads", "/letters"), ("threads", "/letters-of-a-thread")]
)
def test_fastapi(tmp_path: Path, module: str, path: str) -> None:
    with Shop(tmp_path, LETTER.replace("shop.jobs", "greeting")) as shop:
        write(tmp_path, FASTAPI)
        shop.run()
        ids = run(shop, ASKED.format(module=module, path=path)).splitlines()
        assert len(set(ids)) == 20
        assert [shop.result(job_id) for job_id in ids] == [f"Dear Ann {number}" for number in range(20)]
        until(lambda: shop.backlog("letter").ready == 0)
