-- Looks, and changes nothing.
-- KEYS: lock, fence (none: the lock is unfenced)
-- Returns {4, value or '', pttl, counter, id, letter}; a pttl of -2 says that there is no lock.
local fence = (KEYS[2] and redis.call('GET', KEYS[2]) or '0') .. ' '
local counter, id, state = string.match(fence, '^(%d+) (%x*)([hx]?) ?$')
return {4, redis.call('GET', KEYS[1]) or '', redis.call('PTTL', KEYS[1]), tonumber(counter), id, state}
