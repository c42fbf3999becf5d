-- Deletes the lock if it is this attempt's, and announces it if it was held; or leaves it for nobody until its end.
-- Notes that the attempt has ended, so that whatever of it comes later is refused.
-- KEYS: lock, fence (none: the lock is unfenced)
-- ARGV: owner, id ('' for a random owner), channel ('': announce nothing), fencing token of the lock (0: it has none),
--       ms after which it is to end by itself (0: now), what to announce, 'again' where the command may come twice, or '',
--       what then marks the key: '\1' as kept, '\1\1' as done (only where it does not end now)
-- Returns {3}: done; {5}: done, but the user may not announce it;
--         {-1, counter}: gone; {-3, counter}: another lock. A node that lost its memory has lost its counter too.
local owner = redis.pcall('GET', KEYS[1])
local fence = KEYS[2] and redis.pcall('GET', KEYS[2])
local keep, may_come_twice = ARGV[5] ~= '0', ARGV[7] ~= ''
-- In the usual case there is nothing to note beside the counter, which only an id or a letter follows behind a space.
if owner ~= ARGV[1] or ARGV[2] ~= '' or keep or may_come_twice or KEYS[2] and (not fence or type(fence) == 'table' or string.find(fence, ' ', 1, true)) then
  if type(owner) == 'table' then
    -- What is no string is no lock.
    if string.sub(owner.err, 1, 9) == 'WRONGTYPE' then return {-3, 0} end
    return owner
  end
  fence = type(fence) == 'string' and fence or ''
  local counter, id, state = string.match(fence .. ' ', '^(%d+) (%x*)([hx]?) ?$')
  local told = tonumber(counter) or 0
  local mine = told > 0 and counter .. ' ' .. ARGV[2] .. 'x'
  if owner ~= ARGV[1] or (id or '') ~= ARGV[2] then
    -- No owner token begins with this byte, so that nobody's commands match a kept key.
    -- That it is done is told again to whoever has done it: that it was its own must not be guessed from anything else.
    local is_again = ARGV[8] == '\1\1' and owner == '\1\1' .. ARGV[1] or may_come_twice and owner == '\1' .. ARGV[1]
    if is_again and (id or '') == ARGV[2] then return {3} end
    if owner then return {-3, told} end
    local is_ended = state == 'x' and id == ARGV[2]
    -- A second release of this token, whose first reply was lost.
    if is_ended and may_come_twice and (ARGV[2] ~= '' or counter == ARGV[4]) then return {3} end
    -- pcall: when memory is short, a late acquire finds no mark, and what it takes ends with its TTL.
    if mine and ARGV[2] ~= '' and not is_ended then redis.pcall('SET', KEYS[2], mine, 'KEEPTTL') end
    return {-1, told}
  end
  if keep then
    -- When memory is short, a SET is refused unless the script has written before.
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
    redis.call('SET', KEYS[1], ARGV[8] .. ARGV[1], 'PX', ARGV[5])
  end
  if mine and (ARGV[2] ~= '' or may_come_twice and counter == ARGV[4]) then
    if not keep then redis.call('DEL', KEYS[1]) end
    redis.call('SET', KEYS[2], mine, 'KEEPTTL')
  end
end
if not keep then redis.call('DEL', KEYS[1]) end
if ARGV[3] ~= '' then
  -- pcall: a user without the right to publish can still release.
  local heard = redis.pcall('PUBLISH', ARGV[3], ARGV[6])
  if type(heard) == 'table' then return {5} end
end
return {3}
