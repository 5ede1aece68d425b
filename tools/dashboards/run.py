"""One run: does it learn, how fast, what did it lose, and is it saved."""

from __future__ import annotations

from tools.dashboards.grafana import (
    Json,
    bar_gauge,
    board,
    fixed,
    override,
    query,
    stat,
    table,
    text,
    thresholds,
    time_series,
    value_names,
)
from tools.dashboards.promql import (
    ONE,
    PARTS,
    STATES,
    ever,
    namespace_variable,
    now,
    run_annotations,
    run_variable,
    state,
)

COMMANDS = """\
- `trainer status $run`: where it stands, and why it waits
- `trainer logs $run`: what it says
- `trainer report $run`: its page, also when the cluster is gone
"""
PART_LOOKS = [override(part, displayName=words, color=fixed(color)) for part, (words, color) in PARTS.items()]


def run() -> Json:
    """Return the board of one run, over all its attempts and Ray clusters."""
    return board(
        "trainer-run",
        "Training / One run",
        "One run over all its attempts: learning, speed, time, checkpoints, failures.",
        variables=[namespace_variable(), run_variable(many=False)],
        rows={
            "": [*_numbers(), _info(), _commands()],
            "Learning": [_loss(), _accuracy(), _learning_rate()],
            "Speed": [_samples(), _samples_per_worker(), _workers()],
            "Time": [_time(), _time_bars()],
            "Checkpoints": [_checkpoint_age(), _steps_unsaved(), _storage()],
            "Failures": [_failures(), _attempts()],
        },
        annotations=run_annotations(),
        since="now-1h",
    )


def _numbers() -> list[Json]:
    return [
        stat(
            "State",
            "What the run does, by its own series and its RayJob.",
            "none",
            query(state(ONE), now=True),
            mappings=value_names(STATES),
            fill=True,
        ),
        stat(
            "Progress",
            "Share of the run's steps that are done.",
            "percentunit",
            query(now("progress_ratio", ONE)),
            decimals=0,
            color=fixed("blue"),
        ),
        stat(
            "To go",
            "Expected time to the last step. Empty when the run is over.",
            "dthms",
            query(f"{now('eta_seconds', ONE)} and ({now('progress_ratio', ONE)} < 1)", now=True),
        ),
        stat(
            "Accuracy",
            "Share of the test set that is classified correctly, after the last whole epoch.",
            "percentunit",
            query(now("test_accuracy", ONE)),
            decimals=2,
            color=fixed("green"),
        ),
        stat(
            "Samples/s",
            "Training samples per second, over all workers.",
            "short",
            query(now("samples_per_second", ONE)),
            decimals=1,
            color=fixed("blue"),
        ),
        stat(
            "Workers now",
            "Training workers.",
            "none",
            query(now("workers", ONE)),
        ),
        stat(
            "Goodput",
            "Share of the time since the run began in which it trained what counts.",
            "percentunit",
            query(now("goodput_ratio", ONE)),
            decimals=0,
            limits=thresholds("red", (0.5, "orange"), (0.8, "green")),
        ),
        stat(
            "Cost",
            "What the run's pods have cost so far. Empty where the values of helm/training set no prices.",
            "none",
            query(now("cost", ONE, "currency"), "{{currency}}"),
            decimals=2,
            named=True,
            no_value="no prices",
        ),
    ]


def _info() -> Json:
    return table(
        "What it is",
        "The run's recipe, the hash of its config, its image, and what it computes with.",
        {
            "Recipe": "recipe",
            "Config": "config",
            "Device": "device",
            "Precision": "precision",
            "Version": "version",
            "Image": "image",
            "Began": query(
                f"{ever('start_timestamp_seconds', ONE)} * 1000 "
                "* on (namespace, run) group_right () "
                f"{ever('info', ONE, 'recipe', 'config', 'image', 'device', 'precision', 'version')}",
                table=True,
            ),
        },
        size=(16, 4),
        looks=[
            *(override(name, custom__width=95) for name in ("Recipe", "Config", "Device", "Precision", "Version")),
            override("Began", unit="dateTimeAsIso", custom__width=175),
        ],
    )


def _commands() -> Json:
    return text("On the command line", "The run's log and report, from anywhere with a kubeconfig.", COMMANDS, (8, 4))


def _loss() -> Json:
    return time_series(
        "Loss",
        "Mean cross entropy: of the training samples since the last report, and of the test set after each epoch. The "
        "axis is logarithmic.",
        "none",
        query(now("train_loss", ONE), "train"),
        query(now("test_loss", ONE), "test"),
        size=(10, 9),
        decimals=2,
        log=True,
        legend=["min", "lastNotNull"],
        overrides=[override("train", color=fixed("blue")), override("test", color=fixed("orange"))],
    )


