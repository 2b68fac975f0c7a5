-- What the Redis store does to its keys: every verb that reads or writes executions, applied to a batch.
--
-- KEYS[1]  the prefix of every key: one hash tag and a colon
-- ARGV[1]  the present in epoch seconds, or "" for the server's own time
-- ARGV[2]  who calls: goes with what is published, so that a store does not hear itself
-- ARGV[3…] the members of the batch, each one msgpack array: the verb, then its arguments (false where there is none)
--
-- Gives one array per member: a word that says what became of it, and what belongs to that word. A script is atomic
-- but is not rolled back, so every verb looks first and writes when nothing can be refused any more. Running out of
-- memory needs no care: Redis refuses the first write of a script for it, and never a later one.
--
-- Keys, behind the prefix:
--   schema            the version of this layout
--   x:<id>            an execution (hash): v version, g generation, s status, h head ("number of the result's entry:"
--                     and what only Python reads), i info, f facts, d definition's hash, t created_at, x its indexes,
--                     q "priority hash queue" (a dot before the name of a queue, nothing for none); where it has them:
--                     e end, p "1" if it is a child, k wake_at, o owner, l end of the lease, u last number of its inbox, c "version
--                     recoveries" (as long as it is at that version there were so many), r "[hash, version]" of the
--                     definition it has instead of that in f, b the hashes of those it had before (msgpack list),
--                     j the input it has instead of that in f, y "limit 1 key" of the line it is in (1: it holds it);
--                     F<path> a frame, V<path>\0<name> a variable
--   n:<id>            the frames and variables below a path (sorted set, all of score 0): path, or path\0name
--   e:<id>            entries (list): number n is at n - 1
--   w:<id>            open waits (hash): "seq remaining deadline body"; -1 remain of one that time closed
--   a:<id>            who voted (hash): wait -> msgpack list of keys
--   i:<id>, m:<id>    the inbox: its keys by number (sorted set), their bodies (hash)
--   owner:<owner>     what somebody drives (set)
--   mail              executions with unread messages (set)
--   by:<status>:<…>   indexes (sorted sets, by created_at)
--   ended:<status>    what is over, by its end (sorted set)
--   begun:<q>, pending:<q>, exempt:<q>  what is not over and has this q, by when it is due (sorted sets); what never is,
--                     is in none. Exempt from limits is what is pending and was taken before, or is a child
--   begun, pending, exempt  the q of these sets (sorted sets), by a time before which nothing in them is due
--   hold, declared, decided  what is set of queues (hashes)
--   way:<queue>       what is under way in a queue (set; the queue as in q)
--   rate:<queue>      what began lately in a queue with a rate, by when (sorted set): "generation id"
--   holders:<key>, line:<key>  who holds a key, and who waits for it (sorted sets), by when they came
--   places            how many were ever in any line
--   t:<id>            the record of a schedule (hash): w workflow, n nonce, h definition's hash, b body, and where it has
--                     them d due, a what it awaits
--   ticks:<workflow>  the records of schedules of a workflow, by when they are due (sorted set; +inf: never)
--   awaiting:<workflow>  those that await something (set)
--   ticking           the workflows that have records of schedules (set)
--   definitions, uses documents by hash, and how many executions and schedules have them (hashes)

local call, unpack_message, pack_message = redis.call, cmsgpack.unpack, cmsgpack.pack
local prefix, sender = KEYS[1], ARGV[2]
local X, N, E, W = prefix .. 'x:', prefix .. 'n:', prefix .. 'e:', prefix .. 'w:'
local A, I, M = prefix .. 'a:', prefix .. 'i:', prefix .. 'm:'
local OWNER, MAIL, ENDED, BY = prefix .. 'owner:', prefix .. 'mail', prefix .. 'ended:', prefix .. 'by:'
local DEFINITIONS, USES = prefix .. 'definitions', prefix .. 'uses'
local BEGUN, PENDING, EXEMPT = prefix .. 'begun', prefix .. 'pending', prefix .. 'exempt'
local HOLD, WAY, RATE = prefix .. 'hold', prefix .. 'way:', prefix .. 'rate:'
local HOLDERS, LINE, PLACES, NEVER = prefix .. 'holders:', prefix .. 'line:', prefix .. 'places', 'inf'
local T, TICKS, AWAITING, TICKING = prefix .. 't:', prefix .. 'ticks:', prefix .. 'awaiting:', prefix .. 'ticking'
local OVER = {completed = true, failed = true, cancelled = true}
local LISTS = {running = {BEGUN}, halted = {BEGUN}, pending = {PENDING, EXEMPT}}
local heard, anything_heard = {}, false

local moment
local function now()
  if not moment then
    if ARGV[1] ~= '' then
      moment = tonumber(ARGV[1])
    else
      local time = call('TIME')
      moment = tonumber(time[1]) + tonumber(time[2]) / 1000000
    end
  end
  return moment
end

local function exact(number)
  return string.format('%.17g', number)
end

local function hear(id)
  heard[id], anything_heard = true, true
end

-- A command with any number of arguments behind its key: there is an end to what fits on Lua's stack.
local function many(command, key, list)
  local size = #list
  if size <= 1000 then
    if size > 0 then
      call(command, key, unpack(list))
    end
    return
  end
  for first = 1, size, 1000 do
    call(command, key, unpack(list, first, math.min(first + 999, size)))
  end
end

