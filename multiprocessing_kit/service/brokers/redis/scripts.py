"""What the Redis broker does on the server, in Lua: each script is one atomic step.

    KEYS[1]     mpkit:{SERVICE}:      P, which every key begins with; the keys are listed in `redis.py`
    ARGV        as said at each script

Times are the server's. A place is passed on as the string it came as: Lua's own text of it has fewer digits.

While memory is full, Redis lets a script pass whose first command that writes needs none, and otherwise
refuses it there, before it did anything: so only pushes are refused, and what makes room goes on.
"""

from __future__ import annotations

from hashlib import sha1

__all__ = [
    "BACKLOG",
    "DEAD",
    "DEAD_PURGE",
    "DEAD_RETRY",
    "EXTEND",
    "KEEP_ONLY",
    "LEAVE",
    "PURGE",
    "PUSH",
    "PUSH_ONE",
    "PUT_ASIDE",
    "RANK_BITS",
    "RESERVE",
    "SETTLE",
    "TAKEN",
    "Script",
]

RANK_BITS = 45
"""Place of a ready job = -priority * 2^45 + the number of its push: exact in a double for 2^45 pushes."""

_START = """
local P = KEYS[1]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
"""

# A script that fails half-way stays half done: what it is to compute with is looked at before it writes.
_NUMBERS = """
local function number(text)
    return tonumber(text) or error(text .. ' is no number')
end
"""

# `unpack` takes some thousands of arguments at most.
_LISTS = """
local function in_parts(command, key, arguments)
    for from = 1, #arguments, 4000 do
        redis.call(command, key, unpack(arguments, from, math.min(from + 3999, #arguments)))
    end
end
"""

# For those who wait: there is something, or there will be within the time they sleep at most.
_WAKE = """
local function wake(topic)
    if redis.call('DEL', P .. 'asleep:' .. topic) == 1 then
        redis.call('PUBLISH', P .. 'wake:' .. topic, '')
    end
end
"""

_QUEUE = """
local function queue(topic, id, place, due)
    if due > now then
        redis.call('ZADD', P .. 'delayed:' .. topic, due, id)
        redis.call('HSET', P .. 'places:' .. topic, id, place)
    else
        redis.call('ZADD', P .. 'ready:' .. topic, place, id)
        redis.call('ZADD', P .. 'since:' .. topic, now, id)
    end
    if due < now + 10 then wake(topic) end
end
"""

_RELEASE = """
local function release_if(consumer, topic, wanted)
    local key = P .. 'held:' .. consumer .. ':' .. topic
    local held = redis.call('HGETALL', key)
    local gone, ready, since = {}, {}, {}
    for i = 1, #held, 2 do
        local token, place, waiting = string.match(held[i + 1], '^(%S+) (%S+) (%S+)$')
        if wanted(held[i], token) then
            gone[#gone + 1] = held[i]
            ready[#ready + 1], ready[#ready + 2] = place, held[i]
            since[#since + 1], since[#since + 2] = waiting, held[i]
        end
    end
    if #gone > 0 then
        in_parts('HDEL', key, gone)
        in_parts('ZADD', P .. 'ready:' .. topic, ready)
        in_parts('ZADD', P .. 'since:' .. topic, since)
        wake(topic)
    end
end

local function everything() return true end

local function release_all(consumer, info)
    for topic in string.gmatch(string.match(info, '\\n(.*)$'), '[^\\n]+') do
        release_if(consumer, topic, everything)
    end
end
"""

