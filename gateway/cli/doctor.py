"""`agency doctor`: what works here, what does not, and what to do about it."""

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version

from gateway.cli.output import print_json
from gateway.cli.programs import programs
from gateway.errors import CheckFailedError
from runtime.errors import RuntimeFault
from runtime.local import find_user, load_keyring, open_address
from runtime.presence import nobody_for
from runtime.settings import RuntimeSettings
from storage import schema_state
from storage.engine import Address, connect
from storage.errors import StorageError
from storage.queries import executions, workers
from storage.settings import StorageSettings, config_file
from storage.tenancy import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    is_ok: bool
    detail: str


async def doctor(as_json: bool) -> None:
    """Look at everything and fail when something is wrong."""
    storage, settings = StorageSettings(), RuntimeSettings()
    findings = [_python(), _config(), _model(settings), *_apps(settings), *await _database(storage, settings)]
    if as_json:
        print_json({"ok": all(found.is_ok for found in findings), "findings": [_shown(found) for found in findings]})
    else:
        for found in findings:
            sys.stdout.write(f"{'ok ' if found.is_ok else 'BAD'}  {found.name:<10}  {found.detail}\n")
    if not all(found.is_ok for found in findings):
        raise CheckFailedError("something is wrong; the lines marked BAD say what to do")


def _shown(found: Finding) -> dict[str, object]:
    return {"name": found.name, "ok": found.is_ok, "detail": found.detail}


def _python() -> Finding:
    detail = (
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, agency {version('agency-runtime')}"
    )
    return Finding(name="python", is_ok=True, detail=detail)


def _config() -> Finding:
    path = config_file()
    return Finding(name="config", is_ok=True, detail=f"{path} ({'read' if path.exists() else 'not there, not needed'})")


def _model(settings: RuntimeSettings) -> Finding:
    if settings.anthropic_api_key is None:
        detail = "offline: understands the demo's language only; set ANTHROPIC_API_KEY for Claude"
    else:
        detail = settings.model
    return Finding(name="model", is_ok=True, detail=detail)


def _keys(storage: StorageSettings, address: Address) -> Finding:
    try:
        keyring = load_keyring(storage, address)
    except StorageError as error:
        return Finding(name="keys", is_ok=False, detail=str(error))
    return Finding(name="keys", is_ok=True, detail=f"{len(keyring.key_ids)} key(s) for secrets at rest")


async def _database(storage: StorageSettings, settings: RuntimeSettings) -> list[Finding]:
    try:
        async with open_address(storage, upgrade=storage.database_url is None) as address:
            return [
                await _server(address),
                await _schema(address),
                _keys(storage, address),
                *await _work(address, settings),
            ]
    except StorageError as error:
        return [Finding(name="database", is_ok=False, detail=str(error))]


async def _server(address: Address) -> Finding:
    connection = await connect(address, direct=True)
    try:
        running: str = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
    return Finding(name="database", is_ok=True, detail=f"PostgreSQL {running} at {address.label}")


async def _schema(address: Address) -> Finding:
    state = await schema_state.state(address)
    if state.is_ready:
        return Finding(name="schema", is_ok=True, detail=f"revision {state.current}")
    problems = "; ".join(state.problems) or f"revision {state.current} instead of {state.head}"
    return Finding(name="schema", is_ok=False, detail=f"{problems}; run 'agency db upgrade'")


async def _work(address: Address, settings: RuntimeSettings) -> list[Finding]:
    """Look who this process acts as, and whether somebody is there to do what that user has asked for."""
    database = Database(address, pool_size=1)
    try:
        user_id = await find_user(database, settings, embedded=address.embedded)
        return [
            Finding(name="user", is_ok=True, detail=f"acting as user {user_id}"),
            await _workers(database, user_id),
        ]
    except (RuntimeFault, StorageError) as error:
        return [Finding(name="user", is_ok=False, detail=str(error))]
    finally:
        await database.close()


async def _workers(database: Database, user_id: int) -> Finding:
    """Tell who works, and what waits for somebody who does not; that may be as it should be, so it is never BAD."""
    async with database.begin_dispatch() as db:
        found = await workers.living(db)
    async with database.begin(user_id, read_only=True) as db:
        wanted = await executions.waiting_agents(db)
    own = sorted({name for process in found for name in process.agents if ":" in name})
    also = f", with {', '.join(own)}" if own else ""
    told = [f"{len(found)} at work{also}", *[await nobody_for(database, name) for name in wanted]]
    return Finding(name="workers", is_ok=True, detail="; ".join(word for word in told if word is not None))


def _apps(settings: RuntimeSettings) -> list[Finding]:
    """Load what AGENCY_APPS names, if it names anything."""
    if settings.apps is None:
        return []
    try:
        found = programs([])
    except RuntimeFault as error:
        return [Finding(name="apps", is_ok=False, detail=str(error))]
    return [Finding(name="apps", is_ok=True, detail=", ".join(sorted([*found.agents, *found.tools])))]
