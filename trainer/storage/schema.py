"""What the files of a run hold, as types: the source of ``docs/record.md``.

Times are seconds since 1970, durations are seconds, sizes bytes, accuracies 0 to 1, losses nats.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from typing_extensions import NotRequired, TypedDict

Status = Literal["finished", "failed", "interrupted"]


class Point(TypedDict):
    """A line of ``metrics.jsonl``: the numbers of one report, over all workers."""

    time: Annotated[float, "when it was reported"]
    attempt: Annotated[int, "number of the group of workers, from 1"]
    workers: Annotated[int, "training workers"]
    epoch: Annotated[int, "the epoch, from 1"]
    step: Annotated[int, "optimizer steps of the run so far"]
    learning_rate: Annotated[float, "learning rate of the last step"]
    train_loss: Annotated[float | None, "mean cross entropy since the last report; null without samples"]
    samples: Annotated[int, "samples since the last report"]
    seconds: Annotated[float, "time since the last report"]
    saving_seconds: NotRequired[Annotated[float, "of it, how long training waited while its state was copied"]]
    samples_per_second: Annotated[float | None, "samples / seconds"]
    test_loss: NotRequired[Annotated[float, "at an epoch's end: mean cross entropy of the test set"]]
    test_accuracy: NotRequired[Annotated[float, "at an epoch's end: share of the test set classified correctly"]]
    evaluation_seconds: NotRequired[Annotated[float, "at an epoch's end: time to score the test set"]]
    last_save_seconds: NotRequired[Annotated[float, "at the run's end: time until the last checkpoint was committed"]]
    checkpoint_step: NotRequired[Annotated[int, "step of the newest checkpoint of this attempt, once there is one"]]
    checkpoint_at: NotRequired[Annotated[float, "when that one was committed"]]


class FileFacts(TypedDict):
    """What a manifest says of a file."""

    size: Annotated[int, "bytes"]
    sha256: Annotated[str, "hexadecimal"]


class Pod(TypedDict):
    """The pod of a driver or worker, as far as it knows itself."""

    pod: Annotated[str, "its name"]
    group: Annotated[str, "worker group, or head"]
    spot: Annotated[bool, "whether the chart says that its node may be taken away"]
    node: NotRequired[str]
    instance_type: NotRequired[Annotated[str, "where the chart's node selector names one"]]
    zone: NotRequired[Annotated[str, "where Kubernetes copies it to pods (1.35)"]]
    image: NotRequired[Annotated[str, "as the chart names it"]]
    mounted_at: NotRequired[Annotated[float, "when its volumes were mounted on its node"]]
    container_began_at: NotRequired[Annotated[float, "when its container was started"]]


class RunStarted(TypedDict):
    """The driver began."""

    event: Literal["run_started"]
    time: NotRequired[float]
    pid: Annotated[int, "of the driver"]
    host: Annotated[str, "of the driver"]
    process_created: Annotated[float, "when the driver's process was started"]
    submitted_at: NotRequired[Annotated[float, "on a cluster: when `trainer submit` created the RayJob"]]
    pod: NotRequired[Annotated[Pod, "of the driver, on a cluster"]]


class Forked(TypedDict):
    """The run starts from another run's checkpoint."""

    event: Literal["forked"]
    time: NotRequired[float]
    checkpoint: Annotated[str, "URI of that checkpoint"]


class Warned(TypedDict):
    """Something that is allowed but probably not meant, or went wrong without ending the run."""

    event: Literal["warning"]
    time: NotRequired[float]
    message: str


class Pending(TypedDict):
    """The workers have no place on the Ray cluster; the run waits."""

    event: Literal["pending"]
    time: NotRequired[float]
    message: Annotated[str, "what they need, what the cluster has, and whether nodes may come"]


class CheckpointDamaged(TypedDict):
    """A checkpoint did not verify and was quarantined."""

    event: Literal["checkpoint_damaged"]
    time: NotRequired[float]
    checkpoint: Annotated[str, "its name and the damage"]


class CheckpointUnfinished(TypedDict):
    """A checkpoint without manifest was ignored."""

    event: Literal["checkpoint_unfinished"]
    time: NotRequired[float]
    checkpoint: Annotated[str, "its name"]


class RolledBack(TypedDict):
    """The loss was not finite: the run resumed from an older checkpoint and skips steps."""

    event: Literal["rolled_back"]
    time: NotRequired[float]
    attempt: int
    left_out: Annotated[list[int], "first and last skipped step, from 1"]


