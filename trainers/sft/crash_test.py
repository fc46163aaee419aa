"""A training that is killed again and again ends as one that was never interrupted."""

import random
import time

from trainers.checkpoint.store import CheckpointStore
from trainers.sft.forked_runs import last_state, results, start, statuses, wait_until
from trainers.sft.sft_cases import config_of, write_case

ATTEMPTS = 50


def test_killed_at_random_moments(tmp_path):
    write_case(tmp_path)
    endless = config_of(tmp_path, infinite=True, schedule="constant", save_every_steps=2)
    store = CheckpointStore(endless.output / "states")
    moments = random.Random(0)
    newest, inside = 0, 0
    for attempt in range(ATTEMPTS):
        ranks = start(endless, 1)
        if attempt % 5:  # (otherwise while it sets up, or in its first steps)
            wait_until(lambda newest=newest: last_state(endless) > newest, ranks)
        time.sleep(moments.uniform(0, 0.2))
        ranks[0].kill()
        assert statuses(ranks) == [-9]
        assert last_state(endless) >= newest
        newest = last_state(endless)
        complete = {each.path for each in store.scan()[0] if store.damage(each) is None}
        assert complete == set(store.folder.glob("step-*")), "what looks complete is complete"
        inside += any(store.folder.glob(".writing-*"))
    assert newest >= 1.5 * ATTEMPTS, "most runs complete a save"
    assert inside > ATTEMPTS / 5, "many are killed inside the next"
    resumed = config_of(tmp_path, steps=newest + 3, schedule="constant")
    whole = config_of(tmp_path, steps=newest + 3, schedule="constant", output=tmp_path / "whole")
    assert statuses(start(resumed, 1)) == statuses(start(whole, 1)) == [0]
    assert results(resumed) == results(whole)
