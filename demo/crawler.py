"""A crawler: breadth-first over one site, with retries, a mirror that is down, and a tally of events.

python demo/crawler.py                             the standard library's documentation, served by pydoc
python demo/crawler.py --url URL [--limit N]       any other site (robots.txt is not read)

In the first form each page is asked for at a dead mirror first. That fails, and a JOB_RETRY listener in
the child moves the job to the live server: what it changes on the worker holds for that one job.

The pages per second are mostly pydoc's there, which writes its pages one at a time while it is asked.

An HTTP status such as 404 is a result. The passing ones (429, 502, 503, 504), refused connections and
time-outs are failures, which are retried after a growing wait.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.client import HTTPMessage, HTTPResponse
from typing import IO
from urllib.error import HTTPError
from urllib.parse import quote, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tenacity import wait_exponential, wait_random

from multiprocessing_kit import JobEvent, JobResponse, Observer, Process, RetryStrategy, RetryType, Worker

TIMEOUT = 30.0
"""Seconds without a byte; pydoc answers one request at a time, and the others wait."""

MAX_BODY = 4 << 20
TRANSIENT = {429, 502, 503, 504}
RETRY = RetryStrategy(3, RetryType.REQUEUE, wait=wait_exponential(0.05, max=2) + wait_random(0, 0.05))

# Pydoc imports what it shows: these open windows or browsers, run tests or read the server's stdin.
UNWANTED = re.compile(r"\b(antigravity|idlelib|test|this|turtledemo|__main__)\b")


@dataclass
class Page:
    """What the crawler keeps of one page; `links` are those within the host."""

    path: str
    status: int
    size: int = 0
    title: str = ""
    links: list[str] = field(default_factory=list)


class Crawler(Worker):
    """One job: fetch and parse the page at one path of the site at `base`."""

    def __init__(self, base: str, *, skip: re.Pattern[str] | None = None) -> None:
        super().__init__("crawler", retry=RETRY)
        self.base = base
        self.skip = skip

    def setup(self) -> None:
        self.opener = build_opener(WithinHost)

    def process(self, path: str) -> JobResponse:
        request = Request(self.base + path, headers={"User-Agent": "multiprocessing_kit-demo"})
        reply: HTTPResponse | HTTPError
        try:
            reply = self.opener.open(request, timeout=TIMEOUT)
        except HTTPError as error:  # also a reply, only with another status
            reply = error
        with reply:
            page = self.read(path, reply)
        return JobResponse(page, exit_code=page.status if page.status in TRANSIENT else 0)

    def read(self, path: str, reply: HTTPResponse | HTTPError) -> Page:
        """Parse the page if it is HTML; else only count its bytes."""
        body = reply.read(MAX_BODY)
        page = Page(path, reply.status or 0, len(body))
        if reply.headers.get_content_type() == "text/html":
            html = Html(body.decode(reply.headers.get_content_charset("utf-8"), "replace"))
            page.title = " ".join(html.title.split())
            links = (local_path(reply.url, link) for link in html.links)
            page.links = [link for link in links if link and not (self.skip and self.skip.search(link))]
        return page


class Html(HTMLParser):
    """The title and the links of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title = ""
        self.links: list[str] = []
        self._in_title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data


