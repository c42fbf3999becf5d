-- Deletes the lock if it is this attempt's, and announces it if it was held; or keeps it for nobody until its end.
-- Notes that the attempt has ended, so that whatever of it comes later is refused.
-- KEYS: lock, fence   ARGV: owner, id ('' for a random owner), channel ('': announce nothing),
--                           fencing token of the lock (0: it was never held), ms after which it is to end by itself
--                           (0: now), what to announce, 'again' where the command may come twice, or ''
-- Returns {3}: done; {5}: done, but the user may not announce it;
--         {-1, counter}: gone; {-3, counter}: another lock. A node that lost its memory has lost its counter too.
local owner = redis.pcall('GET', KEYS[1])
if type(owner) == 'table' then
  -- What is no string is no lock.
  if string.sub(owner.err, 1, 9) == 'WRONGTYPE' then return {-3, 0} end
  return owner
end
local fence = redis.pcall('GET', KEYS[2])
fence = type(fence) == 'string' and fence .. ' ' or ''
local counter, id, state = string.match(fence, '^(%d+) (%x*)([hx]?) ?$')
local told = tonumber(counter) or 0
local mine, keep = ' ' .. ARGV[2] .. 'x', tonumber(ARGV[5])
-- No owner token begins with this byte, so that nobody's commands match a kept key.
local kept = '\1' .. ARGV[1]
if owner == kept and (id or '') == ARGV[2] and ARGV[7] ~= '' then return {3} end
if owner ~= ARGV[1] or (id or '') ~= ARGV[2] then
  if owner then return {-3, told} end
  local is_ended = state == 'x' and id == ARGV[2]
  -- A second release of this token, whose first reply was lost.
  if is_ended and ARGV[7] ~= '' and (ARGV[2] ~= '' or counter == ARGV[4]) then return {3} end
  -- pcall: when memory is short, a late acquire finds no mark, and what it takes ends with its TTL.
  if counter and ARGV[2] ~= '' and not is_ended then redis.pcall('SET', KEYS[2], counter .. mine, 'KEEPTTL') end
  return {-1, told}
end
if keep > 0 then
  -- When memory is short, a SET is refused unless the script has written before.
  redis.call('PEXPIRE', KEYS[1], keep)
  redis.call('SET', KEYS[1], kept, 'PX', keep)
else
  redis.call('DEL', KEYS[1])
end
if ARGV[2] ~= '' or (ARGV[7] ~= '' and counter == ARGV[4]) then redis.call('SET', KEYS[2], counter .. mine, 'KEEPTTL') end
if ARGV[3] ~= '' and keep == 0 then
  -- pcall: a user without the right to publish can still release.
  local heard = redis.pcall('PUBLISH', ARGV[3], ARGV[6])
  if type(heard) == 'table' then return {5} end
end
return {3}
