"""A PostgreSQL server that the user's processes share: the first starts it, the last one out stops it.

    <home>/mutex                held alone while somebody starts, attaches or stops
    <home>/clients              held shared by every client, for as long as it lives: the kernel keeps the count
    <home>/held                 exists: the server stays although no client is left (`agency db up`)
    <home>/postgres-<major>     the cluster

A client that is killed leaves no trace. If all of them are killed the server runs on; the next client finds it, and its
`stop` stops it. Above: the composition roots and the command line. Below: `postmaster`, `cluster`, `binaries`.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from storage.embedded import database, locks, postmaster
from storage.embedded.account import Account, make_directory, open_private
from storage.embedded.binaries import choose, within_reach
from storage.embedded.cluster import Cluster, clusters, create, locate
from storage.embedded.endpoint import ADMIN, Endpoint, State, probe
from storage.embedded.errors import BinariesNotFoundError, NotStartedError

SYSTEM_DIR = Path("/var/lib/agency")
"""Where root's clusters live when the unprivileged account cannot reach the base directory, as in /root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """What can be said from outside. The number of clients cannot: the kernel only tells whether there are any."""

    running: bool
    version: str | None
    """As in "18.6" while it runs, else the major version of its data; None before the first start."""
    data_dir: Path | None
    """None before the first start."""
    pid: int | None
    held: bool


class EmbeddedServer:
    """One client of the server of a base directory: from `start` until `stop` or the end of the process.

    An object that is forgotten stays a client, since somebody may use the DSN it gave. Several threads may share one; a
    child made by a bare fork counts as the same client for as long as it lives.

    `data_dir` is the base: the cluster is made in `postgres-<major>` below it, unless this is root and PostgreSQL's
    account cannot reach it; then below `system_dir`. `pg_bin` (AGENCY_PG_BIN) replaces the search for programs.
    `timeout_s` bounds each wait: for other processes, for initdb, for a start with recovery, for a stop.
    """

    def __init__(
        self, data_dir: Path, *, pg_bin: Path | None = None, timeout_s: float = 60.0, system_dir: Path = SYSTEM_DIR
    ) -> None:
        self._base = data_dir.absolute()
        self._pg_bin = pg_bin
        self._timeout_s = timeout_s
        self._system_dir = system_dir
        self._client: int | None = None
        self._endpoint: Endpoint | None = None

    @property
    def home(self) -> Path:
        """Where the cluster is, and what belongs beside it: the base directory, or root's substitute for it."""
        return self._locate()[0]

    def start(self) -> str:
        """Attach to the server, starting or even creating it if need be, and return the superuser's DSN.

        A second call checks that the server still runs, and restarts it if not.

        Raises:
            EmbeddedServerError: its kinds are drawn in `errors`.
        """
        home, account = self._locate()
        make_directory(home, account)
        with self._mutex(home):
            client = locks.share(home / "clients") if self._client is None else self._client
            try:
                self._endpoint = self._attach(home, account)
            except BaseException:
                os.close(client)
                self._client = None
                raise
            self._client = client
            return self._endpoint.dsn(ADMIN, ADMIN)

    def stop(self) -> bool:
        """Detach; return whether this was the last client and the server is stopped.

        Without a start, or after a stop, nothing happens and the answer is False.
        """
        home, account = self._locate()
        if not home.is_dir():
            return False
        with self._mutex(home):
            if self._client is None:
                return False
            os.close(self._client)
            self._client = None
            return self._stop_if_unused(home, account)

    def ensure_database(self, name: str = "agency", owner: str = "agency") -> str:
        """Make the database and its owner, a role that is no superuser, unless they exist; return the owner's DSN.

        Raises:
            NotStartedError: before `start`.
        """
        home, _ = self._locate()
        if self._client is None or self._endpoint is None:
            raise NotStartedError
        with self._mutex(home):
            database.ensure_database(self._endpoint, name=name, owner=owner)
        return self._endpoint.dsn(owner, name)

    def hold(self) -> str:
        """Start the server and keep it, beyond this process and a restart of the machine, until `release`.

        Nobody starts it by itself after a crash: the next client does. Returns what `start` returns.
        """
        dsn = self.start()
        home, _ = self._locate()
        with self._mutex(home):
            os.close(open_private(home / "held"))
        return dsn

    def release(self) -> bool:
        """End `hold`, whoever called it; return whether nobody was left and the server is stopped.

        It also stops a server whose clients were all killed.
        """
        home, account = self._locate()
        if not home.is_dir():
            return False
        with self._mutex(home):
            (home / "held").unlink(missing_ok=True)
            return self._stop_if_unused(home, account)

    def status(self) -> ServerStatus:
        """Ask the server, without attaching to it or waiting for anybody."""
        home, account = self._locate()
        held = (home / "held").exists()
        cluster = self._existing_cluster(home, account)
        if cluster is None:
            return ServerStatus(running=False, version=None, data_dir=None, pid=None, held=held)
        answer = probe(postmaster.endpoint_of(cluster))
        running = answer.state is State.READY
        return ServerStatus(
            running=running,
            version=answer.version or str(cluster.major),
            data_dir=cluster.data_dir,
            pid=postmaster.running_pid(cluster) if running else None,
            held=held,
        )

    def _locate(self) -> tuple[Path, Account | None]:
        return locate(self._base.resolve(), self._system_dir)

    def _mutex(self, home: Path) -> contextlib.AbstractContextManager[None]:
        return locks.exclusive(home / "mutex", timeout_s=self._timeout_s)

    def _existing_cluster(self, home: Path, account: Account | None) -> Cluster | None:
        majors = clusters(home)
        if not majors:
            return None
        major = majors[0]
        if len(majors) > 1 and self._pg_bin is not None:
            with contextlib.suppress(BinariesNotFoundError):
                asked = choose(self._pg_bin, major=None).major
                major = asked if asked in majors else major
        return Cluster(home=home, major=major, account=account)

    def _attach(self, home: Path, account: Account | None) -> Endpoint:
        cluster = self._existing_cluster(home, account)
        if cluster is not None:
            endpoint = postmaster.endpoint_of(cluster)
            if endpoint is not None and probe(endpoint).state is State.READY:
                return endpoint
            binaries = choose(self._pg_bin, major=cluster.major, cluster=cluster.data_dir)
        else:
            binaries = choose(self._pg_bin, major=None)
        binaries = within_reach(binaries, account, home)
        if cluster is None:
            cluster = Cluster(home=home, major=binaries.major, account=account)
            create(cluster, binaries, timeout_s=self._timeout_s)
        return postmaster.bring_up(cluster, binaries, timeout_s=self._timeout_s)

    def _stop_if_unused(self, home: Path, account: Account | None) -> bool:
        if (home / "held").exists() or locks.is_shared(home / "clients"):
            return False
        if cluster := self._existing_cluster(home, account):
            postmaster.shut_down(cluster, self._pg_bin, timeout_s=self._timeout_s)
        return True