# ARGV: how many jobs; then for each run of like jobs: topic, rank, due, milliseconds of hold (-1: the id is
# not unique), how many; and for each of these: id, record.
# Returns a string of one 1 or 0 for each.
_PUSH = """
local at = 2
while at <= #ARGV do
    for i = at + 1, at + 3 do number(ARGV[i]) end
    at = at + 5 + 2 * number(ARGV[at + 4])
end

local last_number = redis.call('INCRBY', P .. 'number', ARGV[1]) - ARGV[1]
local answer = {}
at = 2
while at <= #ARGV do
    local topic, rank, due = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local hold, last = tonumber(ARGV[at + 3]), at + 4 + 2 * ARGV[at + 4]
    local ids, jobs, queued, known, taken = {}, {}, {}, {}, {}
    for i = at + 5, last, 2 do ids[#ids + 1] = ARGV[i] end
    local there = redis.call('HMGET', P .. 'jobs', unpack(ids))
    for i, id in ipairs(ids) do
        if there[i] or taken[id] or hold >= 0 and redis.call('EXISTS', P .. 'id:' .. id) == 1 then
            answer[#answer + 1] = '0'
        else
            answer[#answer + 1] = '1'
            if hold > 0 then redis.call('SET', P .. 'id:' .. id, '', 'PX', hold) end
            if hold >= 0 then redis.call('DEL', P .. 'result:' .. id) end
            taken[id] = true
            local n, place = #jobs, rank + last_number + i
            jobs[n + 1], jobs[n + 2] = id, ARGV[at + 4 + 2 * i]
            if due > now then
                queued[n + 1], queued[n + 2] = due, id
                known[n + 1], known[n + 2] = id, place
            else
                queued[n + 1], queued[n + 2] = place, id
                known[n + 1], known[n + 2] = now, id
            end
        end
    end
    last_number = last_number + #ids
    if #jobs > 0 then
        redis.call('HSET', P .. 'jobs', unpack(jobs))
        if due > now then
            redis.call('ZADD', P .. 'delayed:' .. topic, unpack(queued))
            redis.call('HSET', P .. 'places:' .. topic, unpack(known))
        else
            redis.call('ZADD', P .. 'ready:' .. topic, unpack(queued))
            redis.call('ZADD', P .. 'since:' .. topic, unpack(known))
        end
        if due < now + 10 then wake(topic) end
    end
    at = last + 1
end
return table.concat(answer)
"""

# The same for a job that comes alone, in three quarters of the time: so it makes sure of numbers by adding 0.
# ARGV: id, record, topic, rank, due, milliseconds of hold (-1: the id is not unique). Returns 1 or 0.
_PUSH_ONE = """
local id, rank, due, hold = ARGV[1], ARGV[4] + 0, ARGV[5] + 0, ARGV[6] + 0
if hold >= 0 and redis.call('EXISTS', P .. 'id:' .. id) == 1
    or redis.call('HSETNX', P .. 'jobs', id, ARGV[2]) == 0 then
    return 0
end
if hold > 0 then redis.call('SET', P .. 'id:' .. id, '', 'PX', hold) end
if hold >= 0 then redis.call('DEL', P .. 'result:' .. id) end
queue(ARGV[3], id, rank + redis.call('INCR', P .. 'number'), due)
return 1
"""

