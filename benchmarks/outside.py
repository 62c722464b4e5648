"""Clients that others wrote, against `ttc serve`: what they print, and whether it is what ttc says itself.

    python -m benchmarks.outside lm-eval --venv DIR      needs lm-eval[api] and transformers
    python -m benchmarks.outside aiperf --venv DIR       needs aiperf
    python -m benchmarks.outside triton --venv DIR       needs tritonclient[http]

Each in an environment of its own (`python -m venv DIR; DIR/bin/pip install …`): they bring gigabytes, and
other versions of what ttc needs. The service runs as a process of its own, with the miniature.

- *lm-eval*: its `generate_until` solves problems of the miniature's task file; `ttc bench` solves the same.
  Its `loglikelihood` scores their right answers; so does the context tower in this process.
- *aiperf*: 200 streamed completions from 8 clients.
- *triton*: Triton's own HTTP client on `/v2`, texts and token ids, compared with the engine.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ttc
from benchmarks.serving_client import Served, served
from ttc.formats.shipped import shipped_checkpoint

TASKS = Path(__file__).parent / "problems" / "miniature.jsonl"
PROBLEMS, NEW = 50, 128
GENERATE = """\
task: ttc_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n\\n"], max_gen_toks: {new}, temperature: 0.0}}
filter_list:
  - name: stated
    filter:
      - {{function: regex, regex_pattern: "answer is (.*?)\\\\.(?:\\\\s|$)"}}
      - {{function: take_first}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
LIKELIHOOD = """\
task: ttc_likelihood
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{text}}}}"
target_delimiter: ""
metric_list: [{{metric: perplexity, aggregation: perplexity, higher_is_better: false}}]
"""
TRITON = """\
import json, sys
import numpy as np
import tritonclient.http as triton

address, asked = sys.argv[1], json.loads(sys.argv[2])
client = triton.InferenceServerClient(address)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("mini")
print(json.dumps(client.get_model_metadata("mini")), file=sys.stderr)
answers = []
for one in asked:
    if "text" in one:
        given = triton.InferInput("text_input", [1], "BYTES")
        given.set_data_from_numpy(np.array([one["text"].encode()], object), binary_data=one["binary"])
    else:
        given = triton.InferInput("input_ids", [len(one["ids"])], "INT32")
        given.set_data_from_numpy(np.array(one["ids"], np.int32), binary_data=one["binary"])
    found = client.infer("mini", [given], parameters=one["parameters"])
    answers.append({
        "text": found.as_numpy("text_output").flatten()[0].decode(),
        "ids": found.as_numpy("token_ids").flatten().tolist(),
    })
print(json.dumps(answers))
"""


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description="Ask the service with others' clients.")
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("--venv", type=Path, required=True, help="The environment with the client.")
    parser.add_argument("--bundle", type=Path, help="The miniature's bundle.  [default: exported first]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = args.bundle or ttc.export(shipped_checkpoint(), folder / "model.bundle")
        tokenizer = folder / "tokenizer"
        tokenizer.mkdir()
        (tokenizer / "tokenizer.json").write_bytes((shipped_checkpoint() / "tokenizer.json").read_bytes())
        kind = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "</s>"}
        (tokenizer / "tokenizer_config.json").write_text(json.dumps(kind), encoding="utf-8")
        with served(bundle, "--served-model-name", "mini") as service:
            found = CLIENTS[args.client](args.venv.absolute(), bundle, folder, service)
    print(json.dumps(found, indent=1))


