import pytest

import ttc
from ttc.profiles import Profile, load_profile, preset_names


def test_presets_load():
    assert "cpu" in preset_names()
    for name in preset_names():
        profile = load_profile(name)
        assert profile.name == name


def test_capacity_is_the_first_bucket_that_holds():
    profile = Profile("test", 16, (8, 32))
    assert [profile.capacity_for(n) for n in (1, 8, 9, 32, 33, 65)] == [8, 8, 32, 32, 64, 96]


def test_own_file_by_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("prefill_chunk = 32\ncapacity_buckets = [64, 128]\n")
    assert load_profile(path) == Profile("mine", 32, (64, 128))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "prefill_chunk = 32",
            "unknown or missing keys: capacity_buckets; valid: capacity_buckets, prefill_chunk",
        ),
        ("prefill_chunk = 32\ncapacity_buckets = [64]\nfast = 1", "unknown or missing keys: fast"),
        ("prefill_chunk = 0\ncapacity_buckets = [64]", "prefill_chunk is 0; valid: 1 to 512"),
        ("prefill_chunk = true\ncapacity_buckets = [64]", "prefill_chunk is True"),
        ("prefill_chunk = 32\ncapacity_buckets = [64, 64]", "ascending"),
        ("prefill_chunk = 32\ncapacity_buckets = []", "ascending"),
        ("prefill_chunk = 32\ncapacity_buckets = 64", "a list of token counts"),
        ("prefill_chunk =", "is not TOML"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, says):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ttc.InputError) as error:
        load_profile(path)
    assert says in str(error.value)


def test_unknown_name_says_what_there_is():
    with pytest.raises(ttc.InputError, match=r"no profile 'fast'; valid: .*cpu"):
        load_profile("fast")
