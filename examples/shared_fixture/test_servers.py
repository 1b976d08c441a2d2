"""Tests that start servers, each on a port that no other test of the run gets."""

import http.client
import http.server
import threading

import pytest


@pytest.fixture
def server(unique_port, tmp_path):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path)

        def log_message(self, *args):
            pass

    (tmp_path / "port").write_text(str(unique_port))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", unique_port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("again", range(8))
def test_my_server_answers(server, unique_port, again):
    connection = http.client.HTTPConnection("127.0.0.1", unique_port, timeout=60)
    connection.request("GET", "/port")
    assert connection.getresponse().read() == str(unique_port).encode()
    connection.close()
