"""The CUDA layer against a recorder in place of cuda.core and the driver: order of calls, streams, errors.

Every name it calls must exist in the installed cuda.core and cuda.bindings. What CUDA makes of the calls only
a GPU can show.
"""

import itertools
from typing import Any

import numpy as np
import pytest

from ttc.errors import BackendError, DeviceMemoryError, MissingDependencyError
from ttc.runtime.gpu import cuda as layer
from ttc.runtime.gpu.cuda import CudaDevice
from ttc.runtime.gpu.device import DeviceArray, Memory
from ttc.runtime.gpu.faults import _STICKY, is_sticky

core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
graph = pytest.importorskip("cuda.core.graph", reason="cuda-core is not installed")
OK = driver.CUresult.CUDA_SUCCESS


class Recorded:
    """Stands for an object of a real class: calls are noted, and must exist there."""

    def __init__(self, log: list[Any], name: str, real: Any, **answers: Any) -> None:
        self.__dict__.update(_log=log, _name=name, _real=real, _answers=answers)

    def __getattr__(self, attribute: str) -> Any:
        assert hasattr(self._real, attribute), f"{self._real.__name__} has no {attribute}"
        answer = self._answers.get(attribute)
        if isinstance(answer, type) or (answer is not None and not callable(answer)):
            return answer

        def call(*arguments: Any, **named: Any) -> Any:
            self._log.append((f"{self._name}.{attribute}", arguments))
            return answer(*arguments, **named) if answer is not None else None

        return call


class RecordedBuilder(Recorded):
    """Begun and ended builders are themselves, and know whether they build."""

    def __init__(self, log: list[Any], name: str, **answers: Any) -> None:
        itself = lambda *_: self  # noqa: E731
        super().__init__(log, name, graph.GraphBuilder, begin_building=itself, end_building=itself, **answers)

    @property
    def is_building(self) -> bool:
        called = [name for name, _ in self._log]
        return called.count(f"{self._name}.begin_building") > called.count(f"{self._name}.end_building")


@pytest.fixture
def log():
    return []