# ARGV: consumer, its mark, token, limit, topics…
# Returns nil if it is no consumer (any more); else the seconds until a job is due ('' for none), records…:
# '' for one that is gone.
_RESERVE = """
local consumer, mark, token, left = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local info = redis.call('HGET', P .. 'consumers', consumer)
if not info or string.sub(info, 1, #mark) ~= mark then return nil end

local function make_ready(topic)
    local key = P .. 'delayed:' .. topic
    local found = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 2000)
    if #found == 0 then return false end
    local ids, ready, since = {}, {}, {}
    for i = 1, #found, 2 do
        ids[#ids + 1] = found[i]
        since[#since + 1], since[#since + 2] = found[i + 1], found[i]
    end
    for i, place in ipairs(redis.call('HMGET', P .. 'places:' .. topic, unpack(ids))) do
        ready[#ready + 1], ready[#ready + 2] = place, ids[i]
    end
    in_parts('ZREM', key, ids)
    in_parts('HDEL', P .. 'places:' .. topic, ids)
    in_parts('ZADD', P .. 'ready:' .. topic, ready)
    in_parts('ZADD', P .. 'since:' .. topic, since)
    return #ids == 2000
end

local answer = {''}
local function take(topic)
    local found = redis.call('ZPOPMIN', P .. 'ready:' .. topic, math.min(left, 2000))
    if #found == 0 then return false end
    local ids, held = {}, {}
    for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
    local waiting = redis.call('ZMSCORE', P .. 'since:' .. topic, unpack(ids))
    redis.call('ZREM', P .. 'since:' .. topic, unpack(ids))
    for i, id in ipairs(ids) do
        held[#held + 1], held[#held + 2] = id, token .. ' ' .. found[2 * i] .. ' ' .. (waiting[i] or now)
    end
    redis.call('HSET', P .. 'held:' .. consumer .. ':' .. topic, unpack(held))
    for _, record in ipairs(redis.call('HMGET', P .. 'jobs', unpack(ids))) do
        answer[#answer + 1] = record or ''
    end
    left = left - #ids
    return left > 0
end

local more = false
for i = 5, #ARGV do
    -- Of very many that are due at once, the rest come with the next call.
    for _ = 1, 5 do
        more = make_ready(ARGV[i])
        if not more then break end
    end
    while take(ARGV[i]) do end
    if left == 0 then return answer end
end
local due
for i = 5, #ARGV do
    local first = redis.call('ZRANGE', P .. 'delayed:' .. ARGV[i], 0, 0, 'WITHSCORES')
    if first[2] and (not due or tonumber(first[2]) < due) then due = tonumber(first[2]) end
    redis.call('SET', P .. 'asleep:' .. ARGV[i], '')
end
if due then answer[1] = tostring(math.max(0, due - now)) end
return answer
"""

# ARGV: consumer, token, topics…
# Returns for each job that was taken with this token: topic, id, record ('' where it is gone).
_TAKEN = """
local answer = {}
for i = 3, #ARGV do
    local held = redis.call('HGETALL', P .. 'held:' .. ARGV[1] .. ':' .. ARGV[i])
    for j = 1, #held, 2 do
        if string.sub(held[j + 1], 1, #ARGV[2] + 1) == ARGV[2] .. ' ' then
            local n = #answer
            answer[n + 1], answer[n + 2] = ARGV[i], held[j]
            answer[n + 3] = redis.call('HGET', P .. 'jobs', held[j]) or ''
        end
    end
end
return answer
"""

# For what is no job. Those whose records are there become dead letters as they are.
# ARGV: consumer, token, then for each: topic, id.
_PUT_ASIDE = """
for i = 3, #ARGV, 2 do
    local topic, id = ARGV[i], ARGV[i + 1]
    local key = P .. 'held:' .. ARGV[1] .. ':' .. topic
    local held = redis.call('HGET', key, id)
    if held and string.sub(held, 1, #ARGV[2] + 1) == ARGV[2] .. ' ' then
        redis.call('HDEL', key, id)
        if redis.call('HEXISTS', P .. 'jobs', id) == 1 then
            redis.call('ZADD', P .. 'dead:' .. topic, now, id)
        end
    end
end
"""

