"""The model that tests serve."""

from pathlib import Path

from make_tiny_model import make_tiny_model


def test_same_seed_same_file(tmp_path: Path) -> None:
    first, second, other = (
        make_tiny_model(tmp_path / f"{n}.gguf", seed=seed).read_bytes() for n, seed in enumerate((1, 1, 2))
    )
    assert first == second
    assert first != other


def test_is_a_few_megabytes(tiny_model: Path) -> None:
    assert 100_000 < tiny_model.stat().st_size < 5_000_000
