import pytest
from matplotlib.image import imread

from trainers.data.packing import STRATEGIES
from trainers.data.packing_picture import draw
from trainers.data.packing_stats import measure


def write(path, batch, limit, num_ranks, strategies=STRATEGIES):
    stats = [measure([batch], limit, num_ranks, strategy) for strategy in strategies]
    draw(path, batch, batch, stats, limit, num_ranks, "a title")


@pytest.mark.parametrize(
    ("batch", "num_ranks"),
    [([5, 7, 20, 3, 9] * 20, 4), ([30], 1), ([1, 40, 30], 20)],
    ids=["more steps than drawn", "one sample at the limit", "more ranks than drawn, one sample dropped"],
)
def test_writes_a_picture_with_colour(tmp_path, batch, num_ranks):
    write(tmp_path / "picture.png", batch, 30, num_ranks)
    pixels = imread(tmp_path / "picture.png")
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 1000
    assert pixels[..., :3].std() > 0.05


def test_the_same_packing_gives_the_same_picture(tmp_path):
    for name in ("one.png", "two.png"):
        write(tmp_path / name, [5, 7, 20, 3], 30, 2)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_another_packing_gives_another_picture(tmp_path):
    write(tmp_path / "lpt.png", [5, 7, 20, 3, 25], 30, 2, ["lpt"])
    write(tmp_path / "greedy.png", [5, 7, 20, 3, 25], 30, 2, ["greedy"])
    assert (imread(tmp_path / "lpt.png") != imread(tmp_path / "greedy.png")).any()


def test_later_steps_are_drawn(tmp_path):
    # The first step and the caption are the same; in the second step the samples change places.
    write(tmp_path / "one.png", [30, 10, 20], 30, 1, ["greedy"])
    write(tmp_path / "two.png", [30, 20, 10], 30, 1, ["greedy"])
    assert (imread(tmp_path / "one.png") != imread(tmp_path / "two.png")).any()


def test_an_unknown_format_is_named(tmp_path):
    with pytest.raises(ValueError, match="bmpx"):
        write(tmp_path / "picture.bmpx", [5], 30, 1)