class TrainingStarted(TypedDict):
    """All workers of an attempt are ready to train."""

    event: Literal["training_started"]
    time: NotRequired[float]
    attempt: Annotated[int, "from 1"]
    workers: int
    hosts: NotRequired[Annotated[list[str], "node or pod of each worker, by rank"]]
    workers_wanted: NotRequired[Annotated[int, "the most workers that the run asks for"]]
    pods: NotRequired[Annotated[list[Pod], "of each worker, by rank, on a cluster"]]
    processes_began_at: Annotated[float, "when the last worker's process was started"]
    entered_at: Annotated[float, "when the last worker entered the training function"]
    started_at: Annotated[float, "when the last worker was ready"]
    step: Annotated[int, "steps that are done already"]
    resumed_from: Annotated[str | None, "name of the checkpoint; null at a run's start"]
    data_seconds: Annotated[float, "time to load the data set"]
    device: str
    precision: Annotated[str, "fp32 or bf16"]
    precision_reason: str
    threads: Annotated[int, "CPU threads of each worker"]


class WorkerFailed(TypedDict):
    """A worker was lost or raised an error. Errors of other ranks that only follow from it are left out."""

    event: Literal["worker_failed"]
    time: NotRequired[float]
    rank: int
    attempt: int
    error: Annotated[str, "what happened, in one line"]
    lost: NotRequired[Annotated[bool, "the process or node is gone, rather than that its code raised an error"]]
    host: NotRequired[Annotated[str, "its node or pod"]]


class Preempted(TypedDict):
    """Workers end because a node is taken away; the run continues on others."""

    event: Literal["preempted"]
    time: NotRequired[float]
    attempt: int


class StorageAway(TypedDict):
    """The object store is unreachable; training continues meanwhile."""

    event: Literal["storage_away"]
    time: NotRequired[float]
    message: str
    waits_s: NotRequired[Annotated[float, "at the run's end: how long the run waits for the store at most"]]


class StorageBack(TypedDict):
    """The object store is reachable again, and what waited for it is saved."""

    event: Literal["storage_back"]
    time: NotRequired[float]


class TrainingFinished(TypedDict):
    """The last epoch is trained, scored and saved."""

    event: Literal["training_finished"]
    time: NotRequired[float]
    attempt: int
    finished_at: Annotated[float, "when the last worker was done"]
    evaluation_seconds: Annotated[float, "time to score the test set, over all epochs of this attempt"]
    weights: Annotated[FileFacts, "of model.safetensors, as written by rank 0"]


class RunEnded(TypedDict):
    """The driver has written the result."""

    event: Literal["run_ended"]
    time: NotRequired[float]
    status: Status


class ReportWritten(TypedDict):
    """The report of a finished run was written."""

    event: Literal["report_written"]
    time: NotRequired[float]
    seconds: Annotated[float, "how long that took; not part of the run's time"]


Event = (
    RunStarted
    | Forked
    | Warned
    | Pending
    | CheckpointDamaged
    | CheckpointUnfinished
    | RolledBack
    | TrainingStarted
    | WorkerFailed
    | Preempted
    | StorageAway
    | StorageBack
    | TrainingFinished
    | RunEnded
    | ReportWritten
)


class AnyEvent(TypedDict):
    """What each line of ``events.jsonl`` has, of whatever version of the trainer it is."""

    event: str
    time: float


EVENTS: tuple[type, ...] = Event.__args__


class Node(TypedDict):
    """A line of ``nodes.jsonl``: a node of the run's Ray cluster came, or is gone."""

    time: Annotated[float, "when the driver saw it"]
    node: Annotated[str, "Ray's name of it"]
    alive: bool
    pod: Annotated[str, "name of the pod or machine"]
    group: Annotated[str, "worker group; `head` for the head; empty where it is unknown"]
    spot: Annotated[bool, "whether it may be taken away at any time"]
    reason: NotRequired[Annotated[str, "why it is gone, in Ray's words"]]


class Usage(TypedDict):
    """A line of ``resources.jsonl``: how busy a node was. What cannot be measured there is left out."""

    time: float
    node: Annotated[str, "as in `nodes.jsonl`; `this machine` without a cluster"]
    cpu: NotRequired[Annotated[float, "share of its cores in use, 0 to 1"]]
    memory_bytes: NotRequired[Annotated[float, "memory in use"]]
    memory_total_bytes: NotRequired[Annotated[float, "memory in all; in a pod its limit"]]
    gpu: NotRequired[Annotated[float, "mean use of its GPUs, 0 to 1"]]
    gpu_memory_bytes: NotRequired[Annotated[float, "memory in use on its GPUs"]]
    sent_bytes_per_s: NotRequired[float]
    received_bytes_per_s: NotRequired[float]


