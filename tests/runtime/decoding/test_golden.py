"""Both backends against the reference's recorded numbers and runs."""

import numpy as np
import pytest

from tests.support import tolerances
from tests.support.compare import assert_close, assert_equal
from tests.support.golden import CHECKPOINTS, golden
from tests.support.recorded import options_of
from tests.support.recording import RecordedNoise, Wrapped
from ttc.runtime.engine import Engine
from ttc.runtime.interface.state import ContextState

MODES = {"gen": "diffusion", "generate_ar": "ar", "generate_mock_ar": "mock-ar"}


def runs(name, *, batch=False):
    """Recorded generations: those of one row; or the batches, whose targets are their rows alone."""
    g = golden(name)
    chosen = {}
    for case_name, case in g.cases.items():
        if case_name.split("/")[0] not in MODES or case.get("temperature"):
            continue
        if (g.prompt(case).shape[0] > 1) == batch:
            chosen[case_name] = case
    return chosen


def mode_of(case_name):
    return MODES[case_name.split("/")[0]]


def until_eos(tokens, eos):
    """The reference keeps the whole block that holds eos; the result ends with it."""
    tokens = list(tokens)
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


@pytest.fixture(params=CHECKPOINTS)
def g(request):
    return golden(request.param)


@pytest.fixture
def engine(g, engines, backend):
    return engines(g.name, backend)


def state_after(engine: Engine, prompt, *pieces, block_wise=True) -> ContextState:
    """Context state after the prompt (B, S) and further tokens, each piece one call or token by token."""
    backend = engine.runner
    state = backend.new_state(prompt.shape[0], 256)
    for piece in (prompt, *pieces):
        blocks = [piece] if block_wise or piece is prompt else np.split(piece, piece.shape[1], axis=1)
        for block in blocks:
            B, L = block.shape
            backend.context(
                state, block.astype(np.int32), np.full(B, L, np.int32), np.zeros((B, 1), np.int32)
            )
    return state


def check_state(engine, state, g, prefix):
    """Every recorded cache tensor below the prefix; keys and values only as far as they count."""
    names = {"conv": "conv_state", "ssm": "ssm_state", "k": "k_cache", "v": "v_cache"}
    read, checked = engine.runner.read_state(state), 0
    for key, want in g.vectors.items():
        if not key.startswith(prefix):
            continue
        kind, layer = key.split("/")[-2:]
        got = read[f"{names[kind]}.{layer}"]
        if kind == "conv":
            want = want[..., 1:]  # the reference keeps one column more than it needs
        if kind in "kv":
            got = got[:, :, : want.shape[2]]
        assert_close(got, want, tolerances.CACHES, key)
        checked += 1
    assert checked, f"no recorded caches under {prefix}"


def test_context_logits(g, engine):
    for key, want in g.vectors.items():
        if key.startswith("ctx/logits/"):
            prompt = g.vectors[f"prompt/{key.split('/')[-1]}"]
            for row, ids in enumerate(prompt.tolist()):
                assert_close(
                    engine.context_logits(ids), want[row], tolerances.CONTEXT_LOGITS, f"{key} row {row}"
                )


def test_caches_after_the_prompt(g, engine):
    for name in sorted({key.split("/")[1] for key in g.vectors if key.startswith("cache/")}):
        state = state_after(engine, g.vectors[f"prompt/{name}"])
        check_state(engine, state, g, f"cache/{name}/")
    check_state(engine, state_after(engine, g.vectors["prompt/p01"]), g, "len1_extension/cache/")


def test_caches_without_the_last_token(g, engine):
    for name in sorted({key.split("/")[1] for key in g.vectors if key.startswith("cache_s2/")}):
        state = state_after(engine, g.vectors[f"prompt/{name}"][:, :-1])
        check_state(engine, state, g, f"cache_s2/{name}/")


def test_extensions(g, engine):
    cases = g.cases_of("ext/")
    assert cases
    for name, case in cases.items():
        pieces = [g.vectors[step["tokens"]] for step in case["steps"]]
        block_wise = case["steps"][0]["block_wise"]
        state = state_after(engine, g.prompt(case), *pieces, block_wise=block_wise)
        assert state.lengths.tolist() == [case["final_ctx_len"]] * state.batch
        check_state(engine, state, g, f"{name}/cache/")