def _accuracy() -> Json:
    return time_series(
        "Test accuracy",
        "Share of the test set that is classified correctly, after each epoch.",
        "percentunit",
        query(now("test_accuracy", ONE), "test accuracy"),
        size=(7, 9),
        fill=20,
        zero=False,
        steps=True,
        legend=["max", "lastNotNull"],
        overrides=[override("test accuracy", color=fixed("green"))],
    )


def _learning_rate() -> Json:
    return time_series(
        "Learning rate",
        "Learning rate of the last step.",
        "none",
        query(now("learning_rate", ONE), "learning rate"),
        size=(7, 9),
        fill=20,
        legend=["max", "lastNotNull"],
        overrides=[override("learning rate", color=fixed("purple"))],
    )


def _samples() -> Json:
    return time_series(
        "Samples per second",
        "Training samples per second, over all workers.",
        "short",
        query(now("samples_per_second", ONE), "all workers"),
        size=(8, 8),
        fill=20,
        overrides=[override("all workers", color=fixed("blue"))],
    )


def _samples_per_worker() -> Json:
    return time_series(
        "Samples per second and worker",
        "The same for each worker: it stays level when workers come and go, and drops where they wait for each other.",
        "short",
        query(f"{now('samples_per_second', ONE)} / {now('workers', ONE)}", "one worker"),
        size=(8, 8),
        fill=20,
        overrides=[override("one worker", color=fixed("blue"))],
    )


def _workers() -> Json:
    return time_series(
        "Workers",
        "Workers that train, and the most that the run's config asks for. Below that a run waits for nodes or quota.",
        "none",
        query(now("workers", ONE), "there"),
        query(now("workers_wanted", ONE), "wanted"),
        size=(8, 8),
        steps=True,
        count=True,
        overrides=[
            override("there", color=fixed("blue"), custom__fillOpacity=30),
            override("wanted", color=fixed("orange"), custom__lineStyle={"fill": "dash", "dash": [8, 6]}),
        ],
    )


def _time() -> Json:
    productive, lost = (f'{ONE}, part{sign}"productive"' for sign in ("=", "!="))
    return time_series(
        "Time by part",
        "Time since the run began, by what it went into; green is what trained.",
        "s",
        query(f"{now('time_seconds', productive, 'part')} > 0", "{{part}}"),
        query(f"{now('time_seconds', lost, 'part')} > 0", "{{part}}"),
        size=(14, 10),
        decimals=0,
        stack=True,
        overrides=PART_LOOKS,
    )


def _time_bars() -> Json:
    return bar_gauge(
        "Where the time went",
        "The same, at the end of the time range. docs/metrics.md names the parts.",
        "s",
        query(f"sort_desc({ever('time_seconds', ONE, 'part')} > 0)", "{{part}}", now=True),
        size=(10, 10),
        overrides=PART_LOOKS,
    )


def _checkpoint_age() -> Json:
    return time_series(
        "Age of the newest checkpoint",
        "Time since a checkpoint was committed: what a loss of all workers would cost now. A saw is healthy.",
        "s",
        query(f"time() - {now('checkpoint_timestamp_seconds', ONE)}", "age"),
        size=(8, 8),
        fill=20,
        overrides=[override("age", color=fixed("orange"))],
    )


def _steps_unsaved() -> Json:
    return time_series(
        "Steps that are not saved",
        "Optimizer steps since the newest checkpoint.",
        "none",
        query(f"{now('step', ONE)} - {now('checkpoint_step', ONE)}", "steps"),
        size=(8, 8),
        fill=20,
        overrides=[override("steps", color=fixed("orange"))],
    )


def _failures() -> Json:
    return time_series(
        "Failures",
        "Workers that were lost or failed, attempts that ended because a node was taken away, and roll-backs after a "
        "loss that was not finite: since the run began.",
        "none",
        query(now("worker_failures", ONE), "worker failures"),
        query(now("preemptions", ONE), "preemptions"),
        query(now("rollbacks", ONE), "roll-backs"),
        size=(12, 7),
        steps=True,
        count=True,
        overrides=[
            override("worker failures", color=fixed("red")),
            override("preemptions", color=fixed("orange")),
            override("roll-backs", color=fixed("purple")),
        ],
    )


def _attempts() -> Json:
    return time_series(
        "Attempts",
        "How many times workers were started for this run.",
        "none",
        query(now("attempt", ONE), "attempt"),
        size=(12, 7),
        fill=20,
        steps=True,
        count=True,
        overrides=[override("attempt", color=fixed("blue"))],
    )


def _storage() -> Json:
    return time_series(
        "Storage away",
        "1 while checkpoints cannot be saved. Training goes on until `checkpoint.max_outage_s`.",
        "bool_yes_no",
        query(now("storage_away", ONE), "storage away"),
        size=(8, 8),
        steps=True,
        most=1,
        overrides=[override("storage away", color=fixed("red"), custom__fillOpacity=60)],
    )
