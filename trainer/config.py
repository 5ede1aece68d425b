"""What a run is: every setting with its name, type, unit, default and text. The only defaults of the project.

Unknown keys and bad values are refused with the field, the value and the fix. `resolve.py` makes a config of recipes,
files and the command line.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from trainer.errors import ConfigError

# Facts of Fashion-MNIST.
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SIDE = 28  # pixels
PIXELS = SIDE * SIDE
TRAIN_SAMPLES = 60_000


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Workers = Annotated[
    int | str,
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]+-[0-9]+$"}]}),
]


class Section(BaseModel):
    """A closed, immutable group of settings: no unknown key, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class ModelConfig(Section):
    """The network."""

    name: Literal["mlp", "cnn"] = Field("mlp", description="`mlp`: fully connected; `cnn`: 3×3 convolutions")
    hidden: list[Annotated[int, Field(ge=1)]] = Field([512, 512], description="mlp: width of each hidden layer")
    blocks: list[Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]] = Field(
        [[32], [64], [128, 128]],
        description="cnn: channels of the convolutions of each block; a 2×2 max-pool ends each block",
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of activations dropped: after each hidden layer (mlp), before the last layer (cnn)"
    )
    relu_output: bool = Field(False, description="mlp: a ReLU after the last layer too, as in Ray's example")

    @field_validator("blocks")
    @classmethod
    def _image_is_large_enough(cls, blocks: list[list[int]]) -> list[list[int]]:
        if not 1 <= len(blocks) <= 4:
            raise ValueError("give 1 to 4 blocks: a 26×26 image can be halved four times")
        return blocks


class OptimizerConfig(Section):
    """How gradients become weights."""

    name: Literal["sgd", "adamw", "muon"] = Field(
        "sgd", description="`muon`: Muon for matrices and kernels, SGD for biases and the last layer"
    )
    lr: Annotated[float, Field(gt=0.0)] = Field(0.1, description="peak learning rate (muon: of the parameters on SGD)")
    muon_lr: Annotated[float, Field(gt=0.0)] = Field(0.05, description="muon: peak learning rate of the matrices")
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.9, description="momentum of sgd and muon")
    nesterov: bool = Field(True, description="Nesterov momentum; needs momentum above 0")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="weight decay per step (adamw: decoupled)")
    schedule: Literal["constant", "linear"] = Field(
        "linear", description="after the warm-up: `constant`, or `linear` down to 0 at the last step"
    )
    warmup: Fraction = Field(0.15, description="share of all steps over which the learning rate rises from 0")
    grad_clip_norm: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="gradients are scaled down to this global norm; null: never"
    )
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="label smoothing of the loss")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> OptimizerConfig:
        if self.name != "adamw" and self.nesterov and self.momentum == 0.0:
            raise ValueError(
                "nesterov: true needs momentum above 0; set optimizer.momentum, or optimizer.nesterov=false"
            )
        return self


class DataConfig(Section):
    """What happens to an image before the network sees it."""

    mean: Fraction = Field(0.2860, description="subtracted from pixels in 0..1 (default: the training set's mean)")
    std: Annotated[float, Field(ge=1e-3)] = Field(0.3530, description="pixels are divided by it, after the mean")
    flip: Literal["none", "random", "alternating"] = Field(
        "none",
        description="mirror training images: `random` each time, or `alternating`: every image on every second epoch",
    )
    shift_pixels: Annotated[int, Field(ge=0, le=8)] = Field(0, description="random shift of training images, pixels")
    validation_samples: Annotated[int, Field(ge=0, lt=TRAIN_SAMPLES)] = Field(
        0, description="cut this many samples off the training set and test on them: for choosing settings"
    )


class CheckpointConfig(Section):
    """How a run survives."""

    every_s: Annotated[float, Field(ge=0.0)] = Field(
        30.0, description="seconds between checkpoints; each epoch's end has one in any case"
    )
    keep: Annotated[int, Field(ge=1)] = Field(3, description="how many of the newest are kept")
    max_outage_s: Annotated[float, Field(ge=0.0)] = Field(
        600.0, description="seconds that training continues while no checkpoint can be saved; then it stops"
    )


