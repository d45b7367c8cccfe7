"""nginx, which serves the files of a folder by sendfile and does nothing else: the fastest server for a file."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from tests.servers.server import Program, Server
from tests.servers.system_programs import system_program

_CONFIGURATION = """
daemon off;
pid nginx.pid;
error_log stderr;
user root;
events {{}}
http {{
  access_log off;
  sendfile on;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{port};
    location = / {{ return 204; }}
    location / {{ root {folder}; }}
  }}
}}
"""


class SendfileServer(Server):
    """Serves the files of `folder` at their names."""

    def __init__(self, data: Path, folder: Path) -> None:
        super().__init__(data)
        self._program = system_program("nginx")
        self._folder = folder

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def programs(self) -> list[Program]:
        (self.data / "nginx.conf").write_text(_CONFIGURATION.format(port=self.port, folder=self._folder))
        return [Program("nginx", [self._program, "-p", str(self.data), "-c", "nginx.conf", "-e", "stderr"])]

    def check(self) -> None:
        urllib.request.urlopen(f"{self.url}/", timeout=5).close()
