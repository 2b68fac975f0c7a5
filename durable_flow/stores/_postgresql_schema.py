r"""What the PostgreSQL store creates in its schema: tables, the functions that write, the view for people.

*Tables.* `heads` is the row a commit updates, kept small and with room on its pages: no index has a column that every
commit changes, so PostgreSQL rewrites it in place (a HOT update); `due` is empty for that reason while something runs.
What never or rarely changes is in `facts`. Children refer to its number `n`, not to its id. `variables` and `frames`
point to `entries`, which only grows. `labels` repeats what a search needs, so that a page is a range of one index
whatever was asked. `leases` are rows of their own: renewing them waits for nobody who holds a row of `heads`. What runs
and has no owner has a lease without an owner, from the time when it was created: so what must be taken over is a range
of one index, too, and giving a lease back changes nothing in `heads`.

*User data* is `bytea`, because `jsonb` refuses ``\u0000`` and rewrites numbers: the UTF-8 of a text, or 0xFF (which
begins no text) and the bytes of what a codec made. The view `executions` shows it as `jsonb`, as far as that goes.

*Functions.* One call writes a whole batch. Each begins by locking the rows of `heads` it will read or change, in the
order of their ids, so that no two batches can wait for each other. What somebody else has locked keeps nobody waiting:
its members are left out, and come again in a batch of those that wait. Each statement behind that sees what was
committed until then (READ COMMITTED), which is what makes "locked, so nobody else appends" true. They are called under
settings that keep a plan that was made while the tables were empty from reading them whole when they are full.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ROW = """h.n, h.id, h.workflow_id, f.workflow_version, f.definition_hash, h.status, h.version, h.generation, h.nonce,
    h.seq, h.current_step, l.owner, CASE WHEN l.owner IS NOT NULL THEN l.until END AS lease_until, h.wake_at,
    h.recoveries, f.input, h.root, f.info, h.result_seq, r.body AS result,
    ARRAY(SELECT w.body FROM {s}.waits w WHERE w.n = h.n ORDER BY w.seq, w.wait_id) AS waits, h.parent_id, f.root_id,
    f.labels, f.trigger, h.queue, h.priority, f.concurrency_key, h.created_at, h.updated_at, h.finished_at"""
"""The columns of a `Row`, in the order of its fields, behind the number."""

ROW_TABLES = """{s}.heads h JOIN {s}.facts f ON f.n = h.n LEFT JOIN {s}.leases l ON l.n = h.n
    LEFT JOIN {s}.entries r ON r.n = h.n AND r.seq = h.result_seq"""

# OFFSET 0 keeps the planner from reading all entries of an execution where a few are asked for by number.
STORED = (
    f"SELECT {ROW}, frames.*, sets.*, entries.*, mail.*, late.* FROM {ROW_TABLES}"
    """
    CROSS JOIN LATERAL (
        SELECT array_agg(x.path ORDER BY x.path) AS frame_paths, array_agg(x.body ORDER BY x.path) AS frame_bodies
        FROM {s}.frames x WHERE x.n = h.n) frames
    CROSS JOIN LATERAL (
        SELECT array_agg(x.frame ORDER BY x.frame, x.name) AS set_frames,
            array_agg(x.name ORDER BY x.frame, x.name) AS set_names,
            array_agg(x.seq ORDER BY x.frame, x.name) AS set_seqs
        FROM {s}.variables x WHERE x.n = h.n) sets
    CROSS JOIN LATERAL (
        SELECT array_agg(x.seq) AS entry_seqs, array_agg(x.body) AS entry_bodies
        FROM (SELECT y.out FROM {s}.frames y WHERE y.n = h.n AND y.out IS NOT NULL
              UNION SELECT y.seq FROM {s}.variables y WHERE y.n = h.n) pointed (seq)
        CROSS JOIN LATERAL (
            SELECT e.seq, e.body FROM {s}.entries e WHERE e.n = h.n AND e.seq = pointed.seq OFFSET 0) x) entries
    CROSS JOIN LATERAL (
        SELECT array_agg(x.id ORDER BY x.id) AS mail_ids, array_agg(x.body ORDER BY x.id) AS mail_bodies
        FROM {s}.inbox x WHERE x.n = h.n) mail
    CROSS JOIN LATERAL (
        SELECT array_agg(x.wait_id ORDER BY x.seq, x.wait_id) AS late
        FROM {s}.waits x WHERE x.n = h.n AND x.remaining < 0) late