class Config(Section):
    """Everything that determines a run's result. Its name, storage and data folder are given beside it."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="seed of weights, sample order and dropout")
    epochs: Annotated[int, Field(ge=1)] = Field(4, description="passes over the training set")
    global_batch_size: Annotated[int, Field(ge=1, le=TRAIN_SAMPLES)] = Field(
        512, description="samples per step over all workers; each worker takes an equal share"
    )
    workers: Workers = Field(1, description="training processes: a number, or `MIN-MAX` for an elastic run")
    cpus_per_worker: Annotated[int, Field(ge=1)] | None = Field(
        None, description="CPU cores of each worker; null: the machine's cores shared equally"
    )
    gpu: bool = Field(False, description="one GPU for each worker (on a Mac: its one GPU, through mps)")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="`auto`: bf16 autocast where the hardware computes it faster, else fp32"
    )
    report_every_s: Annotated[float, Field(ge=0.2)] = Field(1.0, description="seconds between reports inside an epoch")
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @field_validator("workers")
    @classmethod
    def _workers_is_a_count_or_range(cls, workers: int | str) -> int | str:
        low, high = parse_workers(workers)
        if not 1 <= low <= high:
            raise ValueError("give a number from 1, or MIN-MAX with MIN from 1 and not above MAX, such as 1-4")
        return workers if isinstance(workers, int) else (low if low == high else f"{low}-{high}")

    @model_validator(mode="after")
    def _batch_divides_by_workers(self) -> Config:
        low, high = self.worker_range
        # An elastic run may pass through counts that do not divide it: shares then differ by one sample, weighted
        # exactly. A fixed count is chosen, so an unequal split there is a slip.
        if self.global_batch_size % high if low == high else self.global_batch_size < high:
            lower = self.global_batch_size - self.global_batch_size % high
            near = f"{lower} or {lower + high}" if lower else str(high)
            raise ValueError(
                f"global_batch_size: {self.global_batch_size} is not divisible by {self.workers} workers; "
                f"use {near}, or another number of workers"
            )
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers of the run; equal unless it is elastic."""
        return parse_workers(self.workers)

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change during the run."""
        low, high = self.worker_range
        return low != high

    @property
    def train_samples(self) -> int:
        """Samples in one epoch."""
        return TRAIN_SAMPLES - self.data.validation_samples

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch; the last one may be on a smaller batch."""
        return -(-self.train_samples // self.global_batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.steps_per_epoch * self.epochs

    @property
    def sha256(self) -> str:
        """Hash of the resolved config: two runs of one name must have the same."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved config as YAML: loading it again gives this config."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


def parse_workers(workers: int | str) -> tuple[int, int]:
    """Return the fewest and most workers of a count or a range; 0, 0 if it is neither."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", str(workers))
    if not match:
        return 0, 0
    return int(match[1]), int(match[2] or match[1])


def from_mapping(settings: Mapping[str, Any]) -> Config:
    """Return the config of a nested mapping of settings, checked against the schema.

    Raises:
        ConfigError: as for `load`.
    """
    try:
        return Config.model_validate(dict(settings))
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(detail) for detail in error.errors())) from None


def differences(old: Config, new: Config) -> list[str]:
    """Return a ``key: old → new`` line for each setting in which two configs differ."""
    before, after = flatten(old.model_dump()), flatten(new.model_dump())
    return [f"{key}: {before[key]} → {after[key]}" for key in after if before[key] != after[key]]


def schema() -> dict[str, Any]:
    """Return the config's JSON schema."""
    return Config.model_json_schema()


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one mapping of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def keys() -> list[str]:
    """Return every key that ``--set`` takes."""
    return list(flatten(Config().model_dump()))


def _sentence(detail: Any) -> str:
    # pydantic adds the branch of a union to the path; only the names of fields are ours
    field = ".".join(
        str(part)
        for part in detail["loc"]
        if not str(part).startswith(("constrained", "function", "int", "str", "list"))
    )
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, [*keys(), "model", "optimizer", "data"], n=1, cutoff=0.5)
        leaf = [key for key in keys() if key.split(".")[-1] == field.split(".")[-1]]
        hint = f"did you mean {(leaf or near)[0]}?" if leaf or near else "`trainer config` lists every key."
        return f"{field}: there is no such setting; {hint}"
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
        return f"{field}: {detail['input']!r} is not valid: {message}." if field in keys() else f"{message}."
    return f"{field}: {detail['input']!r} is not valid: {detail['msg'].replace('Input', 'it')}."