# ARGV: consumer; then for each job: what, id, topic, token, and
#   ack, release   nothing more
#   dead           record
#   retry          record, rank, due
#   keep           milliseconds, result: of the job before, unless it was fenced off; without topic and token
# Returns a string of one 1 or 0 for each job.
_SETTLE = """
local length = {ack = 4, release = 4, dead = 5, retry = 7, keep = 4}
local at = 2
while at <= #ARGV do
    local what = ARGV[at]
    if what == 'keep' then number(ARGV[at + 2]) end
    if what == 'retry' then for i = at + 5, at + 6 do number(ARGV[i]) end end
    at = at + length[what]
end

local consumer = ARGV[1]
local answer = {}
local ours = false
at = 2

local function keep(id)
    if ours then redis.call('SET', P .. 'result:' .. id, ARGV[at + 3], 'PX', ARGV[at + 2]) end
    return 4
end

local function settle(what, id, topic, token)
    local key = P .. 'held:' .. consumer .. ':' .. topic
    local held = redis.call('HGET', key, id)
    ours = held and string.sub(held, 1, #token + 1) == token .. ' '
    answer[#answer + 1] = ours and '1' or '0'
    if ours then redis.call('HDEL', key, id) end
    if what == 'ack' then
        if ours then redis.call('HDEL', P .. 'jobs', id) end
        return 4
    elseif what == 'release' then
        if ours then
            local place, waiting = string.match(held, '^%S+ (%S+) (%S+)$')
            redis.call('ZADD', P .. 'ready:' .. topic, place, id)
            redis.call('ZADD', P .. 'since:' .. topic, waiting, id)
            wake(topic)
        end
        return 4
    elseif what == 'dead' then
        if ours then
            redis.call('HSET', P .. 'jobs', id, ARGV[at + 4])
            redis.call('ZADD', P .. 'dead:' .. topic, now, id)
        end
        return 5
    end
    if ours then
        redis.call('HSET', P .. 'jobs', id, ARGV[at + 4])
        local place = ARGV[at + 5] + redis.call('INCR', P .. 'number')
        queue(topic, id, place, tonumber(ARGV[at + 6]))
    end
    return 7
end

while at <= #ARGV do
    if ARGV[at] == 'keep' then
        at = at + keep(ARGV[at + 1])
    else
        at = at + settle(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
    end
end
return table.concat(answer)
"""

# ARGV: consumer, its generation, a new one, the number of its connection, seconds of lease, topics by line,
# whether to look for others whose lease is over.
# Returns whether it was a consumer all the time.
_EXTEND = """
local consumer, generation, lease = ARGV[1], ARGV[2], tonumber(ARGV[5])
redis.call('ZREM', P .. 'leases', '')
local info = redis.call('HGET', P .. 'consumers', consumer)
local was = info and string.sub(info, 1, #generation + 1) == generation .. ' '
local new = (was and generation or ARGV[3]) .. ' ' .. ARGV[4] .. '\\n' .. ARGV[6]
if new ~= info then redis.call('HSET', P .. 'consumers', consumer, new) end
redis.call('ZADD', P .. 'leases', now + lease, consumer)
if ARGV[7] == '1' then
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', now, 'LIMIT', 0, 100)) do
        local info = redis.call('HGET', P .. 'consumers', other)
        if info then release_all(other, info) end
        redis.call('HDEL', P .. 'consumers', other)
        redis.call('ZREM', P .. 'leases', other)
    end
end
return was and 1 or 0
"""

# ARGV: consumer, topics by line, then id and token of each job that it knows it holds.
_KEEP_ONLY = """
local consumer, topics = ARGV[1], ARGV[2]
local known = {}
for i = 3, #ARGV, 2 do known[ARGV[i]] = ARGV[i + 1] end
for topic in string.gmatch(topics, '[^\\n]+') do
    release_if(consumer, topic, function(id, token) return known[id] ~= token end)
end
"""

# ARGV: consumer, its generation; '' for whatever one of this name held.
_LEAVE = """
local consumer, generation = ARGV[1], ARGV[2]
local info = redis.call('HGET', P .. 'consumers', consumer)
if not info or generation ~= '' and string.sub(info, 1, #generation + 1) ~= generation .. ' ' then return end
redis.call('HDEL', P .. 'consumers', consumer)
redis.call('ZREM', P .. 'leases', consumer)
release_all(consumer, info)
"""

# ARGV: topic.
# Returns ready, delayed, running, dead, seconds of the oldest as a string.
_BACKLOG = """
local topic = ARGV[1]
local delayed = redis.call('ZCARD', P .. 'delayed:' .. topic)
local due = redis.call('ZCOUNT', P .. 'delayed:' .. topic, '-inf', now)
local running = 0
for _, consumer in ipairs(redis.call('HKEYS', P .. 'consumers')) do
    running = running + redis.call('HLEN', P .. 'held:' .. consumer .. ':' .. topic)
end
local oldest = now
for _, kind in ipairs({'since:', 'delayed:'}) do
    local first = redis.call('ZRANGE', P .. kind .. topic, 0, 0, 'WITHSCORES')[2]
    if first then oldest = math.min(oldest, tonumber(first)) end
end
local ready, dead = redis.call('ZCARD', P .. 'ready:' .. topic), redis.call('ZCARD', P .. 'dead:' .. topic)
return {ready + due, delayed - due, running, dead, tostring(now - oldest)}
"""

