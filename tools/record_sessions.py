"""Record the terminal sessions of docs/submit.md on the cluster of `make deploy`: `make record-sessions`.

Each session is a command as a person types it, with all it prints and its exit code, between two markers of the page.
The names of this machine, its user and its folder are replaced: they are nobody's business.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from trainer.cluster.rayjob import me

PAGE = Path(__file__).parents[1] / "docs" / "submit.md"
CONTEXT = "kind-fashion-mnist"  # of `make deploy`
SESSIONS = {
    "good": ["submit --name tea --set epochs=3 --workers 2", "submit --name tea --set epochs=4 --workers 2", "list"],
    "failing": ["submit --name fire --set optimizer.name=sgd --set optimizer.lr=1e9", "status fire", "stop fire"],
    "waiting": ["submit --name cake --gpu --workers 1", "stop cake"],
    "doctor": ["doctor --cluster"],
}


def main() -> None:
    """Record the sessions that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context", default=CONTEXT, help="of the kubeconfig")
    parser.add_argument("sessions", nargs="*", default=list(SESSIONS))
    arguments = parser.parse_args()
    for name in arguments.sessions:
        page = PAGE.read_text()
        shown = "\n".join(record(command, arguments.context) for command in SESSIONS[name])
        marked = rf"(<!-- session {name}: .*? -->\n```\n).*?(\n```)"
        new, found = re.subn(marked, lambda match, text=shown: f"{match[1]}{text}{match[2]}", page, flags=re.DOTALL)
        if not found:
            sys.exit(f"{PAGE} has no marker for the session {name}.")
        PAGE.write_text(new)


def record(command: str, context: str) -> str:
    """What a person sees who types ``trainer <command>``."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment |= {"COLUMNS": "160", "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(  # noqa: S603 # the commands above
            [sys.executable, "-m", "trainer", *command.split(), "--context", context],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=folder,
            check=False,
        )
    called = f"{sys.executable} -m trainer"  # in the hints, which are for pasting
    printed = (
        done.stdout.replace(called, "trainer")
        .replace(folder, "~/experiments")
        .replace(me(), "you@laptop")
        .replace(context, CONTEXT)
    )
    ended = [f"$ echo $?\n{done.returncode}"] if done.returncode else []
    return "\n".join([f"$ trainer {command}", *(line.rstrip() for line in printed.rstrip().splitlines()), *ended])


if __name__ == "__main__":
    main()
