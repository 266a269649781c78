"""A client process of the embedded server, driven line by line through its standard input.

`python embedded_client.py BASE [PG_BIN] [UID]`; each line names a method without arguments, each answer is a line of
JSON: {"returned": ...} or {"raised": [class, message]}.
"""

import json
import os
import sys
from pathlib import Path

import anyio

from storage.embedded import EmbeddedServer, EmbeddedServerError


def main() -> None:
    base, pg_bin, uid = (*sys.argv[1:], "", "")[:3]
    if uid:
        anyio.run(anyio.sleep, 0)  # import the backend while the interpreter's own files can be read
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    server = EmbeddedServer(Path(base), pg_bin=Path(pg_bin) if pg_bin else None)
    calls = {
        "start": server.start,
        "stop": server.stop,
        "hold": server.hold,
        "release": server.release,
        "ensure_database": server.ensure_database,
    }
    for line in sys.stdin:
        try:
            answer = {"returned": calls[line.strip()]()}
        except EmbeddedServerError as error:
            answer = {"raised": [type(error).__name__, str(error)]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