class PodCost(TypedDict):
    """What a pod of a run cost."""

    pod: str
    group: str
    begins: Annotated[float, "seconds since 1970"]
    ends: Annotated[float, "seconds since 1970"]
    per_hour: Annotated[float, "price of its group"]
    cost: float


class Cost(TypedDict):
    """What the pods of a run cost by the prices in the chart's values, over all attempts and clusters.

    It is the pods' time: nodes without work, disks, traffic and discounts are not in it.
    """

    currency: str
    total: float
    productive: Annotated[float, "the share of it in which training counted"]
    parts: Annotated[dict[str, float], "by use of the time, see docs/metrics.md; they add up to `total`"]
    per_epoch: Annotated[float | None, "`total` by whole epochs"]
    per_hour: Annotated[float, "of the pods at the end"]
    pods: list[PodCost]
    sources: Annotated[dict[str, str], "where the price of each group is from, and of when"]


class Mistake(TypedDict):
    """A test image that was classified wrongly."""

    index: Annotated[int, "position in the test set"]
    label: str
    prediction: str
    confidence: Annotated[float, "probability of the prediction"]
    pixels: Annotated[str, "28 × 28 bytes in base64"]


class Evaluation(TypedDict):
    """``evaluation.json``: the final weights on the test set."""

    confusion: Annotated[list[list[int]], "samples by label (row) and prediction (column)"]
    mistakes: Annotated[list[Mistake], "those made with most confidence, worst first"]


class Result(TypedDict):
    """``result.json``, and with ``"event": "result"`` the driver's last line of ``--log-format json``."""

    name: str
    status: Status
    exit_code: int
    error: NotRequired[Annotated[str, "why it failed, as a sentence"]]
    problem: NotRequired[Annotated[str, "the error without its fix"]]
    fix: NotRequired[Annotated[str, "what to do about it; may be empty"]]
    retry: NotRequired[Annotated[bool, "whether the same command could succeed later or elsewhere"]]
    test_accuracy: Annotated[float | None, "after the last whole epoch"]
    test_loss: Annotated[float | None, "after the last whole epoch"]
    class_accuracy: Annotated[dict[str, float] | None, "share classified correctly, by class; of a finished run"]
    epochs: Annotated[int, "whole epochs"]
    steps: Annotated[int, "optimizer steps"]
    workers: Annotated[int | None, "of the last attempt"]
    attempt: Annotated[int | None, "number of the last attempt"]
    config_sha256: str
    seconds: Annotated[dict[str, float], "time of the last process by part; `wall` is their sum"]
    goodput: Annotated[dict[str, float], "time of all processes by part, `wall`, and `goodput`, the productive share"]
    worker_seconds: NotRequired[Annotated[dict[str, float], "`productive`, and `all` that were paid for"]]
    cost: NotRequired[Annotated[Cost, "on a cluster whose worker groups have prices"]]
    started_at: float
    ended_at: float


class Environment(TypedDict, total=False):
    """``environment.json``: what the run was made with."""

    trainer: Annotated[str, "version of this package"]
    git_commit: Annotated[str | None, "commit of the source tree; +changes if it was not clean"]
    python: str
    ray: str | None
    torch: str | None
    numpy: str | None
    pydantic: str | None
    safetensors: str | None
    system: str
    cpu: str
    cpu_cores: int
    gpus: list[str]
    memory_bytes: int


class Manifest(TypedDict):
    """``MANIFEST.json`` of a finished run, inside ``{"manifest": …, "sha256": …}``."""

    format: int
    files: Annotated[dict[str, FileFacts], "by name, each file of the record but the report and its pictures"]


class CheckpointManifest(TypedDict):
    """``checkpoints/<name>/MANIFEST.json``, inside ``{"manifest": …, "sha256": …}``."""

    format: int
    name: str
    step: Annotated[int, "steps done"]
    epoch: int
    fence: Annotated[int, "number of the writer's lease"]
    attempt: NotRequired[Annotated[int | None, "that saved it; null where it is not known"]]
    files: dict[str, FileFacts]
    config_sha256: str
    data_sha256: dict[str, str]
    world_size: Annotated[int, "workers"]
    seed: int
    global_batch_size: int
    steps_per_epoch: int
    versions: dict[str, str]
    forked_from: NotRequired[Annotated[str, "URI of the checkpoint that a fork starts from"]]


Json = dict[str, Any]  # what was read and not checked yet