@pytest.fixture
def device(monkeypatch, log):
    """A `CudaDevice` over recorders."""
    numbers = itertools.count()

    def stream(name, handle):
        made = lambda: builder(f"builder{next(numbers)}", handle)  # noqa: E731
        return Recorded(log, name, core.Stream, handle=handle, create_graph_builder=made)

    def builder(name, handle):
        return RecordedBuilder(
            log,
            name,
            stream=stream(f"{name} stream", handle),
            create_condition=lambda default_value: Recorded(
                log, "condition", graph.GraphCondition, handle=77
            ),
            while_loop=lambda condition: builder("body", 300),
            complete=lambda: Recorded(log, "graph", graph.Graph),
        )

    own = stream("own", 100)
    gpu = Recorded(log, "gpu", core.Device, compute_capability=(9, 0), create_stream=lambda: own)
    module = Recorded(log, "core", core, Device=lambda index: gpu, LaunchConfig=lambda **named: named)
    calls = {
        "cuDeviceGetCount": (OK, 1),
        "cuDriverGetVersion": (OK, 13000),
        "cuMemAlloc": (OK, 4096),
        "cuMemGetInfo": (OK, 10, 20),
    }
    answers = {name: (lambda *_, found=found: found) for name, found in calls.items()}
    plain = ("cuMemFree", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemcpyDtoDAsync", "cuMemsetD8Async")
    answers |= {name: lambda *_: (OK,) for name in plain}
    recorder = Recorded(log, "driver", driver, CUresult=driver.CUresult, **answers)
    recorder.__dict__["_answers"]["CUresult"] = driver.CUresult
    monkeypatch.setattr(layer, "requirements", lambda backend: module)
    monkeypatch.setattr("cuda.bindings.driver", recorder)
    monkeypatch.setattr("ttc.runtime.gpu.faults._BROKEN", {})
    made_device = CudaDevice(0, "torch")
    made_device._nothing = "ttc_nothing"  # as if it were loaded
    log.clear()
    return made_device


def names(log):
    return [name for name, _ in log if name != "gpu.set_current"]


def array(nbytes=256):
    return DeviceArray.at(Memory(4096, nbytes, lambda: None), 0, "uint8", (nbytes,))


def test_a_loop_is_captured_as_the_builder_wants_it(device, log):
    """The step on the own stream, then the loop around it, whose body begins with a kernel that does nothing
    (cuda.core 1.2 cannot begin one with a child graph) and ends with the one that sets the condition.
    """

    def step():
        device.copy(array(), array())
        device.enqueue(lambda handle: log.append(("enqueued", (handle,))))

    def last(condition):
        device.launch("kernel", (2, 1, 1), 64, 0, [4096, np.uint64(condition)])

    device.capture_loop(step, last).launch()
    assert names(log) == [
        "own.sync",
        "own.create_graph_builder",
        "builder0.begin_building",
        "driver.cuMemcpyDtoDAsync",
        "enqueued",
        "builder0.end_building",
        "own.create_graph_builder",
        "builder1.begin_building",
        "builder1.create_condition",
        "builder1.while_loop",
        "body.begin_building",
        "core.LaunchConfig",
        "core.launch",
        "body.embed",
        "core.LaunchConfig",
        "core.launch",
        "body.end_building",
        "builder1.end_building",
        "builder1.complete",
        "graph.upload",
        "body.close",
        "builder1.close",
        "builder0.close",
        "graph.launch",
    ]
    launched = [arguments for name, arguments in log if name == "core.launch"]
    assert [kernel for _, _, kernel, *_ in launched] == ["ttc_nothing", "kernel"]
    called = dict(log)
    assert {called[f"{name}.begin_building"] for name in ("builder0", "builder1", "body")} == {("relaxed",)}
    assert called["body.embed"][0]._name == "builder0"
    assert called["driver.cuMemcpyDtoDAsync"][3] == 100, "copies go to the own stream"
    assert called["enqueued"] == (100,), "and engine calls"
    stream, config, kernel, *arguments = called["core.launch"]
    assert (stream._name, kernel) == ("body", "kernel")
    assert config == {"grid": (2, 1, 1), "block": (64, 1, 1), "shmem_size": 0}
    assert arguments == [4096, np.uint64(77)], "the condition's handle reaches the kernel"
    assert called["graph.launch"][0]._name == "own"
    assert device.launches == 1, "what is captured is no launch"


def test_outside_a_capture_work_goes_to_the_own_stream(device, log):
    device.enqueue(lambda handle: log.append(("enqueued", (handle,))))
    device.fill(array(), 0)
    assert dict(log)["enqueued"] == (100,)
    assert dict(log)["driver.cuMemsetD8Async"] == (4096, 0, 256, 100)
    assert device.launches == 2


def test_a_capture_that_fails_leaves_the_device_usable(device, log):
    def refused():
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(BackendError, match="not permitted when stream is capturing"):
        device.capture(refused)
    assert names(log)[-2:] == ["builder0.end_building", "builder0.close"]
    with pytest.raises(BackendError, match="not permitted when stream is capturing"):
        device.capture_loop(lambda: None, lambda condition: refused())
    assert names(log)[-5:] == [
        "body.end_building",
        "body.close",
        "builder2.end_building",
        "builder2.close",
        "builder1.close",
    ]
    device.enqueue(lambda handle: log.append(("enqueued", (handle,))))
    assert dict(log)["enqueued"] == (100,)


def test_a_capture_that_cuda_declares_invalid(device, log, monkeypatch, caplog):
    """cuda.core then raises at every question but `close`; the caller gets the error that it can fall back
    from.
    """

    def invalid(self):
        raise RuntimeError("the capture has been invalidated")

    def refused():
        monkeypatch.setattr(RecordedBuilder, "is_building", property(invalid))
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(BackendError, match="not permitted when stream is capturing"):
        device.capture_loop(lambda: None, lambda condition: refused())
    assert names(log)[-3:] == ["body.close", "builder1.close", "builder0.close"]
    assert caplog.text.count("has been invalidated") == 3
    device.enqueue(lambda handle: log.append(("enqueued", (handle,))))
    assert dict(log)["enqueued"] == (100,)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA_ERROR_ILLEGAL_ADDRESS: While executing a kernel, the device encountered ...",
        "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`",
        BackendError("engine step-00: does not run; IExecutionContext: Cuda Runtime (misaligned address)"),
    ],
    ids=["driver", "torch", "TensorRT"],
)
def test_an_error_that_stays_is_remembered(device, said):
    fault = said if isinstance(said, BackendError) else RuntimeError(said)

    def broken(handle):
        raise fault

    with pytest.raises(BackendError, match="start the process again"):
        device.enqueue(broken)
    later = (device.wait, lambda: device.allocate(1), lambda: device.capture(lambda: None))
    for call in (*later, lambda: CudaDevice(0, "torch")):
        with pytest.raises(BackendError, match=r"cuda:0: .*start the process again"):
            call()
    device.close()


