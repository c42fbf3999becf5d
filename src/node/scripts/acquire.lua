-- Takes the lock if it is free, and then counts its fencing token up.
-- KEYS: lock, fence   ARGV: owner, ttl ms, proposed token, fence ttl ms
-- Returns {1, token}: granted; {2, token, pttl}: the owner's already;
--         {0, pttl, hash}: another owner's, and a hash that tells holders apart.
-- The counter is read first: if it is of no use, nothing must have been written. Above 2^53 numbers are not exact.
local token = tonumber(redis.call('GET', KEYS[2]) or 0)
token = token and math.max(token + 1, tonumber(ARGV[3]))
if not token or token > 9e15 then return redis.error_reply('ERR the fencing counter holds no usable number') end
local taken = redis.pcall('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if taken and not taken.err then
  redis.call('SET', KEYS[2], string.format('%.0f', token), 'PX', ARGV[4])
  return {1, token}
end
local owner = redis.call('GET', KEYS[1])
-- Whose a lock is can be told without the memory that it takes to set one.
if taken and not (owner and string.find(taken.err, 'OOM ', 1, true)) then
  -- Redis 6 puts the place in the script before the server's words.
  return redis.error_reply((string.gsub(taken.err, '^@user_script: %d+: %-', '')))
end
local pttl = redis.call('PTTL', KEYS[1])
if owner ~= ARGV[1] then return {0, pttl, string.sub(redis.sha1hex(owner), 1, 8)} end
return {2, tonumber(redis.call('GET', KEYS[2]) or 0), pttl}