# ARGV: topic, most at once.
# Returns how many were dropped.
_PURGE = """
local topic, most = ARGV[1], ARGV[2] - 1
local ready = redis.call('ZRANGE', P .. 'ready:' .. topic, 0, most)
local delayed = redis.call('ZRANGE', P .. 'delayed:' .. topic, 0, most)
in_parts('ZREM', P .. 'ready:' .. topic, ready)
in_parts('ZREM', P .. 'since:' .. topic, ready)
in_parts('HDEL', P .. 'jobs', ready)
in_parts('ZREM', P .. 'delayed:' .. topic, delayed)
in_parts('HDEL', P .. 'places:' .. topic, delayed)
in_parts('HDEL', P .. 'jobs', delayed)
return #ready + #delayed
"""

# ARGV: topic, ids…
# Returns for each its record and when it died; nil and nil where it is no dead letter.
_DEAD = """
local answer = {}
for i = 2, #ARGV do
    local died = redis.call('ZSCORE', P .. 'dead:' .. ARGV[1], ARGV[i])
    answer[#answer + 1] = died and redis.call('HGET', P .. 'jobs', ARGV[i])
    answer[#answer + 1] = died
end
return answer
"""

# ARGV: topic, then for each: id, rank, record.
# Returns how many were dead letters.
_DEAD_RETRY = """
local topic, count = ARGV[1], 0
for i = 2, #ARGV, 3 do
    if redis.call('ZREM', P .. 'dead:' .. topic, ARGV[i]) == 1 then
        redis.call('HSET', P .. 'jobs', ARGV[i], ARGV[i + 2])
        redis.call('DEL', P .. 'result:' .. ARGV[i])
        queue(topic, ARGV[i], ARGV[i + 1] + redis.call('INCR', P .. 'number'), 0)
        count = count + 1
    end
end
return count
"""

# ARGV: topic, ids…
# Returns how many were dead letters.
_DEAD_PURGE = """
local count = 0
for i = 2, #ARGV do
    if redis.call('ZREM', P .. 'dead:' .. ARGV[1], ARGV[i]) == 1 then
        redis.call('HDEL', P .. 'jobs', ARGV[i])
        count = count + 1
    end
end
return count
"""


class Script:
    """One step.

    Args:
        parts: Its text.

    Attributes:
        text: All of it.
        sha: Its name on the server.
    """

    def __init__(self, *parts: str) -> None:
        self.text = "".join((_START, *parts)).encode()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()


PUSH = Script(_NUMBERS, _WAKE, _PUSH)
PUSH_ONE = Script(_WAKE, _QUEUE, _PUSH_ONE)
RESERVE = Script(_LISTS, _RESERVE)
TAKEN = Script(_TAKEN)
PUT_ASIDE = Script(_PUT_ASIDE)
SETTLE = Script(_NUMBERS, _WAKE, _QUEUE, _SETTLE)
EXTEND = Script(_LISTS, _WAKE, _RELEASE, _EXTEND)
KEEP_ONLY = Script(_LISTS, _WAKE, _RELEASE, _KEEP_ONLY)
LEAVE = Script(_LISTS, _WAKE, _RELEASE, _LEAVE)
BACKLOG = Script(_BACKLOG)
PURGE = Script(_LISTS, _PURGE)
DEAD = Script(_DEAD)
DEAD_RETRY = Script(_WAKE, _QUEUE, _DEAD_RETRY)
DEAD_PURGE = Script(_DEAD_PURGE)
