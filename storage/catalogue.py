"""What a database's schema is, read from Postgres itself and written so that two databases can be compared.

Independent of OIDs, of the order in which things were made, of who owns them and of the layout of function bodies.
Above it: the drift check and the tests of migrations. Below: a raw connection.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from types import MappingProxyType

from storage.engine import RawConnection


def _public(table: str, alias: str, namespace: str) -> str:
    """Return the FROM item for what `table` knows of the schema `public`, but for what extensions brought along."""
    return f"""{table} {alias} JOIN pg_namespace n ON n.oid = {alias}.{namespace} AND n.nspname = 'public'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = '{table}'::regclass AND d.objid = {alias}.oid
                        AND d.deptype = 'e')"""


_RELATIONS = _public("pg_class", "c", "relnamespace")
_FUNCTIONS = _public("pg_proc", "f", "pronamespace")
_TYPES = _public("pg_type", "t", "typnamespace")
_ATTRIBUTES = f"{_RELATIONS} JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"


def _grants(kind: str, source: str, name: str, acl: str, owner: str) -> str:
    """Return the query for the grants of one kind of object; what the owner has by owning it is left out."""
    return f"""
        SELECT format('{kind} %s: %s to %s%s', {name}, lower(g.privilege_type),
                      CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END,
                      CASE WHEN g.is_grantable THEN ' with grant option' ELSE '' END)
        FROM {source} CROSS JOIN LATERAL aclexplode({acl}) g
        WHERE g.grantee <> {owner}
    """  # noqa: S608 -- built from the constants of this module


_TABLES_SQL = f"""
    SELECT format('%I: %s%s, row security %s%s, %s%s', c.relname,
        CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
                       WHEN 'm' THEN 'materialised view' ELSE 'foreign table' END,
        CASE c.relpersistence WHEN 'u' THEN ' unlogged' ELSE '' END,
        CASE WHEN c.relrowsecurity THEN 'on' ELSE 'off' END,
        CASE WHEN c.relforcerowsecurity THEN ' and forced' ELSE '' END,
        coalesce((SELECT string_agg(option, ' ' ORDER BY option) FROM unnest(c.reloptions) option), 'no options'),
        CASE WHEN c.relkind IN ('v', 'm') THEN ': ' || pg_get_viewdef(c.oid) ELSE '' END)
    FROM {_RELATIONS}
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""  # noqa: S608 -- as above

_COLUMNS_SQL = f"""
    SELECT format('%I.%I: %s%s%s%s%s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attnotnull THEN ' not null' ELSE '' END,
        CASE WHEN a.attcollation = 0 OR a.attcollation = t.typcollation THEN ''
             ELSE ' collate ' || a.attcollation::regcollation END,
        CASE a.attidentity WHEN 'a' THEN ' identity always' WHEN 'd' THEN ' identity by default' ELSE '' END,
        CASE WHEN d.adbin IS NULL THEN ''
             ELSE CASE a.attgenerated WHEN 's' THEN ' stored ' WHEN 'v' THEN ' virtual ' ELSE ' default ' END
                  || pg_get_expr(d.adbin, d.adrelid) END)
    FROM {_ATTRIBUTES} JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""  # noqa: S608 -- as above

# NOT NULL has constraints of its own since 18; the columns tell of it on every version.
_CONSTRAINTS_SQL = f"""
    SELECT format('%I.%I: %s', c.relname, k.conname, pg_get_constraintdef(k.oid))
    FROM {_RELATIONS} JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype IN ('c', 'f', 'p', 'u', 'x')
"""  # noqa: S608 -- as above

_INDEXES_SQL = f"""
    SELECT format('%I: %s%s', c.relname, pg_get_indexdef(i.indexrelid),
        CASE WHEN i.indisvalid AND i.indisready THEN '' ELSE ' (invalid)' END)
    FROM {_RELATIONS} JOIN pg_index i ON i.indrelid = c.oid
"""  # noqa: S608 -- as above

_POLICIES_SQL = f"""
    SELECT format('%I.%I: %s for %s to %s using %s check %s', c.relname, p.polname,
        CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END,
        CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete'
                      ELSE 'all' END,
        (SELECT string_agg(name, ', ' ORDER BY name)
         FROM (SELECT CASE r WHEN 0 THEN 'PUBLIC' ELSE r::regrole::text END FROM unnest(p.polroles) r) roles (name)),
        coalesce(pg_get_expr(p.polqual, p.polrelid), 'none'),
        coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'none'))
    FROM {_RELATIONS} JOIN pg_policy p ON p.polrelid = c.oid
"""  # noqa: S608 -- as above

_FUNCTIONS_SQL = f"""
    SELECT CASE f.prokind
        WHEN 'a' THEN format('aggregate %I(%s)', f.proname, pg_get_function_identity_arguments(f.oid))
        ELSE pg_get_functiondef(f.oid) END
    FROM {_FUNCTIONS}