class WithinHost(HTTPRedirectHandler):
    """Follows redirects within the host; one that leaves it is a reply like any other."""

    def redirect_request(  # noqa: PLR0917  # urllib's own signature
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if local_path(req.full_url, newurl) is None:
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def local_path(url: str, link: str) -> str | None:
    """Path and query of a `link` on the page at `url`; None if it leads to another host, or nowhere."""
    try:
        target = urlsplit(urljoin(url, link.strip()))
    except ValueError:  # the web is full of them
        return None
    if target.scheme not in ("http", "https") or target.netloc != urlsplit(url).netloc:
        return None
    return quote(urlunsplit(("", "", target.path or "/", target.query, "")), safe=string.punctuation)


class Tally(Observer):
    """Counts, in the caller, what happens in the children."""

    def __init__(self) -> None:
        self.retries = 0
        self.failures: list[str] = []

    def retry(self, process: Process) -> None:
        self.retries += 1

    def failed(self, process: Process, argument: str, exception: object, response: JobResponse) -> None:
        self.failures.append(f"{argument}: {exception or f'HTTP status {response.exit_code}'}")


def crawl(process: Process, crawler: Crawler, start: str, limit: int) -> list[Page]:
    """At most `limit` pages, level by level from `start`."""
    pages: list[Page] = []
    frontier, seen, level, asked = [start], {start}, 0, 0
    while frontier and asked < limit:
        frontier = frontier[: limit - asked]
        asked += len(frontier)
        found = [response.body for response in process.map(crawler, frontier) if response.ok]
        pages += found
        print(f"level {level}: {len(found)} of {len(frontier)} pages", flush=True)
        links = dict.fromkeys(link for page in found for link in page.links if link not in seen)
        frontier, level = list(links), level + 1
        seen |= links.keys()
    return pages


@contextlib.contextmanager
def documentation_server() -> Iterator[str]:
    """Pydoc's own server on a free port, with nothing but the standard library to show; its URL."""
    server = subprocess.Popen(
        [sys.executable, "-ISu", "-m", "pydoc", "-n", "127.0.0.1", "-p", "0"],
        stdin=subprocess.PIPE,  # pydoc ends when it reads the end of this
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd="/",
        env={**os.environ, "BROWSER": "true"},
    )
    with server:
        try:
            assert server.stdout is not None
            ready = next((line for line in server.stdout if line.startswith("Server ready at ")), None)
            if ready is None:
                raise SystemExit("pydoc did not start")
            yield ready.split()[-1].rstrip("/")
        finally:
            server.kill()  # it has nothing to lose, and some of what it imported keeps it from ending


@contextlib.contextmanager
def dead_mirror() -> Iterator[str]:
    """The URL of a port that refuses connections, kept from everybody else meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def use(crawler: Crawler, base: str) -> None:
    """A listener: go on at `base`."""
    crawler.base = base


def report(pages: list[Page], tally: Tally, seconds: float) -> None:
    """The table."""
    rows = {
        "pages": f"{len(pages):,}",
        "of these HTTP errors": f"{sum(page.status >= 400 for page in pages):,}",
        "bytes": f"{sum(page.size for page in pages):,}",
        "links": f"{sum(len(page.links) for page in pages):,}",
        "retries": f"{tally.retries:,}",
        "failures": f"{len(tally.failures):,}",
        "pages per second": f"{len(pages) / seconds:,.1f}",
    }
    print("\nThe first pages:")
    for page in pages[:5]:
        print(f"  {page.status}  {page.size:>9,}  {page.path:<24}  {page.title}")
    print()
    for name, value in rows.items():
        print(f"{name:<21}{value:>12}")
    for failure in tally.failures[:5]:
        print("failed:", failure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Crawl one site, breadth-first.")
    parser.add_argument("--url", help="where to start, instead of the standard library's documentation")
    parser.add_argument("--limit", type=int, default=250, help="most pages (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=4, help="children (default: %(default)s)")
    options = parser.parse_args()

    tally = Tally()
    with contextlib.ExitStack() as stack:
        if options.url:
            site = urlsplit(options.url)
            base, start = f"{site.scheme}://{site.netloc}", local_path(options.url, options.url)
            if start is None:
                parser.error(f"--url must be a complete http or https URL, not {options.url}")
            crawler = Crawler(base)
        else:
            os.environ["no_proxy"] = "127.0.0.1"
            start, live = "/", stack.enter_context(documentation_server())
            crawler = Crawler(stack.enter_context(dead_mirror()), skip=UNWANTED)
            crawler.on(JobEvent.JOB_RETRY, use, live)
        process = stack.enter_context(Process(options.processes)).attach(tally)
        began = time.perf_counter()
        pages = crawl(process, crawler, start, options.limit)
        report(pages, tally, time.perf_counter() - began)
    reached = sum(page.status < 400 for page in pages)
    if not reached or (not options.url and reached < options.limit):
        print(f"Only {reached} of {options.limit} pages could be reached.", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
