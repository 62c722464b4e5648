"""What the benchmark of the core finds, apart from times: the same tokens, fewer rows, no copies."""

from benchmarks import core


def test_a_hundred_random_requests_are_what_they_are_alone(engines):
    found = core.together_and_alone(engines("miniature", "onnxruntime"), 100)
    wrong = [found[key] for key in ("with_other_tokens", "with_other_ends", "with_other_nfe")]
    assert (found["requests"], wrong) == (100, [0, 0, 0])
    assert found["diffusion_requests"] > 20


def test_rows_that_are_done_are_not_evaluated(engines):
    found = core.static_batch(engines("miniature", "onnxruntime"))
    assert found["denoiser_rows"] < 0.7 * found["in_lockstep"]


def test_who_joins_copies_nobody(engines):
    assert core.joining(engines("miniature", "onnxruntime"))["rows_copied"] == 0