"""  # noqa: S608 -- as above

_TRIGGERS_SQL = f"""
    SELECT format('%I: %s%s', c.relname,
        CASE WHEN t.tgisinternal THEN 'trigger of ' || coalesce(
                 (SELECT format('%I', k.conname) FROM pg_constraint k WHERE k.oid = t.tgconstraint), 'the system')
             ELSE pg_get_triggerdef(t.oid) END,
        CASE t.tgenabled WHEN 'O' THEN '' WHEN 'D' THEN ' (disabled)' ELSE ' (for replicas)' END)
    FROM {_RELATIONS} JOIN pg_trigger t ON t.tgrelid = c.oid AND (NOT t.tgisinternal OR t.tgenabled <> 'O')
    UNION ALL
    SELECT pg_get_ruledef(r.oid)
    FROM {_RELATIONS} JOIN pg_rewrite r ON r.ev_class = c.oid AND r.rulename <> '_RETURN'
"""  # noqa: S608 -- as above

_SEQUENCES_SQL = f"""
    SELECT format('%I: %s from %s by %s, %s to %s, cache %s%s, of %s', c.relname, format_type(s.seqtypid, NULL),
        s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, CASE WHEN s.seqcycle THEN ', cycles' ELSE '' END,
        coalesce((SELECT format('%I.%I', o.relname, a.attname)
                  FROM pg_depend d JOIN pg_class o ON o.oid = d.refobjid
                      JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum = d.refobjsubid
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')), 'nothing'))
    FROM {_RELATIONS} JOIN pg_sequence s ON s.seqrelid = c.oid
"""  # noqa: S608 -- as above

_TYPES_SQL = f"""
    SELECT format('%I: %s', t.typname, CASE t.typtype
        WHEN 'e' THEN 'enum ' || (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                                  FROM pg_enum e WHERE e.enumtypid = t.oid)
        WHEN 'd' THEN 'domain of ' || format_type(t.typbasetype, t.typtypmod) || coalesce(
            (SELECT string_agg(' ' || pg_get_constraintdef(k.oid), '' ORDER BY k.conname)
             FROM pg_constraint k WHERE k.contypid = t.oid), '')
        WHEN 'c' THEN 'composite' ELSE 'range' END)
    FROM {_TYPES}
    WHERE t.typtype IN ('e', 'd', 'r') OR (SELECT k.relkind FROM pg_class k WHERE k.oid = t.typrelid) = 'c'
"""  # noqa: S608 -- as above

_GRANTS_SQL = " UNION ALL ".join(
    (
        _grants(
            "schema",
            "pg_namespace n",
            "n.nspname",
            "CASE n.nspname WHEN 'public' THEN coalesce(n.nspacl, acldefault('n', n.nspowner)) END",
            "n.nspowner",
        ),
        _grants("relation", _RELATIONS, "c.relname", "c.relacl", "c.relowner"),
        _grants("column", _ATTRIBUTES, "format('%I.%I', c.relname, a.attname)", "a.attacl", "c.relowner"),
        _grants("function", _FUNCTIONS, "f.proname", "coalesce(f.proacl, acldefault('f', f.proowner))", "f.proowner"),
        _grants("type", _TYPES, "t.typname", "coalesce(t.typacl, acldefault('T', t.typowner))", "t.typowner"),
        _grants("every new", "pg_default_acl p", "p.defaclobjtype", "p.defaclacl", "p.defaclrole"),
    )
)

_QUERIES: Mapping[str, str] = MappingProxyType(
    {
        "tables": _TABLES_SQL,
        "columns": _COLUMNS_SQL,
        "constraints": _CONSTRAINTS_SQL,
        "indexes": _INDEXES_SQL,
        "policies": _POLICIES_SQL,
        "functions": _FUNCTIONS_SQL,
        "triggers": _TRIGGERS_SQL,
        "sequences": _SEQUENCES_SQL,
        "types": _TYPES_SQL,
        # The embedded server gives every database pgvector, which only a superuser may; nothing of ours declares it.
        "extensions": "SELECT extname FROM pg_extension WHERE extname NOT IN ('plpgsql', 'vector')",
        "grants": _GRANTS_SQL,
    }
)


def _tidy(text: str) -> str:
    """Collapse white space, so that a function written with another indentation is the same function."""
    return re.sub(r"\s+", " ", text).strip()


async def catalogue(connection: RawConnection) -> dict[str, list[str]]:
    """Describe the schema `public`: kind of thing → one line for each, sorted.

    Inside a transaction it sees what that has done; it leaves nothing behind, not even a setting.
    """
    described: dict[str, list[str]] = {}
    reading = connection.transaction()
    await reading.start()
    try:
        # What Postgres prints leaves out the schema of whatever is in the search path.
        await connection.execute("SET LOCAL search_path = public")
        for kind, query in _QUERIES.items():
            rows = await connection.fetch(query)
            described[kind] = sorted(_tidy(str(row[0])) for row in rows)
    finally:
        await reading.rollback()
    return described


def catalogue_hash(described: Mapping[str, list[str]]) -> str:
    """Return the SHA-256 of a description, hexadecimal."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
