-- Deletes the lock if it is the owner's, and announces it if it was held.
-- KEYS: lock, fence   ARGV: owner, channel ('': never held, so nobody waits for it), lowest token (0: any), token
-- Returns {3}: deleted; {0, pttl, ''}: another owner's, or a lock that this owner got earlier; {-1}: gone.
local owner = redis.call('GET', KEYS[1])
if not owner then return {-1} end
if owner ~= ARGV[1] or (ARGV[3] ~= '0' and tonumber(redis.call('GET', KEYS[2]) or 0) < tonumber(ARGV[3])) then
  return {0, redis.call('PTTL', KEYS[1]), ''}
end
redis.call('DEL', KEYS[1])
-- pcall: a user without the right to publish can still release.
if ARGV[2] ~= '' then redis.pcall('PUBLISH', ARGV[2], ARGV[4]) end
return {3}