def test_every_text_of_a_kept_error_is_known():
    """The names and texts are CUDA's own."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    for in_driver, in_runtime, text in _STICKY:
        assert hasattr(driver.CUresult, f"CUDA_ERROR_{in_driver}")
        code = getattr(runtime.cudaError_t, f"cudaError{in_runtime}")
        said = runtime.cudaGetErrorString(code)[1].decode()
        assert text in said
        for words in (f"CUDA_ERROR_{in_driver}", f"cudaError{in_runtime}", f"CUDA error: {said}"):
            assert is_sticky(words), words
    for passing in ("InvalidValue", "MemoryAllocation", "StreamCaptureInvalidated", "NotReady"):
        code = getattr(runtime.cudaError_t, f"cudaError{passing}")
        assert not is_sticky(runtime.cudaGetErrorString(code)[1].decode())


@pytest.mark.parametrize(
    "said", ["CUDA out of memory. Tried to allocate 2.00 GiB", "CUDA_ERROR_OUT_OF_MEMORY"]
)
def test_out_of_memory_in_a_librarys_words(device, said):
    def refused(handle):
        raise RuntimeError(said)

    with pytest.raises(DeviceMemoryError, match=f"cuda:0: {said[:20]}"):
        device.enqueue(refused)
    device.wait()


def test_an_error_that_passes(device, log):
    def refused(handle):
        raise RuntimeError("CUDA_ERROR_INVALID_VALUE")

    with pytest.raises(BackendError, match="cuda:0: CUDA_ERROR_INVALID_VALUE"):
        device.enqueue(refused)
    device.wait()


def test_out_of_memory_says_how_much_there_is(device, monkeypatch):
    none = (driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, 0)
    monkeypatch.setitem(device._driver._answers, "cuMemAlloc", lambda nbytes: none)
    monkeypatch.setitem(device._driver._answers, "cuMemGetInfo", lambda: (OK, 2 * 10**9, 80 * 10**9))
    with pytest.raises(DeviceMemoryError, match=r"5\.00 GB are due, 2\.00 GB of 80\.00 GB are free"):
        device.allocate(5 * 10**9)


def test_memory_is_given_back_once(device, log):
    memory = device.allocate(100)
    memory.free()
    memory.free()
    assert names(log).count("driver.cuMemFree") == 1


def test_a_kernel_with_too_much_shared_memory(device):
    with pytest.raises(BackendError, match="needs 50000 bytes of shared memory; 49152 are granted"):
        device.load_kernel("k", b"ptx", 50000)


def test_without_cuda_core(monkeypatch):
    import builtins

    real = builtins.__import__

    def absent(name, *rest, **named):
        if name.startswith("cuda"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependencyError, match=r"pip install 'twotower-compiler\[gpu\]'"):
        layer.requirements("tensorrt-rtx")


def test_work_is_timed_by_two_events_around_it(device, log):
    moments, options = iter([2.0, 7.5]), []  # events differ by milliseconds

    def record(**named):
        options.append(named["options"])
        return next(moments)

    device._own.__dict__["_answers"]["record"] = record
    device._core.__dict__["_answers"]["EventOptions"] = core.EventOptions
    assert hasattr(core.Event, "__sub__")
    seconds = device.timed(lambda: device.enqueue(lambda handle: log.append(("enqueued", (handle,)))))
    assert seconds == pytest.approx(0.0055)
    assert names(log) == ["own.record", "enqueued", "own.record", "own.sync"]
    assert [option.timing_enabled for option in options] == [True, True]
