"""nginx as a reverse proxy before one API."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from tests.servers.server import Program, Server, free_port
from tests.servers.system_programs import system_program

_CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{removing_port};
    location = / {{ return 204; }}
    location {path}/ {{ proxy_pass http://127.0.0.1:{api_port}/; }}
  }}
  server {{
    listen 127.0.0.1:{keeping_port};
    location {path}/ {{ proxy_pass http://127.0.0.1:{api_port}; }}
  }}
}}
"""


class Nginx(Server):
    """Serves an API below `path`: at `port` it removes the path from requests, at `keeping_port` it passes it on.

    The Host of its requests is its own address of the API, as without any configuration of headers. Set `api_port`
    before it starts.
    """

    def __init__(self, data: Path, *, path: str) -> None:
        super().__init__(data)
        self._program = system_program("nginx")
        self._path = path
        self.keeping_port = free_port()
        self.api_port = 0

    @property
    def url(self) -> str:
        """The URL of the API as its clients know it."""
        return f"http://127.0.0.1:{self.port}{self._path}"

    def programs(self) -> list[Program]:
        configuration = _CONFIGURATION.format(
            removing_port=self.port, keeping_port=self.keeping_port, api_port=self.api_port, path=self._path
        )
        (self.data / "nginx.conf").write_text(configuration)
        return [Program("nginx", [self._program, "-p", str(self.data), "-c", "nginx.conf", "-e", "stderr"])]

    def check(self) -> None:
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5).close()