def test_extension_committed_afterwards(g, engine):
    """Reading a block with nothing committed, then advancing, gives the state that committing at once
    gives.
    """
    case = g.cases["ext/b16"]
    block = g.vectors["ext/b16/tokens0"].astype(np.int32)
    state, backend = state_after(engine, g.prompt(case)), engine.runner
    none, places = np.zeros(1, np.int32), np.zeros((1, 1), np.int32)
    call = backend.context(state, block, none, places, save=True)
    check_state(engine, state, g, "cache/p12/")
    backend.advance(state, call.saved, np.array([block.shape[1]], np.int32))
    check_state(engine, state, g, "ext/b16/cache/")


def test_denoiser_logits(g, engine):
    for name, case in g.cases_of("den/").items():
        prompt = g.prompt(case)
        for row in range(case["B"]):
            context = prompt[row].tolist()
            for key in case.get("extended_by", []):
                context += g.vectors[key][row].tolist()
            t = None if case["t"] is None else case["t"][row]
            got = engine.denoiser_logits(context, g.vectors[f"{name}/block"][row].tolist(), t)
            assert_close(
                got, g.vectors[f"{name}/logits"][row], tolerances.DENOISER_LOGITS, f"{name} row {row}"
            )


def test_first_mock_ar_step(g, engine):
    for name in ("p02", "p12"):
        ids = g.vectors[f"prompt/{name}"][0].tolist()
        got = engine.denoiser_logits(ids[:-1], ids[-1:], None)
        assert_close(got, g.vectors[f"mock_ar_step/{name}/logits"][0], tolerances.DENOISER_LOGITS, name)


def test_runs_of_one_row(g, engine):
    """Every recorded greedy B = 1 run: tokens, and for diffusion NFE per block and every block the denoiser
    was asked.
    """
    cases = runs(g.name)
    assert len(cases) >= 40
    for name, case in cases.items():
        watched = Wrapped(engine.runner)
        watching = Engine(watched)
        prompt = g.prompt(case)[0].tolist()
        result = watching.generate(prompt, options_of(case, mode_of(name)))
        new = g.vectors[f"{name}/output"][0, len(prompt) :]
        assert_equal(result.token_ids, until_eos(new.tolist(), case["eos_token_id"]), f"{name}: tokens")
        ended = case["eos_token_id"] is not None and case["eos_token_id"] in new
        assert result.finish_reason == ("eos" if ended else "length"), name
        if name.startswith("gen/"):
            assert list(result.stats.nfe_per_block) == case["nfe_per_block"], name
            assert result.stats.nfe == case["nfe"]
            blocks, shares = (np.stack(column) for column in zip(*watched.asked, strict=True))
            assert_equal(blocks, g.vectors[f"{name}/step_xt"], f"{name}: blocks before the calls")
            recorded_t = g.vectors[f"{name}/step_t"].reshape(shares.shape)
            assert_close(shares, recorded_t, 0.0, f"{name}: t")


def test_batches_are_their_rows_alone(g, engine):
    """Recorded batches: each row comes out as recorded alone (the reference averages t, here rows are
    independent).
    """
    for name, case in runs(g.name, batch=True).items():
        prompts = g.prompt(case)
        options = options_of(case, mode_of(name))
        results = engine.generate(prompts.tolist(), options)
        for row, result in enumerate(results):
            alone = f"{name}_row{row}_alone"
            if alone in g.cases:
                want = g.vectors[f"{alone}/output"][0, prompts.shape[1] :]
                want = until_eos(want.tolist(), case["eos_token_id"])[: case["max_new_tokens"]]
                assert_equal(result.token_ids, want, alone)
                assert list(result.stats.nfe_per_block) == g.cases[alone]["nfe_per_block"], alone
            else:
                single = engine.generate(prompts[row].tolist(), options)
                assert result.token_ids == single.token_ids, f"{name} row {row}"
                if not case.get("batch_mean_t") and case["eos_token_id"] is None:
                    want = g.vectors[f"{name}/output"][row, prompts.shape[1] :]
                    assert_equal(result.token_ids, want, f"{name} row {row}")


def test_sampled_run_with_recorded_noise(g, engine):
    cases = [name for name, case in g.cases.items() if case.get("temperature")]
    assert cases
    for name in cases:
        case = g.cases[name]
        noise = g.vectors[f"{name}/step_noise"]
        replayed = Engine(RecordedNoise(engine.runner, list(noise)))
        prompt = g.prompt(case)[0].tolist()
        result = replayed.generate(prompt, options_of(case), temperature=case["temperature"])
        assert_equal(result.token_ids, g.vectors[f"{name}/output"][0, len(prompt) :], f"{name}: tokens")
        assert list(result.stats.nfe_per_block) == case["nfe_per_block"]
