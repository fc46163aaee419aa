import http.client
import json
import threading

import pytest

from tools.remote import web
from tools.remote.status import assemble
from tools.remote.status_example import WANTED, facts


@pytest.fixture
def server():
    reads = []

    def read():
        reads.append(1)
        return assemble(WANTED, facts())

    with web.Server(0, read) as server:
        server.reads = reads
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, path, host=None):
    connection = http.client.HTTPConnection(web.HOST, server.server_port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def test_the_three_views(server):
    page, text = get(server, "/")
    assert page.status == 200 and "//trainers/data:packing_test" in text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    told, text = get(server, "/status.json")
    assert told.headers["Content-Type"] == "application/json" and json.loads(text)["health"] == "healthy"
    metrics, text = get(server, "/metrics?x=1")
    assert (
        metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        and "# TYPE trainyard_health gauge" in text
    )
    assert len(server.reads) == 1


def test_other_paths_and_other_names(server):
    assert get(server, "/../etc/passwd")[0].status == 404
    assert get(server, "/status.json", host=f"localhost:{server.server_port}")[0].status == 200
    answer, text = get(server, "/status.json", host="attacker.example")
    assert answer.status == 403 and "packing_test" not in text


def test_only_on_loopback(server):
    assert server.server_address[0] == "127.0.0.1"


def test_port_that_is_taken(server, tmp_path):
    with pytest.raises(ValueError, match=f"port {server.server_port} of 127.0.0.1 is taken by another program"):
        web.server(tmp_path, tmp_path, server.server_port)


def test_settings_that_cannot_be_read():
    def read():
        raise ValueError("cluster.json does not say what a cluster is")

    with web.Server(0, read) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        answer, text = get(server, "/metrics")
        assert answer.status == 500 and "cluster.json" in text
        server.shutdown()
        thread.join()
