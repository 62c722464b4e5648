"""The miniature as a model of PyTriton, asked by Triton's client over gRPC; compared with the engine.

    python -m venv DIR; DIR/bin/pip install nvidia-pytriton 'tritonclient[grpc]' onnxruntime tokenizers
    DIR/bin/pip install starlette uvicorn prometheus-client click jinja2 onnx onnx-ir rich
    DIR/bin/pip install --no-deps .        # PyTriton's numpy is older than ttc asks for
    export LD_LIBRARY_PATH=$(DIR/bin/python -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
    DIR/bin/python -m benchmarks.outside_pytriton --bundle mini.bundle

One text, streamed; then requests of all modes from 8 clients at once; what is refused; and whether a row goes
on whose client has left.
"""

import argparse
import json
import queue
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton_client
from pytriton.triton import Triton, TritonConfig

import ttc
from ttc.serving.adapters.pytriton import bind
from ttc.serving.service.service import Service
from ttc.serving.service.settings import Settings

MODEL, CLIENTS, REQUESTS, NEW = "mini", 8, 24, 24
QUESTION = (
    "Question: Tom has 8 boxes with 7 keys each. Tom gets 5 more. How many keys does Tom have now?\nAnswer:"
)


def main() -> None:
    """Serve, ask, compare."""
    parser = argparse.ArgumentParser(description="Ask PyTriton for what the engine writes.")
    parser.add_argument("--bundle", type=Path, required=True, help="The miniature's.")
    args = parser.parse_args()
    http, grpc, metrics = free_ports(3)
    service = Service(Settings(bundle=str(args.bundle), served_model_name=MODEL))
    config = TritonConfig(http_port=http, grpc_port=grpc, metrics_port=metrics)
    rng = random.Random(3)
    asked = [
        (
            [rng.randrange(4, 300) for _ in range(rng.randint(3, 40))],
            rng.choice(["diffusion", "ar", "lossless"]),
        )
        for _ in range(REQUESTS)
    ]
    address = f"127.0.0.1:{grpc}"
    with ttc.load(args.bundle) as engine, Triton(config=config) as triton:
        bind(triton, service)
        triton.run()
        alone = engine.generate(QUESTION, max_new_tokens=64, split_special_tokens=True)
        blocks = ask(address, {"text_input": QUESTION}, max_tokens=64)
        options = {"max_tokens": NEW, "ignore_eos": True}
        with ThreadPoolExecutor(CLIENTS) as clients:
            answers = clients.map(
                lambda one: ask(address, {"input_ids": one[0]}, mode=one[1], **options), asked
            )
            found = [[token for block in answer for token in block["token_ids"]] for answer in answers]
        wants = [engine.generate(ids, mode, max_new_tokens=NEW, stop_at_eos=False) for ids, mode in asked]
        report = {
            "blocks": len(blocks),
            "text_is_the_engines": "".join(block["text_output"] for block in blocks) == alone.text,
            "requests": len(asked),
            "equal_to_the_engines": sum(
                tokens == list(want.token_ids) for tokens, want in zip(found, wants, strict=True)
            ),
            "refused": [
                refusal(address, {"text_input": QUESTION}, promt=1),
                refusal(address, {"text_input": QUESTION}, n=2),
                refusal(address, {"text_input": QUESTION, "input_ids": [5]}),
            ],
            "rows_a_second_after_their_client_left": left(address, service),
        }
    print(json.dumps(report, indent=1))


def ask(address: str, inputs: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """Return the responses of one request."""
    client, came = begin(address, inputs, options)
    blocks: list[dict[str, Any]] = []
    try:
        while not blocks or not blocks[-1]["finish_reason"]:
            result, error = came.get(timeout=60)
            if error is not None:
                raise RuntimeError(str(error))
            if result.as_numpy("token_ids") is not None:
                blocks.append(
                    {
                        "text_output": result.as_numpy("text_output").item().decode(),
                        "token_ids": result.as_numpy("token_ids").tolist(),
                        "finish_reason": result.as_numpy("finish_reason").item().decode(),
                    }
                )
        return blocks
    finally:
        client.stop_stream(cancel_requests=True)


def begin(address: str, inputs: dict[str, Any], options: dict[str, Any]) -> tuple[Any, "queue.Queue[Any]"]:
    """Send one request; return its client, and where its responses come."""
    tensors = []
    for name, value in {**inputs, "options": json.dumps(options)}.items():
        text = isinstance(value, str)
        array = np.array([value.encode()], np.object_) if text else np.array(value, np.int32)
        tensor = triton_client.InferInput(name, list(array.shape), "BYTES" if text else "INT32")
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    came: queue.Queue[Any] = queue.Queue()
    client = triton_client.InferenceServerClient(address)
    client.start_stream(lambda result, error: came.put((result, error)))
    client.async_stream_infer(MODEL, tensors)
    return client, came


def refusal(address: str, inputs: dict[str, Any], **options: Any) -> str | None:
    """Return the last line of what a request is refused with; None where it is not."""
    try:
        ask(address, inputs, **options)
    except RuntimeError as error:
        return str(error).strip().splitlines()[-1]
    return None


def left(address: str, service: Service) -> int:
    """Return how many rows run a second after the only client has left."""
    client, came = begin(
        address, {"text_input": QUESTION}, {"max_tokens": 3000, "ignore_eos": True, "mode": "ar"}
    )
    came.get(timeout=60)
    client.stop_stream(cancel_requests=True)
    client.close()
    time.sleep(1.0)
    return service.engine.snapshot.running


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    main()