def lm_eval(venv: Path, bundle: Path, folder: Path, service: Served) -> dict[str, Any]:
    """Answers of problems and log-likelihoods, both ways."""
    # Those whose right answer is what the text states, which a filter of lm-eval finds as well.
    lines = [line for line in TASKS.read_text("utf-8").splitlines() if json.loads(line)["check"] == "answer"]
    lines = lines[:PROBLEMS]
    problems = [json.loads(line) for line in lines]
    file = folder / "problems.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, text in (("generate", GENERATE), ("likelihood", LIKELIHOOD)):
        (folder / f"ttc_{name}.yaml").write_text(text.format(file=file, new=NEW), encoding="utf-8")
    arguments = {
        "model": "mini",
        "base_url": f"http://{service.host}:{service.port}/v1/completions",
        "tokenizer": folder / "tokenizer",
        "tokenizer_backend": "huggingface",
        "tokenized_requests": True,
        "add_bos_token": True,
        "num_concurrent": 4,
        "max_retries": 1,
        "max_length": 1024,
    }
    model = ",".join(f"{name}={value}" for name, value in arguments.items())
    run(
        f"{venv}/bin/lm_eval --model local-completions --model_args {model} --include_path {folder} "
        f"--tasks ttc_generate,ttc_likelihood --output_path {folder}/lm_eval --log_samples"
    )
    results = json.loads(next(folder.glob("lm_eval/**/results_*.json")).read_text(encoding="utf-8"))
    samples = next(folder.glob("lm_eval/**/samples_ttc_likelihood_*.jsonl")).read_text(encoding="utf-8")
    scored = [json.loads(line) for line in samples.splitlines()]
    theirs = {each["doc_id"]: float(_first(each["filtered_resps"])) for each in scored}
    with ttc.load(bundle) as engine:
        ours = [likelihood(engine, each["prompt"], each["text"]) for each in problems]
    bench = json.loads(
        run(
            f"{sys.executable} -m ttc bench {bundle} --tasks {file} --max-new-tokens {NEW} --modes diffusion "
            "--timed-prompts 1 --repeats 1 --json"
        )
    )
    (diffusion,) = (case for case in bench["cases"] if case["name"].startswith("diffusion"))
    return {
        "problems": len(problems),
        "right_by_lm_eval": results["results"]["ttc_generate"]["exact_match,stated"] * len(problems),
        "right_by_ttc_bench": diffusion["answers"]["quality"]["correct"],
        "log_likelihood_by_lm_eval": sum(theirs.values()),
        "log_likelihood_by_the_context_tower": sum(ours),
        "most_difference_of_one": max(abs(theirs[i] - mine) for i, mine in enumerate(ours)),
    }


def _first(value: Any) -> Any:
    """Return the innermost first item: lm-eval nests what it was answered."""
    return _first(value[0]) if isinstance(value, list) else value


def likelihood(engine: ttc.Engine, prompt: str, text: str) -> float:
    """Return log p of a text after a prompt under the context tower."""
    assert engine.tokenizer is not None
    context, whole = (engine.tokenizer.encode(part).ids for part in (prompt, prompt + text))
    logits = engine.context_logits(whole[:-1]).astype(np.float64)[len(context) - 1 :]
    top = logits.max(-1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    chosen = logits[np.arange(len(logits)), whole[len(context) :]]
    return float((chosen - log_sum).sum())


def aiperf(venv: Path, bundle: Path, folder: Path, service: Served) -> dict[str, Any]:
    """200 streamed requests."""
    run(
        f"{venv}/bin/aiperf profile --model mini --url http://{service.host}:{service.port} "
        f"--endpoint-type completions --streaming --request-count 200 --concurrency 8 "
        f"--tokenizer {folder}/tokenizer --synthetic-input-tokens-mean 40 --output-tokens-mean 48 "
        f"--extra-inputs ignore_eos:true --artifact-dir {folder}/aiperf --ui none"
    )
    found = json.loads((folder / "aiperf" / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    shown = ("request_count", "error_request_count", "request_throughput", "output_token_throughput")
    shown += ("time_to_first_token", "request_latency", "output_sequence_length")
    return {name: found.get(name) for name in shown}


def triton(venv: Path, bundle: Path, folder: Path, service: Served) -> dict[str, Any]:
    """Texts and ids, as JSON and as bytes."""
    question = "Question: Tom has 8 boxes with 7 keys each. Tom gets 5 more. How many?\nAnswer:"
    asked = [
        {"text": question, "binary": binary, "parameters": {"max_tokens": 40, "mode": mode}}
        for binary in (False, True)
        for mode in ("diffusion", "ar")
    ]
    asked += [{"ids": [7, 8, 9], "binary": True, "parameters": {"max_tokens": 40, "mode": "lossless"}}]
    script, address = folder / "triton_client.py", f"{service.host}:{service.port}"
    script.write_text(TRITON, encoding="utf-8")
    answers = json.loads(run(f"{venv}/bin/python {script} {address} {shlex.quote(json.dumps(asked))}"))
    same = 0
    with ttc.load(bundle) as engine:
        for one, answer in zip(asked, answers, strict=True):
            prompt, mode = one.get("text", one.get("ids")), one["parameters"]["mode"]
            alone = engine.generate(prompt, mode, max_new_tokens=40, split_special_tokens=True)
            assert isinstance(alone, ttc.Result)
            same += (list(alone.token_ids), alone.text) == (answer["ids"], answer["text"])
    return {"answers": len(answers), "equal_to_the_engines": same}


def run(command: str) -> str:
    """Run a command; return what it printed, and show it all if it fails."""
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}\n{command}\nfailed ({done.returncode})")
    return done.stdout


CLIENTS: dict[str, Callable[[Path, Path, Path, Served], dict[str, Any]]] = {
    "lm-eval": lm_eval,
    "aiperf": aiperf,
    "triton": triton,
}

if __name__ == "__main__":
    main()
