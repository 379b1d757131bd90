"""`cnnkern.profile`: where the time of a model goes, measured in the model's own run.

Rounds with marks around the call of every leaf take turns with rounds without, so that a slow second of
a shared machine hits both. The time of the whole model is that of the rounds without; what a pair of marks
costs by itself is measured on a module that does nothing, and taken off each call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn

from cnnkern import _C
from cnnkern.compression.cost import flops, traffic
from cnnkern.compression.profile_report import LayerProfile, Profile
from cnnkern.compression.running import call, check_model, device_of, inference, leaves, shape_of
from cnnkern.compression.timing import Clock, Timing, clock_of, no_garbage_collection

WARM_UP = 2  # runs: the first packs weights and builds primitives
MIN_ROUNDS = 5
PEAK_SECONDS = 5e-3  # of every round
BANDWIDTH_SECONDS = 0.1
EMPTY_CALLS = 200


def profile(model: nn.Module, example_input: Any, *, seconds: float = 3.0) -> Profile:
    """Time, FLOPs and bytes of each layer of a model, beside what the machine could do.

    Args:
        model: run as it is, in eval mode and without gradients; every module is in its old mode afterwards.
        example_input: what `model` is called with: a tensor; a tuple or list of positional arguments; or a
            mapping of keyword arguments. On the model's device, in the layout and batch size that matter.
        seconds: how long to measure, about; five rounds are run at least.

    Returns:
        The layers in the order of their first call, with medians over the rounds. A layer is a module without
        children; what is computed outside of them is in `Profile.outside_seconds`. `print` shows a table.

    Raises:
        TypeError: a model that is no `torch.nn.Module`.
        ValueError: seconds that are not positive.
        NotImplementedError: a model on another device than the CPU and CUDA's.

    On the CPU, times are of the calling thread and peaks those of as many threads as torch uses. On a CUDA
    device they are between events in the current stream, which has not been tried on a GPU yet, and there are
    no peaks.
    """
    check_model(model)
    if not seconds > 0:
        raise ValueError(f"seconds: expected more than 0, got {seconds!r}")
    device = device_of(model, example_input)
    if device.type not in ("cpu", "cuda"):
        raise NotImplementedError(f"model: expected one on the CPU or a CUDA device, got one on {device}")
    clock = clock_of(device)
    on_cpu = device.type == "cpu"
    threads = torch.get_num_threads()
    with inference(model):
        costs = _costs(model, example_input)
        for _ in range(WARM_UP):
            call(model, example_input)
        recorder = _Recorder(leaves(model), clock)
        plain, peaks, rounds = [], [], 0
        with no_garbage_collection():
            end = time.perf_counter() + seconds
            while rounds < MIN_ROUNDS or time.perf_counter() < end:
                plain.append(_seconds_of_run(model, example_input, clock))
                with recorder.attached():
                    call(model, example_input)
                recorder.close_round()
                if on_cpu:
                    peaks.append(_C.fma_peak(threads, PEAK_SECONDS))
                rounds += 1
    empty = _empty_call(clock)
    return Profile(
        layers=tuple(_layer(name, costs[name], samples, empty) for name, samples in recorder.samples.items()),
        whole=Timing.of(plain),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_shape=shape_of(example_input),
        device=str(device) if on_cpu else torch.cuda.get_device_name(device),
        isa=_C.current_isa() if on_cpu else None,
        threads=threads,
        torch=torch.__version__,
        cnnkern=_C.build_info()["version"],
        peak_gflops=median(peaks) if on_cpu else None,
        bandwidth_gbs=_C.memory_bandwidth(threads, BANDWIDTH_SECONDS) if on_cpu else None,
        mark_seconds=empty,
    )


@dataclass
class _Cost:
    """One leaf over one run of the model."""

    module: nn.Module
    calls: int = 0
    flops: int = 0
    bytes: int = 0
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None


def _costs(model: nn.Module, example: Any) -> dict[str, _Cost]:
    """Of the leaves that a run calls, in the order of their first calls."""
    found: dict[str, _Cost] = {}
    names = {module: name for name, module in leaves(model).items()}

    def count(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        cost = found.setdefault(names[module], _Cost(module))
        inputs = (*args, kwargs)
        if not cost.calls:
            cost.input_shape, cost.output_shape = shape_of(inputs), shape_of(output)
        cost.calls += 1
        cost.flops += flops(module, inputs, output)
        cost.bytes += traffic(module, inputs, output)

    hooks = [module.register_forward_hook(count, with_kwargs=True) for module in names]
    try:
        call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass
class _Recorder:
    """Marks around every call of some leaves, gathered round by round as seconds per run of the model."""

    modules: Mapping[str, nn.Module]
    clock: Clock
    samples: dict[str, list[float]] = field(default_factory=dict)
    _open: dict[nn.Module, Any] = field(default_factory=dict)
    _marks: list[tuple[nn.Module, Any, Any]] = field(default_factory=list)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The marks are the last thing before a call, and the first after it."""
        mark, opened, marks = self.clock.mark, self._open, self._marks

        def before(module: nn.Module, _: tuple) -> None:
            opened[module] = mark()

        def after(module: nn.Module, _: tuple, __: Any) -> None:
            end = mark()
            marks.append((module, opened[module], end))

        hooks = []
        for module in self.modules.values():
            hooks.append(module.register_forward_pre_hook(before))
            hooks.append(module.register_forward_hook(after, prepend=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def close_round(self) -> None:
        self.clock.finish()
        sums: dict[nn.Module, float] = {}
        for module, start, end in self._marks:
            sums[module] = sums.get(module, 0.0) + self.clock.seconds(start, end)
        names = {module: name for name, module in self.modules.items()}
        for module, total in sums.items():
            self.samples.setdefault(names[module], []).append(total)
        self._marks.clear()


def _seconds_of_run(model: nn.Module, example: Any, clock: Clock) -> float:
    start = clock.mark()
    call(model, example)
    end = clock.mark()
    clock.finish()
    return clock.seconds(start, end)


def _empty_call(clock: Clock) -> float:
    """What the marks show around a module that does nothing: the least that any leaf seems to take."""
    nothing, x = nn.Identity(), torch.zeros(1)
    recorder = _Recorder({"": nothing}, clock)
    with recorder.attached(), torch.no_grad():
        for _ in range(EMPTY_CALLS):
            nothing(x)
    clock.finish()
    return median(clock.seconds(start, end) for _, start, end in recorder._marks)


def _layer(name: str, cost: _Cost, samples: list[float], empty: float) -> LayerProfile:
    timing = Timing.of([max(0.0, sample - cost.calls * empty) for sample in samples])
    return LayerProfile(
        name=name,
        kind=type(cost.module).__name__,
        calls=cost.calls,
        seconds=timing.median,
        deviation=timing.deviation,
        flops=cost.flops,
        bytes=cost.bytes,
        parameters=sum(parameter.numel() for parameter in cost.module.parameters()),
        input_shape=cost.input_shape,
        output_shape=cost.output_shape,
    )