"""
)
"""A whole execution in one row: its `Row`, then its children as arrays."""

SETTINGS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "search_path": "pg_catalog, pg_temp",
}
"""Under which the functions that read and write are called. Settings of the functions themselves would be set and set
back in each call, which costs as much as a small commit does."""

TABLES = """
CREATE TABLE {s}.heads (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    workflow_id text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    parent_id text COLLATE "C",
    created_at double precision NOT NULL,
    updated_at double precision NOT NULL,
    finished_at double precision,
    wake_at double precision,
    due double precision GENERATED ALWAYS AS (
        CASE status WHEN 'halted' THEN wake_at WHEN 'pending' THEN coalesce(wake_at, created_at) END) STORED,
    queue text COLLATE "C",
    priority integer NOT NULL,
    version bigint NOT NULL,
    generation bigint NOT NULL,
    nonce text NOT NULL,
    seq bigint NOT NULL,
    result_seq bigint,
    recoveries integer NOT NULL DEFAULT 0,
    current_step text,
    root bytea NOT NULL
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
CREATE INDEX heads_by_status ON {s}.heads (status, created_at, id);
CREATE INDEX heads_by_workflow ON {s}.heads (workflow_id, status, created_at, id);
CREATE INDEX heads_by_parent ON {s}.heads (parent_id, status, created_at, id) WHERE parent_id IS NOT NULL;
CREATE INDEX heads_by_end ON {s}.heads (status, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX heads_by_wake ON {s}.heads (due) WHERE status = 'halted' AND due IS NOT NULL;
CREATE INDEX heads_by_queue_wake ON {s}.heads ((coalesce('.' || queue, '')), due)
    WHERE status = 'halted' AND due IS NOT NULL;
CREATE INDEX heads_by_turn ON {s}.heads (priority, due) WHERE status = 'pending' AND due IS NOT NULL;
CREATE INDEX heads_by_queue_turn ON {s}.heads ((coalesce('.' || queue, '')), priority, due)
    WHERE status = 'pending' AND due IS NOT NULL;

CREATE TABLE {s}.facts (
    n bigint PRIMARY KEY,
    workflow_version text NOT NULL,
    definition_hash text COLLATE "C" NOT NULL,
    root_id text COLLATE "C" NOT NULL,
    trigger text NOT NULL,
    concurrency_key text,
    labels text NOT NULL,
    input bytea NOT NULL,
    info bytea NOT NULL
) WITH (fillfactor = 85);

CREATE TABLE {s}.leases (
    n bigint PRIMARY KEY,
    owner text COLLATE "C",
    generation bigint NOT NULL,
    until double precision NOT NULL
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX leases_by_owner ON {s}.leases (owner) WHERE owner IS NOT NULL;
CREATE INDEX leases_by_end ON {s}.leases (until);

CREATE TABLE {s}.labels (
    n bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    workflow_id text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    created_at double precision NOT NULL,
    id text COLLATE "C" NOT NULL,
    PRIMARY KEY (n, key)
);
CREATE INDEX labels_by_value ON {s}.labels (key, value, status, created_at, id);
CREATE INDEX labels_by_workflow ON {s}.labels (key, value, workflow_id, status, created_at, id);

CREATE TABLE {s}.entries (n bigint NOT NULL, seq bigint NOT NULL, body bytea NOT NULL, PRIMARY KEY (n, seq));

CREATE TABLE {s}.frames (
    n bigint NOT NULL, path text COLLATE "C" NOT NULL, out bigint, body bytea NOT NULL, PRIMARY KEY (n, path)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE {s}.variables (
    n bigint NOT NULL, frame text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, seq bigint NOT NULL,
    PRIMARY KEY (n, frame, name)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE {s}.inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    n bigint NOT NULL, key text COLLATE "C" NOT NULL, body bytea NOT NULL, UNIQUE (n, key)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

CREATE TABLE {s}.waits (
    n bigint NOT NULL, wait_id text COLLATE "C" NOT NULL, seq bigint NOT NULL, remaining integer NOT NULL,
    deadline double precision, body bytea NOT NULL, PRIMARY KEY (n, wait_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE {s}.answers (
    n bigint NOT NULL, wait_id text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, PRIMARY KEY (n, wait_id, key)
);

CREATE TABLE {s}.definitions (hash text COLLATE "C" PRIMARY KEY, body bytea NOT NULL);
"""

DELIVER = """
CREATE FUNCTION {s}.deliver(
    _now double precision, _n bigint, _kind text, _key text, _wait text, _takes integer, _body bytea
) RETURNS text LANGUAGE plpgsql AS $body$
-- Puts a message into the inbox of an execution that is not over and whose row is locked.
DECLARE
    _remaining integer;
    _deadline double precision;
    _found boolean := false;
BEGIN
    IF _wait IS NOT NULL THEN
        SELECT w.remaining, w.deadline INTO _remaining, _deadline FROM {s}.waits w WHERE w.n = _n AND w.wait_id = _wait;
        _found := FOUND;
        -- A child may end before the commit that opens the wait for it.
        IF _kind <> 'child' AND (
            NOT _found OR _remaining <= 0 OR (_kind = 'timeout') <> coalesce(_now >= _deadline, false)
        ) THEN
            RETURN 'closed';
        END IF;
        PERFORM 1 FROM {s}.answers a WHERE a.n = _n AND a.wait_id = _wait AND a.key = _key;
        IF FOUND THEN
            RETURN 'duplicate';
        END IF;
    END IF;
    INSERT INTO {s}.inbox (n, key, body) VALUES (_n, _key, _body) ON CONFLICT (n, key) DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'duplicate';
    END IF;
    IF _found AND _remaining >= 0 THEN -- else time closed it, and it stays late
        _remaining := CASE WHEN _takes = 0 THEN 0 ELSE greatest(0, _remaining - _takes) END;
        UPDATE {s}.waits w SET remaining = _remaining WHERE w.n = _n AND w.wait_id = _wait;
        IF _remaining > 0 THEN -- the message will be consumed while the wait is still open
            INSERT INTO {s}.answers VALUES (_n, _wait, _key);
        END IF;
    END IF;
    RETURN 'accepted';
END $body$;

CREATE FUNCTION {s}.summon(_now double precision, _n bigint) RETURNS void LANGUAGE plpgsql AS $body$
-- An execution whose row is locked has got a message: unless somebody drives it, it is due from now on.
BEGIN
    UPDATE {s}.heads h SET wake_at = _now
    WHERE h.n = _n AND coalesce(h.wake_at > _now, true)
        AND NOT EXISTS (SELECT 1 FROM {s}.leases l WHERE l.n = _n AND l.owner IS NOT NULL);
END $body$;

CREATE FUNCTION {s}.leave(_n bigint) RETURNS void LANGUAGE plpgsql AS $body$
-- Takes the owner away from an execution whose row is locked.
BEGIN
    DELETE FROM {s}.leases l WHERE l.n = _n
        AND NOT EXISTS (SELECT 1 FROM {s}.heads h WHERE h.n = _n AND h.status = 'running');
    UPDATE {s}.leases l SET owner = NULL, until = h.created_at FROM {s}.heads h WHERE h.n = _n AND l.n = h.n;
END $body$;
"""

COMMITS = """
CREATE FUNCTION {s}.commits(
    _wait boolean, _now double precision,
    -- One element per commit. Those that create come first, and only they have elements behind `_release`.
    _id text[], _generation bigint[], _version bigint[], _nonce text[], _seq bigint[],
    _status text[], _step text[], _updated double precision[], _finished double precision[], _wake double precision[],
    _root bytea[], _result bigint[], _release boolean[],
    _owner text[], _ttl double precision[], _workflow text[], _workflow_version text[], _hash text[],
    _definition bytea[], _input bytea[], _new_info bytea[], _created double precision[], _parent text[],
    _root_id text[], _trigger text[], _queue text[], _priority integer[], _concurrency text[], _labels text[],
    -- One element per part: `_…_c` is the place of its commit in the arrays above.
    _label_c integer[], _label_key text[], _label_value text[],
    _info_c integer[], _info bytea[],
    _entry_c integer[], _entry_seq bigint[], _entry bytea[],
    _drop_c integer[], _drop text[],
    _frame_c integer[], _frame_path text[], _frame_out bigint[], _frame bytea[],
    _set_c integer[], _set_frame text[], _set_name text[], _set_seq bigint[],
    _close_c integer[], _close text[],
    _open_c integer[], _open text[], _open_seq bigint[], _open_needed integer[], _open_deadline double precision[],
    _open_body bytea[],
    _rewrite_c integer[], _rewrite text[], _rewrite_body bytea[],
    _consume_c integer[], _consume bigint[],
    _to_c integer[], _to text[], _to_kind text[], _to_key text[], _to_wait text[], _to_takes integer[],
    _to_body bytea[],
    -- 1: written and released, 0: written, -1: refused, -2: a row it needs is locked, and `_wait` is false.
    -- `_holder` is set if any was refused: who has the leases.
    OUT _outcome integer[], OUT _holder text[]
) LANGUAGE plpgsql AS $body$
DECLARE
    _count integer := cardinality(_id);
    _n bigint[] := array_fill(0::bigint, ARRAY[_count]); -- the numbers of the rows that pass; 0: it does not
    _moved bigint[] := _n; -- of those whose status changes
    _any_moved boolean := false;
    _met boolean[] := array_fill(false, ARRAY[_count + cardinality(_to)]); -- rows that are locked now, by us
    _missing integer := _count + cardinality(_to) - cardinality(_workflow);
    _to_n bigint[] := array_fill(0::bigint, ARRAY[cardinality(_to)]);
    _free bigint[] := ARRAY[]::bigint[];
    _r record;
    _place integer;
BEGIN
    _now := coalesce(_now, extract(epoch FROM clock_timestamp())::double precision);
    _outcome := array_fill(0, ARRAY[_count]);

    IF _wait THEN
        PERFORM 1 FROM unnest(_id || _to) AS g (id) JOIN {s}.heads h ON h.id = g.id
        ORDER BY h.id FOR NO KEY UPDATE OF h;
    END IF;
    FOR _r IN
        SELECT g.c, h.n, h.status <> g.status AS moved, h.generation = g.generation AND h.version = g.version AS sound
        FROM unnest(_id || _to, _generation, _version, _status) WITH ORDINALITY
            AS g (id, generation, version, status, c)
        JOIN {s}.heads h ON h.id = g.id ORDER BY h.id FOR NO KEY UPDATE OF h SKIP LOCKED
    LOOP
        _met[_r.c] := true;
        _missing := _missing - 1;
        IF _r.c > _count THEN
            _to_n[_r.c - _count] := _r.n;
        ELSIF _r.sound THEN
            _n[_r.c] := _r.n;
            IF _r.moved THEN
                _moved[_r.c] := _r.n;
                _any_moved := true;
            END IF;
        END IF;
    END LOOP;
    IF _missing > 0 AND NOT _wait THEN
        FOR _r IN
            SELECT g.c FROM unnest(_id || _to) WITH ORDINALITY AS g (id, c) JOIN {s}.heads h ON h.id = g.id
            WHERE NOT _met[g.c]
        LOOP
            _place := CASE WHEN _r.c > _count THEN _to_c[_r.c - _count] ELSE _r.c END;
            _outcome[_place] := -2;
            _n[_place] := 0;
            _moved[_place] := 0;
        END LOOP;
    END IF;

    UPDATE {s}.heads h SET version = g.version + 1, nonce = g.nonce, seq = g.seq, status = g.status,
        current_step = g.step, updated_at = g.updated, finished_at = g.finished, wake_at = g.wake, root = g.root,
        result_seq = g.result, recoveries = 0
    FROM unnest(_n, _version, _nonce, _seq, _status, _step, _updated, _finished, _wake, _root, _result)
        AS g (n, version, nonce, seq, status, step, updated, finished, wake, root, result)
    WHERE h.n = g.n;
    IF _any_moved THEN
        UPDATE {s}.labels l SET status = h.status FROM {s}.heads h WHERE h.n = ANY (_moved) AND l.n = h.n;
        INSERT INTO {s}.leases
        SELECT h.n, NULL, h.generation, h.created_at
        FROM unnest(_moved, _status) AS g (n, status) JOIN {s}.heads h ON h.n = g.n
        WHERE g.n > 0 AND g.status = 'running' AND NOT EXISTS (SELECT 1 FROM {s}.leases l WHERE l.n = g.n);
    END IF;

    IF cardinality(_workflow) > 0 THEN
        FOR _r IN
            INSERT INTO {s}.heads (id, workflow_id, status, parent_id, created_at, updated_at, finished_at, wake_at,
                queue, priority, version, generation, nonce, seq, result_seq, current_step, root)
            SELECT g.id, g.workflow, g.status, g.parent, g.created, g.updated, g.finished, g.wake, g.queue, g.priority,
                g.version + 1, g.generation, g.nonce, g.seq, g.result, g.step, g.root
            FROM unnest(_workflow, _parent, _created, _id, _generation, _version, _nonce, _seq, _status, _step,
                _updated, _finished, _wake, _queue, _priority, _root, _result, _outcome)
                AS g (workflow, parent, created, id, generation, version, nonce, seq, status, step, updated, finished,
                    wake, queue, priority, root, result, outcome)
            WHERE g.workflow IS NOT NULL AND g.outcome = 0 ORDER BY g.id COLLATE "C"
            ON CONFLICT (id) DO NOTHING RETURNING id, n
        LOOP
            _n[array_position(_id, _r.id)] := _r.n;
        END LOOP;
        INSERT INTO {s}.facts
        SELECT g.n, g.workflow_version, g.hash, g.root_id, g.trigger, g.concurrency, g.labels, g.input, g.info
        FROM unnest(_workflow_version, _n, _hash, _root_id, _trigger, _concurrency, _labels, _input, _new_info)
            AS g (workflow_version, n, hash, root_id, trigger, concurrency, labels, input, info)
        WHERE g.workflow_version IS NOT NULL AND g.n > 0;
        INSERT INTO {s}.leases
        SELECT g.n, CASE WHEN g.ttl IS NOT NULL THEN g.owner END, g.generation,
            CASE WHEN g.owner IS NOT NULL THEN coalesce(_now + g.ttl, g.created) ELSE g.created END
        FROM unnest(_owner, _ttl, _created, _n, _generation, _status)
            AS g (owner, ttl, created, n, generation, status)
        WHERE g.created IS NOT NULL AND g.n > 0
            AND (g.owner IS NOT NULL AND g.ttl IS NOT NULL OR g.status = 'running');
        IF cardinality(_label_c) > 0 THEN
            INSERT INTO {s}.labels
            SELECT h.n, g.key, g.value, h.workflow_id, h.status, h.created_at, h.id
            FROM unnest(_label_c, _label_key, _label_value) AS g (c, key, value) JOIN {s}.heads h ON h.n = _n[g.c];
        END IF;
        INSERT INTO {s}.definitions
        SELECT g.hash, g.body FROM unnest(_hash, _definition, _n) AS g (hash, body, n)
        WHERE g.body IS NOT NULL AND g.n > 0 ORDER BY g.hash COLLATE "C" ON CONFLICT (hash) DO NOTHING;
    END IF;

    IF cardinality(_info_c) > 0 THEN
        UPDATE {s}.facts f SET info = g.info FROM unnest(_info_c, _info) AS g (c, info) WHERE f.n = _n[g.c];
    END IF;
    IF cardinality(_entry_c) > 0 THEN
        INSERT INTO {s}.entries
        SELECT _n[g.c], g.seq, g.body FROM unnest(_entry_c, _entry_seq, _entry) AS g (c, seq, body) WHERE _n[g.c] > 0;
    END IF;
    IF cardinality(_drop_c) > 0 THEN
        -- "\\" follows "[" and "0" follows "/", so these bounds enclose what begins with "path[" and "path/".
        DELETE FROM {s}.frames x
        USING unnest(_drop_c, _drop) AS g (c, path), unnest(ARRAY['[', '/'], ARRAY[E'\\x5c', '0']) AS b (low, high)
        WHERE x.n = _n[g.c] AND x.path >= g.path || b.low AND x.path < g.path || b.high;
        DELETE FROM {s}.variables x
        USING unnest(_drop_c, _drop) AS g (c, path), unnest(ARRAY['[', '/'], ARRAY[E'\\x5c', '0']) AS b (low, high)
        WHERE x.n = _n[g.c] AND x.frame >= g.path || b.low AND x.frame < g.path || b.high;
    END IF;
    IF cardinality(_frame_c) > 0 THEN
        INSERT INTO {s}.frames
        SELECT _n[g.c], g.path, g.out, g.body
        FROM unnest(_frame_c, _frame_path, _frame_out, _frame) AS g (c, path, out, body)
        WHERE g.body IS NOT NULL AND _n[g.c] > 0
        ON CONFLICT (n, path) DO UPDATE SET out = excluded.out, body = excluded.body;
        IF array_position(_frame, NULL) IS NOT NULL THEN
            DELETE FROM {s}.frames x USING unnest(_frame_c, _frame_path, _frame) AS g (c, path, body)
            WHERE g.body IS NULL AND x.n = _n[g.c] AND x.path = g.path;
        END IF;
    END IF;
    IF cardinality(_set_c) > 0 THEN
        INSERT INTO {s}.variables
        SELECT _n[g.c], g.frame, g.name, g.seq
        FROM unnest(_set_c, _set_frame, _set_name, _set_seq) AS g (c, frame, name, seq)
        WHERE g.seq <> 0 AND _n[g.c] > 0
        ON CONFLICT (n, frame, name) DO UPDATE SET seq = excluded.seq;
        IF 0 = ANY (_set_seq) THEN
            DELETE FROM {s}.variables x USING unnest(_set_c, _set_frame, _set_name, _set_seq) AS g (c, frame, name, seq)
            WHERE g.seq = 0 AND x.n = _n[g.c] AND x.frame = g.frame AND x.name = g.name;
        END IF;
    END IF;
    IF cardinality(_close_c) > 0 THEN
        DELETE FROM {s}.waits x USING unnest(_close_c, _close) AS g (c, id) WHERE x.n = _n[g.c] AND x.wait_id = g.id;
    END IF;
    IF cardinality(_close_c || _open_c) > 0 THEN
        DELETE FROM {s}.answers x USING unnest(_close_c || _open_c, _close || _open) AS g (c, id)
        WHERE x.n = _n[g.c] AND x.wait_id = g.id;
    END IF;
    IF cardinality(_open_c) > 0 THEN
        INSERT INTO {s}.waits
        SELECT _n[g.c], g.id, g.seq, g.needed, g.deadline, g.body
        FROM unnest(_open_c, _open, _open_seq, _open_needed, _open_deadline, _open_body)
            AS g (c, id, seq, needed, deadline, body)
        WHERE _n[g.c] > 0
        ON CONFLICT (n, wait_id) DO UPDATE SET seq = excluded.seq, remaining = excluded.remaining,
            deadline = excluded.deadline, body = excluded.body;
    END IF;
    IF cardinality(_rewrite_c) > 0 THEN
        UPDATE {s}.waits x SET body = g.body FROM unnest(_rewrite_c, _rewrite, _rewrite_body) AS g (c, id, body)
        WHERE x.n = _n[g.c] AND x.wait_id = g.id;
    END IF;
    IF cardinality(_consume_c) > 0 THEN
        DELETE FROM {s}.inbox x USING unnest(_consume_c, _consume) AS g (c, id) WHERE x.id = g.id AND x.n = _n[g.c];
    END IF;

    IF cardinality(_to_c) > 0 THEN
        FOR _r IN
            SELECT g.* FROM unnest(_to_c, _to, _to_n, _to_kind, _to_key, _to_wait, _to_takes, _to_body) WITH ORDINALITY
                AS g (c, id, n, kind, key, wait, takes, body, place)
            WHERE _n[g.c] > 0 ORDER BY g.place
        LOOP
            IF _r.n = 0 THEN -- it may have been created by this very batch
                _place := array_position(_id, _r.id);
                CONTINUE WHEN _place IS NULL;
                _r.n := _n[_place];
            END IF;
            PERFORM 1 FROM {s}.heads h WHERE h.n = _r.n AND h.status NOT IN ('completed', 'failed', 'cancelled');
            IF FOUND AND {s}.deliver(_now, _r.n, _r.kind, _r.key, _r.wait, _r.takes, _r.body) = 'accepted' THEN
                PERFORM {s}.summon(_now, _r.n);
            END IF;
        END LOOP;
    END IF;

    IF true = ANY (_release) THEN
        FOR _r IN
            SELECT g.n, g.c, g.status = 'running' AS runs
            FROM unnest(_n, _release, _status) WITH ORDINALITY AS g (n, release, status, c)
            WHERE g.release AND g.n > 0 AND NOT EXISTS (SELECT 1 FROM {s}.inbox i WHERE i.n = g.n)
        LOOP
            _outcome[_r.c] := 1;
            IF _r.runs THEN
                PERFORM {s}.leave(_r.n);
            ELSE
                _free := _free || _r.n;
            END IF;
        END LOOP;
        DELETE FROM {s}.leases l WHERE l.n = ANY (_free);
    END IF;
    IF _any_moved THEN
        DELETE FROM {s}.leases l USING unnest(_moved, _status, _outcome) AS g (n, status, outcome)
        WHERE g.n > 0 AND g.status <> 'running' AND g.outcome = 0 AND l.n = g.n AND l.owner IS NULL;
    END IF;
    IF 0 = ANY (_n) THEN
        _holder := array_fill(NULL::text, ARRAY[_count]);
        FOR _r IN
            SELECT g.c, l.owner FROM unnest(_id, _n) WITH ORDINALITY AS g (id, n, c)
            LEFT JOIN {s}.heads h ON h.id = g.id LEFT JOIN {s}.leases l ON l.n = h.n WHERE g.n = 0
        LOOP
            _outcome[_r.c] := least(_outcome[_r.c], -1);
            _holder[_r.c] := _r.owner;
        END LOOP;
    END IF;
END $body$;
"""

APPENDS = """
CREATE FUNCTION {s}.appends(
    _patient boolean, _now double precision, _id text[], _kind text[], _key text[], _wait text[], _takes integer[],
    _body bytea[],
    OUT _outcome text[], OUT _owner text[], OUT _until double precision[]
) LANGUAGE plpgsql AS $body$
DECLARE
    _n bigint[] := array_fill(0::bigint, ARRAY[cardinality(_id)]);
    _r record;
BEGIN
    _now := coalesce(_now, extract(epoch FROM clock_timestamp())::double precision);
    IF _patient THEN
        PERFORM 1 FROM unnest(_id) AS g (id) JOIN {s}.heads h ON h.id = g.id ORDER BY h.id FOR NO KEY UPDATE OF h;
    END IF;
    FOR _r IN
        SELECT g.c, h.n FROM unnest(_id) WITH ORDINALITY AS g (id, c) JOIN {s}.heads h ON h.id = g.id
        ORDER BY h.id FOR NO KEY UPDATE OF h SKIP LOCKED
    LOOP
        _n[_r.c] := _r.n;
    END LOOP;
    FOR _r IN
        SELECT g.*, h.status, l.owner, l.until
        FROM unnest(_n, _kind, _key, _wait, _takes, _body) WITH ORDINALITY AS g (n, kind, key, wait, takes, body, c)
        LEFT JOIN {s}.heads h ON h.n = g.n LEFT JOIN {s}.leases l ON l.n = h.n ORDER BY g.c
    LOOP
        _owner[_r.c] := _r.owner;
        _until[_r.c] := CASE WHEN _r.owner IS NOT NULL THEN _r.until END;
        _outcome[_r.c] := CASE
            WHEN _r.status IS NULL THEN
                CASE WHEN EXISTS (SELECT 1 FROM {s}.heads h WHERE h.id = _id[_r.c]) THEN 'locked' ELSE 'unknown' END
            WHEN _r.status IN ('completed', 'failed', 'cancelled') THEN 'closed'
            ELSE {s}.deliver(_now, _r.n, _r.kind, _r.key, _r.wait, _r.takes, _r.body)
        END;
        IF _r.owner IS NULL AND _outcome[_r.c] = 'accepted' THEN
            PERFORM {s}.summon(_now, _r.n);
        END IF;
    END LOOP;
END $body$;
"""

READS = """
CREATE VIEW {s}.rows AS {row};
CREATE VIEW {s}.stored AS {stored};

CREATE FUNCTION {s}.rows_of(_ids text[]) RETURNS SETOF {s}.rows STABLE LANGUAGE plpgsql AS $body$
BEGIN
    RETURN QUERY SELECT x.* FROM {s}.rows x WHERE x.id = ANY (_ids);
END $body$;

CREATE FUNCTION {s}.stored_of(_ids text[]) RETURNS SETOF {s}.stored STABLE LANGUAGE plpgsql AS $body$
BEGIN
    RETURN QUERY SELECT x.* FROM {s}.stored x WHERE x.id = ANY (_ids);
END $body$;

CREATE FUNCTION {s}.page(_search text, _texts text[], _times double precision[]) RETURNS SETOF {s}.rows
STABLE LANGUAGE plpgsql AS $body$
-- Runs a search: its text says $1[…] and $2[…] for what is searched.
BEGIN
    RETURN QUERY EXECUTE _search USING _texts, _times;
END $body$;

CREATE FUNCTION {s}.inbox_of(_id text) RETURNS TABLE (number bigint, message bytea)
STABLE LANGUAGE plpgsql AS $body$
BEGIN
    RETURN QUERY SELECT i.id, i.body FROM {s}.heads h JOIN {s}.inbox i ON i.n = h.n WHERE h.id = _id ORDER BY i.id;
END $body$;

CREATE FUNCTION {s}.mail_of(_owner text) RETURNS SETOF text STABLE LANGUAGE plpgsql AS $body$
BEGIN
    RETURN QUERY SELECT h.id FROM {s}.leases l JOIN {s}.heads h ON h.n = l.n
    WHERE l.owner = _owner AND EXISTS (SELECT 1 FROM {s}.inbox i WHERE i.n = l.n) ORDER BY h.id;
END $body$;

CREATE FUNCTION {s}.entries_of(_id text, _after bigint, _limit bigint) RETURNS TABLE (number bigint, entry bytea)
STABLE LANGUAGE plpgsql AS $body$
BEGIN
    RETURN QUERY SELECT e.seq, e.body FROM {s}.entries e
    WHERE e.n = (SELECT h.n FROM {s}.heads h WHERE h.id = _id) AND e.seq > _after ORDER BY e.seq LIMIT _limit;
END $body$;

CREATE FUNCTION {s}.entries_at(_id text, _seqs bigint[]) RETURNS TABLE (number bigint, entry bytea)
STABLE LANGUAGE plpgsql AS $body$
BEGIN
    RETURN QUERY SELECT e.seq, e.body FROM {s}.entries e
    WHERE e.n = (SELECT h.n FROM {s}.heads h WHERE h.id = _id) AND e.seq = ANY (_seqs) ORDER BY e.seq;
END $body$;
"""

_CLAIMS = """
CREATE FUNCTION {s}.claims(
    _wait boolean, _now double precision, _id text[], _owner text[], _ttl double precision[], _statuses text[]
) RETURNS SETOF {s}.stored LANGUAGE plpgsql AS $body$
-- One row per execution that exists: whole where it was claimed, without a number where it is not to be had, without a
-- status where somebody has locked it and `_wait` is false.
DECLARE
    _n bigint[] := array_fill(0::bigint, ARRAY[cardinality(_id)]);
    _met bigint[] := _n;
    _late integer[] := array_fill(0, ARRAY[cardinality(_id)]);
    _row {s}.stored%ROWTYPE;
    _r record;
BEGIN
    _now := coalesce(_now, extract(epoch FROM clock_timestamp())::double precision);
    IF _wait THEN
        PERFORM 1 FROM unnest(_id) AS g (id) JOIN {s}.heads h ON h.id = g.id ORDER BY h.id FOR NO KEY UPDATE OF h;
    END IF;
    FOR _r IN
        SELECT g.c, h.n FROM unnest(_id) WITH ORDINALITY AS g (id, c) JOIN {s}.heads h ON h.id = g.id
        ORDER BY h.id FOR NO KEY UPDATE OF h SKIP LOCKED
    LOOP
        _met[_r.c] := _r.n;
    END LOOP;
    FOR _r IN
        SELECT g.*, h.n, h.status, {early}l.owner AS holder, l.until
        FROM unnest(_id, _owner, _statuses) WITH ORDINALITY AS g (id, owner, statuses, c)
        JOIN {s}.heads h ON h.id = g.id LEFT JOIN {s}.leases l ON l.n = h.n
    LOOP
        IF _met[_r.c] = 0 THEN
            _row := NULL;
            _row.id := _r.id;
            RETURN NEXT _row;
        ELSIF _r.status = ANY (string_to_array(_r.statuses, ',')) AND (_r.holder IS NULL OR _r.until <= _now){ripe} THEN
            _n[_r.c] := _r.n;
            _late[_r.c] := (_r.holder <> _r.owner AND _r.status = 'running')::integer;
        ELSE
            _row := NULL;
            _row.id := _r.id;
            _row.status := _r.status;
            _row.owner := _r.holder;
            _row.lease_until := CASE WHEN _r.holder IS NOT NULL THEN _r.until END;
            RETURN NEXT _row;
        END IF;
    END LOOP;
    UPDATE {s}.heads h SET generation = h.generation + 1, recoveries = h.recoveries + coalesce(g.late, 0)
    FROM unnest(_n, _late) AS g (n, late) WHERE h.n = g.n;
    INSERT INTO {s}.leases
    SELECT h.n, g.owner, h.generation, _now + g.ttl
    FROM unnest(_n, _owner, _ttl) AS g (n, owner, ttl) JOIN {s}.heads h ON h.n = g.n
    ON CONFLICT (n) DO UPDATE SET owner = excluded.owner, generation = excluded.generation, until = excluded.until;
    UPDATE {s}.waits w SET remaining = -1 WHERE w.n = ANY (_n) AND w.remaining > 0 AND w.deadline <= _now;
    RETURN QUERY SELECT x.* FROM {s}.stored x WHERE x.n = ANY (_n);
END $body$;
"""

CLAIMS = _CLAIMS.replace("{early}", "").replace("{ripe}", "")

DUE = """
CREATE FUNCTION {s}.takes(
    _now double precision, _owner text, _ttl double precision, _limit integer, _queues text[], _without text[],
    _busy text[], _room integer[]
) RETURNS SETOF {s}.stored LANGUAGE plpgsql SET enable_sort = off AS $body$
-- What is due is read in order from several ranges of indexes, each through a cursor that locks what it comes to and
-- passes over what is locked, always from the one whose next is due longest. What a cursor cannot see, because it
-- happened after it was opened, is looked for behind the lock.
-- `_queues` has '' for no queue, and a dot before the others' names; NULL means all. Of the queues in `_busy` no more
-- than `_room` says may begin for this taker.
DECLARE
    _stage bigint := NULL; -- NULL: what began; else a priority
    _cursors refcursor[];
    _cursor refcursor;
    _queue text;
    _next bigint[]; -- the row that each cursor has come to
    _dues double precision[];
    _losses integer[];
    _place integer;
    _best integer;
    _refill integer[];
    _r record;
    _n bigint[] := ARRAY[]::bigint[];
    _lost integer[] := ARRAY[]::integer[];
    _mine text[] := ARRAY[]::text[]; -- queues with limits that no other taker looks at
    _fresh text[]; -- the queues from which something may begin; NULL: from all
    _free integer[]; -- how many of each may; NULL: any number
    _rest integer[]; -- how many of each may within their periods
    _rated boolean[];
    _from integer; -- the place of a queue among them
    _froms integer[]; -- of each cursor that is about what they count
    _begun bigint[] := ARRAY[]::bigint[];
BEGIN
    IF EXISTS (SELECT 1 FROM {s}.queues) OR cardinality(_busy) > 0 THEN
        FOR _r IN
            SELECT q.queue FROM {s}.queues q
            WHERE coalesce(q.decided, q.declared) IS NOT NULL AND (_queues IS NULL OR q.queue = ANY (_queues))
        LOOP
            IF pg_try_advisory_xact_lock(hashtext({schema}), hashtext(_r.queue)) THEN
                _mine := _mine || _r.queue;
            END IF;
        END LOOP;
        _now := coalesce(_now, extract(epoch FROM clock_timestamp())::double precision);
        SELECT coalesce(array_agg(x.queue), ARRAY[]::text[]),
            array_agg(CASE WHEN x.mine THEN x.slots ELSE 0 END), array_agg(x.rest), array_agg(x.rated)
        INTO _fresh, _free, _rest, _rated
        FROM (SELECT y.*, NOT y.limited OR y.queue = ANY (_mine) AS mine
            FROM {s}.may_begin(_now, _queues, _busy, _room) y) x;
    END IF;
    _now := coalesce(_now, extract(epoch FROM clock_timestamp())::double precision);
    LOOP
        _cursor := NULL;
        OPEN _cursor FOR
            SELECT h.n, l.until AS due, true AS leased,
                (l.owner IS NOT NULL AND l.owner <> _owner AND h.status = 'running')::integer AS lost
            FROM {s}.leases l JOIN {s}.heads h ON h.n = l.n
            WHERE l.until <= _now
                AND CASE WHEN _stage IS NULL THEN h.status = 'running' OR h.status = 'halted' AND l.owner IS NOT NULL
                    ELSE h.status = 'pending' AND h.priority = _stage
                        AND (_fresh IS NULL OR coalesce('.' || h.queue, '') = ANY (_fresh)) END
                AND (_queues IS NULL OR coalesce('.' || h.queue, '') = ANY (_queues)) AND (cardinality(_without) = 0
                OR NOT EXISTS (SELECT 1 FROM {s}.facts f WHERE f.n = h.n AND f.definition_hash = ANY (_without)))
            ORDER BY l.until FOR NO KEY UPDATE OF h, l SKIP LOCKED;
        _cursors := ARRAY[_cursor];
        _froms := ARRAY[0];
        _from := 0;
        FOREACH _queue IN ARRAY
            coalesce(CASE WHEN _stage IS NULL THEN _queues ELSE _fresh END, _queues, ARRAY[NULL::text])
        LOOP
            _cursor := NULL;
            _from := _from + 1;
            IF _stage IS NOT NULL AND _free[_from] IS NOT NULL THEN
                OPEN _cursor FOR
                    SELECT h.n, h.due, false AS leased, 0 AS lost FROM {s}.heads h
                    WHERE h.status = 'pending' AND h.parent_id IS NOT NULL AND h.queue = substr(_queue, 2)
                        AND h.priority::bigint = _stage AND h.due <= _now AND {fit}
                    ORDER BY h.due FOR NO KEY UPDATE OF h SKIP LOCKED;
                _cursors := _cursors || _cursor;
                _froms := _froms || 0;
                CONTINUE WHEN _free[_from] <= 0;
                _cursor := NULL;
                OPEN _cursor FOR
                    SELECT h.n, h.due, false AS leased, 0 AS lost FROM {s}.heads h
                    WHERE h.status = 'pending' AND coalesce('.' || h.queue, '') = _queue AND h.priority::bigint = _stage
                        AND h.due <= _now AND h.parent_id IS NULL AND {fit}
                    ORDER BY h.due FOR NO KEY UPDATE OF h SKIP LOCKED;
                _cursors := _cursors || _cursor;
                _froms := _froms || _from;
                CONTINUE;
            ELSIF _stage IS NULL AND _queue IS NULL THEN
                OPEN _cursor FOR
                    SELECT h.n, h.due, false AS leased, 0 AS lost FROM {s}.heads h
                    WHERE h.status = 'halted' AND h.due <= _now AND {fit}
                    ORDER BY h.due FOR NO KEY UPDATE OF h SKIP LOCKED;
            ELSIF _stage IS NULL THEN
                OPEN _cursor FOR
                    SELECT h.n, h.due, false AS leased, 0 AS lost FROM {s}.heads h
                    WHERE h.status = 'halted' AND coalesce('.' || h.queue, '') = _queue AND h.due <= _now AND {fit}
                    ORDER BY h.due FOR NO KEY UPDATE OF h SKIP LOCKED;
            ELSIF _queue IS NULL THEN
                OPEN _cursor FOR
                    SELECT h.n, h.due, false AS leased, 0 AS lost FROM {s}.heads h
                    WHERE h.status = 'pending' AND h.priority = _stage AND h.due <= _now
                        AND {fit}
                    ORDER BY h.due FOR NO KEY UPDATE OF h SKIP LOCKED;
            ELSE
                OPEN _cursor FOR
                    SELECT h.n, h.due, false AS leased, 0 AS lost FROM {s}.heads h
                    WHERE h.status = 'pending' AND coalesce('.' || h.queue, '') = _queue AND h.priority::bigint = _stage
                        AND h.due <= _now AND {fit}
                    ORDER BY h.due FOR NO KEY UPDATE OF h SKIP LOCKED;
            END IF;
            _cursors := _cursors || _cursor;
            _froms := _froms || 0;
        END LOOP;

        _next := array_fill(NULL::bigint, ARRAY[cardinality(_cursors)]);
        _dues := array_fill(NULL::double precision, ARRAY[cardinality(_cursors)]);
        _losses := array_fill(0, ARRAY[cardinality(_cursors)]);
        _refill := ARRAY(SELECT generate_subscripts(_cursors, 1));
        WHILE cardinality(_n) < _limit LOOP
            FOREACH _place IN ARRAY _refill LOOP
                _cursor := _cursors[_place];
                _dues[_place] := NULL;
                LOOP
                    FETCH _cursor INTO _r;
                    EXIT WHEN NOT FOUND;
                    IF NOT _r.leased THEN -- somebody may have taken it and let go of the row
                        PERFORM 1 FROM {s}.leases l WHERE l.n = _r.n;
                        CONTINUE WHEN FOUND;
                    END IF;
                    _next[_place] := _r.n;
                    _dues[_place] := _r.due;
                    _losses[_place] := _r.lost;
                    EXIT;
                END LOOP;
            END LOOP;
            _best := NULL;
            FOR _place IN 1 .. cardinality(_cursors) LOOP
                IF _dues[_place] IS NOT NULL AND (_best IS NULL OR _dues[_place] < _dues[_best]) THEN
                    _best := _place;
                END IF;
            END LOOP;
            EXIT WHEN _best IS NULL;
            _refill := ARRAY[_best];
            IF NOT _next[_best] = ANY (_n) THEN
                _n := _n || _next[_best];
                _lost := _lost || _losses[_best];
                _from := _froms[_best];
                IF _from > 0 THEN
                    IF _rated[_from] THEN
                        _begun := _begun || _next[_best];
                    END IF;
                    _free[_from] := _free[_from] - 1;
                    IF _free[_from] <= 0 THEN
                        _dues[_best] := NULL;
                        _refill := ARRAY[]::integer[];
                    END IF;
                END IF;
            END IF;
        END LOOP;
        FOREACH _cursor IN ARRAY _cursors LOOP
            CLOSE _cursor;
        END LOOP;
        EXIT WHEN cardinality(_n) >= _limit;
        IF _stage IS NULL AND _fresh IS NOT NULL THEN -- what goes on takes the place of what would begin
            FOR _r IN
                SELECT array_position(_fresh, '.' || h.queue) AS place, count(*) AS more FROM {s}.heads h
                WHERE h.n = ANY (_n) AND h.parent_id IS NULL AND NOT EXISTS (SELECT 1 FROM {s}.leases l WHERE l.n = h.n)
                GROUP BY 1
            LOOP
                IF _r.place IS NOT NULL THEN
                    _free[_r.place] := _free[_r.place] - _r.more;
                END IF;
            END LOOP;
            FOR _from IN 1 .. cardinality(_fresh) LOOP
                _free[_from] := least(_free[_from], _rest[_from]);
            END LOOP;
        END IF;
        _stage := {s}.next_priority(coalesce(_fresh, _queues), _stage);
        EXIT WHEN _stage IS NULL;
    END LOOP;

    IF cardinality(_begun) > 0 THEN
        DELETE FROM {s}.begins b USING {s}.queues q
        WHERE q.queue = ANY (_mine) AND b.queue = substr(q.queue, 2)
            AND b.at + (coalesce(q.decided, q.declared)::json ->> 2)::double precision <= _now;
        INSERT INTO {s}.begins SELECT h.queue, _now, h.n FROM {s}.heads h WHERE h.n = ANY (_begun);
    END IF;
    UPDATE {s}.heads h SET generation = h.generation + 1, recoveries = h.recoveries + g.lost
    FROM unnest(_n, _lost) AS g (n, lost) WHERE h.n = g.n;
    INSERT INTO {s}.leases
    SELECT h.n, _owner, h.generation, _now + _ttl FROM unnest(_n) AS g (n) JOIN {s}.heads h ON h.n = g.n
    ON CONFLICT (n) DO UPDATE SET owner = excluded.owner, generation = excluded.generation, until = excluded.until;
    UPDATE {s}.waits w SET remaining = -1 WHERE w.n = ANY (_n) AND w.remaining > 0 AND w.deadline <= _now;
    RETURN QUERY SELECT x.* FROM {s}.stored x WHERE x.n = ANY (_n) ORDER BY array_position(_n, x.n);
END $body$;

CREATE FUNCTION {s}.next_priority(_queues text[], _after bigint) RETURNS bigint STABLE LANGUAGE plpgsql AS $body$
-- The first priority behind another that anything pending in these queues has.
DECLARE
    _found bigint;
    _least bigint;
    _queue text;
BEGIN
    _after := coalesce(_after, -2147483649);
    IF _queues IS NULL THEN
        SELECT h.priority INTO _least FROM {s}.heads h
        WHERE h.status = 'pending' AND h.priority > _after AND h.due IS NOT NULL ORDER BY h.priority LIMIT 1;
        RETURN _least;
    END IF;
    FOREACH _queue IN ARRAY _queues LOOP
        SELECT h.priority::bigint INTO _found FROM {s}.heads h
        WHERE h.status = 'pending' AND coalesce('.' || h.queue, '') = _queue AND h.priority::bigint > _after
            AND h.due IS NOT NULL ORDER BY h.priority::bigint LIMIT 1;
        _least := least(_least, _found);
    END LOOP;
    RETURN _least;
END $body$;

CREATE FUNCTION {s}.next_due(
    _now double precision, _queues text[], _without text[], _busy text[], _room integer[]
) RETURNS double precision STABLE LANGUAGE plpgsql SET enable_sort = off AS $body$
-- In how many seconds the next execution is due; NULL: none ever is.
DECLARE
    _stage bigint := NULL;
    _queue text;
    _from integer;
    _found double precision;
    _least double precision;
    _fresh text[]; -- as in `takes`
    _slots integer[];
    _limited boolean[];
    _at double precision[]; -- when the next may begin
BEGIN
    _now := coalesce(_now, extract(epoch FROM clock_timestamp())::double precision);
    IF EXISTS (SELECT 1 FROM {s}.queues) OR cardinality(_busy) > 0 THEN
        SELECT coalesce(array_agg(x.queue), ARRAY[]::text[]), array_agg(x.slots),
            array_agg(x.limited OR x.slots IS NOT NULL), array_agg(x.at)
        INTO _fresh, _slots, _limited, _at
        FROM {s}.may_begin(_now, _queues, _busy, _room) x;
    END IF;
    SELECT l.until INTO _least FROM {s}.leases l JOIN {s}.heads h ON h.n = l.n
    WHERE (h.status = 'running'
        OR h.status = 'pending' AND (_fresh IS NULL OR coalesce('.' || h.queue, '') = ANY (_fresh))
        OR h.status = 'halted' AND l.owner IS NOT NULL)
        AND (_queues IS NULL OR coalesce('.' || h.queue, '') = ANY (_queues)) AND (cardinality(_without) = 0
        OR NOT EXISTS (SELECT 1 FROM {s}.facts f WHERE f.n = h.n AND f.definition_hash = ANY (_without)))
    ORDER BY l.until LIMIT 1;
    LOOP
        _from := 0;
        FOREACH _queue IN ARRAY
            coalesce(CASE WHEN _stage IS NULL THEN _queues ELSE _fresh END, _queues, ARRAY[NULL::text])
        LOOP
            _from := _from + 1;
            IF _stage IS NULL AND _queue IS NULL THEN
                SELECT h.due INTO _found FROM {s}.heads h
                WHERE h.status = 'halted' AND h.due IS NOT NULL AND {fit} ORDER BY h.due LIMIT 1;
            ELSIF _stage IS NULL THEN
                SELECT h.due INTO _found FROM {s}.heads h
                WHERE h.status = 'halted' AND coalesce('.' || h.queue, '') = _queue AND h.due IS NOT NULL AND {fit}
                ORDER BY h.due LIMIT 1;
            ELSIF _queue IS NULL THEN
                SELECT h.due INTO _found FROM {s}.heads h
                WHERE h.status = 'pending' AND h.priority = _stage
                    AND h.due IS NOT NULL AND {fit}
                ORDER BY h.due LIMIT 1;
            ELSIF _limited[_from] THEN
                SELECT h.due INTO _found FROM {s}.heads h
                WHERE h.status = 'pending' AND h.parent_id IS NOT NULL AND h.queue = substr(_queue, 2)
                    AND h.priority::bigint = _stage AND h.due IS NOT NULL AND {fit}
                ORDER BY h.due LIMIT 1;
                _least := least(_least, _found);
                CONTINUE WHEN _slots[_from] <= 0;
                SELECT greatest(h.due, _at[_from]) INTO _found FROM {s}.heads h
                WHERE h.status = 'pending' AND coalesce('.' || h.queue, '') = _queue AND h.priority::bigint = _stage
                    AND h.due IS NOT NULL AND h.parent_id IS NULL AND {fit}
                ORDER BY h.due LIMIT 1;
            ELSE
                SELECT h.due INTO _found FROM {s}.heads h
                WHERE h.status = 'pending' AND coalesce('.' || h.queue, '') = _queue AND h.priority::bigint = _stage
                    AND h.due IS NOT NULL AND {fit}
                ORDER BY h.due LIMIT 1;
            END IF;
            _least := least(_least, _found);
        END LOOP;
        _stage := {s}.next_priority(coalesce(_fresh, _queues), _stage);
        EXIT WHEN _stage IS NULL;
    END LOOP;
    RETURN _least - _now;
END $body$;
""".replace(
    "{fit}",
    "NOT EXISTS (SELECT 1 FROM {s}.leases l WHERE l.n = h.n) AND (cardinality(_without) = 0 OR NOT EXISTS "
    "(SELECT 1 FROM {s}.facts f WHERE f.n = h.n AND f.definition_hash = ANY (_without)))",
)
"""What is due: an execution with an owner when its lease ends; halted, at its time; pending, at its time or at once;
running without an owner, since it was created. `{fit}`: nobody owns it, and its definition is wanted."""

HOLDS = """
CREATE TABLE {s}.holds (queue text PRIMARY KEY, body bytea NOT NULL);
"""
"""Since version 2: queues that are held back. What is due is looked for by functions of a later version only."""

QUEUES = """
CREATE TABLE {s}.queues (queue text COLLATE "C" PRIMARY KEY, hold bytea, declared text, decided text);
INSERT INTO {s}.queues (queue, hold) SELECT queue, body FROM {s}.holds;
DROP TABLE {s}.holds;
CREATE TABLE {s}.begins (queue text COLLATE "C" NOT NULL, at double precision NOT NULL, n bigint NOT NULL);
CREATE INDEX begins_by_time ON {s}.begins (queue, at);
-- Their priority is an expression, or a planner that knows nothing of the queues would take `heads_by_turn`, which is
-- smaller, and read all of them for one.
DROP INDEX {s}.heads_by_queue_turn;
CREATE INDEX heads_by_queue_turn ON {s}.heads ((coalesce('.' || queue, '')), (priority::bigint), due)
    WHERE status = 'pending' AND due IS NOT NULL;
CREATE INDEX heads_by_child_turn ON {s}.heads (queue, (priority::bigint), due)
    WHERE status = 'pending' AND parent_id IS NOT NULL AND queue IS NOT NULL AND due IS NOT NULL;

ALTER TABLE {s}.leases ADD COLUMN queue text COLLATE "C";
UPDATE {s}.leases l SET queue = h.queue FROM {s}.heads h WHERE h.n = l.n AND h.parent_id IS NULL;
CREATE INDEX leases_by_queue ON {s}.leases (queue) WHERE queue IS NOT NULL;

CREATE FUNCTION {s}.place() RETURNS trigger LANGUAGE plpgsql AS $body$
-- What the limits of a queue count has a lease, with its queue.
BEGIN
    SELECT h.queue INTO NEW.queue FROM {s}.heads h WHERE h.n = NEW.n AND h.parent_id IS NULL;
    RETURN NEW;
END $body$;
CREATE TRIGGER place BEFORE INSERT ON {s}.leases FOR EACH ROW EXECUTE FUNCTION {s}.place();

DROP FUNCTION IF EXISTS {s}.takes(double precision, text, double precision, integer, text[], text[]);
DROP FUNCTION IF EXISTS {s}.next_due(double precision, text[], text[]);
DROP FUNCTION IF EXISTS {s}.next_priority(text[], bigint);
DROP FUNCTION IF EXISTS {s}.unheld(text[]);

CREATE FUNCTION {s}.names() RETURNS text[] STABLE LANGUAGE sql AS $body$
-- The queues in which something is pending, found by skipping through an index: one that has to wait may be long.
    WITH RECURSIVE known (name) AS (
        (SELECT coalesce('.' || h.queue, '') FROM {s}.heads h WHERE h.status = 'pending' AND h.due IS NOT NULL
            ORDER BY coalesce('.' || h.queue, '') LIMIT 1)
        UNION ALL
        SELECT (SELECT coalesce('.' || h.queue, '') FROM {s}.heads h
            WHERE h.status = 'pending' AND h.due IS NOT NULL AND coalesce('.' || h.queue, '') > k.name
            ORDER BY coalesce('.' || h.queue, '') LIMIT 1)
        FROM known k WHERE k.name IS NOT NULL)
    SELECT coalesce(array_agg(name), ARRAY[]::text[]) FROM known WHERE name IS NOT NULL
$body$;

CREATE FUNCTION {s}.under_way(_queue text, _most bigint) RETURNS integer STABLE LANGUAGE sql AS $body$
-- How many executions are under way in a queue, as far as `_most` of them tell; NULL means all.
    SELECT count(*)::integer FROM (
        SELECT 1 FROM {s}.leases l JOIN {s}.heads h ON h.n = l.n
        WHERE l.queue = _queue AND h.status IN ('pending', 'running', 'halted') LIMIT _most) few
$body$;

CREATE FUNCTION {s}.may_begin(_now double precision, _queues text[], _busy text[], _room integer[])
RETURNS TABLE (queue text, limited boolean, slots integer, rated boolean, rest integer, at double precision)
STABLE LANGUAGE plpgsql AS $body$
-- The queues among these from which pending executions may be taken: whether they have limits, how many may be under
-- way besides those that are, and begin now (NULL: any number), and when the next one may.
DECLARE
    _r record;
    _concurrency integer;
    _rate integer;
    _period double precision;
BEGIN
    FOR _r IN
        SELECT g.name, coalesce(x.decided, x.declared)::json AS limits, _room[array_position(_busy, g.name)] AS room
        FROM unnest(coalesce(_queues, {s}.names())) WITH ORDINALITY AS g (name, place)
        LEFT JOIN {s}.queues x ON x.queue = g.name WHERE x.hold IS NULL ORDER BY g.place
    LOOP
        queue := _r.name;
        slots := _r.room;
        _concurrency := (_r.limits ->> 0)::integer;
        _rate := (_r.limits ->> 1)::integer;
        _period := (_r.limits ->> 2)::double precision;
        limited := coalesce(_concurrency, _rate) IS NOT NULL;
        rated := _rate IS NOT NULL;
        rest := NULL;
        at := NULL;
        IF _concurrency IS NOT NULL THEN
            slots := least(slots, _concurrency - {s}.under_way(substr(queue, 2), _concurrency));
        END IF;
        IF rated THEN
            SELECT _rate - count(*) INTO rest FROM {s}.begins b
            WHERE b.queue = substr(_r.name, 2) AND b.at + _period > _now;
            IF rest <= 0 THEN
                SELECT b.at + _period INTO at FROM {s}.begins b
                WHERE b.queue = substr(_r.name, 2) AND b.at + _period > _now
                ORDER BY b.at DESC OFFSET _rate - 1 LIMIT 1;
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END $body$;

CREATE FUNCTION {s}.queues_of(_names text[])
RETURNS TABLE (name text, its_hold bytea, its_declared text, its_decided text, pending bigint, busy bigint)
STABLE LANGUAGE plpgsql AS $body$
-- What is set of these queues, and what is in them; NULL means all with anything.
BEGIN
    IF _names IS NULL THEN
        _names := ARRAY(
            SELECT '' UNION SELECT q.queue FROM {s}.queues q UNION SELECT unnest({s}.names())
            UNION SELECT '.' || l.queue FROM {s}.leases l WHERE l.queue IS NOT NULL);
    END IF;
    RETURN QUERY
    SELECT g.name, q.hold, q.declared, q.decided,
        (SELECT count(*) FROM {s}.heads h
            WHERE h.status = 'pending' AND coalesce('.' || h.queue, '') = g.name AND h.due IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM {s}.leases l WHERE l.n = h.n)),
        CASE WHEN g.name <> '' THEN {s}.under_way(substr(g.name, 2), NULL)::bigint ELSE
            (SELECT count(*) FROM {s}.leases l JOIN {s}.heads h ON h.n = l.n
                WHERE h.status IN ('pending', 'running', 'halted') AND h.queue IS NULL AND h.parent_id IS NULL) END
    FROM unnest(_names) AS g (name) LEFT JOIN {s}.queues q ON q.queue = g.name ORDER BY g.name COLLATE "C";
END $body$;

CREATE OR REPLACE FUNCTION {s}.release(_now double precision, _id text, _owner text, _generation bigint) RETURNS void
LANGUAGE plpgsql AS $body$
-- What came while it was driven and was not read makes it due: nobody else was told. What is pending did not begin.
DECLARE
    _n bigint;
BEGIN
    SELECT h.n INTO _n FROM {s}.heads h WHERE h.id = _id AND h.generation = _generation FOR NO KEY UPDATE;
    PERFORM 1 FROM {s}.leases l WHERE l.n = _n AND l.owner = _owner;
    IF FOUND THEN
        PERFORM {s}.leave(_n);
        DELETE FROM {s}.begins b USING {s}.heads h
        WHERE h.n = _n AND h.status = 'pending' AND b.queue = h.queue AND b.n = h.n;
        PERFORM 1 FROM {s}.heads h
        WHERE h.n = _n AND h.status NOT IN ('completed', 'failed', 'cancelled')
            AND EXISTS (SELECT 1 FROM {s}.inbox i WHERE i.n = _n);
        IF FOUND THEN
            PERFORM {s}.summon(coalesce(_now, extract(epoch FROM clock_timestamp())::double precision), _n);
        END IF;
    END IF;
END $body$;
"""
"""Since version 4: what is set of queues, and what is due with regard to that."""

LEASES = """
CREATE FUNCTION {s}.renew(_now double precision, _owner text, _ttl double precision)
RETURNS TABLE (id text, generation bigint) LANGUAGE plpgsql AS $body$
-- A lease whose row somebody else has locked is being given back, or taken over: there is no reason to wait for that.
BEGIN
    UPDATE {s}.leases l
    SET until = coalesce(_now, extract(epoch FROM clock_timestamp())::double precision) + _ttl
    FROM (SELECT m.n FROM {s}.leases m WHERE m.owner = _owner FOR UPDATE SKIP LOCKED) mine WHERE l.n = mine.n;
    RETURN QUERY SELECT h.id, l.generation FROM {s}.leases l JOIN {s}.heads h ON h.n = l.n WHERE l.owner = _owner;
END $body$;

CREATE FUNCTION {s}.release(_now double precision, _id text, _owner text, _generation bigint) RETURNS void
LANGUAGE plpgsql AS $body$
-- What came while it was driven and was not read makes it due: nobody else was told.
DECLARE
    _n bigint;
BEGIN
    SELECT h.n INTO _n FROM {s}.heads h WHERE h.id = _id AND h.generation = _generation FOR NO KEY UPDATE;
    PERFORM 1 FROM {s}.leases l WHERE l.n = _n AND l.owner = _owner;
    IF FOUND THEN
        PERFORM {s}.leave(_n);
        PERFORM 1 FROM {s}.heads h
        WHERE h.n = _n AND h.status NOT IN ('completed', 'failed', 'cancelled')
            AND EXISTS (SELECT 1 FROM {s}.inbox i WHERE i.n = _n);
        IF FOUND THEN
            PERFORM {s}.summon(coalesce(_now, extract(epoch FROM clock_timestamp())::double precision), _n);
        END IF;
    END IF;
END $body$;
"""

ERASE = """
CREATE FUNCTION {s}.erase(_n bigint[]) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
    DELETE FROM {s}.facts WHERE n = ANY (_n);
    DELETE FROM {s}.leases WHERE n = ANY (_n);
    DELETE FROM {s}.labels WHERE n = ANY (_n);
    DELETE FROM {s}.entries WHERE n = ANY (_n);
    DELETE FROM {s}.frames WHERE n = ANY (_n);
    DELETE FROM {s}.variables WHERE n = ANY (_n);
    DELETE FROM {s}.inbox WHERE n = ANY (_n);
    DELETE FROM {s}.waits WHERE n = ANY (_n);
    DELETE FROM {s}.answers WHERE n = ANY (_n);
    DELETE FROM {s}.heads WHERE n = ANY (_n);
END $body$;

CREATE FUNCTION {s}.remove(_now double precision, _id text, OUT _removed boolean, OUT _holder text)
LANGUAGE plpgsql AS $body$
DECLARE
    _number bigint;
BEGIN
    _now := coalesce(_now, extract(epoch FROM clock_timestamp())::double precision);
    SELECT h.n INTO _number FROM {s}.heads h WHERE h.id = _id FOR UPDATE;
    _removed := FOUND;
    IF NOT _removed THEN
        RETURN;
    END IF;
    SELECT l.owner INTO _holder FROM {s}.leases l WHERE l.n = _number AND l.until > _now;
    IF _holder IS NULL THEN
        PERFORM {s}.erase(ARRAY[_number]);
    END IF;
END $body$;

CREATE FUNCTION {s}.purge(_now double precision, _before double precision, _statuses text[], _limit integer)
RETURNS integer LANGUAGE plpgsql AS $body$
DECLARE
    _status text;
    _found bigint[];
    _n bigint[] := ARRAY[]::bigint[];
BEGIN
    _now := coalesce(_now, extract(epoch FROM clock_timestamp())::double precision);
    FOREACH _status IN ARRAY _statuses LOOP
        _found := ARRAY(
            SELECT h.n FROM {s}.heads h
            WHERE h.status = _status AND h.finished_at < _before
                AND NOT EXISTS (SELECT 1 FROM {s}.leases l WHERE l.n = h.n AND l.until > _now)
            ORDER BY h.finished_at LIMIT _limit - cardinality(_n) FOR UPDATE SKIP LOCKED);
        _n := _n || ARRAY( -- once more, now that nobody can claim them
            SELECT g.n FROM unnest(_found) AS g (n)
            WHERE NOT EXISTS (SELECT 1 FROM {s}.leases l WHERE l.n = g.n AND l.until > _now));
    END LOOP;
    PERFORM {s}.erase(_n);
    RETURN cardinality(_n);
END $body$;
"""

VIEW = r"""
CREATE FUNCTION {s}.readable(_blob bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $body$
-- Stored data as far as jsonb can show it: U+0000 as U+FFFD, what is no JSON as text, what is no text as null.
DECLARE
    _text text;
BEGIN
    _text := convert_from(_blob, 'UTF8');
    BEGIN
        RETURN _text::jsonb;
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            RETURN regexp_replace(_text, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g')::jsonb;
        EXCEPTION WHEN OTHERS THEN
            RETURN to_jsonb(_text);
        END;
    END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $body$;

CREATE FUNCTION {s}.value_of(_entry bytea, _name text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $body$
-- What an entry gave to a variable.
DECLARE
    _record jsonb := {s}.readable(_entry);
BEGIN
    RETURN CASE
        WHEN jsonb_typeof(_record) <> 'object' THEN _record
        WHEN _record -> 'same' ? _name THEN _record -> 'output'
        WHEN _record -> 'changes' ? _name THEN _record -> 'changes' -> _name
        ELSE _record -> 'output'
    END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $body$;

CREATE FUNCTION {s}.moment(_seconds double precision) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $body$
    SELECT CASE WHEN _seconds BETWEEN -62135596800 AND 253402300799 THEN pg_catalog.to_timestamp(_seconds) END
$body$;

CREATE VIEW {s}.executions AS
SELECT h.id, h.status, h.workflow_id, f.workflow_version, h.current_step,
    {s}.readable(f.input) AS input,
    (SELECT coalesce(jsonb_object_agg(v.name, {s}.value_of(e.body, v.name)), '{{}}')
        FROM {s}.variables v JOIN {s}.entries e ON e.n = v.n AND e.seq = v.seq
        WHERE v.n = h.n AND v.frame = '' AND v.name NOT LIKE '%.%') AS ctx,
    {s}.value_of(r.body, 'result') AS result,
    {s}.readable(f.info) -> 'error' AS error,
    {s}.readable(convert_to(f.labels, 'UTF8')) AS labels,
    {s}.moment(h.created_at) AS created_at, {s}.moment(h.updated_at) AS updated_at,
    {s}.moment(h.finished_at) AS finished_at, {s}.moment(h.wake_at) AS wake_at,
    l.owner, CASE WHEN l.owner IS NOT NULL THEN {s}.moment(l.until) END AS lease_until, h.parent_id, f.root_id,
    f.trigger, h.queue, h.priority,
    f.concurrency_key, f.definition_hash, h.version, h.generation, h.recoveries, h.seq AS entries
FROM {s}.heads h JOIN {s}.facts f ON f.n = h.n LEFT JOIN {s}.leases l ON l.n = h.n
LEFT JOIN {s}.entries r ON r.n = h.n AND r.seq = h.result_seq;
COMMENT ON VIEW {s}.executions IS 'What durable_flow executes, for reading. Everything else here is internal.';
"""

REDEFINE = """
CREATE FUNCTION {s}.redefine(_outcome integer[], _c integer[], _id text[], _hash text[], _version text[], _body bytea[])
RETURNS integer LANGUAGE plpgsql AS $body$
-- Gives executions another definition, in the statement that called `commits` for them: those of `_outcome` that were
-- written, whose rows are locked.
BEGIN
    INSERT INTO {s}.definitions
    SELECT g.hash, g.body FROM unnest(_c, _hash, _body) AS g (c, hash, body)
    WHERE _outcome[g.c] >= 0 ORDER BY g.hash COLLATE "C" ON CONFLICT (hash) DO NOTHING;
    UPDATE {s}.facts f SET definition_hash = g.hash, workflow_version = g.version
    FROM unnest(_c, _id, _hash, _version) AS g (c, id, hash, version) JOIN {s}.heads h ON h.id = g.id
    WHERE _outcome[g.c] >= 0 AND f.n = h.n;
    RETURN cardinality(_c);
END $body$;
"""

_PARAMETERS = COMMITS.partition("(")[2].partition("    -- 1: written")[0]
_NAMES = [
    name for name, _ in re.findall(r"(_\w+) (boolean|double precision|\w+\[\]|double precision\[\])", _PARAMETERS)
]

LINES = (
    (
        """
CREATE TABLE {s}.line (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text COLLATE "C" NOT NULL,
    n bigint NOT NULL UNIQUE,
    id text COLLATE "C" NOT NULL,
    most integer NOT NULL,
    held boolean NOT NULL
);
CREATE INDEX line_by_key ON {s}.line (key, held, place);

CREATE FUNCTION {s}.lock_line(_key text, _ids text[], _leaving boolean) RETURNS void LANGUAGE plpgsql AS $body$
-- From here on nobody else changes the line of this key. Rows that may have to be changed because one is leaving it are
-- locked with those of `_ids`, in the order of their ids, so that nobody waits for us who has what we wait for.
BEGIN
    PERFORM pg_advisory_xact_lock({line_lock}, hashtext({schema} || ':' || _key));
    PERFORM 1 FROM {s}.heads h WHERE h.id = ANY (
        _ids || ARRAY(SELECT l.id FROM {s}.line l
            WHERE _leaving AND l.key = _key AND NOT l.held ORDER BY l.place LIMIT {called}))
    ORDER BY h.id FOR NO KEY UPDATE;
END $body$;

CREATE FUNCTION {s}.leave_line(_now double precision, _key text, _id text) RETURNS text[] LANGUAGE plpgsql AS $body$
-- An execution leaves a line that is locked. Those who are next hold its key, and are due: who they are.
DECLARE
    _holding bigint;
    _promoted text[] := ARRAY[]::text[];
    _r record;
BEGIN
    _now := coalesce(_now, extract(epoch FROM clock_timestamp())::double precision);
    DELETE FROM {s}.line l WHERE l.key = _key AND l.id = _id;
    SELECT count(*) INTO _holding FROM {s}.line l WHERE l.key = _key AND l.held;
    FOR _r IN
        SELECT l.n, l.id, l.most FROM {s}.line l
        WHERE l.key = _key AND NOT l.held ORDER BY l.place LIMIT {called}
    LOOP
        EXIT WHEN _holding >= _r.most;
        _holding := _holding + 1;
        UPDATE {s}.line l SET held = true WHERE l.n = _r.n;
        UPDATE {s}.heads h SET wake_at = _now WHERE h.n = _r.n AND h.wake_at > _now;
        _promoted := _promoted || _r.id;
    END LOOP;
    RETURN _promoted;
END $body$;

CREATE FUNCTION {s}.commit_in_line(
    _slot text, _most integer, _waits boolean, _known text[], _until_begun boolean, _frees text,
    {parameters}
    -- 0: let in as far as its line goes, 1: it is there already, 2: `_holders` hold the key; `_outcome` and `_holder`
    -- are those of `commits`.
    OUT _refused integer, OUT _holders text[], OUT _promoted text[], OUT _outcome integer[], OUT _holder text[]
) LANGUAGE plpgsql AS $body$
-- One commit of an execution that joins or leaves a line.
DECLARE
    _held boolean := true;
    _others text[];
    _gone bigint[] := ARRAY[]::bigint[];
BEGIN
    _refused := 0;
    PERFORM {s}.lock_line(coalesce(_slot, _frees), _id || _to, _frees IS NOT NULL);
    IF _slot IS NOT NULL THEN
        PERFORM 1 FROM {s}.heads h WHERE h.id = _id[1];
        IF FOUND AND cardinality(_workflow) > 0 THEN
            _refused := 1;
            RETURN;
        END IF;
        IF _until_begun OR _known IS NOT NULL THEN
            _gone := ARRAY(
                SELECT l.n FROM {s}.line l JOIN {s}.heads h ON h.n = l.n LEFT JOIN {s}.leases x ON x.n = l.n
                WHERE l.key = _slot AND _until_begun AND (h.status <> 'pending' OR x.owner IS NOT NULL));
            SELECT array_agg(l.id ORDER BY l.place), array_agg(l.id ORDER BY l.place) FILTER (WHERE l.held)
            INTO _others, _holders FROM {s}.line l WHERE l.key = _slot AND l.n <> ALL (_gone);
            _held := coalesce(cardinality(_holders), 0) = coalesce(cardinality(_others), 0);
        ELSE -- many may wait
            _holders := ARRAY(SELECT l.id FROM {s}.line l WHERE l.key = _slot AND l.held ORDER BY l.place);
            _held := NOT EXISTS (SELECT 1 FROM {s}.line l WHERE l.key = _slot AND NOT l.held);
        END IF;
        _held := _held AND coalesce(cardinality(_holders), 0) < _most;
        IF NOT (_held OR _waits) OR NOT coalesce(_others <@ _known, true) THEN
            _refused := 2;
            RETURN;
        END IF;
        IF NOT _held THEN
            _wake := ARRAY['Infinity'::double precision];
        END IF;
    END IF;
    SELECT c._outcome, c._holder INTO _outcome, _holder FROM {s}.commits({names}) c;
    IF _outcome[1] < 0 THEN
        RETURN;
    END IF;
    IF _slot IS NOT NULL THEN
        DELETE FROM {s}.line l WHERE l.n = ANY (_gone);
        INSERT INTO {s}.line (key, n, id, most, held)
        SELECT _slot, h.n, h.id, _most, _held FROM {s}.heads h WHERE h.id = _id[1];
    END IF;
    IF _frees IS NOT NULL THEN
        _promoted := {s}.leave_line(_now, _frees, _id[1]);
    END IF;
END $body$;

CREATE FUNCTION {s}.remove_in_line(
    _now double precision, _id text, OUT _removed boolean, OUT _holder text, OUT _promoted text[]
) LANGUAGE plpgsql AS $body$
-- Removes an execution, and lets those who are next in its line hold its key.
DECLARE
    _key text;
BEGIN
    SELECT l.key INTO _key FROM {s}.line l JOIN {s}.heads h ON h.n = l.n WHERE h.id = _id;
    IF _key IS NOT NULL THEN
        PERFORM {s}.lock_line(_key, ARRAY[_id], true);
    END IF;
    SELECT r._removed, r._holder INTO _removed, _holder FROM {s}.remove(_now, _id) r;
    IF _key IS NOT NULL AND _removed AND _holder IS NULL THEN
        _promoted := {s}.leave_line(_now, _key, _id);
    END IF;
END $body$;

CREATE FUNCTION {s}.line_of(_key text) RETURNS TABLE (execution_id text, holds boolean)
STABLE LANGUAGE plpgsql AS $body$
BEGIN
    RETURN QUERY SELECT l.id, l.held FROM {s}.line l WHERE l.key = _key ORDER BY l.place;
END $body$;

CREATE OR REPLACE FUNCTION {s}.summon(_now double precision, _n bigint) RETURNS void LANGUAGE plpgsql AS $body$
-- An execution whose row is locked has got a message: unless somebody drives it, it is due from now on. What is pending
-- begins at its time, unless it is to end before.
BEGIN
    UPDATE {s}.heads h SET wake_at = _now
    WHERE h.n = _n AND coalesce(h.wake_at > _now, true)
        AND (h.status <> 'pending' OR EXISTS (SELECT 1 FROM {s}.inbox i WHERE i.n = _n AND i.key = 'cancel'))
        AND NOT EXISTS (SELECT 1 FROM {s}.leases l WHERE l.n = _n AND l.owner IS NOT NULL);
END $body$;

DROP FUNCTION {s}.redefine(integer[], integer[], text[], text[], text[], bytea[]);
CREATE FUNCTION {s}.restate(
    _outcome integer[], _c integer[], _id text[], _hash text[], _version text[], _body bytea[], _input bytea[]
) RETURNS integer LANGUAGE plpgsql AS $body$
-- Gives executions another definition, or another input, in the statement that called `commits` for them: those of
-- `_outcome` that were written, whose rows are locked.
BEGIN
    INSERT INTO {s}.definitions
    SELECT g.hash, g.body FROM unnest(_c, _hash, _body) AS g (c, hash, body)
    WHERE _outcome[g.c] >= 0 AND g.hash IS NOT NULL ORDER BY g.hash COLLATE "C" ON CONFLICT (hash) DO NOTHING;
    UPDATE {s}.facts f SET definition_hash = coalesce(g.hash, f.definition_hash),
        workflow_version = coalesce(g.version, f.workflow_version), input = coalesce(g.input, f.input)
    FROM unnest(_c, _id, _hash, _version, _input) AS g (c, id, hash, version, input) JOIN {s}.heads h ON h.id = g.id
    WHERE _outcome[g.c] >= 0 AND f.n = h.n;
    RETURN cardinality(_c);
END $body$;
""".replace("{parameters}", _PARAMETERS.strip())
        .replace("{names}", ", ".join(_NAMES))
        .replace("{line_lock}", str(0x6C696E65))
        .replace("{called}", "100")
    )
    + (
        _CLAIMS.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
        .replace("{early}", "h.status = 'pending' AND h.wake_at > _now AS early, ")
        .replace("{ripe}", "\n            AND NOT coalesce(_r.early, false)")
    )
    + (
        ERASE.partition("CREATE FUNCTION {s}.remove(")[0]
        .replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
        .replace("DELETE FROM {s}.heads", "DELETE FROM {s}.line WHERE n = ANY (_n);\n    DELETE FROM {s}.heads")
    )
)
"""Since version 5: keys that so many executions may hold, and what is pending begins at its time."""

SCHEDULES = """
CREATE TABLE {s}.schedules (
    id text COLLATE "C" PRIMARY KEY,
    workflow_id text COLLATE "C" NOT NULL,
    nonce text NOT NULL,
    due double precision,
    awaits text COLLATE "C",
    definition_hash text COLLATE "C" NOT NULL,
    body bytea NOT NULL
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX schedules_by_due ON {s}.schedules (workflow_id, due);
CREATE INDEX schedules_by_wait ON {s}.schedules (workflow_id) WHERE awaits IS NOT NULL;

CREATE FUNCTION {s}.schedules_of(
    _now double precision, _workflows text[], _limit bigint, OUT _present double precision,
    OUT _id text[], OUT _workflow text[], OUT _nonce text[], OUT _due double precision[], OUT _awaits text[],
    OUT _hash text[], OUT _body bytea[]
) STABLE LANGUAGE plpgsql AS $body$
-- The records of schedules, soonest first; due at once where what they await is over.
DECLARE
    _name text;
    _r record;
BEGIN
    _present := coalesce(_now, extract(epoch FROM clock_timestamp())::double precision);
    IF _workflows IS NULL THEN
        _workflows := ARRAY(SELECT DISTINCT x.workflow_id FROM {s}.schedules x);
    END IF;
    FOR _r IN
        SELECT x.*, found.over
        FROM unnest(_workflows) AS w (name) CROSS JOIN LATERAL (
            (SELECT y.id, false AS over FROM {s}.schedules y
                WHERE y.workflow_id = w.name AND (_limit IS NULL OR y.due IS NOT NULL) ORDER BY y.due LIMIT _limit)
            UNION ALL
            SELECT y.id, true FROM {s}.schedules y LEFT JOIN {s}.heads h ON h.id = y.awaits
            WHERE y.workflow_id = w.name AND y.awaits IS NOT NULL AND (h.id IS NULL OR h.finished_at IS NOT NULL)
        ) found JOIN {s}.schedules x ON x.id = found.id
    LOOP
        _id := _id || _r.id;
        _workflow := _workflow || _r.workflow_id;
        _nonce := _nonce || _r.nonce;
        _due := _due || CASE WHEN _r.over THEN 0 ELSE _r.due END;
        _awaits := _awaits || _r.awaits;
        _hash := _hash || _r.definition_hash;
        _body := _body || ARRAY[_r.body];
    END LOOP;
END $body$;

CREATE FUNCTION {s}.marks(
    _expected text[], _id text[], _workflow text[], _nonce text[], _due double precision[], _awaits text[],
    _hash text[], _definition bytea[], _body bytea[]
) RETURNS SETOF text LANGUAGE plpgsql AS $body$
-- Changes records of schedules that have the nonces that are expected; the ids of those.
DECLARE
    _r record;
BEGIN
    FOR _r IN
        SELECT g.* FROM unnest(_expected, _id, _workflow, _nonce, _due, _awaits, _hash, _definition, _body)
            AS g (expected, id, workflow, nonce, due, awaits, hash, definition, body) ORDER BY g.id COLLATE "C"
    LOOP
        IF _r.body IS NULL THEN
            DELETE FROM {s}.schedules x WHERE x.id = _r.id AND x.nonce = _r.expected;
        ELSIF _r.expected IS NULL THEN
            INSERT INTO {s}.schedules VALUES (_r.id, _r.workflow, _r.nonce, _r.due, _r.awaits, _r.hash, _r.body)
            ON CONFLICT (id) DO NOTHING;
        ELSE
            UPDATE {s}.schedules x SET workflow_id = _r.workflow, nonce = _r.nonce, due = _r.due, awaits = _r.awaits,
                definition_hash = _r.hash, body = _r.body
            WHERE x.id = _r.id AND x.nonce = _r.expected;
        END IF;
        IF FOUND THEN
            IF _r.definition IS NOT NULL THEN
                INSERT INTO {s}.definitions VALUES (_r.hash, _r.definition) ON CONFLICT (hash) DO NOTHING;
            END IF;
            RETURN NEXT _r.id;
        END IF;
    END LOOP;
END $body$;
"""
"""Since version 6: schedules. Whoever locks both locks these rows first, in the order of their ids."""

MIGRATIONS: Sequence[str] = (
    "".join((TABLES, READS, DELIVER, COMMITS, APPENDS, CLAIMS, LEASES, ERASE, VIEW)),
    HOLDS,
    REDEFINE,
    QUEUES + DUE,
    LINES,
    SCHEDULES,
)
"""The n-th item leads from schema version n to n + 1 (kept in the table `schema_version`)."""

LOCK = 0x6475666C
"""The class of the advisory lock under which schemas are migrated: "dufl"."""


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal, whatever the server's settings."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def lock_sql(schema: str) -> str:
    """Waits until nobody else migrates this schema; the end of the transaction lets go."""
    return f"SELECT pg_advisory_xact_lock({LOCK}, hashtext({literal(schema)}))"


def steps_sql(schema: str, from_version: int) -> str:
    """The statements that lead from a version to the newest, without a transaction around them."""
    s = quoted(schema)
    parts = []
    if from_version == 0:
        parts.append(f"CREATE TABLE {s}.schema_version (version integer NOT NULL);\n")
        parts.append(f"INSERT INTO {s}.schema_version VALUES (0);\n")
    row, stored = f"SELECT {ROW} FROM {ROW_TABLES}".format(s=s), STORED.format(s=s)
    parts += [step.format(s=s, schema=literal(schema), row=row, stored=stored) for step in MIGRATIONS[from_version:]]
    parts.append(f"\nUPDATE {s}.schema_version SET version = {len(MIGRATIONS)};\n")
    return "".join(parts)
