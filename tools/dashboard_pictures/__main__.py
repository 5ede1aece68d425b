"""Take the pictures of the boards, or check their JSON: `make dashboards-pictures`, `make dashboards-check`.

Both need Node.js; packages come from npm, at the versions of package.json. The pictures need a Prometheus and Chromium:

    PROMETHEUS   its URL, such as http://localhost:9090 after `make prometheus`
    RUN          the run of the boards about one run; else the newest of the time range
    FROM, TO     the time range, as 2026-11-27T08:00 (UTC) or seconds since 1970; else the last hour
    BOARDS       some of the boards, by file name; else all
    CHROMIUM     the browser; else the first of chromium, google-chrome and their like on the PATH
"""

from __future__ import annotations

import http.server
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from tools.dashboards import queries
from tools.dashboards.__main__ import BOARDS, FOLDER
from tools.dashboards.grafana import Json

HERE = Path(__file__).parent
PICTURES = HERE.parents[1] / "docs" / "pictures"
WIDTH = 1600
CELL = 38  # pixels of a unit of gridPos, as in page.jsx
HEAD = 66
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def main() -> None:
    """Do what the argument says."""
    step = {"check": check, "draw": draw}[sys.argv[1]]
    try:
        step()
    except subprocess.CalledProcessError as error:
        sys.exit(f"Error: {' '.join(error.cmd[:4])} … ended with {error.returncode}; what it says is above")
    except (queries.QueryError, ValueError) as error:
        sys.exit(f"Error: {error}")


def check() -> None:
    """Let TypeScript hold each board against `Dashboard` of @grafana/schema."""
    npm = _install()
    with tempfile.TemporaryDirectory(dir=HERE / "node_modules", prefix=".check-") as folder:
        for name in BOARDS:
            board = (FOLDER / f"{name}.json").read_text().rstrip()
            source = f"import type {{ Board }} from '../../board';\nexport const board = {board} satisfies Board;\n"
            Path(folder, f"{name}.ts").write_text(source)
        options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"]
        files = [str(Path(folder, f"{name}.ts")) for name in BOARDS]
        subprocess.run([npm, "exec", "--", "tsc", *options, "--target", "es2022", *files], cwd=HERE, check=True)  # noqa: S603
    print(f"{len(BOARDS)} boards are what Grafana's types say")


def draw() -> None:
    """Ask Prometheus what each board asks, and take its picture."""
    npm, browser = _install(), _browser()
    prometheus = queries.Prometheus(os.environ.get("PROMETHEUS") or "http://localhost:9090")
    end = _moment("TO", time.time())
    period = queries.Range(_moment("FROM", end - 3600), end)
    given = {"run": os.environ["RUN"]} if os.environ.get("RUN") else {}
    with tempfile.TemporaryDirectory() as temporary, _served(temporary) as address:
        folder = Path(temporary)
        shutil.copy(HERE / "page.html", folder)
        bundle = [
            "--bundle",
            "--minify",
            "--format=iife",
            "--loader:.woff=dataurl",
            "--loader:.woff2=dataurl",
            "--loader:.ttf=empty",
        ]
        bundle += ["--jsx=automatic", "--define:process.env.NODE_ENV='production'", "--log-level=error"]
        command = [npm, "exec", "--", "esbuild", "page.jsx", *bundle, f"--outfile={folder / 'page.js'}"]
        subprocess.run(command, cwd=HERE, check=True)  # noqa: S603 # words of this file and paths of its own
        for name in (os.environ.get("BOARDS") or " ".join(BOARDS)).split():
            board = json.loads((FOLDER / f"{name}.json").read_text())
            about_one = not any(v.get("allValue") for v in board["templating"]["list"] if v["name"] == "run")
            picture = _answered(board, period, prometheus, given if about_one else {})
            (folder / "picture.js").write_text(f"window.PICTURE = {json.dumps(picture)};")
            height = HEAD + CELL * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
            _shoot(browser, address, height, PICTURES / f"dashboard-{name}.png")
            print(f"docs/pictures/dashboard-{name}.png")


def _answered(board: Json, period: queries.Range, prometheus: queries.Prometheus, given: dict[str, str]) -> Json:
    """Return what page.jsx draws: a board, and what Prometheus has for it."""
    values = queries.variables(board, period, prometheus.at, given)
    answers: dict[str, list[Json]] = {}
    for each in queries.questions(board):
        series = each.answer(values, period, prometheus)
        answers[each.place] = [{"metric": s["metric"], "values": s.get("values") or [s["value"]]} for s in series]
    return {
        "board": board,
        "answers": answers,
        "marks": [
            {"color": each["iconColor"], **mark}
            for each in board["annotations"]["list"]
            if each["enable"]
            for series in answers[f"annotation {each['name']}"]
            for mark in _marks([float(at) for at, _ in series["values"]], period.step)
        ],
        "values": values,
        "from": period.begin * 1000,
        "to": period.end * 1000,
        "step": period.step,
        "width": WIDTH,
    }


def _marks(moments: list[float], step: int) -> Iterator[dict[str, float]]:
    """Yield the stretches of time, in milliseconds, in which an annotation's query has a value."""
    begin = end = moments[0]
    for moment in [*moments[1:], math.inf]:
        if moment > end + step:
            yield {"begin": begin * 1000, "end": end * 1000}
            begin = moment
        end = moment


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 # the name in the base class
        pass


@contextmanager
def _served(folder: str) -> Iterator[str]:
    """Serve a folder to this machine: of a script in a file, a browser does not say what went wrong."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _shoot(browser: str, address: str, height: int, file: Path) -> None:
    options = ["--headless", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=15000"]
    options += [f"--window-size={WIDTH},{height}", f"--screenshot={file}"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium has no sandbox for root; the page is ours and reads no network
    file.unlink(missing_ok=True)
    done = subprocess.run([browser, *options, f"{address}/page.html"], capture_output=True, text=True, check=False)  # noqa: S603
    if not file.exists():
        raise ValueError(f"{browser}: no picture; it says: {done.stderr[-2000:]}")


def _install() -> str:
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError("npm is not installed; get Node.js 20 or newer from https://nodejs.org")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"]
    subprocess.run(command, cwd=HERE, check=True)  # noqa: S603 # fixed words
    return npm


def _browser() -> str:
    for name in [os.environ.get("CHROMIUM"), *BROWSERS]:
        if name and (found := shutil.which(name)):
            return found
    raise ValueError("no Chromium on the PATH; install it, or name one: CHROMIUM=/path/to/chrome")


def _moment(name: str, default: float) -> float:
    given = os.environ.get(name)
    if not given:
        return default
    try:
        return float(given)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(given.removesuffix("Z"))
    except ValueError:
        raise ValueError(f"{name}: {given!r} is no time; write 2026-11-27T08:00 (UTC) or seconds since 1970") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


if __name__ == "__main__":
    main()
