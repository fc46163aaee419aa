import re
from pathlib import Path

import yaml

from tools.remote import buildgrid_config
from tools.remote.places import Places
from tools.remote.settings import Settings


class _Loader(yaml.SafeLoader):
    """Reads BuildGrid's own tags as what they stand before."""


def _plain(loader, suffix, node):
    del suffix
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else node.value


_Loader.add_multi_constructor("!", _plain)
POOLS = ["cpu", "gpu"]


def render(*, secure=False):
    wanted = Settings(port=5000, queue_seconds=77, silence_seconds=15, secure=secure)
    text = buildgrid_config.render(Places(Path("/home/c")), POOLS, wanted)
    assert not re.search(r"\$[a-z]", text.replace("# The scheduler. $name", ""))
    return yaml.load(text, _Loader)


def test_pools_in_their_order():
    (scheduler,) = render()["schedulers"]
    labels = scheduler["property-set"]["property-labels"]
    assert [label["label"] for label in labels] == POOLS
    assert [label["properties"] for label in labels] == [[["Pool", "cpu"]], [["Pool", "gpu"]]]
    assert scheduler["queue-timeout-job-max-age"] == {"seconds": 77}
    assert scheduler["bot-session-keepalive-timeout"] == 15


def test_open_on_request_alone():
    (channel,) = render()["server"]
    assert channel == {"address": "127.0.0.1:5000", "insecure-mode": True}
    assert "authorization" not in render()


def test_secure():
    found = render(secure=True)
    (channel,) = found["server"]
    assert channel["insecure-mode"] is False
    assert channel["credentials"] == {
        "tls-server-key": "/home/c/tls/server.key",
        "tls-server-cert": "/home/c/tls/server.pem",
        "tls-client-certs": "/home/c/tls/ca.pem",
    }
    assert found["authorization"]["method"] == "jwt"
    assert found["authorization"]["secret"] == "/home/c/tls/token.secret"


def test_rights():
    access = yaml.safe_load(buildgrid_config.access("worker", "client"))
    rights = {each["subject"]: set(each["requests"]) for each in access[""]["allow"]}
    assert rights.keys() == {"^worker$", "^client$"}
    assert "Execute" not in rights["^worker$"]
    assert not rights["^client$"] & {"CreateBotSession", "UpdateBotSession", "UpdateActionResult"}
    assert {"Execute", "Read", "Write", "GetActionResult"} <= rights["^client$"]
    assert {"CreateBotSession", "UpdateBotSession", "UpdateActionResult"} <= rights["^worker$"]
