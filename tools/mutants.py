"""How many random mistakes in a module its own unit tests find: `make mutants`.

A mutant is one module with one change: a comparison turned round, a condition negated, a boundary moved by one, or a
returned value lost. Each runs against the tests of the module's own name alone, in a copy of the tree; one that no test
notices has survived. The choice of mutants is a function of the seed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = (
    "cluster/diagnose", "cluster/follow", "cluster/outcome", "cluster/worker_groups", "cluster/retries",
    "driver/fork", "driver/preflight", "driver/recovery",
    "observe/goodput", "observe/progress",
    "storage/checkpoints", "storage/lease",
)  # fmt: skip
TIMEOUT_S = 120  # a mutant that loops without end counts as killed
SWAPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


def mutations(tree: ast.Module) -> Iterator[tuple[int, str, Callable[[], None]]]:
    """Yield the line, the kind, and the deed of every mutation of a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            swapped = SWAPS[type(node.ops[0])]
            yield (
                node.lineno,
                f"comparison becomes {swapped.__name__}",
                lambda n=node, s=swapped: n.ops.__setitem__(0, s()),
            )
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            yield node.lineno, "condition is negated", lambda n=node: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
        if isinstance(node, ast.BoolOp):
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield node.lineno, "and becomes or, or or and", lambda n=node, o=other: setattr(n, "op", o)
        if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
            yield node.lineno, "returns None", lambda n=node: setattr(n, "value", ast.Constant(None))


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def mutate(source: str, number: int) -> tuple[int, str, str]:
    """Return the line, the kind and the source of one mutant."""
    tree = copy.deepcopy(ast.parse(source))
    line, kind, deed = list(mutations(tree))[number]
    deed()
    return line, kind, ast.unparse(ast.fix_missing_locations(tree))


def survives(tree: Path, module: str) -> bool:
    """Whether the tests of a module pass in a copy of the tree."""
    room, _, name = module.partition("/")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        f"tests/unit/{room}/test_{name}.py",
    ]
    try:
        done = subprocess.run(  # noqa: S603 # fixed words
            command, cwd=tree, capture_output=True, timeout=TIMEOUT_S, check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main() -> int:
    """Run the mutants; print each survivor and the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(MODULES), metavar="ROOM/MODULE")
    arguments = parser.parse_args()
    sources = {module: (ROOT / "trainer" / f"{module}.py").read_text() for module in arguments.only}
    every = [(module, i) for module, text in sources.items() for i in range(len(list(mutations(ast.parse(text)))))]
    chosen = random.Random(arguments.seed).sample(every, min(arguments.count, len(every)))  # noqa: S311 # no secret
    killed = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        tree = Path(scratch, "tree")
        ignored = shutil.ignore_patterns(".git", ".venv", ".uv", ".stores", "runs", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, tree, ignore=ignored)
        for module in dict.fromkeys(module for module, _ in chosen):
            if not survives(tree, module):
                print(f"{module}: its tests fail without any mutant")
                return 1
        for module, number in chosen:
            line, kind, mutant = mutate(sources[module], number)
            file = tree / "trainer" / f"{module}.py"
            file.write_text(mutant)
            if survives(tree, module):
                print(f"survived: trainer/{module}.py:{line}: {kind}", flush=True)
            else:
                killed += 1
            file.write_text(sources[module])
    print(f"{killed} of {len(chosen)} mutants killed (seed {arguments.seed})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
