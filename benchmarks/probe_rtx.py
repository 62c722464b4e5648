"""Does TensorRT-RTX run on the GPU at hand? Builds a small engine, runs it, captures it in a CUDA graph.

Its documents do not list compute capability 9.0. Needs torch with CUDA and tensorrt_rtx; prints one JSON
object whose `stage` says how far it came. Has not run on a GPU yet.
"""

import json
import sys
import traceback
from typing import Any

import torch


def main() -> None:
    """Go as far as it goes, and say how far."""
    verdict: dict[str, Any] = {"stage": "start"}
    said: list[str] = []
    try:
        probe(verdict, said)
    except Exception as fault:  # whatever stops it is the answer
        verdict["error"] = f"{type(fault).__name__}: {fault}"
        traceback.print_exc(file=sys.stderr)
    verdict["log"] = said[-12:]
    print(json.dumps(verdict, indent=1))


def probe(verdict: dict[str, Any], said: list[str]) -> None:
    """Build, load, run, capture; `verdict` grows on the way."""
    import tensorrt_rtx as trt

    verdict |= {
        "gpu": torch.cuda.get_device_name(),
        "compute_capability": "{}.{}".format(*torch.cuda.get_device_capability()),
        "tensorrt_rtx": trt.__version__,
    }

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.WARNING:
                said.append(message[:300])

    log = Log()
    plan = build(trt, log)
    verdict |= {"stage": "built", "plan_bytes": plan.nbytes}
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    verdict["stage"] = "deserialized" if engine else "refused"
    if not engine:
        return
    settings = engine.create_runtime_config()
    settings.dynamic_shapes_kernel_specialization_strategy = (
        trt.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    settings.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    context = engine.create_execution_context(settings)
    x = torch.randn(16, 256, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(256, 512, device="cuda", dtype=torch.bfloat16)
    y = torch.full((16, 512), float("nan"), device="cuda", dtype=torch.bfloat16)
    context.set_input_shape("x", (16, 256))
    scratch = torch.empty(max(1, engine.device_memory_size_v2), dtype=torch.uint8, device="cuda")
    context.set_device_memory(scratch.data_ptr(), scratch.numel())
    for name, tensor in (("x", x), ("w", w), ("y", y)):
        context.set_tensor_address(name, tensor.data_ptr())
    stream = torch.cuda.Stream()
    ran = context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    want = torch.relu(x.float() @ w.float())
    verdict["stage"] = "executed" if ran else "execute returned false"
    verdict["relative_error"] = float((y.float() - want).norm() / want.norm())
    graph = torch.cuda.CUDAGraph()
    y.fill_(float("nan"))
    with torch.cuda.graph(graph, stream=stream):
        context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
    graph.replay()
    torch.cuda.synchronize()
    verdict["stage"] = "graph replayed"
    verdict["graph_relative_error"] = float((y.float() - want).norm() / want.norm())


def build(trt: Any, log: Any) -> Any:
    """Build relu(x · w) with the weight as an input, as the towers have them."""
    builder = trt.Builder(log)
    network = builder.create_network(0)
    x = network.add_input("x", trt.bfloat16, (-1, 256))
    w = network.add_input("w", trt.bfloat16, (256, 512))
    plain = trt.MatrixOperation.NONE
    y = network.add_matrix_multiply(x, plain, w, plain).get_output(0)
    y = network.add_activation(y, trt.ActivationType.RELU).get_output(0)
    y.name = "y"
    network.mark_output(y)
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 256), (16, 256), (64, 256))
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


if __name__ == "__main__":
    main()
