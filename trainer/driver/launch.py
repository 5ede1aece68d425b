"""One run from start to end, as its driver sees it: claim it, start Ray, train, and write how it ended.

`run` is the list of steps. Everything that follows training happens here, once: result, manifest, report, last push.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import Config
from trainer.driver import environment, fork, interrupts, nodes, preflight, ray_cluster, starting, worker
from trainer.driver.budget import Guard
from trainer.driver.preflight import Plan
from trainer.driver.ray_errors import described, is_death, ran_out_of_memory, why_it_ended
from trainer.errors import (
    ConflictError,
    InterruptedRunError,
    OutageError,
    StorageError,
    TrainerError,
    TrainingError,
)
from trainer.observe import cost
from trainer.observe.cost import Prices
from trainer.observe.display import Display
from trainer.observe.summary import Clock, how_far, summarise
from trainer.observe.tail import Tail
from trainer.storage import layout, logs, seal
from trainer.storage.lease import Lease
from trainer.storage.mirror import Mirror
from trainer.storage.record import Record
from trainer.storage.schema import Result, RunStarted, Status
from trainer.training import device, fetch, pod

INTERRUPTED_PUSH_S = 3.0  # after Ctrl-C nobody waits for an unreachable object store
# Waiting threads sleep instead of spinning: 4 times the speed on a busy machine, the same on an idle one.
WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
COLLECTIVE_TIMEOUT_S = 45  # a rank that hangs holds up all others: they give up after this long, and are restarted


@dataclass(frozen=True)
class Ended:
    """How a run ended: its result, and what went wrong, if anything did. A finished run may lack only its report."""

    result: Result
    error: Exception | None = None


def run(plan: Plan, displays: Callable[[], Sequence[Display]], log: Callable[[str], None]) -> Ended:
    """Train, and return how it ended; the record says so too.

    On a cluster that is not the run's own, Ray stays connected until this process ends: the metrics are still exported.

    Raises:
        TrainerError: the run did not start, or another process took it over.
    """
    record = plan.record
    prices, budget = cost.prices(), cost.budget()
    clock = Clock(began=device.process_began())
    data_began = time.time()
    data_folder = fetch.find_dataset(plan.data_folder, log).absolute()  # Ray's workers run in another folder
    clock.data_seconds = time.time() - data_began
    if not ray_cluster.is_own():  # else they only follow when Ray has been imported
        ray_cluster.load()
    with _terminate_as_interrupt(), Lease(record.place, lost=_interrupt) as lease:
        attempt = 1 + sum(event["event"] == "training_started" for event in record.events())
        # before the folder is a run: if it were killed in between, it would start at the first step
        forked = plan.fork is not None and fork.copy(plan.fork, record.place, lease.fence)
        record.restart()
        record.create(plan.config, environment.describe())
        mirror = Mirror(record, lease.poll)
        with (
            interrupts.at_last(lambda: _note_stop(record, clock)),
            ExitStack() as shown,
        ):  # to the very end: the last push may have to wait for the storage, and says so
            status: Status = "finished"
            error: Exception | None = None
            try:
                if not ray_cluster.is_own():  # else its output is a terminal, or a file of the user's
                    printed = {f"driver.{name}": file for name, file in logs.own_outputs(log=1).items()}
                    shown.enter_context(logs.Keeper(record.place, attempt, printed))
                for display in displays():  # a thread each: a terminal that is stopped stops no other
                    shown.enter_context(Tail(record, display))
                _announce(plan, forked, clock.began)
                guard = Guard(record, plan.config, prices, budget)
                _train_on_ray(plan, attempt, lease.fence, data_folder, guard)
            except (KeyboardInterrupt, SystemExit):
                status, error = _why_stopped(record)
            except Exception as failure:  # noqa: BLE001 # returned below, when the record is complete
                status = "failed"
                error = failure
            _check_still_owned(lease, status, error)
            return _finish(record, clock, mirror, plan, status, error, prices)


def _announce(plan: Plan, forked: bool, began: float) -> None:
    record = plan.record
    started: RunStarted = {
        "event": "run_started",
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "process_created": round(began, 3),  # as in the result, so that a run has one wall time
    }
    if (of_driver := pod.facts()) is not None:
        started["pod"] = of_driver
    if (submitted_at := environment.submitted_at()) is not None:
        started["submitted_at"] = submitted_at
    record.add_event(started)
    if plan.fork is not None and forked:
        record.add_event({"event": "forked", "checkpoint": plan.fork.uri})
    for warning in [*plan.damage, *preflight.warnings(plan.config)]:
        record.add_event({"event": "warning", "message": warning})


def _note_stop(record: Record, clock: Clock) -> None:
    """Write how the run ended, where the main thread cannot."""
    record.write_result(summarise(record, clock, *_why_stopped(record), cost.prices()))


def _why_stopped(record: Record) -> tuple[Status, TrainerError]:
    if (error := interrupts.reason()) is not None:
        return "failed", error
    return "interrupted", InterruptedRunError(f"Stopped {how_far(record)}; the record so far is kept")


def _check_still_owned(lease: Lease, status: Status, error: Exception | None) -> None:
    """Raise ConflictError if another process has taken the run over: the record is that one's now."""
    if status != "interrupted" and not isinstance(error, OutageError):  # these two have no time to ask
        with suppress(StorageError):
            lease.poll()  # a worker may have noticed it first
    if lease.taken_by is not None:
        raise ConflictError(
            f"{lease.taken_by} has taken over {lease.run}, since this process seemed dead", "leave it to that one"
        )