-- Whether one text is before another by its bytes. Lua's own < goes by the locale of the server.
local function before(one, other)
  local shorter = math.min(#one, #other)
  for i = 1, shorter do
    local left, right = string.byte(one, i), string.byte(other, i)
    if left ~= right then
      return left < right
    end
  end
  return #one < #other
end

-- indexes --------------------------------------------------------------------------------------------------------------

local function enlist(id, status, created_at, indexes)
  for i = 1, #indexes do
    call('ZADD', BY .. status .. ':' .. indexes[i], created_at, id)
  end
end

local function strike(id, status, indexes)
  for i = 1, #indexes do
    call('ZREM', BY .. status .. ':' .. indexes[i], id)
  end
end

-- what is due ----------------------------------------------------------------------------------------------------------

-- When somebody must look at an execution, as a text; nothing: never, as far as is known.
local function due_at(status, owner, lease, wake_at, created_at)
  if OVER[status] then
    return nil
  elseif owner then
    return lease
  elseif status == 'running' then
    return created_at
  elseif status == 'halted' then
    return wake_at
  end
  return wake_at or created_at
end

-- The priority, the definition and the queue of a q.
local function parts_of(q)
  return string.match(q, '^(%S+) (%S*) (.*)$')
end

-- In which of the lists what is due an execution belongs.
local function list_of(status, owner, child)
  if status == 'pending' and (owner or child) then
    return EXEMPT
  end
  return LISTS[status][1]
end

-- Takes an execution out of the lists in which it may be with a status, except one.
local function unlist(id, status, q, except)
  for _, list in ipairs(LISTS[status] or {}) do
    if list ~= except and call('ZREM', list .. ':' .. q, id) == 1 and call('EXISTS', list .. ':' .. q) == 0 then
      call('ZREM', list, q)
    end
  end
end

-- Puts an execution where it belongs, after its status, its owner, its lease or its time changed.
local function schedule(id, old_status)
  local row = call('HMGET', X .. id, 's', 'o', 'l', 'k', 't', 'q', 'p')
  local status, owner, q, child = row[1], row[2], row[6], row[7]
  local at = due_at(status, owner, row[3], row[4], row[5])
  local list = at and list_of(status, owner, child)
  if at then
    call('ZADD', list .. ':' .. q, at, id)
    call('ZADD', list, 'LT', at, q)
  end
  unlist(id, old_status, q, list)
  if not child then
    local _, _, queue = parts_of(q)
    local counts = not OVER[status] and (owner or status == 'running')
    call(counts and 'SADD' or 'SREM', WAY .. queue, id)
  end
end

-- Something came for an execution: unless somebody drives it, it is due from now on; but what is pending begins at its
-- time, and only has to end sooner.
local function summon(id, kind)
  local row = call('HMGET', X .. id, 's', 'o', 'k')
  if not row[2] and not (row[3] and tonumber(row[3]) <= now()) and (row[1] ~= 'pending' or kind == 'cancel') then
    call('HSET', X .. id, 'k', exact(now()))
    schedule(id, row[1])
  end
end

-- inboxes --------------------------------------------------------------------------------------------------------------

local function is_open(kind, remaining, deadline)
  if remaining <= 0 then
    return false
  end
  local late = deadline ~= '-' and now() >= tonumber(deadline)
  if kind == 'timeout' then
    return late
  end
  return not late
end

local function put(id, kind, key, wait_id, takes, body)
  local meta, remaining, answered
  if wait_id then
    meta = call('HGET', W .. id, wait_id)
    local seq, left, deadline, rest
    if meta then
      seq, left, deadline, rest = string.match(meta, '^(%d+) (%-?%d+) (%S+) ()')
      left = tonumber(left)
    end
    -- A child may end before the commit that opens the wait for it.
    if kind ~= 'child' and not (meta and is_open(kind, left, deadline)) then
      return 'closed'
    end
    answered = call('HGET', A .. id, wait_id)
    answered = answered and unpack_message(answered) or {}
    for i = 1, #answered do
      if answered[i] == key then
        return 'duplicate'
      end
    end
    if meta and left < 0 then -- time closed it, and it stays late
      meta = nil
    elseif meta then
      remaining = takes > 0 and math.max(0, left - takes) or 0
      meta = seq .. ' ' .. string.format('%d', remaining) .. ' ' .. deadline .. ' ' .. string.sub(meta, rest)
    end
  end
  if call('HEXISTS', M .. id, key) == 1 then
    return 'duplicate'
  end
  local number = call('HINCRBY', X .. id, 'u', 1)
  call('ZADD', I .. id, number, key)
  call('HSET', M .. id, key, body)
  call('SADD', MAIL, id)
  if meta then
    call('HSET', W .. id, wait_id, meta)
    if remaining > 0 then -- the message will be consumed while the wait is still open
      answered[#answered + 1] = key
      call('HSET', A .. id, wait_id, pack_message(answered))
    end
  end
  hear(id)
  return 'accepted'
end

local function append(job)
  local id = job[2]
  local row = call('HMGET', X .. id, 's', 'o', 'l')
  if not row[1] then
    return {'unknown', false, false}
  end
  if OVER[row[1]] then
    return {'closed', row[2], row[3]}
  end
  local outcome = put(id, job[3], job[4], job[5], job[6], job[7])
  if outcome == 'accepted' and not row[2] then
    summon(id, job[3])
  end
  return {outcome, row[2], row[3]}
end

local function consume(id, numbers)
  for i = 1, #numbers do
    local key = call('ZRANGEBYSCORE', I .. id, numbers[i], numbers[i])[1]
    if key then
      call('ZREM', I .. id, key)
      call('HDEL', M .. id, key)
    end
  end
  if call('EXISTS', I .. id) == 0 then
    call('SREM', MAIL, id)
  end
end

-- commits --------------------------------------------------------------------------------------------------------------

local function close(id, waits)
  many('HDEL', W .. id, waits)
  many('HDEL', A .. id, waits)
end

local function drop(id, paths)
  for i = 1, #paths do
    local path = paths[i]
    -- "\" follows "[" and "0" follows "/", so these bounds enclose what begins with "path[" and "path/".
    for _, bounds in ipairs({{'[' .. path .. '[', '(' .. path .. '\\'}, {'[' .. path .. '/', '(' .. path .. '0'}}) do
      local found = call('ZRANGEBYLEX', N .. id, bounds[1], bounds[2])
      if #found > 0 then
        call('ZREMRANGEBYLEX', N .. id, bounds[1], bounds[2])
        for j = 1, #found do
          found[j] = (string.find(found[j], '\0', 1, true) and 'V' or 'F') .. found[j]
        end
        many('HDEL', X .. id, found)
      end
    end
  end
end

-- Who is in a line: {id, whether it holds the key, its place}, in the order in which they came.
local function line_of(key)
  local line = {}
  for _, part in ipairs({HOLDERS, LINE}) do
    local found = call('ZRANGE', part .. key, 0, -1, 'WITHSCORES')
    for i = 1, #found, 2 do
      line[#line + 1] = {found[i], part == HOLDERS, tonumber(found[i + 1])}
    end
  end
  table.sort(line, function(one, other)
    return one[3] < other[3]
  end)
  return line
end

-- Gives an execution its place among those who hold a key or wait for it.
local function stand(id, key, most, held, place)
  call('HSET', X .. id, 'y', string.format('%d', most) .. ' ' .. (held and '1 ' or '0 ') .. key)
  call('ZADD', (held and HOLDERS or LINE) .. key, place, id)
end

local function step_out(id, key)
  call('ZREM', HOLDERS .. key, id)
  call('ZREM', LINE .. key, id)
  call('HDEL', X .. id, 'y')
end

-- Whether an execution may hold a key at once, and who leaves the line for it; or nothing, and who holds it.
local function let_in(slot)
  local key, most, waits, known, until_begun = unpack(slot)
  local left, holders, waiting, strange = {}, {}, false, false
  if not known and not until_begun then -- many may wait
    holders, waiting = call('ZRANGE', HOLDERS .. key, 0, -1), call('EXISTS', LINE .. key) == 1
  else
    local others = {}
    for i = 1, known and #known or 0 do
      others[known[i]] = true
    end
    for _, place in ipairs(line_of(key)) do
      local id, row = place[1], until_begun and call('HMGET', X .. place[1], 's', 'o')
      if row and (row[1] ~= 'pending' or row[2]) then
        left[#left + 1] = id
      else
        if place[2] then
          holders[#holders + 1] = id
        else
          waiting = true
        end
        strange = strange or known and not others[id]
      end
    end
  end
  local free = #holders < most and not waiting
  if strange or not (free or waits) then
    return nil, holders
  end
  return free, left
end

local function join(id, slot, held, left)
  for _, other in ipairs(left) do
    step_out(other, slot[1])
  end
  stand(id, slot[1], slot[2], held, call('INCR', PLACES))
end

-- An execution leaves the line it is in: those who are next hold its key, and are due. Who they are.
local function leave_line(id)
  local place, promoted = call('HGET', X .. id, 'y'), {}
  if not place then
    return promoted
  end
  local key = string.match(place, '^%d+ %d (.*)$')
  step_out(id, key)
  local holding = call('ZCARD', HOLDERS .. key)
  while true do
    local first = call('ZRANGE', LINE .. key, 0, 0, 'WITHSCORES')
    local other = first[1]
    local most = other and tonumber(string.match(call('HGET', X .. other, 'y'), '^%d+'))
    if not other or holding >= most then
      return promoted
    end
    holding = holding + 1
    call('ZREM', LINE .. key, other)
    stand(other, key, most, true, first[2])
    local row = call('HMGET', X .. other, 's', 'k')
    if row[2] and tonumber(row[2]) > now() then
      call('HSET', X .. other, 'k', exact(now()))
      schedule(other, row[1])
    end
    promoted[#promoted + 1] = other
    hear(other)
  end
end

local function line(job)
  local found = {}
  for _, place in ipairs(line_of(job[2])) do
    found[#found + 1] = place[1]
    found[#found + 1] = place[2] and 1 or 0
  end
  return {'line', found}
end

-- The parts of a commit that most commits do not have.
local function rare(id, parts)
  if parts.dropped then
    drop(id, parts.dropped)
  end
  if parts.gone then
    many('HDEL', X .. id, parts.gone)
  end
  if parts.gone_below then
    many('ZREM', N .. id, parts.gone_below)
  end
  if parts.closed then
    close(id, parts.closed)
  end
  if parts.opened then
    for _, wait in ipairs(parts.opened) do
      local deadline = wait[4] and exact(wait[4]) or '-'
      call('HDEL', A .. id, wait[1])
      call('HSET', W .. id, wait[1], string.format('%d %d %s ', wait[2], wait[3], deadline) .. wait[5])
    end
  end
  if parts.rewritten then
    for _, wait in ipairs(parts.rewritten) do
      local found = call('HGET', W .. id, wait[1])
      if found then
        call('HSET', W .. id, wait[1], string.match(found, '^%d+ %-?%d+ %S+ ') .. wait[2])
      end
    end
  end
  if parts.consumed then
    consume(id, parts.consumed)
  end
end

-- Appends entries, if the first of them is the next one.
local function enter(id, first, entries)
  local size = #entries
  if size == 0 then
    return true
  end
  if size <= 1000 then
    local last = call('RPUSH', E .. id, unpack(entries))
    if last == first + size - 1 then
      return true
    end
    call('RPOP', E .. id, size)
    return false, last - size
  end
  local last = call('LLEN', E .. id)
  if last + 1 ~= first then
    return false, last
  end
  many('RPUSH', E .. id, entries)
  return true
end

local function write(id, fields, below, parts)
  if parts then -- what is dropped goes before anything of this commit is set
    call('HSET', X .. id, fields[1], fields[2]) -- but a full server would let a deletion pass, and what is behind it
    rare(id, parts)
  end
  many('HSET', X .. id, fields)
  if below then
    many('ZADD', N .. id, below)
  end
end

-- The end of a commit: its messages, who hears of it, and whether the lease goes back.
local function finish(id, status, parts, release, old_status, moved)
  if parts and parts.messages then
    for _, message in ipairs(parts.messages) do
      local found = call('HGET', X .. message[1], 's')
      if found and not OVER[found] and put(unpack(message)) == 'accepted' then
        summon(message[1], message[2])
      end
    end
  end
  if OVER[status] or status == 'halted' then
    hear(id)
  end
  local released = release and call('EXISTS', I .. id) == 0
  local owner = released and call('HGET', X .. id, 'o')
  if owner then
    call('HDEL', X .. id, 'o', 'l')
    call('SREM', OWNER .. owner, id)
    moved = true
  end
  if moved then
    schedule(id, old_status)
  end
  return {released and 'released' or 'kept', parts and parts.frees and leave_line(id) or {}}
end

-- Gives an execution another definition. What is due is kept by definition, so it leaves the set it is in.
local function redefine(id, status, hash, definition, told)
  local old = call('HMGET', X .. id, 'd', 'q', 'b')
  local q = old[2]
  unlist(id, status, q)
  local priority, queue = string.match(q, '^(%S+) %S+(.*)$')
  local earlier = old[3] and unpack_message(old[3]) or {}
  earlier[#earlier + 1] = old[1]
  call('HSET', X .. id, 'd', hash, 'q', priority .. ' ' .. hash .. queue, 'r', told, 'b', pack_message(earlier))
  if call('HINCRBY', USES, hash, 1) == 1 then
    call('HSET', DEFINITIONS, hash, definition)
  end
end

-- schedules ------------------------------------------------------------------------------------------------------------

local function use(hash, definition)
  if call('HINCRBY', USES, hash, 1) == 1 and definition then
    call('HSET', DEFINITIONS, hash, definition)
  end
end

local function unuse(hash)
  if call('HINCRBY', USES, hash, -1) == 0 then
    call('HDEL', USES, hash)
    call('HDEL', DEFINITIONS, hash)
  end
end

local function applies(mark)
  return call('HGET', T .. mark[1], 'n') == mark[3]
end

local function put_mark(mark)
  local id, workflow, _, nonce, due, awaits, hash, definition, body = unpack(mark)
  local old = call('HMGET', T .. id, 'w', 'h')
  if body and old[2] ~= hash then
    use(hash, definition)
  end
  if old[1] then
    call('ZREM', TICKS .. old[1], id)
    call('SREM', AWAITING .. old[1], id)
    if old[2] ~= hash or not body then
      unuse(old[2])
    end
    call('DEL', T .. id)
  end
  if body then
    call('HSET', T .. id, 'w', workflow, 'n', nonce, 'h', hash, 'b', body)
    if due then
      call('HSET', T .. id, 'd', exact(due))
    end
    call('ZADD', TICKS .. workflow, due and exact(due) or '+inf', id)
    if awaits then
      call('HSET', T .. id, 'a', awaits)
      call('SADD', AWAITING .. workflow, id)
    end
    call('SADD', TICKING, workflow)
  end
  if old[1] and call('EXISTS', TICKS .. old[1]) == 0 then
    call('SREM', TICKING, old[1])
  end
end

local function mark(job)
  if not applies(job[2]) then
    return {'mark', 0}
  end
  put_mark(job[2])
  hear('')
  return {'mark', 1}
end

local function schedules(job)
  local workflows, limit = job[2] or call('SMEMBERS', TICKING), job[3]
  local found, seen = {}, {}
  local function add(id, due)
    if not seen[id] then
      seen[id] = true
      local row = call('HMGET', T .. id, 'w', 'n', 'd', 'a', 'h', 'b')
      found[#found + 1] = {id, row[1], row[2], due or row[3], row[4], row[5], row[6]}
    end
  end
  for _, workflow in ipairs(workflows) do
    for _, id in ipairs(call('SMEMBERS', AWAITING .. workflow)) do
      local status = call('HGET', X .. call('HGET', T .. id, 'a'), 's')
      if not status or OVER[status] then
        add(id, '0')
      end
    end
    local ends = limit and '(+inf' or '+inf'
    for _, id in ipairs(call('ZRANGEBYSCORE', TICKS .. workflow, '-inf', ends, 'LIMIT', 0, limit or -1)) do
      add(id)
    end
  end
  return {'schedules', exact(now()), found}
end

local function commit(job)
  local id, status, ended, fields, parts = job[2], job[5], job[6], job[10], job[12]
  local wake_at = job[13] and exact(job[13])
  local key = X .. id
  local row = call('HMGET', key, 'v', 'g', 's', 'e', 'k')
  if tonumber(row[1]) ~= job[4] or tonumber(row[2]) ~= job[3] then
    return {'lost', call('HGET', key, 'o')}
  end
  local slot, held, left = parts and parts.slot, true, nil
  if slot then
    held, left = let_in(slot)
    if held == nil then
      return {'taken', left}
    end
    if not held then
      wake_at = NEVER
    end
  end
  local next, last = enter(id, job[8], job[9])
  if not next then
    return {'order', last}
  end
  if slot then
    join(id, slot, held, left)
  end
  local old, old_end = row[3], row[4]
  if status ~= old then
    fields[#fields + 1], fields[#fields + 2] = 's', status
  end
  write(id, fields, job[11], parts)
  local moved = status ~= old
  if job[14] then
    redefine(id, old, unpack(job[14]))
    moved = true
  end
  if wake_at ~= row[5] then
    if wake_at then
      call('HSET', key, 'k', wake_at)
    else
      call('HDEL', key, 'k')
    end
    moved = true
  end
  if status ~= old then
    local place = call('HMGET', key, 'x', 't')
    local indexes = unpack_message(place[1])
    strike(id, old, indexes)
    enlist(id, status, place[2], indexes)
  end
  if ended or old_end then
    if old_end then
      call('ZREM', ENDED .. old, id)
    end
    if ended then
      call('ZADD', ENDED .. status, exact(ended), id)
      call('HSET', key, 'e', exact(ended))
    else
      call('HDEL', key, 'e')
    end
  end
  return finish(id, status, parts, job[7], old, moved)
end

local function create(job)
  local id, status, ended = job[2], job[5], job[6]
  local facts, hash, definition, created_at, indexes, owner, ttl, q, child, tick = unpack(job[14])
  local key = X .. id
  if tick and not applies(tick) then
    return {'lost', false}
  end
  if call('EXISTS', key) == 1 then
    return {'exists'}
  end
  local slot, wake_at = job[12] and job[12].slot, job[13] and exact(job[13])
  local held, left = true, nil
  if slot then
    held, left = let_in(slot)
    if held == nil then
      return {'taken', left}
    end
    if not held then
      wake_at = NEVER
    end
  end
  local next, last = enter(id, job[8], job[9])
  if not next then
    return {'order', last}
  end
  if slot then
    join(id, slot, held, left)
  end
  created_at = exact(created_at)
  call('HSET', key, 'g', job[3], 's', status, 'f', facts, 'd', hash, 't', created_at, 'x', pack_message(indexes),
    'q', q)
  if child then
    call('HSET', key, 'p', '1')
  end
  if wake_at then
    call('HSET', key, 'k', wake_at)
  end
  if call('HINCRBY', USES, hash, 1) == 1 then
    call('HSET', DEFINITIONS, hash, definition)
  end
  enlist(id, status, created_at, indexes)
  if ended then
    call('HSET', key, 'e', exact(ended))
    call('ZADD', ENDED .. status, exact(ended), id)
  end
  if ttl and owner then
    call('HSET', key, 'o', owner, 'l', exact(now() + ttl))
    call('SADD', OWNER .. owner, id)
  else
    hear(id)
  end
  write(id, job[10], job[11], job[12])
  if tick then
    put_mark(tick)
  end
  return finish(id, status, job[12], job[7], status, true)
end

-- reading --------------------------------------------------------------------------------------------------------------

local FIELDS = {'v', 'g', 's', 'e', 'o', 'l', 'c', 'h', 'i', 'f', 'k', 'r', 'j'}

local function whole(id, values)
  local result = tonumber(string.match(values[8], '^(%d*):'))
  result = result and call('LINDEX', E .. id, result - 1)
  local size = #FIELDS
  values[size + 1], values[size + 2], values[size + 3] = result or false, call('HGETALL', W .. id), id
  return values
end

local function row(job)
  local values = call('HMGET', X .. job[2], unpack(FIELDS))
  if not values[1] then
    return {'none'}
  end
  return {'row', whole(job[2], values)}
end

local function unread(id)
  local found = call('ZRANGE', I .. id, 0, -1, 'WITHSCORES')
  local list = {}
  for i = 1, #found, 2 do
    list[#list + 1] = found[i + 1]
    list[#list + 1] = call('HGET', M .. id, found[i])
  end
  return list
end

-- Entries by their numbers, in order. What lies close together is read at once: finding a place in a list takes longer
-- than passing over a few that nobody asked for.
local function pick(id, wanted)
  local list, i = {}, 1
  table.sort(wanted)
  while i <= #wanted do
    local first, last = wanted[i], wanted[i]
    local j = i
    while j < #wanted and wanted[j + 1] - last <= 8 and wanted[j + 1] - first < 1000 do
      j = j + 1
      last = wanted[j]
    end
    local found = call('LRANGE', E .. id, first - 1, last - 1)
    for k = i, j do
      local body = found[wanted[k] - first + 1]
      if body and wanted[k] ~= wanted[k - 1] then
        list[#list + 1] = wanted[k]
        list[#list + 1] = body
      end
    end
    i = j + 1
  end
  return list
end

local function stored(id)
  local all = call('HGETALL', X .. id)
  local named, frames, sets, seen, wanted = {}, {}, {}, {}, {}
  for i = 1, #all, 2 do
    local field, value, seq = all[i], all[i + 1], nil
    local kind = string.byte(field)
    if kind == 70 then -- F
      frames[#frames + 1] = string.sub(field, 2)
      frames[#frames + 1] = value
      seq = tonumber(string.match(value, '^(%d+):'))
    elseif kind == 86 then -- V
      sets[#sets + 1] = string.sub(field, 2)
      sets[#sets + 1] = value
      seq = tonumber(value)
    else
      named[field] = value
    end
    if seq and not seen[seq] then
      seen[seq] = true
      wanted[#wanted + 1] = seq
    end
  end
  local values = {}
  for i = 1, #FIELDS do
    values[i] = named[FIELDS[i]] or false
  end
  return {'stored', whole(id, values), frames, sets, pick(id, wanted), unread(id)}
end

local function fetch(job)
  if call('EXISTS', X .. job[2]) == 0 then
    return {'none'}
  end
  return stored(job[2])
end

-- Entries from one index to another, or fewer where they are large; and whether there may be more of them.
local function entries_between(job)
  local id, first, last = job[2], job[3], job[4]
  local list, bytes = {}, 0
  while first <= last and bytes < 4000000 do
    local stop = math.min(first + 49, last)
    local found = call('LRANGE', E .. id, first, stop)
    for i = 1, #found do
      list[#list + 1] = found[i]
      bytes = bytes + #found[i]
    end
    if #found < stop - first + 1 then
      return {'entries', list, 0}
    end
    first = stop + 1
  end
  return {'entries', list, 1}
end

local function entries_of(job)
  return {'entries', pick(job[2], job[3])}
end

local function inbox(job)
  return {'inbox', unread(job[2])}
end

local function mail(job)
  return {'mail', call('SINTER', OWNER .. job[2], MAIL)}
end

local function present()
  return {'present', exact(now())}
end

local function definition(job)
  return {'definition', call('HGET', DEFINITIONS, job[2])}
end

-- leases ---------------------------------------------------------------------------------------------------------------

-- Closes the waits whose time is up.
local function expire(id)
  local waits = call('HGETALL', W .. id)
  for i = 1, #waits, 2 do
    local seq, left, deadline, rest = string.match(waits[i + 1], '^(%d+) (%-?%d+) (%S+) ()')
    if tonumber(left) > 0 and deadline ~= '-' and tonumber(deadline) <= now() then
      call('HSET', W .. id, waits[i], seq .. ' -1 ' .. deadline .. ' ' .. string.sub(waits[i + 1], rest))
    end
  end
end

-- Gives a lease that is to be had.
local function grant(id, owner, ttl)
  local key = X .. id
  local found = call('HMGET', key, 's', 'o', 'v', 'c')
  local status, holder, version = found[1], found[2], found[3]
  call('HSET', key, 'o', owner, 'l', exact(now() + ttl))
  call('HINCRBY', key, 'g', 1)
  if holder and holder ~= owner then
    call('SREM', OWNER .. holder, id)
    if status == 'running' then
      local at, count = string.match(found[4] or '', '^(%d+) (%d+)$')
      count = at == version and tonumber(count) or 0
      call('HSET', key, 'c', version .. ' ' .. string.format('%d', count + 1))
    end
  end
  call('SADD', OWNER .. owner, id)
  schedule(id, status)
  expire(id)
  return stored(id)
end

local function claim(job)
  local id, statuses = job[2], job[5]
  local found = call('HMGET', X .. id, 's', 'o', 'l', 'k')
  local status, holder, ends = found[1], found[2], found[3]
  if not status then
    return {'none'}
  end
  local early, wanted = status == 'pending' and found[4] and tonumber(found[4]) > now(), false
  for i = 1, #statuses do
    wanted = wanted or statuses[i] == status
  end
  if not wanted or early or (holder and tonumber(ends) > now()) then
    return {'busy', status, holder, ends}
  end
  return grant(id, job[3], job[4])
end

-- What is looked for, and the queues in which it is.
local function looking()
  -- The limits of a queue: how many under way, how many in how many seconds (nil: any number).
  local function limits_of(queue)
    local text = call('HGET', prefix .. 'decided', queue) or call('HGET', prefix .. 'declared', queue)
    if not text then
      return nil
    end
    local limits = cjson.decode(text)
    for i = 1, 2 do
      if limits[i] == cjson.null then
        limits[i] = nil
      end
    end
    return limits
  end

  -- How many of a queue may begin now, and when the next one may if the rate allows none; nothing: any number.
  local function may_begin(queue, room)
    local limits, at = limits_of(queue), nil
    if limits and limits[1] then
      room = math.min(room or limits[1], limits[1] - call('SCARD', WAY .. queue))
    end
    if limits and limits[2] and (not room or room > 0) then
      local began, count = call('ZREVRANGE', RATE .. queue, 0, limits[2] - 1, 'WITHSCORES'), 0
      for i = 2, #began, 2 do
        if tonumber(began[i]) + limits[3] <= now() then
          break
        end
        count = count + 1
        at = tonumber(began[i]) + limits[3]
      end
      if count < limits[2] then
        at = nil
      end
      room = math.min(room or limits[2], limits[2] - count)
    end
    return room, at, limits and limits[2] and limits[3]
  end

  -- Functions that tell whether executions with a q are among the wanted of a list, with their priority and their queue,
  -- and how many of a queue may begin.
  local function wanting(queues, without, idle)
    local wanted, unwanted, held, known = {}, {}, {}, {}
    for _, queue in ipairs(call('HKEYS', HOLD)) do
      held[queue] = true
    end
    for i = 1, queues and #queues or 0 do
      wanted[queues[i]] = true
    end
    for i = 1, #without do
      unwanted[without[i]] = true
    end
    local function wants(q, list)
      local priority, hash, queue = parts_of(q)
      local free = list == BEGUN or not held[queue]
      return free and (not queues or wanted[queue]) and not unwanted[hash], tonumber(priority), queue
    end
    local function room(queue)
      if not known[queue] then
        known[queue] = {may_begin(queue, idle and idle[queue])}
      end
      return unpack(known[queue], 1, 3)
    end
    return wants, room
  end

  -- The first of what is due in lists, at most `limit`, as {id, due, rank, queue}: those of a lower rank come first. What
  -- limits count has a queue, and there are no more of one than there is room for.
  local function longest_due(lists, limit, wants, room)
    local found, ends = {}, exact(now())
    local function order(one, other)
      if one[3] ~= other[3] then
        return one[3] < other[3]
      elseif one[2] ~= other[2] then
        return one[2] < other[2]
      end
      return before(one[1], other[1])
    end
    local function cut()
      table.sort(found, order)
      local kept, counts = {}, {}
      for _, due in ipairs(found) do
        local queue = due[4]
        local count = queue and (counts[queue] or 0) + 1
        if not (queue and room(queue)) or count <= room(queue) then
          kept[#kept + 1] = due
          if queue then
            counts[queue] = count
          end
        end
        if #kept == limit then
          break
        end
      end
      found = kept
    end
    for _, list in ipairs(lists) do
      for _, q in ipairs(call('ZRANGEBYSCORE', list, '-inf', ends)) do
        local wanted, priority, queue = wants(q, list)
        local most = limit
        if wanted and list == PENDING and room(queue) then
          most = math.min(limit, (room(queue)))
        end
        if wanted and most > 0 then
          local members = call('ZRANGEBYSCORE', list .. ':' .. q, '-inf', ends, 'WITHSCORES', 'LIMIT', 0, most)
          for i = 1, #members, 2 do
            found[#found + 1] =
              {members[i], tonumber(members[i + 1]), list == BEGUN and 0 or priority, list == PENDING and queue}
          end
          if #members == 0 then -- what was due has been taken
            call('ZADD', list, call('ZRANGE', list .. ':' .. q, 0, 0, 'WITHSCORES')[2], q)
          elseif #found > 10 * limit then
            cut()
          end
        end
      end
    end
    cut()
    return found
  end

  local function take(job)
    local owner, ttl, limit = job[2], job[3], job[4]
    local taken = {}
    local wants, room = wanting(job[5], job[6], job[7])
    for _, lists in ipairs({{BEGUN}, {EXEMPT, PENDING}}) do
      if #taken < limit then
        for _, due in ipairs(longest_due(lists, limit - #taken, wants, room)) do
          local id, queue = due[1], due[4]
          taken[#taken + 1] = grant(id, owner, ttl)
          local idle = job[7]
          if idle and lists[1] == BEGUN then -- it takes the place of one that would begin
            local _, _, its = parts_of(call('HGET', X .. id, 'q'))
            if idle[its] and call('HEXISTS', X .. id, 'p') == 0 then
              idle[its] = idle[its] - 1
            end
          end
          local _, _, period = room(queue or '')
          if queue and period then
            call('ZREMRANGEBYSCORE', RATE .. queue, '-inf', exact(now() - period - 1))
            call('ZADD', RATE .. queue, exact(now()), call('HGET', X .. id, 'g') .. ' ' .. id)
            call('EXPIRE', RATE .. queue, math.ceil(period) + 60)
          end
        end
      end
    end
    return {'taken', taken}
  end

  local function next_due(job)
    local least = nil
    local wants, room = wanting(job[2], job[3], job[4])
    for _, list in ipairs({BEGUN, EXEMPT, PENDING}) do
      local sets = call('ZRANGE', list, 0, -1, 'WITHSCORES')
      for i = 1, #sets, 2 do
        if least and tonumber(sets[i + 1]) >= least then
          break
        end
        local wanted, _, queue = wants(sets[i], list)
        local most, at
        if wanted and list == PENDING then
          most, at = room(queue)
        end
        if wanted and (not most or most > 0 or at) then
          local first = tonumber(call('ZRANGE', list .. ':' .. sets[i], 0, 0, 'WITHSCORES')[2])
          first = math.max(first, at or first)
          least = least and math.min(least, first) or first
        end
      end
    end
    return {'due', least and least < math.huge and exact(least - now()) or false}
  end

  local function set_queue(job)
    local queue, setting, value = job[2], prefix .. job[3], job[4]
    local old, changed = call('HGET', setting, queue), false
    if value then
      changed = not old or (setting ~= HOLD and old ~= value)
      if changed then
        call('HSET', setting, queue, value)
      end
    elseif old then
      changed = call('HDEL', setting, queue) == 1
    end
    if changed then
      hear('')
    end
    return {'queue', changed and 1 or 0}
  end

  -- What is set of queues, and how many are pending and under way in them; not of which ones: of all with anything.
  local function queues(job)
    local names, wanted, pending, list = {}, {}, {}, {}
    local function want(queue)
      if not wanted[queue] then
        wanted[queue], pending[queue], names[#names + 1] = true, 0, queue
      end
    end
    for _, queue in ipairs(job[2] or {}) do
      want(queue)
    end
    if not job[2] then
      for _, setting in ipairs({'hold', 'declared', 'decided'}) do
        for _, queue in ipairs(call('HKEYS', prefix .. setting)) do
          want(queue)
        end
      end
    end
    for _, due in ipairs({BEGUN, EXEMPT, PENDING}) do
      for _, q in ipairs(call('ZRANGE', due, 0, -1)) do
        local _, _, queue = parts_of(q)
        if not job[2] then
          want(queue)
        end
        if wanted[queue] and due == PENDING then
          pending[queue] = pending[queue] + call('ZCARD', due .. ':' .. q)
        elseif wanted[queue] and due == EXEMPT then
          for _, id in ipairs(call('ZRANGE', due .. ':' .. q, 0, -1)) do
            pending[queue] = pending[queue] + 1 - call('HEXISTS', X .. id, 'o')
          end
        end
      end
    end
    for i, queue in ipairs(names) do
      list[i] = {queue, call('HGET', HOLD, queue), call('HGET', prefix .. 'declared', queue),
        call('HGET', prefix .. 'decided', queue), pending[queue], call('SCARD', WAY .. queue)}
    end
    return {'queues', list}
  end
  return {take = take, next_due = next_due, set_queue = set_queue, queues = queues}
end

local function renew(job)
  local ends, list = exact(now() + job[3]), {}
  for _, id in ipairs(call('SMEMBERS', OWNER .. job[2])) do
    call('HSET', X .. id, 'l', ends)
    local found = call('HMGET', X .. id, 'g', 's', 'q', 'p')
    if not OVER[found[2]] then
      call('ZADD', list_of(found[2], true, found[4]) .. ':' .. found[3], ends, id)
    end
    list[#list + 1] = id
    list[#list + 1] = found[1]
  end
  return {'renewed', list}
end

local function release(job)
  local id, owner, generation = job[2], job[3], job[4]
  local found = call('HMGET', X .. id, 'o', 'g', 's')
  if found[1] == owner and tonumber(found[2]) == generation then
    call('HDEL', X .. id, 'o', 'l')
    call('SREM', OWNER .. owner, id)
    schedule(id, found[3])
    if found[3] == 'pending' then -- it did not begin
      local _, _, queue = parts_of(call('HGET', X .. id, 'q'))
      call('ZREM', RATE .. queue, found[2] .. ' ' .. id)
    end
    if not OVER[found[3]] then
      if call('EXISTS', I .. id) == 1 then
        summon(id)
      end
      hear(id)
    end
  end
  return {'done'}
end

local SCHEMA = 3

-- What is done now and then is made when it is asked for: making all functions anew in every call takes longer than
-- a small commit does.
local function now_and_then()
  -- deleting -------------------------------------------------------------------------------------------------------------

  local function delete(id)
    local promoted = leave_line(id)
    local found = call('HMGET', X .. id, 's', 'o', 'd', 'x', 'q', 'b')
    local status, owner, q = found[1], found[2], found[5]
    local hashes = found[6] and unpack_message(found[6]) or {}
    hashes[#hashes + 1] = found[3]
    local _, _, queue = parts_of(q)
    unlist(id, status, q)
    call('SREM', WAY .. queue, id)
    strike(id, status, unpack_message(found[4]))
    call('ZREM', ENDED .. status, id)
    call('SREM', MAIL, id)
    if owner then
      call('SREM', OWNER .. owner, id)
    end
    for _, hash in ipairs(hashes) do
      unuse(hash)
    end
    call('UNLINK', X .. id, N .. id, E .. id, W .. id, A .. id, I .. id, M .. id)
    return promoted
  end

  local function held(id)
    local found = call('HMGET', X .. id, 'o', 'l')
    return found[1] and tonumber(found[2]) > now() and found[1]
  end

  local function remove(job)
    local id = job[2]
    if call('EXISTS', X .. id) == 0 then
      return {'none'}
    end
    local owner = held(id)
    if owner then
      return {'held', owner}
    end
    return {'done', delete(id)}
  end

  local function purge(job)
    local ends, statuses, limit = '(' .. exact(job[2]), job[3], job[4]
    local count = 0
    for _, status in ipairs(statuses) do
      local offset = 0 -- past those that somebody drives
      while count < limit do
        local found = call('ZRANGEBYSCORE', ENDED .. status, '-inf', ends, 'LIMIT', offset, limit - count)
        for _, id in ipairs(found) do
          if held(id) then
            offset = offset + 1
          else
            delete(id)
            count = count + 1
          end
        end
        if #found == 0 then
          break
        end
      end
    end
    return {'done', count}
  end

  -- searching ------------------------------------------------------------------------------------------------------------

  local BUDGET = 4000 -- how many members of indexes one call looks at: others wait meanwhile

  -- How many members of an index come before the first one that is older than a position.
  local function rank(index, score, id)
    if not score then
      return 0
    end
    if id == '' then
      return call('ZCOUNT', index, score, '+inf')
    end
    local low = call('ZCOUNT', index, '(' .. score, '+inf')
    local high = low + call('ZCOUNT', index, score, score)
    while low < high do
      local middle = math.floor((low + high) / 2)
      if before(call('ZREVRANGE', index, middle, middle)[1], id) then
        high = middle
      else
        low = middle + 1
      end
    end
    return low
  end

  local function newer(one, other)
    if one[1] ~= other[1] then
      return one[1] > other[1]
    end
    return before(other[2], one[2])
  end

  -- Appends what matches in one status, newest first, at most `limit`. Gives the place where it stopped, if it did.
  local function scan(found, status, conditions, after, score, id, limit, budget)
    local sizes, least = {}, 1
    for i = 1, #conditions do
      conditions[i] = BY .. status .. ':' .. conditions[i]
      sizes[i] = call('ZCARD', conditions[i])
      if sizes[i] < sizes[least] then
        least = i
      end
    end
    local index = conditions[least]
    if sizes[least] == 0 then
      return nil
    end
    local first, matches, seen = rank(index, score, id), 0, 0
    local slice = math.min(limit, 200)
    while true do
      local members = call('ZREVRANGE', index, first, first + slice - 1, 'WITHSCORES')
      for i = 1, #members, 2 do
        local member, created_at = members[i], tonumber(members[i + 1])
        if after and created_at <= after then
          return nil
        end
        local fits = true
        for j = 1, #conditions do
          fits = fits and (j == least or call('ZSCORE', conditions[j], member) ~= false)
        end
        local place = {created_at, member, members[i + 1]}
        if fits then
          found[#found + 1] = place
          matches = matches + 1
        end
        seen = seen + 1
        if matches >= limit or seen >= budget then
          return place
        end
      end
      if #members < 2 * slice then
        return nil
      end
      first = first + slice
      slice = 200
    end
  end

  local function search(job)
    local statuses, conditions, after, score, id, limit = job[2], job[3], job[4], job[5], job[6], job[7]
    local found, horizon = {}, nil
    local budget = math.ceil(BUDGET / math.max(1, #statuses))
    for _, status in ipairs(statuses) do
      local own = {}
      for i = 1, #conditions do
        own[i] = conditions[i]
      end
      local stopped = scan(found, status, own, after, score, id, limit + 1, budget)
      if stopped and (not horizon or newer(stopped, horizon)) then
        horizon = stopped
      end
    end
    table.sort(found, newer)
    local rows, known = {}, 0
    for i = 1, #found do
      local place = found[i]
      -- Behind the newest place where a search in one status stopped, more may lie between what was found.
      if horizon and newer(horizon, place) then
        break
      end
      known = i
      if i > limit then
        break
      end
      rows[i] = whole(place[2], call('HMGET', X .. place[2], unpack(FIELDS)))
    end
    if known > limit then
      local last = limit > 0 and found[limit]
      return {'more', rows, last and last[3] or score, last and last[2] or id}
    end
    if horizon then
      return {'unknown', rows, horizon[3], horizon[2]}
    end
    return {'end', rows}
  end

  -- the schema -----------------------------------------------------------------------------------------------------------


  -- What version 1 kept otherwise: holds under another name, what is pending in one list, and nothing of what is under way.
  local function migrate()
    if call('EXISTS', prefix .. 'holds') == 1 then
      call('RENAME', prefix .. 'holds', HOLD)
    end
    for _, list in ipairs({BEGUN, PENDING}) do
      for _, q in ipairs(call('ZRANGE', list, 0, -1)) do
        for _, id in ipairs(call('ZRANGE', list .. ':' .. q, 0, -1)) do
          local found = call('HMGET', X .. id, 's', 'x')
          for _, index in ipairs(unpack_message(found[2])) do
            if string.sub(index, 1, 2) == 'p:' then
              call('HSET', X .. id, 'p', '1')
            end
          end
          schedule(id, found[1])
        end
      end
    end
  end

  local function schema(job)
    local found, allowed = call('GET', prefix .. 'schema'), job[2]
    if allowed and (not found or tonumber(found) < SCHEMA) then
      if found and tonumber(found) < 2 then
        migrate()
      end
      call('SET', prefix .. 'schema', SCHEMA)
      return {'made', SCHEMA}
    end
    return {'schema', found, SCHEMA}
  end
  return {remove = remove, purge = purge, search = search, schema = schema}
end

-- the batch ------------------------------------------------------------------------------------------------------------

local VERBS = {
  commit = commit, create = create, append = append, claim = claim, renew = renew, release = release, row = row,
  fetch = fetch, between = entries_between, entries = entries_of, inbox = inbox, mail = mail, definition = definition,
  present = present, line = line, mark = mark, schedules = schedules,
}
local LATER = {
  take = looking, next_due = looking, set_queue = looking, queues = looking, remove = now_and_then,
  purge = now_and_then, search = now_and_then, schema = now_and_then,
}
local function verb(name)
  if not VERBS[name] then
    for each, made in pairs(LATER[name]()) do
      VERBS[each] = made
    end
  end
  return VERBS[name]
end
local answers = {}
local version = call('GET', prefix .. 'schema')
local newer = version and tonumber(version) > SCHEMA
for i = 3, #ARGV do
  local job = unpack_message(ARGV[i])
  local well, answer
  if newer and job[1] ~= 'schema' then -- it was migrated since this store was opened
    well, answer = false, 'the schema is of a later release now (version ' .. version .. ')'
  else
    well, answer = pcall(verb(job[1]), job)
  end
  if not well then
    answer = {'error', type(answer) == 'table' and answer.err or tostring(answer)}
  end
  answers[i - 2] = answer
end
if anything_heard then -- not allowed, it changes nothing: what is heard is a hint
  local ids = {sender}
  for id in pairs(heard) do
    ids[#ids + 1] = id
  end
  redis.pcall('PUBLISH', prefix .. 'heard', pack_message(ids))
end
return answers
