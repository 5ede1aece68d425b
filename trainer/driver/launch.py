"""The driver's side of a run: check, start Ray, hand the loop to Ray Train, wait, and say how it ended."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from trainer.config import Config
from trainer.driver import environment, fork, preflight
from trainer.driver.fork import Fork
from trainer.driver.preflight import Run
from trainer.errors import (
    ConflictError,
    InterruptedRunError,
    OutageError,
    ResourceError,
    StorageError,
    TrainerError,
    TrainingError,
    one_line,
)
from trainer.observe.display import Display, Follower
from trainer.observe.summary import Clock, summarise
from trainer.storage import seal
from trainer.storage.lease import Lease
from trainer.storage.mirror import Pusher
from trainer.training import device, fetch

if TYPE_CHECKING:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from trainer.training.evaluate import Scores

INTERRUPTED_PUSH_S = 3.0  # whoever stops a run does not wait for an object store that is away
NOTICE_POLL_S = 0.5  # how often Ray is asked whether a node will be taken away
POLL_S = 0.2  # how often the controller asks the workers: reports come through at most this often
# Waiting threads sleep instead of spinning: 4 times the speed on a busy machine, the same on an idle one.
WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
COLLECTIVE_TIMEOUT_S = 45
FROZEN_AFTER_S = 45  # without an answer to Ray; its own default is ten minutes
RAY_FOLDER = ".ray"  # what Ray Train keeps for itself during a run; nothing of ours is in it
OBJECT_STORE_BYTES = 200 * 2**20  # nothing of the data set passes through it


def run(plan: Run, displays: Callable[[], Sequence[Display]], log: Callable[[str], None]) -> dict[str, Any]:
    """Train, and return the result as it stands in ``result.json``.

    On a cluster that is not the run's own, Ray stays connected until this process ends: the metrics are still there.

    Raises:
        TrainerError: the run did not finish; its record says so too.
    """
    record, clock = plan.record, Clock()
    data_began = time.time()
    found = fetch.find(plan.data_folder, log).absolute()  # Ray's workers run in another folder
    clock.data_seconds = time.time() - data_began
    with _terminate_as_interrupt(), Lease(record.place, lost=_interrupt) as lease:
        return _run_alone(plan, lease, displays, found, clock)


def _run_alone(
    plan: Run, lease: Lease, displays: Callable[[], Sequence[Display]], found: Path, clock: Clock
) -> dict[str, Any]:
    record = plan.record
    attempt = 1 + sum(event["event"] == "training_started" for event in record.events())
    # before it is a run: one that was killed in between would begin at the first step
    forked = plan.fork is not None and fork.begin(plan.fork, record.place, lease.fence)
    record.begin_again()
    record.create(plan.config, environment.describe())
    error: Exception | None = None
    status = "finished"
    pusher = Pusher(record, lease.look)
    with ExitStack() as following:  # to the very end: it may have to wait for the storage, and says so
        try:
            for display in displays():  # a thread for each: a terminal that is held up holds up no other
                following.enter_context(Follower(record, display))
            _announce(plan, plan.fork if forked else None)
            _train_on_ray(plan, attempt, lease.fence, found)
        except (KeyboardInterrupt, SystemExit):
            status, error = "interrupted", InterruptedRunError("Stopped before the end; the record so far is kept.")
        except Exception as failure:  # noqa: BLE001 # raised again below, when the record is complete
            status, error = "failed", failure
        if status != "interrupted" and not isinstance(error, OutageError):  # these two have not the time to ask
            with suppress(StorageError):
                lease.look()  # a worker may have learnt it first
        if lease.taken_by is not None:  # the record is another's now
            raise ConflictError(f"{lease.taken_by} has taken over {record.place}, since this process seemed dead.")
        result = summarise(record, clock, status, error)
        try:
            record.write_result(result)
            record.add_event("run_ended", status=status)
            if error is None:
                seal.put_down(record)
            outage_s = 0.0 if isinstance(error, OutageError) else plan.config.checkpoint.max_outage_s
            pusher.finish(INTERRUPTED_PUSH_S if status == "interrupted" else None, outage_s)
        except StorageError as lost:
            error = type(error)(f"{error} {lost}") if isinstance(error, TrainerError) else error or lost
    if error is not None:
        raise error
    return result


def _announce(plan: Run, begun_with: Fork | None) -> None:
    me = psutil.Process()
    plan.record.add_event(
        "run_started", pid=me.pid, host=socket.gethostname(), process_created=round(me.create_time(), 3)
    )
    if begun_with is not None:
        plan.record.add_event("forked", checkpoint=begun_with.uri)
    for warning in [*plan.damage, *preflight.warnings(plan.config)]:
        plan.record.add_event("warning", message=warning)


def _train_on_ray(plan: Run, attempt: int, fence: int, data_folder: Path) -> None:
    # read by Ray when it is imported, in the driver, and handed on to controller and workers
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_S))
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(FROZEN_AFTER_S))
    if is_own_cluster():  # a laptop is not taken away, and the watcher is one more process
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # by default five seconds of a notice are over before a worker hears of it
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", str(NOTICE_POLL_S))
    try:
        with ray_cluster():
            _fit(plan, attempt, fence, data_folder if is_own_cluster() else plan.data_folder)
    finally:
        shutil.rmtree(plan.record.folder / RAY_FOLDER, ignore_errors=True)


def is_own_cluster() -> bool:
    """Whether Ray is started for this command alone, on this machine."""
    return "RAY_ADDRESS" not in os.environ


@contextmanager
def ray_cluster() -> Iterator[None]:
    """The Ray cluster that RAY_ADDRESS names, else one of this machine's own for as long as it is needed.

    Raises:
        ResourceError: what answers at RAY_ADDRESS is no Ray cluster that lets us in.
    """
    if is_own_cluster():
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one in the home folder
    # Ray's page about each process that died would stand between our lines, which say it in one
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    import ray  # takes a second: not before all that can be checked is

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if is_own_cluster():
        options |= {
            "address": "local",  # else Ray joins whatever cluster it finds on this machine
            "num_cpus": device.cpu_count(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
        if shlex.quote(sys.executable) != sys.executable:  # Ray hands it to a shell as it is: a space would cut it
            options["runtime_env"] = {"py_executable": shlex.quote(sys.executable)}
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise ResourceError(
            f"RAY_ADDRESS: Ray cannot join {os.environ.get('RAY_ADDRESS', 'its own cluster')} ({one_line(error)}); "
            "check the address and RAY_AUTH_TOKEN, or unset it to train on this machine."
        ) from error
    try:
        yield
    finally:
        if is_own_cluster():
            ray.shutdown()


def evaluate(
    weights: str, config: Config, data_folder: Path | None, tasks: int | None, log: Callable[[str], None]
) -> tuple[Scores, list[dict[str, Any]]]:
    """Score a weights file on the test set in `tasks` Ray tasks, by default one for each CPU core.

    Raises:
        DataError, StorageError: there is no data set, or no such weights.
    """
    fetch.find(data_folder, log)
    from trainer.training import evaluate as evaluation

    evaluation.load_weights(weights, config)  # a wrong file is refused here, not in every task
    with ray_cluster():
        return evaluation.evaluate(weights, config, data_folder, tasks or device.cpu_count())


def _fit(plan: Run, attempt: int, fence: int, data_folder: Path | None) -> None:
    import ray.exceptions
    from ray.train import TrainingFailedError

    from trainer.driver.ray_errors import described, why_it_ended

    before = signal.getsignal(signal.SIGINT)
    try:
        build_trainer(plan, attempt, fence, data_folder).fit()
    except TrainingFailedError as failure:
        raise why_it_ended(failure) from failure
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as failure:
        raise TrainingError(
            f"Ray's training controller died: {described(failure)}. Start the run again: it continues."
        ) from failure
    finally:
        signal.signal(signal.SIGINT, before)  # Ray leaves its own, which asks a controller that is gone


def build_trainer(plan: Run, attempt: int, fence: int, data_folder: Path | None) -> DataParallelTrainer:
    """Ray Train's trainer for a run.

    One worker needs no process group, so no process but the worker imports PyTorch: seconds less until the first step.
    """
    import ray.train

    from trainer.driver.recorder import AttemptTold, Recorder

    api: Any = ray.train  # its type hints are still those of Train V1
    config, record = plan.config, plan.record
    recorder = Recorder(record.folder, config.optimizer.lr, attempt)
    low, high = config.worker_range
    common: dict[str, Any] = {
        "train_loop_per_worker": _train,
        "train_loop_config": {
            "config": config.model_dump(),
            "data_folder": data_folder,
            "run": record.place,
            "fence": fence,
            "preemptible": not is_own_cluster(),
        },
        "scaling_config": api.ScalingConfig(
            num_workers=(low, high) if config.elastic else low,
            use_gpu=config.gpu and device.gpu_kind() != "mps",  # Ray knows no Mac's GPU, and there is but one
            resources_per_worker={"CPU": plan.cpus_per_worker},
        ),
        "run_config": api.RunConfig(
            name=record.name,
            storage_path=str(record.folder / RAY_FOLDER),
            callbacks=[recorder, AttemptTold(recorder)],
            logging_config=api.LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    }
    from trainer.driver.recovery import recovering

    if high > 1:
        from ray.train.torch import TorchConfig

        # a rank that hangs holds up all others: they give up after this long, and Ray starts them all again
        common["torch_config"] = TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S)
    trainer: DataParallelTrainer = recovering(_trainer_class(high), record.place)(**common)
    return trainer


def _trainer_class(workers: int) -> Any:
    if workers == 1:
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        usual: Any = DataParallelTrainer
    else:
        from ray.train.torch import TorchTrainer

        usual = TorchTrainer
    if not is_own_cluster():
        return usual
    from trainer.driver.ray_train import localised

    return localised(usual)


def _train(settings: dict[str, Any]) -> dict[str, Any]:
    from trainer.driver import recorder
    from trainer.training import exhausted, loop  # in the worker: the driver has no use for PyTorch

    with exhausted.told():
        return loop.train({**settings, "attempt": int(os.environ[recorder.ATTEMPT])})


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """A SIGTERM, as Kubernetes and systemd send it, stops a run as Ctrl-C does; Ray Train knows only that."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    if before[signal.SIGINT] is signal.SIG_IGN:  # as scripts start what runs in their background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