def _finish(
    record: Record,
    clock: Clock,
    mirror: Mirror,
    plan: Plan,
    status: Status,
    error: Exception | None,
    prices: Prices | None,
) -> Ended:
    """Write how the run ended: result, manifest, report, last push. If one step fails, the others are still done."""
    result = summarise(record, clock, status, error, prices)
    failures = [error] if error is not None else []
    outage_s = 0.0 if isinstance(error, OutageError) else plan.config.checkpoint.max_outage_s
    patience_s = INTERRUPTED_PUSH_S if status == "interrupted" else None
    for step in (
        lambda: _write_result(record, result),
        lambda: _write_report(record, result),
        lambda: mirror.finish(patience_s, outage_s),
    ):
        failures += _failure_of(step)
    return Ended(result, _joined(failures))


def _failure_of(step: Callable[[], None]) -> list[Exception]:
    try:
        step()
    except Exception as failure:  # noqa: BLE001 # returned to the caller, after the other steps
        return [failure]
    return []


def _write_result(record: Record, result: Result) -> None:
    record.write_result(result)
    record.add_event({"event": "run_ended", "status": result["status"]})
    if result["status"] == "finished":
        seal.write(record)


def _write_report(record: Record, result: Result) -> None:
    if result["status"] != "finished":
        return
    from trainer.observe import page  # draws with Matplotlib: imported when there is something to draw

    began = time.time()
    page.write(record)
    record.add_event({"event": "report_written", "seconds": round(time.time() - began, 3)})


def _joined(failures: list[Exception]) -> Exception | None:
    """The first failure; what failed after it is added to its problem."""
    if not failures:
        return None
    first, *later = failures
    if later and isinstance(first, TrainerError):
        first.problem = " ".join([f"{first.problem}.", *map(str, later)])
    return first


def _train_on_ray(plan: Plan, attempt: int, fence: int, data_folder: Path, guard: Guard) -> None:
    own = ray_cluster.is_own()
    try:
        with (
            starting.Watch(plan.record, _needs(plan)),
            ray_cluster.connected(),
            nodes.Watch(plan.record, guard.check),
        ):
            _fit(plan, attempt, fence, data_folder if own else plan.data_folder)
    finally:
        shutil.rmtree(plan.record.file(layout.RAY), ignore_errors=True)


def _needs(plan: Plan) -> starting.Needs:
    fewest, _ = plan.config.worker_range
    return starting.Needs(fewest, plan.cpus_per_worker, int(_needs_gpus(plan.config)))


def _needs_gpus(config: Config) -> bool:
    return config.gpu and device.gpu_kind() != "mps"  # Ray does not count a Mac's GPU, and there is only one


def _fit(plan: Plan, attempt: int, fence: int, data_folder: Path | None) -> None:
    import ray.exceptions
    from ray.train import TrainingFailedError

    before = signal.getsignal(signal.SIGINT)
    trainer = build_trainer(plan, attempt, fence, data_folder)
    try:
        trainer.fit()
    except KeyboardInterrupt:
        trainer.abort()
        raise
    except TrainingFailedError as failure:
        raise why_it_ended(failure) from failure
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as failure:
        raise TrainingError(
            f"Ray's training controller died: {described(failure)}",
            "start the run again: it resumes",
            retry=is_death(failure) or ran_out_of_memory(failure),
        ) from failure
    finally:
        signal.signal(signal.SIGINT, before)  # fit sets one of its own


def build_trainer(plan: Plan, attempt: int, fence: int, data_folder: Path | None) -> Any:
    """Return Ray Train's trainer for a run."""
    import ray.train

    from trainer.driver import ray_train
    from trainer.driver.recorder import Recorder
    from trainer.driver.recovery import Recovery

    api: Any = ray.train  # its type hints are still those of Train V1
    config = plan.config
    record = plan.record
    recorder = Recorder(record.folder, config, attempt, record.place)
    fewest, most = config.worker_range
    own_cluster = ray_cluster.is_own()
    arguments: dict[str, Any] = {
        "train_loop_per_worker": worker.train,
        "train_loop_config": {
            "config": config.model_dump(),
            "data_folder": data_folder,
            "run": record.place,
            "fence": fence,
            "preemptible": not own_cluster,
        },
        "scaling_config": api.ScalingConfig(
            num_workers=(fewest, most) if config.elastic else fewest,
            use_gpu=_needs_gpus(config),
            resources_per_worker={"CPU": plan.cpus_per_worker},
        ),
        "run_config": api.RunConfig(
            name=record.name,
            storage_path=str(record.file(layout.RAY)),
            callbacks=[recorder, ray_train.AttemptNumber(recorder)],
            logging_config=api.LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    }
    if most > 1:
        from ray.train.torch import TorchConfig

        arguments["torch_config"] = TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S)
    return ray_train.trainer(most, Recovery(record.place, recorder.note_preemption), own_cluster, **arguments)


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, as Kubernetes and systemd send it, stop a run as Ctrl-C does; Ray Train handles only that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    if before[signal.SIGINT] is signal.SIG_IGN:  # as scripts start what runs in their background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
