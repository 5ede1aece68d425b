"""What the parts of the repository promise each other."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from trainer import __version__, config, resolve
from trainer.cli.main import app
from trainer.errors import EXIT_CODE_MEANING, ExitCode
from trainer.observe.metrics import METRICS

ROOT = Path(__file__).parent.parent
TRAINER = ROOT / "trainer"
# An import points down this list; docs/architecture.md shows it to people.
MODULES = [
    ["__main__"],
    ["cli"],
    ["cli_checkpoints", "cli_cluster"],
    ["options", "runs", "doctor"],
    ["report", "submit", "follow", "lint"],
    ["driver_log", "retries", "explain", "checks"],
    ["outcome"],
    ["cluster"],
    ["rayjob"],
    ["plots"],
    ["launch"],
    ["preflight", "progress", "result"],
    ["finished", "fork", "metrics"],
    ["goodput"],
    ["local", "pusher", "recorder", "recovery", "environment"],
    ["record"],
    ["loop"],
    ["checkpointing"],
    ["evaluate", "saver", "shortage", "watchdog"],
    ["preemption", "rollback"],
    ["checkpoint", "lease", "state"],
    ["manifest", "optimizer", "model", "data"],
    ["fetch", "device", "storage"],
    ["storage_errors"],
    ["resolve"],
    ["config"],
    ["errors"],
    ["__init__"],
]


def imports(file):
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_point_down_the_list_of_modules():
    level = {name: depth for depth, names in enumerate(MODULES) for name in names}
    assert set(level) == {path.stem for path in TRAINER.glob("*.py")}
    upward = []
    for file in TRAINER.glob("*.py"):
        for name in imports(file):
            target = name.split(".")[1] if name.startswith("trainer.") else None
            if target in level and level[target] <= level[file.stem] and target != file.stem:
                upward.append(f"{file.stem} imports {target}")
    assert upward == []


def test_the_architecture_page_lists_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert [p.name for p in TRAINER.glob("[!_]*.py") if f"`{p.name}`" not in page] == []


@pytest.mark.parametrize("module", ["data", "model", "fetch", "config", "resolve", "optimizer"])
def test_what_we_compute_does_not_import_ray(module):
    assert [name for name in imports(TRAINER / f"{module}.py") if name.split(".")[0] == "ray"] == []


@pytest.mark.parametrize("module", ["rayjob", "explain", "outcome"])
def test_what_is_said_of_a_cluster_is_worked_out_without_one(module):
    assert [name for name in imports(TRAINER / f"{module}.py") if name.startswith("kubernetes.client")] == []


def test_no_module_of_the_trainer_imports_torchvision():
    # it costs seconds at each start of a worker; it is there for the benchmarks
    assert [p.name for p in TRAINER.glob("*.py") if any(n.startswith("torchvision") for n in imports(p))] == []


def test_a_worker_that_runs_the_loop_has_not_loaded_torchvision():
    code = "import sys, trainer.loop; print(sorted({'torchvision', 'matplotlib', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_command_line_is_this_and_no_more():
    commands = get_command(app).commands
    surface = {
        name: sorted(o for p in command.params for o in p.opts if o.startswith("--"))
        for name, command in commands.items()
    }
    common, place = ["--config", "--recipe", "--set"], ["--context", "--namespace"]
    assert surface == {
        "train": sorted(
            [
                *common,
                "--cpus-per-worker",
                "--data",
                "--dry-run",
                "--fork",
                "--from",
                "--gpu",
                "--log-format",
                "--name",
                "--storage",
                "--workers",
            ]
        ),
        "evaluate": sorted([*common, "--data", "--json", "--storage", "--tasks"]),
        "report": ["--output", "--storage"],
        "checkpoints": ["--keep", "--storage"],
        "config": sorted([*common, "--schema"]),
        "submit": sorted(
            [
                *[*common, *place],
                *["--cluster", "--cpus-per-worker", "--gpu", "--log-format", "--name", "--wait", "--workers"],
            ]
        ),
        "status": ["--context", "--json", "--namespace"],
        "logs": ["--context", "--follow", "--namespace"],
        "stop": place,
        "list": [*place, "--storage"],
        "doctor": sorted([*place, "--cluster", "--data", "--json", "--nodes", "--storage"]),
    }


def test_the_settings_are_these_and_no_more():
    assert sorted(config.keys()) == sorted(
        [
            *[
                "seed",
                "epochs",
                "global_batch_size",
                "workers",
                "cpus_per_worker",
                "gpu",
                "precision",
                "report_every_s",
            ],
            *[f"model.{key}" for key in ("name", "hidden", "blocks", "dropout", "relu_output")],
            *[f"optimizer.{key}" for key in ("name", "lr", "muon_lr", "momentum", "nesterov", "weight_decay")],
            *[f"optimizer.{key}" for key in ("schedule", "warmup", "grad_clip_norm", "label_smoothing")],
            *[f"checkpoint.{key}" for key in ("every_s", "keep", "max_outage_s")],
            *[f"data.{key}" for key in ("mean", "std", "flip", "shift_pixels", "validation_samples")],
        ]
    )


def test_the_exit_codes_are_these_and_each_is_explained():
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "INTERNAL": 1,
        "CONFIG": 2,
        "DATA": 3,
        "STORAGE": 4,
        "CONFLICT": 5,
        "TRAINING": 6,
        "RESOURCES": 7,
        "CHECKPOINT": 8,
        "DIVERGED": 9,
        "CLUSTER": 10,
        "INTERRUPTED": 130,
    }
    assert set(EXIT_CODE_MEANING) == set(ExitCode)


def test_the_documentation_names_every_setting_and_exit_code():
    page = (ROOT / "docs" / "configuration.md").read_text()
    undocumented = [key for key in config.keys() if f"| `{key}` |" not in page]  # noqa: SIM118 # a function, no dict
    assert undocumented == []
    assert [code.name for code in ExitCode if f"| {int(code)} | {code.name} |" not in page] == []
    assert json.loads((ROOT / "docs" / "config.schema.json").read_text()) == config.schema()


def test_the_documentation_names_every_metric():
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert [each.exported for each in METRICS if f"| `{each.exported}` | {each.unit} |" not in page] == []


def test_the_readmes_commands_are_targets_of_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert used
    assert used <= targets


def test_every_link_in_the_documentation_leads_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)", page.read_text())]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page, link in links
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert broken == []


def test_every_requirement_is_pinned_with_hashes_and_no_registry_is_named():
    for file in ROOT.glob("requirements*.txt"):
        text = file.read_text()
        pins = re.findall(r"^[A-Za-z0-9_.\[\]-]+==", text, re.MULTILINE)
        assert len(pins) == len(re.findall(r"^[A-Za-z0-9_.\[\]-]+[ =<>~]", text, re.MULTILINE)), file.name
        assert text.count("--hash=sha256:") >= len(pins), file.name
        assert "://" not in text, file.name


def test_the_version_is_the_changelogs_and_the_recipes_load():
    assert __version__ != "0+unknown"
    assert resolve.recipes() == ["accurate", "fast", "seed"]
