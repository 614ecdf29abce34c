"""What every training has: data, batches, optimizer, machine, run folder, W&B."""

from pathlib import Path
from typing import Literal

from pydantic import ByteSize
from pydantic.dataclasses import dataclass

from vocdist.config.values import (
    STRICT,
    Count,
    Folder,
    Fraction,
    NonNegative,
    NonNegativeFloat,
    Place,
    Positive,
    Precision,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig:
    """Where a run keeps what it makes.

    Attributes:
        dir: The run's folder: config, metrics, checkpoints, pictures, final weights.
    """

    dir: Folder


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Which shards, and how many processes decode them.

    Attributes:
        shards: Folder written by `scripts/make_shards.py`, or its URL (`s3://`, `gs://`,
            `https://`, `hf://`), which is read through a cache on this machine.
        limit_train: Use only the first this many train samples; null for all.
        limit_val: Likewise for val.
        shuffle_shards: Shards that are shuffled together in training, for shards that do not fit
            into the cache all at once: it must hold twice as many. Null: all of them. Changes the
            order of the samples.
        num_workers: Loader processes on each rank; 0 decodes in the training process.
        short_side: Scale decoded images down to this short side, pixels, before anything else
            happens to them; null: leave them as they are stored. It makes `decoded_cache` smaller.
        decoded_cache: Memory of each process in which decoded images stay from epoch to epoch, as
            `4GB`; null: none. Those that do not fit are decoded each time, to the same result.
        resident: Where a training's images stay once they are decoded: `device` (in the device's
            own memory, where they are cropped and scaled too), `none` (they are loaded from the
            shards for each batch), or `auto`: `device` on CUDA where they fit into 60% of what is
            free of it, else `none`.
        cache_dir: Where copies of remote shards, and what is known of the samples of all shards,
            are kept; null: `$VOCDIST_CACHE`, else `~/.cache/vocdist`.
        cache_bytes: How many bytes of copies, as `20GB`; those used longest ago go first. Null: no
            bound.
    """

    shards: Place = Path("shards/voc2012")
    limit_train: Count | None = None
    limit_val: Count | None = None
    shuffle_shards: Count | None = None
    num_workers: NonNegative = 2
    short_side: Count | None = None
    decoded_cache: ByteSize | None = None
    resident: Literal["auto", "device", "none"] = "auto"
    cache_dir: Folder | None = None
    cache_bytes: ByteSize | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """The loop: how long, in what batches, from where.

    Attributes:
        epochs: Passes over the train split.
        global_batch: Samples of one optimizer step, over all processes.
        accumulate: Parts in which a step is computed, one after the other, to save memory.
        eval_batch: Samples of one evaluation batch. Each process takes whole ones, so that figures
            do not depend on the number of processes.
        drop_last: Leave out the last, smaller batch of an epoch instead of training on it. Where
            images of different shapes cannot share a batch each shape has a smaller one: then one
            of those is left out, another in every epoch, and never all images of a shape.
        seed: Of the weights, the order and the augmentation.
        clip_norm: Upper bound of the gradient's norm; null for none.
        non_finite: What to do about a step whose loss or gradient is inf or NaN: `stop` the run, or
            `skip` the step and count it. Either way the weights stay as they were, and the samples
            are written to `non_finite.jsonl`. fp16's overflows are no such steps.
        resume: `auto` (go on if the run folder holds a checkpoint), `never`, or a checkpoint.
        log_every: Steps between two logged rows.
        save_every: Steps between two checkpoints inside an epoch; null: at its end only.
        keep: Checkpoints kept besides the best one.
    """

    epochs: Count = 8
    global_batch: Count = 32
    accumulate: Count = 1
    eval_batch: Count = 32
    drop_last: bool = False
    seed: NonNegative = 0
    clip_norm: Positive | None = None
    non_finite: Literal["stop", "skip"] = "stop"
    resume: str = "auto"
    log_every: Count = 20
    save_every: Count | None = None
    keep: Count = 2


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimConfig:
    """AdamW, its learning rate over time, and the average of the weights it finds.

    Attributes:
        lr: Peak learning rate.
        backbone_lr: Peak rate of a backbone's weights, where they are trained; null: `lr`.
        weight_decay: AdamW's decoupled weight decay.
        decay_norms: Decay norms and biases too, as the notebook does.
        schedule: `constant`, `cosine` (moves every step), `cosine_by_epoch` (the notebook's) or
            `one_cycle` (up over the first 30% of the steps, then down, both by a half cosine).
        warmup_steps: Steps over which the rate rises linearly from zero; `one_cycle` needs none.
        ema_decay: Measure and keep an exponential moving average of the weights: this is its
            decay per step, lower in the first steps; null: the weights themselves.
    """

    lr: Positive = 3e-4
    backbone_lr: Positive | None = None
    weight_decay: NonNegativeFloat = 1e-4
    decay_norms: bool = True
    schedule: Literal["constant", "cosine", "cosine_by_epoch", "one_cycle"] = "cosine"
    warmup_steps: NonNegative = 0
    ema_decay: Fraction | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RuntimeConfig:
    """The machine.

    Attributes:
        device: `auto` takes what accelerate finds: CUDA, then MPS, then the CPU.
        detect_anomaly: Stop at the first gradient that is not a number and say which operation
            made it: for debugging, since it takes twice the time.
        mixed_precision: `fp32`, `bf16` or `fp16` (a GPU's only). `auto`: what the launcher is asked
            for, else bf16 where the hardware computes in it (CUDA from Ampere on, CPUs with AMX or
            AVX512-BF16), else fp32. A run keeps what it began with.
        channels_last: Keep images and convolution weights as NHWC in memory.
        collective_timeout_s: Seconds after which a process that does not answer the others is
            given up, and the run ends. Longer than any wait for data, than saving takes, and than
            one process may compute features that are kept while the others wait.
        compile: Compile the model with `torch.compile` in the first steps of a run.
        cuda_graph: Replay forward and backward pass of a step as one CUDA graph, recorded for each
            shape of batch. `auto`: where there is CUDA and the settings allow it, else eagerly;
            `true`: it is an error where they do not.
        deterministic: Use only algorithms that give the same bits each time, so that a run which
            was killed and goes on ends with those of one that was not, on a GPU too, and more
            slowly; an operation that has none is an error. On a CPU it changes nothing.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    detect_anomaly: bool = False
    mixed_precision: Precision = "auto"
    channels_last: bool = True
    collective_timeout_s: Positive = 1800.0
    compile: bool = False
    cuda_graph: bool | Literal["auto"] = "auto"
    deterministic: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrackingConfig:
    """Weights & Biases.

    Attributes:
        wandb: `auto` (online when logged in, else offline), `online`, `offline` or `disabled`.
        project: W&B project name; null: `$WANDB_PROJECT`, else `vocdist`.
    """

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TaskConfig:
    """Settings of a training of any task; a task's own adds its sections."""

    run: RunConfig
    task: str
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    tracking: TrackingConfig = TrackingConfig()
