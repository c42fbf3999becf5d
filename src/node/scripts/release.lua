-- Deletes the lock if it is the owner's, and announces it if it was held; or keeps it for nobody until its end.
-- KEYS: lock, fence   ARGV: owner, channel ('': announce nothing), fencing token of the lock,
--                           ms after which it is to end by itself (0: now), what to announce,
--                           and, where the owner may have another lock: lowest and highest fencing counter of this,
--                           and 'again' where the command may come twice
-- Returns {3}: done; {5}: done, but the user may not announce it; {0, pttl, counter}: another owner's;
--         {2, token, pttl}: the owner's, but not between these;
--         {-1, token}: gone, and where the fencing counter stands, which a node that lost its memory has not.
local owner = redis.pcall('GET', KEYS[1])
if type(owner) == 'table' then
  -- What is no string is no lock.
  if string.sub(owner.err, 1, 9) == 'WRONGTYPE' then return {0, -1, ''} end
  return owner
end
-- A blank behind the counter tells a second release of this token, whose first reply was lost, from a lost lock.
local released = ARGV[3] .. ' '
if not owner then
  local counter = redis.pcall('GET', KEYS[2])
  if ARGV[8] and counter == released then return {3} end
  return {-1, type(counter) == 'string' and tonumber(counter) or 0}
end
-- No owner token begins with this byte, so that nobody's commands match a kept key.
local kept, keep = '\1' .. ARGV[1], tonumber(ARGV[4])
if owner == kept then return {3} end
if owner ~= ARGV[1] then
  local counter = redis.pcall('GET', KEYS[2])
  return {0, redis.call('PTTL', KEYS[1]), type(counter) == 'string' and counter or ''}
end
if ARGV[6] then
  local token = tonumber(redis.call('GET', KEYS[2]) or 0)
  if not token or token < tonumber(ARGV[6]) or token > tonumber(ARGV[7]) then
    return {2, token or 0, redis.call('PTTL', KEYS[1])}
  end
end
if keep > 0 then
  -- When memory is short, a SET is refused unless the script has written before.
  redis.call('PEXPIRE', KEYS[1], keep)
  redis.call('SET', KEYS[1], kept, 'PX', keep)
else
  redis.call('DEL', KEYS[1])
end
if ARGV[8] and redis.call('GET', KEYS[2]) == ARGV[3] then
  redis.call('SET', KEYS[2], released, 'KEEPTTL')
end
if ARGV[2] ~= '' and keep == 0 then
  -- pcall: a user without the right to publish can still release.
  local heard = redis.pcall('PUBLISH', ARGV[2], ARGV[5])
  if type(heard) == 'table' then return {5} end
end
return {3}
