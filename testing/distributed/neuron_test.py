"""How NeuronCores are dealt to ranks."""

import pytest

from testing.distributed.context import neuron_environment


def test_one_core_each():
    env = neuron_environment(1, 2, 5000, {})
    assert env["NEURON_RT_VISIBLE_CORES"] == "1"
    assert env["NEURON_RT_ROOT_COMM_ID"] == "127.0.0.1:5000"
    assert env["NEURON_PJRT_PROCESSES_NUM_DEVICES"] == "1,1"
    assert env["NEURON_PJRT_PROCESS_INDEX"] == "1"


@pytest.mark.parametrize(("visible", "cores"), [("4-7", "4567"), ("0,2,9", "029"), ("1,4-5", "145")])
def test_cores_of_the_target(visible, cores):
    dealt = [neuron_environment(rank, 3, 1, {"NEURON_RT_VISIBLE_CORES": visible}) for rank in range(3)]
    assert [env["NEURON_RT_VISIBLE_CORES"] for env in dealt] == list(cores[:3])


def test_too_few_cores():
    with pytest.raises(RuntimeError, match="3 ranks need 3 NeuronCores and NEURON_RT_VISIBLE_CORES names 2"):
        neuron_environment(0, 3, 1, {"NEURON_RT_VISIBLE_CORES": "0-1"})
