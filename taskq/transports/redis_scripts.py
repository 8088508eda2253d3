"""What Redis does for us in one step: the scripts of the Redis transport.

A script that fails is not rolled back, so each copies before it removes; none reads anything out
of a message. All keys a script touches are in KEYS.
"""

from __future__ import annotations

from hashlib import sha1

__all__ = ("GIVE_BACK", "HASHES", "KEEP", "MOVE", "PARK", "RELEASE", "RESERVE", "SOURCES")

RESERVE, KEEP, MOVE, GIVE_BACK = "reserve", "keep", "move", "give back"
PARK, RELEASE = "park", "release"

#: Takes messages from lists, keeping a copy of each in `unacked` under a tag of the caller's.
#: KEYS: worker, unacked, index, then for each list: list, in-flight list.
#: ARGV: epoch, tag prefix, most messages, lists in a step of priority, 1 to take turns, then for
#: each list: 1 to look into its in-flight list too, end of the stored tuple ('' stores nothing).
#: Gives number of list and message by turns; false when the caller's lease is not in force.
_RESERVE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
local clock = redis.call('TIME')
local now = clock[1] .. string.format('.%06d', clock[2])
local limit, width, fair = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local lists = (#KEYS - 3) / 2
local out, taken = {}, 0
local function take(from, list, most)
  if most > limit - taken then most = limit - taken end
  if most == 0 then return 0 end
  local found = redis.call('LRANGE', from, -most, -1)
  local ending = ARGV[5 + 2 * list]
  if #found > 0 and ending ~= '' then
    local copies, scores = {}, {}
    for i = #found, 1, -1 do
      local tag = ARGV[2] .. (taken + #found - i + 1)
      copies[#copies + 1] = tag
      copies[#copies + 1] = '[' .. found[i] .. ending
      scores[#scores + 1] = now
      scores[#scores + 1] = tag
    end
    redis.call('HSET', KEYS[2], unpack(copies))
    redis.call('ZADD', KEYS[3], unpack(scores))
  end
  -- RPOP would give them all once more.
  if #found > 0 then redis.call('LTRIM', from, 0, -1 - #found) end
  for i = #found, 1, -1 do
    out[#out + 1] = list
    out[#out + 1] = found[i]
  end
  taken = taken + #found
  return #found
end
for list = 1, lists do
  if ARGV[4 + 2 * list] == '1' then
    take(KEYS[3 + 2 * list], list, limit)
    if taken == limit then
      while redis.call('LMOVE', KEYS[3 + 2 * list], KEYS[2 + 2 * list], 'LEFT', 'RIGHT') do end
    end
  end
end
for first = 1, lists, width do
  local most = limit
  if fair and width > 1 then most = 1 end
  repeat
    local progress = false
    for list = first, first + width - 1 do
      if taken < limit and take(KEYS[2 + 2 * list], list, most) > 0 then progress = true end
    end
  until not progress or taken == limit
end
return out
"""

#: Renews a lease and the scores of the tags that are held under it.
#: KEYS: worker, index. ARGV: epoch, milliseconds, tags. Gives the tags that are there no more.
_KEEP = """
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] .. string.format('.%06d', clock[2])
local gone = {}
for i = 3, #ARGV do
  if redis.call('ZSCORE', KEYS[2], ARGV[i]) then
    redis.call('ZADD', KEYS[2], 'XX', 'CH', now, ARGV[i])
  else
    gone[#gone + 1] = ARGV[i]
  end
end
return gone
"""

#: Puts messages back, each only if its score has not changed since it was read.
#: KEYS: unacked, index, worker ('' checks no lease), lists.
#: ARGV: for each message: tag, score ('' for any), number of its list (0 drops it; less than
#: 0 copies it there only), command, message.
#: Gives the tags that were moved; nothing when the worker is alive.
_MOVE = """
if KEYS[3] ~= '' and redis.call('EXISTS', KEYS[3]) == 1 then return {} end
local moved = {}
for i = 1, #ARGV, 5 do
  local tag, list = ARGV[i], tonumber(ARGV[i + 2])
  local score = redis.call('ZSCORE', KEYS[2], tag)
  if score and (ARGV[i + 1] == '' or tonumber(score) == tonumber(ARGV[i + 1])) then
    if list ~= 0 then redis.call(ARGV[i + 3], KEYS[3 + math.abs(list)], ARGV[i + 4]) end
    if list >= 0 then
      redis.call('ZREM', KEYS[2], tag)
      redis.call('HDEL', KEYS[1], tag)
      moved[#moved + 1] = tag
    end
  end
end
return moved
"""

#: Puts what lies in in-flight lists back to the consuming end of the lists it came from.
#: KEYS: worker ('' checks no lease), then for each list: list, in-flight list.
#: Gives the number of messages.
_GIVE_BACK = """
if KEYS[1] ~= '' and redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local count = 0
for i = 2, #KEYS, 2 do
  while redis.call('LMOVE', KEYS[i + 1], KEYS[i], 'LEFT', 'RIGHT') do count = count + 1 end
end
return count
"""

#: Moves messages from `unacked` to where they wait for their time.
#: KEYS: unacked, index, then for each list: tags by moment, messages by tag.
#: ARGV: for each message: tag, seconds to wait, number of its list, length of its copy's ending.
#: Gives the number of those that are not in `unacked`: parked already, or put back by others.
_PARK = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local gone = 0
for i = 1, #ARGV, 4 do
  local tag, pair = ARGV[i], 3 + 2 * ARGV[i + 2]
  local copy = redis.call('HGET', KEYS[1], tag)
  if copy and redis.call('ZSCORE', KEYS[2], tag) then
    redis.call('ZADD', KEYS[pair], string.format('%.6f', now + ARGV[i + 1]), tag)
    redis.call('HSET', KEYS[pair + 1], tag, string.sub(copy, 2, -1 - ARGV[i + 3]))
    redis.call('ZREM', KEYS[2], tag)
    redis.call('HDEL', KEYS[1], tag)
  else
    gone = gone + 1
  end
end
return gone
"""

#: Puts messages whose time has come to the consuming end of their lists, the first due outermost.
#: KEYS: for each list: tags by moment, messages by tag, list.
#: ARGV: most messages of a list, 1 for those that are not due too.
#: Gives the number of messages, and the seconds until the next is due (false when none waits).
_RELEASE = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local everything = ARGV[2] == '1'
local count, nearest = 0, false
for i = 1, #KEYS, 3 do
  local tags
  if everything then
    -- From the last on: the first due is outermost when all steps are done.
    tags = redis.call('ZREVRANGE', KEYS[i], 0, ARGV[1] - 1)
  else
    local limit = string.format('%.6f', now)
    local due = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', limit, 'LIMIT', 0, ARGV[1])
    tags = {}
    for n = #due, 1, -1 do tags[#tags + 1] = due[n] end
  end
  if #tags > 0 then
    local found = redis.call('HMGET', KEYS[i + 1], unpack(tags))
    local messages = {}
    for n = 1, #tags do
      if found[n] then messages[#messages + 1] = found[n] end
    end
    if #messages > 0 then redis.call('RPUSH', KEYS[i + 2], unpack(messages)) end
    redis.call('ZREM', KEYS[i], unpack(tags))
    redis.call('HDEL', KEYS[i + 1], unpack(tags))
    count = count + #messages
  end
  local first = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
  if first[2] and (not nearest or first[2] - now < nearest) then nearest = first[2] - now end
end
return {count, nearest and string.format('%.6f', nearest)}
"""

SOURCES = {
    RESERVE: _RESERVE,
    KEEP: _KEEP,
    MOVE: _MOVE,
    GIVE_BACK: _GIVE_BACK,
    PARK: _PARK,
    RELEASE: _RELEASE,
}

#: What the server calls them.
HASHES = {name: sha1(source.encode()).hexdigest() for name, source in SOURCES.items()}
